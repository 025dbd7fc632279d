"""The three thin products of grouped low-rank updates, as compiled loops over groups of rows (bf16, AMX).

Per group g with rows X (n × width), factors F (rank × width) and thin intermediates H (n × rank)::

    down    H = X Fᵀ            up    Y += α H F            outer    G = α Hᵀ X

Each loop packs a group's factors once, from fp32, and goes over its rows by blocks of 32, so the cost is that of the
rows, whatever the number of groups, and a new number of rows needs no new code. A group's factors come as addresses
of a few stacks (the shared, its own, earlier stages'), so nothing is concatenated. Widths are multiples of 32; ranks
are filled up with zeros to one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._compile import inner, kernel
from . import _kernels_tiles as tiles

__all__ = ["down", "outer", "room", "up"]

# Called without the typing contexts that their definitions take.
configure: Any = tiles.configure
release: Any = tiles.release
clear: Any = tiles.clear
multiply: Any = tiles.multiply
keep: Any = tiles.keep
narrow: Any = tiles.narrow
recall: Any = tiles.recall
interleave: Any = tiles.interleave
interleave_narrow: Any = tiles.interleave_narrow
transpose: Any = tiles.transpose
accumulate: Any = tiles.accumulate
scale: Any = tiles.scale
stream: Any = tiles.stream
move: Any = tiles.move

STRIP = 128  # columns whose sums are written before they are added to their rows; rows whose sums stay in registers


def room(width: int, rank: int) -> int:
    """Bytes of scratch that any of the loops needs."""
    zeros, sums, tail, packed = 4 * width, 128 * STRIP, 64 * max(width, rank), 4 * width * rank
    turned, strip, total = 2 * STRIP * rank, 2 * STRIP * width, 4 * width * rank
    return 64 + zeros + max(sums + tail + packed, 1024 + turned + strip + total)


@inner
def row_of(stacks: Any, ranks: Any, group: Any, row: Any, width: Any, nothing: Any) -> Any:
    """Address of one fp32 row of a group's factors; `nothing` beyond the last."""
    for place in range(ranks.size):
        if row < ranks[place]:
            return stacks[group, place] + 4 * width * row
        row -= ranks[place]
    return nothing


@inner
def first_change(stacks: Any, ranks: Any, group: Any, before: Any) -> Any:
    """The first row of a group's factors that another group's, or -1 for none, do not have in the same place."""
    row = 0
    for place in range(ranks.size):
        if before < 0 or stacks[group, place] != stacks[before, place]:
            return row
        row += ranks[place]
    return row


@inner
def last_change(stacks: Any, ranks: Any, group: Any, before: Any, rank: Any) -> Any:
    """The end of the last such row."""
    row = ranks.sum()
    for place in range(ranks.size - 1, -1, -1):
        if before < 0:
            return rank
        if stacks[group, place] != stacks[before, place]:
            return row
        row -= ranks[place]
    return row


@inner
def blank(work: Any, start: Any, stop: Any) -> None:
    for i in range(start, stop):
        work[i] = np.uint8(0)


def _down(
    segments: Any, x: Any, width: Any, stacks: Any, ranks: Any, rank: Any, h: Any, work: Any, shapes: Any
) -> None:
    """Rows of `segments` (group, first row, rows) at address x, (rows, width) bf16, to h, (rows, rank) bf16."""
    base = (work.ctypes.data + 63) // 64 * 64
    head = base - work.ctypes.data
    nothing, sums = base, base + 4 * width
    tail = sums + 4096
    lines = tail + 64 * width
    packed = lines + 2 * width * rank
    blank(work, head, head + 4 * width)
    configure(shapes.ctypes.data)
    before = -1
    for s in range(len(segments)):
        group, start, count = segments[s, 0], segments[s, 1], segments[s, 2]
        if group != before:
            # The shared factors and those of earlier stages are there from the group before.
            low = first_change(stacks, ranks, group, before) // 16 * 16
            high = (last_change(stacks, ranks, group, before, rank) + 15) // 16 * 16
            before = group
            for r in range(low, high):
                source = row_of(stacks, ranks, group, r, width, nothing)
                for c in range(0, width, 16):
                    narrow(source + 4 * c, lines + 2 * (r * width + c))
            for c in range(0, width, 32):
                for r in range(low, high, 16):
                    transpose(lines + 2 * (r * width + c), 2 * width, packed + 2 * (c * rank + 32 * r), 64)
        for i in range(0, count, 32):
            left, rows = x + 2 * (start + i) * width, min(32, count - i)
            if rows < 32:
                offset = tail - work.ctypes.data
                copy(work, offset, left, 2 * rows * width)
                blank(work, offset + 2 * rows * width, offset + 64 * width)
                left = tail
            for r in range(0, rank, 32):
                clear()
                for c in range(0, width, 32):
                    at = packed + 2 * (c * rank + 32 * r)
                    multiply(left + 2 * c, left + 2 * c + 32 * width, 2 * width, at, at + 1024)
                keep(sums, 128)
                for row in range(rows):
                    out = h + 2 * ((start + i + row) * rank + r)
                    narrow(sums + 128 * row, out)
                    narrow(sums + 128 * row + 64, out + 32)
    release()


@inner
def copy(work: Any, offset: Any, source: Any, size: Any) -> None:
    """Bytes from an address into the scratch, 64 at a time (sizes are multiples of that)."""
    for i in range(0, size, 64):
        move(work.ctypes.data + offset + i, source + i)


def _up(
    segments: Any, h: Any, rank: Any, stacks: Any, ranks: Any, alpha: Any, width: Any, y: Any, work: Any, shapes: Any
) -> None:
    """Add α h F to y, (rows, width) bf16; h is (rows, rank) bf16."""
    base = (work.ctypes.data + 63) // 64 * 64
    head = base - work.ctypes.data
    nothing, sums = base, base + 4 * width
    tail = sums + 128 * STRIP
    packed = tail + 64 * rank
    blank(work, head, head + 4 * width)
    configure(shapes.ctypes.data)
    before = -1
    for s in range(len(segments)):
        group, start, count = segments[s, 0], segments[s, 1], segments[s, 2]
        if group != before:
            low = first_change(stacks, ranks, group, before) // 2 * 2
            high = (last_change(stacks, ranks, group, before, rank) + 1) // 2 * 2
            before = group
            for r in range(low, high, 2):
                first = row_of(stacks, ranks, group, r, width, nothing)
                second = row_of(stacks, ranks, group, r + 1, width, nothing)
                for c in range(0, width, 16):
                    # Tile (c / 16, r / 32), pair r % 32 / 2.
                    at = packed + 2 * c * rank + 1024 * (r // 32) + 32 * (r % 32)
                    interleave_narrow(first + 4 * c, second + 4 * c, at)
        for i in range(0, count, 32):
            left, rows = h + 2 * (start + i) * rank, min(32, count - i)
            if rows < 32:
                offset = tail - work.ctypes.data
                copy(work, offset, left, 2 * rows * rank)
                blank(work, offset + 2 * rows * rank, offset + 64 * rank)
                left = tail
            for begin in range(0, width, STRIP):
                end = min(width, begin + STRIP)
                for c in range(begin, end, 32):
                    clear()
                    for r in range(0, rank, 32):
                        at = packed + 2 * c * rank + 32 * r
                        multiply(left + 2 * r, left + 2 * r + 32 * rank, 2 * rank, at, at + 32 * rank)
                    keep(sums + 4 * (c - begin), 4 * STRIP)
                for row in range(rows):
                    out, source = y + 2 * ((start + i + row) * width + begin), sums + 4 * STRIP * row
                    for c in range(0, end - begin, 16):
                        accumulate(out + 2 * c, source + 4 * c, alpha)
    release()


def _outer(
    segments: Any, x: Any, width: Any, begin: Any, end: Any, h: Any, rank: Any, alpha: Any,
    stacks: Any, ranks: Any, common: Any, work: Any, shapes: Any,
) -> None:  # fmt: skip
    """Columns begin..end of α hᵀ x into fp32 rows at the addresses of `stacks`; the first stack is `common`'s sum."""
    base = (work.ctypes.data + 63) // 64 * 64
    head = base - work.ctypes.data
    nothing, square = base, base + 4 * width
    turned = square + 1024
    strip = turned + 2 * STRIP * rank
    sums = strip + 2 * STRIP * width
    blank(work, head, head + 4 * width)
    configure(shapes.ctypes.data)
    trained, line = ranks.sum(), 4 * (end - begin)
    for s in range(len(segments)):
        group, first_row, all_rows = segments[s, 0], segments[s, 1], segments[s, 2]
        for passed in range(0, all_rows, STRIP):
            start, count = first_row + passed, min(STRIP, all_rows - passed)
            blocks = (count + 31) // 32
            for i in range(0, 32 * blocks, 32):
                for r in range(0, rank, 16):
                    for row in range(i, i + 32, 2):
                        first = h + 2 * ((start + row) * rank + r) if row < count else nothing
                        second = h + 2 * ((start + row + 1) * rank + r) if row + 1 < count else nothing
                        interleave(first, second, square + 32 * (row - i))
                    transpose(square, 64, turned + 2 * i * rank + 64 * r, 64)
            for row in range(0, 32 * blocks, 2):
                first = x + 2 * ((start + row) * width + begin) if row < count else nothing
                second = x + 2 * ((start + row + 1) * width + begin) if row + 1 < count else nothing
                at = strip + 2048 * (row // 32) + 32 * (row % 32)
                for c in range(0, end - begin, 16):
                    # Tile c / 16 of block row / 32; the tiles of a column beside each other.
                    interleave(first + 2 * c, second + 2 * c, at + (c // 32) * 2048 * blocks + 64 * (c % 32))
            for r in range(0, trained, 32):
                for c in range(0, end - begin, 32):
                    out = sums + line * r + 4 * c
                    if passed:
                        recall(out, line)
                    else:
                        clear()
                    for block in range(blocks):
                        at, right = turned + 64 * block * rank + 64 * r, strip + 2048 * (c // 32 * blocks + block)
                        multiply(at, at + 1024, 64, right, right + 1024)
                    keep(out, line)
        for r in range(trained):
            out, own = row_of(stacks, ranks, group, r, width, nothing) + 4 * begin, r >= ranks[0] or not common
            for c in range(0, end - begin, 16):
                if own:
                    stream(out + 4 * c, sums + line * r + 4 * c, alpha)
                else:
                    scale(out + 4 * c, sums + line * r + 4 * c, alpha, 1 if s > 0 else 0)
    release()


down = kernel(_down, error_model="numpy")
up = kernel(_up, error_model="numpy")
outer = kernel(_outer, error_model="numpy")
