"""What the plan was measured against: other methods on the same gains, and other orders of the same stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ._frame import finite, pack

if TYPE_CHECKING:
    from ...partition.plan import Plan

__all__ = ["order_view", "solvers_view", "ties"]


def solvers_view(plan: Plan) -> list[dict[str, Any]]:
    """Best first; how far each falls short of the plan, relative to the plan's objective."""
    rows: list[dict[str, Any]] = []
    ours = finite(plan.objective)
    for row in plan.solvers:
        value = finite(row.get("objective"))
        feasible = row.get("feasible", True) is not False
        rows.append(
            {
                "name": str(row.get("name", "?")).replace("_", " "),
                "objective": value,
                "stages": row.get("stages"),
                "gap": finite(row.get("gap")),
                "seconds": finite(row.get("seconds")),
                "feasible": feasible,
                "note": _note(row, plan),
                "short": None if value is None or ours is None else ours - value,
                "own": str(row.get("name", "")) == "kinfold",
                "best": value is not None
                and ours is not None
                and feasible
                and value >= ours - 1e-9 * max(1.0, abs(ours)),
            }
        )
    return sorted(
        rows,
        key=lambda row: (
            not row["feasible"],
            -round(row["objective"], 9) if row["objective"] is not None else np.inf,
            not row["own"],
            row["name"],
        ),
    )


def _note(row: Mapping[str, Any], plan: Plan) -> str:
    """A solver's note, unless it only repeats the name, and whether its groups had to be changed to be allowed."""
    name, note = str(row.get("name", "")), str(row.get("note") or "")
    if note.lower() == name.replace("_", " "):
        note = ""
    if not row.get("repaired"):
        return note
    settings = plan.settings or {}
    others = ("must_link", "cannot_link", "pin", "minimum", "stages")
    what = "the budget" if plan.budget and not any(settings.get(key) for key in others) else "the constraints"
    return f"{note}, repaired to {what}" if note else f"repaired to {what}"


def ties(rows: list[dict[str, Any]]) -> str:
    """A sentence when more than half of the other methods reach the plan's objective; empty otherwise."""
    others = [row for row in rows if not row["own"]]
    best = sum(row["best"] for row in others)
    if len(others) < 2 or 2 * best <= len(others):
        return ""
    return (
        f"{best} of {len(others)} other methods reach the same objective: this problem is easy, and the plan’s "
        "score alone does not set it apart."
    )


def order_view(plan: Plan) -> dict[str, Any] | None:
    order = plan.order
    if not order:
        return None
    matrix = next((order[key] for key in ("affinity", "stage_affinity", "matrix") if order.get(key) is not None), None)
    packed = None
    if matrix is not None:
        values = np.asarray(matrix, dtype=np.float64)
        if values.shape == (len(plan.stages), len(plan.stages)) and len(values) > 1:
            values = values.copy()
            np.fill_diagonal(values, np.nan)
            packed = pack(values)
    exact = order.get("exact")
    return {
        "affinity": packed,
        "score": finite(order.get("score")),
        "method": str(order.get("method") or ""),
        "exact": bool(exact) if exact is not None else None,
        "rivals": [
            {"name": str(name).replace("_", " "), "score": finite(value)}
            for name, value in sorted(
                dict(order.get("rivals") or {}).items(), key=lambda item: -(finite(item[1]) or float("-inf"))
            )
        ],
    }
