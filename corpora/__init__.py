"""What a user brings: domains, formats, records, splits and fingerprints, streamed from where they lie."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .corpora import Corpora, require_domains
    from .domain import Domain, Source
    from .load import load_corpora
    from .record import KINDS, SPLITS, Message, Record, sort_labels
    from .settings import CorporaSettings
    from .summary import CorpusSummary, DomainSummary

_HOMES = {
    "KINDS": ".record",
    "SPLITS": ".record",
    "Corpora": ".corpora",
    "CorporaSettings": ".settings",
    "CorpusSummary": ".summary",
    "Domain": ".domain",
    "DomainSummary": ".summary",
    "Message": ".record",
    "Record": ".record",
    "Source": ".domain",
    "load_corpora": ".load",
    "require_domains": ".corpora",
    "sort_labels": ".record",
}

__all__ = [
    "KINDS",
    "SPLITS",
    "Corpora",
    "CorporaSettings",
    "CorpusSummary",
    "Domain",
    "DomainSummary",
    "Message",
    "Record",
    "Source",
    "load_corpora",
    "require_domains",
    "sort_labels",
]


def __getattr__(name: str) -> Any:
    """Import a name from its home on first use (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
