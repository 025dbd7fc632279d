"""Causal attention of documents back to back on tile registers (AMX), forward and backward, rotary positions within.

As :mod:`._kernels_attention`, a compiled loop over documents and heads, with products of 32 × 32 blocks. Scores are
taken transposed, Sᵀ = K Qᵀ, so that queries lie in lanes; outputs and gradients of queries come transposed out of it
and are turned when they are written. Weights and slopes are rounded to bf16 for their products, all sums are fp32.

In fp32 a block is three planes that add up to it, and a product six of theirs (:mod:`._attention_lanes`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._compile import inner, kernel
from . import _attention_rows as rows
from . import _attention_steps as steps
from . import _kernels_tiles as tiles
from ._kernels import FASTMATH
from ._kernels_attention_rows import (
    PLANE,
    SUMS,
    aim,
    angles,
    pack,
    pair_rows,
    reach,
    turn_sums,
    turn_tiles,
    unpack,
)

__all__ = ["backward", "backward_room", "forward", "forward_room"]

# Called without the typing contexts that their definitions take.
configure: Any = tiles.configure
release: Any = tiles.release
clear: Any = tiles.clear
keep: Any = tiles.keep
recall: Any = tiles.recall
multiply: Any = tiles.multiply
six: Any = tiles.six
dot: Any = rows.dot
dot32: Any = rows.dot32
highest: Any = steps.highest
weights: Any = steps.weights
weights32: Any = steps.weights32
slopes: Any = steps.slopes
slopes32: Any = steps.slopes32

CHUNK = 4  # blocks of queries, and of keys, whose weights are held at a time on the way back
FEW = 256 * CHUNK + 64  # bytes for the numbers of a chunk's queries
LOG2E = np.float32(1.4426950408889634)
one, zero, lowest = np.float32(1.0), np.float32(0.0), np.float32(-3e38)
never = np.float32(1e30)  # stands for the logarithm of a sum of weights, so that these are as good as none


def _blocks(longest: int, dim: int) -> tuple[int, int]:
    return -(-longest // 32), -(-dim // 32)


def forward_room(longest: int, dim: int, planes: int) -> int:
    """Bytes of scratch for documents of up to `longest` tokens and heads of `dim`."""
    n, d = _blocks(longest, dim)
    return 64 + FEW + planes * PLANE * (2 * n * d + 2 * d + n + 1) + SUMS * (n + 2 * d + 2 * n * d)


def backward_room(longest: int, dim: int, planes: int) -> int:
    """Bytes of scratch for the way back."""
    n, d = _blocks(longest, dim)
    packed = planes * PLANE * (3 * n * d + d + 4 * CHUNK * d + 3 * CHUNK * CHUNK + 1)
    return 64 + FEW + packed + SUMS * (4 * n * d + CHUNK * d + d + 2)


@inner
def numbers(work: Any) -> Any:
    """The first aligned floats of the scratch. An array made in the loop might be freed while its address is used."""
    head = (work.ctypes.data + 63) // 64 * 64 - work.ctypes.data
    return work[head : head + FEW].view(np.float32)


@inner
def add(left: Any, right: Any, planes: Any) -> None:
    """Add the product of two packed blocks to the sums."""
    if planes == 1:
        multiply(left, left + 1024, 64, right, right + 1024)
    else:
        six(left, right)


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
    octaves = np.float32(scale * LOG2E)
    few, at_tops = numbers(work), (work.ctypes.data + 63) // 64 * 64
    tops, masses, at_masses = few[:32], few[32:64], at_tops + 128
    tables = at_tops + FEW
    document, cosines, sines = -1, tables, tables
    places = (q.ctypes.data, out.ctypes.data, k.ctypes.data, v.ctypes.data)
    ahead = np.zeros(3 + 3 * len(places), np.int64)
    configure(shapes.ctypes.data)
    for t in range(len(tasks)):
        start, n, key_head = tasks[t, 0], tasks[t, 1], tasks[t, 2]
        blocks = (n + 31) // 32
        sites = groups * blocks * (blocks + 1 + wide)
        aim(ahead, tasks, t, sites, places, groups * dim * item, q_row, 2, k_row)
        part = blocks * wide * size
        keys = tables + 2 * blocks * wide * SUMS
        values = keys + part
        line = values + part
        queries = line + wide * size
        paired = queries + wide * size
        pairs = paired + size
        scores = pairs + blocks * size
        sums = scores + blocks * SUMS
        rows = sums + wide * SUMS
        if start != document:
            document = start
            cosines = angles(cos, start, n, planes, tables)
            sines = angles(sin, start, n, planes, tables + blocks * wide * SUMS)
        for j in range(blocks):
            first = start + 32 * j
            count = min(32, n - 32 * j)
            here = first * k_row + key_head * dim * item
            angle = 4 * (first - start) * dim
            pack(
                k.ctypes.data + here, count, k_row, dim, planes, turned, cosines + angle,
                sines + angle, keys + j * wide * size,
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
                angle = 4 * (first - start) * dim
                pack(
                    q.ctypes.data + here, count, q_row, dim, planes, turned, cosines + angle,
                    sines + angle, line,
                )  # fmt: skip
                for c in range(wide):
                    turn_tiles(line + c * size, queries + c * size, planes)
                for r in range(32):
                    tops[r] = lowest
                    masses[r] = zero
                for j in range(i + 1):
                    reach(ahead)
                    clear()
                    for c in range(wide):
                        add(keys + (j * wide + c) * size, queries + c * size, planes)
                    keep(scores + j * SUMS, 128)
                    highest(scores + j * SUMS, 32 * (j - i), at_tops)
                for j in range(i + 1):
                    reach(ahead)
                    if planes == 1:
                        weights(
                            scores + j * SUMS, 32 * (j - i), octaves, at_tops, at_masses,
                            pairs + j * size,
                        )  # fmt: skip
                    else:
                        weights32(
                            scores + j * SUMS, 32 * (j - i), octaves, at_tops, at_masses,
                            pairs + j * size,
                        )  # fmt: skip
                for c in range(wide):
                    reach(ahead)
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
                    rows, count, at_masses, 4, dim, planes, False, 0, 0, out.ctypes.data + here, q_row
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
    octaves = np.float32(scale * LOG2E)
    few, at_totals = numbers(work), (work.ctypes.data + 63) // 64 * 64
    totals, pulls, factors = few[: 32 * CHUNK], few[32 * CHUNK : 64 * CHUNK], few[64 * CHUNK : 64 * CHUNK + 2]
    at_pulls, at_factors = at_totals + 128 * CHUNK, at_totals + 256 * CHUNK
    factors[0], factors[1] = scale, one
    line = at_totals + FEW
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
    tables = rows + wide * SUMS
    document, cosines, sines = -1, tables, tables
    places = (
        q.ctypes.data, grad.ctypes.data, out.ctypes.data, dq.ctypes.data,
        k.ctypes.data, v.ctypes.data, dk.ctypes.data, dv.ctypes.data,
    )  # fmt: skip
    ahead = np.zeros(3 + 3 * len(places), np.int64)
    configure(shapes.ctypes.data)
    for t in range(len(tasks)):
        start, n, key_head = tasks[t, 0], tasks[t, 1], tasks[t, 2]
        blocks = (n + 31) // 32
        sites = groups * blocks * ((blocks + 1) // 2 + 3 * wide)
        aim(ahead, tasks, t, sites, places, groups * dim * item, q_row, 4, k_row)
        part = blocks * wide * size
        keys = tables + 2 * blocks * wide * SUMS
        values = keys + part
        key_lines = values + part
        d_keys = key_lines + part
        d_values = d_keys + blocks * wide * SUMS
        if start != document:
            document = start
            cosines = angles(cos, start, n, planes, tables)
            sines = angles(sin, start, n, planes, tables + blocks * wide * SUMS)
        for j in range(blocks):
            first = start + 32 * j
            count = min(32, n - 32 * j)
            here = first * k_row + key_head * dim * item
            angle = 4 * (first - start) * dim
            place = j * wide * size
            pack(
                k.ctypes.data + here, count, k_row, dim, planes, turned, cosines + angle,
                sines + angle, keys + place,
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
                    angle = 4 * (first - start) * dim
                    place = (i - top) * wide * size
                    pack(
                        q.ctypes.data + here, count, q_row, dim, planes, turned, cosines + angle,
                        sines + angle, line,
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
                            dot(one_at, two_at, dim, at_pulls + 4 * row)
                        else:
                            dot32(one_at, two_at, dim, at_pulls + 4 * row)
                for left in range(0, bottom, CHUNK):
                    right = min(bottom, left + CHUNK)
                    for j in range(left, right):
                        for i in range(max(top, j), bottom):
                            reach(ahead)
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
                                    scores, changes, 32 * (j - i), octaves, at_totals + at,
                                    at_pulls + at, given + place, bent + place, pairs + place,
                                )  # fmt: skip
                            else:
                                slopes32(
                                    scores, changes, 32 * (j - i), octaves, at_totals + at,
                                    at_pulls + at, given + place, bent + place, pairs + place,
                                )  # fmt: skip
                    fresh = head == key_head * groups and left == top
                    for j in range(left, right):
                        for c in range(wide):
                            place = (j * wide + c) * SUMS
                            reach(ahead)
                            begin(d_values + place, fresh)
                            for i in range(max(top, j), bottom):
                                at = ((j - left) * CHUNK + i - top) * size
                                add(given + at, grad_rows + ((i - top) * wide + c) * size, planes)
                            keep(d_values + place, 128)
                            reach(ahead)
                            begin(d_keys + place, fresh)
                            for i in range(max(top, j), bottom):
                                at = ((j - left) * CHUNK + i - top) * size
                                add(bent + at, query_rows + ((i - top) * wide + c) * size, planes)
                            keep(d_keys + place, 128)
                    for i in range(top, bottom):
                        for c in range(wide):
                            place = ((i - top) * wide + c) * SUMS
                            reach(ahead)
                            begin(sums + place, left == 0)
                            for j in range(left, min(right, i + 1)):
                                at = ((j - left) * CHUNK + i - top) * size
                                add(key_lines + (j * wide + c) * size, pairs + at, planes)
                            keep(sums + place, 128)
                for i in range(top, bottom):
                    first = start + 32 * i
                    here = first * q_row + head * dim * item
                    angle = 4 * (first - start) * dim
                    for c in range(wide):
                        turn_sums(sums + ((i - top) * wide + c) * SUMS, rows + c * SUMS)
                    unpack(
                        rows, min(32, n - 32 * i), at_factors, 0, dim, planes, turned,
                        cosines + angle, sines + angle, dq.ctypes.data + here, q_row,
                    )  # fmt: skip
        for j in range(blocks):
            first = start + 32 * j
            count = min(32, n - 32 * j)
            here = first * k_row + key_head * dim * item
            angle = 4 * (first - start) * dim
            place = j * wide * SUMS
            unpack(
                d_keys + place, count, at_factors, 0, dim, planes, turned, cosines + angle,
                sines + angle, dk.ctypes.data + here, k_row,
            )  # fmt: skip
            unpack(
                d_values + place, count, at_factors + 4, 0, dim, planes, False, 0, 0,
                dv.ctypes.data + here, k_row,
            )  # fmt: skip
    release()


@inner
def begin(sums: Any, fresh: Any) -> None:
    """Zeros, or the sums so far."""
    if fresh:
        clear()
    else:
        recall(sums, 128)


forward = kernel(_forward, error_model="numpy", fastmath=FASTMATH)
backward = kernel(_backward, error_model="numpy", fastmath=FASTMATH)
