"""What re-planning between stages decided, for the plan's section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ._frame import finite, signed

__all__ = ["replans_view"]


def replans_view(records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Rows of the table and the plan as it was given; None where nothing was re-planned."""
    if not records:
        return None
    rows = []
    for record in records:
        low, high = finite(record.get("low")), finite(record.get("high"))
        kept, best = finite(record.get("kept")), finite(record.get("best"))
        changed = bool(record.get("changed"))
        compared = low is not None and high is not None and kept is not None and best is not None
        rows.append(
            {
                "stage": int(record["stage"]),
                "decision": "new plan" if changed else "kept",
                "gain": best - kept if compared and kept is not None and best is not None else None,
                "interval": f"{signed(low)} to {signed(high)}" if low is not None and high is not None else "",
                "why": str(record.get("why", "")),
                "now": _words(record["stages"]) if changed else "",
            }
        )
    return {
        "rows": rows,
        "changed": any(bool(record.get("changed")) for record in records),
        "given": _words(records[0]["before"]),
    }


def _words(stages: Sequence[Sequence[str]]) -> str:
    return " | ".join(", ".join(map(str, stage)) for stage in stages)
