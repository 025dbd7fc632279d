"""The outcome section: did training help, whom did it hurt, what was forgotten; every verdict rests on an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tables import ANSWERS
from ._frame import Frame, entry, finite, number, pack, places, plural

__all__ = ["LEAST_LOST", "outcome_view", "unit_of", "verdict"]


def verdict(mean: float | None, low: float | None, high: float | None, *, lower_is_better: bool = True) -> str:
    """Judge a change: "better" or "worse" when the 95 % interval leaves zero out, "unclear" when it does not.

    >>> verdict(-0.2, -0.3, -0.1), verdict(0.2, -0.1, 0.5), verdict(-0.2, None, None)
    ('better', 'unclear', 'unknown')
    """
    if mean is None or low is None or high is None:
        return "unknown"
    if low <= 0.0 <= high:
        return "unclear"
    return "better" if (high < 0.0) == lower_is_better else "worse"


def outcome_view(evaluation: Mapping[str, Any] | None, frame: Frame) -> dict[str, Any] | None:
    """Rows per domain, best first, the forgetting matrix, general text, alignment; None when not evaluated."""
    before = entry(evaluation, "before")
    if not evaluation or not isinstance(before, Mapping) or not before:
        return None
    rows = [_row(name, evaluation, frame) for name in frame.names if name in before]
    if not rows:
        return None
    rows.sort(key=lambda row: (row["change"] is None, row["change"] or 0.0, row["name"]))
    counts = {kind: sum(row["verdict"] == kind for row in rows) for kind in ("better", "worse", "unclear", "unknown")}
    return {
        "split": str(evaluation.get("split") or "test"),
        "task": str(evaluation.get("task") or "lm"),
        "rows": rows,
        "counts": counts,
        "has_snapshot": any(row["snapshot_change"] is not None for row in rows),
        "has_accuracy": any(row["accuracy_before"] is not None for row in rows),
        "has_f1": any(row["f1_before"] is not None for row in rows),
        "answers": [row for row in rows if row["answers"]],
        "has_interval": any(row["low"] is not None for row in rows),
        "forgetting": _forgetting(evaluation, frame),
        "backward": finite(entry(evaluation, "forgetting", "backward_transfer")),
        "forward": finite(entry(evaluation, "forgetting", "forward_transfer")),
        "transfers": _transfers(evaluation),
        "lost": _lost(rows),
        "general": _general(evaluation),
        "alignment": _alignment(evaluation, frame),
        "h_score": _pair(evaluation.get("h_score")),
        "serving": _serving(rows),
    }


def _serving(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Which domains scored better behind their own stage than behind the last: what `kinfold export` goes by."""
    both = [row for row in rows if row["snapshot"] is not None and row["final"] is not None]
    if not both:
        return None
    own = sorted(row["name"] for row in both if row["snapshot"] < row["final"])
    last = sorted(row["name"] for row in both if not row["snapshot"] < row["final"])
    return {"own": own, "last": last, "domains": len(both)}


def _row(name: str, evaluation: Mapping[str, Any], frame: Frame) -> dict[str, Any]:
    at = frame.position(name)
    out: dict[str, Any] = {"name": name, "at": at, "stage": frame.stage_of[at] if at is not None else None}
    for key, part in (("before", "before"), ("snapshot", "snapshot"), ("final", "final")):
        out[key] = finite(entry(evaluation, part, name, "loss"))
        out[f"perplexity_{key}"] = finite(entry(evaluation, part, name, "perplexity"))
        for score in ("accuracy", "f1", *ANSWERS):
            out[f"{score}_{key}"] = finite(entry(evaluation, part, name, score))
    out["answers"] = finite(entry(evaluation, "final", name, "answers"))
    out["documents"] = finite(entry(evaluation, "before", name, "documents"))
    which = "final" if entry(evaluation, "change", name, "final") else "snapshot"
    out["which"] = which
    for key, path in (("change", "mean"), ("low", "low"), ("high", "high")):
        out[key] = finite(entry(evaluation, "change", name, which, path))
    out["snapshot_change"] = finite(entry(evaluation, "change", name, "snapshot", "mean"))
    out["snapshot_low"] = finite(entry(evaluation, "change", name, "snapshot", "low"))
    out["snapshot_high"] = finite(entry(evaluation, "change", name, "snapshot", "high"))
    if out["change"] is None and out["before"] is not None and out["final"] is not None:
        out["change"] = out["final"] - out["before"]
    out["verdict"] = verdict(out["change"], out["low"], out["high"])
    # A small but certain change must not read as zero.
    out["decimals"] = places((out["change"], out["low"], out["high"])) if out["verdict"] in ("better", "worse") else 3
    return out


def _forgetting(evaluation: Mapping[str, Any], frame: Frame) -> dict[str, Any] | None:
    """Loss after each stage less the loss before training: rows are stages, columns all domains of the page."""
    after = evaluation.get("after_stage")
    if not isinstance(after, list) or not after:
        return None
    matrix = np.full((len(after), frame.k), np.nan)
    for row, losses in enumerate(after):
        if not isinstance(losses, Mapping):
            continue
        for column, name in enumerate(frame.names):
            value = losses.get(name)
            value = finite(value.get("loss") if isinstance(value, Mapping) else value)
            start = finite(entry(evaluation, "before", name, "loss"))
            if value is not None and start is not None:
                matrix[row, column] = value - start
    if not np.isfinite(matrix).any():
        return None
    last = matrix[-1]
    own = np.array(
        [matrix[t, i] if (t := frame.stage_of[i]) is not None and t < len(matrix) else np.nan for i in range(frame.k)]
    )
    drift = last - own
    worst = None
    if np.isfinite(drift).any() and np.nanmax(drift) > 0:
        at = int(np.nanargmax(drift))
        worst = [frame.names[at], float(drift[at])]
    return {"matrix": pack(matrix), "stages": len(after), "worst": worst, "blow": _blow(matrix, frame)}


# A smaller loss since the own stage is not worth a sentence, in nats.
LEAST_LOST = 0.02


def _transfers(evaluation: Mapping[str, Any]) -> str:
    """Backward and forward transfer in words that need no convention of signs; empty when neither is known."""
    unit = unit_of(str(evaluation.get("task") or "lm"))
    backward = finite(entry(evaluation, "forgetting", "backward_transfer"))
    forward = finite(entry(evaluation, "forgetting", "forward_transfer"))
    parts = []
    if backward is not None:
        size = f"{number(abs(backward), 2)} {unit}"
        if backward < 0:
            parts.append(f"Later stages cost earlier domains {size} on average.")
        elif backward > 0:
            parts.append(f"Later stages made earlier domains better by {size} on average.")
        else:
            parts.append("Later stages changed nothing for earlier domains on average.")
    if forward is not None:
        size = f"{number(abs(forward), 2)} {unit}"
        if forward == 0:
            parts.append("Before its own stage, a domain was on average where it started.")
        else:
            word = "better" if forward > 0 else "worse"
            parts.append(f"Before its own stage, a domain was on average {size} {word} than at the start.")
    return " ".join(parts)


def unit_of(task: str) -> str:
    """What a loss is counted in: of a language model per token, of a classifier per document."""
    return "nats a token" if task == "lm" else "nats"


def _lost(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Domains that later stages cost more than 0.02 nats, worst first.

    `beyond`: the loss has left the interval measured right after the domain's own stage; None without an interval.
    `gone`: what was certainly gained there no longer is certain.
    """
    found = [
        {
            "name": row["name"],
            "cost": row["change"] - row["snapshot_change"],
            "beyond": None if row["snapshot_high"] is None else row["change"] > row["snapshot_high"],
            "gone": row["snapshot_high"] is not None and row["snapshot_high"] < 0 and row["verdict"] != "better",
        }
        for row in rows
        if row["which"] == "final"
        and row["change"] is not None
        and row["snapshot_change"] is not None
        and row["change"] - row["snapshot_change"] > LEAST_LOST
    ]
    return sorted(found, key=lambda row: (-row["cost"], row["name"]))


def _blow(matrix: NDArray[np.float64], frame: Frame) -> dict[str, Any] | None:
    """The single later stage that cost one earlier domain most."""
    worst: dict[str, Any] | None = None
    for i, own in enumerate(frame.stage_of):
        for t in range((own if own is not None else len(matrix)) + 1, len(matrix)):
            step = finite(matrix[t, i] - matrix[t - 1, i])
            if step is not None and step > 0 and (worst is None or step > worst["step"]):
                worst = {"name": frame.names[i], "stage": t + 1, "step": step}
    return worst


def _general(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """General text before and after; one row, or one per general corpus when they are kept apart."""
    general = evaluation.get("general")
    if not isinstance(general, Mapping):
        return []
    before, after = general.get("before"), general.get("after")
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return []
    nested = {name for name in before if isinstance(before[name], Mapping)}
    groups = [(name, before[name], after.get(name)) for name in sorted(nested)] or [
        (_titled(evaluation), before, after)
    ]
    rows = []
    for name, first, second in groups:
        start, end = finite(entry(first, "loss")), finite(entry(second, "loss"))
        change = entry(general, "change", name) if nested else general.get("change")
        mean = finite(entry(change, "mean")) if isinstance(change, Mapping) else None
        rows.append(
            {
                "name": name,
                "before": start,
                "after": end,
                "change": mean
                if mean is not None
                else (end - start if start is not None and end is not None else None),
                "low": finite(entry(change, "low")) if isinstance(change, Mapping) else None,
                "high": finite(entry(change, "high")) if isinstance(change, Mapping) else None,
                "perplexity_before": finite(entry(first, "perplexity")),
                "perplexity_after": finite(entry(second, "perplexity")),
            }
        )
    for row in rows:
        row["verdict"] = verdict(row["change"], row["low"], row["high"])
        row["decimals"] = (
            places((row["change"], row["low"], row["high"])) if row["verdict"] in ("better", "worse") else 3
        )
    return [row for row in rows if row["before"] is not None]


def _titled(evaluation: Mapping[str, Any]) -> str:
    """What general text is called: with its split where that is not the one the domains were scored on."""
    split = evaluation["general"].get("split")
    if split is None or split == evaluation.get("split"):
        return "general text"
    why = ", which a KL term trains on" if split == "train" else ""
    return f"general text (its {split} split{why}: it has no {evaluation.get('split')} split)"


def _alignment(evaluation: Mapping[str, Any], frame: Frame) -> dict[str, Any] | None:
    domains = [str(name) for name in evaluation.get("domains") or ()]
    if not domains or any(name not in frame.names for name in domains):
        return None
    before = frame.expand(entry(evaluation, "alignment", "mmd2_before"), domains)
    after = frame.expand(entry(evaluation, "alignment", "mmd2_after"), domains)
    if before is None or after is None:
        return None
    return {
        "before": pack(before, symmetric=True),
        "after": pack(after, symmetric=True),
        "inside_before": _inside(before, frame, True),
        "inside_after": _inside(after, frame, True),
        "across_before": _inside(before, frame, False),
        "across_after": _inside(after, frame, False),
        "moved": _moved(before, after, frame),
    }


def _moved(before: NDArray[np.float64], after: NDArray[np.float64], frame: Frame) -> str:
    """How many pairs came closer and how many went farther, in a sentence."""
    rows, columns = np.triu_indices(frame.k, 1)
    step = (after - before)[rows, columns]
    step = step[np.isfinite(step)]
    if not step.size:
        return ""
    closer, farther = int((step < 0).sum()), int((step > 0).sum())
    if closer == step.size and closer > 1:
        return f"All {closer:,} pairs moved closer."
    if farther == step.size and farther > 1:
        return f"All {farther:,} pairs moved farther apart."
    return f"Of {plural(step.size, 'pair')}, {closer:,} moved closer and {farther:,} moved farther apart."


def _inside(matrix: NDArray[np.float64], frame: Frame, same: bool) -> float | None:
    """The mean over pairs in one stage, or over pairs in different stages."""
    stage = np.array([-1 - i if s is None else s for i, s in enumerate(frame.stage_of)])
    rows, columns = np.triu_indices(frame.k, 1)
    pick = (stage[rows] == stage[columns]) == same
    values = matrix[rows, columns][pick]
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None


def _pair(value: Any) -> dict[str, float] | None:
    if not isinstance(value, Mapping):
        return None
    before, after = value.get("before"), value.get("after")
    first = finite(entry(before, "value")) if isinstance(before, Mapping) else finite(before)
    second = finite(entry(after, "value")) if isinstance(after, Mapping) else finite(after)
    return {"before": first, "after": second} if first is not None and second is not None else None
