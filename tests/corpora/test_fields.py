"""Which fields of a row become which part of a record."""

from __future__ import annotations

from typing import Any

import pytest
from kinfold.corpora import Message
from kinfold.corpora._fields import BadRow, Extractor, Fields, Parts
from kinfold.errors import CorpusError


def extract(row: dict[str, Any], *, labels: bool = True, **names: Any) -> Parts:
    return Extractor(Fields.of(names, "x"), labels=labels)(row)


@pytest.mark.parametrize(
    ("row", "text", "prompt", "completion"),
    [
        ({"text": "a"}, "a", None, None),
        ({"id": "7", "content": "a"}, "a", None, None),
        ({"body": "a", "title": "t"}, "a", None, None),
        ({"prompt": "p", "completion": "c"}, None, "p", "c"),
        ({"question": "q", "answer": "a"}, None, "q", "a"),
        ({"context": "c", "question": "q", "answer": "a"}, None, "c\n\nq", "a"),
        ({"instruction": "i", "input": "x", "output": "o"}, None, "i\n\nx", "o"),
        ({"instruction": "i", "input": "", "output": "o"}, None, "i", "o"),
        ({"instruction": "i", "context": "x", "response": "o", "category": "c"}, None, "i\n\nx", "o"),
        # Alpaca carries the rendered text as well: the pair wins, so that prompts can be masked.
        ({"instruction": "i", "input": "", "output": "o", "text": "all"}, None, "i", "o"),
        # ... but a pair that is no pair of texts does not.
        ({"question": "q", "answer": None, "text": "all"}, "all", None, None),
        ({"prompt": "", "completion": "c"}, None, "", "c"),
        ({"input": "x", "target": "y"}, None, "x", "y"),
    ],
)
def test_common_names_are_known(
    row: dict[str, Any], text: str | None, prompt: str | None, completion: str | None
) -> None:
    assert extract(row)[:3] == (text, prompt, completion)


def test_chats_in_their_two_dialects_and_with_typed_parts() -> None:
    expected = (Message("user", "hi"), Message("assistant", "ho"))
    openai = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [{"type": "text", "text": "ho"}]}]
    sharegpt = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]
    assert extract({"messages": openai}).messages == expected
    assert extract({"conversations": sharegpt, "text": "all"}).messages == expected
    assert extract({"talk": sharegpt, "messages": "x"}, messages="talk").messages == expected
    # A field of that name that holds text is text's, not a chat's.
    assert extract({"chat": "words", "text": "a"}).text == "a"


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (0, "0"),
        (1, "1"),
        (-1, "-1"),
        ("pos", "pos"),
        (" pos ", "pos"),
        (True, "true"),
        (2.0, "2"),
        (None, None),
        ("", None),
    ],
)
def test_labels_become_text(value: object, label: str | None) -> None:
    assert extract({"text": "a", "label": value}).label == label
    assert extract({"text": "a", "label": value}, labels=False).label is None


def test_given_names_win_and_may_be_paths_or_several() -> None:
    row = {"text": "no", "meta": {"body": "yes", "kind": "k"}, "a.b": "dotted", "title": "T", "rest": "R", "none": None}
    assert extract(row, text="meta.body", label="meta.kind") == Parts("yes", None, None, None, "k", None)
    assert extract(row, text="a.b").text == "dotted"
    assert extract(row, text=["title", "none", "rest"]).text == "T\n\nR"
    assert extract(row | {"output": "o"}, prompt=["title", "rest"])[1:3] == ("T\n\nR", "o")
    assert extract(row | {"prompt": "p"}, completion="rest")[1:3] == ("p", "R")


@pytest.mark.parametrize(
    ("row", "names", "message"),
    [
        ({}, {}, "no fields"),
        ({"id": "1", "words": "some long words"}, {}, r"no text among the fields 'id', 'words'; .*`text: words`"),
        ({"id": 1}, {}, r"no text among the fields 'id'; name it in a manifest$"),
        ({"text": "a"}, {"text": "body"}, r"no field 'body' among 'text'"),
        ({"meta": {"x": 1}}, {"text": "meta.y"}, r"no field 'meta\.y' among 'meta'"),
        ({"text": None}, {}, r"'text' is empty"),
        ({"text": " \n"}, {}, r"'text' is empty"),
        ({"text": ["a"]}, {}, r"'text' is a list, not text"),
        ({"text": 3}, {}, r"'text' is a number, not text"),
        ({"text": "bad \ud800"}, {}, r"half of a surrogate pair"),
        ({"prompt": "p", "completion": ""}, {}, r"'completion' is empty"),
        ({"question": "q", "answer": {"text": ["a"]}}, {}, r"'answer' is an object, not text"),
        ({"prompt": "p"}, {"prompt": "prompt"}, r"no completion among the fields 'prompt'"),
        ({"text": "a", "label": 0.5}, {}, r"'label' is a number, not a class"),
        ({"text": "a", "label": [1, 0]}, {}, r"'label' is a list, not a class"),
        ({"text": "a"}, {"label": "class"}, r"no field 'class'"),
        ({"text": "a", "split": "holdout"}, {}, r"'split' is 'holdout'; use one of train, validation, test"),
        ({"text": "a", "split": 3}, {}, r"'split' is 3"),
        ({"messages": []}, {}, r"not a list of messages"),
        ({"messages": ["hi"]}, {}, r"message 1 of 'messages' is not an object"),
        ({"messages": [{"content": "x"}]}, {}, r"message 1 of 'messages' has no role"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": None}]},
            {},
            r"message 2 .* no text",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]}, {}, r"message 1 .* not text"),
        ({"messages": [{"role": "user", "content": " "}]}, {}, r"all messages .* empty"),
        ({"messages": "hi"}, {"messages": "messages"}, r"not a list of messages"),
    ],
)
def test_bad_rows_say_why(row: dict[str, Any], names: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRow, match=message):
        extract(row, **names)


def test_splits_of_the_data() -> None:
    assert [extract({"text": "a", "split": split}).split for split in ("train", "Val", "dev", "", None)] == [
        "train",
        "validation",
        "validation",
        None,
        None,
    ]
    assert extract({"text": "a", "fold": "test"}, split="fold").split == "test"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"text": 3}, "x.text=3 is not a field name"),
        ({"text": []}, "is not a field name"),
        ({"label": ["a", "b"]}, "x.label names 2 fields; name one"),
        ({"text": "a", "messages": "b"}, "names text and messages at once"),
        ({"text": "a", "prompt": "b"}, "names text and prompt and completion at once"),
    ],
)
def test_field_names_are_checked(names: dict[str, Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        Fields.of(names, "x")


def test_rows_of_many_shapes_do_not_fill_the_memory() -> None:
    extractor = Extractor(Fields())
    for number in range(6000):
        extractor({"text": "a", f"random {number}": 1})
    assert len(extractor._layouts) <= 4096
