"""What differs between two plans, and a plan for more domains that leaves the trained ones where they are."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .._progress import SILENT, Progress
from ..errors import ConfigError, InfeasibleError, PlanError
from ._solve import solve_problem
from .fewest import in_fewest
from .plan import Plan
from .planner import build_problem, plan_from_labels
from .scaling import scaled
from .settings import PlanSettings
from .solution import Solution

if TYPE_CHECKING:
    from ..metrics.relations import Relations

__all__ = ["PlanDiff", "PlanExtension", "diff_plans", "extend_plan"]


@dataclass(frozen=True)
class PlanDiff:
    """What changed from plan a to plan b.

    Attributes
    ----------
    added, removed : tuple of str
        Domains only in b; only in a.
    moved : mapping of str to (tuple of str, tuple of str)
        Domains whose company changed: who left, who joined (among domains of both plans).
    reordered : bool
        The groups are the same but train in another order.
    objective : (float or None, float or None)
    settings : mapping of str to (old, new)
    fingerprints : tuple of str
        What changed in the data.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    moved: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
    reordered: bool
    objective: tuple[float | None, float | None]
    settings: Mapping[str, tuple[Any, Any]]
    fingerprints: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether both plans train the same groups in the same order."""
        return not (self.added or self.removed or self.moved or self.reordered)

    def lines(self) -> tuple[str, ...]:
        """One sentence for each difference."""
        out = [f"+ {name}: new domain" for name in self.added]
        out += [f"- {name}: no longer planned" for name in self.removed]
        for name, (left, joined) in self.moved.items():
            parts = [f"leaves {', '.join(left)}"] if left else []
            parts += [f"joins {', '.join(joined)}"] if joined else []
            out.append(f"~ {name}: {' and '.join(parts)}")
        if self.reordered:
            out.append("~ the stages are the same but train in another order")
        old, new = self.objective
        if old is not None and new is not None and old != new:
            out.append(f"objective {old:.6g} -> {new:.6g}")
        out += [f"setting {key}: {before!r} -> {after!r}" for key, (before, after) in self.settings.items()]
        out += [f"data: {phrase}" for phrase in self.fingerprints]
        return tuple(out) or ("the plans are the same",)


def diff_plans(a: Plan, b: Plan) -> PlanDiff:
    """Compare two plans by who trains with whom, in what order, and why they may differ."""
    from .fingerprints import changed_fingerprints

    common = sorted(set(a.domains) & set(b.domains))
    moved = {}
    for name in common:
        before = set(a.stages[a.stage_of(name)]) & set(common)
        after = set(b.stages[b.stage_of(name)]) & set(common)
        if before != after:
            moved[name] = (tuple(sorted(before - after)), tuple(sorted(after - before)))
    order_a = [sorted(set(stage) & set(common)) for stage in a.stages if set(stage) & set(common)]
    order_b = [sorted(set(stage) & set(common)) for stage in b.stages if set(stage) & set(common)]
    keys = sorted(set(a.settings) & set(b.settings))
    return PlanDiff(
        added=tuple(sorted(set(b.domains) - set(a.domains))),
        removed=tuple(sorted(set(a.domains) - set(b.domains))),
        moved=moved,
        reordered=not moved and order_a != order_b,
        objective=(a.objective, b.objective),
        settings={key: (a.settings[key], b.settings[key]) for key in keys if a.settings[key] != b.settings[key]},
        fingerprints=changed_fingerprints(a, b.fingerprints),
    )


@dataclass(frozen=True)
class PlanExtension:
    """A plan for more domains with least change to an older one.

    Attributes
    ----------
    plan : Plan
    added : tuple of str
        The new domains.
    retrain : tuple of int
        Stages (from 0) whose domains changed: these must be trained again.
    affected : tuple of int
        Later stages that build on a retrained one; train them again too when the final backbone is to be exact.
    """

    plan: Plan
    added: tuple[str, ...]
    retrain: tuple[int, ...]
    affected: tuple[int, ...]

    def lines(self) -> tuple[str, ...]:
        """What happened and what to train again, one sentence each."""
        out = [f"+ {name}: stage {self.plan.stage_of(name) + 1}" for name in self.added]
        out += [f"retrain stage {t + 1}: {', '.join(self.plan.stages[t])}" for t in self.retrain]
        if self.affected:
            later = ", ".join(str(t + 1) for t in self.affected)
            who = f"stage {later} builds" if len(self.affected) == 1 else f"stages {later} build"
            out.append(f"{who} on a retrained one: train again too for an exact final backbone")
        return tuple(out) or ("nothing to add",)


def extend_plan(
    plan: Plan,
    relations: Relations,
    *,
    settings: PlanSettings | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> PlanExtension:
    """Insert the domains that `relations` has and the plan has not; every planned domain keeps its stage and order.

    New domains join existing stages or open stages behind the last one, whichever gains most within the budgets.

    Raises
    ------
    PlanError
        When a planned domain is not in the relations.
    InfeasibleError
        When the new domains fit nowhere while the old ones stay.
    """
    missing = [name for name in plan.domains if name not in relations.domains]
    if missing:
        raise PlanError(f"extend: the plan's domain {missing[0]!r} was not measured; measure old and new together.")
    if settings is None and plan.fingerprints.get("relations") == relations.digest:
        return PlanExtension(plan, (), (), ())  # nothing is new: the plan keeps what is proved of it
    begin = time.monotonic()
    settings = settings or settings_of(plan)
    parts = scaled(relations, settings)
    problem, sizes = build_problem(relations, settings, parts)
    names = relations.domains
    index = {name: i for i, name in enumerate(names)}
    heads = [index[stage[0]] for stage in plan.stages]
    frozen = replace(
        problem,
        must_link=(
            *problem.must_link,
            *((index[a], index[b]) for stage in plan.stages for a, b in pairwise(stage)),
        ),
        cannot_link=(*problem.cannot_link, *((a, b) for n, a in enumerate(heads) for b in heads[n + 1 :])),
    )
    if settings.stages == "fewest":
        # The old stages stay, so there may be more than a new plan would have.
        frozen = in_fewest(replace(frozen, stages=(1, problem.k)))
        problem = replace(problem, stages=frozen.stages)
    try:
        solution = solve_problem(
            frozen, time_limit=settings.time_limit, seed=seed, workers=settings.workers, progress=progress
        )
    except InfeasibleError as fault:
        # What the solver says of links is about those that keep the old stages; the user may have given none.
        why = str(fault).removeprefix("plan: ").removesuffix(".").replace(", or drop a must_link", "")
        raise InfeasibleError(f"extend: the new domains fit nowhere while the old stay: {why}, or plan anew.") from None
    assignment = solution.assignment
    old = [int(assignment[head]) for head in heads]
    fresh = [t for t in range(int(assignment.max()) + 1) if t not in old]
    answer = Solution(
        assignment,
        solution.objective,
        # The bound holds for plans that keep the old stages, not for every plan.
        float("inf"),
        float("inf"),
        "feasible",
        solution.seconds,
        f"extension ({solution.method})",
        solution.tolerance,
    )
    extended = plan_from_labels(
        relations,
        settings,
        parts,
        problem,
        sizes,
        answer,
        seed=seed,
        begin=begin,
        order=(*old, *fresh),
        progress=progress,
    )
    added = tuple(name for name in names if name not in plan.domains)
    retrain = tuple(
        t for t, stage in enumerate(extended.stages) if t >= len(plan.stages) or set(stage) != set(plan.stages[t])
    )
    first = retrain[0] if retrain else len(extended.stages)
    affected = tuple(t for t in range(first + 1, len(extended.stages)) if t not in retrain)
    return PlanExtension(extended, added, retrain, affected)


def settings_of(plan: Plan) -> PlanSettings:
    """The settings a plan was made with, rebuilt from its file; defaults for a plan written by hand."""
    from dataclasses import fields

    known = {item.name for item in fields(PlanSettings)}
    values = {key: value for key, value in plan.settings.items() if key in known}
    for key in ("must_link", "cannot_link"):
        if key in values:
            values[key] = tuple(tuple(group) for group in values[key])
    if isinstance(values.get("stages"), list):
        values["stages"] = tuple(values["stages"])
    try:
        return PlanSettings(**values)
    except (ConfigError, TypeError) as fault:
        raise PlanError(f"plan: its settings cannot be used ({fault}) Plan anew.") from None
