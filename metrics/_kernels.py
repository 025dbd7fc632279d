"""Compiled inner loops: entropies of sums for all pairs of rows, and the five-kernel RBF on a Gram block.

Both are bound by one transcendental function a cell, so both carry their own: a polynomial that the compiler turns
into vector code, where `log2` and `exp` of the C library would be called one number at a time. The loops check
nothing; the public functions in `divergence` and `mmd` do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from .._compile import kernel

__all__ = ["pair_sums", "rbf_block"]


def _int_of_float(typing: Any, value: Any) -> Any:
    """The bits of a float32 as an int32."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.int32))

    return types.int32(types.float32), build


def _float_of_int(typing: Any, value: Any) -> Any:
    """The float32 with the bits of an int32."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), build


_bits: Any = intrinsic(_int_of_float)
_unbits: Any = intrinsic(_float_of_int)

_F = np.float32
# log2(1 + t) / t on t in [sqrt(1/2) - 1, sqrt(2) - 1], least squares on Chebyshev nodes (`_log_coefficients`).
_TINY = _F(1e-37)


def _chebyshev_fit(function: Any, low: float, high: float, degree: int) -> list[float]:
    """Power coefficients (lowest first) of the Chebyshev interpolant of `function`, in float64."""
    fit = np.polynomial.Chebyshev.interpolate(function, degree, domain=[low, high])
    return [float(value) for value in fit.convert(kind=np.polynomial.Polynomial).coef]


_LOG = [
    _F(c) for c in _chebyshev_fit(lambda t: np.log1p(t) / (t * np.log(2)), 0.5**0.5 - 1 - 1e-9, 2**0.5 - 1 + 1.7e-9, 7)
]
_L0, _L1, _L2, _L3, _L4, _L5, _L6, _L7 = _LOG
_EXP = [_F(c) for c in _chebyshev_fit(lambda t: np.exp2(t), -0.5, 0.5, 6)]
_E0, _E1, _E2, _E3, _E4, _E5, _E6 = _EXP
_OFFSET = np.int32(0x3F3504F3)  # bits of sqrt(1/2): the mantissa is taken from [sqrt(1/2), sqrt(2))


def _pair_sums(
    p: Any, q: Any, same: bool, start: int, stop: int, chunk: int, entropy: Any, least: Any, both: Any
) -> None:
    """Add to `entropy`, `least` and `both` the sums over columns `start:stop` for every pair of rows of p and q.

    entropy[i, j] += Σ (p+q) log2(p+q);  least[i, j] += Σ min(p, q);  both[i, j] += Σ [p > 0 and q > 0].
    p (a, V) and q (b, V) are float32; with `same`, p is q and only j > i is filled.
    """
    rows, columns = p.shape[0], q.shape[0]
    for left in range(start, stop, chunk):
        right = min(left + chunk, stop)
        for i in range(rows):
            for j in range(i + 1 if same else 0, columns):
                h = _F(0)
                m = _F(0)
                n = np.int32(0)
                for v in range(left, right):
                    x = p[i, v]
                    y = q[j, v]
                    s = x + y
                    raw = _bits(s + _TINY) - _OFFSET
                    power = raw >> np.int32(23)
                    t = _unbits((raw & np.int32(0x007FFFFF)) + _OFFSET) - _F(1)
                    poly = _L7
                    poly = poly * t + _L6
                    poly = poly * t + _L5
                    poly = poly * t + _L4
                    poly = poly * t + _L3
                    poly = poly * t + _L2
                    poly = poly * t + _L1
                    poly = poly * t + _L0
                    h += s * (_F(power) + t * poly)
                    low = min(x, y)
                    m += low
                    n += np.int32(low > _F(0))
                entropy[i, j] += np.float64(h)
                least[i, j] += np.float64(m)
                both[i, j] += np.float64(n)


def _rbf_block(gram: Any, left: Any, right: Any, scale: float, rows: Any, columns: Any) -> None:
    """Turn inner products into the mean of five RBF kernels, in place, and add up rows and columns.

    gram (a, b) float32: x·yᵀ on entry, the kernel on exit. left (a,), right (b,): squared norms.
    scale = −log2(e) / (2 σ²_max); the five kernels are e, e², e⁴, e⁸, e¹⁶ with e = exp(−d² / (2 σ²_max)).
    """
    scale32 = _F(scale)
    fifth = _F(0.2)
    height, width = gram.shape
    for a in range(height):
        norm = left[a]
        line = gram[a]
        total = _F(0)
        for b in range(width):
            d = norm + right[b] - _F(2) * line[b]
            d = max(d, _F(0))
            z = max(scale32 * d, _F(-126))
            whole = np.int32(z - _F(0.5))  # rounds to nearest: z ≤ 0, conversion cuts towards zero
            f = z - _F(whole)
            poly = _E6
            poly = poly * f + _E5
            poly = poly * f + _E4
            poly = poly * f + _E3
            poly = poly * f + _E2
            poly = poly * f + _E1
            poly = poly * f + _E0
            e = poly * _unbits((whole + np.int32(127)) << np.int32(23))
            e2 = e * e
            e4 = e2 * e2
            e8 = e4 * e4
            value = (e + e2 + e4 + e8 + e8 * e8) * fifth
            line[b] = value
            total += value
        rows[a] += np.float64(total)
        for b in range(width):
            columns[b] += line[b]


_FASTMATH = {"contract", "reassoc", "nsz", "nnan", "ninf"}
pair_sums = kernel(_pair_sums, fastmath=_FASTMATH)
rbf_block = kernel(_rbf_block, fastmath=_FASTMATH)
