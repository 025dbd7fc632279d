"""Column generation over stages: a set-partitioning linear programme, priced exactly, cut and made whole.

max Σ v_c x_c, every item in one stage, least ≤ Σ x_c ≤ most. Clusters of good heuristic partitions are the first
columns; pricing is local search while that finds anything, then branch and bound, which only has to show that no
stage is worth more than what can still matter: a fraction of the gap. Every bound comes from whole-number duals and
a safe bound on the search, so it holds whatever the linear programme's rounding. When the bound does not meet the
incumbent, every stage whose reduced cost leaves room for a better plan is enumerated and CP-SAT picks among them;
where they are too many, subset-row cuts (of any three items, at most one stage holds two) lower the bound first,
priced within the same search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ._clock import Clock, forever, interruptible
from ._pricer import Pricer
from ._stagepool import StagePool, separate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Core

__all__ = ["ColumnResult", "generate_columns", "stage_range"]

_BITS = 38
# Stages enumerated within the gap before cuts are tried instead; with the time nearly up, more are risked.
_POOL = 25_000
_POOL_LAST = 400_000
# A search for stages may leave this share of the gap unexamined (a stage), and begins with so many nodes.
_LOOSE = 0.01
_NODES = 300_000
# CP-SAT chooses among so many stages in seconds; while the pool's own cuts leave more, the next cuts come first.
_SOLVABLE = 8000
# Enumerating is tried again when the gap is this share of the one at which there were too many stages.
_SHRUNK = 0.8
# Cuts a round, and of one item.
_CUTS = 80
_EACH = 8

Duals = tuple["NDArray[np.float64]", float, "NDArray[np.float64]"]
Report = Callable[["NDArray[np.int64] | None", int, float], None]


@dataclass
class ColumnResult:
    """Better labels than there were or None, the best scaled value, an upper bound, and what happened."""

    labels: NDArray[np.int64] | None
    value: int
    bound: float
    note: str


class Master:
    """The restricted linear programme in OR-Tools' GLOP; columns and cuts are added as they come."""

    def __init__(self, core: Core) -> None:
        from ortools.linear_solver import pywraplp

        self.solver = pywraplp.Solver.CreateSolver("GLOP")
        # Presolving would throw the last basis away, which stays primal feasible as columns come.
        self.solver.SetSolverSpecificParametersAsString("use_preprocessing: false")
        self.infinity = self.solver.infinity()
        self.unit = float(max(1, np.abs(core.gain).max(initial=1)))
        self.rows = [self.solver.Constraint(1.0, 1.0) for _ in range(core.n)]
        self.count = self.solver.Constraint(float(core.least), float(core.most))
        self.cuts: list[Any] = []
        self.objective = self.solver.Objective()
        self.objective.SetMaximization()
        self.variables: list[Any] = []
        # Dear slack on every row, so that there is a solution before the columns at hand make one.
        for row in [*self.rows, self.count]:
            for sign in (1.0, -1.0):
                slack = self.solver.NumVar(0.0, self.infinity, "")
                row.SetCoefficient(slack, sign)
                self.objective.SetCoefficient(slack, -float(core.n))

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

    def solve(self, clock: Clock) -> tuple[float, Duals] | None:
        """Objective and whole-number duals (items, number of stages, cuts), scaled; None when it fails."""
        if not clock.deterministic and np.isfinite(clock.left()):
            self.solver.SetTimeLimit(max(1, int(1000 * clock.left())))
        status = interruptible(self.solver.Solve, self.solver.InterruptSolve)
        clock.pivots(self.solver.iterations(), self.solver.NumConstraints(), len(self.variables))
        if status != self.solver.OPTIMAL:
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
        value: int,
        partitions: list[NDArray[np.int64]],
        clock: Clock,
        seed: int,
        workers: int,
        report: Report,
        patience: int,
    ) -> None:
        # Duals are rounded to whole numbers: make the unit fine enough that this costs nothing.
        largest = max(int(np.abs(core.gain).max(initial=1)), abs(core.kappa))
        fine = max(0, _BITS - largest.bit_length())
        self.step = 1 << fine
        self.core = replace(
            core,
            gain=core.gain * self.step,
            base=core.base * self.step,
            kappa=core.kappa * self.step,
            scale=core.scale * self.step,
        )
        self.floats = self.core.gain.astype(np.float64)
        self.clock = clock
        self.seed = seed
        self.report = report
        self.patience = patience
        self.pricer = Pricer(self.core, clock, workers=workers)
        self.master = Master(self.core)
        self.members: list[NDArray[np.bool_]] = []
        self.known: set[bytes] = set()
        self.labels: NDArray[np.int64] | None = None
        self.value = value * self.step
        self.bound = np.inf
        self.best: Duals | None = None
        self.least, self.most = stage_range(core)
        for labels in partitions:
            self.add(np.unique(labels)[:, None] == labels[None, :])
        # Without partitions the programme would know no stage at all.
        alone = np.diag(self.core.conflict) == 0
        for r in range(len(core.sizes)):
            alone &= (core.sizes[r] <= core.upper[r, 0]) & (core.sizes[r] >= core.lower[r, 0])
        self.add(np.eye(core.n, dtype=np.bool_)[alone])

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
        bound = self.bound_at(duals, worst)
        if bound < self.bound:
            self.bound, self.best = bound, duals
            self.report(None, 0, max(bound, float(self.value)) / self.step)

    def bound_at(self, duals: Duals, worst: float) -> float:
        """The Lagrangian bound at these duals when no stage is worth more than `worst`."""
        dual, count, prices = duals
        each = count + max(0.0, worst)
        return float(dual.sum() + prices.sum()) + max(each * self.least, each * self.most) + self.core.base

    def run(self) -> str:
        """Alternate linear programme, enumeration and cuts until closed or out of time."""
        stale = 0
        hopeless = np.inf
        while True:
            before = self.bound
            note = self._converge()
            if self.closed() or note:
                return note or "column generation"
            gap = self.bound - self.value
            if gap < _SHRUNK * hopeless:
                pool = self._enumerate(_POOL if stale < 4 else _POOL_LAST)
                note = "" if pool is None else self._choose(pool, most=_SOLVABLE if stale < 4 else None)
                if note:
                    return f"column generation, {note}"
                hopeless = gap
            if self.clock.left() <= 0:
                return "column generation, out of time"
            stale = stale + 1 if self.bound > before - 0.02 * (before - self.value) else 0
            if stale >= 6 or not self._cut():
                pool = self._enumerate(_POOL_LAST)
                if pool is not None:
                    return f"column generation, {self._choose(pool)}"
                return "column generation, too many stages within the gap"

    def _converge(self) -> str:
        """Solve the linear programme over all stages; a reason when that had to stop early, else ""."""
        while not self.closed():
            if self.clock.left() <= 0:
                return "column generation, out of time"
            answer = self.master.solve(self.clock)
            if answer is None:
                return "column generation, linear programme stopped"
            duals = answer[1]
            if self._local(duals):
                continue
            added = self._exact(duals)
            if added is None:
                return "column generation, pricing stopped"
            if added == 0:
                return ""
        return ""

    def _local(self, duals: Duals) -> int:
        basis = self.master.solution()
        active = [self.members[c] for c in np.flatnonzero(basis > 1e-6)]
        singles = np.eye(self.core.n, dtype=np.bool_)
        starts = np.unique(np.array([*active, *self.members[-2 * self.core.n :], *singles]), axis=0)
        members, _ = self.pricer.local(duals[0], duals[1] + self.core.kappa, starts, duals[2])
        return self.add(members, 2 * self.core.n)

    def _exact(self, duals: Duals) -> int | None:
        """Columns added; None when the search was cut short without any (its looser bound still counts)."""
        constant = duals[1] + self.core.kappa
        # What a stage may be worth unseen: nothing that keeps the bound from closing, else a little of the gap.
        rest = self.bound_at(duals, 0.0) - (self.value + self.step)
        each = max(1, self.most)
        loose = max(1.0, (-0.9 if rest < 0 else _LOOSE) * rest / each)
        self.pricer.balance(duals[0], constant, prices=duals[2])
        nodes = _NODES
        while True:
            found = self.pricer.exact(duals[0], constant, threshold=loose, nodes=nodes, prices=duals[2])
            self.learn(duals, found.bound)
            added = self.add(found.members[::-1], 50)
            if added:
                extra, _ = self.pricer.local(duals[0], constant, found.members[-50:], duals[2])
                return added + self.add(extra, self.core.n)
            if found.complete:
                return 0
            if self.clock.left() <= 0 or nodes > self.patience:
                return None
            nodes *= 6

    def _cut(self) -> bool:
        """Add violated subset-row cuts; False when there are none."""
        if not self.members:
            return False
        answer = self.master.solve(self.clock)
        if answer is None:
            return False
        basis = self.master.solution()
        active = np.flatnonzero(basis > 1e-6)
        old = [tuple(int(i) for i in triple) for triple in self.pricer.cuts]
        fresh = separate(np.array(self.members)[active], basis[active], set(old), most=_CUTS, each=_EACH)
        if not fresh:
            return False
        self._impose(old, fresh)
        return True

    def _impose(self, old: list[tuple[int, ...]], fresh: list[tuple[int, ...]]) -> None:
        """Add cuts to the programme and to the pricing."""
        self.pricer.set_cuts(np.array([*old, *fresh], dtype=np.int32))
        pays = self.pricer.pays(np.array(self.members))
        for c in range(len(old), len(old) + len(fresh)):
            self.master.cut(pays[:, c])

    def _enumerate(self, most: int) -> NDArray[np.bool_] | None:
        """Every stage that could be part of a better partition, or None when they are more than `most`."""
        if self.best is None:
            return None
        dual, count, prices = self.best
        self.pricer.balance(dual, count + self.core.kappa, prices=prices)
        found = self.pricer.exact(
            dual,
            count + self.core.kappa,
            threshold=-(self.bound - (self.value + self.step)),
            climb=False,
            nodes=40 * most,
            stored=most,
            prices=prices,
        )
        return found.members if found.complete else None

    def _choose(self, members: NDArray[np.bool_], most: int | None = None) -> str:
        """Choose among stages and settle the bound; "" where cuts leave more than `most` and none was chosen."""
        values = np.rint(self.worth(members)).astype(np.int64)
        cuts = [tuple(int(i) for i in triple) for triple in self.pricer.cuts]
        pool = StagePool(self.core, members, values, self.least, self.most, cuts)
        labels, value, bound = pool.choose(least=self.value + self.step, clock=self.clock, seed=self.seed, limit=most)
        if pool.open:
            # A bound on better plans; not one that comes with duals, so `bound` and `best` stay as they are.
            self.report(None, 0, max(bound, float(self.value)) / self.step)
            self._impose(cuts, [cut for cut in pool.cuts if cut not in cuts][:_CUTS])
            return ""
        if labels is not None and value > self.value:
            self.labels, self.value = labels, value
            self.report(labels, value // self.step, self.bound / self.step)
        # Outside the enumerated stages nothing beats the incumbent.
        self.bound = max(float(self.value), min(self.bound, bound))
        self.report(None, 0, self.bound / self.step)
        return f"{len(members)} stages within the gap, {pool.note}"


def generate_columns(
    core: Core,
    value: int,
    *,
    partitions: list[NDArray[np.int64]],
    clock: Clock | None = None,
    seed: int = 0,
    workers: int = 1,
    report: Report = lambda labels, value, bound: None,
    patience: int = 2**60,
) -> ColumnResult:
    """Prove that no partition is worth more than the scaled `value`, or find one; better ones go on from there.

    Parameters
    ----------
    core : Core
        Not `labelled`.
    value : int
        Of the best partition at hand.
    partitions : list of int64 ndarray of shape (n,)
        Feasible labels whose stages are the first columns; may be empty.
    clock : Clock, optional
    report : callable
        `report(labels or None, value, bound)` hears of every step forward.
    patience : int
        Give up when a single pricing needs so many nodes.
    """
    run = _Generation(core, value, partitions, clock or forever(), seed, workers, report, patience)
    note = run.run()
    return ColumnResult(run.labels, run.value // run.step, max(run.bound, float(run.value)) / run.step, note)


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
