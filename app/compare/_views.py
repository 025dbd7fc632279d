"""A comparison as Markdown, as a table for the terminal and as a forest plot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..progress import clean
from ..tables import human_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = ["comparison_table", "degradation", "forest", "heatmap", "markdown"]


def _escaped(name: str) -> str:
    """A name as Markdown shows it unread: no table, emphasis, link, code or HTML in it."""
    text = clean(name).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|~])", r"\\\1", text)


def _number(value: float | None, digits: int = 4, *, sign: bool = False) -> str:
    return "–" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def _count(value: float | None) -> str:
    return "–" if value is None else f"{round(value):,}"


def _interval(gain: Mapping[str, Any] | None) -> str:
    if gain is None:
        return "–"
    if gain["low"] is None:
        return _number(gain["mean"], sign=True)
    return f"{_number(gain['mean'], sign=True)} [{_number(gain['low'], sign=True)}, {_number(gain['high'], sign=True)}]"


def _unit(value: Mapping[str, Any]) -> str:
    return "accuracy" if value["higher_is_better"] else "loss (nats per token)"


def markdown(value: Mapping[str, Any]) -> str:
    """The whole comparison as Markdown."""
    better = "higher" if value["higher_is_better"] else "lower"
    columns: tuple[str, ...] = ("method", "stages", "mean", "advantage of the plan", "verdict", "worst domain")
    columns += ("tokens", "seconds", "peak memory", "trained parameters", "runs")
    seeds = ", ".join(map(str, value["seeds"]))
    lines = [
        "# Comparison",
        "",
        f"Mean {_unit(value)} over {len(value['domains'])} domains on the {value['split']} split, {value['serving']} "
        f"backbone, seeds {seeds}; {better} is better. *Advantage* is the plan's, paired by seed and domain, with a "
        "95 % interval that resamples seeds, random partitions and domains; above 0 the plan is better.",
        "",
        _row(columns),
        "|" + "---|" * len(columns),
    ]
    for row in value["methods"]:
        if "mean" not in row:
            stopped = f"all {len(row['failed'])} runs stopped"
            lines.append(_row([_escaped(row["title"]), "–", "–", "–", stopped, *"–––––", "0"]))
            continue
        cost, worst, spread = row["cost"], row["worst"], row["sd_over_seeds"]
        lines.append(
            _row(
                [
                    _escaped(row["title"]),
                    ", ".join(map(str, sorted({len(stages) for stages in row["stages"]}))),
                    _number(row["mean"]) + ("" if spread is None else f" ± {spread:.4f}"),
                    _interval(row["plan_advantage"]),
                    row["verdict"],
                    f"{_escaped(worst['domain'])} {_number(worst['value'])}",
                    _count(cost["tokens"]),
                    f"{cost['seconds']:.1f}",
                    "–" if cost["peak_memory"] is None else human_bytes(cost["peak_memory"]),
                    _count(cost["parameters"]),
                    str(row["runs"]),
                ]
            )
        )
    lines += [
        "",
        f"± is the standard deviation over seeds. The worst domain is the one with the least {_worst_of(value)}.",
    ]
    rivals = [row for row in value["methods"] if row.get("plan_advantage")]
    if rivals:
        lines += ["", "## Advantage of the plan by domain", ""]
        lines.append("| domain | " + " | ".join(_escaped(row["name"]) for row in rivals) + " |")
        lines.append("|---" * (len(rivals) + 1) + "|")
        for at, name in enumerate(value["domains"]):
            cells = []
            for row in rivals:
                low, high = row["plan_advantage"]["by_domain_range"][at]
                mean = _number(row["plan_advantage"]["by_domain"][at], sign=True)
                cells.append(f"{mean} ({low:+.4f} … {high:+.4f})")
            lines.append(f"| {_escaped(name)} | " + " | ".join(cells) + " |")
        lines += ["", "In brackets the least and greatest over seeds."]
    lines += ["", "## Stages", ""]
    for row in value["methods"]:
        for stages in row.get("stages", ()):
            shown = " → ".join(", ".join(_escaped(name) for name in stage) for stage in stages)
            lines.append(f"- {_escaped(row['name'])}: {shown}")
    if value.get("grid"):
        lines += ["", *_grid_lines(value)]
    if value.get("conditions"):
        lines += ["", *_condition_lines(value)]
    if value["warnings"]:
        lines += ["", "## To keep in mind", "", *(f"- {_escaped(warning)}" for warning in value["warnings"])]
    return "\n".join(lines) + "\n"


def _grid_lines(value: Mapping[str, Any]) -> list[str]:
    """Sensitivity of the plan to the weights of the two extra losses."""
    grid = value["grid"]
    lines = [
        "## Sensitivity",
        "",
        f"Mean {_unit(value)} of the plan, ± the standard deviation over seeds, by weight of the denoising loss (rows) "
        "and of the alignment loss (columns).",
        "",
        _row(["denoising ↓ alignment →", *(f"{weight:g}" for weight in grid["align_weight"])]),
        "|---" * (len(grid["align_weight"]) + 1) + "|",
    ]
    for weight, means, spreads in zip(grid["ssl_weight"], grid["mean"], grid["sd_over_seeds"], strict=True):
        cells = [_number(m) + ("" if s is None else f" ± {s:.4f}") for m, s in zip(means, spreads, strict=True)]
        lines.append(_row([f"{weight:g}", *cells]))
    return lines


def _condition_lines(value: Mapping[str, Any]) -> list[str]:
    """What noise and imbalance in the training records do to each method; test records stay as they are."""
    lines = [
        "## Robustness",
        "",
        "Training records changed, test records as they are; the same plan. First row: unchanged.",
        "",
    ]
    names = [row["name"] for row in value["methods"]]
    lines += [_row(["condition", *(_escaped(name) for name in names)]), "|---" * (len(names) + 1) + "|"]
    for title, rows in [("none", value["methods"])] + [
        (f"{one['kind'].replace('_', ' ')} {one['level']:g}", one["methods"]) for one in value["conditions"]
    ]:
        found = {row["name"]: row for row in rows}
        cells = []
        for name in names:
            row = found[name]
            gain = row.get("plan_advantage")
            cells.append(_number(row.get("mean")) + (f" ({_interval(gain)})" if gain else ""))
        lines.append(_row([title, *cells]))
    return [*lines, "", "In brackets the plan's advantage under that condition."]


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _worst_of(value: Mapping[str, Any]) -> str:
    return "accuracy" if value["higher_is_better"] else "gain over the base model (nats per token)"


def comparison_table(comparison: Any) -> Table:
    """The main columns for a terminal of 80 columns; names are shown as text."""
    from rich.table import Table
    from rich.text import Text

    value = comparison.value
    table = Table(box=None, pad_edge=False, header_style="bold", caption_justify="left", caption_style="dim")
    for name, left in (("method", True), ("mean", False), ("plan's advantage", False), ("verdict", True)):
        table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=not left)
    for name in ("worst", "params", "sec"):
        table.add_column(name, justify="right", no_wrap=True)
    styles = {"plan better": "green", "plan worse": "red"}
    for row in value["methods"]:
        if "mean" not in row:
            table.add_row(Text(row["name"]), "–", "–", "stopped", "–", "–", "–")
            continue
        gain = row["plan_advantage"]
        shown = "–" if gain is None else f"{gain['mean']:+.3f}"
        if gain is not None and gain["low"] is not None:
            shown += f" [{gain['low']:+.3f},{gain['high']:+.3f}]"
        table.add_row(
            Text(row["name"]),
            _number(row["mean"], 3),
            shown,
            Text(row["verdict"], style=styles.get(row["verdict"], "")),
            _number(row["worst"]["value"], 3),
            _short(row["cost"]["parameters"]),
            f"{row['cost']['seconds']:.0f}",
        )
    table.caption = f"{_unit(value)}, {value['split']} split; advantage above 0: the plan is better (95 % interval)."
    return table


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"


def forest(value: Mapping[str, Any]) -> Figure:
    """Each rival's mean paired difference with its interval, on one axis, and every domain as a light mark."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in value["methods"] if row.get("plan_advantage")]
    figure = Figure(figsize=(7.6, 1.5 + 0.52 * max(1, len(rows))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.axvline(0, color="0.45", linewidth=1, zorder=1)
    for at, row in enumerate(reversed(rows)):
        gain = row["plan_advantage"]
        colour = {"plan better": "#1b7837", "plan worse": "#b2182b"}.get(row["verdict"], "#4d4d4d")
        axes.scatter(gain["by_domain"], [at - 0.2] * len(gain["by_domain"]), s=20, color="0.78", linewidths=0, zorder=2)
        if gain["low"] is not None:
            axes.plot(
                [gain["low"], gain["high"]], [at, at], color=colour, linewidth=2.2, solid_capstyle="butt", zorder=3
            )
        axes.scatter([gain["mean"]], [at], s=52, marker="D", color=colour, zorder=4)
        axes.annotate(
            _interval(gain), (1.01, at), xycoords=("axes fraction", "data"), va="center", fontsize=8, color="0.2"
        )
    # Names of methods are ours, but a dollar sign would still start mathematics.
    axes.set_yticks(range(len(rows)), [row["name"].replace("$", r"\$") for row in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(f"Advantage of the plan, {_unit(value)}: to the right the plan is better")
    axes.set_title(
        f"{len(value['domains'])} domains (grey), {len(value['seeds'])} seeds, 95 % intervals", fontsize=9, loc="left"
    )
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def heatmap(value: Mapping[str, Any]) -> Figure:
    """The plan's mean by the weights of the denoising and alignment losses, the numbers in the squares."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grid = value["grid"]
    means = np.array([[np.nan if cell is None else cell for cell in row] for row in grid["mean"]])
    rows, columns = means.shape
    figure = Figure(figsize=(2.6 + 0.95 * columns, 1.8 + 0.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    # Dark is better, whichever way the metric points.
    image = axes.imshow(means, cmap="viridis_r" if value["higher_is_better"] else "viridis", aspect="auto")
    low, high = np.nanmin(means), np.nanmax(means)
    for i in range(rows):
        for j in range(columns):
            if np.isfinite(means[i, j]):
                share = (means[i, j] - low) / (high - low) if high > low else 0.0
                dark = share > 0.6 if value["higher_is_better"] else share < 0.4
                axes.text(
                    j, i, f"{means[i, j]:.4f}", ha="center", va="center", fontsize=8, color="white" if dark else "black"
                )
    axes.set_xticks(range(columns), [f"{weight:g}" for weight in grid["align_weight"]])
    axes.set_yticks(range(rows), [f"{weight:g}" for weight in grid["ssl_weight"]])
    axes.set_xlabel("weight of the alignment loss (λ₂)")
    axes.set_ylabel("weight of the denoising loss (λ₁)")
    figure.colorbar(image, ax=axes, label=f"mean {_unit(value)}")
    return figure


def degradation(value: Mapping[str, Any]) -> Figure:
    """Each method's mean against the level of each kind of noise or imbalance, from the unchanged corpora on."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(one["kind"] for one in value["conditions"]))
    figure = Figure(figsize=(1.2 + 3.6 * len(kinds), 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    clean = {row["name"]: row.get("mean") for row in value["methods"]}
    panels = figure.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        some = sorted((one for one in value["conditions"] if one["kind"] == kind), key=lambda one: one["level"])
        levels = [1.0 if kind == "imbalance" else 0.0, *(one["level"] for one in some)]
        for name in clean:
            found = [{row["name"]: row.get("mean") for row in one["methods"]}[name] for one in some]
            means = [float("nan") if mean is None else mean for mean in (clean[name], *found)]
            axes.plot(levels, means, marker="o", markersize=4, linewidth=2.4 if name == "plan" else 1.2, label=name)
        if kind == "imbalance":
            axes.set_xscale("log")
        axes.set_xlabel({"imbalance": "largest to smallest domain"}.get(kind, f"{kind.replace('_', ' ')}, share"))
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    panels[0].set_ylabel(f"mean {_unit(value)}")
    panels[-1].legend(fontsize=7, frameon=False)
    return figure
