"""One record of a corpus, its identity, and the split it belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["KINDS", "SPLITS", "Message", "Record", "content_hash", "hashed_split", "named_split", "sort_labels"]

SPLITS = ("train", "validation", "test")
KINDS = ("text", "completion", "chat", "labelled")

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_TWO_TO_64 = 2.0**64
# Copied for every record: that is three times as fast as setting one up. The persons keep texts and pairs apart.
_TEXT_STATE = hashlib.blake2b(digest_size=16, person=b"kinfold text")
_PARTS_STATE = hashlib.blake2b(digest_size=16, person=b"kinfold parts")


def named_split(name: str) -> str | None:
    """The split that people mean by `name`, or None.

    >>> named_split("Val"), named_split("dev"), named_split("holdout")
    ('validation', 'validation', None)
    """
    return _SPLIT_NAMES.get(name.strip().casefold())


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Record:
    """One record: exactly one of `text`, `prompt` with `completion`, or `messages` is set.

    Parameters
    ----------
    text, prompt, completion, messages
        The content.
    label
        The class, as text; whole numbers become their digits. None where the record has none.
    split
        One of :data:`SPLITS`.
    path
        The file (or the dataset) the record came from.
    line
        Where the record begins: line number from 1; number of the record from 1 in formats without lines.
    """

    text: str | None = None
    prompt: str | None = None
    completion: str | None = None
    messages: tuple[Message, ...] | None = None
    label: str | None = None
    split: str = "train"
    path: str = ""
    line: int = 0

    @property
    def kind(self) -> str:
        """One of :data:`KINDS`."""
        if self.messages is not None:
            return "chat"
        if self.completion is not None:
            return "completion"
        return "text" if self.label is None else "labelled"

    @property
    def plain(self) -> str:
        """All of the content as one text: what relations are measured on."""
        if self.text is not None:
            return self.text
        if self.messages is not None:
            return "\n".join(message.content for message in self.messages)
        return f"{self.prompt}\n{self.completion}"

    @property
    def key(self) -> str:
        """32 hexadecimal digits that identify the content, wherever it is stored.

        The label, the split and the place are left out, so a text that occurs twice with contradicting labels has
        one key and never lies on both sides of a split. White space at either end and the kind of line end are
        of no account.
        """
        return content_hash(self.text, self.prompt, self.completion, self.messages).hex()


def _settled(text: str) -> bytes:
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.strip().encode("utf-8", "surrogatepass")


def content_hash(
    text: str | None, prompt: str | None, completion: str | None, messages: tuple[Message, ...] | None
) -> bytes:
    """The 16 bytes behind :attr:`Record.key`: BLAKE2b over the content, each part preceded by its kind and length."""
    if text is not None:
        # The common case without the framing: a lone part needs no length.
        state = _TEXT_STATE.copy()
        state.update(_settled(text))
        return state.digest()
    state = _PARTS_STATE.copy()
    if messages is not None:
        parts = [part for message in messages for part in (message.role, message.content)]
        state.update(b"chat")
    else:
        parts = [prompt or "", completion or ""]
        state.update(b"completion")
    for part in parts:
        settled = _settled(part)
        state.update(len(settled).to_bytes(8, "big"))
        state.update(settled)
    return state.digest()


def hashed_split(digest: bytes, validation: float, test: float) -> str:
    """The split of a record that names none, from its content alone.

    The hash is read as a number u in [0, 1): test where u < `test`, validation where u < `test` + `validation`. So
    neither order, file nor duplicates move a record, and changing one share moves only records at its border.
    """
    u = int.from_bytes(digest[:8], "big") / _TWO_TO_64
    if u < test:
        return "test"
    return "validation" if u < test + validation else "train"


def sort_labels(labels: Iterable[str]) -> list[str]:
    """Distinct labels in a stable order: as numbers where all are whole numbers, otherwise as text.

    >>> sort_labels(["10", "2", "2", "-1"]), sort_labels(["b", "10", "a"])
    (['-1', '2', '10'], ['10', 'a', 'b'])
    """
    distinct = set(labels)
    try:
        return sorted(distinct, key=lambda label: (int(label), label))
    except ValueError:
        return sorted(distinct)
