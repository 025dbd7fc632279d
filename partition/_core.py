"""The problem as solvers see it: linked domains merged, gains and sizes as whole numbers, conflicts as a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .problem import Problem

__all__ = ["Core", "make_core"]

_GAIN_BITS = 38
_SIZE_BITS = 40


@dataclass(frozen=True, eq=False)
class Core:
    """n items (groups of must-linked domains) in whole numbers; every solver works on this.

    Attributes
    ----------
    gain : int64 ndarray of shape (n, n)
        round(gain · scale), symmetric, zero diagonal.
    base : int
        Scaled gain inside the items themselves, a constant of the objective.
    kappa : int
        Scaled cost of a stage.
    scale : float
    error : float
        Largest difference, in the user's unit, between the whole-number and the true objective of any partition.
    sizes : int64 ndarray of shape (resources, n)
    upper, lower : int64 ndarray of shape (resources, stages)
        `stages` columns when `labelled`, one column otherwise.
    conflict : bool ndarray of shape (n, n)
    least, most : int
        Number of stages.
    group : int64 ndarray of shape (k,)
        Item of each domain.
    """

    gain: NDArray[np.int64]
    base: int
    kappa: int
    scale: float
    error: float
    sizes: NDArray[np.int64]
    upper: NDArray[np.int64]
    lower: NDArray[np.int64]
    conflict: NDArray[np.bool_]
    least: int
    most: int
    labelled: bool
    group: NDArray[np.int64]

    @property
    def n(self) -> int:
        """Number of items."""
        return len(self.gain)

    def value(self, labels: NDArray[np.int64]) -> int:
        """Scaled objective of item labels, `base` included."""
        same = labels[:, None] == labels[None, :]
        return int(self.gain[same].sum()) // 2 + self.base - self.kappa * len(np.unique(labels))

    def feasible(self, labels: NDArray[np.int64]) -> bool:
        """Whether item labels (stage indices when `labelled`) keep every constraint."""
        used, dense = np.unique(labels, return_inverse=True)
        if not self.least <= len(used) <= self.most:
            return False
        if (self.conflict & (labels[:, None] == labels[None, :])).any():
            return False
        for r in range(len(self.sizes)):
            load = np.bincount(dense, weights=self.sizes[r].astype(np.float64)).astype(np.int64)
            column = used if self.labelled else np.zeros(len(used), dtype=np.int64)
            if (load > self.upper[r, column]).any() or (load < self.lower[r, column]).any():
                return False
        return True

    def expand(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Labels of the domains from labels of the items."""
        return np.asarray(labels, dtype=np.int64)[self.group]

    def unscale(self, value: float) -> float:
        """An objective in the user's unit."""
        return value / self.scale

    def trivial_bound(self) -> int:
        """Σ of positive gains − κ · least stages: holds for every partition."""
        return (
            int(np.maximum(self.gain, 0).sum()) // 2 + self.base - min(self.kappa * self.least, self.kappa * self.most)
        )


def make_core(problem: Problem, *, mask: bool = True) -> Core:
    """Merge, scale and mask a checked problem; `mask` turns forbidding weights into conflicts.

    Two must-linked domains that also conflict leave a conflict of an item with itself (on the diagonal of
    `conflict`), which no partition satisfies.
    """
    group = _components(problem.k, problem.must_link)
    n = int(group.max()) + 1
    forbidden = _forbidden(problem, group, n) if mask else np.zeros((n, n), dtype=np.bool_)
    # A forbidding weight (−9999 among tens) is a mask, not a number: it would flatten scale and temperature.
    gain = np.where(forbidden[group][:, group], 0.0, problem.gain)
    scale, exact = _gain_scale(gain, problem.kappa)
    whole = np.rint(gain * scale).astype(np.int64)
    member = np.zeros((n, problem.k), dtype=np.int64)
    member[group, np.arange(problem.k)] = 1
    merged = member @ whole @ member.T
    base = int(np.trace(merged)) // 2
    np.fill_diagonal(merged, 0)
    pairs = problem.k * (problem.k - 1) / 2
    # Rounding each gain errs by half a unit; float sums of the true objective add their own rounding.
    error = 0.0 if exact else (0.5 * pairs + 0.5 * problem.stages[1]) / scale
    conflict = forbidden
    for i, j in problem.cannot_link:
        conflict[group[i], group[j]] = conflict[group[j], group[i]] = True
    labelled = problem.labelled
    columns = problem.stages[1] if labelled else 1
    resources = len(problem.resources)
    sizes = np.zeros((resources, n), dtype=np.int64)
    upper = np.zeros((resources, columns), dtype=np.int64)
    lower = np.zeros((resources, columns), dtype=np.int64)
    for r, resource in enumerate(problem.resources):
        limits = [next(x for x in problem.limits(t) if x[0] is resource)[1:] for t in range(columns)]
        finite = [value for pair in limits for value in pair if np.isfinite(value)]
        unit, slack = _size_scale(resource.sizes, finite)
        vector = np.rint(resource.sizes * unit).astype(np.int64)
        sizes[r] = np.bincount(group, weights=vector.astype(np.float64), minlength=n).astype(np.int64)
        total = int(vector.sum())
        for t, (least, most) in enumerate(limits):
            upper[r, t] = total if not np.isfinite(most) else min(total, int(np.floor(most * unit + slack)))
            lower[r, t] = 0 if least <= 0 else min(total + 1, int(np.ceil(least * unit - slack)))
    return Core(
        gain=np.ascontiguousarray(merged),
        base=base,
        kappa=int(np.rint(problem.kappa * scale)),
        scale=scale,
        error=error,
        sizes=sizes,
        upper=upper,
        lower=lower,
        conflict=conflict,
        least=problem.stages[0],
        most=min(problem.stages[1], n) if not labelled else problem.stages[1],
        labelled=labelled,
        group=group,
    )


def _forbidden(problem: Problem, group: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    """Pairs of items that share a stage in no optimal partition, where any item may have a stage of its own.

    If w_ij is below minus all that i could gain from everybody else, taking i out of the stage is better.
    """
    out: NDArray[np.bool_] = np.zeros((n, n), dtype=np.bool_)
    free = not problem.labelled and problem.stages[1] >= n and all(r.lower is None for r in problem.resources)
    if not free:
        return out
    member = np.zeros((n, problem.k))
    member[group, np.arange(problem.k)] = 1.0
    gain = member @ problem.gain @ member.T
    np.fill_diagonal(gain, 0.0)
    reach = np.maximum(gain, 0.0).sum(axis=1) * (1 + 1e-9) + max(0.0, problem.kappa)
    out[:] = gain < -np.minimum(reach[:, None], reach[None, :])
    return out


def _components(k: int, pairs: tuple[tuple[int, int], ...]) -> NDArray[np.int64]:
    parent = list(range(k))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for i, j in pairs:
        a, b = root(i), root(j)
        parent[max(a, b)] = min(a, b)
    roots = [root(i) for i in range(k)]
    number = {r: n for n, r in enumerate(sorted(set(roots)))}
    return np.array([number[r] for r in roots], dtype=np.int64)


def _gain_scale(gain: NDArray[np.float64], kappa: float) -> tuple[float, bool]:
    """A multiplier that makes gains whole: exactly where they are decimals or differences of ranks, else 2^38/max."""
    values = np.unique(np.append(gain[np.triu_indices(len(gain), 1)], kappa))
    top = float(np.abs(values).max(initial=0.0))
    if top == 0.0:
        return 1.0, True
    pairs = len(gain) * (len(gain) - 1) // 2
    for denominator in (1, 2 * max(1, pairs - 1)):
        for power in range(7):
            unit = float(denominator * 10**power)
            if top * unit > 2.0**_GAIN_BITS:
                break
            scaled = values * unit
            if np.abs(scaled - np.rint(scaled)).max() <= 1e-15 * top * unit * 8:
                return unit, True
    return 2.0 ** np.floor(_GAIN_BITS - np.log2(top)), False


def _size_scale(sizes: NDArray[np.float64], limits: list[float]) -> tuple[float, float]:
    """A multiplier for sizes and the slack (in scaled units) that covers its rounding."""
    values = np.array([*sizes, *limits], dtype=np.float64)
    top = float(values.max(initial=0.0))
    if top == 0.0:
        return 1.0, 0.0
    for power in range(7):
        scaled = values * 10.0**power
        if scaled.max() > 2.0**_SIZE_BITS:
            break
        if np.abs(scaled - np.rint(scaled)).max() <= 1e-9:
            return 10.0**power, 1e-6
    # Half a unit an item: the most that rounding to nearest can add up to.
    return 2.0 ** np.floor(_SIZE_BITS - np.log2(top)), 0.5 * len(sizes) + 0.5
