"""Products in fp32 by tile registers: each number as the sum of three bf16, six products of those.

x = x₁ + x₂ + x₃ holds exactly (three times eight bits of precision; but for infinities and what is below 1e-33), so
x·w = x₁w₁ + x₁w₂ + x₂w₁ + x₂w₂ + x₁w₃ + x₃w₁ up to 2⁻²⁶ of |x·w|, less than one rounding in fp32; sums are kept in
fp32. Tile registers multiply sixteen times faster in bf16 than the vector units do in fp32, so six of their products
cost less than one of those.
"""

from __future__ import annotations

from typing import Any

from numba.extending import register_jitable

from .._compile import kernel
from . import _kernels_tiles as tiles

__all__ = ["product", "room"]

# Called without the typing contexts that their definitions take.
configure: Any = tiles.configure
release: Any = tiles.release
clear: Any = tiles.clear
keep: Any = tiles.keep
recall: Any = tiles.recall
split: Any = tiles.split
six: Any = tiles.six
transpose: Any = tiles.transpose
interleave: Any = tiles.interleave
move: Any = tiles.move

COLUMNS, DEPTH = 128, 1024  # of the result that one pass over the rows makes, steps that it adds up
ROWS = 512  # at most in a task: its planes stay in the nearer caches


def room(rows: int, steps: int) -> int:
    """Bytes of scratch for a task of so many rows and products of that many steps."""
    depth = min(steps, DEPTH)
    left, right, lines = 6 * depth * (rows + 31), 6 * COLUMNS * depth, 6 * 32 * max(depth, COLUMNS)
    return 64 + 4096 + left + right + lines


@register_jitable
def plane_rows(x: Any, stride: Any, rows: Any, depth: Any, out: Any) -> None:
    """Rows of x as planes: blocks of 32 rows, blocks of 32 steps, plane, row; the last row fills the last block."""
    for i in range(0, rows, 32):
        for row in range(32):
            source = x + 4 * min(i + row, rows - 1) * stride
            for k in range(0, depth, 32):
                at = out + 6 * i * depth + 192 * k + 64 * row
                split(source + 4 * k, at, at + 2048, at + 4096)
                split(source + 4 * k + 64, at + 32, at + 2080, at + 4128)


@register_jitable
def pack_rows(weight: Any, stride: Any, depth: Any, count: Any, lines: Any, packed: Any) -> None:
    """Rows of W (columns of xWᵀ), fp32, as tiles: block of columns, block of steps, plane."""
    plane = 2 * 32 * depth
    for c in range(0, count, 32):
        for r in range(32):
            for k in range(0, depth, 16):
                at = lines + 2 * (r * depth + k)
                split(weight + 4 * ((c + r) * stride + k), at, at + plane, at + 2 * plane)
        for k in range(0, depth, 32):
            for p in range(3):
                source, out = lines + p * plane + 2 * k, packed + 6 * c * depth + 192 * k + 2048 * p
                transpose(source, 2 * depth, out, 64)
                transpose(source + 32 * depth, 2 * depth, out + 1024, 64)


@register_jitable
def pack_columns(weight: Any, stride: Any, depth: Any, count: Any, lines: Any, packed: Any) -> None:
    """Columns of W (of xW), fp32, as the same tiles."""
    for k in range(0, depth, 32):
        for r in range(32):
            for c in range(0, count, 16):
                at = lines + 2 * (r * COLUMNS + c)
                split(weight + 4 * ((k + r) * stride + c), at, at + 64 * COLUMNS, at + 128 * COLUMNS)
        for c in range(0, count, 16):
            for p in range(3):
                out = packed + 6 * (c // 32) * 32 * depth + 192 * k + 2048 * p + 64 * (c % 32)
                for r in range(0, 32, 2):
                    source = lines + 64 * COLUMNS * p + 2 * (r * COLUMNS + c)
                    interleave(source, source + 2 * COLUMNS, out + 32 * r)


def _product(
    tasks: Any, x: Any, steps: Any, weight: Any, transposed: Any, width: Any, y: Any, work: Any, shapes: Any
) -> None:
    """Rows and columns of each task (first row, last, first column, last) of y = x Wᵀ, or x W where `transposed`.

    x (rows, steps), y (rows, width) and W, (width, steps) or (steps, width), are addresses of fp32; widths and steps
    are multiples of 32, a task has at most `ROWS` rows.
    """
    base = (work.ctypes.data + 63) // 64 * 64
    depth = min(steps, DEPTH)
    sums, lines = base, base + 4096
    packed = lines + 192 * max(depth, COLUMNS)
    left = packed + 6 * COLUMNS * depth
    configure(shapes.ctypes.data)
    for task in range(len(tasks)):
        top, bottom = tasks[task, 0], tasks[task, 1]
        for begin in range(0, steps, DEPTH):
            depth = min(DEPTH, steps - begin)
            plane_rows(x + 4 * (top * steps + begin), steps, bottom - top, depth, left)
            for first in range(tasks[task, 2], tasks[task, 3], COLUMNS):
                count = min(COLUMNS, tasks[task, 3] - first)
                if transposed:
                    pack_columns(weight + 4 * (begin * width + first), width, depth, count, lines, packed)
                else:
                    pack_rows(weight + 4 * (first * steps + begin), steps, depth, count, lines, packed)
                for i in range(0, bottom - top, 32):
                    rows = min(32, bottom - top - i)
                    for c in range(0, count, 32):
                        out, stride = y + 4 * ((top + i) * width + first + c), 4 * width
                        if rows < 32:
                            for row in range(rows):
                                move(sums + 128 * row, out + row * stride)
                                move(sums + 128 * row + 64, out + row * stride + 64)
                        if begin == 0:
                            clear()
                        elif rows < 32:
                            recall(sums, 128)
                        else:
                            recall(out, stride)
                        for k in range(0, depth, 32):
                            six(left + 6 * i * depth + 192 * k, packed + 6 * c * depth + 192 * k)
                        if rows == 32:
                            keep(out, stride)
                            continue
                        keep(sums, 128)
                        for row in range(rows):
                            move(out + row * stride, sums + 128 * row)
                            move(out + row * stride + 64, sums + 128 * row + 64)
    release()


product = kernel(_product, error_model="numpy")
