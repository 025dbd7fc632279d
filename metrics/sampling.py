"""One pass over a domain: exact token counts of everything, and a reproducible sample of whole documents.

The sample is a *bottom-k sketch*: every distinct document has a priority, a keyed hash of its text, and the documents
of smallest priority are kept up to a bound on characters. So the sample is uniform over distinct documents, does not
depend on the order of records or on how they are shared out, and samples of shards merge into the sample of the whole.
Copies of a document fall on one entry and are counted there, so they never end up in both halves of a split.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from .._seeding import derive_seed
from ..errors import CorpusError
from .counting import TokenCounter

if TYPE_CHECKING:
    import scipy.sparse as sp
    from numpy.typing import NDArray

__all__ = ["DomainSample", "Sketch", "count_stream", "finish"]

# Longer documents are cut, so that a domain that is one huge file still has a bounded, divisible sample.
_SEGMENT = 65_536
_CHARACTERS_PER_TOKEN = 6
_FEW = 16
_PIECE = 2_000


@dataclass
class Sketch:
    """The documents of smallest priority, up to a number of characters; mergeable.

    Parameters
    ----------
    seed : int
        Key of the priorities.
    characters, documents : int
        Keep the shortest run of documents, by priority, with at least this many of both.
    """

    seed: int
    characters: int
    documents: int
    held: int = 0
    entries: dict[int, list[Any]] = field(default_factory=dict)  # priority -> [text, copies, label]
    heap: list[int] = field(default_factory=list)
    dropped: bool = False

    def __post_init__(self) -> None:
        self._key = derive_seed(self.seed, "metrics", "sketch").to_bytes(8, "big")

    def add(self, text: str, label: str | None = None, copies: int = 1) -> None:
        """Offer one document."""
        data = text.encode("utf-8") + (b"" if label is None else b"\0" + label.encode("utf-8"))
        self._put(
            int.from_bytes(hashlib.blake2b(data, digest_size=8, key=self._key).digest(), "big"), text, copies, label
        )

    def _put(self, priority: int, text: str, copies: int, label: str | None) -> None:
        entry = self.entries.get(priority)
        if entry is not None:
            entry[1] += copies
            return
        if self._full(0) and priority > -self.heap[0]:
            self.dropped = True
            return
        self.entries[priority] = [text, copies, label]
        heapq.heappush(self.heap, -priority)
        self.held += len(text)
        # The last entry goes while the ones before it are enough: the kept set depends on the documents alone.
        while self._full(len(self.entries[-self.heap[0]][0])):
            last = -heapq.heappop(self.heap)
            self.held -= len(self.entries.pop(last)[0])
            self.dropped = True

    def _full(self, without: int) -> bool:
        spare = 1 if without else 0
        return self.held - without >= self.characters and len(self.entries) - spare >= self.documents

    def merge(self, other: Sketch) -> None:
        """Take in the sketch of another share of the same domain."""
        self.dropped |= other.dropped
        for priority, (text, copies, label) in sorted(other.entries.items()):
            self._put(priority, text, copies, label)

    def sorted(self) -> list[tuple[str, int, str | None]]:
        """(text, copies, label), smallest priority first."""
        return [(text, copies, label) for _, (text, copies, label) in sorted(self.entries.items())]


@dataclass(frozen=True)
class DomainSample:
    """What one pass yields for one domain.

    Attributes
    ----------
    counts : ndarray (V,), int64
        Tokens of everything, each document as often as it occurs.
    tokens, documents, characters : int
        Totals of the pass.
    rows : sparse (n, V)
        Token counts of the sampled documents (times copies), smallest priority first; int32.
    texts, labels : tuple
        The first sampled documents, for embedding; very long ones reduced to evenly spaced windows.
    copies : ndarray (n,)
        How often each sampled document occurs.
    complete : bool
        Whether the sample holds every distinct document.
    pieces : bool
        Whether the domain had so few documents that they were cut into pieces.
    long : int
        Documents that were cut into segments.
    """

    name: str
    counts: NDArray[np.int64]
    tokens: int
    documents: int
    characters: int
    rows: sp.csr_array
    texts: tuple[str, ...]
    labels: tuple[str | None, ...]
    copies: NDArray[np.int64]
    complete: bool
    pieces: bool
    long: int


@dataclass
class Share:
    """Counts and sketch of one share of one domain: what processes and ranks hand back."""

    counts: NDArray[np.int64]
    documents: int
    characters: int
    long: int
    sketch: Sketch

    def merge(self, other: Share) -> None:
        """Add the share of another worker."""
        self.counts = self.counts + other.counts
        self.documents += other.documents
        self.characters += other.characters
        self.long += other.long
        self.sketch.merge(other.sketch)


def clean(text: str) -> str:
    """`text` without lone surrogates, which no tokenizer takes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def segments(text: str, size: int) -> list[str]:
    """Cut a long text at white space into parts of about `size` characters; nothing is lost."""
    out = []
    start = 0
    while len(text) - start > size:
        cut = text.rfind(" ", start + size // 2, start + size)
        newline = text.rfind("\n", start + size // 2, start + size)
        cut = max(cut, newline)
        cut = start + size if cut <= start else cut
        out.append(text[start:cut])
        start = cut
    out.append(text[start:])
    return out


def count_stream(
    records: Iterable[tuple[str, str | None]],
    counter: TokenCounter,
    *,
    seed: int,
    max_tokens: int,
    samples: int,
    alone: bool = False,
) -> Share:
    """Stream (text, label) pairs into counts and a sketch.

    `alone`: this is the whole domain, not a share of it. Then, where the sketch holds every document, its rows give
    the counts (in :func:`finish`) and nothing is encoded here.
    """
    sketch = Sketch(seed, max_tokens * _CHARACTERS_PER_TOKEN, samples)
    tally = {"documents": 0, "characters": 0, "long": 0}

    def flow() -> Iterator[str]:
        for text, label in records:
            if not text or text.isspace():
                continue
            text = clean(text)
            tally["documents"] += 1
            tally["characters"] += len(text)
            if len(text) > _SEGMENT:
                tally["long"] += 1
                for part in segments(text, _SEGMENT):
                    if not part.isspace():
                        sketch.add(part, label)
            else:
                sketch.add(text, label)
            yield text

    def spare() -> bool:
        return alone and not sketch.dropped and not tally["long"]

    counts, _, _ = counter.count(flow(), spare=spare)
    return Share(counts, tally["documents"], tally["characters"], tally["long"], sketch)


def finish(
    name: str, share: Share, counter: TokenCounter, *, max_tokens: int, samples: int, window: int
) -> DomainSample:
    """Count the sampled documents one by one and keep what later steps need.

    Raises
    ------
    CorpusError
        The domain has no text, or a single short document: nothing can be compared with it.
    """
    import scipy.sparse as sp

    entries = share.sketch.sorted()
    if not entries:
        raise CorpusError(f"domain {name!r} has no text in the measured split; add documents or measure another split.")
    pieces = False
    counts = share.counts
    if len(entries) < _FEW:
        cut = [(part, copies, label) for text, copies, label in entries for part in segments(text, _PIECE)]
        cut = [entry for entry in cut if entry[0].strip()]
        if len(cut) > len(entries):
            if not counts.any():
                whole = counter.documents([text for text, _, _ in entries])
                counts = np.asarray(np.array([copies for _, copies, _ in entries], np.int64) @ whole, np.int64)
            # Alternating pieces of one document would be near copies of each other; the order is by content instead.
            again = Sketch(share.sketch.seed, share.sketch.characters, samples)
            for text, copies, label in cut:
                again.add(text, label, copies)
            entries = again.sorted()
            pieces = True
    if len(entries) < 2:
        raise CorpusError(
            f"domain {name!r} has one distinct document in the measured split; at least 2 (better 100) are needed: "
            "add text or leave the domain out."
        )
    rows = counter.documents([text for text, _, _ in entries])
    times: NDArray[np.int64] = np.array([count for _, count, _ in entries], np.int64)
    rows = sp.csr_array(sp.diags_array(times, dtype=np.int64) @ rows)
    lengths = np.asarray(rows.sum(axis=1)).ravel()
    if int((lengths > 0).sum()) < 2:
        raise CorpusError(f"domain {name!r} yields no tokens under this tokenizer; check its texts.")
    if not counts.any():
        counts = np.asarray(rows.sum(axis=0), np.int64).ravel()
    enough = int(np.searchsorted(np.cumsum(lengths), max_tokens)) + 1
    keep = max(min(enough, len(entries)), min(2, len(entries)))
    shown = entries[:samples]
    return DomainSample(
        name=name,
        counts=counts,
        tokens=int(counts.sum()),
        documents=share.documents,
        characters=share.characters,
        rows=_compact(rows[:keep]),
        texts=tuple(_reduce(text, window) for text, _, _ in shown),
        labels=tuple(label for _, _, label in shown),
        copies=times[:keep],
        complete=not share.sketch.dropped and keep == len(entries),
        pieces=pieces,
        long=share.long,
    )


def _compact(rows: Any) -> sp.csr_array:
    """The same counts in 32-bit numbers: a third of the memory, and hundreds of domains are held at once."""
    import scipy.sparse as sp

    parts = (rows.data.astype(np.int32), rows.indices.astype(np.int32), rows.indptr.astype(np.int32))
    return sp.csr_array(parts, shape=rows.shape)


def _reduce(text: str, window: int) -> str:
    """At most `window` characters of a very long text, as eight evenly spaced runs of whole words."""
    if len(text) <= window:
        return text
    size = window // 8
    starts = np.linspace(0, len(text) - size, 8).astype(int)
    runs = [text[start : start + size] for start in starts]
    return "\n".join([runs[0], *(re.sub(r"^\S+\s", "", run, count=1) for run in runs[1:])])


def pack(sample: DomainSample) -> dict[str, NDArray[Any]]:
    """Arrays (no objects) from which :func:`unpack` rebuilds the sample."""
    texts = [text.encode("utf-8") for text in sample.texts]
    labels = [b"" if label is None else b"=" + label.encode("utf-8") for label in sample.labels]
    used = np.flatnonzero(sample.counts)
    return {
        "used": used,
        "counts": sample.counts[used],
        "shape": np.array([sample.rows.shape[0], sample.rows.shape[1]], np.int64),
        "data": sample.rows.data,
        "indices": sample.rows.indices,
        "indptr": sample.rows.indptr,
        "copies": sample.copies,
        "facts": np.array(
            [sample.tokens, sample.documents, sample.characters, sample.complete, sample.pieces, sample.long], np.int64
        ),
        **_blob("text", texts),
        **_blob("label", labels),
    }


def _blob(name: str, parts: Sequence[bytes]) -> dict[str, NDArray[Any]]:
    return {
        f"{name}_bytes": np.frombuffer(b"".join(parts), np.uint8),
        f"{name}_ends": np.cumsum([len(part) for part in parts], dtype=np.int64),
    }


def _unblob(name: str, data: Any) -> list[str]:
    raw = data[f"{name}_bytes"].tobytes()
    ends = [0, *data[f"{name}_ends"].tolist()]
    return [raw[a:b].decode("utf-8") for a, b in pairwise(ends)]


def unpack(name: str, data: Any) -> DomainSample:
    """The sample that :func:`pack` took apart."""
    import scipy.sparse as sp

    shape = tuple(int(number) for number in data["shape"])
    counts = np.zeros(shape[1], np.int64)
    counts[data["used"]] = data["counts"]
    facts = data["facts"].tolist()
    return DomainSample(
        name=name,
        counts=counts,
        tokens=facts[0],
        documents=facts[1],
        characters=facts[2],
        rows=sp.csr_array((data["data"], data["indices"], data["indptr"]), shape=shape),
        texts=tuple(_unblob("text", data)),
        labels=tuple(label[1:] if label else None for label in _unblob("label", data)),
        copies=data["copies"],
        complete=bool(facts[3]),
        pieces=bool(facts[4]),
        long=facts[5],
    )
