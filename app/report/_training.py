"""The training section: curves thinned to what a screen can show, never across a stage's boundary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._frame import Frame, finite, join

__all__ = ["training_view"]

_POINTS = 360
Rows = Sequence[Mapping[str, Any]]


def training_view(metrics: Rows, frame: Frame) -> dict[str, Any] | None:
    """Charts of the loss, its parts, every domain, the speed and more over tokens; None without steps."""
    rows = [row for row in metrics if isinstance(row, Mapping)]
    if not rows:
        return None
    tokens = _column(rows, "tokens")
    running = len(rows) > 1 and bool((np.diff(np.nan_to_num(tokens)) > 0).all()) and tokens[0] < tokens[-1] / 2
    steps = np.diff(tokens, prepend=0.0) if running else tokens
    position = np.cumsum(np.nan_to_num(steps))
    axis = "tokens"
    if position[-1] <= 0:
        position, axis = np.arange(1, len(rows) + 1, dtype=np.float64), "steps"
    stage = [int(row.get("stage") or 0) for row in rows]
    edges = _buckets(stage)
    x = [float(position[end - 1]) for _, end in edges]
    # The first drawn point of every stage: lines do not run across a boundary.
    breaks = [k for k in range(1, len(edges)) if stage[edges[k][0]] != stage[edges[k - 1][0]]]
    starts = [i for i in range(len(stage)) if i == 0 or stage[i] != stage[i - 1]]
    marks = [
        {"x": float(position[i - 1]) if i else 0.0, "label": f"stage {stage[i] + 1}", "stage": stage[i]} for i in starts
    ]

    def thin(values: NDArray[np.float64]) -> list[float | None]:
        out: list[float | None] = []
        for begin, end in edges:
            part = values[begin:end]
            part = part[np.isfinite(part)]
            out.append(float(f"{part.mean():.5g}") if part.size else None)
        return out

    charts: list[dict[str, Any]] = []

    def chart(
        identity: str, title: str, caption: str, series: list[tuple[str, int | None, NDArray[np.float64]]], **extra: Any
    ) -> None:
        drawn = [
            {"name": name, "stage": number, "y": thin(values)}
            for name, number, values in series
            if np.isfinite(values).any()
        ]
        if drawn:
            charts.append({"id": identity, "title": title, "caption": caption, "series": drawn, **extra})

    parts = _nested(rows, "parts")
    chart(
        "loss",
        "Loss and its parts",
        "The total that is minimised, in ink, and the terms it is made of before weighting. Falling is learning; a "
        "jump at a dotted line is a new stage with new domains.",
        [("total", None, _column(rows, "loss")), *((name, None, values) for name, values in parts.items())],
    )
    per_domain = _nested(rows, "per_domain")
    where = dict(zip(frame.names, frame.stage_of, strict=True))
    chart(
        "domains",
        "Training loss of each domain",
        "One line a domain, coloured by its stage; a line lives only while its stage trains. Point at a line, or "
        "choose a name, to single it out.",
        sorted(
            ((name, where.get(name), values) for name, values in per_domain.items()),
            key=lambda s: (s[1] is None, s[1] or 0, s[0]),
        ),
        pick=True,
    )
    weights = _nested(rows, "weights")
    if (
        any(np.nanmax(values) > np.nanmin(values) for values in weights.values() if np.isfinite(values).any())
        or len(weights) > 1
    ):
        chart(
            "weights",
            "Weights of the parts",
            "What each part counts in the total. Flat lines are weights set by hand; moving ones were adapted "
            "during training.",
            [(name, None, values) for name, values in weights.items()],
            zero=True,
        )
    seconds = _column(rows, "seconds")
    if np.isfinite(seconds).any():
        cumulative = (
            len(rows) > 2 and bool((np.diff(seconds[np.isfinite(seconds)]) > 0).all()) and seconds[0] < seconds[-1] / 2
        )
        took = np.diff(seconds, prepend=0.0) if cumulative else seconds
        with np.errstate(divide="ignore", invalid="ignore"):
            speed = np.where(took > 0, steps / took, np.nan)
        chart(
            "speed",
            "Throughput",
            "Tokens of documents trained per second; dips are evaluations, checkpoints or a busy machine.",
            [("tokens per second", None, speed)],
            zero=True,
        )
    chart(
        "memory",
        "Peak memory, GiB",
        "The most memory in use so far: of the GPU’s allocator, or of the whole process on a CPU. A step up is a stage "
        "that needs more than those before.",
        [("GiB", None, _column(rows, "memory") / 2**30)],
        zero=True,
    )
    chart(
        "gradient",
        "Gradient norm",
        "Length of the gradient before clipping. Spikes are hard batches; steady growth is a warning.",
        [("gradient norm", None, _column(rows, "grad_norm"))],
        zero=True,
    )
    norms = _nested(rows, "norms")
    if norms:
        # Long stages measure norms every few steps; unjoined, single points would draw no line at all.
        sparse = any(
            np.isnan(values).any() and np.isfinite(_joined(values, position, stage))[np.isnan(values)].any()
            for values in norms.values()
        )
        chart(
            "norms",
            "Size of the adapters",
            "Frobenius norms of the low-rank updates, which the bounds ρ limit."
            + (" Measured every few steps in long stages; straight lines join the measurements." if sparse else ""),
            [
                (
                    name.removeprefix("domain/"),
                    where.get(name.removeprefix("domain/")),
                    _joined(values, position, stage),
                )
                for name, values in norms.items()
            ],
            zero=True,
            pick=len(norms) > 8,
        )
    chart(
        "rate",
        "Learning rate",
        _schedule(_column(rows, "lr"), stage),
        [("learning rate", None, _column(rows, "lr"))],
        zero=True,
    )
    total_seconds = float(
        np.nansum(
            seconds if not np.isfinite(seconds).any() or not _is_running(seconds) else np.diff(seconds, prepend=0.0)
        )
    )
    return {
        "axis": axis,
        "x": x,
        "marks": marks,
        "breaks": breaks,
        "charts": charts,
        "steps": len(rows),
        "tokens": float(np.nansum(steps)),
        "seconds": total_seconds if total_seconds > 0 else None,
        "thinned": len(rows) > len(edges),
    }


def _joined(values: NDArray[np.float64], position: NDArray[np.float64], stage: Sequence[int]) -> NDArray[np.float64]:
    """`values` with straight lines over the gaps between two measurements of one stage."""
    out, stages = values.copy(), np.asarray(stage)
    good = np.isfinite(values)
    for t in np.unique(stages[good]):
        known = np.flatnonzero(good & (stages == t))
        inside = np.flatnonzero(stages == t)
        inside = inside[(inside > known[0]) & (inside < known[-1])]
        out[inside] = np.interp(position[inside], position[known], values[known])
    return out


def _schedule(rate: NDArray[np.float64], stage: Sequence[int]) -> str:
    """The caption of the learning rate: where the warm-up can be seen and where it is too short for it."""
    stages, base = np.asarray(stage), "The schedule; it starts again with every stage"
    order = list(dict.fromkeys(stage))
    climbs = {}
    for t in order:
        part = rate[stages == t]
        part = part[np.isfinite(part)]
        climbs[t] = int(part.argmax()) if part.size else 0
    slow = [t for t in order if climbs[t] > 0]
    if len(order) < 2:
        return "The schedule."
    if not slow:
        return f"{base}, each time at its highest rate."
    if len(slow) == len(order):
        return f"{base} and climbs over its first steps."
    named = join([str(t + 1) for t in slow])
    return (
        f"{base}. Only in {'stages' if len(slow) > 1 else 'stage'} {named} can the climb be seen: warming up is a "
        "share of a stage’s steps, and in the others it is over with the first step."
    )


def _is_running(values: NDArray[np.float64]) -> bool:
    good = values[np.isfinite(values)]
    return good.size > 2 and bool((np.diff(good) > 0).all()) and good[0] < good[-1] / 2


def _column(rows: Rows, key: str) -> NDArray[np.float64]:
    return np.array([np.nan if (value := finite(row.get(key))) is None else value for row in rows], dtype=np.float64)


def _nested(rows: Rows, key: str) -> dict[str, NDArray[np.float64]]:
    """A mapping per row as one column per name, names in the order they first appear."""
    names: dict[str, None] = {}
    for row in rows:
        inner = row.get(key)
        if isinstance(inner, Mapping):
            names.update(dict.fromkeys(str(name) for name in inner))
    out = {}
    for name in names:
        out[name] = np.array(
            [
                np.nan
                if not isinstance(row.get(key), Mapping) or (value := finite(row[key].get(name))) is None
                else value
                for row in rows
            ],
            dtype=np.float64,
        )
    return out


def _buckets(stage: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of steps to average, each inside one stage."""
    width = max(1, -(-len(stage) // _POINTS))
    edges, begin = [], 0
    for i in range(1, len(stage) + 1):
        if i == len(stage) or stage[i] != stage[begin] or i - begin == width:
            edges.append((begin, i))
            begin = i
    return edges
