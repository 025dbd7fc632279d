"""Rows of a head into packed blocks and out of blocks of sums, rotated by their positions on the way: intrinsics.

Everything is on blocks of 32 × 32 whose places come as addresses. Most functions are there twice: in bf16, and in fp32
(32 behind the name), where a packed block is three planes of bf16 that add up to it (:mod:`._attention_lanes`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from ._attention_lanes import (
    BOTH,
    PLANE,
    ROW,
    constant,
    each,
    every,
    external,
    fma,
    halves_of,
    item_size,
    joined,
    leading,
    offset,
    parts,
    put,
    take,
    whole,
)
from ._kernels_tiles import _FLOAT, _FLOATS, _LANES, _LONG, _WORD, _at, _load, _past, _steps, _store

__all__ = [
    "blank",
    "copy",
    "copy32",
    "dot",
    "dot32",
    "fetch",
    "fetch32",
    "give",
    "give32",
    "give_block",
    "give_block32",
    "give_turned",
    "give_turned32",
    "prefetch",
    "turn",
    "turn32",
    "widen",
]


def _fetcher(wide: bool) -> Any:
    def code(b: Any, source: Any, count: Any, out: Any) -> None:
        for plane, part in enumerate(parts(b, take(b, source, leading(b, count), wide), wide)):
            _store(b, part, _past(b, out, PLANE * plane))

    @intrinsic
    def fetch(typing: Any, source: Any, count: Any, out: Any) -> Any:
        """The first `count` of 16 numbers into a packed row, zeros behind."""
        return _steps([types.intp] * 3, code)

    return fetch


def _copier(wide: bool) -> Any:
    def code(b: Any, source: Any, stride: Any, rows: Any, out: Any) -> None:
        def row(source: Any, out: Any) -> None:
            if not wide:
                _store(b, _load(b, source, BOTH), out)
                return
            low, high = (_load(b, _past(b, source, 64 * half), _FLOATS) for half in range(2))
            for plane, line in enumerate(joined(b, low, high, True)):
                _store(b, line, _past(b, out, PLANE * plane))

        each(b, rows, [(source, stride), (out, _LONG(64))], row)

    @intrinsic
    def copy(typing: Any, source: Any, stride: Any, rows: Any, out: Any) -> Any:
        """32 numbers of each row, `stride` bytes apart, to a left block."""
        return _steps([types.intp] * 4, code)

    return copy


def _rotation(b: Any, pair: Sequence[Any], tables: Sequence[Any], apart: Any, sign: int) -> list[Any]:
    """Sixteen of each half of a row, rotated by its position; `sign` -1: by the transposed rotation."""
    x, y = pair
    places = (_LONG(0), b.mul(apart, _LONG(4)))
    c, c2, s, s2 = (_load(b, b.add(table, place), _FLOATS) for table in tables for place in places)
    if sign < 0:
        s, s2 = b.fneg(s2), b.fneg(s)
    return [fma(b, x, c, b.fneg(b.fmul(y, s))), fma(b, y, c2, b.fmul(x, s2))]


def _turner(wide: bool) -> Any:
    def code(
        b: Any, source: Any, stride: Any, rows: Any, apart: Any, cos: Any, sin: Any, line: Any, out: Any, further: Any
    ) -> None:
        def row(source: Any, cos: Any, sin: Any, out: Any, further: Any) -> None:
            second = b.add(source, b.mul(apart, _LONG(item_size(wide))))
            pair = [whole(b, at, wide) for at in (source, second)]
            turned = _rotation(b, pair, (cos, sin), apart, 1)
            for plane, line in enumerate(joined(b, turned[0], turned[1], wide)):
                for part, place in zip(halves_of(b, line), (out, further), strict=True):
                    _store(b, part, _past(b, place, PLANE * plane))

        steps = (stride, line, line, _LONG(64), _LONG(64))
        each(b, rows, list(zip((source, cos, sin, out, further), steps, strict=True)), row)

    @intrinsic
    def turn(
        typing: Any, source: Any, stride: Any, rows: Any, apart: Any, cos: Any, sin: Any, line: Any, out: Any,
        further: Any,
    ) -> Any:  # fmt: skip
        """16 numbers of each row and the 16 that lie `apart` from them, rotated, to two columns of left blocks.

        Rows are `stride` bytes apart, those of cos and sin, fp32, `line` bytes.
        """
        return _steps([types.intp] * 9, code)

    return turn


def _giver(wide: bool) -> Any:
    def code(b: Any, source: Any, factors: Any, step: Any, rows: Any, count: Any, out: Any, stride: Any) -> None:
        mask = leading(b, count)

        def row(source: Any, factor: Any, out: Any) -> None:
            values = b.fmul(_load(b, source, _FLOATS), every(b, _load(b, factor, _FLOAT)))
            put(b, values, out, mask, wide)

        each(b, rows, [(source, _LONG(ROW)), (factors, step), (out, stride)], row)

    @intrinsic
    def give(typing: Any, source: Any, factors: Any, step: Any, rows: Any, count: Any, out: Any, stride: Any) -> Any:
        """The first `count` of 16 sums of each row, times its factor, as `give_block`."""
        return _steps([types.intp] * 7, code)

    return give


def _block_giver(wide: bool) -> Any:
    def code(b: Any, source: Any, factors: Any, step: Any, rows: Any, out: Any, stride: Any) -> None:
        def row(source: Any, factor: Any, out: Any) -> None:
            scale = every(b, _load(b, factor, _FLOAT))
            halves = [b.fmul(_load(b, _past(b, source, 64 * half), _FLOATS), scale) for half in range(2)]
            if wide:
                for half, values in enumerate(halves):
                    _store(b, values, _past(b, out, 64 * half))
            else:
                _store(b, joined(b, halves[0], halves[1], False)[0], out)

        each(b, rows, [(source, _LONG(ROW)), (factors, step), (out, stride)], row)

    @intrinsic
    def give_block(typing: Any, source: Any, factors: Any, step: Any, rows: Any, out: Any, stride: Any) -> Any:
        """32 sums of each row, times its factor (`step` bytes apart), to rows `stride` bytes apart."""
        return _steps([types.intp] * 6, code)

    return give_block


def _turned_giver(wide: bool) -> Any:
    def code(
        b: Any, source: Any, further: Any, factor: Any, cos: Any, sin: Any, line: Any, rows: Any, out: Any,
        stride: Any, apart: Any,
    ) -> None:  # fmt: skip
        scale = every(b, _load(b, factor, _FLOAT))

        def row(source: Any, further: Any, cos: Any, sin: Any, out: Any) -> None:
            pair = [b.fmul(_load(b, at, _FLOATS), scale) for at in (source, further)]
            second = b.add(out, b.mul(apart, _LONG(item_size(wide))))
            turned = _rotation(b, pair, (cos, sin), apart, -1)
            given = turned if wide else halves_of(b, joined(b, turned[0], turned[1], False)[0])
            for values, place in zip(given, (out, second), strict=True):
                _store(b, values, place)

        steps = (_LONG(ROW), _LONG(ROW), line, line, stride)
        each(b, rows, list(zip((source, further, cos, sin, out), steps, strict=True)), row)

    @intrinsic
    def give_turned(
        typing: Any, source: Any, further: Any, factor: Any, cos: Any, sin: Any, line: Any, rows: Any, out: Any,
        stride: Any, apart: Any,
    ) -> Any:  # fmt: skip
        """16 sums of each row at two addresses, times a factor and rotated back, to rows and `apart` from them."""
        return _steps([types.intp] * 10, code)

    return give_turned


@intrinsic
def widen(typing: Any, source: Any, count: Any, out: Any) -> Any:
    """bf16 to fp32, sixteen at a time."""

    def code(b: Any, source: Any, count: Any, out: Any) -> None:
        def some(source: Any, out: Any) -> None:
            _store(b, whole(b, source, False), out)

        each(b, b.sdiv(count, _LONG(_LANES)), [(source, _LONG(2 * _LANES)), (out, _LONG(4 * _LANES))], some)

    return _steps([types.intp] * 3, code)


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Ask for a line of the cache, to come into the second one."""

    def code(b: Any, address: Any) -> None:
        place = _at(b, address, ir.IntType(8))
        external(b, "prefetch.p0", ir.VoidType(), place, _WORD(0), _WORD(2), _WORD(1))

    return _steps([types.intp], code)


@intrinsic
def blank(typing: Any, out: Any, lines: Any) -> Any:
    """Zeros for so many times 64 bytes."""

    def code(b: Any, out: Any, lines: Any) -> None:
        nothing = ir.Constant(BOTH, [0] * (2 * _LANES))
        each(b, lines, [(out, _LONG(64))], lambda at: _store(b, nothing, at))

    return _steps([types.intp] * 2, code)


def _dotter(wide: bool) -> Any:
    def code(b: Any, first: Any, second: Any, width: Any, out: Any) -> None:
        before = b.basic_block
        inside, after = b.append_basic_block("columns"), b.append_basic_block("done")
        b.branch(inside)
        b.position_at_end(inside)
        index, total = b.phi(_LONG), b.phi(_FLOATS)
        mask = leading(b, b.sub(width, index))
        pair = [take(b, offset(b, at, index, item_size(wide)), mask, wide) for at in (first, second)]
        new, further = fma(b, pair[0], pair[1], total), b.add(index, _LONG(_LANES))
        for phi, start, following in ((index, _LONG(0), further), (total, constant(0.0), new)):
            phi.add_incoming(start, before)
            phi.add_incoming(following, inside)
        b.cbranch(b.icmp_signed("<", further, width), inside, after)
        b.position_at_end(after)
        name = f"vector.reduce.fadd.v{_LANES}f32"
        _store(b, external(b, name, _FLOAT, _FLOAT(0.0), new, fastmath=("reassoc",)), out)

    @intrinsic
    def dot(typing: Any, first: Any, second: Any, width: Any, out: Any) -> Any:
        """The sum of the products of two rows, in fp32."""
        return _steps([types.intp] * 4, code)

    return dot


fetch, fetch32 = _fetcher(False), _fetcher(True)
copy, copy32 = _copier(False), _copier(True)
turn, turn32 = _turner(False), _turner(True)
give, give32 = _giver(False), _giver(True)
give_block, give_block32 = _block_giver(False), _block_giver(True)
give_turned, give_turned32 = _turned_giver(False), _turned_giver(True)
dot, dot32 = _dotter(False), _dotter(True)
