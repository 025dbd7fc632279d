"""What one pass over corpora finds: counts, labels, duplicates, and what a user should know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .domain import Domain
from .record import SPLITS, Record, sort_labels

__all__ = ["CorpusSummary", "DomainSummary", "scan_domain", "warnings_of", "warnings_of_all"]

_MOST_LABELS = 1000


@dataclass(frozen=True)
class DomainSummary:
    """What one pass over a domain found.

    Parameters
    ----------
    name, role
        The domain, and what it is for: "planned", "general" or "unlabelled".
    kinds
        Number of good records by kind ("text", "completion", "chat", "labelled").
    documents, characters
        Number of good records and of characters (of `record.plain`) by split.
    labels
        Number of records by label, in the order of the labels.
    bad
        Number of bad records.
    problems
        The first messages about them.
    duplicates
        Number of records whose content came before; from 200,000 different records on an estimate.
    leaked
        Number of validation and test records whose content is also in the training split; an estimate likewise.
    """

    name: str
    role: str
    kinds: Mapping[str, int]
    documents: Mapping[str, int]
    characters: Mapping[str, int]
    labels: Mapping[str, int]
    bad: int
    problems: tuple[str, ...]
    duplicates: int = 0
    leaked: int = 0


@dataclass(frozen=True)
class CorpusSummary:
    """What one pass over the corpora found."""

    domains: tuple[DomainSummary, ...]
    ignored: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def bad(self) -> int:
        """Number of bad records over all domains."""
        return sum(domain.bad for domain in self.domains)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


class _Twins:
    """Counts repeated contents in bounded memory.

    All hashes below a threshold are kept with their number of records in each split; the threshold is halved whenever
    too many are kept. What is kept is a sample of the different contents, uniform by hash, so counts scale.
    """

    MOST = 200_000

    def __init__(self) -> None:
        self._kept: dict[int, list[int]] = {}
        self._shift = 0

    def see(self, record: Record) -> None:
        """Count one record."""
        number = int(record.key[:16], 16)
        if number >> (64 - self._shift):
            return
        counts = self._kept.get(number)
        if counts is None:
            counts = self._kept[number] = [0] * len(SPLITS)
            if len(self._kept) > self.MOST:
                self._shift += 1
                self._kept = {n: c for n, c in self._kept.items() if not n >> (64 - self._shift)}
        counts[SPLITS.index(record.split)] += 1

    def counts(self) -> tuple[int, int]:
        """Duplicates, and held-out records that are also in the training split."""
        duplicates = sum(sum(counts) - 1 for counts in self._kept.values())
        leaked = sum(held + tested for train, held, tested in self._kept.values() if train)
        return duplicates << self._shift, leaked << self._shift


def scan_domain(domain: Domain) -> DomainSummary:
    """Read a domain once and count."""
    kinds: Counter[str] = Counter()
    documents = dict.fromkeys(SPLITS, 0)
    characters = dict.fromkeys(SPLITS, 0)
    labels: Counter[str] = Counter()
    twins = _Twins()
    for record in domain.records():
        kinds[record.kind] += 1
        documents[record.split] += 1
        characters[record.split] += len(record.plain)
        twins.see(record)
        if record.label is not None and (len(labels) < _MOST_LABELS or record.label in labels):
            labels[record.label] += 1
    role = "general" if domain.general else "unlabelled" if domain.unlabelled else "planned"
    ordered = {label: labels[label] for label in sort_labels(labels)}
    return DomainSummary(
        domain.name,
        role,
        dict(kinds),
        documents,
        characters,
        ordered,
        domain.bad,
        domain.problems(),
        *twins.counts(),
    )


def warnings_of(summary: DomainSummary) -> Iterator[str]:
    """What a user should know before planning or training on a domain."""
    name = summary.name
    total = sum(summary.documents.values())
    if summary.bad:
        yield (
            f"{name}: {summary.bad} of {summary.bad + total} records are bad and were skipped; "
            f"the first: {summary.problems[0]}"
        )
    if summary.role != "planned":
        return
    if len(summary.kinds) > 1:
        mix = ", ".join(f"{count} {kind}" for kind, count in sorted(summary.kinds.items()))
        yield f"{name}: mixes kinds of records ({mix}); name the fields in a manifest if that is not meant."
    for split in ("train", "test"):
        if not summary.documents[split]:
            yield f"{name}: no record belongs to the {split} split; add some, or leave all splits out."
    if summary.duplicates > 0.1 * total:
        yield f"{name}: {summary.duplicates:,} of {total:,} records are duplicates; check that this is meant."
    if len(summary.labels) >= _MOST_LABELS:
        yield f"{name}: has {_MOST_LABELS} labels or more; check that the label is a class."


def warnings_of_all(summaries: Iterable[DomainSummary]) -> Iterator[str]:
    """What is said once for all domains, the worst first."""
    leaked = [found for found in summaries if found.role == "planned" and found.leaked]
    if leaked:
        counts = _counts(sorted(leaked, key=lambda found: (-found.leaked, found.name)))
        yield (
            f"validation or test records are also in the training split, so results will flatter: {counts}; "
            "remove them from one side."
        )


def _counts(leaked: Sequence[DomainSummary], most: int = 6) -> str:
    """`magazines 85 of 600, dvd 5 of 600, and 3 more domains`."""
    parts = []
    for found in leaked[:most]:
        held = found.documents["validation"] + found.documents["test"]
        parts.append(f"{found.name} {found.leaked:,} of {held:,}")
    more = len(leaked) - most
    if more > 0:
        parts.append(f"and {more} more domain{'s' * (more > 1)}")
    return ", ".join(parts)
