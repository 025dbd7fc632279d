"""Does a certificate still belong to the plan it stands in? Digests of what was proved, about what, and in what order.

A plan is a text file that people edit. Its seal tells three things apart: the problem (gains, sizes, budgets and
constraints, with the bound proved for it), the answer (stages as groups, objective, status) and the order of the
stages. It guards against mistakes, not against forgery: whoever can write a plan can write a seal.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ["answer_holds", "order_holds", "problem_holds", "seal_of"]

# Settings a bound depends on beside matrices and budgets.
_CONSTRAINTS = ("kappa", "stages", "minimum", "overhead", "must_link", "cannot_link", "pin")


def seal_of(plan: Plan) -> dict[str, str]:
    """The seal of a plan as it is now: digests of its problem, answer and order."""
    matrix = None if plan.gain is None else hashlib.sha256(plan.gain.astype("<f8").tobytes()).hexdigest()
    resources = {*plan.budget, *(plan.settings.get("minimum") or {})}
    problem = _digest(
        list(plan.domains),
        matrix,
        {name: plan.sizes[name] for name in sorted(resources) if name in plan.sizes},
        dict(plan.budget),
        {name: plan.settings.get(name) for name in _CONSTRAINTS},
        plan.bound,
    )
    groups = sorted(sorted(stage) for stage in plan.stages)
    return {
        "problem": problem,
        "answer": _digest(problem, groups, plan.objective, plan.gap, plan.status),
        "order": _digest([sorted(stage) for stage in plan.stages]),
    }


def problem_holds(plan: Plan) -> bool:
    """Whether the bound was proved for this very problem; of a plan that was never sealed, whether it claims none."""
    return plan.seal is not None and plan.seal.get("problem") == seal_of(plan)["problem"]


def answer_holds(plan: Plan) -> bool:
    """Whether objective and status were given to these very groups on this very problem."""
    return plan.seal is not None and plan.seal.get("answer") == seal_of(plan)["answer"]


def order_holds(plan: Plan) -> bool:
    """Whether the stages stand in the order they were planned in."""
    return plan.seal is not None and plan.seal.get("order") == seal_of(plan)["order"]


def _digest(*parts: Any) -> str:
    text = json.dumps(_plain(parts), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _plain(value: Any) -> Any:
    """One spelling for equal values: JSON knows neither tuples nor whether 4.0 was written 4."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return value
