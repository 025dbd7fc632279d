"""Column generation over stages: a set-partitioning linear programme, priced exactly, cut and made whole.

max Σ v_c x_c, every item in one stage, least ≤ Σ x_c ≤ most. Clusters of good heuristic partitions are the first
columns; duals are smoothed towards those of the best bound (Wentges); pricing is local search first, branch and
bound when that finds nothing. Every bound comes from whole-number duals and a completed search, so it is safe
against rounding in the linear programme. When the bound does not meet the incumbent, every stage whose reduced cost
leaves room for a better plan is enumerated and CP-SAT picks among them; where they are too many, subset-row cuts
(of any three items, at most one stage holds two) lower the bound first, priced within the same search.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ._pricer import Pricer
from ._stagepool import StagePool, separate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Core

__all__ = ["ColumnResult", "generate_columns", "stage_range"]

_BITS = 38
# Stages enumerated within the gap before cuts are tried instead; with the time nearly up, more are risked.
_POOL = 60_000
_POOL_LAST = 400_000

Duals = tuple["NDArray[np.float64]", float, "NDArray[np.float64]"]
Report = Callable[["NDArray[np.int64] | None", int, float], None]


@dataclass
class ColumnResult:
    """Best labels, their scaled value, a safe upper bound on the scaled objective, and what happened."""

    labels: NDArray[np.int64]
    value: int
    bound: float
    note: str


class Master:
    """The restricted linear programme in OR-Tools' GLOP; columns and cuts are added as they come."""

    def __init__(self, core: Core) -> None:
        from ortools.linear_solver import pywraplp

        self.solver = pywraplp.Solver.CreateSolver("GLOP")
        self.infinity = self.solver.infinity()
        self.unit = float(max(1, np.abs(core.gain).max(initial=1)))
        self.rows = [self.solver.Constraint(1.0, 1.0) for _ in range(core.n)]
        self.count = self.solver.Constraint(float(core.least), float(core.most))
        self.cuts: list[Any] = []
        self.objective = self.solver.Objective()
        self.objective.SetMaximization()
        self.variables: list[Any] = []

    def add(self, members: NDArray[np.bool_], value: float, pays: NDArray[np.float64]) -> None:
        """One stage as a column; `pays` marks the cuts it counts in."""
        variable = self.solver.NumVar(0.0, self.infinity, "")
        for i in np.flatnonzero(members):
            self.rows[int(i)].SetCoefficient(variable, 1.0)
        for c in np.flatnonzero(pays):
            self.cuts[int(c)].SetCoefficient(variable, 1.0)
        self.count.SetCoefficient(variable, 1.0)
        self.objective.SetCoefficient(variable, value / self.unit)
        self.variables.append(variable)

    def cut(self, pays: NDArray[np.float64]) -> None:
        """One subset-row cut over the columns that `pays` marks."""
        row = self.solver.Constraint(-self.infinity, 1.0)
        for c in np.flatnonzero(pays):
            row.SetCoefficient(self.variables[int(c)], 1.0)
        self.cuts.append(row)

    def solve(self, seconds: float) -> tuple[float, Duals] | None:
        """Objective and whole-number duals (items, number of stages, cuts), scaled; None when it fails."""
        self.solver.SetTimeLimit(max(1, int(1000 * seconds)))
        if self.solver.Solve() != self.solver.OPTIMAL:
            return None
        dual = np.rint(np.array([row.dual_value() for row in self.rows]) * self.unit)
        prices = np.rint(np.maximum(0.0, np.array([row.dual_value() for row in self.cuts])) * self.unit)
        return (
            self.objective.Value() * self.unit,
            (dual, float(np.rint(self.count.dual_value() * self.unit)), prices),
        )

    def solution(self) -> NDArray[np.float64]:
        """Values of the columns."""
        return np.array([variable.solution_value() for variable in self.variables])


class _Generation:
    """One run of column generation."""

    def __init__(
        self,
        core: Core,
        incumbent: NDArray[np.int64],
        partitions: list[NDArray[np.int64]],
        deadline: float,
        seed: int,
        workers: int,
        report: Report,
    ) -> None:
        # Duals are rounded to whole numbers: make the unit fine enough that this costs nothing.
        fine = max(0, _BITS - int(np.abs(core.gain).max(initial=1)).bit_length())
        self.step = 1 << fine
        self.core = replace(
            core,
            gain=core.gain * self.step,
            base=core.base * self.step,
            kappa=core.kappa * self.step,
            scale=core.scale * self.step,
        )
        self.floats = self.core.gain.astype(np.float64)
        self.deadline = deadline
        self.seed = seed
        self.workers = workers
        self.report = report
        self.pricer = Pricer(self.core)
        self.master = Master(self.core)
        self.members: list[NDArray[np.bool_]] = []
        self.known: set[bytes] = set()
        self.labels = incumbent
        self.value = self.core.value(incumbent)
        self.bound = np.inf
        self.best: Duals | None = None
        self.least, self.most = stage_range(core)
        for labels in [incumbent, *partitions]:
            self.add(np.unique(labels)[:, None] == labels[None, :])

    def left(self) -> float:
        """Seconds left."""
        return self.deadline - time.monotonic()

    def worth(self, members: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Gain inside each stage − κ; whole numbers below 2^53, so the floating sums are exact."""
        inside = members.astype(np.float64)
        total: NDArray[np.float64] = ((inside @ self.floats) * inside).sum(axis=1) / 2.0 - self.core.kappa
        return total

    def add(self, members: NDArray[np.bool_], limit: int = 1_000_000) -> int:
        """Add stages that are new; how many were."""
        fresh: list[NDArray[np.bool_]] = []
        for inside in members:
            key = np.packbits(inside).tobytes()
            if key not in self.known and len(fresh) < limit:
                self.known.add(key)
                fresh.append(inside)
        if not fresh:
            return 0
        stack = np.array(fresh)
        for inside, value, pays in zip(stack, self.worth(stack), self.pricer.pays(stack), strict=True):
            self.members.append(inside)
            self.master.add(inside, float(value), pays)
        return len(fresh)

    def closed(self) -> bool:
        """Whether no objective of the caller's whole numbers lies between incumbent and bound."""
        return self.bound < self.value + self.step

    def learn(self, duals: Duals, worst: float) -> None:
        """Lower the bound, given that no stage is worth more than `worst` at these duals."""
        dual, count, prices = duals
        each = count + max(0.0, worst)
        bound = float(dual.sum() + prices.sum()) + max(each * self.least, each * self.most) + self.core.base
        if bound < self.bound:
            self.bound, self.best = bound, duals
            self.report(None, 0, bound / self.step)

    def run(self) -> str:
        """Alternate linear programme, enumeration and cuts until closed or out of time."""
        stale = 0
        while True:
            before = self.bound
            note = self._converge()
            if self.closed() or note:
                return note or "column generation"
            pool = self._enumerate(_POOL if stale < 4 else _POOL_LAST)
            if pool is not None:
                return f"column generation, {self._choose(pool)}"
            if self.left() <= 0:
                return "column generation, out of time"
            stale = stale + 1 if self.bound > before - 0.02 * (before - self.value) else 0
            if stale >= 6 or not self._cut():
                pool = self._enumerate(_POOL_LAST)
                if pool is not None:
                    return f"column generation, {self._choose(pool)}"
                return "column generation, too many stages within the gap"

    def _converge(self) -> str:
        """Solve the linear programme over all stages; a reason when that had to stop early, else ""."""
        smooth = 0.8
        while not self.closed():
            if self.left() <= 0:
                return "column generation, out of time"
            answer = self.master.solve(self.left())
            if answer is None:
                return "column generation, linear programme stopped"
            objective, duals = answer
            if self._local(duals):
                continue
            # Nothing cheap to find at the true duals: search exactly, at the smoothed ones first.
            mixed = self._mix(duals, smooth)
            added = self._exact(mixed)
            if added == 0 and mixed is not duals and not self.closed() and not self._tight(objective):
                added = self._exact(duals)
            if added is None:
                return "column generation, pricing stopped"
            if added == 0 or self._tight(objective):
                return ""
        return ""

    def _mix(self, duals: Duals, smooth: float) -> Duals:
        if self.best is None:
            return duals
        prices = np.zeros(len(duals[2]))
        prices[: len(self.best[2])] = self.best[2]
        return (
            np.rint(smooth * self.best[0] + (1 - smooth) * duals[0]),
            float(np.rint(smooth * self.best[1] + (1 - smooth) * duals[1])),
            np.rint(smooth * prices + (1 - smooth) * duals[2]),
        )

    def _tight(self, objective: float) -> bool:
        return self.bound <= objective + self.core.base + max(1.0, 1e-7 * abs(objective))

    def _local(self, duals: Duals) -> int:
        basis = self.master.solution()
        active = [self.members[c] for c in np.flatnonzero(basis > 1e-6)]
        singles = np.eye(self.core.n, dtype=np.bool_)
        starts = np.unique(np.array([*active, *self.members[-2 * self.core.n :], *singles]), axis=0)
        members, _ = self.pricer.local(duals[0], duals[1] + self.core.kappa, starts, duals[2])
        return self.add(members, 2 * self.core.n)

    def _exact(self, duals: Duals) -> int | None:
        """Columns added; None when the search was cut short without any (its looser bound still counts)."""
        nodes = 100_000
        constant = duals[1] + self.core.kappa
        while True:
            found = self.pricer.exact(duals[0], constant, nodes=nodes, prices=duals[2])
            added = self.add(found.members[::-1], 50)
            self.learn(duals, found.bound)
            if added:
                extra, _ = self.pricer.local(duals[0], constant, found.members[-50:], duals[2])
                return added + self.add(extra, self.core.n)
            if found.complete:
                return 0
            if self.left() <= 0 or nodes > 30_000_000:
                return None
            nodes *= 6

    def _cut(self) -> bool:
        """Add violated subset-row cuts; False when there are none."""
        answer = self.master.solve(max(0.1, self.left()))
        if answer is None:
            return False
        basis = self.master.solution()
        active = np.flatnonzero(basis > 1e-6)
        old = [tuple(int(i) for i in triple) for triple in self.pricer.cuts]
        fresh = separate(np.array(self.members)[active], basis[active], set(old), most=40, each=6)
        if not fresh:
            return False
        self.pricer.set_cuts(np.array([*old, *fresh], dtype=np.int32))
        pays = self.pricer.pays(np.array(self.members))
        for c in range(len(old), len(old) + len(fresh)):
            self.master.cut(pays[:, c])
        return True

    def _enumerate(self, most: int) -> NDArray[np.bool_] | None:
        """Every stage that could be part of a better partition, or None when they are more than `most`."""
        if self.best is None:
            return None
        dual, count, prices = self.best
        padded = np.zeros(len(self.pricer.cuts))
        padded[: len(prices)] = prices
        found = self.pricer.exact(
            dual,
            count + self.core.kappa,
            threshold=-(self.bound - (self.value + self.step)),
            climb=False,
            nodes=40 * most,
            stored=most,
            prices=padded,
        )
        return found.members if found.complete else None

    def _choose(self, members: NDArray[np.bool_]) -> str:
        values = np.rint(self.worth(members)).astype(np.int64)
        cuts = [tuple(int(i) for i in triple) for triple in self.pricer.cuts]
        pool = StagePool(self.core, members, values, self.least, self.most, cuts)
        labels, value, bound = pool.choose(
            least=self.value + self.step, seconds=self.left(), seed=self.seed, workers=self.workers
        )
        if labels is not None and value > self.value:
            self.labels, self.value = labels, value
            self.report(labels, value // self.step, self.bound / self.step)
        # Outside the enumerated stages nothing beats the incumbent.
        self.bound = max(float(self.value), min(self.bound, bound))
        self.report(None, 0, self.bound / self.step)
        return f"{len(members)} stages within the gap, {pool.note}"


def generate_columns(
    core: Core,
    incumbent: NDArray[np.int64],
    *,
    partitions: list[NDArray[np.int64]],
    seconds: float,
    seed: int = 0,
    workers: int = 1,
    report: Report = lambda labels, value, bound: None,
) -> ColumnResult:
    """Prove or improve `incumbent`; `report(labels or None, value, bound)` hears of every step forward."""
    run = _Generation(core, incumbent, partitions, time.monotonic() + seconds, seed, workers, report)
    note = run.run()
    return ColumnResult(run.labels, run.value // run.step, run.bound / run.step, note)


def stage_range(core: Core) -> tuple[int, int]:
    """Least and most number of stages that totals allow."""
    least, most = max(1, core.least), min(core.most, core.n)
    for r in range(len(core.sizes)):
        total = int(core.sizes[r].sum())
        if core.upper[r, 0] > 0:
            least = max(least, -(-total // int(core.upper[r, 0])))
        if core.lower[r, 0] > 0:
            most = min(most, total // int(core.lower[r, 0]))
    return least, max(least, most)
