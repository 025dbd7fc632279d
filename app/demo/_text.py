"""Cleaning, cutting and de-duplicating harvested text: pure functions of strings."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

__all__ = ["Seen", "clean", "is_text", "paragraphs", "split_document"]

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufffd]")
_BLANK = re.compile(r"\n(?:[ \t]*\n)+")
_NOT_WORD = re.compile(r"[\W_]+")


def clean(text: str) -> str:
    """`text` with Unix line ends, no control characters, no trailing blanks and at most one blank line in a row."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").expandtabs(4)
    text = _CONTROL.sub("", text)
    lines = [line.rstrip() for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def paragraphs(text: str) -> list[str]:
    """The stretches of `text` between blank lines; leading spaces are kept, since in code they mean something."""
    return [part for part in _BLANK.split(text) if part.strip()]


def is_text(text: str) -> bool:
    """Whether at least two fifths of the characters are letters; tables of numbers are not."""
    return sum(map(str.isalpha, text)) >= 0.4 * len(text)


def split_document(parts: list[str], longest: int, shortest: int) -> Iterator[str]:
    """Join paragraphs into documents of at most `longest` characters and at least `shortest`.

    Cuts fall between paragraphs where possible, else between lines, else anywhere. A rest shorter than `shortest`
    is dropped.
    """
    held: list[str] = []
    size = 0
    for part in _cut_long(parts, longest):
        if held and size + 2 + len(part) > longest:
            if size >= shortest:
                yield "\n\n".join(held)
            held, size = [], 0
        size += len(part) + (2 if held else 0)
        held.append(part)
    if size >= shortest:
        yield "\n\n".join(held)


def _cut_long(parts: list[str], longest: int) -> Iterator[str]:
    for part in parts:
        while len(part) > longest:
            cut = part.rfind("\n", longest // 2, longest)
            cut = cut if cut > 0 else part.rfind(" ", longest // 2, longest)
            cut = cut if cut > 0 else longest
            yield part[:cut]
            part = part[cut:].lstrip("\n")
        if part.strip():
            yield part


class Seen:
    """Remembers paragraphs by their letters and digits, so that re-wrapped or re-indented copies count as copies.

    Short paragraphs (headings, `Parameters`, `return self`) are part of the language of a domain and always pass.
    """

    def __init__(self, shortest: int = 48) -> None:
        self._shortest = shortest
        self._keys: set[bytes] = set()

    def fresh(self, parts: list[str]) -> list[str]:
        """Those of `parts` that were never seen before, which are seen from now on."""
        kept = []
        for part in parts:
            text = _NOT_WORD.sub("", part).lower()
            if len(text) >= self._shortest:
                key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()
                if key in self._keys:
                    continue
                self._keys.add(key)
            kept.append(part)
        return kept
