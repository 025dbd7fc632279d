"""A frozen linear layer in fp32 and its grouped low-rank updates in one compiled loop, by tile registers (AMX).

Per group g of rows, with the layer's W and factors F (rank × steps), U (rank × width)::

    H = X Fᵀ            Y = X Wᵀ + b + α H U

A number is the sum of three bf16, x = x₁ + x₂ + x₃, exactly (three times eight bits; but for infinities and what is
below 1e-33), and x·w = x₁w₁ + x₁w₂ + x₂w₁ + x₂w₂ + x₁w₃ + x₃w₁ up to 2⁻²⁶ of |x·w|, less than one rounding; sums are
kept in fp32. Tile registers multiply sixteen times faster in bf16 than vector units do in fp32, so six of their
products cost less than one of those.

Rows are laid out once for both products with X, and a block's sums get H's part before they leave the registers.
Blocks of 32 rows do not care where groups end: one that two groups share takes both their updates, with the other's
rows of H as zeros. So the cost is that of the rows, whatever their number.

What is laid out: of rows, blocks of 32 rows by 32 steps; of right factors, blocks of 32 steps by 32 columns as two
packed tiles; blocks plane by plane, 2 KiB each, the steps of a block of rows (columns) one after the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._compile import inner, kernel
from . import _kernels_tiles as tiles
from ._kernels_lowrank import blank, row_of

__all__ = ["columns_of_pass", "linear", "room", "rows_of_pass"]

# Called without the typing contexts that their definitions take.
configure: Any = tiles.configure
release: Any = tiles.release
clear: Any = tiles.clear
keep: Any = tiles.keep
recall: Any = tiles.recall
split_both: Any = tiles.split_both
six: Any = tiles.six
transpose: Any = tiles.transpose
interleave: Any = tiles.interleave
move: Any = tiles.move
scale: Any = tiles.scale

DEPTH = 1024  # steps that one pass over rows adds up
STRIP = 128  # columns of updates to lay out at a time
_ROWS_BYTES, _COLUMNS_BYTES = 1 << 20, 8 << 20  # of rows and of weights that are laid out at a time


def rows_of_pass(rows: int, steps: int) -> int:
    """Rows to lay out at a time: what half of a second-level cache holds."""
    return min(-(-rows // 32) * 32, max(32, _ROWS_BYTES // (6 * min(steps, DEPTH)) // 32 * 32))


def columns_of_pass(rows: int, width: int, steps: int) -> int:
    """Columns of weights to lay out at a time: few where no later pass over rows asks for them again."""
    most = STRIP if rows <= rows_of_pass(rows, steps) else _COLUMNS_BYTES // (6 * min(steps, DEPTH)) // STRIP * STRIP
    return min(width, most)


def room(held: int, steps: int, width: int, wide: int, rank: int, parts: int, slots: int) -> int:
    """Bytes of scratch for that; see :func:`linear` for the arguments."""
    depth = min(steps, DEPTH)
    rows, columns, thin = 6 * held * depth, 6 * wide * depth, (192 + 128) * rank * parts
    factors = 6 * rank * (depth + slots * STRIP)
    return 64 + 4096 + 4 * max(steps, width, 32) + 6144 + 128 + rows + columns + thin + factors


@inner
def lay_rows(x: Any, stride: Any, rows: Any, depth: Any, nothing: Any, out: Any) -> None:
    """Rows of x, `stride` numbers apart, as blocks; zeros fill the last."""
    for i in range(0, rows, 32):
        for k in range(0, depth, 32):
            at = out + 6 * i * depth + 192 * k
            for row in range(32):
                split_both(x + 4 * ((i + row) * stride + k) if i + row < rows else nothing, at + 64 * row, 2048)


@inner
def turn_block(lines: Any, out: Any) -> None:
    """A block of 32 columns by 32 steps, as lines, to packed tiles."""
    for half in range(0, 6144, 1024):
        transpose(lines + half, 64, out + half, 64)


@inner
def pair_block(lines: Any, out: Any) -> None:
    """A block of 32 steps by 32 columns, as lines, to packed tiles."""
    for plane in range(0, 6144, 2048):
        for r in range(0, 32, 2):
            source, target = lines + plane + 64 * r, out + plane + 32 * r
            interleave(source, source + 64, target)
            interleave(source + 32, source + 96, target + 1024)


@inner
def lay_weight(weight: Any, stride: Any, transposed: Any, depth: Any, count: Any, lines: Any, out: Any) -> None:
    """`count` columns of Wᵀ (of W where `transposed`), rows of memory `stride` numbers apart, as packed tiles."""
    for c in range(0, count, 32):
        for k in range(0, depth, 32):
            corner = weight + 4 * (k * stride + c if transposed else c * stride + k)
            for row in range(32):
                split_both(corner + 4 * row * stride, lines + 64 * row, 2048)
            if transposed:
                pair_block(lines, out + 6 * c * depth + 192 * k)
            else:
                turn_block(lines, out + 6 * c * depth + 192 * k)


@inner
def lay_down(
    stacks: Any, ranks: Any, group: Any, rank: Any, steps: Any, begin: Any, depth: Any, nothing: Any, lines: Any,
    out: Any,
) -> None:  # fmt: skip
    """Steps from `begin` of a group's Fᵀ as packed tiles: columns are ranks."""
    for r in range(0, rank, 32):
        for k in range(0, depth, 32):
            for row in range(32):
                source = row_of(stacks, ranks, group, r + row, steps, nothing)
                split_both(source + 4 * (begin + k), lines + 64 * row, 2048)
            turn_block(lines, out + 6 * r * depth + 192 * k)


@inner
def lay_up(
    stacks: Any, ranks: Any, group: Any, rank: Any, alpha: Any, width: Any, first: Any, count: Any, nothing: Any,
    lines: Any, out: Any,
) -> None:  # fmt: skip
    """α U of a group, `count` columns from `first`, as packed tiles: steps are ranks."""
    scaled = lines + 6144
    for c in range(0, count, 32):
        for r in range(0, rank, 32):
            for row in range(32):
                source = row_of(stacks, ranks, group, r + row, width, nothing) + 4 * (first + c)
                scale(scaled, source, alpha, 0)
                scale(scaled + 64, source + 64, alpha, 0)
                split_both(scaled, lines + 64 * row, 2048)
            pair_block(lines, out + 6 * c * rank + 192 * r)


@inner
def add_product(left: Any, right: Any, steps: Any) -> None:
    """Add to the four sums a block of rows times a block of columns."""
    for k in range(0, 192 * steps, 6144):
        six(left + k, right + k)


@inner
def copy_rows(out: Any, apart: Any, source: Any, stride: Any, rows: Any) -> None:
    """Rows of 32 fp32."""
    for row in range(rows):
        move(out + row * apart, source + row * stride)
        move(out + row * apart + 64, source + row * stride + 64)


@inner
def meet(ends: Any, top: Any, rows: Any, first_of: Any, group_of: Any, low_of: Any, high_of: Any) -> None:
    """The parts of each block of rows: one for each group that has rows in it, from row `low` to before row `high`."""
    parts, group = 0, 0
    for i in range(0, rows, 32):
        first_of[i // 32] = parts
        low, last = top + i, top + min(i + 32, rows)
        while low < last and len(ends):
            while ends[group] <= low:
                group += 1
            group_of[parts], low_of[parts], high_of[parts] = group, low, min(last, ends[group])
            low = high_of[parts]
            parts += 1
    first_of[(rows + 31) // 32] = parts


def _linear(
    tasks: Any, ends: Any, x: Any, steps: Any, weight: Any, transposed: Any, bias: Any, width: Any,
    down: Any, up: Any, ranks: Any, rank: Any, alpha: Any, y: Any, h: Any,
    held: Any, wide: Any, parts: Any, slots: Any, work: Any, shapes: Any,
) -> None:  # fmt: skip
    """Rows of each task (first, last): y (rows, width), unless that is 0 wide, and h (rows, rank), unless that is 0.

    x (rows, steps), W (width, steps), or (steps, width) where `transposed`, y and h are addresses of fp32, so is
    `bias`, or 0. Group g ends before row ends[g]; its factors are at the addresses down[g] and up[g], stacks of
    `ranks`, which `rank` fills up to a multiple of 32. Widths and steps are multiples of 32. At a time, `held` rows and
    `wide` columns are laid out; so many rows meet at most `slots` groups. Blocks of 32 rows have `parts` parts, one for
    each group that they meet, in a task.
    """
    base = (work.ctypes.data + 63) // 64 * 64
    head = base - work.ctypes.data
    deepest = min(steps, DEPTH)
    sums, nothing = base, base + 4096
    lines = nothing + 4 * max(steps, width, 32)
    left = lines + 6144 + 128
    right = left + 6 * held * deepest
    thin = right + 6 * wide * deepest
    raw = thin + 192 * rank * parts
    narrow = raw + 128 * rank * parts
    broad = narrow + 6 * rank * deepest
    blank(work, head + 4096, head + 4096 + 4 * max(steps, width, 32))
    group_of, low_of, high_of = np.empty(parts, np.int64), np.empty(parts, np.int64), np.empty(parts, np.int64)
    slot_of = np.empty(parts, np.int64)
    configure(shapes.ctypes.data)
    for task in range(len(tasks)):
        origin, stop = tasks[task, 0], tasks[task, 1]
        first_of = np.empty((stop - origin + 31) // 32 + 1, np.int64)
        meet(ends, origin, stop - origin, first_of, group_of, low_of, high_of)
        # Sums of more than a pass over steps go on from y, which is in fp32 as they are.
        for begin in range(0, steps, DEPTH):
            depth = min(DEPTH, steps - begin)
            last = begin + depth == steps
            for first in range(0, max(width, 1), max(wide, 1)):
                count = min(wide, width - first)
                corner = begin * width + first if transposed else first * steps + begin
                lay_weight(weight + 4 * corner, width if transposed else steps, transposed, depth, count, lines, right)
                for top in range(origin, stop, held):
                    rows = min(held, stop - top)
                    block = (top - origin) // 32
                    begin_part, end_part = first_of[block], first_of[block + (rows + 31) // 32]
                    if first == 0 or held < stop - origin:
                        lay_rows(x + 4 * (top * steps + begin), steps, rows, depth, nothing, left)
                    slot = -1
                    for part in range(begin_part, end_part):
                        group = group_of[part]
                        fresh = part == begin_part or group != group_of[part - 1]
                        slot += fresh
                        slot_of[part] = slot
                        if first:
                            continue
                        if fresh:
                            lay_down(down, ranks, group, rank, steps, begin, depth, nothing, lines, narrow)
                        i = (low_of[part] - top) // 32 * 32
                        for r in range(0, rank, 32):
                            at = raw + 128 * (rank * part + r)
                            if begin:
                                recall(at, 128)
                            else:
                                clear()
                            add_product(left + 6 * i * depth, narrow + 6 * r * depth, depth)
                            keep(at, 128)
                    # Apart from the sums, which would wait for it.
                    for part in range(begin_part if last and first == 0 else end_part, end_part):
                        low, size = (low_of[part] - origin) % 32, high_of[part] - low_of[part]
                        for r in range(0, rank, 32):
                            source, at = raw + 128 * (rank * part + r), thin + 192 * (rank * part + r)
                            copy_rows(h + 4 * (low_of[part] * rank + r), 4 * rank, source + 128 * low, 128, size)
                            for row in range(32):
                                inside = low <= row < low + size
                                split_both(source + 128 * row if inside else nothing, at + 64 * row, 2048)
                    for c in range(0, count, 32):
                        if last and c % STRIP == 0:
                            for part in range(begin_part, end_part):
                                if part == begin_part or group_of[part] != group_of[part - 1]:
                                    there, out = min(STRIP, count - c), broad + 6 * rank * STRIP * slot_of[part]
                                    lay_up(
                                        up, ranks, group_of[part], rank, alpha, width, first + c, there, nothing,
                                        lines, out,
                                    )  # fmt: skip
                        for i in range(0, rows, 32):
                            out, apart, there = y + 4 * ((top + i) * width + first + c), 4 * width, min(32, rows - i)
                            if begin == 0:
                                if bias:
                                    recall(bias + 4 * (first + c), 0)
                                else:
                                    clear()
                            elif there == 32:
                                recall(out, apart)
                            else:
                                copy_rows(sums, 128, out, apart, there)
                                recall(sums, 128)
                            add_product(left + 6 * i * depth, right + 6 * c * depth, depth)
                            if last:
                                for part in range(first_of[block + i // 32], first_of[block + i // 32 + 1]):
                                    factor = broad + 6 * rank * (STRIP * slot_of[part] + c % STRIP)
                                    add_product(thin + 192 * rank * part, factor, rank)
                            if there == 32:
                                keep(out, apart)
                            else:
                                keep(sums, 128)
                                copy_rows(out, apart, sums, 128, there)
    release()


linear = kernel(_linear, error_model="numpy")
