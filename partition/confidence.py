"""How sure a plan is: re-planned under bootstrapped relations, and over a grid of λ and budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .._progress import SILENT, Progress
from .._seeding import derive_seed
from ..errors import PlanError
from ._solve import solve_problem
from .fewest import in_fewest
from .problem import Problem
from .scaling import gain_of, scaled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..metrics.relations import Relations
    from .scaling import Scaled
    from .settings import PlanSettings

__all__ = ["bootstrap_confidence", "phase_diagram", "stability"]

# A domain is fragile when its stage-mates in bootstrapped plans overlap those of the plan by less than this.
FRAGILE = 0.5
_STEPS = (0.25, 0.5, 1.0, 2.0, 4.0)


def stability(labels: NDArray[np.int64], draws: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """How well each domain's stage survives: mean Jaccard overlap of its stage in the plan and in each draw.

    Returns
    -------
    float64 ndarray of shape (k,)
        In 0..1; 1 when the domain shares its stage with exactly the same domains in every draw.
    """
    same = labels[:, None] == labels[None, :]
    total = np.zeros(len(labels))
    for draw in draws:
        other = draw[:, None] == draw[None, :]
        total += (same & other).sum(axis=1) / (same | other).sum(axis=1)
    return total / max(1, len(draws))


def bootstrap_confidence(
    problem: Problem,
    labels: NDArray[np.int64],
    relations: Relations,
    settings: PlanSettings,
    parts: Scaled,
    *,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Mapping[str, Any] | None:
    """Re-plan under bootstrap draws of the relations; None when there are no draws.

    Returns
    -------
    mapping
        co_assignment: k×k share of draws that put two domains into one stage; stability: {domain: 0..1};
        fragile: domains below one half; replicates: draws used; same_plan: share of draws with the very same groups;
        stages: {number: share of draws}.
    """
    names = _measures(settings)
    available = [len(relations.replicates[name]) for name in names if name in relations.replicates]
    draws = min([settings.bootstrap, *available]) if available else 0
    if draws < 1:
        return None
    k = problem.k
    together = np.zeros((k, k))
    found: list[NDArray[np.int64]] = []
    with progress.task("re-planning under bootstrapped relations", total=draws, unit="plans") as task:
        for draw in range(draws):
            gain = gain_of(scaled(relations, settings, replicate=draw, units=parts.units), settings.lam)
            answer = quick(replace(problem, gain=gain), labels, derive_seed(seed, "bootstrap", draw), settings)
            found.append(answer)
            together += answer[:, None] == answer[None, :]
            task.advance()
    steady = stability(labels, found)
    counts = np.array([len(np.unique(one)) for one in found])
    same = [bool(np.array_equal(a[:, None] == a[None, :], labels[:, None] == labels[None, :])) for a in found]
    return {
        "co_assignment": (together / draws).tolist(),
        "stability": {name: float(s) for name, s in zip(problem.names, steady, strict=True)},
        "fragile": [name for name, s in zip(problem.names, steady, strict=True) if s < FRAGILE],
        "replicates": draws,
        "same_plan": float(np.mean(same)),
        "stages": {str(int(n)): float((counts == n).mean()) for n in np.unique(counts)},
    }


def quick(problem: Problem, start: NDArray[np.int64], seed: int, settings: PlanSettings) -> NDArray[np.int64]:
    """A good plan in a fraction of a second: exact where that is instant, annealing from `start` otherwise."""
    from ._core import make_core
    from ._solve import SUBSET_LIMIT

    method = "auto" if make_core(problem).n <= SUBSET_LIMIT else "heuristic"
    limit = min(0.15 + 0.002 * problem.k, settings.time_limit)
    # Bounded by work, not by the clock: the same seed gives the same confidence on a busy machine.
    return solve_problem(
        problem, time_limit=limit, seed=seed, method=method, start=start, deterministic=True
    ).assignment


def phase_diagram(
    problem: Problem,
    labels: NDArray[np.int64],
    parts: Scaled,
    settings: PlanSettings,
    *,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Mapping[str, Any] | None:
    """How the plan changes with λ and with the budget.

    The budget axis scales the first budgeted resource; without a budget it caps the domains in a stage. Every other
    limit stays.

    Returns
    -------
    mapping
        lam, budget: the axes; resource: what the budget counts; n_stages[b][l], largest[b][l]: stages and domains in
        the largest one (None where infeasible); agreement[b][l]: share of pairs that the plan treats alike;
        trivial[b][l]: "all in one", "one per domain" or "".
    """
    if settings.phase < 1:
        return None
    k = problem.k
    lams = _lam_axis(settings)
    resource, budgets = _budget_axis(problem, settings.phase)
    same = labels[:, None] == labels[None, :]
    pairs = np.triu_indices(k, 1)
    stages: list[list[int | None]] = []
    largest: list[list[int | None]] = []
    agreement: list[list[float | None]] = []
    trivial: list[list[str]] = []
    with progress.task("phase diagram", total=len(lams) * len(budgets), unit="plans") as task:
        for b, budget in enumerate(budgets):
            row: list[NDArray[np.int64] | None] = []
            for number, lam in enumerate(lams):
                changed = replace(
                    problem, gain=gain_of(parts, lam), resources=_with_budget(problem, resource, float(budget))
                )
                if settings.stages == "fewest":
                    changed = in_fewest(replace(changed, stages=(_least(settings), k)))
                try:
                    row.append(quick(changed, labels, derive_seed(seed, "phase", b, number), settings))
                except PlanError:
                    row.append(None)
                task.advance()
            stages.append([None if one is None else len(np.unique(one)) for one in row])
            largest.append([None if one is None else int(np.bincount(one).max()) for one in row])
            agreement.append(
                [
                    None
                    if one is None
                    else float(((one[:, None] == one[None, :]) == same)[pairs].mean())
                    if k > 1
                    else 1.0
                    for one in row
                ]
            )
            trivial.append([trivial_kind(one) for one in row])
    return {
        "lam": lams,
        "budget": budgets,
        "resource": resource,
        "n_stages": stages,
        "largest": largest,
        "agreement": agreement,
        "trivial": trivial,
    }


def _least(settings: PlanSettings) -> int:
    """The stages that pins need, whatever the budget."""
    positions = set(settings.pin.values())
    return max([1, *(position + (-1 in positions) for position in positions if position > 0)])


def trivial_kind(labels: NDArray[np.int64] | None) -> str:
    """Name a trivial plan, as "all in one" or "one per domain"; "" for one that says something."""
    if labels is None or len(labels) < 2:
        return ""
    count = len(np.unique(labels))
    return "all in one" if count == 1 else "one per domain" if count == len(labels) else ""


def _measures(settings: PlanSettings) -> list[str]:
    out: list[str] = []
    for choice in (settings.discrepancy, settings.synergy):
        out.extend([choice] if isinstance(choice, str) else [name for name, w in choice.items() if w > 0])
    return out


def _lam_axis(settings: PlanSettings) -> list[float]:
    if settings.phase == 1:
        return [settings.lam]
    base = settings.lam or 1.0
    steps = np.geomspace(_STEPS[0], _STEPS[-1], settings.phase)
    return sorted({float(round(base * step, 6)) for step in steps} | {float(settings.lam)})


def _budget_axis(problem: Problem, points: int) -> tuple[str, list[float]]:
    for resource in problem.resources:
        if isinstance(resource.upper, float) and np.isfinite(resource.upper):
            least = float(resource.sizes.max())
            most = float(resource.sizes.sum())
            grid = np.geomspace(max(least, resource.upper / 2), min(most, resource.upper * 2), max(1, points))
            return resource.name, sorted({*(float(f"{g:.4g}") for g in grid if g >= least), resource.upper})
    grid = np.geomspace(2, max(2, problem.k), max(1, points))
    return "domains", sorted({float(round(g)) for g in grid})


def _with_budget(problem: Problem, name: str, budget: float) -> tuple[Any, ...]:
    from .problem import Resource

    out = []
    done = False
    for resource in problem.resources:
        if resource.name == name and not done:
            out.append(replace(resource, upper=budget))
            done = True
        else:
            out.append(resource)
    if not done:
        out.append(Resource(name, np.ones(problem.k), budget, None))
    return tuple(out)
