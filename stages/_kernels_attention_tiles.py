"""Causal attention of documents back to back on tile registers (AMX), forward and backward, rotary positions within.

As :mod:`._kernels_attention`, a compiled loop over documents and heads, with products of 32 × 32 blocks. Scores are
taken transposed, Sᵀ = K Qᵀ, so that queries lie in lanes; outputs and gradients of queries come transposed out of it
and are turned when they are written. Weights and slopes are rounded to bf16 for their products, all sums are fp32.

A block is packed as a left factor (32 rows of 64 bytes) or a right one (two tiles of 16 pairs of rows). Of X's left
blocks, turning each square of 16 × 16 words gives the right blocks of Xᵀ, pairing rows the right ones of X, and
turning those the left ones of Xᵀ. In fp32 a block is three planes that add up to it, and a product six
(:mod:`._kernels_split`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import register_jitable

from .._compile import kernel
from . import _attention_steps as steps
from . import _kernels_tiles as tiles
from ._kernels import FASTMATH

__all__ = ["backward", "backward_room", "forward", "forward_room"]

# Called without the typing contexts that their definitions take.
configure: Any = tiles.configure
release: Any = tiles.release
clear: Any = tiles.clear
keep: Any = tiles.keep
recall: Any = tiles.recall
multiply: Any = tiles.multiply
six: Any = tiles.six
interleave: Any = tiles.interleave
transpose: Any = tiles.transpose
fetch: Any = steps.fetch
fetch32: Any = steps.fetch32
turn: Any = steps.turn
turn32: Any = steps.turn32
give: Any = steps.give
give32: Any = steps.give32
give_turned: Any = steps.give_turned
give_turned32: Any = steps.give_turned32
dot: Any = steps.dot
dot32: Any = steps.dot32
highest: Any = steps.highest
weights: Any = steps.weights
weights32: Any = steps.weights32
slopes: Any = steps.slopes
slopes32: Any = steps.slopes32

CHUNK = 4  # blocks of queries, and of keys, whose weights are held at a time on the way back
SUMS, PLANE = 4096, 2048  # bytes of a block of sums, and of a plane of a packed one
LOG2E = np.float32(1.4426950408889634)
one, zero, lowest = np.float32(1.0), np.float32(0.0), np.float32(-3e38)
never = np.float32(1e30)  # stands for the logarithm of a sum of weights, so that these are 0


def _blocks(longest: int, dim: int) -> tuple[int, int]:
    return -(-longest // 32), -(-dim // 32)


def forward_room(longest: int, dim: int, planes: int) -> int:
    """Bytes of scratch for documents of up to `longest` tokens and heads of `dim`."""
    n, d = _blocks(longest, dim)
    return 64 + planes * PLANE * (2 * n * d + 2 * d + n + 1) + SUMS * (n + 2 * d)


def backward_room(longest: int, dim: int, planes: int) -> int:
    """Bytes of scratch for the way back."""
    n, d = _blocks(longest, dim)
    packed = planes * PLANE * (3 * n * d + d + 4 * CHUNK * d + 3 * CHUNK * CHUNK + 1)
    return 64 + packed + SUMS * (2 * n * d + CHUNK * d + d + 2)


@register_jitable
def add(left: Any, right: Any, planes: Any) -> None:
    """Add the product of two packed blocks to the sums."""
    if planes == 1:
        multiply(left, left + 1024, 64, right, right + 1024)
    else:
        six(left, right)


@register_jitable
def pack(x: Any, rows: Any, stride: Any, dim: Any, planes: Any, turned: Any, cos: Any, sin: Any, out: Any) -> None:
    """Up to 32 rows of one head, `stride` bytes apart, to left blocks, filled up with zeros; rotated if `turned`."""
    size = PLANE * planes
    item = 2 if planes == 1 else 4
    for r in range(32):
        source = x + min(r, rows - 1) * stride
        if turned:
            angle = min(r, rows - 1) * dim * item
            half = dim // 2
            for c in range(0, half, 16):
                count = 16 if r < rows else 0
                one_at = out + size * (c // 32) + 64 * r + 2 * (c % 32)
                two_at = out + size * ((c + half) // 32) + 64 * r + 2 * ((c + half) % 32)
                at = c * item
                if planes == 1:
                    turn(source + at, half, cos + angle + at, sin + angle + at, count, one_at, two_at)
                else:
                    turn32(source + at, half, cos + angle + at, sin + angle + at, count, one_at, two_at)
        else:
            for c in range(0, (dim + 31) // 32 * 32, 16):
                count = min(16, dim - c) if r < rows else 0
                place = out + size * (c // 32) + 64 * r + 2 * (c % 32)
                if planes == 1:
                    fetch(source + c * item, count, place)
                else:
                    fetch32(source + c * item, count, place)


@register_jitable
def turn_tiles(source: Any, out: Any, planes: Any) -> None:
    """Squares of a block turned: left blocks of X to right ones of its transpose, and right ones to left ones."""
    for tile in range(0, PLANE * planes, 1024):
        transpose(source + tile, 64, out + tile, 64)


@register_jitable
def pair_rows(source: Any, out: Any, planes: Any) -> None:
    """A left block of X to a right one."""
    for plane in range(0, PLANE * planes, PLANE):
        for pair in range(16):
            row = source + plane + 128 * pair
            interleave(row, row + 64, out + plane + 64 * pair)
            interleave(row + 32, row + 96, out + plane + 1024 + 64 * pair)


@register_jitable
def unpack(
    sums: Any, rows: Any, factors: Any, step: Any, dim: Any, planes: Any, turned: Any, cos: Any, sin: Any,
    out: Any, stride: Any,
) -> None:  # fmt: skip
    """Rows of blocks of sums, each times its factor (`step` bytes apart), to one head; rotated back if `turned`."""
    item = 2 if planes == 1 else 4
    for r in range(rows):
        place, source, factor = out + r * stride, sums + 128 * r, factors + step * r
        if turned:
            angle, half = r * dim * item, dim // 2
            for c in range(0, half, 16):
                one_at = source + SUMS * (c // 32) + 4 * (c % 32)
                two_at = source + SUMS * ((c + half) // 32) + 4 * ((c + half) % 32)
                at = c * item
                if planes == 1:
                    give_turned(one_at, two_at, factor, cos + angle + at, sin + angle + at, 16, place + at, half)
                else:
                    give_turned32(one_at, two_at, factor, cos + angle + at, sin + angle + at, 16, place + at, half)
        else:
            for c in range(0, dim, 16):
                one_at, count = source + SUMS * (c // 32) + 4 * (c % 32), min(16, dim - c)
                if planes == 1:
                    give(one_at, factor, count, place + c * item)
                else:
                    give32(one_at, factor, count, place + c * item)


@register_jitable
def turn_sums(source: Any, out: Any) -> None:
    """A block of sums to its transpose."""
    for r in range(2):
        for c in range(2):
            transpose(source + 2048 * r + 64 * c, 128, out + 2048 * c + 64 * r, 128)


def _forward(
    tasks: Any, q: Any, k: Any, v: Any, cos: Any, sin: Any, scale: Any, planes: Any, work: Any, shapes: Any,
    out: Any, total: Any,
) -> None:  # fmt: skip
    """For each task (first token, tokens, key head): q, out (N, heads, d), k, v (N, key heads, d), total (heads, N).

    cos and sin (N, d) rotate q and k; they may be empty. d is a multiple of 32 where they are not.
    """
    heads, dim = q.shape[1], q.shape[2]
    groups = heads // k.shape[1]
    item = 2 if planes == 1 else 4
    wide, size, turned = (dim + 31) // 32, PLANE * planes, cos.size > 0
    q_row, k_row = heads * dim * item, k.shape[1] * dim * item
    inner = np.float32(scale * LOG2E)
    keys = (work.ctypes.data + 63) // 64 * 64
    tops = np.empty(32, np.float32)
    masses = np.empty(32, np.float32)
    configure(shapes.ctypes.data)
    for t in range(len(tasks)):
        start, n, key_head = tasks[t, 0], tasks[t, 1], tasks[t, 2]
        blocks = (n + 31) // 32
        part = blocks * wide * size
        values = keys + part
        line = values + part
        queries = line + wide * size
        paired = queries + wide * size
        pairs = paired + size
        scores = pairs + blocks * size
        sums = scores + blocks * SUMS
        rows = sums + wide * SUMS
        for j in range(blocks):
            first = start + 32 * j
            count = min(32, n - 32 * j)
            here = first * k_row + key_head * dim * item
            angle = first * dim * item
            pack(
                k.ctypes.data + here, count, k_row, dim, planes, turned, cos.ctypes.data + angle,
                sin.ctypes.data + angle, keys + j * wide * size,
            )  # fmt: skip
            pack(v.ctypes.data + here, count, k_row, dim, planes, False, 0, 0, line)
            for c in range(wide):
                pair_rows(line + c * size, paired, planes)
                turn_tiles(paired, values + (j * wide + c) * size, planes)
        for head in range(key_head * groups, (key_head + 1) * groups):
            for i in range(blocks):
                first = start + 32 * i
                count = min(32, n - 32 * i)
                here = first * q_row + head * dim * item
                angle = first * dim * item
                pack(
                    q.ctypes.data + here, count, q_row, dim, planes, turned, cos.ctypes.data + angle,
                    sin.ctypes.data + angle, line,
                )  # fmt: skip
                for c in range(wide):
                    turn_tiles(line + c * size, queries + c * size, planes)
                for r in range(32):
                    tops[r] = lowest
                    masses[r] = zero
                for j in range(i + 1):
                    clear()
                    for c in range(wide):
                        add(keys + (j * wide + c) * size, queries + c * size, planes)
                    keep(scores + j * SUMS, 128)
                    highest(scores + j * SUMS, 32 * (j - i), tops.ctypes.data)
                for j in range(i + 1):
                    if planes == 1:
                        weights(
                            scores + j * SUMS, 32 * (j - i), inner, tops.ctypes.data, masses.ctypes.data,
                            pairs + j * size,
                        )  # fmt: skip
                    else:
                        weights32(
                            scores + j * SUMS, 32 * (j - i), inner, tops.ctypes.data, masses.ctypes.data,
                            pairs + j * size,
                        )  # fmt: skip
                for c in range(wide):
                    clear()
                    for j in range(i + 1):
                        add(values + (j * wide + c) * size, pairs + j * size, planes)
                    keep(sums + c * SUMS, 128)
                    turn_sums(sums + c * SUMS, rows + c * SUMS)
                for r in range(count):
                    total[head, first + r] = tops[r] * scale + np.log(masses[r])
                for r in range(32):
                    masses[r] = one / masses[r]
                unpack(
                    rows, count, masses.ctypes.data, 4, dim, planes, False, 0, 0, out.ctypes.data + here, q_row
                )  # fmt: skip
    release()


def _backward(
    tasks: Any, q: Any, k: Any, v: Any, cos: Any, sin: Any, scale: Any, planes: Any, work: Any, shapes: Any,
    out: Any, total: Any, grad: Any, dq: Any, dk: Any, dv: Any,
) -> None:  # fmt: skip
    """With P the weights: dV = Pᵀ·dO, dS = P ∘ (dO·Vᵀ - rowsum(dO ∘ O)), dQᵀ = Kᵀ·dSᵀ, dK = dSᵀ·Q."""
    heads, dim = q.shape[1], q.shape[2]
    groups = heads // k.shape[1]
    item = 2 if planes == 1 else 4
    wide, size, turned = (dim + 31) // 32, PLANE * planes, cos.size > 0
    q_row, k_row = heads * dim * item, k.shape[1] * dim * item
    inner = np.float32(scale * LOG2E)
    keys = (work.ctypes.data + 63) // 64 * 64
    totals, pulls = np.empty(32 * CHUNK, np.float32), np.empty(32 * CHUNK, np.float32)
    factors = np.array([scale, one], np.float32)
    line = keys
    queries = line + wide * size
    query_rows = queries + CHUNK * wide * size
    grads = query_rows + CHUNK * wide * size
    grad_rows = grads + CHUNK * wide * size
    given = grad_rows + CHUNK * wide * size
    bent = given + CHUNK * CHUNK * size
    pairs = bent + CHUNK * CHUNK * size
    paired = pairs + CHUNK * CHUNK * size
    scores = paired + size
    changes = scores + SUMS
    sums = changes + SUMS
    rows = sums + CHUNK * wide * SUMS
    keys = rows + wide * SUMS
    configure(shapes.ctypes.data)
    for t in range(len(tasks)):
        start, n, key_head = tasks[t, 0], tasks[t, 1], tasks[t, 2]
        blocks = (n + 31) // 32
        part = blocks * wide * size
        values = keys + part
        key_lines = values + part
        d_keys = key_lines + part
        d_values = d_keys + blocks * wide * SUMS
        for j in range(blocks):
            first = start + 32 * j
            count = min(32, n - 32 * j)
            here = first * k_row + key_head * dim * item
            angle = first * dim * item
            place = j * wide * size
            pack(
                k.ctypes.data + here, count, k_row, dim, planes, turned, cos.ctypes.data + angle,
                sin.ctypes.data + angle, keys + place,
            )  # fmt: skip
            pack(v.ctypes.data + here, count, k_row, dim, planes, False, 0, 0, values + place)
            for c in range(wide):
                pair_rows(keys + place + c * size, paired, planes)
                turn_tiles(paired, key_lines + place + c * size, planes)
        for head in range(key_head * groups, (key_head + 1) * groups):
            for top in range(0, blocks, CHUNK):
                bottom = min(blocks, top + CHUNK)
                for i in range(top, bottom):
                    first = start + 32 * i
                    count = min(32, n - 32 * i)
                    here = first * q_row + head * dim * item
                    angle = first * dim * item
                    place = (i - top) * wide * size
                    pack(
                        q.ctypes.data + here, count, q_row, dim, planes, turned, cos.ctypes.data + angle,
                        sin.ctypes.data + angle, line,
                    )  # fmt: skip
                    for c in range(wide):
                        turn_tiles(line + c * size, queries + place + c * size, planes)
                        pair_rows(line + c * size, query_rows + place + c * size, planes)
                    pack(grad.ctypes.data + here, count, q_row, dim, planes, False, 0, 0, line)
                    for c in range(wide):
                        turn_tiles(line + c * size, grads + place + c * size, planes)
                        pair_rows(line + c * size, grad_rows + place + c * size, planes)
                    for r in range(32):
                        row = 32 * (i - top) + r
                        if r >= count:
                            totals[row] = never
                            pulls[row] = zero
                            continue
                        totals[row] = total[head, first + r] * LOG2E
                        one_at, two_at = grad.ctypes.data + here + r * q_row, out.ctypes.data + here + r * q_row
                        if planes == 1:
                            dot(one_at, two_at, dim, pulls.ctypes.data + 4 * row)
                        else:
                            dot32(one_at, two_at, dim, pulls.ctypes.data + 4 * row)
                for left in range(0, bottom, CHUNK):
                    right = min(bottom, left + CHUNK)
                    for j in range(left, right):
                        for i in range(max(top, j), bottom):
                            clear()
                            for c in range(wide):
                                add(keys + (j * wide + c) * size, queries + ((i - top) * wide + c) * size, planes)
                            keep(scores, 128)
                            clear()
                            for c in range(wide):
                                add(values + (j * wide + c) * size, grads + ((i - top) * wide + c) * size, planes)
                            keep(changes, 128)
                            place = ((j - left) * CHUNK + i - top) * size
                            at = 128 * (i - top)
                            if planes == 1:
                                slopes(
                                    scores, changes, 32 * (j - i), inner, totals.ctypes.data + at,
                                    pulls.ctypes.data + at, given + place, bent + place, pairs + place,
                                )  # fmt: skip
                            else:
                                slopes32(
                                    scores, changes, 32 * (j - i), inner, totals.ctypes.data + at,
                                    pulls.ctypes.data + at, given + place, bent + place, pairs + place,
                                )  # fmt: skip
                    fresh = head == key_head * groups and left == top
                    for j in range(left, right):
                        for c in range(wide):
                            place = (j * wide + c) * SUMS
                            begin(d_values + place, fresh)
                            for i in range(max(top, j), bottom):
                                at = ((j - left) * CHUNK + i - top) * size
                                add(given + at, grad_rows + ((i - top) * wide + c) * size, planes)
                            keep(d_values + place, 128)
                            begin(d_keys + place, fresh)
                            for i in range(max(top, j), bottom):
                                at = ((j - left) * CHUNK + i - top) * size
                                add(bent + at, query_rows + ((i - top) * wide + c) * size, planes)
                            keep(d_keys + place, 128)
                    for i in range(top, bottom):
                        for c in range(wide):
                            place = ((i - top) * wide + c) * SUMS
                            begin(sums + place, left == 0)
                            for j in range(left, min(right, i + 1)):
                                at = ((j - left) * CHUNK + i - top) * size
                                add(key_lines + (j * wide + c) * size, pairs + at, planes)
                            keep(sums + place, 128)
                for i in range(top, bottom):
                    first = start + 32 * i
                    here = first * q_row + head * dim * item
                    angle = first * dim * item
                    for c in range(wide):
                        turn_sums(sums + ((i - top) * wide + c) * SUMS, rows + c * SUMS)
                    unpack(
                        rows, min(32, n - 32 * i), factors.ctypes.data, 0, dim, planes, turned,
                        cos.ctypes.data + angle, sin.ctypes.data + angle, dq.ctypes.data + here, q_row,
                    )  # fmt: skip
        for j in range(blocks):
            first = start + 32 * j
            count = min(32, n - 32 * j)
            here = first * k_row + key_head * dim * item
            angle = first * dim * item
            place = j * wide * SUMS
            unpack(
                d_keys + place, count, factors.ctypes.data, 0, dim, planes, turned, cos.ctypes.data + angle,
                sin.ctypes.data + angle, dk.ctypes.data + here, k_row,
            )  # fmt: skip
            unpack(
                d_values + place, count, factors.ctypes.data + 4, 0, dim, planes, False, 0, 0,
                dv.ctypes.data + here, k_row,
            )  # fmt: skip
    release()


@register_jitable
def begin(sums: Any, fresh: Any) -> None:
    """Zeros, or the sums so far."""
    if fresh:
        clear()
    else:
        recall(sums, 128)


forward = kernel(_forward, error_model="numpy", fastmath=FASTMATH)
backward = kernel(_backward, error_model="numpy", fastmath=FASTMATH)
