"""The three thin products of grouped low-rank updates in fp32, by vector registers (AVX-512).

What :mod:`._kernels_lowrank` does in bf16, with the same arguments; here thin intermediates are fp32 as well.
"""

from __future__ import annotations

from typing import Any

from numba.extending import register_jitable

from .._compile import kernel
from ._kernels_attention import one_tile
from ._kernels_lowrank import STRIP, blank, move, row_of, scale, transpose

__all__ = ["down", "outer", "room", "up"]

_ROWS = 8  # of a tile of sums


def room(width: int, rank: int) -> int:
    """Bytes of scratch that any of the loops needs."""
    zeros, tails, packed = 4 * width, 2 * 4 * _ROWS * max(width, rank), 8 * width * rank
    return 64 + zeros + tails + packed


@register_jitable
def copy_rows(out: Any, source: Any, rows: Any, size: Any) -> None:
    """Rows of `size` bytes, a multiple of 64, back to back on both sides."""
    for i in range(0, rows * size, 64):
        move(out + i, source + i)


def _down(
    segments: Any, x: Any, width: Any, stacks: Any, ranks: Any, rank: Any, h: Any, work: Any, shapes: Any
) -> None:
    base = (work.ctypes.data + 63) // 64 * 64
    head = base - work.ctypes.data
    nothing, left_tail = base, base + 4 * width
    out_tail = left_tail + 4 * 8 * width
    lines = out_tail + 4 * 8 * rank
    packed = lines + 4 * width * rank
    blank(work, head, head + 4 * width)
    before = -1
    for s in range(len(segments)):
        group, start, count = segments[s, 0], segments[s, 1], segments[s, 2]
        if group != before:
            before = group
            for r in range(rank):
                copy_rows(lines + 4 * r * width, row_of(stacks, ranks, group, r, width, nothing), 1, 4 * width)
            for r in range(0, rank, 16):
                for c in range(0, width, 16):
                    transpose(lines + 4 * (r * width + c), 4 * width, packed + 4 * (c * rank + r), 4 * rank)
        for i in range(0, count, 8):
            rows = min(8, count - i)
            left, out = x + 4 * (start + i) * width, h + 4 * (start + i) * rank
            if rows < 8:
                copy_rows(left_tail, left, rows, 4 * width)
                left = left_tail
            target = out if rows == 8 else out_tail
            for r in range(0, rank, 32):
                one_tile(target + 4 * r, left, packed + 4 * r, width, width, 1, rank, rank, 0)
            if rows < 8:
                copy_rows(out, out_tail, rows, 4 * rank)


def _up(
    segments: Any, h: Any, rank: Any, stacks: Any, ranks: Any, alpha: Any, width: Any, y: Any, work: Any, shapes: Any
) -> None:
    base = (work.ctypes.data + 63) // 64 * 64
    head = base - work.ctypes.data
    nothing, left_tail = base, base + 4 * width
    out_tail = left_tail + 4 * 8 * rank
    packed = out_tail + 4 * 8 * width
    blank(work, head, head + 4 * width)
    before = -1
    for s in range(len(segments)):
        group, start, count = segments[s, 0], segments[s, 1], segments[s, 2]
        if group != before:
            before = group
            for r in range(rank):
                source = row_of(stacks, ranks, group, r, width, nothing)
                for c in range(0, width, 16):
                    scale(packed + 4 * (r * width + c), source + 4 * c, alpha, 0)
        for i in range(0, count, 8):
            rows = min(8, count - i)
            left, out = h + 4 * (start + i) * rank, y + 4 * (start + i) * width
            if rows < 8:
                copy_rows(left_tail, left, rows, 4 * rank)
                copy_rows(out_tail, out, rows, 4 * width)
                left = left_tail
            target = out if rows == 8 else out_tail
            for c in range(0, width, 32):
                one_tile(target + 4 * c, left, packed + 4 * c, rank, rank, 1, width, width, 1)
            if rows < 8:
                copy_rows(out, out_tail, rows, 4 * width)


def _outer(
    segments: Any, x: Any, width: Any, begin: Any, end: Any, h: Any, rank: Any, alpha: Any,
    stacks: Any, ranks: Any, common: Any, work: Any, shapes: Any,
) -> None:  # fmt: skip
    base = (work.ctypes.data + 63) // 64 * 64
    head = base - work.ctypes.data
    nothing, sums = base, base + 4 * width
    blank(work, head, head + 4 * width)
    trained, line = ranks.sum(), end - begin
    for s in range(len(segments)):
        group, first_row, all_rows = segments[s, 0], segments[s, 1], segments[s, 2]
        for passed in range(0, all_rows, STRIP):
            start, count = first_row + passed, min(STRIP, all_rows - passed)
            for c in range(0, line, 32):
                for r in range(0, trained, 8):
                    out, left = sums + 4 * (line * r + c), h + 4 * (start * rank + r)
                    right = x + 4 * (start * width + begin + c)
                    one_tile(out, left, right, count, 1, rank, width, line, passed)
        for r in range(trained):
            out = row_of(stacks, ranks, group, r, width, nothing) + 4 * begin
            add = 1 if common and s > 0 and r < ranks[0] else 0
            for c in range(0, line, 16):
                scale(out + 4 * c, sums + 4 * (line * r + c), alpha, add)


down = kernel(_down, error_model="numpy")
up = kernel(_up, error_model="numpy")
outer = kernel(_outer, error_model="numpy")
