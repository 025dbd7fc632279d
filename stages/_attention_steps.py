"""What attention on tile registers does between its products, on vector registers: packing, softmax, its derivative.

Everything is on blocks of 32 × 32 whose places come as addresses. Scores lie transposed, a key to a row and a query to
a lane: maxima, sums and masks of queries then go sixteen at a time, and weights come out as the next product wants
them. Most functions are there twice: in bf16, and in fp32 (32 behind the name), where a packed block is three planes
of bf16 that add up to it (:mod:`._kernels_linear`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ._kernels_tiles import (
    _FLOAT,
    _FLOATS,
    _HALVES,
    _LANES,
    _LONG,
    _WORD,
    _WORDS,
    _all,
    _at,
    _halves,
    _load,
    _past,
    _steps,
    _store,
)

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
    "highest",
    "prefetch",
    "slopes",
    "slopes32",
    "turn",
    "turn32",
    "weights",
    "weights32",
    "widen",
]

_PLANE = 2048  # bytes from a plane of a block to the next
_ROWS, _ROW = 32, 128  # of a block of sums: its rows, and bytes from one to the next
_BOTH = ir.VectorType(ir.IntType(16), 2 * _LANES)
# 2^r for |r| ≤ 1/2, lowest power first: of least relative error, 7e-8 and 2e-9, found by Remez' exchange.
_POWERS = {
    False: (1.000000072, 0.6931469671, 0.2402211972, 0.05550713273, 0.009675541334, 0.001327647199),
    True: (1.000000001, 0.6931472057, 0.2402264689, 0.05550328777, 0.009618488957, 0.001339993122, 0.0001534581201),
}
_LEAST = -200.0  # 2^-200 is 0 in fp32; of minus infinity, the remainder below would be NaN


def _external(b: Any, name: str, result: Any, *arguments: Any, **how: Any) -> Any:
    insert: Any = cgutils.get_or_insert_function
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return b.call(insert(b.module, kind, f"llvm.{name}"), arguments, **how)


def _fma(b: Any, first: Any, second: Any, third: Any) -> Any:
    return _external(b, f"fma.v{_LANES}f32", _FLOATS, first, second, third)


def _constant(value: float) -> Any:
    return ir.Constant(_FLOATS, [value] * _LANES)


def _every(b: Any, value: Any) -> Any:
    """A number in all lanes."""
    kind = ir.VectorType(value.type, _LANES)
    single = b.insert_element(ir.Constant(kind, ir.Undefined), value, _WORD(0))
    return b.shuffle_vector(single, single, ir.Constant(_WORDS, [0] * _LANES))


def _lanes(first: int = 0) -> Any:
    return ir.Constant(_WORDS, [first + lane for lane in range(_LANES)])


def _first(b: Any, count: Any) -> Any:
    """The first `count` lanes; none where it is not positive."""
    return b.icmp_signed("<", _lanes(), _every(b, b.trunc(count, _WORD)))


def _size(wide: bool) -> int:
    return 4 if wide else 2


def _floats(b: Any, values: Any) -> Any:
    """16 bf16, as integers, to fp32."""
    return b.bitcast(b.shl(b.zext(values, _WORDS), _all(16)), _FLOATS)


def _take(b: Any, address: Any, mask: Any, wide: bool) -> Any:
    """16 numbers as fp32, zeros where the mask is not set, where nothing is read."""
    kind = _FLOATS if wide else _HALVES
    nothing = ir.Constant(kind, [0] * _LANES)
    name = f"masked.load.v{_LANES}{'f32' if wide else 'i16'}.p0"
    found = _external(b, name, kind, _at(b, address, kind), _WORD(1), mask, nothing)
    return found if wide else _floats(b, found)


def _put(b: Any, values: Any, address: Any, mask: Any, wide: bool) -> None:
    given = values if wide else _halves(b, values)
    name = f"masked.store.v{_LANES}{'f32' if wide else 'i16'}.p0"
    _external(b, name, ir.VoidType(), given, _at(b, address, given.type), _WORD(1), mask)


def _parts(b: Any, values: Any, wide: bool) -> list[Any]:
    """fp32 to nearest bf16; if `wide`, to three that add up to it."""
    found = [_halves(b, values)]
    while wide and len(found) < 3:
        values = b.fsub(values, _floats(b, found[-1]))
        found.append(_halves(b, values))
    return found


def _join(b: Any, low: Any, high: Any, places: Sequence[int]) -> Any:
    """32 of the 16-bit integers of two vectors of sixteen."""
    return b.shuffle_vector(low, high, ir.Constant(ir.VectorType(_WORD, 2 * _LANES), list(places)))


_BESIDE = list(range(2 * _LANES))
_PAIRED = [lane // 2 + _LANES * (lane % 2) for lane in range(2 * _LANES)]


def _loop(b: Any, times: Any, start: Sequence[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
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


def _each(b: Any, times: Any, places: Sequence[tuple[Any, Any]], body: Callable[..., None]) -> None:
    """`body` of addresses, so many times; each goes on by its step."""

    def once(index: Any, held: list[Any]) -> list[Any]:
        body(*held)
        return [b.add(address, step) for address, (_, step) in zip(held, places, strict=True)]

    _loop(b, times, [address for address, _ in places], once)


def _power(b: Any, x: Any, wide: bool) -> Any:
    """2^x, 0 below -200; NaN stays NaN."""
    x = b.select(b.fcmp_ordered("<", x, _constant(_LEAST)), _constant(_LEAST), x)
    whole = _external(b, f"rint.v{_LANES}f32", _FLOATS, x)
    rest = b.fsub(x, whole)
    powers = _POWERS[wide]
    value = _constant(powers[-1])
    for factor in powers[-2::-1]:
        value = _fma(b, value, rest, _constant(factor))
    name = "x86.avx512.mask.scalef.ps.512"
    full, nearest = ir.IntType(_LANES)(-1), _WORD(4)
    return _external(b, name, _FLOATS, value, whole, _constant(0.0), full, nearest)


def _seen(b: Any, row: Any, half: int) -> Any:
    """The lanes of a half whose query comes not before the key of this row."""
    return b.icmp_signed(">=", _lanes(_LANES * half), _every(b, b.trunc(row, _WORD)))


def _only(b: Any, mask: Any, values: Any) -> Any:
    return b.select(mask, values, _constant(0.0))


def _offset(b: Any, address: Any, index: Any, step: int) -> Any:
    return b.add(address, b.mul(index, _LONG(step)))


def _fetcher(wide: bool) -> Any:
    def code(b: Any, source: Any, count: Any, out: Any) -> None:
        for plane, part in enumerate(_parts(b, _take(b, source, _first(b, count), wide), wide)):
            _store(b, part, _past(b, out, _PLANE * plane))

    @intrinsic
    def fetch(typing: Any, source: Any, count: Any, out: Any) -> Any:
        """The first `count` of 16 numbers into a packed row, zeros behind."""
        return _steps([types.intp] * 3, code)

    return fetch


def _whole(b: Any, address: Any, wide: bool) -> Any:
    """16 numbers as fp32."""
    return _load(b, address, _FLOATS) if wide else _floats(b, _load(b, address, _HALVES))


def _copier(wide: bool) -> Any:
    def code(b: Any, source: Any, stride: Any, rows: Any, out: Any) -> None:
        def row(source: Any, out: Any) -> None:
            if not wide:
                _store(b, _load(b, source, _BOTH), out)
                return
            halves = [_parts(b, _load(b, _past(b, source, 64 * half), _FLOATS), True) for half in range(2)]
            for plane, (low, high) in enumerate(zip(*halves, strict=True)):
                _store(b, _join(b, low, high, _BESIDE), _past(b, out, _PLANE * plane))

        _each(b, rows, [(source, stride), (out, _LONG(64))], row)

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
    return [_fma(b, x, c, b.fneg(b.fmul(y, s))), _fma(b, y, c2, b.fmul(x, s2))]


def _turner(wide: bool) -> Any:
    def code(
        b: Any, source: Any, stride: Any, rows: Any, apart: Any, cos: Any, sin: Any, line: Any, out: Any, further: Any
    ) -> None:
        def row(source: Any, cos: Any, sin: Any, out: Any, further: Any) -> None:
            second = b.add(source, b.mul(apart, _LONG(_size(wide))))
            pair = [_whole(b, at, wide) for at in (source, second)]
            turned = _rotation(b, pair, (cos, sin), apart, 1)
            for values, place in zip(turned, (out, further), strict=True):
                for plane, part in enumerate(_parts(b, values, wide)):
                    _store(b, part, _past(b, place, _PLANE * plane))

        steps = (stride, line, line, _LONG(64), _LONG(64))
        _each(b, rows, list(zip((source, cos, sin, out, further), steps, strict=True)), row)

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
        mask = _first(b, count)

        def row(source: Any, factor: Any, out: Any) -> None:
            values = b.fmul(_load(b, source, _FLOATS), _every(b, _load(b, factor, _FLOAT)))
            _put(b, values, out, mask, wide)

        _each(b, rows, [(source, _LONG(_ROW)), (factors, step), (out, stride)], row)

    @intrinsic
    def give(typing: Any, source: Any, factors: Any, step: Any, rows: Any, count: Any, out: Any, stride: Any) -> Any:
        """The first `count` of 16 sums of each row, times its factor, as `give_block`."""
        return _steps([types.intp] * 7, code)

    return give


def _block_giver(wide: bool) -> Any:
    def code(b: Any, source: Any, factors: Any, step: Any, rows: Any, out: Any, stride: Any) -> None:
        def row(source: Any, factor: Any, out: Any) -> None:
            scale = _every(b, _load(b, factor, _FLOAT))
            halves = [b.fmul(_load(b, _past(b, source, 64 * half), _FLOATS), scale) for half in range(2)]
            if wide:
                for half, values in enumerate(halves):
                    _store(b, values, _past(b, out, 64 * half))
            else:
                _store(b, _join(b, _halves(b, halves[0]), _halves(b, halves[1]), _BESIDE), out)

        _each(b, rows, [(source, _LONG(_ROW)), (factors, step), (out, stride)], row)

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
        scale = _every(b, _load(b, factor, _FLOAT))

        def row(source: Any, further: Any, cos: Any, sin: Any, out: Any) -> None:
            pair = [b.fmul(_load(b, at, _FLOATS), scale) for at in (source, further)]
            second = b.add(out, b.mul(apart, _LONG(_size(wide))))
            turned = _rotation(b, pair, (cos, sin), apart, -1)
            for values, place in zip(turned, (out, second), strict=True):
                _store(b, values if wide else _halves(b, values), place)

        steps = (_LONG(_ROW), _LONG(_ROW), line, line, stride)
        _each(b, rows, list(zip((source, further, cos, sin, out), steps, strict=True)), row)

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
            _store(b, _whole(b, source, False), out)

        _each(b, b.sdiv(count, _LONG(_LANES)), [(source, _LONG(2 * _LANES)), (out, _LONG(4 * _LANES))], some)

    return _steps([types.intp] * 3, code)


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Ask for a line of the cache, to come into the second one."""

    def code(b: Any, address: Any) -> None:
        place = _at(b, address, ir.IntType(8))
        _external(b, "prefetch.p0", ir.VoidType(), place, _WORD(0), _WORD(2), _WORD(1))

    return _steps([types.intp], code)


@intrinsic
def blank(typing: Any, out: Any, lines: Any) -> Any:
    """Zeros for so many times 64 bytes."""

    def code(b: Any, out: Any, lines: Any) -> None:
        nothing = ir.Constant(_BOTH, [0] * (2 * _LANES))
        _each(b, lines, [(out, _LONG(64))], lambda at: _store(b, nothing, at))

    return _steps([types.intp] * 2, code)


def _dotter(wide: bool) -> Any:
    def code(b: Any, first: Any, second: Any, width: Any, out: Any) -> None:
        before = b.basic_block
        inside, after = b.append_basic_block("columns"), b.append_basic_block("done")
        b.branch(inside)
        b.position_at_end(inside)
        index, total = b.phi(_LONG), b.phi(_FLOATS)
        mask = _first(b, b.sub(width, index))
        pair = [_take(b, _offset(b, at, index, _size(wide)), mask, wide) for at in (first, second)]
        new, further = _fma(b, pair[0], pair[1], total), b.add(index, _LONG(_LANES))
        for phi, start, following in ((index, _LONG(0), further), (total, _constant(0.0), new)):
            phi.add_incoming(start, before)
            phi.add_incoming(following, inside)
        b.cbranch(b.icmp_signed("<", further, width), inside, after)
        b.position_at_end(after)
        name = f"vector.reduce.fadd.v{_LANES}f32"
        _store(b, _external(b, name, _FLOAT, _FLOAT(0.0), new, fastmath=("reassoc",)), out)

    @intrinsic
    def dot(typing: Any, first: Any, second: Any, width: Any, out: Any) -> Any:
        """The sum of the products of two rows, in fp32."""
        return _steps([types.intp] * 4, code)

    return dot


@intrinsic
def highest(typing: Any, scores: Any, first: Any, tops: Any) -> Any:
    """Raise the maxima of 32 queries by a block of scores, whose keys begin `first` behind the queries."""

    def code(b: Any, scores: Any, first: Any, tops: Any) -> None:
        def body(row: Any, held: list[Any]) -> list[Any]:
            at, key = _offset(b, scores, row, _ROW), b.add(first, row)
            new = []
            for half, top in enumerate(held):
                value = _load(b, _past(b, at, 64 * half), _FLOATS)
                larger = b.select(b.fcmp_ordered(">", top, value), top, value)
                new.append(b.select(_seen(b, key, half), larger, top))
            return new

        places = [_past(b, tops, 64 * half) for half in range(2)]
        for value, place in zip(
            _loop(b, _LONG(_ROWS), [_load(b, at, _FLOATS) for at in places], body), places, strict=True
        ):
            _store(b, value, place)

    return _steps([types.intp] * 3, code)


def _weigher(wide: bool) -> Any:
    def code(b: Any, scores: Any, first: Any, scale: Any, tops: Any, masses: Any, pairs: Any) -> None:
        factor = _every(b, scale)
        places = [_past(b, masses, 64 * half) for half in range(2)]
        top = [_load(b, _past(b, tops, 64 * half), _FLOATS) for half in range(2)]

        def body(pair: Any, held: list[Any]) -> list[Any]:
            at, key = _offset(b, scores, pair, 2 * _ROW), b.add(first, b.mul(pair, _LONG(2)))
            new = []
            for half, mass in enumerate(held):
                lines = []
                for line in range(2):
                    score = _load(b, _past(b, at, _ROW * line + 64 * half), _FLOATS)
                    weight = _power(b, b.fmul(b.fsub(score, top[half]), factor), wide)
                    weight = _only(b, _seen(b, b.add(key, _LONG(line)), half), weight)
                    mass = b.fadd(mass, weight)
                    lines.append(_parts(b, weight, wide))
                new.append(mass)
                for plane, (low, high) in enumerate(zip(*lines, strict=True)):
                    place = _past(b, _offset(b, pairs, pair, 64), _PLANE * plane + 1024 * half)
                    _store(b, _join(b, low, high, _PAIRED), place)
            return new

        start = [_load(b, place, _FLOATS) for place in places]
        for mass, place in zip(_loop(b, _LONG(_ROWS // 2), start, body), places, strict=True):
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
        factor = _every(b, scale)
        shift, pull = ([_load(b, _past(b, at, 64 * half), _FLOATS) for half in range(2)] for at in (totals, pulls))
        shift = [b.fneg(value) for value in shift]

        def body(pair: Any, held: list[Any]) -> list[Any]:
            at, key = _offset(b, scores, pair, 2 * _ROW), b.add(first, b.mul(pair, _LONG(2)))
            change = _offset(b, grads, pair, 2 * _ROW)
            slopes: list[list[Any]] = []
            for line in range(2):
                found: tuple[list[Any], list[Any]] = ([], [])
                for half in range(2):
                    score, grad = (_load(b, _past(b, row, _ROW * line + 64 * half), _FLOATS) for row in (at, change))
                    mask = _seen(b, b.add(key, _LONG(line)), half)
                    weight = _only(b, mask, _power(b, _fma(b, score, factor, shift[half]), wide))
                    slope = _only(b, mask, b.fmul(weight, b.fsub(grad, pull[half])))
                    found[0].append(_parts(b, weight, wide))
                    found[1].append(_parts(b, slope, wide))
                for halves, out in zip(found, (given, rows), strict=True):
                    place = _past(b, _offset(b, out, pair, 128), 64 * line)
                    for plane, (low, high) in enumerate(zip(*halves, strict=True)):
                        _store(b, _join(b, low, high, _BESIDE), _past(b, place, _PLANE * plane))
                slopes.append(found[1])
            for half in range(2):
                place = _past(b, _offset(b, pairs, pair, 64), 1024 * half)
                for plane, (low, high) in enumerate(zip(slopes[0][half], slopes[1][half], strict=True)):
                    _store(b, _join(b, low, high, _PAIRED), _past(b, place, _PLANE * plane))
            return []

        _loop(b, _LONG(_ROWS // 2), [], body)

    @intrinsic
    def slopes(
        typing: Any, scores: Any, grads: Any, first: Any, scale: Any, totals: Any, pulls: Any, given: Any, rows: Any,
        pairs: Any,
    ) -> Any:  # fmt: skip
        """The weights 2^(scale · score - total), and times (grad - pull), of a block: as keys' rows, and as pairs."""
        return _steps([*[types.intp] * 3, types.float32, *[types.intp] * 5], code)

    return slopes


fetch, fetch32 = _fetcher(False), _fetcher(True)
copy, copy32 = _copier(False), _copier(True)
turn, turn32 = _turner(False), _turner(True)
give, give32 = _giver(False), _giver(True)
give_block, give_block32 = _block_giver(False), _block_giver(True)
give_turned, give_turned32 = _turned_giver(False), _turned_giver(True)
dot, dot32 = _dotter(False), _dotter(True)
weights, weights32 = _weigher(False), _weigher(True)
slopes, slopes32 = _sloper(False), _sloper(True)
