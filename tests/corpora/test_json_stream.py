"""The incremental JSON reader against the standard library's, on text cut at every place."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.corpora._json import JsonStream, JsonStreamError

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=40)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def _pieces(text: str, size: int) -> Iterator[str]:
    return (text[at : at + size] for at in range(0, len(text), size))


def _read_all(stream: JsonStream) -> list[object]:
    return [stream.value() for _ in stream.members()]


@given(values, st.integers(1, 9), st.sampled_from([None, 1, 24]), st.booleans())
@settings(deadline=None, max_examples=200)
def test_reads_what_json_reads_however_the_text_is_cut(
    value: object, size: int, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    stream = JsonStream(_pieces(f" \n{text}\n ", size))
    assert stream.value() == value
    assert stream.peek() == ""


@given(st.lists(values, max_size=6), st.integers(1, 9), st.sampled_from([None, 2]))
@settings(deadline=None, max_examples=100)
def test_walks_an_array_and_knows_the_lines(items: list[object], size: int, indent: int | None) -> None:
    text = json.dumps(items, indent=indent)
    stream = JsonStream(_pieces(text, size))
    found = []
    for line, key in stream.members():
        assert key is None
        value = stream.value()
        found.append(value)
        first = json.dumps(value, indent=indent).splitlines()[0]
        if indent:
            assert text.splitlines()[line - 1].strip().rstrip(",") == first
        else:
            assert line == 1
    assert found == items
    assert stream.line == text.count("\n") + 1


@given(st.dictionaries(st.text(max_size=6), values, max_size=5), st.integers(1, 9))
@settings(deadline=None, max_examples=100)
def test_walks_an_object_reading_some_members_and_skipping_others(members: dict[str, object], size: int) -> None:
    stream = JsonStream(_pieces(json.dumps(members), size))
    found = {}
    for number, (_, key) in enumerate(stream.members()):
        if number % 2:
            stream.skip()
        else:
            found[key] = stream.value()
    assert found == {key: value for number, (key, value) in enumerate(members.items()) if number % 2 == 0}
    assert stream.peek() == ""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[1,\n2,\n}", 3),
        ('[{"a": 1},\n{"a": nope}]', 2),
        ('["open', 1),
        ('[\n"a"\n"b"]', 3),
        ("[1, 2", 1),
        ("[NaN]", 1),
        ('["a\nb"]', 1),
        ("[" * 100_000, 1),
        ("[,]", 1),
        ("", 1),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1 << 20])
def test_broken_text_names_its_line(text: str, line: int, size: int) -> None:
    stream = JsonStream(_pieces(text, size))
    with pytest.raises(JsonStreamError) as caught:
        _read_all(stream)
    assert caught.value.line == line


def test_an_unclosed_string_does_not_eat_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kinfold.corpora._json.LONGEST", 1 << 20)
    stream = JsonStream(iter(['["'] + ["x" * 4096] * 4096))
    with pytest.raises(JsonStreamError, match="runs on"):
        _read_all(stream)


def test_memory_does_not_grow_with_the_array() -> None:
    def peak(items: int) -> int:
        text = '{"text": "' + "x" * 500 + '"}'
        stream = JsonStream(piece for number in range(items) for piece in ("[" if number == 0 else ",", text, "\n"))
        tracemalloc.start()
        try:
            for _ in range(items):
                stream.take("[,")
                stream.value()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)
    assert peak(20_000) < 2 * peak(1_000)
