"""The planning problem as a value, checked once, and the solver-independent judge of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputTypeError, PlanError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["Problem", "Resource", "make_problem", "objective_value", "stages_in_words", "violations"]

# Sums of float sizes may pass a budget by rounding; ten digits are kept.
SIZE_TOLERANCE = 1e-9

Limit = float | tuple[float, ...] | None


@dataclass(frozen=True, eq=False)
class Resource:
    """One resource: what each domain takes of it, and the least and most of it in a stage.

    `upper` and `lower` are a number for every stage, a tuple with one number per stage, or None.
    """

    name: str
    sizes: NDArray[np.float64]
    upper: Limit = None
    lower: Limit = None


@dataclass(frozen=True, eq=False)
class Problem:
    """Maximise Σ of `gain` over pairs inside stages − `kappa` · stages, under budgets and links.

    Build it with :func:`make_problem`, which checks everything.

    Attributes
    ----------
    gain : ndarray of shape (k, k)
        Symmetric, zero diagonal: what a pair adds when it shares a stage.
    resources : tuple of Resource
    stages : (int, int)
        Least and most number of (non-empty) stages.
    must_link, cannot_link : tuple of index pairs
    kappa : float
        Cost of a stage.
    names : tuple of str
        Domain names, for messages.
    """

    gain: NDArray[np.float64]
    resources: tuple[Resource, ...] = ()
    stages: tuple[int, int] = (1, 1)
    must_link: tuple[tuple[int, int], ...] = ()
    cannot_link: tuple[tuple[int, int], ...] = ()
    kappa: float = 0.0
    names: tuple[str, ...] = field(default=())

    @property
    def k(self) -> int:
        """Number of domains."""
        return len(self.gain)

    @property
    def labelled(self) -> bool:
        """Whether stages differ in their limits, so that their number in a row matters."""
        return any(
            isinstance(limit, tuple) and len(set(limit)) > 1
            for resource in self.resources
            for limit in (resource.upper, resource.lower)
        )

    def limits(self, stage: int) -> list[tuple[Resource, float, float]]:
        """Each resource with its least and most in `stage` (from 0)."""
        return [(r, _at(r.lower, stage, 0.0), _at(r.upper, stage, np.inf)) for r in self.resources]


def make_problem(
    gain: ArrayLike,
    *,
    sizes: ArrayLike | Mapping[str, ArrayLike] | None = None,
    budget: Any = None,
    minimum: Any = None,
    stages: int | tuple[int, int] | None = None,
    must_link: Sequence[Sequence[int]] = (),
    cannot_link: Sequence[Sequence[int]] = (),
    kappa: float = 0.0,
    names: Sequence[str] | None = None,
) -> Problem:
    """Check and complete a planning problem.

    Parameters
    ----------
    gain : array_like of shape (k, k)
        Symmetric; the diagonal is ignored.
    sizes : array_like of shape (k,) or mapping of such, optional
        One resource, or several by name. Needed where `budget` or `minimum` is given.
    budget, minimum : number, sequence or mapping, optional
        Most and least of the resource in a stage; a sequence gives one number per stage and fixes their number;
        a mapping gives either for each resource name.
    stages : int, (int, int) or None
        Exactly, between, or as many as pay.
    must_link, cannot_link : sequence of index groups
        Groups that share a stage; groups of which no two share one.
    kappa : float
        Cost of a stage.
    names : sequence of str, optional
        For messages; "0", "1", … by default.

    Raises
    ------
    PlanError
        When a value does not fit; :class:`~kinfold.errors.InputTypeError` when its kind does not.
    """
    matrix = _gain(gain)
    k = len(matrix)
    if not np.isfinite(kappa):
        raise PlanError(f"solve: kappa is {kappa!r}; it must be a finite number.")
    labels = tuple(map(str, names)) if names is not None else tuple(map(str, range(k)))
    if len(labels) != k:
        raise PlanError(f"solve: {len(labels)} names for {k} domains; give one each.")
    resources, count = _resources(sizes, budget, minimum, k)
    low, high = _stage_range(stages, count, k)
    return Problem(
        gain=matrix,
        resources=resources,
        stages=(low, high),
        must_link=_pairs(must_link, k, "must_link", chain=True),
        cannot_link=_pairs(cannot_link, k, "cannot_link", chain=False),
        kappa=float(kappa),
        names=labels,
    )


def stages_in_words(count: int) -> str:
    """1 stage, 2 stages."""
    return f"{count} stage{'' if count == 1 else 's'}"


def objective_value(problem: Problem, assignment: ArrayLike) -> float:
    """Σ of gain over pairs with equal labels − kappa · number of labels, by a plain loop over groups."""
    labels = np.asarray(assignment)
    total = 0.0
    used = np.unique(labels)
    for label in used:
        members = np.flatnonzero(labels == label)
        total += float(np.triu(problem.gain[np.ix_(members, members)], 1).sum())
    return total - problem.kappa * len(used)


def violations(problem: Problem, assignment: ArrayLike) -> list[str]:
    """One sentence for each constraint that `assignment` breaks; empty when it is feasible.

    With per-stage limits a label is the stage's index; otherwise labels only tell groups apart.
    """
    labels = np.asarray(assignment)
    name = problem.names or tuple(map(str, range(problem.k)))
    out: list[str] = []
    used = np.unique(labels)
    low, high = problem.stages
    if not low <= len(used) <= high:
        out.append(f"{len(used)} stages where {low} to {high} are asked for.")
    for label in used:
        stage = int(label) if problem.labelled else 0
        members = np.flatnonzero(labels == label)
        for resource, least, most in problem.limits(stage):
            total = float(resource.sizes[members].sum())
            if total > most * (1 + SIZE_TOLERANCE):
                out.append(f"stage {label} takes {total:g} {resource.name}, over {most:g}.")
            if total < least * (1 - SIZE_TOLERANCE):
                out.append(f"stage {label} has {total:g} {resource.name}, under {least:g}.")
    out.extend(f"{name[i]} and {name[j]} must share a stage." for i, j in problem.must_link if labels[i] != labels[j])
    out.extend(
        f"{name[i]} and {name[j]} must not share a stage." for i, j in problem.cannot_link if labels[i] == labels[j]
    )
    return out


def _gain(gain: ArrayLike) -> NDArray[np.float64]:
    try:
        matrix = np.array(gain, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputTypeError("solve: gain must be a k×k matrix of numbers.") from None
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise PlanError(f"solve: gain has shape {matrix.shape}; it must be k×k with k >= 1.")
    np.fill_diagonal(matrix, 0.0)
    if not np.isfinite(matrix).all():
        i, j = np.argwhere(~np.isfinite(matrix))[0]
        raise PlanError(f"solve: gain[{i}, {j}] is {matrix[i, j]}; every pair needs a finite number.")
    spread = np.abs(matrix - matrix.T)
    if spread.max(initial=0.0) > 1e-9 * max(1.0, float(np.abs(matrix).max())):
        i, j = np.unravel_index(int(spread.argmax()), spread.shape)
        raise PlanError(
            f"solve: gain[{i}, {j}] = {matrix[i, j]:g} but gain[{j}, {i}] = {matrix[j, i]:g}; it must be symmetric."
        )
    matrix = (matrix + matrix.T) / 2
    matrix.setflags(write=False)
    return matrix


def _resources(sizes: Any, budget: Any, minimum: Any, k: int) -> tuple[tuple[Resource, ...], int | None]:
    """The resources that limit anything, and the number of stages that per-stage limits fix."""
    if not isinstance(sizes, Mapping):
        if isinstance(budget, Mapping) or isinstance(minimum, Mapping):
            raise PlanError("solve: budget and minimum by resource name need sizes by resource name; give a mapping.")
        # A budget without sizes limits the number of domains in a stage.
        sizes = {"size": np.ones(k) if sizes is None else sizes}
        budget, minimum = {"size": budget}, {"size": minimum}
    else:
        for label, limits in (("budget", budget), ("minimum", minimum)):
            if limits is not None and not isinstance(limits, Mapping):
                raise PlanError(f"solve: sizes are by resource name, so {label} must be a mapping of those names too.")
            unknown = sorted(set(limits or ()) - set(sizes))
            if unknown:
                raise PlanError(
                    f"solve: {label} for {unknown[0]!r} but sizes only for {', '.join(map(str, sizes))}; add its sizes."
                )
        budget, minimum = budget or {}, minimum or {}
    out = []
    counts: dict[int, str] = {}
    for key, value in sizes.items():
        vector = np.array(value, dtype=np.float64)
        if vector.shape != (k,) or not np.isfinite(vector).all() or (vector < 0).any():
            raise PlanError(f"solve: sizes of {key!r} must be {k} finite numbers of 0 or more.")
        vector.setflags(write=False)
        upper = _limit(budget.get(key), f"budget of {key!r}", counts)
        lower = _limit(minimum.get(key), f"minimum of {key!r}", counts)
        if upper is None and lower is None:
            continue
        out.append(Resource(str(key), vector, upper, lower))
    if len(counts) > 1:
        (a, x), (b, y) = list(counts.items())[:2]
        raise PlanError(f"solve: the {x} is for {a} stages and the {y} for {b}; give the same number of stages.")
    return tuple(out), next(iter(counts), None)


def _limit(value: Any, where: str, counts: dict[int, str]) -> Limit:
    if value is None:
        return None
    array = np.asarray(value, dtype=np.float64)
    if array.ndim > 1 or array.size == 0 or np.isnan(array).any() or (array < 0).any():
        raise PlanError(f"solve: the {where} must be a number of 0 or more, or one for each stage.")
    if array.ndim == 0:
        return float(value)
    counts.setdefault(len(array), where)
    return tuple(float(x) for x in array)


def _stage_range(stages: Any, count: int | None, k: int) -> tuple[int, int]:
    if stages is None:
        low, high = (count, count) if count is not None else (1, k)
    elif isinstance(stages, (int, np.integer)) and not isinstance(stages, bool):
        low = high = int(stages)
    elif isinstance(stages, Sequence) and len(stages) == 2:
        low, high = int(stages[0]), int(stages[1])
    else:
        raise InputTypeError(f"solve: stages is {stages!r}; give an int, a (min, max) pair or None.")
    if not 1 <= low <= high:
        raise PlanError(f"solve: stages is {stages!r}; it must satisfy 1 <= min <= max.")
    if count is not None and (low, high) != (count, count):
        raise PlanError(f"solve: limits for {count} stages but stages={stages!r}; the two must agree.")
    return low, min(high, max(k, low))


def _pairs(groups: Sequence[Sequence[int]], k: int, where: str, *, chain: bool) -> tuple[tuple[int, int], ...]:
    out: set[tuple[int, int]] = set()
    for group in groups:
        items = [int(i) for i in group]
        if len(items) < 2 or len(set(items)) < len(items) or not all(0 <= i < k for i in items):
            raise PlanError(f"solve: {where} {group!r} must hold two or more different indices below {k}.")
        if chain:
            out.update((min(a, b), max(a, b)) for a, b in pairwise(items))
        else:
            out.update((min(a, b), max(a, b)) for n, a in enumerate(items) for b in items[n + 1 :])
    return tuple(sorted(out))


def _at(limit: Limit, stage: int, default: float) -> float:
    if limit is None:
        return default
    if isinstance(limit, tuple):
        return limit[stage]
    return limit
