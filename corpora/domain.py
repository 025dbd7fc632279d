"""One domain: where its records lie, and how they stream out."""

from __future__ import annotations

import hashlib
import heapq
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .._files import digest, file_digest
from .._seeding import derive_seed
from ..errors import CorpusError, InputError
from ._datasets import hub_rows, saved_rows
from ._fields import BadRow, Extractor, Fields, Parts
from ._formats import detect
from ._readers import Fault, Row, read_rows
from .record import SPLITS, Record, content_hash, hashed_split

__all__ = ["Domain", "Source"]

logger = logging.getLogger("kinfold.corpora")

# Messages kept of one pass; the count goes on.
KEPT_PROBLEMS = 20
# A file whose first rows are all bad is refused: its format or its field names were misunderstood.
HOPELESS = 100


@dataclass(frozen=True)
class Source:
    """A file, a saved data set, or one split of either, and the split all of its records belong to (None: any)."""

    path: Path
    split: str | None = None


@dataclass(frozen=True)
class Domain:
    """One text domain; a value that names data and reads them when asked.

    Parameters
    ----------
    name
        The domain's name.
    kind
        "files", "datasets" (a folder written by `datasets`) or "hub" (a data set of the Hugging Face hub).
    sources
        What is read, in this order.
    fields
        The user's field names.
    weight
        Relative weight of the domain's loss, above 0.
    general
        Whether the domain serves only as general text, for the KL term.
    unlabelled
        Whether the domain serves only as unlabelled text, for the denoising term.
    validation, test
        Shares of the split by content hash, for records that name no split.
    strict
        Whether the first bad record is an error.
    limit
        At most this many records of each split, in file order; None for all.
    documents
        What a document of a `.txt` file is: "blocks", "lines" or "files".
    hub, subset, revision
        The data set's id, configuration and revision on the hub.
    """

    name: str
    kind: str = "files"
    sources: tuple[Source, ...] = ()
    fields: Fields = field(default_factory=Fields)
    weight: float = 1.0
    general: bool = False
    unlabelled: bool = False
    validation: float = 0.1
    test: float = 0.1
    strict: bool = False
    limit: int | None = None
    documents: str = "blocks"
    hub: str | None = None
    subset: str | None = None
    revision: str | None = None
    _cache: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files and folders that are read."""
        return tuple(source.path for source in self.sources)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :meth:`from_dict` makes the same domain of, for example in another process."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.init}
        values["sources"] = [[str(source.path.absolute()), source.split] for source in self.sources]
        values["fields"] = self.fields.to_dict()
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Domain:
        """The inverse of :meth:`to_dict`; nothing is opened."""
        sources = tuple(Source(Path(path), split) for path, split in values["sources"])
        names = Fields.of(values["fields"], str(values["name"]))
        return cls(**{**values, "sources": sources, "fields": names})

    def records(self, split: str | None = None, *, limit: int | None = None) -> Iterator[Record]:
        """Stream the records, in the order of the files; every call begins anew.

        Parameters
        ----------
        split
            One of :data:`SPLITS`, or None for all records.
        limit
            At most this many records of each split, in addition to the domain's own limit.

        Yields
        ------
        Record
            Each good record. A bad one is skipped and counted (see :meth:`problems`), or, where the domain is strict,
            ends the stream.

        Raises
        ------
        InputError
            When `split` is not known.
        CorpusError
            When a file cannot be read; at the first bad record where the domain is strict.
        """
        if split is not None and split not in SPLITS:
            raise InputError(f"split={split!r} is not known; use one of {', '.join(SPLITS)}.")
        bounds = [bound for bound in (self.limit, limit) if bound is not None]
        return self._stream(split, min(bounds) if bounds else None)

    def texts(self, split: str | None = None, *, limit: int | None = None) -> Iterator[str]:
        """Stream `record.plain` of :meth:`records`."""
        return (record.plain for record in self.records(split, limit=limit))

    def sample(self, size: int, split: str | None = "train", *, seed: int = 0) -> list[Record]:
        """Draw `size` records without replacement, or all where there are fewer; one pass, memory for `size` records.

        The draw depends on the seed and on each record's content, not on the order of the records or files: every
        record gets a hash, and the smallest hashes win.

        Raises
        ------
        CorpusError
            As :meth:`records`.
        """
        salt = derive_seed(seed, "corpora", "sample", self.name).to_bytes(8, "big")
        heap: list[tuple[int, int, Record]] = []
        for number, record in enumerate(self.records(split)):
            rank = hashlib.blake2b(bytes.fromhex(record.key), digest_size=8, key=salt).digest()
            # Negated, since the heap gives up its smallest; of duplicates the first one stays.
            entry = (-int.from_bytes(rank, "big"), -number, record)
            if len(heap) < size:
                heapq.heappush(heap, entry)
            elif size and entry[:2] > heap[0][:2]:
                heapq.heapreplace(heap, entry)
        return [record for _, _, record in sorted(heap, key=lambda entry: entry[:2], reverse=True)]

    def problems(self) -> tuple[str, ...]:
        """The first messages (at most 20) about bad records, `file:line: why; remedy`; reads the corpus once.

        Raises
        ------
        CorpusError
            When a file cannot be read; at the first bad record where the domain is strict.
        """
        return self._faults()[1]

    @property
    def bad(self) -> int:
        """How many records are bad; reads the corpus once."""
        return self._faults()[0]

    def _faults(self) -> tuple[int, tuple[str, ...]]:
        state = self._state()
        if self._cache.get("faults state") != state:
            for _ in self._stream(None, self.limit):
                pass
        count, messages = self._cache["faults"]
        return int(count), tuple(messages)

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits over the content of the files and everything that decides which records come out.

        Names and places of files do not count. Cached while path, size and modification time of the files stay.

        Raises
        ------
        CorpusError
            When a file cannot be read.
        """
        state = self._state()
        if self._cache.get("fingerprint state") != state:
            if self.kind == "hub":
                content = [[record.key, record.label, record.split] for record in self._stream(None, self.limit)]
            else:
                # Where one document a file is kept, the order of files decides nothing but the order of records.
                content = sorted([_content(source.path), source.split or ""] for source in self.sources)
            self._cache["fingerprint"] = digest(
                content, self.fields.to_dict(), self.validation, self.test, self.limit, self.documents, self._labels
            )
            self._cache["fingerprint state"] = state
        return str(self._cache["fingerprint"])

    @property
    def _labels(self) -> bool:
        return not (self.general or self.unlabelled)

    def _state(self) -> str:
        """What tells that the data may have changed."""
        if self.kind == "hub":
            return f"{self.hub} {self.subset} {self.revision}"
        marks = []
        for path in self.paths:
            files = [path] if path.is_file() else sorted(path.rglob("*"))
            try:
                marks += [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
            except OSError:
                marks.append([str(path), -1, -1])
        return digest(marks)

    def check(self) -> None:
        """Read the beginning of every source, and everything where the domain is strict.

        Raises
        ------
        CorpusError
            When a source cannot be read or none of its first records is good; at the first bad record where the domain
            is strict.
        """
        if self.strict:
            for _ in self._stream(None, self.limit):
                pass
        extractor = Extractor(self.fields, labels=self._labels)
        for place, _, rows in self._rows(extractor):
            wrong = 0
            message = f"{place}: holds no record; fill it or remove it."
            for line, row in rows:
                try:
                    _parts(extractor, row)
                    break
                except BadRow as fault:
                    wrong += 1
                    message = message if wrong > 1 else f"{place}:{line}: {fault}."
                    if wrong >= HOPELESS:
                        raise CorpusError(_hopeless(message)) from None
            else:
                raise CorpusError(message if wrong < 2 else f"{message[:-1]} (all {wrong} records are bad).")

    def _rows(self, extractor: Extractor) -> Iterator[tuple[str, str | None, Iterator[Row]]]:
        """For each source: what to call it in messages, its split, and its rows."""
        if self.kind == "hub":
            yield from hub_rows(str(self.hub), self.subset, self.revision, extractor.columns)
            return
        for source in self.sources:
            if self.kind == "datasets":
                rows = saved_rows(source.path, extractor.columns)
            else:
                rows = read_rows(source.path, detect(source.path), self.documents, extractor.columns)
            yield str(source.path), source.split, rows

    def _stream(self, split: str | None, limit: int | None) -> Iterator[Record]:
        extractor = Extractor(self.fields, labels=self._labels)
        validation, test = self.validation, self.test
        state = self._state()
        reached = [side for side in self._sides() if split is None or side == split]
        taken = dict.fromkeys(reached, 0)
        count, bad = 0, 0
        full, skipped = False, False
        messages: list[str] = []
        for place, named, rows in self._rows(extractor):
            if full:
                break
            if split is not None and named is not None and named != split:
                skipped = True
                continue
            good, wrong, first = 0, 0, ""
            for line, row in rows:
                try:
                    text, prompt, completion, chat, label, side = _parts(extractor, row)
                except BadRow as fault:
                    wrong += 1
                    message = f"{place}:{line}: {fault}."
                    first = first or message
                    if self.strict:
                        raise CorpusError(message) from None
                    if len(messages) < KEPT_PROBLEMS:
                        messages.append(message)
                    if not good and wrong >= HOPELESS:
                        raise CorpusError(_hopeless(first)) from None
                    continue
                good += 1
                side = named or side
                if side is None:
                    side = hashed_split(content_hash(text, prompt, completion, chat), validation, test)
                if split is not None and side != split:
                    continue
                if limit is not None:
                    if taken[side] >= limit:
                        continue
                    taken[side] += 1
                yield Record(text, prompt, completion, chat, label, side, place, line)
                if limit is not None and taken[side] >= limit and all(number >= limit for number in taken.values()):
                    full = True
                    break
            count += good
            bad += wrong
        # Every pass names what it skipped, whichever split it was for; once for each state of the files.
        told = self._cache.setdefault(f"told of {state}", set())
        if bad and split not in told and None not in told:
            logger.warning(
                "%s: %d of %d records are bad and were skipped; the first: %s", self.name, bad, bad + count, messages[0]
            )
        # Whether this pass saw all that the domain's own limit lets through, so that its faults are the domain's.
        whole = limit == self.limit and (split is None or not (skipped or full))
        told.add(None if whole else split)
        if whole:
            self._cache["faults"] = (bad, messages)
            self._cache["faults state"] = state

    def _sides(self) -> tuple[str, ...]:
        """The splits that records can belong to, as far as that is known without reading."""
        named = {source.split for source in self.sources}
        return SPLITS if not named or None in named else tuple(side for side in SPLITS if side in named)


def _parts(extractor: Extractor, row: dict[str, Any] | Fault) -> Parts:
    if type(row) is Fault:
        raise BadRow(row.why)
    return extractor(row)  # type: ignore[arg-type]


def _hopeless(message: str) -> str:
    return f"{message[:-1]} (the first {HOPELESS} records are all bad)."


def _content(path: Path) -> str:
    """A digest of the bytes of a file, or of the tables of a saved data set."""
    try:
        if path.is_file():
            return file_digest(path)
        return digest([file_digest(table) for table in sorted(path.glob("*.arrow"))])
    except OSError as fault:
        raise CorpusError(f"{path}: cannot be read ({fault.strerror or fault}); check the file.") from None
