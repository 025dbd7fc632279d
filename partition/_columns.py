"""Column generation over stages: a set-partitioning linear programme, priced exactly, then closed over the integers.

max Σ v_c x_c, every item in one stage, least ≤ Σ x_c ≤ most. Clusters of good heuristic partitions are the first
columns; duals are smoothed towards those of the best bound (Wentges); pricing is local search first, branch and
bound when that finds nothing. Every bound comes from whole-number duals and a completed search, so it is safe
against rounding in the linear programme. When the bound does not meet the incumbent, every stage whose reduced cost
leaves room for a better plan is enumerated and CP-SAT picks among them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ._pricer import Pricer
from ._stagepool import StagePool

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Core

__all__ = ["ColumnResult", "generate_columns"]

_ENUMERATE = 400_000
_BITS = 38


@dataclass
class ColumnResult:
    """Best labels (or None), a safe upper bound on the scaled objective, and what happened."""

    labels: NDArray[np.int64] | None
    value: int
    bound: float
    note: str


class Master:
    """The restricted linear programme in OR-Tools' GLOP, columns added as they come."""

    def __init__(self, core: Core) -> None:
        from ortools.linear_solver import pywraplp

        self.solver = pywraplp.Solver.CreateSolver("GLOP")
        self.infinity = self.solver.infinity()
        self.unit = float(max(1, np.abs(core.gain).max(initial=1)))
        self.rows = [self.solver.Constraint(1.0, 1.0) for _ in range(core.n)]
        self.count = self.solver.Constraint(float(core.least), float(core.most))
        self.objective = self.solver.Objective()
        self.objective.SetMaximization()
        self.variables: list[Any] = []
        self.n = core.n

    def add(self, members: NDArray[np.bool_], value: float) -> None:
        """One stage as a column."""
        variable = self.solver.NumVar(0.0, self.infinity, "")
        for i in np.flatnonzero(members):
            self.rows[int(i)].SetCoefficient(variable, 1.0)
        self.count.SetCoefficient(variable, 1.0)
        self.objective.SetCoefficient(variable, value / self.unit)
        self.variables.append(variable)

    def solve(self) -> tuple[float, NDArray[np.float64], float] | None:
        """Objective, duals of items and of the number of stages, in scaled units; None when it fails."""
        status = self.solver.Solve()
        if status != self.solver.OPTIMAL:
            return None
        dual = np.array([row.dual_value() for row in self.rows]) * self.unit
        return self.objective.Value() * self.unit, dual, self.count.dual_value() * self.unit

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
        report: Callable[[NDArray[np.int64] | None, int, float], None],
    ) -> None:
        # Duals are rounded to whole numbers: make the unit fine enough that this costs nothing.
        fine = max(0, _BITS - int(np.abs(core.gain).max(initial=1)).bit_length())
        self.step = 1 << fine
        core = replace(
            core,
            gain=core.gain * self.step,
            base=core.base * self.step,
            kappa=core.kappa * self.step,
            scale=core.scale * self.step,
        )
        self.core = core
        self.deadline = deadline
        self.seed = seed
        self.workers = workers
        self.report = report
        self.pricer = Pricer(core)
        self.master = Master(core)
        self.members: list[NDArray[np.bool_]] = []
        self.values: list[int] = []
        self.known: set[bytes] = set()
        self.labels = incumbent
        self.value = core.value(incumbent)
        self.bound = np.inf
        self.best_dual: NDArray[np.float64] | None = None
        self.best_count = 0.0
        self.least, self.most = stage_range(core)
        for labels in [incumbent, *partitions]:
            for c in np.unique(labels):
                self.add(labels == c)

    def worth(self, inside: NDArray[np.bool_]) -> int:
        items = np.flatnonzero(inside)
        return int(self.core.gain[np.ix_(items, items)].sum()) // 2 - self.core.kappa

    def add(self, inside: NDArray[np.bool_]) -> bool:
        key = np.packbits(inside).tobytes()
        if key in self.known:
            return False
        self.known.add(key)
        value = self.worth(inside)
        self.members.append(inside.copy())
        self.values.append(value)
        self.master.add(inside, float(value))
        return True

    def closed(self) -> bool:
        """Whether no whole-number objective lies between incumbent and bound."""
        return self.bound < self.value + self.step

    def lagrangian(self, dual: NDArray[np.float64], count: float, worst: float) -> float:
        """Upper bound on the scaled objective when no stage is worth more than `worst` at these duals."""
        each = count + max(0.0, worst)
        return float(dual.sum()) + max(each * self.least, each * self.most) + self.core.base

    def learn(self, dual: NDArray[np.float64], count: float, worst: float) -> bool:
        bound = self.lagrangian(dual, count, worst)
        if bound < self.bound:
            self.bound, self.best_dual, self.best_count = bound, dual, count
            self.report(None, 0, bound / self.step)
            return True
        return False

    def run(self) -> str:
        """Solve the linear programme over all stages, or until the time is up."""
        smooth = 0.8
        while not self.closed() and time.monotonic() < self.deadline:
            answer = self.master.solve()
            if answer is None:
                return "linear programme failed"
            objective, dual, count = answer
            dual, count = np.rint(dual), float(np.rint(count))
            if self._local(dual, count):
                continue
            # Nothing cheap to find at the true duals: search exactly, first at the smoothed ones.
            mixed, mixed_count = dual, count
            if self.best_dual is not None and smooth > 0:
                mixed = np.rint(smooth * self.best_dual + (1 - smooth) * dual)
                mixed_count = float(np.rint(smooth * self.best_count + (1 - smooth) * count))
            added = self._exact(mixed, mixed_count)
            if added is None:
                return "pricing stopped early"
            if not added and (mixed is not dual):
                # Misprice: lean on the true duals now.
                if self.closed() or self._tight(objective):
                    break
                added = self._exact(dual, count)
                if added is None:
                    return "pricing stopped early"
            if not added or self._tight(objective):
                break
        return "linear programme solved" if time.monotonic() < self.deadline else "out of time"

    def _tight(self, objective: float) -> bool:
        return self.bound <= objective + self.core.base + 1.0 + 1e-9 * abs(objective)

    def _local(self, dual: NDArray[np.float64], count: float) -> int:
        recent = self.members[-4 * self.core.n :]
        basis = self.master.solution()
        active = [self.members[c] for c in np.flatnonzero(basis > 1e-6)]
        singles = np.eye(self.core.n, dtype=np.bool_)
        starts = np.unique(np.array([*active, *recent, *singles]), axis=0)
        members, _ = self.pricer.local(dual, count + self.core.kappa, starts)
        added = 0
        for inside in members[: 2 * self.core.n]:
            added += self.add(inside)
        return added

    def _exact(self, dual: NDArray[np.float64], count: float) -> int | None:
        """Columns added; None when the search was cut short (its looser bound still counts)."""
        nodes = 200_000
        while True:
            left = self.deadline - time.monotonic()
            if left <= 0:
                return None
            found = self.pricer.exact(dual, count + self.core.kappa, nodes=nodes)
            if found.complete or len(found.values):
                break
            if nodes > 50_000_000:
                break
            nodes *= 8
        self.learn(dual, count, found.bound)
        added = 0
        for inside in found.members[::-1][:50]:
            added += self.add(inside)
        if added and len(found.members):
            extra, _ = self.pricer.local(dual, count + self.core.kappa, found.members)
            for inside in extra[: self.core.n]:
                added += self.add(inside)
        if not found.complete and not added:
            return None
        return added

    def finish(self) -> str:
        """Enumerate what could still beat the incumbent, and let CP-SAT choose."""
        if self.closed() or self.best_dual is None:
            return ""
        room = self.bound - (self.value + self.step)
        found = self.pricer.exact(
            self.best_dual,
            self.best_count + self.core.kappa,
            threshold=-room,
            climb=False,
            nodes=60_000_000,
            stored=_ENUMERATE,
        )
        if not found.complete:
            return f"over {_ENUMERATE} stages within the gap"
        members = found.members
        values = np.rint(
            found.values + members @ self.best_dual + self.best_count
        ).astype(np.int64)
        pool = StagePool(self.core, members, values, self.least, self.most)
        labels, value, bound = pool.choose(
            least=self.value + self.step,
            seconds=self.deadline - time.monotonic(),
            seed=self.seed,
            workers=self.workers,
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
    report: Callable[[NDArray[np.int64] | None, int, float], None] = lambda labels, value, bound: None,
) -> ColumnResult:
    """Prove or improve `incumbent`; `report(labels or None, value, bound)` hears of every step forward."""
    run = _Generation(core, incumbent, partitions, time.monotonic() + seconds, seed, workers, report)
    note = run.run()
    if note == "linear programme solved":
        extra = run.finish()
        note = f"{note}, {extra}" if extra else note
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
