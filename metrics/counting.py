"""Count tokens at the speed of counting words: unique pre-tokens are encoded once and weighted by frequency.

A byte-level BPE first cuts a text by a regular expression and then encodes each piece on its own. Pieces never cross
from a visible character into white space (but for newlines after punctuation), so a text may be cut at such places
into *chunks* (white space, then visible characters), equal chunks counted with a dictionary, and each distinct chunk
encoded once: bit for bit the counts of encoding every text. `chunk_pattern` decides from the tokenizer's own JSON
whether this holds; the first texts are counted both ways before it is trusted; everything else takes the plain road.
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse as sp
    from numpy.typing import NDArray

__all__ = ["TokenCounter", "chunk_pattern"]

_log = logging.getLogger("kinfold.metrics")

# Python's \s holds U+001C..U+001F, which Unicode's White_Space, and so the tokenizers' \s, does not.
_W = r"[^\S\x1c-\x1f]"
_N = r"[\S\x1c-\x1f]"
# Pieces of GPT-2's expression never hold a visible character followed by white space.
_TIGHT = rf"{_W}*{_N}+|{_W}+"
# The later family lets newlines follow punctuation in one piece; cut before a newline only after a letter or digit.
_LOOSE = rf"{_W}*{_N}+(?:(?<![A-Za-z0-9])[\r\n]{_W}*{_N}*)*|{_W}+"

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LETTERS = (r"\p{L}", r"[\p{L}\p{M}]")
_CONTRACTIONS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"(?i:[sdmt]|ll|ve|re)",
    r"'(?i:[sdmt]|ll|ve|re)",
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
)
_O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NUMBERS = {r"\p{N}{1,3}", r"\p{N}", r"[0-9]", r"[0-9][0-9][0-9]", r"\d", r"\d{1,3}"}


def _known_splits() -> dict[str, str]:
    """Split expressions for which cutting into chunks is proved, each with its chunk expression."""
    known = {_GPT2: _TIGHT, _O200K: _LOOSE}
    for contraction in _CONTRACTIONS:
        for digits in (r"\p{N}{1,3}", r"\p{N}", r"\p{N}+"):
            known[
                rf"{contraction}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+"
            ] = _LOOSE
            known[
                rf"{contraction}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|{digits}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+"
            ] = _LOOSE
    return known


_KNOWN = _known_splits()
_JOINED = 64
_UNIQUE = 50_000
# An encoding holds far more than its ids; no more of them than this live at once.
_ENCODED = 8_192
_CHECKED = 64


def chunk_pattern(state: dict[str, Any]) -> str | None:
    """The chunk expression under which counting unique chunks is exact, or None.

    `state` is the tokenizer's JSON. Needed: a BPE model; no normalizer, or NFC; a byte-level pre-tokenizer, alone or
    after a known Split. Anything else is not understood well enough and counts the plain way.
    """
    if (state.get("model") or {}).get("type") != "BPE":
        return None
    normalizer = state.get("normalizer") or {}
    steps = normalizer.get("normalizers", []) if normalizer.get("type") == "Sequence" else [normalizer]
    if any(step and step.get("type") != "NFC" for step in steps):
        return None
    first = state.get("pre_tokenizer") or {}
    parts = first.get("pretokenizers", []) if first.get("type") == "Sequence" else [first]
    pattern: str | None = None
    for index, part in enumerate(parts):
        kind = part.get("type")
        if kind == "ByteLevel":
            if part.get("add_prefix_space") and len(parts) > 1:
                return None
            if part.get("use_regex", True):
                pattern = pattern or _TIGHT
            if index != len(parts) - 1:
                return None
        elif kind == "Digits":
            continue
        elif kind == "Split":
            expression = part.get("pattern", {}).get("Regex")
            if part.get("behavior") not in ("Isolated", "Removed") or expression is None:
                return None
            isolated = part["behavior"] == "Isolated" and not part.get("invert")
            removed = part["behavior"] == "Removed" and part.get("invert")
            if not (isolated or (removed and expression in _KNOWN)):
                return None
            if expression in _KNOWN:
                pattern = pattern or _KNOWN[expression]
            elif expression not in _NUMBERS:
                return None
        else:
            return None
    return pattern if parts and parts[-1].get("type") == "ByteLevel" else None


class TokenCounter:
    """Counts tokens of texts under one tokenizer, without special tokens.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
    exact_chunks : bool
        Allow the fast road where it is exact; False always takes the plain one.

    Attributes
    ----------
    size : int
        Length of every count vector: one more than the largest id.
    fast : bool
        Whether the fast road is in use.
    """

    def __init__(self, tokenizer: Any, *, exact_chunks: bool = True) -> None:
        from tokenizers import Tokenizer

        state = json.loads(tokenizer.to_str())
        state["truncation"] = state["padding"] = state["post_processor"] = None
        if state["model"].get("dropout"):
            state["model"]["dropout"] = None  # counts must not be random
        self._plain = Tokenizer.from_str(json.dumps(state))
        ids = self._plain.get_vocab(with_added_tokens=True).values()
        self.size = max(ids, default=-1) + 1
        pattern = chunk_pattern(state) if exact_chunks else None
        self.fast = pattern is not None
        self._checked = 0
        self._prefix = False
        self._find: Any = None
        self._added: tuple[str, ...] = ()
        self._nfc = False
        if pattern is not None:
            before = state["pre_tokenizer"]
            self._prefix = before.get("type") == "ByteLevel" and bool(before.get("add_prefix_space"))
            if self._prefix:
                before["add_prefix_space"] = False
            self._nfc = state.get("normalizer") is not None
            self._added = _prefilters([token["content"] for token in state.get("added_tokens", [])])
            self._join = not any(c.isspace() for token in state.get("added_tokens", []) for c in token["content"])
            self._pieces = Tokenizer.from_str(json.dumps(state))
            self._find = re.compile(pattern).findall

    # ------------------------------------------------------------------ public
    def count(
        self, texts: Iterable[str], *, batch: int = 1000, spare: Callable[[], bool] | None = None
    ) -> tuple[NDArray[np.int64], int, int]:
        """Counts over the vocabulary (size,), number of texts, and number of characters; streams in bounded memory.

        `spare`, asked once at the end, may say that nobody needs the counts: then they are all 0.
        """
        total = np.zeros(self.size, np.int64)
        documents = characters = 0
        chunks: Counter[str] = Counter()
        plain: list[str] = []
        for group in _batches(texts, batch):
            documents += len(group)
            characters += sum(map(len, group))
            if self.fast and self._checked < _CHECKED:
                self._check(group)
            if not self.fast:
                total += self._count_plain(group)
                continue
            for text in group:
                if self._holds_added(text):
                    plain.append(text)
                else:
                    chunks.update(self._find(self._start(text)))
            if plain:
                total += self._count_plain(plain)
                plain = []
            if len(chunks) > _UNIQUE:
                total += self._count_chunks(chunks)
                chunks = Counter()
        if spare is not None and spare():
            return np.zeros(self.size, np.int64), documents, characters
        if chunks:
            total += self._count_chunks(chunks)
        return total, documents, characters

    def documents(self, texts: Sequence[str]) -> sp.csr_array:
        """Token counts of each text, a sparse (len(texts), size) int64 array."""
        if self.fast and self._checked < _CHECKED:
            self._check(list(texts[:_CHECKED]))
        if not self.fast:
            return self._rows(self._plain, texts)
        import scipy.sparse as sp

        index: dict[str, int] = {}
        find, put = self._find, index.setdefault
        columns: list[int] = []
        ends = [0]
        awkward = []
        for number, text in enumerate(texts):
            if self._holds_added(text):
                awkward.append(number)
            else:
                columns += [put(chunk, len(index)) for chunk in find(self._start(text))]
            ends.append(len(columns))
        ones = np.ones(len(columns), np.int64)
        shape = (len(texts), len(index))
        rows = sp.csr_array((ones, np.array(columns, np.int64), np.array(ends, np.int64)), shape=shape)
        out = sp.csr_array(rows @ self._rows(self._pieces, list(index)))
        if awkward:
            place = sp.csr_array(
                (np.ones(len(awkward), np.int64), (np.array(awkward), np.arange(len(awkward)))),
                shape=(len(texts), len(awkward)),
            )
            out = sp.csr_array(out + place @ self._rows(self._plain, [texts[number] for number in awkward]))
        out.sum_duplicates()
        return out

    # ------------------------------------------------------------------ inside
    def _start(self, text: str) -> str:
        return " " + text if self._prefix and text and text[0] != " " else text

    def _holds_added(self, text: str) -> bool:
        """Whether a piece of `text` might be an added token, which is found before any cutting."""
        if not self._added:
            return False
        if any(part in text for part in self._added):
            return True
        if self._nfc and not text.isascii():
            normal = unicodedata.normalize("NFC", text)
            return any(part in normal for part in self._added)
        return False

    def _check(self, group: Sequence[str]) -> None:
        """Count the first texts both ways: a tokenizer that differs from what its JSON promises is caught here."""
        sample = list(group[:_CHECKED])
        self._checked += len(sample)
        free = [text for text in sample if not self._holds_added(text)]
        chunks: Counter[str] = Counter()
        for text in free:
            chunks.update(self._find(self._start(text)))
        if not np.array_equal(self._count_chunks(chunks), self._count_plain(free)):
            _log.warning("counting by unique chunks differs for this tokenizer; counting every text in full instead")
            self.fast = False

    def _count_plain(self, texts: Sequence[str]) -> NDArray[np.int64]:
        ids: list[int] = []
        for encoding in self._plain.encode_batch_fast(texts, add_special_tokens=False):
            ids += encoding.ids
        return np.bincount(np.array(ids, np.int64), minlength=self.size)

    def _count_chunks(self, chunks: Counter[str]) -> NDArray[np.int64]:
        """Chunks of equal frequency that begin with a space join into one text: fewer calls, the same pieces."""
        by_frequency: dict[int, list[str]] = {}
        for chunk, frequency in chunks.items():
            by_frequency.setdefault(frequency, []).append(chunk)
        texts: list[str] = []
        weights: list[int] = []
        for frequency, group in by_frequency.items():
            joined = [chunk for chunk in group if self._join and chunk[0] == " " and not chunk[-1].isspace()]
            alone = [chunk for chunk in group if not (self._join and chunk[0] == " " and not chunk[-1].isspace())]
            alone += ["".join(joined[i : i + _JOINED]) for i in range(0, len(joined), _JOINED)]
            texts += alone
            weights += [frequency] * len(alone)
        out = np.zeros(self.size, np.int64)
        for start in range(0, len(texts), _ENCODED):
            ids: list[int] = []
            lengths = []
            for encoding in self._pieces.encode_batch_fast(texts[start : start + _ENCODED], add_special_tokens=False):
                piece = encoding.ids
                ids += piece
                lengths.append(len(piece))
            weight = np.repeat(np.array(weights[start : start + _ENCODED], np.int64), lengths)
            np.add.at(out, np.array(ids, np.int64), weight)
        return out

    def _rows(self, tokenizer: Any, texts: Sequence[str]) -> sp.csr_array:
        import scipy.sparse as sp

        ids: list[int] = []
        ends = [0]
        for start in range(0, len(texts), _ENCODED):
            for encoding in tokenizer.encode_batch_fast(texts[start : start + _ENCODED], add_special_tokens=False):
                ids += encoding.ids
                ends.append(len(ids))
        data = np.ones(len(ids), np.int64)
        rows = sp.csr_array(
            (data, np.array(ids, np.int64), np.array(ends, np.int64)), shape=(len(texts), max(self.size, 1))
        )
        rows.sum_duplicates()
        return rows


def _batches(texts: Iterable[str], size: int, characters: int = 4_000_000) -> Iterator[list[str]]:
    """Lists of at most `size` texts and about `characters` characters."""
    group: list[str] = []
    held = 0
    for text in texts:
        group.append(text)
        held += len(text)
        if len(group) >= size or held >= characters:
            yield group
            group, held = [], 0
    if group:
        yield group


def _prefilters(contents: Sequence[str]) -> tuple[str, ...]:
    """Short strings, one of which is in every text that holds one of `contents`: quick to look for."""
    shared: dict[str, list[str]] = {}
    for content in contents:
        shared.setdefault(content.strip()[:2] or content[:2], []).append(content)
    out = []
    for start, group in shared.items():
        out.append(group[0].strip() or group[0] if len(group) == 1 else start)
    return tuple(sorted(set(out)))
