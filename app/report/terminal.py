"""A quick look in the terminal: a heatmap in characters and tables that fit 80 columns.

Names are shown as text: no markup is read from them, and control characters are replaced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ._frame import finite, fixed, number, places

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.table import Table
    from rich.text import Text

    from ...metrics.relations import Relations
    from ...partition.plan import Plan

__all__ = ["heatmap", "outcome_table", "plan_table", "relations_table"]

_SHADES = " ░▒▓█"
_MOST = 60
_LABEL = 16


def _text(name: Any, limit: int = 24) -> Text:
    from rich.text import Text

    from ...metrics._plots import short
    from ..progress import clean

    return Text(short(clean(str(name)), limit))


def _table(*columns: tuple[str, str]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, side in columns:
        left = side == "left"
        table.add_column(
            title, justify="left" if left else "right", no_wrap=not left, overflow="fold" if left else "ellipsis"
        )
    return table


class _Heatmap:
    """Cells in cividis where there is colour, in shades where there is none."""

    def __init__(self, relations: Relations, measure: str, order: list[int]) -> None:
        self.relations, self.measure, self.order = relations, measure, order

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType | Segment]:
        import numpy as np
        from rich.cells import cell_len, set_cell_size
        from rich.segment import Segment
        from rich.style import Style
        from rich.text import Text

        from ...metrics._plots import short, under_floor
        from ..progress import clean

        relations, order = self.relations, self.order
        info = relations.info(self.measure)
        hidden = len(order) - _MOST
        order = order[:_MOST]
        at = np.ix_(order, order)
        values = np.asarray(relations.matrix(self.measure))[at]
        noise = under_floor(relations, self.measure)
        noise = noise[at] if noise is not None else np.zeros_like(values, dtype=bool)
        off = values[~np.eye(len(order), dtype=bool)]
        low, high = (float(off.min()), float(off.max())) if off.size else (0.0, 1.0)
        span = (high - low) or 1.0
        wide = 2 if _LABEL + 2 * len(order) <= min(options.max_width, 80) else 1
        colours = _cividis() if console.color_system is not None and not options.ascii_only else None
        different, alike = ("bright", "dark") if info.kind == "discrepancy" else ("dark", "bright")
        if colours is None:
            different, alike = (
                word.replace("bright", "dense").replace("dark", "sparse") for word in (different, alike)
            )
        unit = f", {info.unit}" if info.unit else ""
        yield Text(f"{info.title}{unit}: {alike} = alike, {different} = different", style="bold")
        for row, i in enumerate(order):
            # Cells, not characters: an ideograph is two wide.
            label = set_cell_size(short(clean(relations.domains[i]), _LABEL - 1), _LABEL - 1)
            yield Segment(" " * (_LABEL - 1 - cell_len(label.rstrip())) + label.rstrip() + " ")
            for column in range(len(order)):
                if row == column:
                    yield Segment("·" + " " * (wide - 1))
                    continue
                share = (float(values[row, column]) - low) / span
                if colours is not None:
                    red, green, blue = colours[round(share * 255)]
                    ink = "#000000" if green > 110 else "#ffffff"
                    mark = "╱" * wide if noise[row, column] else " " * wide
                    yield Segment(mark, Style(color=ink, bgcolor=f"#{red:02x}{green:02x}{blue:02x}"))
                else:
                    glyph = "╱" if noise[row, column] else _SHADES[min(4, int(share * 5))]
                    yield Segment(glyph * wide)
            yield Segment.line()
        foot = f"{number(low)} to {number(high)}"
        if noise.any():
            foot += "; ╱ = not told from two halves of one domain"
        if hidden > 0:
            foot += f"; {hidden} more domains in the report"
        yield Text(foot, style="dim")


def _cividis() -> list[tuple[int, int, int]]:
    from matplotlib import colormaps

    return [(int(r * 255), int(g * 255), int(b * 255)) for r, g, b, _ in colormaps["cividis"](range(256))]


def heatmap(relations: Relations, measure: str | None = None) -> RenderableType:
    """A measure as a heatmap of characters in dendrogram order; the first 60 domains where there are more.

    Raises
    ------
    RelationsError
        When the measure is not there.
    """
    from ...metrics._plots import resolve_order

    chosen = measure if measure is not None else relations.names[0]
    relations.matrix(chosen)
    return _Heatmap(relations, chosen, resolve_order(relations, "dendrogram", chosen))


def relations_table(relations: Relations, pairs: int = 5) -> RenderableType:
    """The closest and the farthest pairs of the leading discrepancy, with interval, floor and synergy."""
    import numpy as np

    from ...metrics._plots import under_floor
    from ._relations import leading

    measure = leading(relations, "discrepancy") or relations.names[0]
    partner = leading(relations, "similarity")
    value = np.asarray(relations.matrix(measure), dtype=float)
    known = measure in relations.low
    low, high = relations.interval(measure)
    noise = under_floor(relations, measure)
    rows, columns = np.triu_indices(len(value), 1)
    ranked = np.argsort(value[rows, columns], kind="stable")
    if len(ranked) > 2 * pairs:
        chosen: list[int | None] = [*map(int, ranked[:pairs]), None, *map(int, ranked[-pairs:])]
    else:
        chosen = list(map(int, ranked))
    table = _table(
        ("pair", "left"), (measure, "right"), ("95 % interval", "right"), (partner or "", "right"), ("", "left")
    )
    for place in chosen:
        if place is None:
            table.add_row("…", "", "", "", "")
            continue
        i, j = int(rows[place]), int(columns[place])
        pair = _text(relations.domains[i], 16)
        pair.append(" × ", style="dim")
        pair.append_text(_text(relations.domains[j], 16))
        table.add_row(
            pair,
            fixed(value[i, j]),
            f"{fixed(low[i, j])} to {fixed(high[i, j])}" if known else "–",
            fixed(relations.matrix(partner)[i, j], 2) if partner else "",
            "noise" if noise is not None and noise[i, j] else "",
        )
    return table


def plan_table(plan: Plan) -> RenderableType:
    """The stages in order with the share of each budget used, and what is proved."""
    from rich.console import Group
    from rich.text import Text

    from ..tables import human_bytes

    limits = [key for key in sorted(plan.budget or {}) if key in (plan.sizes or {}) or key == "domains"]
    table = _table(("stage", "right"), ("domains", "left"), *((key.replace("_", " "), "right") for key in limits))
    for index, stage in enumerate(plan.stages):
        names = Text()
        for place, name in enumerate(stage):
            names.append(", " if place else "")
            names.append_text(_text(name, 30))
        shares = []
        for key in limits:
            used = float(((plan.settings or {}).get("overhead") or {}).get(key, 0.0))
            used += (
                float(len(stage)) if key == "domains" else sum(float(plan.sizes[key].get(name, 0.0)) for name in stage)
            )
            shown = human_bytes(used) if key == "gpu_memory" else number(used)
            shares.append(f"{shown} ({used / float(plan.budget[key]):.0%})")
        table.add_row(str(index + 1), names, *shares)
    facts = [plan.certificate]
    if plan.objective is not None:
        facts.append(f"objective {number(plan.objective, 4)}")
    if plan.bound is not None and plan.gap:
        facts.append(f"bound {number(plan.bound, 4)}, gap {100 * plan.gap:.2g} %")
    fragile = (plan.confidence or {}).get("fragile") or ()
    out: list[RenderableType] = [table, Text("; ".join(facts))]
    if fragile:
        line = Text("fragile (often moved on resampled documents): ")
        for place, name in enumerate(list(fragile)[:6]):
            line.append(", " if place else "")
            line.append_text(_text(name))
        if len(fragile) > 6:
            line.append(f" and {len(fragile) - 6} more")
        out.append(line)
    return Group(*out)


def outcome_table(evaluation: Mapping[str, Any]) -> RenderableType:
    """Loss before and after for each domain, best change first, with its interval and a verdict."""
    from rich.console import Group
    from rich.text import Text

    from ._outcome import _general, verdict

    where = {name: t for t, stage in enumerate(evaluation.get("stages") or ()) for name in stage}
    rows = []
    for name, before in (evaluation.get("before") or {}).items():
        final = (evaluation.get("final") or {}).get(name) or (evaluation.get("snapshot") or {}).get(name) or {}
        change = (evaluation.get("change") or {}).get(name) or {}
        cell = change.get("final") or change.get("snapshot") or {}
        first, last = finite(before.get("loss")), finite(final.get("loss"))
        mean = finite(cell.get("mean"))
        if mean is None and first is not None and last is not None:
            mean = last - first
        rows.append((name, first, last, mean, finite(cell.get("low")), finite(cell.get("high"))))
    rows.sort(key=lambda row: (row[3] is None, row[3] or 0.0, row[0]))
    words = {
        "better": Text("better", style="green"),
        "worse": Text("worse", style="red"),
        "unclear": Text("within interval", style="dim"),
        "unknown": Text("no interval", style="dim"),
    }
    table = _table(
        ("domain", "left"),
        ("stage", "right"),
        ("before", "right"),
        ("after", "right"),
        ("change", "right"),
        ("95 % interval", "right"),
        ("", "left"),
    )
    # A small but certain change must not read as zero, nor an interval as a point.
    sure = [row for row in rows if verdict(*row[3:]) in ("better", "worse")]
    digits = max(places((row[4], row[5]), 2, 5) for row in sure) if sure else 2
    widths = [high - low for *_, low, high in rows if low is not None and high is not None]
    digits = max([digits, *(places((width,), 2, 4) for width in widths)])
    for name, first, last, mean, low, high in rows:
        table.add_row(
            _text(name, 16),
            str(where[name] + 1) if name in where else "–",
            fixed(first),
            fixed(last),
            fixed(mean, max(3, digits), sign=True),
            f"{fixed(low, digits, sign=True)} to {fixed(high, digits, sign=True)}" if low is not None else "–",
            words[verdict(mean, low, high)],
        )
    out: list[RenderableType] = [table]
    for row in _general(evaluation):
        line = _text(row["name"])
        line.append(f": {fixed(row['before'])} before, {fixed(row['after'])} after ({fixed(row['change'], sign=True)})")
        out.append(line)
    return Group(*out)
