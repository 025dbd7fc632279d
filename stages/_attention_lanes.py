"""Numbers sixteen at a time, for the intrinsics of attention on tile registers: llvmlite's builder in shorter words.

`wide` stands for fp32, where a packed block is three planes of bf16 that add up to it; without it all is bf16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils

from ._kernels_tiles import _FLOATS, _HALVES, _LANES, _LONG, _WORD, _WORDS, _all, _at, _HalfType, _halves, _load

__all__ = [
    "BOTH",
    "PLANE",
    "ROW",
    "ROWS",
    "constant",
    "each",
    "every",
    "external",
    "floats",
    "fma",
    "halves_of",
    "item_size",
    "joined",
    "lanes",
    "leading",
    "loop",
    "offset",
    "parts",
    "put",
    "take",
    "whole",
]

PLANE = 2048  # bytes from a plane of a block to the next
ROWS, ROW = 32, 128  # of a block of sums: its rows, and bytes from one to the next
BOTH = ir.VectorType(ir.IntType(16), 2 * _LANES)
_PLACES = ir.VectorType(_WORD, 2 * _LANES)


def external(b: Any, name: str, result: Any, *arguments: Any, **how: Any) -> Any:
    insert: Any = cgutils.get_or_insert_function
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return b.call(insert(b.module, kind, f"llvm.{name}"), arguments, **how)


def fma(b: Any, first: Any, second: Any, third: Any) -> Any:
    return external(b, f"fma.v{_LANES}f32", _FLOATS, first, second, third)


def constant(value: float) -> Any:
    return ir.Constant(_FLOATS, [value] * _LANES)


def every(b: Any, value: Any) -> Any:
    """A number in all lanes."""
    kind = ir.VectorType(value.type, _LANES)
    single = b.insert_element(ir.Constant(kind, ir.Undefined), value, _WORD(0))
    return b.shuffle_vector(single, single, ir.Constant(_WORDS, [0] * _LANES))


def lanes(first: int = 0) -> Any:
    return ir.Constant(_WORDS, [first + lane for lane in range(_LANES)])


def leading(b: Any, count: Any) -> Any:
    """The first `count` lanes; none where it is not positive."""
    return b.icmp_signed("<", lanes(), every(b, b.trunc(count, _WORD)))


def item_size(wide: bool) -> int:
    return 4 if wide else 2


def floats(b: Any, values: Any) -> Any:
    """16 bf16, as integers, to fp32."""
    return b.bitcast(b.shl(b.zext(values, _WORDS), _all(16)), _FLOATS)


def take(b: Any, address: Any, mask: Any, wide: bool) -> Any:
    """16 numbers as fp32, zeros where the mask is not set, where nothing is read."""
    kind = _FLOATS if wide else _HALVES
    nothing = ir.Constant(kind, [0] * _LANES)
    name = f"masked.load.v{_LANES}{'f32' if wide else 'i16'}.p0"
    found = external(b, name, kind, _at(b, address, kind), _WORD(1), mask, nothing)
    return found if wide else floats(b, found)


def put(b: Any, values: Any, address: Any, mask: Any, wide: bool) -> None:
    given = values if wide else _halves(b, values)
    name = f"masked.store.v{_LANES}{'f32' if wide else 'i16'}.p0"
    external(b, name, ir.VoidType(), given, _at(b, address, given.type), _WORD(1), mask)


def parts(b: Any, values: Any, wide: bool) -> list[Any]:
    """fp32 to nearest bf16; if `wide`, to three that add up to it."""
    found = [_halves(b, values)]
    while wide and len(found) < 3:
        values = b.fsub(values, floats(b, found[-1]))
        found.append(_halves(b, values))
    return found


def joined(b: Any, low: Any, high: Any, wide: bool, *, paired: bool = False) -> list[Any]:
    """Two vectors of 16 fp32 as 32 bf16, one behind the other or in pairs; if `wide`, as three that add up to them."""
    if not wide:
        half = ir.VectorType(_HalfType(), 2 * _LANES)
        found = b.bitcast(external(b, "x86.avx512bf16.cvtne2ps2bf16.512", half, high, low), BOTH)
        places = [lane // 2 + _LANES * (lane % 2) for lane in range(2 * _LANES)]
        return [b.shuffle_vector(found, found, ir.Constant(_PLACES, places)) if paired else found]
    planes = []
    rest = [low, high]
    for plane in range(3):
        # The nearest bf16, ties away from zero; what is left in the end is one as it is. NaN stays in one of them.
        words = [b.bitcast(values, _WORDS) for values in rest]
        if plane < 2:
            words = [b.and_(b.add(value, _all(0x8000)), _all(-0x10000)) for value in words]
            rest = [b.fsub(values, b.bitcast(value, _FLOATS)) for values, value in zip(rest, words, strict=True)]
        if paired:
            upper = words[1] if plane < 2 else b.and_(words[1], _all(-0x10000))
            planes.append(b.bitcast(b.or_(b.lshr(words[0], _all(16)), upper), BOTH))
        else:
            uppers = ir.Constant(_PLACES, list(range(1, 4 * _LANES, 2)))
            planes.append(b.shuffle_vector(b.bitcast(words[0], BOTH), b.bitcast(words[1], BOTH), uppers))
    return planes


def halves_of(b: Any, values: Any) -> list[Any]:
    """The two sixteens of 32 numbers."""
    return [
        b.shuffle_vector(values, values, ir.Constant(_WORDS, list(range(first, first + _LANES)))) for first in (0, 16)
    ]


def loop(b: Any, times: Any, start: Sequence[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """`body` of each index and of what it returned the time before, at least once."""
    before = b.basic_block
    inside, after = b.append_basic_block("rows"), b.append_basic_block("done")
    b.branch(inside)
    b.position_at_end(inside)
    index = b.phi(_LONG)
    held = [b.phi(value.type) for value in start]
    following = body(index, held)
    further = b.add(index, _LONG(1))
    for phi, first, next_one in zip([index, *held], [_LONG(0), *start], [further, *following], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(next_one, b.basic_block)
    b.cbranch(b.icmp_signed("<", further, times), inside, after)
    b.position_at_end(after)
    return following


def each(b: Any, times: Any, places: Sequence[tuple[Any, Any]], body: Callable[..., None]) -> None:
    """`body` of addresses, so many times; each goes on by its step."""

    def once(index: Any, held: list[Any]) -> list[Any]:
        body(*held)
        return [b.add(address, step) for address, (_, step) in zip(held, places, strict=True)]

    loop(b, times, [address for address, _ in places], once)


def offset(b: Any, address: Any, index: Any, step: int) -> Any:
    return b.add(address, b.mul(index, _LONG(step)))


def whole(b: Any, address: Any, wide: bool) -> Any:
    """16 numbers as fp32."""
    return _load(b, address, _FLOATS) if wide else floats(b, _load(b, address, _HALVES))
