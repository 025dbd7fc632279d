"""Which domains to train together, in what order, under what budget, and how sure we are.

The face of the room: names load on first use, so importing it costs nothing and torch is never touched.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._solve import solve, solve_problem
    from .changes import PlanDiff, diff_plans, extend_plan
    from .fingerprints import check_fingerprints
    from .peers import compare_solvers
    from .plan import Plan
    from .planner import make_plan
    from .problem import Problem, Resource
    from .replanning import Replan, replan
    from .settings import PlanSettings
    from .solution import Solution

_HOME = {
    "Plan": "plan",
    "PlanDiff": "changes",
    "PlanSettings": "settings",
    "Problem": "problem",
    "Replan": "replanning",
    "Resource": "problem",
    "Solution": "solution",
    "check_fingerprints": "fingerprints",
    "compare_solvers": "peers",
    "diff_plans": "changes",
    "extend_plan": "changes",
    "make_plan": "planner",
    "replan": "replanning",
    "solve": "_solve",
    "solve_problem": "_solve",
}

__all__ = [
    "Plan",
    "PlanDiff",
    "PlanSettings",
    "Problem",
    "Replan",
    "Resource",
    "Solution",
    "check_fingerprints",
    "compare_solvers",
    "diff_plans",
    "extend_plan",
    "make_plan",
    "replan",
    "solve",
    "solve_problem",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
