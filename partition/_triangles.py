"""An upper bound from pairs: y_ij in [0, 1], triangle inequalities and capacities added while they are violated.

max Σ w_ij y_ij with y_ij + y_ik − y_jk ≤ 1, s_i + Σ_j s_j y_ij ≤ U and ≥ L. The first rows are the triangles that
speak about the pairs an incumbent has on the wrong side (apart though they gain, together though they lose): with
those alone the bound is often nearly what it will be. The rest come while they are violated, and the dual simplex of
OR-Tools' GLOP goes on from its last basis.

The bound is recomputed from rounded, non-negative duals (rhs · dual + Σ max(0, reduced gain)), so it is safe whatever
the linear programme's rounding, and any round may be the last. The same duals say what a partition better than the
incumbent must look like: pairs that would cost more than the gap are put together or kept apart for good.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ._clock import Clock, forever, interruptible
from ._jit import compiled, have_compiler

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Core

__all__ = ["TriangleResult", "contracted", "triangle_bound"]

_EPSILON = 1e-6
# Triangles a wrongly placed pair starts with, and rows added a round at most.
_FIRST = 12
_ROUND = 2500


@dataclass(frozen=True, eq=False)
class TriangleResult:
    """What the relaxation proved.

    Attributes
    ----------
    bound : float
        No partition has a larger scaled objective.
    labels : int64 ndarray of shape (n,) or None
        Item labels when the relaxation came out whole and feasible.
    together, apart : bool ndarray of shape (n, n)
        Pairs that share a stage, and pairs that do not, in every partition better than the incumbent.
    """

    bound: float
    labels: NDArray[np.int64] | None
    together: NDArray[np.bool_]
    apart: NDArray[np.bool_]


def triangle_bound(
    core: Core,
    *,
    clock: Clock | None = None,
    incumbent: NDArray[np.int64] | None = None,
    report: Callable[[float], None] = lambda bound: None,
) -> TriangleResult:
    """Bound the scaled objective, and fix pairs.

    Parameters
    ----------
    core : Core
        Not `labelled`. A cost per stage enters at its least: the least number of stages.
    clock : Clock, optional
    incumbent : int64 ndarray of shape (n,), optional
        Item labels of a feasible partition. The search stops once nothing better can exist.
    report : callable
        Hears of every lower bound.
    """
    clock = clock or forever()
    n = core.n
    nothing = np.zeros((n, n), dtype=np.bool_)
    if n < 2:
        return TriangleResult(float(core.base - core.kappa), np.zeros(n, dtype=np.int64), nothing, nothing)
    model = _Model(core)
    enough = -np.inf if incumbent is None else float(core.value(incumbent) + 1)
    if incumbent is not None:
        model.add_triangles(_first_rows(core.gain, incumbent))
    best = np.inf
    labels = None
    while not best < enough:
        duals = model.solve(clock)
        if duals is None:
            break
        bound, reduced = model.safe(duals)
        if max(bound, enough - 1) < best:
            # Below the incumbent it only says that nothing is better.
            best = max(bound, enough - 1)
            report(best)
        if best < enough:
            break
        # Before anything is fixed: a changed programme has no solution to read.
        point = model.point()
        if np.isfinite(enough):
            model.fix(bound, reduced, enough)
        fresh = _violated(point, _ROUND)
        if not len(fresh):
            labels = _whole(point)
            if labels is not None and not core.feasible(labels):
                labels = None
            break
        model.add_triangles(fresh)
    return TriangleResult(best, labels, model.matrix(model.one), model.matrix(model.zero))


class _Model:
    """The relaxation in GLOP, and a book of its rows to recompute the bound from."""

    def __init__(self, core: Core) -> None:
        from ortools.linear_solver import pywraplp

        n = core.n
        self.core = core
        self.rows, self.columns = np.triu_indices(n, 1)
        self.number = np.zeros((n, n), dtype=np.int64)
        self.number[self.rows, self.columns] = self.number[self.columns, self.rows] = np.arange(len(self.rows))
        self.weight = core.gain[self.rows, self.columns].astype(np.float64)
        self.unit = float(max(1.0, np.abs(self.weight).max(initial=1.0)))
        self.zero = core.conflict[self.rows, self.columns].copy()
        for r in range(len(core.sizes)):
            self.zero |= core.sizes[r][self.rows] + core.sizes[r][self.columns] > core.upper[r, 0]
        self.banned = self.zero.copy()
        self.one = np.zeros_like(self.zero)
        # Each stage costs κ; at least `least` of them are used, at most `most` when κ is negative.
        self.fixed = float(core.base) - min(core.kappa * core.least, core.kappa * core.most)
        self.solver = pywraplp.Solver.CreateSolver("GLOP")
        # Presolving would throw the last basis away; rows that come later leave it dual feasible.
        self.solver.SetSolverSpecificParametersAsString("use_preprocessing: false use_dual_simplex: true")
        self.infinity = self.solver.infinity()
        self.y = [self.solver.NumVar(0.0, 0.0 if z else 1.0, "") for z in self.zero]
        objective = self.solver.Objective()
        objective.SetMaximization()
        for v, w in zip(self.y, self.weight.tolist(), strict=True):
            objective.SetCoefficient(v, w / self.unit)
        # Capacities as (row, indices, coefficients, rhs); triangles as index triples of pairs, rhs 1.
        self.capacities: list[tuple[Any, NDArray[np.int64], NDArray[np.float64], float]] = []
        self.triangles: list[Any] = []
        self.triples: list[NDArray[np.int64]] = []
        self.seen: set[tuple[int, int, int]] = set()
        others = ~np.eye(n, dtype=np.bool_)
        for r in range(len(core.sizes)):
            size = core.sizes[r].astype(np.float64)
            for i in range(n):
                mates = np.flatnonzero(others[i])
                if core.upper[r, 0] < core.sizes[r].sum():
                    self._capacity(self.number[i, mates], size[mates], float(core.upper[r, 0] - core.sizes[r, i]))
                if core.lower[r, 0] > core.sizes[r, i]:
                    self._capacity(self.number[i, mates], -size[mates], float(core.sizes[r, i] - core.lower[r, 0]))

    def _capacity(self, index: NDArray[np.int64], coefficient: NDArray[np.float64], rhs: float) -> None:
        row = self.solver.Constraint(-self.infinity, rhs)
        for i, c in zip(index.tolist(), coefficient.tolist(), strict=True):
            row.SetCoefficient(self.y[i], c)
        self.capacities.append((row, index, coefficient, rhs))

    def add_triangles(self, triples: NDArray[np.int64]) -> None:
        """Rows y_ij + y_ik − y_jk ≤ 1 for triples (i, j, k), each once."""
        for i, j, k in triples.tolist():
            key = (i, min(j, k), max(j, k))
            if key in self.seen:
                continue
            self.seen.add(key)
            row = self.solver.Constraint(-self.infinity, 1.0)
            pairs = (self.number[i, j], self.number[i, k], self.number[j, k])
            for pair, sign in zip(pairs, (1.0, 1.0, -1.0), strict=True):
                row.SetCoefficient(self.y[int(pair)], sign)
            self.triangles.append(row)
            self.triples.append(np.array(pairs))

    def solve(self, clock: Clock) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Whole-number duals of capacities and triangles; None when the limit came first."""
        if clock.left() <= 0:
            return None
        if not clock.deterministic and np.isfinite(clock.left()):
            self.solver.SetTimeLimit(max(1, int(1000 * clock.left())))
        status = interruptible(self.solver.Solve, self.solver.InterruptSolve)
        clock.pivots(self.solver.iterations(), self.solver.NumConstraints(), len(self.y))
        if status != self.solver.OPTIMAL:
            return None
        capacity = np.array([row.dual_value() for row, *_ in self.capacities])
        triangle = np.array([row.dual_value() for row in self.triangles])
        return (
            np.rint(np.maximum(capacity, 0.0) * self.unit),
            np.rint(np.maximum(triangle, 0.0) * self.unit),
        )

    def safe(self, duals: tuple[NDArray[np.float64], NDArray[np.float64]]) -> tuple[float, NDArray[np.float64]]:
        """Lagrangian bound and reduced gains at these duals; in whole numbers below 2^53, so nothing is lost.

        Pairs fixed before count as fixed: the bound is for partitions better than the incumbent, and the
        incumbent's own value bounds the rest.
        """
        capacity, triangle = duals
        reduced = self.weight.copy()
        total = float(triangle.sum())
        if len(triangle):
            priced = triangle > 0
            triples = np.array(self.triples)[priced]
            for place, sign in ((0, -1.0), (1, -1.0), (2, 1.0)):
                np.add.at(reduced, triples[:, place], sign * triangle[priced])
        for price, (_, index, coefficient, rhs) in zip(capacity.tolist(), self.capacities, strict=True):
            if price > 0:
                reduced[index] -= price * coefficient
                total += price * rhs
        free = ~(self.zero | self.one)
        bound = self.fixed + total + float(np.maximum(reduced[free], 0.0).sum()) + float(reduced[self.one].sum())
        return bound, reduced

    def fix(self, bound: float, reduced: NDArray[np.float64], enough: float) -> None:
        """Fix pairs whose other value would leave less than `enough`."""
        free = ~(self.zero | self.one)
        zero = free & (reduced <= 0) & (bound + reduced < enough)
        one = free & (reduced > 0) & (bound - reduced < enough)
        for e in np.flatnonzero(zero):
            self.y[int(e)].SetUb(0.0)
        for e in np.flatnonzero(one):
            self.y[int(e)].SetLb(1.0)
        self.zero |= zero
        self.one |= one

    def point(self) -> NDArray[np.float64]:
        """The solution as a symmetric matrix."""
        out = np.zeros((self.core.n, self.core.n))
        values = np.array([v.solution_value() for v in self.y])
        out[self.rows, self.columns] = out[self.columns, self.rows] = values
        return out

    def matrix(self, pairs: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Pairs as a symmetric matrix."""
        out = np.zeros((self.core.n, self.core.n), dtype=np.bool_)
        out[self.rows, self.columns] = out[self.columns, self.rows] = pairs
        return out


def contracted(core: Core, found: TriangleResult) -> tuple[Core, NDArray[np.int64]] | None:
    """The core in which fixed pairs are merged or masked, and the new item of each old one.

    Its partitions are those of `core` that can be better than the incumbent. None when they contradict each other:
    then there are none.
    """
    n = core.n
    root = np.arange(n)
    for i in range(n):
        for j in np.flatnonzero(found.together[i, :i]):
            a, b = root[i], root[j]
            root[root == max(a, b)] = min(a, b)
    _, item = np.unique(root, return_inverse=True)
    item = item.reshape(-1).astype(np.int64)
    m = int(item.max()) + 1
    member = np.zeros((m, n), dtype=np.int64)
    member[item, np.arange(n)] = 1
    gain = member @ core.gain @ member.T
    inner = int(np.trace(gain)) // 2
    np.fill_diagonal(gain, 0)
    conflict = (member @ (core.conflict | found.apart).astype(np.int64) @ member.T) > 0
    sizes = core.sizes @ member.T
    if np.diag(conflict).any() or any((sizes[r] > core.upper[r, 0]).any() for r in range(len(sizes))):
        return None
    if m < core.least:
        return None
    smaller = replace(
        core,
        gain=np.ascontiguousarray(gain),
        base=core.base + inner,
        sizes=np.ascontiguousarray(sizes),
        conflict=conflict,
        most=min(core.most, m),
        group=item[core.group],
    )
    return smaller, item


def _first_rows(gain: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Triangles (centre, j, k) that hold with equality in a partition and can pay for its wrongly placed pairs."""
    n = len(gain)
    same = labels[:, None] == labels[None, :]
    out: list[NDArray[np.int64]] = [np.zeros((0, 3), dtype=np.int64)]

    def keep(third: NDArray[np.int64], worth: NDArray[np.int64], a: int, b: int) -> None:
        top = np.argsort(-worth, kind="stable")[:_FIRST]
        chosen = third[top[worth[top] > 0]]
        out.append(np.stack([chosen, np.full(len(chosen), a), np.full(len(chosen), b)], axis=1))

    for a in range(n):
        for b in range(a + 1, n):
            if same[a, b] and gain[a, b] < 0:
                mates = np.flatnonzero(same[a])
                mates = mates[(mates != a) & (mates != b)]
                keep(mates, np.minimum(gain[mates, a], gain[mates, b]), a, b)
            elif not same[a, b] and gain[a, b] > 0:
                for centre, other in ((a, b), (b, a)):
                    mates = np.flatnonzero(same[centre])
                    mates = mates[mates != centre]
                    before = len(out)
                    keep(mates, np.minimum(gain[mates, centre], -gain[mates, other]), centre, other)
                    # The centre of these rows is the wrongly placed item itself.
                    out[before] = out[before][:, [1, 0, 2]]
    return np.concatenate(out).astype(np.int64)


def _violated(point: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """For each pair jk the centre i that violates y_ij + y_ik − y_jk ≤ 1 most; the `most` worst of them."""
    n = len(point)
    triples = np.zeros((n * (n - 1) // 2, 3), dtype=np.int64)
    excess = np.zeros(len(triples))
    scan = compiled(_scan) if have_compiler() else _scan_rows
    count = scan(point, _EPSILON, triples, excess)
    worst = np.argsort(-excess[:count], kind="stable")[:most]
    out: NDArray[np.int64] = triples[worst]
    return out


def _scan(point: Any, least: float, triples: Any, excess: Any) -> int:
    """Kernel of :func:`_violated`: fills `triples` and `excess`, returns how many."""
    n = point.shape[0]
    count = 0
    for j in range(n):
        for k in range(j + 1, n):
            best = least
            centre = -1
            for i in range(n):
                if i in (j, k):
                    continue
                over = point[i, j] + point[i, k] - point[j, k] - 1.0
                if over > best:
                    best = over
                    centre = i
            if centre >= 0:
                triples[count, 0] = centre
                triples[count, 1] = j
                triples[count, 2] = k
                excess[count] = best
                count += 1
    return count


def _scan_rows(
    point: NDArray[np.float64], least: float, triples: NDArray[np.int64], excess: NDArray[np.float64]
) -> int:
    """What :func:`_scan` does, in NumPy."""
    n = len(point)
    count = 0
    for j in range(n):
        over = point[:, j][:, None] + point - point[j][None, :] - 1.0
        np.fill_diagonal(over, -np.inf)
        over[j] = -np.inf
        centre = over.argmax(axis=0)
        for k in range(j + 1, n):
            if over[centre[k], k] > least:
                triples[count] = centre[k], j, k
                excess[count] = over[centre[k], k]
                count += 1
    return count


def _whole(point: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """Labels when every pair is together or apart, else None."""
    if np.abs(point - np.rint(point)).max() > 1e-5:
        return None
    labels = np.arange(len(point), dtype=np.int64)
    for i in range(len(point)):
        for j in np.flatnonzero(point[i, i + 1 :] > 0.5) + i + 1:
            labels[j] = labels[i]
    return labels
