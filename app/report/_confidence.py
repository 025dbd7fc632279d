"""How much the plan hangs on λ, on the budget and on the documents that were sampled."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._frame import Frame, finite, number, pack, resource_title

if TYPE_CHECKING:
    from ...partition.plan import Plan

__all__ = ["certainty", "phase_view"]


def phase_view(plan: Plan) -> dict[str, Any] | None:
    phase = plan.phase
    if not phase:
        return None
    # Rows are budgets, columns are λ; None (no plan fits) becomes NaN.
    counts = np.array(phase.get("n_stages") or [[]], dtype=np.float64)
    lam, budget = list(phase.get("lam") or []), list(phase.get("budget") or [])
    if counts.ndim != 2 or not counts.size or counts.shape != (len(budget), len(lam)):
        return None
    agreement = phase.get("agreement")
    agree = np.array(agreement, dtype=np.float64) if agreement else None
    chosen = finite((plan.settings or {}).get("lam"))
    labels = [f"{value:g}" if finite(value) is not None else str(value) for value in lam]
    column = None
    if chosen is not None:
        steps = [abs((finite(value) or 0.0) - chosen) for value in lam]
        column = int(np.argmin(steps)) if steps and min(steps) <= 1e-6 * max(1.0, abs(chosen)) else None
    resource = str(phase.get("resource") or "")
    title = resource_title(resource) or "budget"
    limits = [finite(value) for value in budget]
    own = finite((plan.budget or {}).get(resource))
    if resource == "domains":
        # Whole domains: a limit of 2.8 is one of 2. Rows that say the same twice are drawn once.
        limits = [None if value is None else float(math.floor(value + 1e-9)) for value in limits]
        own = float(len(plan.domains)) if own is None else float(math.floor(own + 1e-9))
        keep = [
            i
            for i, value in enumerate(limits)
            if i == 0 or value != limits[i - 1] or not np.array_equal(counts[i], counts[i - 1], equal_nan=True)
        ]
        counts, limits = counts[keep], [limits[i] for i in keep]
        agree = agree[keep] if agree is not None and len(agree) == len(budget) else None
    line = None
    if own is None:
        line = limits.index(None) if None in limits else None
    else:
        gaps = [math.inf if value is None else abs(value - own) for value in limits]
        line = int(np.argmin(gaps)) if min(gaps) <= 1e-6 * max(1.0, abs(own)) else None
    agree = agree if agree is not None and agree.shape == counts.shape else None
    texts = ["no limit" if value is None else f"{title} ≤ {number(value)}" for value in limits]
    return {
        "counts": pack(counts),
        "agreement": pack(agree) if agree is not None else None,
        "lam": labels,
        "budget": texts,
        "resource": title,
        "column": column,
        "row": line,
        "domains": len(plan.domains),
        **_neighbours(counts, agree, line, column),
    }


def _neighbours(
    counts: NDArray[np.float64], agree: NDArray[np.float64] | None, row: int | None, column: int | None
) -> dict[str, str]:
    """Whether the plan is the same one step of λ or of the budget away: a sentence (`stability`), a clause (`changes`).

    Both are empty where the plan's own settings are not among those tried.
    """
    nothing = {"stability": "", "changes": ""}
    if row is None or column is None or not np.isfinite(counts[row, column]):
        return nothing
    found, moving = [], []
    for name, steps in (("λ", ((0, -1), (0, 1))), ("the budget", ((-1, 0), (1, 0)))):
        for down, right in steps:
            i, j = row + down, column + right
            if not (0 <= i < counts.shape[0] and 0 <= j < counts.shape[1]) or not np.isfinite(counts[i, j]):
                continue
            other = counts[i, j] != counts[row, column]
            found.append((other, agree is not None and bool(agree[i, j] < 1 - 1e-9)))
            if other and name not in moving:
                moving.append(name)
    if not found:
        return nothing

    def of_them(count: int, one: str, many: str) -> str:
        """So many of the neighbours, with their verb."""
        if len(found) == 1:
            return f"Its only neighbour {one}"
        who = f"{'All' if count == len(found) else count} of its {len(found)} neighbours"
        return f"{who} {one if count == 1 else many}"

    differ, regrouped = sum(other for other, _ in found), sum(other or moved for other, moved in found)
    if differ:
        sentence = f"{of_them(differ, 'has', 'have')} another number of stages: this choice is not a stable one."
    elif regrouped:
        sentence = (
            f"{of_them(regrouped, 'groups', 'group')} the domains otherwise, in as many stages: only the number of "
            "stages is stable."
        )
    elif agree is not None:
        sentence = f"{of_them(len(found), 'gives', 'give')} the same plan: near this choice, little depends on it."
    else:
        sentence = f"{of_them(len(found), 'has', 'have')} as many stages."
    return {
        "stability": sentence,
        "changes": f"the number of stages changes with {' and with '.join(moving)}" if moving else "",
    }


def certainty(together: NDArray[np.float64] | None, frame: Frame) -> float | None:
    """The mean share of replicates that agree with the plan about a pair: 1 = every replicate gave this plan."""
    if together is None or frame.k < 2 or not frame.stages:
        return None
    same = np.zeros((frame.k, frame.k), dtype=bool)
    for stage in frame.stages:
        same[np.ix_(stage, stage)] = True
    rows, columns = np.triu_indices(frame.k, 1)
    share = np.where(same, together, 1 - together)[rows, columns]
    share = share[np.isfinite(share)]
    return float(share.mean()) if share.size else None
