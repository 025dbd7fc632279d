"""A plan at a glance: why these stages, how good, how sure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..metrics._plots import INK, MUTED, HouseFigure, blank, heatmap, plain, short, stage_colour, style

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    from .plan import Plan

__all__ = ["plot_plan"]


def plot_plan(plan: Plan, measure: str | None = None) -> HouseFigure:
    """The gains with the stages outlined, the solvers compared, the co-assignment and the phase diagram.

    Panels for what the plan does not hold (a plan written by hand has no gains, a quick one no replicates)
    are left out.

    Parameters
    ----------
    plan : Plan
    measure : {"gain", "discrepancy", "synergy", "co_assignment"}, optional
        Draw this one matrix instead.

    Returns
    -------
    Figure
        Never shown; save it with `savefig`.

    Raises
    ------
    InputError
        For an unknown matrix, or one that the plan does not hold.
    """
    names = [name for stage in plan.stages for name in stage]
    position = {name: i for i, name in enumerate(plan.domains)}
    order = [position[name] for name in names if name in position]
    sizes = [sum(name in position for name in stage) for stage in plan.stages]
    panels: list[Callable[[Axes], None]] = []
    gain = _square(plan.gain, len(plan.domains))
    together = _square((plan.confidence or {}).get("co_assignment"), len(plan.domains))
    if measure is not None:
        panels.append(_one(plan, measure, order, names, sizes))
    elif gain is not None:
        panels.append(lambda axes: _gain(axes, gain[np.ix_(order, order)], names, sizes))
    else:
        panels.append(lambda axes: _stages(axes, plan))
    if measure is None and plan.solvers:
        panels.append(lambda axes: _solvers(axes, plan))
    if measure is None and together is not None:
        panels.append(lambda axes: _together(axes, together[np.ix_(order, order)], names, sizes))
    if measure is None and plan.phase and np.size(plan.phase.get("n_stages", [])):
        panels.append(lambda axes: _phase(axes, plan.phase))
    edge = float(np.clip(2.9 + 0.1 * len(names), 3.8, 8.5))
    columns = 1 if len(panels) == 1 else 2
    rows = -(-len(panels) // columns)
    figure = HouseFigure(figsize=(columns * (edge + 1.1), rows * edge + 0.5), layout="constrained")
    for index, draw in enumerate(panels):
        draw(figure.add_subplot(rows, columns, index + 1))
    figure.suptitle(_headline(plan), x=0.01, ha="left", fontsize=11, color=INK)
    plain(figure)
    return figure


def _one(plan: Plan, measure: str, order: list[int], names: list[str], sizes: list[int]) -> Callable[[Axes], None]:
    """The panel of one matrix of the plan."""
    held = {
        "gain": plan.gain,
        "discrepancy": plan.discrepancy,
        "synergy": plan.synergy,
        "co_assignment": (plan.confidence or {}).get("co_assignment"),
    }
    if measure not in held:
        raise InputError(f"measure={measure!r}: a plan holds {', '.join(held)}; name one of them.")
    matrix = _square(held[measure], len(plan.domains))
    if matrix is None:
        raise InputError(f"measure={measure!r}: this plan does not hold it; plan again from relations.")
    matrix = matrix[np.ix_(order, order)]
    if measure == "gain":
        return lambda axes: _gain(axes, matrix, names, sizes)
    if measure == "co_assignment":
        return lambda axes: _together(axes, matrix, names, sizes)
    return lambda axes: heatmap(axes, matrix, names, title=f"{measure.capitalize()}, as planned", blocks=sizes)


def _square(value: Any, k: int) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    if value is None:
        return None
    matrix = np.asarray(value, dtype=np.float64)
    return matrix if matrix.shape == (k, k) and k else None


def _headline(plan: Plan) -> str:
    stages = len(plan.stages)
    domains = sum(len(stage) for stage in plan.stages)
    head = f"{domains} domain{'s' * (domains != 1)} in {stages} stage{'s' * (stages != 1)}"
    certificate = getattr(plan, "certificate", None)
    return f"{head}: {certificate}" if certificate else head


def _gain(axes: Axes, gain: np.ndarray[Any, Any], names: list[str], sizes: list[int]) -> None:
    shown = gain.copy()
    np.fill_diagonal(shown, np.nan)
    heatmap(axes, shown, names, title="Gain of a pair in one stage (stages outlined)", diverging=True, blocks=sizes)
    axes.set_xlabel("blue = better together, orange = better apart", fontsize=8, color=MUTED, loc="left")


def _stages(axes: Axes, plan: Plan) -> None:
    """The stages as columns of names: all a hand-written plan has to show."""
    style(axes, "Stages in training order")
    tallest = max((len(stage) for stage in plan.stages), default=1)
    for column, stage in enumerate(plan.stages):
        axes.bar(column, len(stage), color=stage_colour(column), alpha=0.25, width=0.9)
        for row, name in enumerate(stage):
            axes.text(
                column,
                row + 0.5,
                short(name, 16),
                ha="center",
                va="center",
                fontsize=min(8.0, 220 / max(tallest, 1)),
                color=INK,
            )
    axes.set_xticks(range(len(plan.stages)), [str(i + 1) for i in range(len(plan.stages))])
    axes.set_yticks([])


def _solvers(axes: Axes, plan: Plan) -> None:
    rows = [dict(row) for row in plan.solvers if row.get("objective") is not None]
    if not rows:
        blank(axes, "no solver reached a partition within the limits")
        return
    # Of equals, the plan itself goes on top.
    rows.sort(key=lambda row: (round(float(row["objective"]), 9), row["name"] == "kinfold"))
    values = [float(row["objective"]) for row in rows]
    style(axes, "Objective by solver (right is better)")
    left = min([*values, 0.0])
    axes.hlines(range(len(rows)), left, values, color="#b8c1ca", linewidth=1.4)
    colours = [
        stage_colour(0) if value >= values[-1] - 1e-9 * max(1.0, abs(values[-1])) else "#8795a1" for value in values
    ]
    axes.scatter(values, range(len(rows)), c=colours, s=34, zorder=3)
    axes.set_yticks(range(len(rows)), [short(str(row["name"]).replace("_", " "), 26) for row in rows])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    if left < 0:
        axes.axvline(0.0, color="#9aa5b1", linewidth=0.8)
    if plan.bound is not None and np.isfinite(plan.bound):
        axes.axvline(plan.bound, color=stage_colour(3), linewidth=1.2, linestyle="--")
        axes.annotate(
            "bound", (plan.bound, len(rows) - 0.5), xytext=(-4, 0), textcoords="offset points", ha="right", va="center",
            fontsize=8, color=stage_colour(3),
        )  # fmt: skip
    axes.set_ylim(-0.7, len(rows) - 0.1)


def _together(axes: Axes, together: np.ndarray[Any, Any], names: list[str], sizes: list[int]) -> None:
    heatmap(axes, together, names, title="How often a pair stays together", blocks=sizes, limits=(0.0, 1.0))
    axes.set_xlabel("share of plans made from resampled documents", fontsize=8, color=MUTED, loc="left")


def _phase(axes: Axes, phase: Any) -> None:
    counts = np.asarray(phase["n_stages"], dtype=np.float64)
    lam, budget = list(phase.get("lam", [])), list(phase.get("budget", []))
    if counts.shape != (len(budget), len(lam)):
        blank(axes, "the phase diagram does not fit its axes")
        return
    rows, columns = [_number(value) for value in budget], [_number(value) for value in lam]
    heatmap(axes, counts, rows, columns, title="Number of stages", decimals=0)
    axes.set_xlabel("λ", fontsize=9, color=MUTED)
    axes.set_ylabel(f"limit on {str(phase.get('resource') or 'budget').replace('_', ' ')}", fontsize=8, color=MUTED)


def _number(value: Any) -> str:
    if value is None:
        return "none"
    size = float(value)
    for step, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(size) >= step:
            return f"{size / step:.3g} {letter}"
    return f"{size:.3g}"
