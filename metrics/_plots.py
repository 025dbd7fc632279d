"""Heatmaps of how domains relate, and the house style that the other rooms' plots share.

Figures are built without pyplot: nothing is registered globally, nothing is ever shown, and a caller's own
matplotlib settings stay as they are. Domain names are hostile input, so no text is parsed as mathematics.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..errors import InputError, RelationsError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .relations import Relations

__all__ = [
    "OKABE_ITO",
    "HouseFigure",
    "blank",
    "dendrogram_order",
    "heatmap",
    "plain",
    "plot_relations",
    "resolve_order",
    "short",
    "stage_colour",
    "style",
    "under_floor",
]

# Okabe and Ito's eight colours, told apart by people with any common colour blindness; the dark and strong ones first.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#7F7F7F", "#F0E442")
INK, MUTED, RULE = "#1f2933", "#5f6c78", "#d5dae0"
# Blue for the better side and orange for the worse one, as in the report.
_BLUE_IS_HIGH = LinearSegmentedColormap.from_list("kinfold_gain", ["#cd5400", "#f3f3f0", "#0063ac"])
_BLUE_IS_LOW = _BLUE_IS_HIGH.reversed("kinfold_loss")

# What a figure shows when the caller names no measure: the paper's three axes first, then what plans are made of.
_HEADLINE = ("js", "jaccard", "cosine_centred", "cosine", "mmd2", "ruzicka", "synergy", "discrepancy")


class HouseFigure(Figure):
    """A matplotlib figure that a notebook shows as it is, without pyplot and without a backend."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def stage_colour(index: int) -> str:
    """The colour of stage `index`; beyond eight they repeat, so figures also print the stage's number."""
    return OKABE_ITO[index % len(OKABE_ITO)]


def short(name: str, limit: int = 22) -> str:
    """`name` cut in the middle to `limit` characters, since ends of names tell more than middles."""
    if len(name) <= limit:
        return name
    head = (limit - 1) // 2
    return f"{name[:head]}…{name[-(limit - 1 - head) :]}"


def plain(figure: Figure) -> None:
    """Show every text of `figure` as it is: a `$` in a domain name must not start a formula."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if isinstance(text, Text):
            text.set_parse_math(False)


def style(axes: Axes, title: str = "", *, grid: bool = False) -> None:
    """Quiet axes: no box, thin rules, the title at the left."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(RULE)
    axes.tick_params(colors=MUTED, labelsize=8, length=2.5)
    if grid:
        axes.grid(True, axis="y", color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
    if title:
        axes.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold")


def blank(axes: Axes, message: str) -> None:
    """Say in an empty panel why it is empty."""
    axes.axis("off")
    axes.text(0.5, 0.5, message, ha="center", va="center", color=MUTED, fontsize=9, transform=axes.transAxes)


def dendrogram_order(distances: NDArray[np.float64]) -> list[int]:
    """The order in which average linkage draws its leaves, neighbours as close as the tree allows.

    Parameters
    ----------
    distances : ndarray of shape (k, k)
        Symmetric dissimilarities; negative entries (unbiased estimates of zero) count as zero, missing ones
        as the largest present.

    Returns
    -------
    list of int, length k
        Positions of the domains; the same for the same input. Bar-Joseph et al. 2001, optimal leaf ordering.
    """
    k = distances.shape[0]
    if k < 3:
        return list(range(k))
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    sane = np.array(distances, dtype=np.float64)
    sane = (sane + sane.T) / 2
    finite = sane[np.isfinite(sane)]
    sane[~np.isfinite(sane)] = finite.max() if finite.size else 1.0
    np.clip(sane, 0.0, None, out=sane)
    np.fill_diagonal(sane, 0.0)
    tree = linkage(squareform(sane, checks=False), "average", optimal_ordering=k <= 150)
    return [int(i) for i in leaves_list(tree)]


def as_distances(relations: Relations, measure: str) -> NDArray[np.float64]:
    """The measure as dissimilarities: similarities are subtracted from their largest value."""
    matrix = np.asarray(relations.matrix(measure), dtype=np.float64)
    if relations.info(measure).kind != "discrepancy":  # a large p-value, too, says alike
        off = matrix[~np.eye(len(matrix), dtype=bool)]
        top = np.nanmax(off) if off.size and np.isfinite(off).any() else 1.0
        return np.asarray(top - matrix, dtype=np.float64)
    return matrix


def resolve_order(relations: Relations, order: str | Sequence[str] | None, measure: str | None = None) -> list[int]:
    """Positions of the domains in the order asked for.

    Parameters
    ----------
    order : {"dendrogram", "alphabetical", "given"} or sequence of str, optional
        A sequence of names, for example a plan's stages one after another; names it leaves out follow at the
        end. None means "dendrogram".
    measure : str, optional
        The measure that the dendrogram is built on; the first headline measure when absent.

    Raises
    ------
    InputError
        For an unknown order or a name that is not a domain.
    """
    names = list(relations.domains)
    if order is None or order == "dendrogram":
        return dendrogram_order(as_distances(relations, measure or _headline(relations)[0]))
    if order == "alphabetical":
        return sorted(range(len(names)), key=lambda i: (names[i].casefold(), names[i]))
    if order == "given":
        return list(range(len(names)))
    if isinstance(order, str):
        raise InputError(
            f"order={order!r}: unknown; use 'dendrogram', 'alphabetical', 'given' or a sequence of domain names."
        )
    position = {name: i for i, name in enumerate(names)}
    unknown = [name for name in order if name not in position]
    if unknown:
        raise InputError(f"order names {unknown[0]!r}, which is not a domain of these relations; leave it out.")
    chosen = list(dict.fromkeys(position[name] for name in order))
    return chosen + [i for i in range(len(names)) if i not in set(chosen)]


def under_floor(relations: Relations, measure: str) -> NDArray[np.bool_] | None:
    """Which pairs cannot be told from two halves of one domain; None when the measure has no floor."""
    found = relations.under_floor(measure)
    if found is None:
        return None
    noise = np.array(found, dtype=bool)
    np.fill_diagonal(noise, False)
    return noise


def heatmap(
    axes: Axes,
    values: NDArray[Any],
    rows: Sequence[str],
    columns: Sequence[str] | None = None,
    *,
    title: str = "",
    hatched: NDArray[np.bool_] | None = None,
    diverging: bool = False,
    blocks: Sequence[int] = (),
    low_is_good: bool = False,
    decimals: int = 2,
    limits: tuple[float, float] | None = None,
) -> None:
    """Draw one labelled heatmap on `axes`, readable from three rows to a hundred.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_columns)
        NaN cells stay empty.
    hatched : ndarray of bool, same shape, optional
        Cells struck through with diagonal lines.
    diverging : bool
        Colours centred on zero instead of a sequential scale: blue above zero, orange below.
    low_is_good : bool
        Diverging colours the other way round.
    blocks : sequence of int
        Sizes of the diagonal blocks to outline, for example of a plan's stages.
    """
    values = np.asarray(values, dtype=np.float64)
    n_rows, n_columns = values.shape
    square = columns is None
    columns = rows if columns is None else columns
    finite = values[np.isfinite(values)]
    if square and n_rows > 1:
        off = values[~np.eye(n_rows, dtype=bool)]
        finite = off[np.isfinite(off)]
    low, high = limits or ((float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0))
    if high <= low:
        high = low + (abs(low) or 1.0) * 1e-3
    norm: Normalize
    cmap: str | Colormap
    if diverging:
        reach = max(abs(low), abs(high)) or 1.0
        norm, cmap = TwoSlopeNorm(0.0, -reach, reach), _BLUE_IS_LOW if low_is_good else _BLUE_IS_HIGH
    else:
        norm, cmap = Normalize(low, high), "cividis"
    # A domain against itself is no pair: its cell stays grey, so that it does not pass for the best or the worst.
    drawn = np.where(np.eye(n_rows, dtype=bool), np.nan, values) if square else values
    image = axes.imshow(np.ma.masked_invalid(drawn), norm=norm, cmap=cmap, aspect="equal" if square else "auto")
    axes.set_facecolor("#eceeec")
    if hatched is not None:
        _hatch(axes, drawn, hatched, norm, image.get_cmap())
    start = 0
    for size in blocks:
        axes.plot(
            np.array([start, start + size, start + size, start, start]) - 0.5,
            np.array([start, start, start + size, start + size, start]) - 0.5,
            color="#ffffff", linewidth=2.6, clip_on=False,
        )  # fmt: skip
        axes.plot(
            np.array([start, start + size, start + size, start, start]) - 0.5,
            np.array([start, start, start + size, start + size, start]) - 0.5,
            color="#111111", linewidth=1.2, clip_on=False,
        )  # fmt: skip
        start += size
    font = _label_size(axes, max(n_rows, n_columns))
    axes.set_xticks(range(n_columns), [short(name, 18) for name in columns])
    axes.set_yticks(range(n_rows), [short(name, 18) for name in rows])
    axes.tick_params(length=0, labelsize=font, labelcolor=INK, pad=2)
    for label in axes.get_xticklabels():
        label.set_rotation(90 if n_columns > 8 else 40)
        label.set_horizontalalignment("center" if n_columns > 8 else "right")
        if n_columns <= 8:
            label.set_rotation_mode("anchor")
    for spine in axes.spines.values():
        spine.set_visible(False)
    if max(n_rows, n_columns) <= 10:
        _annotate(axes, values, drawn, norm, image.get_cmap(), decimals)
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, colors=MUTED, length=2)
    if title:
        axes.set_title(title, loc="left", fontsize=10, color=INK, fontweight="bold")


def _label_size(axes: Axes, cells: int) -> float:
    """The largest font that fits a cell, in points, within what can be read."""
    box = axes.get_position()
    inches = min(box.width * axes.figure.get_figwidth(), box.height * axes.figure.get_figheight())  # type: ignore[union-attr]
    return float(np.clip(0.78 * 72 * inches / max(cells, 1), 3.2, 8.0))


def _hatch(axes: Axes, values: NDArray[Any], hatched: NDArray[np.bool_], norm: Normalize, cmap: Colormap) -> None:
    """Strike cells through, in black on light cells and white on dark ones."""
    box = axes.get_position()
    inches = box.height * axes.figure.get_figheight() / max(values.shape)  # type: ignore[union-attr]
    strokes = int(np.clip(round(inches / 0.07), 3, 12)) | 1
    lines: list[list[tuple[float, float]]] = []
    colours: list[tuple[float, float, float, float]] = []
    for row, column in np.argwhere(hatched & np.isfinite(values)):
        ink = (0.0, 0.0, 0.0, 0.75) if _luminance(cmap(norm(values[row, column]))) > 0.45 else (1.0, 1.0, 1.0, 0.8)
        x, y = column - 0.5, row - 0.5
        # Parallels from the lower left to the upper right, all inside the cell, one of them its diagonal.
        for stroke in range(1, strokes + 1):
            reach = 2.0 * stroke / (strokes + 1)
            a, b = max(0.0, reach - 1.0), min(1.0, reach)
            lines.append([(x + a, y + b), (x + b, y + a)])
            colours.append(ink)
    width = float(np.clip(14 / max(values.shape), 0.35, 1.0))
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=width, capstyle="butt"))


def _luminance(colour: Any) -> float:
    return float(0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2])


def _annotate(
    axes: Axes, values: NDArray[Any], drawn: NDArray[Any], norm: Normalize, cmap: Colormap, decimals: int
) -> None:
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            if np.isfinite(drawn[row, column]):
                ink = "#111111" if _luminance(cmap(norm(value))) > 0.45 else "#ffffff"
            else:
                ink = "#8a96a3"
            text = f"{value:.{decimals}f}".replace("-", "−")
            text = text if text.strip("−0.") else text.lstrip("−")  # zero has no sign
            axes.text(
                column, row, text, ha="center", va="center", color=ink, fontsize=7.5 - 0.2 * max(0, len(values) - 5)
            )


def _headline(relations: Relations) -> list[str]:
    present = [name for name in _HEADLINE if name in relations.names]
    if "cosine_centred" in present and "cosine" in present:
        present.remove("cosine")
    return present or list(relations.names)


def plot_relations(
    relations: Relations, measure: str | Sequence[str] | None = None, order: str | Sequence[str] | None = None
) -> HouseFigure:
    """Heatmaps of one, several or the headline measures; pairs that cannot be told from noise are struck through.

    Parameters
    ----------
    relations : Relations
    measure : str or sequence of str, optional
        Measures to draw; up to six headline measures when absent.
    order : {"dendrogram", "alphabetical", "given"} or sequence of str, optional
        See :func:`resolve_order`.

    Returns
    -------
    Figure
        Never shown; save it with `savefig`.

    Raises
    ------
    RelationsError
        For a measure that the relations do not hold.
    """
    wanted = (
        [measure] if isinstance(measure, str) else list(measure) if measure is not None else _headline(relations)[:6]
    )
    missing = [name for name in wanted if name not in relations.names]
    if missing or not wanted:
        have = ", ".join(relations.names) or "none"
        raise RelationsError(f"measure {missing[0] if missing else ''!r} is not in these relations; they hold: {have}.")
    k = len(relations.domains)
    n_columns = min(len(wanted), 3 if k <= 24 else 2)
    n_rows = -(-len(wanted) // n_columns)
    edge = float(np.clip(2.6 + 0.105 * k, 3.4, 9.0))
    figure = HouseFigure(figsize=(n_columns * (edge + 0.9), n_rows * edge + 0.55), layout="constrained")
    positions = resolve_order(relations, order, wanted[0])
    names = [relations.domains[i] for i in positions]
    any_hatched = False
    for index, name in enumerate(wanted):
        axes = figure.add_subplot(n_rows, n_columns, index + 1)
        matrix = np.array(relations.matrix(name), dtype=np.float64)[np.ix_(positions, positions)]
        noise = under_floor(relations, name)
        if noise is not None:
            noise = noise[np.ix_(positions, positions)]
            any_hatched = any_hatched or bool(noise.any())
        info = relations.info(name)
        reading = "bright = different" if info.kind == "discrepancy" else "bright = alike"
        unit = f", {info.unit}" if info.unit else ""
        title = textwrap.fill(info.title, max(18, int(edge * 9)))
        heatmap(axes, matrix, names, title=title, hatched=noise)
        axes.set_xlabel(f"{reading}{unit}", fontsize=8, color=MUTED, loc="left")
    if any_hatched:
        figure.supxlabel(
            "Struck-through pairs cannot be told from two halves of one domain.",
            fontsize=8,
            color=MUTED,
            x=0.01,
            ha="left",
        )
    plain(figure)
    return figure
