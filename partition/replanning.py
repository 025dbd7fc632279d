"""Plan the rest of a run anew: what is trained stays, what is to come is grouped by relations measured since.

A re-plan is an ordinary plan under the user's own constraints and two more: the trained stages keep their domains and
places, and nobody joins them. It is taken only where it beats the plan at hand beyond noise.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .._progress import SILENT, Progress
from .._seeding import derive_seed
from ..errors import InfeasibleError, PlanError
from ._core import make_core
from ._solve import SUBSET_LIMIT, solve_problem
from .changes import settings_of
from .planner import build_problem, plan_from_labels
from .problem import Problem, objective_value, violations
from .scaling import gain_of, scaled
from .settings import PEERS, PlanSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..metrics.relations import Relations
    from .plan import Plan

__all__ = ["Replan", "replan"]

LEVEL = 0.95
_FEWEST_DRAWS = 20


@dataclass(frozen=True)
class Replan:
    """What a re-plan came to.

    Attributes
    ----------
    plan
        The plan to go on with, all stages of it: the one at hand where `changed` is False.
    changed
        Whether that is a new one.
    why
        One sentence for the record.
    kept, best
        Objective of the plan at hand and of the best one found, both under the new relations (λ·synergy − discrepancy
        inside stages, less κ a stage).
    low, high
        95 % interval of best − kept over the bootstrap draws of the relations; None where both are the same plan.
    draws
        Number of those draws.
    proposal
        Stages of the best plan found, taken or not.
    """

    plan: Plan
    changed: bool
    why: str
    kept: float
    best: float
    low: float | None
    high: float | None
    draws: int
    proposal: tuple[tuple[str, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """The numbers, JSON-able; the plan itself is left out."""
        return {
            "changed": self.changed,
            "why": self.why,
            "kept": self.kept,
            "best": self.best,
            "low": self.low,
            "high": self.high,
            "draws": self.draws,
            "proposal": [list(stage) for stage in self.proposal],
        }


def replan(
    plan: Plan,
    relations: Relations,
    *,
    done: int,
    settings: PlanSettings | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Replan:
    """Plan the stages after the first `done` anew under `relations`, measured since `plan` was made.

    The search is bounded by work, never by the clock: the same arguments give the same answer on a busy machine. Up
    to twelve movable groups it is exact, beyond that annealing, without a certificate.

    The best plan was picked on the same documents that the interval is drawn from, so the interval is somewhat
    hopeful; the order of stages is decided anew only along with the stages themselves. Where no partition fits the
    constraints while the trained stages stay (they were grouped by hand), the plan at hand goes on.

    Parameters
    ----------
    plan
        The plan at hand.
    relations
        Of exactly the plan's domains, with bootstrap draws.
    done
        Trained stages; they stay.
    settings
        Objective and constraints; None takes those the plan carries.
    seed
        Of the search and the new plan's confidence.

    Raises
    ------
    PlanError
        When the relations do not fit the plan, or carry no bootstrap draws of what is planned on.
    """
    if not 0 <= done <= len(plan.stages):
        raise PlanError(f"replan: {done} stages cannot be done of {len(plan.stages)}; give the number trained so far.")
    if set(relations.domains) != set(plan.domains):
        raise PlanError("replan: the relations are not of the plan's domains; measure these anew.")
    begin = time.monotonic()
    fixed = _fixed(plan, done, settings or settings_of(plan))
    parts = scaled(relations, fixed)
    where = {name: t for t, stage in enumerate(plan.stages) for name in stage}
    old = np.array([where[name] for name in relations.domains], dtype=np.int64)
    try:
        problem, sizes = build_problem(relations, fixed, parts)
        solution = solve_problem(
            problem,
            time_limit=fixed.time_limit,
            seed=derive_seed(seed, "replan", done),
            method="auto" if make_core(problem).n <= SUBSET_LIMIT else "heuristic",
            start=old,
            deterministic=True,
            progress=progress,
        )
    except InfeasibleError as fault:
        # Raised again at every resume, it would strand a run whose training is sound.
        why = (
            f"no plan fits the constraints while the trained stages stay ({str(fault).rstrip('.')}), so nothing changes"
        )
        kept = plan.objective or 0.0
        return Replan(plan, False, why, kept, kept, None, None, 0, plan.stages)
    new = solution.assignment
    proposal = _stages(new, relations.domains)
    broken = violations(problem, old)
    kept, best = objective_value(problem, old), objective_value(problem, new)
    if not broken and bool(np.array_equal(old[:, None] == old[None], new[:, None] == new[None])):
        why = "under the relations measured now, the stages of the plan at hand are still the best"
        return Replan(plan, False, why, kept, best, None, None, 0, plan.stages)
    differences = _differences(relations, fixed, problem, parts.units, old, new)
    low, high = (float(q) for q in np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    gain = f"by {best - kept:.3g} in the objective (95 % interval {low:.3g} to {high:.3g})"
    if not broken and not (best > kept and low > 0):
        why = f"another plan is better under the relations measured now {gain}, which is within their noise"
        return Replan(plan, False, why, kept, best, low, high, len(differences), proposal)
    made = plan_from_labels(
        relations, fixed, parts, problem, sizes, solution, seed=seed, begin=begin, progress=progress
    )
    why = f"under the relations measured now another plan is better {gain}, beyond their noise"
    if broken:
        why = f"the plan at hand no longer fits ({broken[0].rstrip('.')})"
    return Replan(made, True, why, kept, best, low, high, len(differences), made.stages)


def _fixed(plan: Plan, done: int, settings: PlanSettings) -> PlanSettings:
    """The settings with the trained stages nailed down: each domain pinned to its stage, no other one let in."""
    trained = {name: t + 1 for t, stage in enumerate(plan.stages[:done]) for name in stage}
    free = [name for stage in plan.stages[done:] for name in stage]
    shut = [(stage[0], name) for stage in plan.stages[:done] for name in free]
    return replace(
        settings,
        pin={**{name: at for name, at in settings.pin.items() if name not in trained}, **trained},
        cannot_link=(*settings.cannot_link, *shut),
        # As few as there are: the number was settled when the plan was made, or by hand.
        stages=len(plan.stages) if settings.stages == "fewest" else settings.stages,
        # A peer does not maximise; the map over λ and the rivals belong to the plan that is made at leisure.
        method="auto" if settings.method in PEERS else settings.method,
        phase=0,
        compare=False,
    )


def _stages(labels: NDArray[np.int64], names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    return tuple(
        tuple(name for name, at in zip(names, labels.tolist(), strict=True) if at == t)
        for t in range(int(labels.max()) + 1)
    )


def _differences(
    relations: Relations,
    settings: PlanSettings,
    problem: Problem,
    units: Mapping[str, float],
    old: NDArray[np.int64],
    new: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Objective of `new` less that of `old` in each bootstrap draw of the relations."""
    names: list[str] = []
    for choice in (settings.discrepancy, settings.synergy):
        names += [choice] if isinstance(choice, str) else [name for name, weight in choice.items() if weight > 0]
    held = [len(relations.replicates[name]) for name in names if name in relations.replicates]
    if not held or min(held) < _FEWEST_DRAWS:
        raise PlanError(
            f"replan: the relations carry fewer than {_FEWEST_DRAWS} bootstrap draws, so noise cannot be told from "
            "change; raise measure.bootstrap."
        )
    out = []
    for draw in range(min(held)):
        gain = gain_of(scaled(relations, settings, replicate=draw, units=units), settings.lam)
        drawn = replace(problem, gain=gain)
        out.append(objective_value(drawn, new) - objective_value(drawn, old))
    return np.array(out)
