"""All domains of a project as one value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .._progress import SILENT, Progress
from ..errors import CorpusError, InputError
from .domain import Domain
from .record import SPLITS, sort_labels

__all__ = ["Corpora", "CorpusSummary", "DomainSummary", "require_domains"]

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
    """

    name: str
    role: str
    kinds: Mapping[str, int]
    documents: Mapping[str, int]
    characters: Mapping[str, int]
    labels: Mapping[str, int]
    bad: int
    problems: tuple[str, ...]


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


@dataclass(frozen=True)
class Corpora:
    """Domains in the order of their names.

    Parameters
    ----------
    domains
        The domains; they are put in order here.
    ignored
        What of the source was no corpus, `name: why`.
    """

    domains: tuple[Domain, ...]
    ignored: tuple[str, ...] = ()
    _index: dict[str, Domain] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "domains", tuple(sorted(self.domains, key=lambda domain: domain.name)))
        self._index.update((domain.name, domain) for domain in self.domains)
        if len(self._index) != len(self.domains):
            raise CorpusError("two domains have the same name; rename one.")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all domains, in order."""
        return tuple(self._index)

    @property
    def planned(self) -> tuple[Domain, ...]:
        """The domains that are measured, planned and trained: neither general nor unlabelled."""
        return tuple(domain for domain in self.domains if not (domain.general or domain.unlabelled))

    @property
    def general(self) -> tuple[Domain, ...]:
        """The domains of general text."""
        return tuple(domain for domain in self.domains if domain.general)

    @property
    def unlabelled(self) -> tuple[Domain, ...]:
        """The domains of unlabelled text."""
        return tuple(domain for domain in self.domains if domain.unlabelled)

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each domain (see :attr:`Domain.fingerprint`)."""
        return {domain.name: domain.fingerprint for domain in self.domains}

    def to_dict(self) -> dict[str, Any]:
        """Plain values that :meth:`from_dict` makes the same corpora of, for example in another process."""
        return {"domains": [domain.to_dict() for domain in self.domains], "ignored": list(self.ignored)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Corpora:
        """The inverse of :meth:`to_dict`; nothing is opened."""
        return cls(tuple(Domain.from_dict(domain) for domain in values["domains"]), tuple(values["ignored"]))

    def __getitem__(self, name: str) -> Domain:
        try:
            return self._index[name]
        except KeyError:
            raise InputError(f"no domain {name!r}; the corpora have {', '.join(self.names)}.") from None

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __iter__(self) -> Iterator[Domain]:
        return iter(self.domains)

    def __len__(self) -> int:
        return len(self.domains)

    def scan(self, progress: Progress = SILENT) -> CorpusSummary:
        """Read everything once and count it.

        Raises
        ------
        CorpusError
            When a file cannot be read; at the first bad record of a strict domain.
        """
        summaries = []
        warnings: list[str] = []
        with progress.task("reading corpora", total=len(self.domains), unit="domains") as task:
            for domain in self.domains:
                task.update(note=domain.name)
                summary = _scan(domain)
                summaries.append(summary)
                warnings += _warnings(summary)
                task.advance()
        return CorpusSummary(tuple(summaries), self.ignored, tuple(warnings))


def _scan(domain: Domain) -> DomainSummary:
    kinds: Counter[str] = Counter()
    documents = dict.fromkeys(SPLITS, 0)
    characters = dict.fromkeys(SPLITS, 0)
    labels: Counter[str] = Counter()
    for record in domain.records():
        kinds[record.kind] += 1
        documents[record.split] += 1
        characters[record.split] += len(record.plain)
        if record.label is not None and (len(labels) < _MOST_LABELS or record.label in labels):
            labels[record.label] += 1
    role = "general" if domain.general else "unlabelled" if domain.unlabelled else "planned"
    ordered = {label: labels[label] for label in sort_labels(labels)}
    return DomainSummary(domain.name, role, dict(kinds), documents, characters, ordered, domain.bad, domain.problems())


def _warnings(summary: DomainSummary) -> Iterator[str]:
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
    if len(summary.labels) >= _MOST_LABELS:
        yield f"{name}: has {_MOST_LABELS} labels or more; check that the label is a class."


def require_domains(corpora: Corpora, least: int = 2) -> None:
    """Check that there are enough domains to relate.

    Raises
    ------
    CorpusError
        When fewer than `least` domains are planned.
    """
    found = [domain.name for domain in corpora.planned]
    if len(found) < least:
        has = f"only one domain ({found[0]})" if found else "no domain"
        aside = len(corpora) - len(found)
        rest = f" beside {aside} general or unlabelled" if aside else ""
        raise CorpusError(f"the corpora have {has}{rest}; relations need at least {least}, so add another domain.")
