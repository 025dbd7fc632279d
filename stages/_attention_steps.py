"""Softmax of a block of scores and its derivative, between the products of attention on tile registers: intrinsics.

Scores lie transposed, a key to a row and a query to a lane: maxima, sums and masks of queries then go sixteen at a
time, and weights come out as the next product wants them. In bf16, and in fp32 (32 behind the name), where a packed
block is three planes of bf16 that add up to it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from ._attention_lanes import (
    PLANE,
    ROW,
    ROWS,
    constant,
    every,
    external,
    fma,
    joined,
    lanes,
    loop,
    offset,
)
from ._kernels_tiles import _FLOATS, _LANES, _LONG, _WORD, _load, _past, _steps, _store

__all__ = [
    "highest",
    "slopes",
    "slopes32",
    "weights",
    "weights32",
]

# 2^r for |r| ≤ 1/2, lowest power first: of least relative error, 7e-8 and 2e-9, found by Remez' exchange.
_POWERS = {
    False: (1.000000072, 0.6931469671, 0.2402211972, 0.05550713273, 0.009675541334, 0.001327647199),
    True: (1.000000001, 0.6931472057, 0.2402264689, 0.05550328777, 0.009618488957, 0.001339993122, 0.0001534581201),
}
# What lies below 2^-100 of the whole counts as that: products of it stay clear of the numbers that a CPU treats one by
# one, and minus infinity has a remainder.
_LEAST = -100.0


def _power(b: Any, x: Any, wide: bool) -> Any:
    """2^x, at least 2^-100; NaN stays NaN."""
    x = b.select(b.fcmp_ordered("<", x, constant(_LEAST)), constant(_LEAST), x)
    whole = external(b, f"rint.v{_LANES}f32", _FLOATS, x)
    rest = b.fsub(x, whole)
    powers = _POWERS[wide]
    value = constant(powers[-1])
    for factor in powers[-2::-1]:
        value = fma(b, value, rest, constant(factor))
    name = "x86.avx512.mask.scalef.ps.512"
    full, nearest = ir.IntType(_LANES)(-1), _WORD(4)
    return external(b, name, _FLOATS, value, whole, constant(0.0), full, nearest)


def _seen(b: Any, row: Any, half: int) -> Any:
    """The lanes of a half whose query comes not before the key of this row."""
    return b.icmp_signed(">=", lanes(_LANES * half), every(b, b.trunc(row, _WORD)))


def _only(b: Any, mask: Any, values: Any) -> Any:
    return b.select(mask, values, constant(0.0))


@intrinsic
def highest(typing: Any, scores: Any, first: Any, tops: Any) -> Any:
    """Raise the maxima of 32 queries by a block of scores, whose keys begin `first` behind the queries."""

    def code(b: Any, scores: Any, first: Any, tops: Any) -> None:
        def body(row: Any, held: list[Any]) -> list[Any]:
            at, key = offset(b, scores, row, ROW), b.add(first, row)
            new = []
            for half, top in enumerate(held):
                value = _load(b, _past(b, at, 64 * half), _FLOATS)
                larger = b.select(b.fcmp_ordered(">", top, value), top, value)
                new.append(b.select(_seen(b, key, half), larger, top))
            return new

        places = [_past(b, tops, 64 * half) for half in range(2)]
        for value, place in zip(
            loop(b, _LONG(ROWS), [_load(b, at, _FLOATS) for at in places], body), places, strict=True
        ):
            _store(b, value, place)

    return _steps([types.intp] * 3, code)


def _weigher(wide: bool) -> Any:
    def code(b: Any, scores: Any, first: Any, scale: Any, tops: Any, masses: Any, pairs: Any) -> None:
        factor = every(b, scale)
        places = [_past(b, masses, 64 * half) for half in range(2)]
        top = [_load(b, _past(b, tops, 64 * half), _FLOATS) for half in range(2)]

        def body(pair: Any, held: list[Any]) -> list[Any]:
            at, key = offset(b, scores, pair, 2 * ROW), b.add(first, b.mul(pair, _LONG(2)))
            new = []
            for half, mass in enumerate(held):
                lines = []
                for line in range(2):
                    score = _load(b, _past(b, at, ROW * line + 64 * half), _FLOATS)
                    weight = _power(b, b.fmul(b.fsub(score, top[half]), factor), wide)
                    weight = _only(b, _seen(b, b.add(key, _LONG(line)), half), weight)
                    mass = b.fadd(mass, weight)
                    lines.append(weight)
                new.append(mass)
                for plane, packed in enumerate(joined(b, lines[0], lines[1], wide, paired=True)):
                    _store(b, packed, _past(b, offset(b, pairs, pair, 64), PLANE * plane + 1024 * half))
            return new

        start = [_load(b, place, _FLOATS) for place in places]
        for mass, place in zip(loop(b, _LONG(ROWS // 2), start, body), places, strict=True):
            _store(b, mass, place)

    @intrinsic
    def weights(typing: Any, scores: Any, first: Any, scale: Any, tops: Any, masses: Any, pairs: Any) -> Any:
        """2^(scale · (score - top)) of a block, added to `masses`, and as pairs of keys' rows for the next product."""
        return _steps([types.intp, types.intp, types.float32, types.intp, types.intp, types.intp], code)

    return weights


def _sloper(wide: bool) -> Any:
    def code(
        b: Any, scores: Any, grads: Any, first: Any, scale: Any, totals: Any, pulls: Any, given: Any, rows: Any,
        pairs: Any,
    ) -> None:  # fmt: skip
        factor = every(b, scale)
        shift, pull = ([_load(b, _past(b, at, 64 * half), _FLOATS) for half in range(2)] for at in (totals, pulls))
        shift = [b.fneg(value) for value in shift]

        def body(pair: Any, held: list[Any]) -> list[Any]:
            at, key = offset(b, scores, pair, 2 * ROW), b.add(first, b.mul(pair, _LONG(2)))
            change = offset(b, grads, pair, 2 * ROW)
            slopes: list[list[Any]] = []
            for line in range(2):
                found: tuple[list[Any], list[Any]] = ([], [])
                for half in range(2):
                    score, grad = (_load(b, _past(b, row, ROW * line + 64 * half), _FLOATS) for row in (at, change))
                    mask = _seen(b, b.add(key, _LONG(line)), half)
                    weight = _only(b, mask, _power(b, fma(b, score, factor, shift[half]), wide))
                    slope = _only(b, mask, b.fmul(weight, b.fsub(grad, pull[half])))
                    found[0].append(weight)
                    found[1].append(slope)
                for (low, high), out in zip(found, (given, rows), strict=True):
                    place = _past(b, offset(b, out, pair, 128), 64 * line)
                    for plane, packed in enumerate(joined(b, low, high, wide)):
                        _store(b, packed, _past(b, place, PLANE * plane))
                slopes.append(found[1])
            for half in range(2):
                place = _past(b, offset(b, pairs, pair, 64), 1024 * half)
                for plane, packed in enumerate(joined(b, slopes[0][half], slopes[1][half], wide, paired=True)):
                    _store(b, packed, _past(b, place, PLANE * plane))
            return []

        loop(b, _LONG(ROWS // 2), [], body)

    @intrinsic
    def slopes(
        typing: Any, scores: Any, grads: Any, first: Any, scale: Any, totals: Any, pulls: Any, given: Any, rows: Any,
        pairs: Any,
    ) -> Any:  # fmt: skip
        """The weights 2^(scale · score - total), and times (grad - pull), of a block: as keys' rows, and as pairs."""
        return _steps([*[types.intp] * 3, types.float32, *[types.intp] * 5], code)

    return slopes


weights, weights32 = _weigher(False), _weigher(True)
slopes, slopes32 = _sloper(False), _sloper(True)
