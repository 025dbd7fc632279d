"""Judge a plan from its own file, sharing no code with the solvers: plain loops over names."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ["faults", "objective_of"]

_TOLERANCE = 1e-9


def objective_of(plan: Plan) -> float | None:
    """Σ of gain over pairs inside stages − κ · stages, by a plain double loop; None without a gain matrix."""
    if plan.gain is None:
        return None
    index = {name: i for i, name in enumerate(plan.domains)}
    total = 0.0
    for stage in plan.stages:
        for a in range(len(stage)):
            for b in range(a + 1, len(stage)):
                total += float(plan.gain[index[stage[a]], index[stage[b]]])
    return total - float(plan.settings.get("kappa", 0.0)) * len(plan.stages)


def faults(plan: Plan) -> tuple[str, ...]:
    """One sentence for each number or constraint of the plan that does not hold."""
    return (*_value_faults(plan), *_budget_faults(plan), *_count_faults(plan), *_link_faults(plan))


def _value_faults(plan: Plan) -> list[str]:
    out = []
    objective = objective_of(plan)
    scale = max(1.0, abs(objective or 0.0))
    if objective is not None and plan.objective is not None and abs(objective - plan.objective) > _TOLERANCE * scale:
        out.append(
            f"plan: the stored objective {plan.objective:.9g} is not that of its stages, {objective:.9g}; "
            f"re-validate the plan after an edit."
        )
    if objective is not None and plan.bound is not None and plan.bound < objective - _TOLERANCE * scale:
        out.append(f"plan: the bound {plan.bound:.9g} is below the objective {objective:.9g}; plan again.")
    return out


def _budget_faults(plan: Plan) -> list[str]:
    out = []
    overhead: Mapping[str, float] = plan.settings.get("overhead") or {}
    minimum: Mapping[str, float] = plan.settings.get("minimum") or {}
    for t, stage in enumerate(plan.stages):
        for resource in sorted({*plan.budget, *minimum}):
            sizes = plan.sizes.get(resource)
            if sizes is None or any(name not in sizes for name in stage):
                out.append(f"plan: no sizes for {resource!r} of every domain of stage {t + 1}; plan again.")
                continue
            used = float(overhead.get(resource, 0.0)) + sum(float(sizes[name]) for name in stage)
            most, least = plan.budget.get(resource), minimum.get(resource)
            if most is not None and used > most * (1 + _TOLERANCE):
                out.append(
                    f"plan: stage {t + 1} takes {used:.10g} {resource}, over the budget of {most:.10g}; move a "
                    f"domain or raise it."
                )
            if least is not None and used < least * (1 - _TOLERANCE):
                out.append(
                    f"plan: stage {t + 1} has {used:.10g} {resource}, under the minimum of {least:.10g}; merge "
                    f"stages or lower it."
                )
    return out


def _count_faults(plan: Plan) -> list[str]:
    wanted: Any = plan.settings.get("stages")
    if wanted is None or isinstance(wanted, str):
        # "fewest" is what the planner chose, no promise that an edit by hand could break.
        return []
    low, high = (wanted, wanted) if isinstance(wanted, int) else wanted
    if low <= len(plan.stages) <= high:
        return []
    asked = f"{low}" if low == high else f"{low} to {high}"
    return [f"plan: it has {len(plan.stages)} stages where settings ask for {asked}; edit either."]


def _link_faults(plan: Plan) -> list[str]:
    out = []
    where = {name: t for t, stage in enumerate(plan.stages) for name in stage}
    out += [
        f"plan: {', '.join(group)} must share a stage and do not; move them or drop the must_link."
        for group in plan.settings.get("must_link") or ()
        if len({where.get(name) for name in group}) > 1
    ]
    for group in plan.settings.get("cannot_link") or ():
        out += [
            f"plan: {a} and {b} must not share a stage and do; move one or drop the cannot_link."
            for a, b in combinations(group, 2)
            if a in where and where[a] == where.get(b)
        ]
    for name, position in (plan.settings.get("pin") or {}).items():
        target = position - 1 if position > 0 else len(plan.stages) + position
        if where.get(name) != target:
            found = "missing" if name not in where else f"in stage {where[name] + 1}"
            out.append(f"plan: {name} is pinned to stage {target + 1} but is {found}; move it or drop the pin.")
    return out
