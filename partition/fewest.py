"""The least number of stages that the constraints allow: bin packing with links, proved where it is cheap."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ._clock import Clock
from ._core import make_core
from ._cpsat import run_cp_sat
from .problem import SIZE_TOLERANCE, violations

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Core
    from .problem import Problem

__all__ = ["fewest_stages", "in_fewest"]


def in_fewest(problem: Problem) -> Problem:
    """The problem with as few stages as its constraints allow, and no more; as it is where nothing keeps them."""
    count = fewest_stages(problem)
    return problem if count is None else replace(problem, stages=(count, count))


def fewest_stages(problem: Problem, *, time_limit: float = 5.0) -> int | None:
    """The least number of stages of a partition that keeps every constraint, whatever its gain.

    The larger of three lower bounds (the number asked for, what the resources need in all, domains that are pairwise
    kept apart) is the answer where first fit reaches it. In between CP-SAT decides; a number that it cannot decide in
    time counts as too small, so that the answer always has a partition.

    Parameters
    ----------
    problem : Problem
        With the same limits for every stage.
    time_limit : float
        Seconds for the numbers between the bounds, together.

    Returns
    -------
    int or None
        None where no number was found that keeps the constraints; solving then says what is in conflict.
    """
    group = _groups(problem)
    count = int(group.max()) + 1
    low, high = problem.stages[0], min(problem.stages[1], count)
    sizes, most = _sizes(problem, group, count)
    apart = np.zeros((count, count), dtype=np.bool_)
    for i, j in problem.cannot_link:
        apart[group[i], group[j]] = apart[group[j], group[i]] = True
    alone = any(top and (own > top * (1 + SIZE_TOLERANCE)).any() for own, top in zip(sizes, most, strict=True))
    if apart.diagonal().any() or alone:
        return None
    needed = [math.ceil(float(own.sum()) / top - SIZE_TOLERANCE) for own, top in zip(sizes, most, strict=True) if top]
    low = max([low, _clique(apart), *needed])
    if low > high:
        return None
    found = _first_fit(sizes, most, apart, low)
    if not violations(problem, found[group]):
        if int(found.max()) + 1 == low:
            return low
        high = min(high, int(found.max()) + 1)
        proved = True
    else:
        proved = False
    share = time_limit / max(1, high - low + 1)
    core = make_core(problem, mask=False)
    for stages in range(low, high + (0 if proved else 1)):
        if _possible(core, stages, share):
            return stages
    return high if proved else None


def _groups(problem: Problem) -> NDArray[np.int64]:
    """Domains that must be together, as one item each."""
    label = np.arange(problem.k)
    for i, j in problem.must_link:
        label[label == label[j]] = label[i]
    return np.unique(label, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _sizes(problem: Problem, group: NDArray[np.int64], count: int) -> tuple[list[NDArray[np.float64]], list[float]]:
    """Of every resource, the items' sizes and the budget of a stage (0 where there is none)."""
    sizes, most = [], []
    for resource, _, upper in problem.limits(0):
        sizes.append(np.bincount(group, weights=resource.sizes, minlength=count).astype(np.float64))
        most.append(upper if np.isfinite(upper) else 0.0)
    return sizes, most


def _clique(apart: NDArray[np.bool_]) -> int:
    """Items that are pairwise kept apart, as many as a greedy search from every item finds; 1 at least."""
    best = 1
    for start in np.flatnonzero(apart.any(axis=1)):
        members, open_ = 1, apart[start].copy()
        while open_.any():
            candidates = np.flatnonzero(open_)
            chosen = candidates[apart[np.ix_(candidates, candidates)].sum(axis=1).argmax()]
            open_ &= apart[chosen]
            members += 1
        best = max(best, members)
    return best


def _first_fit(
    sizes: list[NDArray[np.float64]], most: list[float], apart: NDArray[np.bool_], low: int
) -> NDArray[np.int64]:
    """The hardest items first, each into the emptiest of `low` stages that takes it, a new one where none does."""
    count = len(apart)
    parts = [own / top for own, top in zip(sizes, most, strict=True) if top]
    weight = np.stack(parts) if parts else np.zeros((1, count))
    order = np.lexsort((-weight.max(axis=0), -apart.sum(axis=1)))
    labels = np.full(count, -1, dtype=np.int64)
    loads = [np.zeros(len(weight)) for _ in range(low)]
    for item in order:
        fits = [
            t
            for t, load in enumerate(loads)
            if (load + weight[:, item] <= 1 + SIZE_TOLERANCE).all() and not apart[item, labels == t].any()
        ]
        if not fits:
            loads.append(np.zeros(len(weight)))
            fits = [len(loads) - 1]
        # Even stages fail a minimum least often.
        stage = min(fits, key=lambda t: float(loads[t].max()))
        labels[item] = stage
        loads[stage] += weight[:, item]
    return np.unique(labels, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _possible(core: Core, stages: int, seconds: float) -> bool:
    """Whether exactly so many stages keep the limits; False where that is not decided in time.

    In the solvers' own whole numbers, so that what is possible here is possible there, and the other way round.
    """
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    # Item i may open stage i at the latest: stages are alike, so their numbers carry nothing.
    place: list[list[Any]] = [
        [model.new_bool_var("") if t <= i else None for t in range(stages)] for i in range(core.n)
    ]
    for row in place:
        model.add_exactly_one(var for var in row if var is not None)
    for t in range(stages):
        inside = [(i, var) for i in range(core.n) if (var := place[i][t]) is not None]
        model.add_bool_or(var for _, var in inside)
        for own, top, bottom in zip(core.sizes.tolist(), core.upper[:, 0], core.lower[:, 0], strict=True):
            load = sum(own[i] * var for i, var in inside)
            if top < sum(own):
                model.add(load <= int(top))
            if bottom > 0:
                model.add(load >= int(bottom))
    for i, j in np.argwhere(np.triu(core.conflict)).tolist():
        for t in range(min(i, j, stages - 1) + 1):
            model.add_at_most_one([place[i][t], place[j][t]])
    largest = int(core.sizes.max(initial=0))
    status = run_cp_sat(model, Clock(seconds), seed=0, workers=1, largest=largest)[1]
    return bool(status in (cp_model.OPTIMAL, cp_model.FEASIBLE))
