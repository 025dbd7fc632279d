"""Identity of records and the split that follows from it."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.corpora import SPLITS, Message, Record, sort_labels
from kinfold.corpora.record import content_hash, hashed_split, named_split

texts = st.text(min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("record", "kind", "plain"),
    [
        (Record(text="a"), "text", "a"),
        (Record(text="a", label="0"), "labelled", "a"),
        (Record(prompt="p", completion="c"), "completion", "p\nc"),
        (Record(prompt="p", completion="c", label="1"), "completion", "p\nc"),
        (Record(messages=(Message("user", "hi"), Message("assistant", "ho"))), "chat", "hi\nho"),
    ],
)
def test_kind_and_plain_text(record: Record, kind: str, plain: str) -> None:
    assert record.kind == kind
    assert record.plain == plain


def test_records_are_frozen_and_travel_to_other_processes() -> None:
    record = Record(messages=(Message("user", "hi"),), split="test", path="a", line=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.line = 4  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(record)) == record


@given(texts, st.sampled_from(["0", "1", None]), st.sampled_from(SPLITS), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_key_is_of_the_content_alone(text: str, label: str | None, split: str, line: int) -> None:
    assert Record(text=text, label=label, split=split, path="x", line=line).key == Record(text=text).key
    assert Record(text=f"  {text}\n").key == Record(text=text).key
    assert Record(text=text + "!").key != Record(text=text).key


def test_key_ignores_the_kind_of_line_end_and_frames_the_parts() -> None:
    assert Record(text="a\r\nb\rc").key == Record(text="a\nb\nc").key
    assert Record(prompt="ab", completion="c").key != Record(prompt="a", completion="bc").key
    assert Record(prompt="a", completion="b").key != Record(messages=(Message("a", "b"),)).key
    assert Record(text="a\nb").key != Record(prompt="a", completion="b").key


def test_key_is_the_same_on_every_machine() -> None:
    # Written down once: a change here moves every user's records between splits.
    assert Record(text="The quick brown fox").key == "5aaf3c34c58e2b726a0c2caa8a9caee8"
    assert Record(prompt="p", completion="c").key == "232b485e31300bf83fdafd94c5e031a3"


@given(texts, st.floats(0, 0.45), st.floats(0, 0.45), st.floats(0, 0.45))
@settings(deadline=None, max_examples=100)
def test_growing_a_share_only_adds_records_to_it(text: str, validation: float, test: float, more: float) -> None:
    digest = content_hash(text, None, None, None)
    before, after = hashed_split(digest, validation, test), hashed_split(digest, validation, max(test, more))
    if before == "test":
        assert after == "test"
    assert hashed_split(digest, 0, 0) == "train"


def test_shares_come_out_as_asked() -> None:
    sides = [hashed_split(content_hash(f"text {number}", None, None, None), 0.15, 0.25) for number in range(20_000)]
    # Standard error of a share here is .003; five of them.
    assert sides.count("test") / len(sides) == pytest.approx(0.25, abs=0.016)
    assert sides.count("validation") / len(sides) == pytest.approx(0.15, abs=0.013)


def test_split_names() -> None:
    assert [named_split(name) for name in ("TRAIN", "val", "valid", "dev", " test ", "eval", "")] == [
        "train",
        "validation",
        "validation",
        "validation",
        "test",
        None,
        None,
    ]


def test_labels_in_order() -> None:
    assert sort_labels(["10", "9", "-1", "9"]) == ["-1", "9", "10"]
    assert sort_labels({"neg", "pos", "10"}) == ["10", "neg", "pos"]
    assert sort_labels([]) == []
