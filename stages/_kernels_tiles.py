"""Tile registers from compiled loops: products of bf16 blocks by AMX, and the packing that they ask for.

Numba has no vector types, so each function here is a few instructions on addresses (as integers). A block is 32 × 32:
two tiles of the left factor (16 rows of 32 bf16), two of the right one (16 pairs of rows, 16 columns, a pair to a
word), four sums in fp32. A CPU sums the same way each time, so results do not depend on how rows are cut into blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = [
    "TILES",
    "accumulate",
    "clear",
    "configure",
    "interleave",
    "interleave_narrow",
    "keep",
    "move",
    "multiply",
    "narrow",
    "narrow_both",
    "recall",
    "release",
    "scale",
    "six",
    "split_both",
    "stream",
    "transpose",
]

_LANES = 16


class _HalfType(ir.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _HalfType)

    def __hash__(self) -> int:
        return hash(_HalfType)


_BYTE, _WORD, _LONG, _FLOAT = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()
_POINTER = _BYTE.as_pointer()
_FLOATS, _WORDS, _HALVES = (
    ir.VectorType(_FLOAT, _LANES),
    ir.VectorType(_WORD, _LANES),
    ir.VectorType(ir.IntType(16), _LANES),
)


def _shapes() -> Any:
    """The 64 bytes that describe eight tiles of 16 rows of 64 bytes (palette 1)."""
    shapes = np.zeros(64, np.uint8)
    shapes[0] = 1
    shapes[16:32:2] = 64
    shapes[48:56] = 16
    return shapes


TILES = _shapes()


def _call(builder: Any, name: str, *arguments: Any) -> None:
    insert: Any = cgutils.get_or_insert_function
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.call(insert(builder.module, kind, f"llvm.{name}"), arguments)


def _at(builder: Any, address: Any, kind: Any) -> Any:
    return builder.inttoptr(address, kind.as_pointer())


def _load(builder: Any, address: Any, kind: Any) -> Any:
    return builder.load(_at(builder, address, kind), align=1)


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, _at(builder, address, value.type), align=1)


def _past(builder: Any, address: Any, offset: int) -> Any:
    return builder.add(address, _LONG(offset))


def _all(number: int) -> Any:
    return ir.Constant(_WORDS, [number] * _LANES)


def _halves(builder: Any, values: Any) -> Any:
    """fp32 to the nearest bf16, as 16-bit integers."""
    return builder.bitcast(builder.fptrunc(values, ir.VectorType(_HalfType(), _LANES)), _HALVES)


def _widened(builder: Any, halves: Any) -> Any:
    """bf16, as 16-bit integers, to fp32."""
    return builder.bitcast(builder.shl(builder.zext(halves, _WORDS), _all(16)), _FLOATS)


def _both(builder: Any, address: Any) -> list[Any]:
    return [_load(builder, place, _FLOATS) for place in (address, _past(builder, address, 64))]


def _beside(builder: Any, low: Any, high: Any) -> Any:
    places = ir.Constant(ir.VectorType(_WORD, 2 * _LANES), list(range(2 * _LANES)))
    return builder.shuffle_vector(low, high, places)


def _paired(builder: Any, low: Any, high: Any) -> Any:
    """Two rows of 16-bit integers as words."""
    return builder.or_(builder.zext(low, _WORDS), builder.shl(builder.zext(high, _WORDS), _all(16)))


def _steps(arguments: Any, code: Callable[..., None]) -> Any:
    """A void function of integers and floats whose instructions `code` writes."""

    def whole(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        code(builder, *values)
        return context.get_dummy_value()

    return types.void(*arguments), whole


@intrinsic
def configure(typing: Any, shapes: Any) -> Any:
    """Take the tile registers, with the shapes at this address."""
    return _steps([types.intp], lambda b, at: _call(b, "x86.ldtilecfg", _at(b, at, _BYTE)))


@intrinsic
def release(typing: Any) -> Any:
    """Give the tile registers back."""
    return _steps([], lambda b: _call(b, "x86.tilerelease"))


@intrinsic
def clear(typing: Any) -> Any:
    """Set the four sums to zero."""

    def code(b: Any) -> None:
        for tile in range(4):
            _call(b, "x86.tilezero", _BYTE(tile))

    return _steps([], code)


@intrinsic
def multiply(typing: Any, left: Any, lower: Any, stride: Any, right: Any, further: Any) -> Any:
    """Add to the four sums: rows at `left` and `lower`, `stride` bytes apart, times the packed tiles at the others."""

    def code(b: Any, left: Any, lower: Any, stride: Any, right: Any, further: Any) -> None:
        for tile, at, step in ((4, left, stride), (6, right, _LONG(64)), (7, further, _LONG(64)), (5, lower, stride)):
            _call(b, "x86.tileloadd64", _BYTE(tile), _at(b, at, _BYTE), step)
        for total, one, two in ((0, 4, 6), (1, 4, 7), (2, 5, 6), (3, 5, 7)):
            _call(b, "x86.tdpbf16ps", _BYTE(total), _BYTE(one), _BYTE(two))

    return _steps([types.intp] * 5, code)


@intrinsic
def six(typing: Any, left: Any, right: Any) -> Any:
    """Add to the four sums the six largest products of three planes: 32 rows at `left`, packed tiles at `right`.

    A plane is 2 KiB, the two tiles of it one after the other, their rows 64 bytes apart.
    """

    def code(b: Any, left: Any, right: Any) -> None:
        def take(tiles: tuple[int, int], place: Any, plane: int) -> None:
            for half, tile in enumerate(tiles):
                at = _past(b, place, 2048 * plane + 1024 * half)
                _call(b, "x86.tileloadd64", _BYTE(tile), _at(b, at, _BYTE), _LONG(64))

        # In this order only one plane is read twice; small products come first.
        held = {"left": -1, "right": -1}
        for one, two in ((0, 2), (0, 1), (1, 1), (1, 0), (2, 0), (0, 0)):
            if held["left"] != one:
                take((4, 5), left, one)
            if held["right"] != two:
                take((6, 7), right, two)
            held = {"left": one, "right": two}
            for total, row, column in ((0, 4, 6), (1, 4, 7), (2, 5, 6), (3, 5, 7)):
                _call(b, "x86.tdpbf16ps", _BYTE(total), _BYTE(row), _BYTE(column))

    return _steps([types.intp] * 2, code)


@intrinsic
def keep(typing: Any, out: Any, stride: Any) -> Any:
    """Write the sums, 32 rows of 32 fp32, rows `stride` bytes apart."""
    return _steps([types.intp] * 2, lambda b, out, stride: _quarters(b, "x86.tilestored64", out, stride))


@intrinsic
def recall(typing: Any, source: Any, stride: Any) -> Any:
    """Take sums that were written by `keep`, to add to them."""
    return _steps([types.intp] * 2, lambda b, source, stride: _quarters(b, "x86.tileloadd64", source, stride))


def _quarters(b: Any, what: str, place: Any, stride: Any) -> None:
    lower = b.add(place, b.mul(stride, _LONG(16)))
    for tile, at in enumerate((place, _past(b, place, 64), lower, _past(b, lower, 64))):
        _call(b, what, _BYTE(tile), _at(b, at, _BYTE), stride)


@intrinsic
def move(typing: Any, out: Any, source: Any) -> Any:
    """Copy 64 bytes."""
    return _steps([types.intp] * 2, lambda b, out, at: _store(b, _load(b, at, _WORDS), out))


@intrinsic
def narrow(typing: Any, source: Any, out: Any) -> Any:
    """16 fp32 to 16 bf16."""
    return _steps([types.intp] * 2, lambda b, at, out: _store(b, _halves(b, _load(b, at, _FLOATS)), out))


@intrinsic
def narrow_both(typing: Any, source: Any, out: Any) -> Any:
    """32 fp32 to 32 bf16, a whole line of the cache."""

    def code(b: Any, source: Any, out: Any) -> None:
        _store(b, _beside(b, *(_halves(b, part) for part in _both(b, source))), out)

    return _steps([types.intp] * 2, code)


@intrinsic
def split_both(typing: Any, source: Any, out: Any, apart: Any) -> Any:
    """32 fp32 as three times 32 bf16 that add up to them, `apart` bytes between."""

    def code(b: Any, source: Any, out: Any, apart: Any) -> None:
        rest = _both(b, source)
        for place in range(3):
            # The nearest bf16, ties away from zero; what is left in the end is one as it is. NaN stays in one of them.
            whole = [b.bitcast(half, _WORDS) for half in rest]
            if place < 2:
                whole = [b.and_(b.add(half, _all(0x8000)), _all(-0x10000)) for half in whole]
                rest = [b.fsub(half, b.bitcast(part, _FLOATS)) for half, part in zip(rest, whole, strict=True)]
            upper = ir.Constant(ir.VectorType(_WORD, 2 * _LANES), list(range(1, 4 * _LANES, 2)))
            pairs = [b.bitcast(half, ir.VectorType(ir.IntType(16), 2 * _LANES)) for half in whole]
            _store(b, b.shuffle_vector(*pairs, upper), b.add(out, b.mul(apart, _LONG(place))))

    return _steps([types.intp] * 3, code)


@intrinsic
def interleave_narrow(typing: Any, first: Any, second: Any, out: Any) -> Any:
    """Two rows of 16 fp32 to 16 pairs of bf16."""

    def code(b: Any, first: Any, second: Any, out: Any) -> None:
        low, high = (_halves(b, _load(b, row, _FLOATS)) for row in (first, second))
        _store(b, _paired(b, low, high), out)

    return _steps([types.intp] * 3, code)


@intrinsic
def interleave(typing: Any, first: Any, second: Any, out: Any) -> Any:
    """Two rows of 16 bf16 to 16 pairs."""

    def code(b: Any, first: Any, second: Any, out: Any) -> None:
        _store(b, _paired(b, _load(b, first, _HALVES), _load(b, second, _HALVES)), out)

    return _steps([types.intp] * 3, code)


@intrinsic
def transpose(typing: Any, source: Any, stride: Any, out: Any, apart: Any) -> Any:
    """A square of 16 × 16 words, rows `stride` bytes apart, to its transpose, rows `apart` bytes apart."""

    def code(b: Any, source: Any, stride: Any, out: Any, apart: Any) -> None:
        rows = [_load(b, b.add(source, b.mul(stride, _LONG(row))), _WORDS) for row in range(_LANES)]
        for width in (1, 2, 4, 8):
            # Exchange the off-diagonal quarters of all squares of twice this width.
            first = [lane if not lane & width else lane - width + _LANES for lane in range(_LANES)]
            second = [lane + width if not lane & width else lane + _LANES for lane in range(_LANES)]
            picks = [ir.Constant(_WORDS, lanes) for lanes in (first, second)]
            for row in range(_LANES):
                if not row & width:
                    pair = rows[row], rows[row + width]
                    rows[row], rows[row + width] = (b.shuffle_vector(*pair, pick) for pick in picks)
        for row, values in enumerate(rows):
            _store(b, values, b.add(out, b.mul(apart, _LONG(row))))

    return _steps([types.intp] * 4, code)


@intrinsic
def accumulate(typing: Any, out: Any, source: Any, factor: Any) -> Any:
    """Add `factor` times 16 fp32 to 16 bf16, rounded once."""

    def code(b: Any, out: Any, source: Any, factor: Any) -> None:
        before = _widened(b, _load(b, out, _HALVES))
        _store(b, _halves(b, _scaled(b, before, _load(b, source, _FLOATS), factor)), out)

    return _steps([types.intp, types.intp, types.float32], code)


@intrinsic
def scale(typing: Any, out: Any, source: Any, factor: Any, add: Any) -> Any:
    """Write `factor` times 16 fp32, or add it to what is there."""

    def code(b: Any, out: Any, source: Any, factor: Any, add: Any) -> None:
        nothing = ir.Constant(_FLOATS, [0.0] * _LANES)
        before = b.select(b.icmp_signed("==", add, _LONG(0)), nothing, _load(b, out, _FLOATS))
        _store(b, _scaled(b, before, _load(b, source, _FLOATS), factor), out)

    return _steps([types.intp, types.intp, types.float32, types.intp], code)


@intrinsic
def stream(typing: Any, out: Any, source: Any, factor: Any) -> Any:
    """Write `factor` times 16 fp32 past the caches, to a whole line of them: what is next read much later."""

    def code(b: Any, out: Any, source: Any, factor: Any) -> None:
        values = b.fmul(_every(b, factor), _load(b, source, _FLOATS))
        written = b.store(values, _at(b, out, _FLOATS), align=64)
        written.set_metadata("nontemporal", b.module.add_metadata([_WORD(1)]))

    return _steps([types.intp, types.intp, types.float32], code)


def _every(b: Any, factor: Any) -> Any:
    single = b.insert_element(ir.Constant(_FLOATS, ir.Undefined), factor, _WORD(0))
    return b.shuffle_vector(single, single, ir.Constant(_WORDS, [0] * _LANES))


def _scaled(b: Any, before: Any, values: Any, factor: Any) -> Any:
    insert: Any = cgutils.get_or_insert_function
    fma = insert(b.module, ir.FunctionType(_FLOATS, [_FLOATS] * 3), f"llvm.fma.v{_LANES}f32")
    return b.call(fma, [_every(b, factor), values, before])
