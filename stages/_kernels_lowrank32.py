"""The factors' gradients of grouped low-rank updates in fp32, by vector registers (AVX-512).

What the last loop of :mod:`._kernels_lowrank` does in bf16, with the same arguments; thin
intermediates are fp32 as well.
"""

from __future__ import annotations

from typing import Any

from .._compile import kernel
from ._kernels_attention import one_tile
from ._kernels_lowrank import STRIP, blank, move, row_of, scale, stream

__all__ = ["outer", "room"]

STRIPS = 8  # of 32 columns that are copied at a time
APART = 128 * STRIP + 128  # bytes from one to the next


def room(width: int, rank: int) -> int:
    """Bytes of scratch that the loop needs."""
    return 64 + 4 * width + APART * STRIPS + 4 * width * rank


def _outer(
    segments: Any, x: Any, width: Any, begin: Any, end: Any, h: Any, rank: Any, alpha: Any,
    stacks: Any, ranks: Any, common: Any, work: Any, shapes: Any,
) -> None:  # fmt: skip
    base = (work.ctypes.data + 63) // 64 * 64
    head = base - work.ctypes.data
    nothing, strips = base, base + 4 * width
    sums = strips + APART * STRIPS
    blank(work, head, head + 4 * width)
    trained, line = ranks.sum(), end - begin
    for s in range(len(segments)):
        group, first_row, all_rows = segments[s, 0], segments[s, 1], segments[s, 2]
        for passed in range(0, all_rows, STRIP):
            start, count = first_row + passed, min(STRIP, all_rows - passed)
            for part in range(0, line, 32 * STRIPS):
                end_of = min(line, part + 32 * STRIPS)
                # Columns of 32 back to back: rows a power of two apart would meet in a few sets of the cache.
                for row in range(count):
                    source = x + 4 * ((start + row) * width + begin + part)
                    for c in range(0, end_of - part, 32):
                        at = strips + c // 32 * APART + 128 * row
                        move(at, source + 4 * c)
                        move(at + 64, source + 4 * c + 64)
                for c in range(part, end_of, 32):
                    for r in range(0, trained, 8):
                        out, left = sums + 4 * (line * r + c), h + 4 * (start * rank + r)
                        one_tile(out, left, strips + (c - part) // 32 * APART, count, 1, rank, 32, line, passed)
        for r in range(trained):
            out, own = row_of(stacks, ranks, group, r, width, nothing) + 4 * begin, r >= ranks[0] or not common
            for c in range(0, line, 16):
                if own:
                    stream(out + 4 * c, sums + 4 * (line * r + c), alpha)
                else:
                    scale(out + 4 * c, sums + 4 * (line * r + c), alpha, 1 if s > 0 else 0)


outer = kernel(_outer, error_model="numpy")
