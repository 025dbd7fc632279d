"""All domains of a project as one value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._progress import SILENT, Progress
from ..errors import CorpusError, InputError
from .domain import Domain
from .summary import CorpusSummary, scan_domain, warnings_of, warnings_of_all

__all__ = ["Corpora", "require_domains"]


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
                summary = scan_domain(domain)
                summaries.append(summary)
                warnings += warnings_of(summary)
                task.advance()
        warnings += warnings_of_all(summaries)
        return CorpusSummary(tuple(summaries), self.ignored, tuple(warnings))


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
