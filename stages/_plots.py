"""What training did, in four panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..metrics._plots import INK, MUTED, HouseFigure, blank, heatmap, plain, short, stage_colour, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .run import Run

__all__ = ["plot_run"]


def plot_run(run: Run) -> HouseFigure:
    """Loss and its parts over tokens, the curve of each domain, the change of each domain, the forgetting matrix.

    Returns
    -------
    Figure
        Never shown; save it with `savefig`. Panels without data say so.
    """
    # A run that is still training has no evaluation; one that is there but damaged is an error.
    evaluation: Mapping[str, Any] = run.evaluation if (run.path / "evaluation.json").exists() else {}
    metrics = list(run.metrics)
    stages = [list(stage) for stage in (evaluation.get("stages") or run.plan.stages)]
    k = max(1, sum(len(stage) for stage in stages))
    height = float(np.clip(2.0 + 0.16 * k, 3.2, 12.0))
    figure = HouseFigure(figsize=(12.5, 3.2 + height), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=[3.2, height])
    _losses(figure.add_subplot(grid[0, 0]), metrics)
    _domains(figure.add_subplot(grid[0, 1]), metrics, stages)
    _changes(figure.add_subplot(grid[1, 0]), evaluation, stages)
    _forgetting(figure.add_subplot(grid[1, 1]), evaluation, stages)
    plain(figure)
    return figure


def _tokens(metrics: Sequence[Mapping[str, Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The running count of tokens: metrics lines carry tokens per step, or a running total; both are met."""
    tokens = np.array([float(row.get("tokens") or 0) for row in metrics])
    running = tokens.size > 1 and bool((np.diff(tokens) > 0).all())
    return tokens if running else np.cumsum(tokens)


def _smooth(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A centred mean over about a twentieth of the curve, shorter at its ends."""
    width = max(1, len(values) // 20)
    if width == 1:
        return values
    kernel = np.ones(width)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _by_stage(
    metrics: Sequence[Mapping[str, Any]], x: np.ndarray[Any, Any], values: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """A smoothed curve that neither averages nor draws across the boundary of two stages."""
    label = np.array([int(row.get("stage") or 0) for row in metrics])
    keep = np.isfinite(values)
    xs: list[np.ndarray[Any, Any]] = []
    ys: list[np.ndarray[Any, Any]] = []
    for stage in dict.fromkeys(label[keep].tolist()):
        part = keep & (label == stage)
        xs += [x[part], np.array([np.nan])]
        ys += [_smooth(values[part]), np.array([np.nan])]
    return np.concatenate(xs), np.concatenate(ys)


def _boundaries(axes: Axes, metrics: Sequence[Mapping[str, Any]], x: np.ndarray[Any, Any]) -> None:
    labels = [row.get("stage") for row in metrics]
    starts = [i for i in range(len(labels)) if i == 0 or labels[i] != labels[i - 1]]
    for number, i in enumerate(starts):
        if i:
            axes.axvline(x[i], color="#9aa5b1", linewidth=0.8, linestyle=":")
        axes.annotate(
            f"stage {number + 1}", (x[i], 1.0), xycoords=("data", "axes fraction"), xytext=(3, -2),
            textcoords="offset points", fontsize=7, color=MUTED, va="top",
        )  # fmt: skip


def _losses(axes: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    style(axes, "Loss and its parts", grid=True)
    if not metrics:
        blank(axes, "no training steps recorded")
        return
    x = _tokens(metrics)
    names = list(dict.fromkeys(name for row in metrics for name in (row.get("parts") or {})))
    series = {"total": [row.get("loss") for row in metrics]}
    series |= {name: [(row.get("parts") or {}).get(name) for row in metrics] for name in names}
    for index, (name, raw) in enumerate(series.items()):
        values = np.array([np.nan if value is None else float(value) for value in raw])
        keep = np.isfinite(values)
        if keep.any():
            colour = INK if name == "total" else stage_colour(index - 1)
            width = 1.8 if name == "total" else 1.2
            axes.plot(*_by_stage(metrics, x, values), color=colour, linewidth=width, label=name)
    _boundaries(axes, metrics, x)
    axes.set_xlabel("tokens", fontsize=8, color=MUTED)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(fontsize=7, frameon=False, ncols=3)


def _domains(axes: Axes, metrics: Sequence[Mapping[str, Any]], stages: Sequence[Sequence[str]]) -> None:
    style(axes, "Training loss by domain", grid=True)
    x = _tokens(metrics) if metrics else np.zeros(0)
    drawn = 0
    total = sum(len(stage) for stage in stages)
    for number, stage in enumerate(stages):
        for index, name in enumerate(stage):
            values = np.array(
                [np.nan if (v := (row.get("per_domain") or {}).get(name)) is None else float(v) for row in metrics]
            )
            keep = np.isfinite(values)
            if not keep.any():
                continue
            label = f"{number + 1}  {short(name, 16)}" if total <= 12 else f"stage {number + 1}" if index == 0 else None
            axes.plot(
                *_by_stage(metrics, x, values), color=stage_colour(number), linewidth=1.2 if total <= 12 else 0.8,
                alpha=1.0 - 0.6 * index / max(len(stage), 1), label=label,
            )  # fmt: skip
            drawn += 1
    if not drawn:
        blank(axes, "no curve per domain recorded")
        return
    axes.set_xlabel("tokens", fontsize=8, color=MUTED)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(fontsize=6.5, frameon=False, ncols=2)


def _changes(axes: Axes, evaluation: Mapping[str, Any], stages: Sequence[Sequence[str]]) -> None:
    """A forest plot: change of the test loss and its 95 % interval, best at the top."""
    style(axes, "Change of the test loss (left of zero is better)")
    change = {
        name: entry.get("final") or entry.get("snapshot")
        for name, entry in (evaluation.get("change") or {}).items()
        if (entry.get("final") or entry.get("snapshot") or {}).get("mean") is not None
    }
    if not change:
        blank(axes, "not evaluated yet")
        return
    stage_of = {name: number for number, stage in enumerate(stages) for name in stage}
    names = sorted(change, key=lambda name: -float(change[name]["mean"]))
    size = float(np.clip(250 / len(names), 4.0, 8.0))
    for row, name in enumerate(names):
        cell, colour = change[name], stage_colour(stage_of.get(name, 6))
        if cell.get("low") is not None and cell.get("high") is not None:
            axes.hlines(row, cell["low"], cell["high"], color=colour, linewidth=1.6)
        axes.plot(cell["mean"], row, "o", color=colour, markersize=size * 0.6)
    axes.axvline(0.0, color=INK, linewidth=0.8)
    axes.set_yticks(
        range(len(names)),
        [f"{short(name, 20)}  {stage_of[name] + 1}" if name in stage_of else short(name, 20) for name in names],
    )
    axes.tick_params(axis="y", labelsize=size, length=0, labelcolor=INK)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.set_xlabel("after − before, with 95 % interval; the number after a name is its stage", fontsize=8, color=MUTED)


def _forgetting(axes: Axes, evaluation: Mapping[str, Any], stages: Sequence[Sequence[str]]) -> None:
    """Test loss of every domain after every stage, less the loss before training."""
    after = list(evaluation.get("after_stage") or [])
    before = {name: cell.get("loss") for name, cell in (evaluation.get("before") or {}).items()}
    names = [name for stage in stages for name in stage if before.get(name) is not None]
    if not after or not names:
        style(axes)
        blank(axes, "no evaluation after each stage")
        return
    matrix = np.array(
        [
            [np.nan if row.get(name) is None else float(row[name]) - float(before[name]) for row in after]
            for name in names
        ]
    )
    heatmap(
        axes,
        matrix,
        names,
        [f"after {i + 1}" for i in range(len(after))],
        title="Loss after each stage − loss before",
        diverging=True,
        low_is_good=True,
    )
    for column, stage in enumerate(stages[: len(after)]):
        rows = [row for row, name in enumerate(names) if name in set(stage)]
        if rows:
            axes.plot(
                [column - 0.5, column + 0.5, column + 0.5, column - 0.5, column - 0.5],
                [rows[0] - 0.5, rows[0] - 0.5, rows[-1] + 0.5, rows[-1] + 0.5, rows[0] - 0.5],
                color="#111111", linewidth=1.2, clip_on=False,
            )  # fmt: skip
    axes.set_xlabel(
        "blue = better than before, orange = worse; outlined: trained in that stage",
        fontsize=8,
        color=MUTED,
        loc="left",
    )
