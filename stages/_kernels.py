"""Elementwise chains of a decoder in one pass over memory: machine code for CPUs, fp32 and bf16.

PyTorch runs x·sigmoid(x)·y as three passes with a new array each, a root-mean-square norm as five, rotary positions as
six; on a CPU that is memory traffic several times the arithmetic. These loops do each in one pass, in fp32 inside,
and are plain enough for a vectorising compiler. bf16 arrays come as uint16 with the same bits.
Numba is imported with this module, so import it late.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import overload

from .._compile import inner, kernel

__all__ = ["gate", "gate_back", "norm", "norm_back", "rotate"]

# Sums of a row may be taken in lanes; nothing may assume that there is no NaN, which the loop must see.
FASTMATH = {"contract", "reassoc", "nsz", "arcp"}

one, half = np.float32(1.0), np.float32(0.5)
lowest = np.float32(-87.0)
sixteen, low, most = np.uint32(16), np.uint32(1), np.uint32(0x7FFF)


def load(value: Any) -> Any:
    return value


def store(value: Any, like: Any) -> Any:
    return value


def rounded(value, like):  # type: ignore[no-untyped-def]  # numba compares signatures, annotations included
    bits = np.float32(value).view(np.uint32)  # to the nearest, ties to even
    odd = np.uint32(np.uint32(bits >> sixteen) & low)
    return np.uint16(np.uint32(np.uint32(bits + most) + odd) >> sixteen)


def is_half(kind: Any) -> bool:
    return getattr(kind, "bitwidth", 0) == 16


widened = lambda value: np.uint32(np.uint32(value) << sixteen).view(np.float32)  # noqa: E731
always: Any = {"forceinline": True}  # as `inner`
overload(load, jit_options=always)(lambda value: widened if is_half(value) else lambda value: value)
overload(store, jit_options=always)(lambda value, like: rounded if is_half(like) else lambda value, like: value)


@inner
def exponential(x: Any) -> Any:
    # exp(x) = 2^k · e^r with |r| ≤ ln 2 / 2: a polynomial and an exponent, so that many go at once. x in [-87, 87].
    k = np.floor(x * np.float32(1.4426950408889634) + half)
    r = x - k * np.float32(0.693145751953125) - k * np.float32(1.428606765330187e-06)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    e = p * r * r + r + one
    return e * np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)


@inner
def sigmoid(x: Any) -> Any:
    return one / (one + exponential(min(max(-x, lowest), np.float32(87.0))))


def _gate(g: Any, u: Any, out: Any) -> None:
    for i in range(g.size):
        x = load(g[i])
        out[i] = store(x * sigmoid(x) * load(u[i]), out[i])


def _gate_back(d: Any, g: Any, u: Any, dg: Any, du: Any) -> None:
    for i in range(g.size):
        x, grad = load(g[i]), load(d[i])
        s = sigmoid(x)
        a = x * s
        dg[i] = store(grad * load(u[i]) * (s + a * (one - s)), dg[i])
        du[i] = store(grad * a, du[i])


def _norm(x: Any, weight: Any, eps: Any, out: Any, scale: Any) -> None:
    rows, width = x.shape
    for i in range(rows):
        total = np.float32(0.0)
        for j in range(width):
            value = load(x[i, j])
            total += value * value
        r = one / np.sqrt(total / np.float32(width) + eps)
        scale[i] = r
        for j in range(width):
            # Rounded before the weight, as the model's own norm does.
            unit = load(store(load(x[i, j]) * r, x[i, j]))
            out[i, j] = store(load(weight[j]) * unit, out[i, j])


def _norm_back(d: Any, x: Any, weight: Any, scale: Any, out: Any) -> None:
    rows, width = x.shape
    for i in range(rows):
        r = scale[i]
        total = np.float32(0.0)
        for j in range(width):
            total += load(d[i, j]) * load(weight[j]) * load(x[i, j])
        pull = total * r * r * r / np.float32(width)
        for j in range(width):
            out[i, j] = store(load(d[i, j]) * load(weight[j]) * r - load(x[i, j]) * pull, out[i, j])


def _rotate(x: Any, cos: Any, sin: Any, sign: Any, out: Any) -> None:
    tokens, heads, dim = x.shape
    middle = dim // 2
    for t in range(tokens):
        for h in range(heads):
            for j in range(middle):
                a, b = load(x[t, h, j]), load(x[t, h, j + middle])
                c, s = load(cos[t, j]), load(sin[t, j]) * sign
                c2, s2 = load(cos[t, j + middle]), load(sin[t, j + middle]) * sign
                if sign > 0:
                    out[t, h, j] = store(a * c - b * s, out[t, h, j])
                    out[t, h, j + middle] = store(b * c2 + a * s2, out[t, h, j])
                else:
                    out[t, h, j] = store(a * c - b * s2, out[t, h, j])
                    out[t, h, j + middle] = store(b * c2 + a * s, out[t, h, j])


gate = kernel(_gate, error_model="numpy", fastmath=FASTMATH)
gate_back = kernel(_gate_back, error_model="numpy", fastmath=FASTMATH)
norm = kernel(_norm, error_model="numpy", fastmath=FASTMATH)
norm_back = kernel(_norm_back, error_model="numpy", fastmath=FASTMATH)
rotate = kernel(_rotate, error_model="numpy", fastmath=FASTMATH)
