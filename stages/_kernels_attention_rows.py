"""Heads of documents to packed blocks and back, as the loops of attention on tile registers call it.

A block is packed as a left factor (32 rows of 64 bytes) or a right one (two tiles of 16 pairs of rows). Of X's left
blocks, turning each square of 16 × 16 words gives the right blocks of Xᵀ, pairing rows the right ones of X, and
turning those the left ones of Xᵀ. In fp32 a block is three planes that add up to it.
"""

from __future__ import annotations

from typing import Any

from .._compile import inner
from . import _attention_rows as rows
from . import _kernels_tiles as tiles

__all__ = ["PLANE", "SUMS", "aim", "angles", "pack", "pair_rows", "reach", "turn_sums", "turn_tiles", "unpack"]

# Called without the typing contexts that their definitions take.
interleave: Any = tiles.interleave
transpose: Any = tiles.transpose
fetch: Any = rows.fetch
fetch32: Any = rows.fetch32
turn: Any = rows.turn
turn32: Any = rows.turn32
give: Any = rows.give
give32: Any = rows.give32
prefetch: Any = rows.prefetch
blank: Any = rows.blank
widen: Any = rows.widen
copy: Any = rows.copy
copy32: Any = rows.copy32
give_block: Any = rows.give_block
give_block32: Any = rows.give_block32
give_turned: Any = rows.give_turned
give_turned32: Any = rows.give_turned32

SUMS, PLANE = 4096, 2048  # bytes of a block of sums, and of a plane of a packed one


@inner
def aim(ahead: Any, tasks: Any, t: Any, sites: Any, places: Any, group: Any, row: Any, own: Any, key_row: Any) -> None:
    """Note where the next task's rows lie: of arrays by query heads (the first `own` of `places`) and by key heads.

    `group` and `row` are the bytes of a key head's query heads, and of a row of all; `key_row` those of all key heads.
    The next rows are asked for at so many `sites`, so that they come while others are computed.
    """
    if t + 1 == len(tasks):
        ahead[0] = ahead[1] = 0
        return
    start, count, head = tasks[t + 1, 0], tasks[t + 1, 1], tasks[t + 1, 2]
    ahead[0], ahead[1], ahead[2] = 0, count, count // sites + 1
    for place in range(len(places)):
        stride, length = row, group
        if place >= own:
            stride, length = key_row, group * key_row // row
        at = 3 + 3 * place
        ahead[at], ahead[at + 1], ahead[at + 2] = places[place] + start * stride + head * length, stride, length


@inner
def reach(ahead: Any) -> None:
    """Ask for some more rows of the next task's."""
    first = ahead[0]
    last = min(ahead[1], first + ahead[2])
    ahead[0] = last
    for row in range(first, last):
        for at in range(3, ahead.size, 3):
            source = ahead[at] + row * ahead[at + 1]
            for c in range(0, ahead[at + 2], 64):
                prefetch(source + c)


@inner
def pack(x: Any, rows: Any, stride: Any, dim: Any, planes: Any, turned: Any, cos: Any, sin: Any, out: Any) -> None:
    """Up to 32 rows of one head, `stride` bytes apart, to left blocks, filled up with zeros; rotated if `turned`."""
    size, item = PLANE * planes, 2 if planes == 1 else 4
    wide, half = (dim + 31) // 32, dim // 2
    if rows < 32:
        for plane in range(wide * planes):
            blank(out + PLANE * plane + 64 * rows, 32 - rows)
    if turned:
        for c in range(0, half, 16):
            here, there = out + size * (c // 32) + 2 * (c % 32), c + half
            further = out + size * (there // 32) + 2 * (there % 32)
            if planes == 1:
                turn(x + 2 * c, stride, rows, half, cos + 4 * c, sin + 4 * c, 4 * dim, here, further)
            else:
                turn32(x + 4 * c, stride, rows, half, cos + 4 * c, sin + 4 * c, 4 * dim, here, further)
    elif dim % 32 == 0:
        for c in range(wide):
            if planes == 1:
                copy(x + 64 * c, stride, rows, out + size * c)
            else:
                copy32(x + 128 * c, stride, rows, out + size * c)
    else:
        for r in range(rows):
            for c in range(0, 32 * wide, 16):
                source, place = x + r * stride + c * item, out + size * (c // 32) + 64 * r + 2 * (c % 32)
                if planes == 1:
                    fetch(source, min(16, dim - c), place)
                else:
                    fetch32(source, min(16, dim - c), place)


@inner
def turn_tiles(source: Any, out: Any, planes: Any) -> None:
    """Squares of a block turned: left blocks of X to right ones of its transpose, and right ones to left ones."""
    for tile in range(0, PLANE * planes, 1024):
        transpose(source + tile, 64, out + tile, 64)


@inner
def pair_rows(source: Any, out: Any, planes: Any) -> None:
    """A left block of X to a right one."""
    for plane in range(0, PLANE * planes, PLANE):
        for pair in range(16):
            row = source + plane + 128 * pair
            interleave(row, row + 64, out + plane + 64 * pair)
            interleave(row + 32, row + 96, out + plane + 1024 + 64 * pair)


@inner
def unpack(
    sums: Any, rows: Any, factors: Any, step: Any, dim: Any, planes: Any, turned: Any, cos: Any, sin: Any,
    out: Any, stride: Any,
) -> None:  # fmt: skip
    """Rows of blocks of sums, each times its factor (`step` bytes apart), to one head; rotated back if `turned`.

    Then all have the first factor.
    """
    item, half = 2 if planes == 1 else 4, dim // 2
    if turned:
        for c in range(0, half, 16):
            here, there = sums + SUMS * (c // 32) + 4 * (c % 32), c + half
            further, place = sums + SUMS * (there // 32) + 4 * (there % 32), out + c * item
            if planes == 1:
                give_turned(here, further, factors, cos + 4 * c, sin + 4 * c, 4 * dim, rows, place, stride, half)
            else:
                give_turned32(here, further, factors, cos + 4 * c, sin + 4 * c, 4 * dim, rows, place, stride, half)
    elif dim % 32 == 0:
        for c in range(dim // 32):
            if planes == 1:
                give_block(sums + SUMS * c, factors, step, rows, out + 64 * c, stride)
            else:
                give_block32(sums + SUMS * c, factors, step, rows, out + 128 * c, stride)
    else:
        for c in range(0, dim, 16):
            here, count, place = sums + SUMS * (c // 32) + 4 * (c % 32), min(16, dim - c), out + c * item
            if planes == 1:
                give(here, factors, step, rows, count, place, stride)
            else:
                give32(here, factors, step, rows, count, place, stride)


@inner
def angles(given: Any, start: Any, n: Any, planes: Any, out: Any) -> Any:
    """Address of a document's rows of cos or sin in fp32; of bf16 a copy is made."""
    width = given.shape[1]
    if planes > 1:
        return given.ctypes.data + 4 * start * width
    if given.size > 0:
        widen(given.ctypes.data + 2 * start * width, n * width, out)
    return out


@inner
def turn_sums(source: Any, out: Any) -> None:
    """A block of sums to its transpose."""
    for r in range(2):
        for c in range(2):
            transpose(source + 2048 * r + 64 * c, 128, out + 2048 * c + 64 * r, 128)
