"""What a plan tells its reader beside its figures: warnings, which call for a look, and notes, which explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .confidence import trivial_kind
from .expectation import expectation, label_warning

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..metrics.relations import Relations
    from .problem import Problem
    from .settings import PlanSettings
    from .solution import Solution

__all__ = ["advice", "notes_on"]


def notes_on(stages: Sequence[Sequence[str]], settings: Mapping[str, Any]) -> tuple[str, ...]:
    """How the number of stages came about, where the settings left it to the constraints."""
    count, alone = len(stages), all(len(stage) == 1 for stage in stages)
    kept = str(settings.get("method_used", "")).startswith("extension")
    if settings.get("stages") != "fewest" or alone or kept:
        return ()
    many = "one stage" if count == 1 else f"{count} stages"
    return (
        f"As few stages as the constraints allow: {many}. In our measurements more stages never helped "
        "(docs/results.md); plan.stages = free lets the objective decide their number.",
    )


def advice(
    relations: Relations,
    settings: PlanSettings,
    problem: Problem,
    labels: NDArray[np.int64],
    solution: Solution,
    confidence: Mapping[str, Any] | None,
) -> tuple[str, ...]:
    """What the user should know about a plan before training by it."""
    out: list[str] = []
    k = problem.k
    pairs = np.triu_indices(k, 1)
    gains = problem.gain[pairs]
    kind = trivial_kind(labels)
    if k == 1:
        out.append("There is one domain only, so there is nothing to plan.")
    elif kind == "all in one" and settings.stages != "fewest":
        out.append(
            f"The plan is trivial: these domains hardly conflict ({(gains >= 0).mean():.0%} of pairs gain by "
            f"sharing a stage "
            f"at lam = {settings.lam:g}), so one stage for all is best; plain joint training will do as well."
        )
    elif kind == "one per domain":
        out.append(
            f"The plan is trivial: {(gains <= 0).mean():.0%} of pairs lose by sharing a stage at lam = "
            f"{settings.lam:g} or the "
            "budget holds one domain a stage, so every domain trains alone; raise lam or the budget to see groups."
        )
    if settings.stages == "fewest" and settings.kappa:
        out.append(
            f"plan.kappa = {settings.kappa:g} changes nothing while plan.stages = fewest: it is the cost of a stage "
            "where the objective decides their number; set plan.stages = free."
        )
    names = [settings.discrepancy] if isinstance(settings.discrepancy, str) else list(settings.discrepancy)
    for name in names:
        under = relations.under_floor(name) if k > 1 else None
        if under is not None and under[pairs].mean() >= 0.5:
            out.append(
                f"{under[pairs].mean():.0%} of pairs cannot be told apart by {name!r}: these domains hardly "
                f"conflict, and "
                "which of them share a stage may not matter."
            )
    # Of the plan as it is: what its groups promise over others of their sizes, and what no text measure sees.
    expected = expectation(labels, relations, settings)
    said = (label_warning(labels, relations), None if expected is None else expected.warning)
    out += [line for line in said if line is not None]
    if solution.method.startswith("extension"):
        out.append("Old stages were kept as they are, so nothing is proved of this plan among all; plan anew for that.")
    elif solution.status != "optimal":
        out.append(
            f"The plan is not proved optimal ({solution.certificate}); raise time_limit for a better certificate."
        )
    if confidence is None and settings.bootstrap > 0 and k > 1:
        out.append("The relations hold no bootstrap draws, so nothing is known about how sure the plan is.")
    if confidence is not None and confidence["fragile"]:
        out.append(
            f"Fragile: {', '.join(confidence['fragile'])} change company under resampled text; more text would "
            f"settle them."
        )
    return tuple(out)
