"""Causal attention of documents back to back, forward and backward, as one compiled loop over documents and heads.

A document's head is packed into fp32 tables of whole tiles; queries go by blocks of 32, each against the keys up to its
own end. All products are sums of one tile, 8 rows by 32 columns held in sixteen vector registers of sixteen floats, so
this is for CPUs with AVX-512; elsewhere PyTorch's kernels are used (:mod:`._attention_cpu`). Softmax and its derivative
run on a block while it is in the nearest cache. bf16 comes as uint16 and is rounded once, at the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .._compile import inner, kernel
from ._kernels import FASTMATH, exponential, load, lowest, one, store
from ._kernels_rows import weigh

__all__ = ["BLOCK", "backward", "forward", "workspace"]

BLOCK = 32  # queries of a block, columns of a tile, and what every packed size is a multiple of
_ROWS, _LANES = 8, 16
zero = np.float32(0.0)


@intrinsic
def tile(
    typing: Any, out: Any, left: Any, right: Any, steps: Any, row: Any, step: Any, across: Any, width: Any, add: Any
) -> Any:
    """out[r, c] = Σ_u left[r·row + u·step] · right[u·across + c] for 8 rows and 32 columns; `add`: on top of `out`.

    `out`, `left` and `right` are addresses; strides, `width` that of `out`, count floats. `steps` is at least 1.
    """
    signature = types.void(*[types.intp] * 9)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number, plain = arguments[0].type, ir.FloatType()
        vector = ir.VectorType(plain, _LANES)
        target, a, b, count, by_row, by_step, by_right, by_out, add = arguments
        four = number(4)

        def moved(base: Any, offset: Any) -> Any:
            return builder.add(base, builder.mul(offset, four))

        def pointer(address: Any, kind: Any) -> Any:
            return builder.inttoptr(address, kind.as_pointer())

        insert: Any = cgutils.get_or_insert_function
        fma = insert(builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{_LANES}f32")
        halves = BLOCK // _LANES
        places = []
        for place in range(_ROWS):
            line = moved(target, builder.mul(number(place), by_out))
            places += [pointer(builder.add(line, number(4 * _LANES * half)), vector) for half in range(halves)]
        fresh, nothing = builder.icmp_signed("==", add, number(0)), ir.Constant(vector, [0.0] * _LANES)
        start = [builder.select(fresh, nothing, builder.load(where, align=4)) for where in places]
        before = builder.basic_block
        loop, after = builder.append_basic_block("tile"), builder.append_basic_block("tiled")
        builder.branch(loop)
        builder.position_at_end(loop)
        index = builder.phi(number)
        index.add_incoming(number(0), before)
        sums = [builder.phi(vector) for _ in range(_ROWS * halves)]
        for value, first in zip(sums, start, strict=True):
            value.add_incoming(first, before)
        begin = moved(b, builder.mul(index, by_right))
        columns = [
            builder.load(pointer(builder.add(begin, number(4 * _LANES * half)), vector), align=4)
            for half in range(halves)
        ]
        at = moved(a, builder.mul(index, by_step))
        following = []
        for place in range(_ROWS):
            value = builder.load(pointer(moved(at, builder.mul(number(place), by_row)), plain), align=4)
            single = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0))
            every = builder.shuffle_vector(
                single, single, ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES)
            )
            following += [
                builder.call(fma, [every, columns[half], sums[place * halves + half]]) for half in range(halves)
            ]
        further = builder.add(index, number(1))
        index.add_incoming(further, loop)
        for value, new in zip(sums, following, strict=True):
            value.add_incoming(new, loop)
        builder.cbranch(builder.icmp_signed("<", further, count), loop, after)
        builder.position_at_end(after)
        for where, value in zip(places, following, strict=True):
            builder.store(value, where, align=4)
        return context.get_dummy_value()

    return signature, code


one_tile: Any = tile  # called without the typing context that its definition takes


@inner
def product(
    out: Any, left: Any, right: Any, rows: Any, columns: Any, steps: Any, row: Any, step: Any, across: Any, width: Any,
    add: Any,
) -> Any:  # fmt: skip
    """A product tile by tile; rows a multiple of 8, columns of 32. Arguments as of `tile`."""
    for r in range(0, rows, 8):
        for c in range(0, columns, 32):
            one_tile(out + 4 * (r * width + c), left + 4 * r * row, right + 4 * c, steps, row, step, across, width, add)


@inner
def pack(x: Any, start: Any, n: Any, head: Any, out: Any) -> None:
    """One head of a document, (n, d) to (n, d) filled up with zeros."""
    out[:, :] = zero
    for i in range(n):
        for c in range(x.shape[2]):
            out[i, c] = load(x[start + i, head, c])


@inner
def turn(x: Any, out: Any) -> None:
    for i in range(x.shape[0]):
        for c in range(x.shape[1]):
            out[c, i] = x[i, c]


def up(count: int) -> int:
    """The next multiple of a block."""
    return -(-count // BLOCK) * BLOCK


def workspace(longest: int, dim: int) -> int:
    """Floats that either loop needs for documents of up to `longest` tokens and heads of `dim`."""
    n, d = up(longest), up(dim)
    return 8 * n * d + 2 * BLOCK * n + BLOCK * d


def _forward(tasks: Any, q: Any, k: Any, v: Any, scale: Any, out: Any, total: Any, work: Any) -> None:
    """For each task (first token, tokens, key head): q, out (N, heads, d), k, v (N, key heads, d), total (heads, N)."""
    dim, groups = q.shape[2], q.shape[1] // k.shape[1]
    wide = (dim + 31) // 32 * 32
    base = work.ctypes.data
    for t in range(len(tasks)):
        start, n, key_head = tasks[t, 0], tasks[t, 1], tasks[t, 2]
        full = (n + 31) // 32 * 32
        part = full * wide
        keys, values = work[:part].reshape((full, wide)), work[part : 2 * part].reshape((full, wide))
        turned, queries = (
            work[2 * part : 3 * part].reshape((wide, full)),
            work[3 * part : 4 * part].reshape((full, wide)),
        )
        s_at, o_at = 4 * part, 4 * part + 32 * full
        scores, result = work[s_at:o_at].reshape((32, full)), work[o_at : o_at + 32 * wide].reshape((32, wide))
        pack(k, start, n, key_head, keys)
        turn(keys, turned)
        pack(v, start, n, key_head, values)
        for head in range(key_head * groups, (key_head + 1) * groups):
            pack(q, start, n, head, queries)
            for i in range(0, full, 32):
                seen = i + 32
                product(
                    base + 4 * s_at,
                    base + 4 * (3 * part + i * wide),
                    base + 8 * part,
                    32,
                    seen,
                    dim,
                    wide,
                    1,
                    full,
                    full,
                    0,
                )
                inverse = np.zeros(32, np.float32)
                for r in range(min(32, n - i)):
                    top, mass = weigh(scores[r, :seen], i + r + 1, scale)
                    total[head, start + i + r] = top * scale + np.log(mass)
                    inverse[r] = one / mass
                for r in range(n - i, 32):
                    scores[r, :seen] = zero
                product(base + 4 * o_at, base + 4 * s_at, base + 4 * part, 32, wide, seen, full, 1, wide, wide, 0)
                for r in range(min(32, n - i)):
                    for c in range(dim):
                        out[start + i + r, head, c] = store(result[r, c] * inverse[r], out[start + i + r, head, c])


def _backward(
    tasks: Any, q: Any, k: Any, v: Any, scale: Any, out: Any, total: Any, work: Any,
    grad: Any, dq: Any, dk: Any, dv: Any,
) -> None:  # fmt: skip
    """With P the weights: dV = Pᵀ·dO, dS = P ∘ (dO·Vᵀ − rowsum(dO ∘ O)), dQ = dS·K, dK = dSᵀ·Q."""
    dim, groups = q.shape[2], q.shape[1] // k.shape[1]
    wide = (dim + 31) // 32 * 32
    base = work.ctypes.data
    for t in range(len(tasks)):
        start, n, key_head = tasks[t, 0], tasks[t, 1], tasks[t, 2]
        full = (n + 31) // 32 * 32
        part = full * wide
        keys, values = work[:part].reshape((full, wide)), work[part : 2 * part].reshape((full, wide))
        key_rows = work[2 * part : 3 * part].reshape((wide, full))
        value_rows = work[3 * part : 4 * part].reshape((wide, full))
        queries, grads = (
            work[4 * part : 5 * part].reshape((full, wide)),
            work[5 * part : 6 * part].reshape((full, wide)),
        )
        d_keys, d_values = (
            work[6 * part : 7 * part].reshape((full, wide)),
            work[7 * part : 8 * part].reshape((full, wide)),
        )
        s_at = 8 * part
        p_at, o_at = s_at + 32 * full, s_at + 64 * full
        scores, slopes = work[s_at:p_at].reshape((32, full)), work[p_at:o_at].reshape((32, full))
        result = work[o_at : o_at + 32 * wide].reshape((32, wide))
        pack(k, start, n, key_head, keys)
        pack(v, start, n, key_head, values)
        turn(keys, key_rows)
        turn(values, value_rows)
        d_keys[:, :] = zero
        d_values[:, :] = zero
        for head in range(key_head * groups, (key_head + 1) * groups):
            pack(q, start, n, head, queries)
            pack(grad, start, n, head, grads)
            for i in range(0, full, 32):
                seen = i + 32
                q_at, g_at = base + 4 * (4 * part + i * wide), base + 4 * (5 * part + i * wide)
                product(base + 4 * s_at, q_at, base + 8 * part, 32, seen, dim, wide, 1, full, full, 0)
                product(base + 4 * p_at, g_at, base + 12 * part, 32, seen, dim, wide, 1, full, full, 0)
                for r in range(32):
                    if i + r >= n:
                        scores[r, :seen] = zero
                        slopes[r, :seen] = zero
                        continue
                    shift, pull = total[head, start + i + r], zero
                    for c in range(dim):
                        pull += grads[i + r, c] * load(out[start + i + r, head, c])
                    row, slope = scores[r, :seen], slopes[r, :seen]
                    for j in range(seen):
                        value = exponential(min(max(row[j] * scale - shift, lowest), -lowest))
                        value = value if j <= i + r else zero
                        row[j] = value
                        slope[j] = value * (slope[j] - pull) * scale if j <= i + r else zero
                product(base + 4 * o_at, base + 4 * p_at, base, 32, wide, seen, full, 1, wide, wide, 0)
                for r in range(min(32, n - i)):
                    for c in range(dim):
                        dq[start + i + r, head, c] = store(result[r, c], dq[start + i + r, head, c])
                product(base + 28 * part, base + 4 * s_at, g_at, seen, wide, 32, 1, full, wide, wide, 1)
                product(base + 24 * part, base + 4 * p_at, q_at, seen, wide, 32, 1, full, wide, wide, 1)
        for i in range(n):
            for c in range(dim):
                dk[start + i, key_head, c] = store(d_keys[i, c], dk[start + i, key_head, c])
                dv[start + i, key_head, c] = store(d_values[i, c], dv[start + i, key_head, c])


forward = kernel(_forward, error_model="numpy", fastmath=FASTMATH)
backward = kernel(_backward, error_model="numpy", fastmath=FASTMATH)
