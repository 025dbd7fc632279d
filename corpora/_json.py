"""An incremental JSON reader: walks an array or object of any size while holding one value at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

__all__ = ["JsonStream", "JsonStreamError", "strict_object"]

_SPACE = " \t\n\r"
# An error this close to the end of the buffer may be a literal or an escape that the buffer cuts in two.
_MARGIN = 16
# No single value may be longer than this many characters: a string that is never closed must not eat the memory.
LONGEST = 1 << 27


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


strict_object = json.JSONDecoder(parse_constant=_refuse)
"""Decodes JSON as the standard has it: NaN and Infinity are refused."""


class JsonStreamError(ValueError):
    """Text that is not JSON; `line` is where."""

    def __init__(self, line: int, why: str) -> None:
        super().__init__(why)
        self.line = line
        self.why = why


class JsonStream:
    """A cursor over JSON text that arrives in pieces.

    Parameters
    ----------
    chunks
        The text, in order.
    """

    def __init__(self, chunks: Iterator[str]) -> None:
        self._chunks = chunks
        self._buffer = ""
        self._at = 0
        self._done = False
        self.line = 1

    def _more(self, size: int = 0) -> bool:
        """Append pieces until `size` characters wait, at least one, dropping what has been read; False at the end."""
        pieces = [self._buffer[self._at :]]
        waiting = len(pieces[0])
        while not self._done and (len(pieces) == 1 or waiting < size):
            piece = next(self._chunks, None)
            if piece is None:
                self._done = True
            else:
                pieces.append(piece)
                waiting += len(piece)
        self._buffer = "".join(pieces)
        self._at = 0
        return len(pieces) > 1

    def _advance(self, to: int) -> None:
        self.line += self._buffer.count("\n", self._at, to)
        self._at = to

    def peek(self) -> str:
        """The next character that is no white space, left unread; empty at the end."""
        while True:
            buffer, at = self._buffer, self._at
            while at < len(buffer) and buffer[at] in _SPACE:
                at += 1
            self._advance(at)
            if at < len(buffer):
                return buffer[at]
            if not self._more():
                return ""

    def take(self, expected: str) -> None:
        """Read one character of `expected`, after white space.

        Raises
        ------
        JsonStreamError
            When another character, or the end, comes.
        """
        found = self.peek()
        if not found or found not in expected:
            wanted = " or ".join(repr(character) for character in expected)
            raise JsonStreamError(
                self.line, f"expected {wanted}, found {repr(found) if found else 'the end of the file'}"
            )
        self._at += 1

    def value(self) -> Any:
        """Read one whole value.

        Raises
        ------
        JsonStreamError
            When the text is not JSON, or ends inside the value.
        """
        if not self.peek():
            raise JsonStreamError(self.line, "the file ends where a value should be")
        wanted = 0
        while True:
            try:
                value, end = strict_object.raw_decode(self._buffer, self._at)
            except json.JSONDecodeError as fault:
                cut = (
                    fault.msg.startswith("Unterminated string")
                    or fault.pos >= len(self._buffer) - _MARGIN
                    or self._buffer[fault.pos :].isspace()
                )
                if self._done or not cut:
                    line = self.line + self._buffer.count("\n", self._at, fault.pos)
                    raise JsonStreamError(line, f"not valid JSON ({fault.msg})") from None
            except (ValueError, RecursionError) as fault:
                why = "nested too deeply" if isinstance(fault, RecursionError) else str(fault)
                raise JsonStreamError(self.line, f"not valid JSON ({why})") from None
            else:
                # A number near the end of the buffer may go on: 1 may be the beginning of 1e+5.
                if end + 2 < len(self._buffer) or self._done or isinstance(value, (dict, list, str)):
                    self._advance(end)
                    return value
            # Try again only once the buffer has doubled, so that long values cost linear time.
            wanted = 2 * (len(self._buffer) - self._at)
            if wanted > LONGEST:
                raise JsonStreamError(self.line, f"a value runs on for more than {LONGEST // 2:,} characters")
            self._more(wanted)

    def members(self) -> Iterator[tuple[int, str | None]]:
        """Walk an array or object: for each member, its line and its key (None in an array), the value left unread.

        The caller must read each value before it asks for the next member.

        Raises
        ------
        JsonStreamError
            When the text is not JSON.
        """
        self.take("[{")
        keyed = self._buffer[self._at - 1] == "{"
        close = "}" if keyed else "]"
        if self.peek() == close:
            self._at += 1
            return
        while True:
            key: str | None = None
            self.peek()
            line = self.line
            if keyed:
                found = self.value()
                if not isinstance(found, str):
                    raise JsonStreamError(line, "a key of an object is not a string")
                key = found
                self.take(":")
                self.peek()
                line = self.line
            yield line, key
            self.take("," + close)
            if self._buffer[self._at - 1] == close:
                return

    def skip(self) -> None:
        """Read one value of any size without keeping it."""
        if self.peek() not in ("[", "{"):
            self.value()
            return
        for _ in self.members():
            self.value()
