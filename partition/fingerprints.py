"""Is this plan still about this data? Refuse one that is not, and say what changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import FingerprintError

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ["changed_fingerprints", "check_fingerprints"]


def changed_fingerprints(plan: Plan, current: Mapping[str, Any]) -> tuple[str, ...]:
    """What differs between the fingerprints a plan was made with and `current`, one phrase each.

    Only what both sides know is compared, so a plan written by hand, which knows none, never differs; a domain
    that exists on one side only always does.
    """
    phrases: list[str] = []
    recorded = plan.fingerprints
    for key in sorted(set(recorded) & set(current)):
        old, new = recorded[key], current[key]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            phrases.extend(_domains(old, new))
        elif old and new and old != new:
            phrases.append(f"the {key} changed")
    return tuple(phrases)


def check_fingerprints(plan: Plan, current: Mapping[str, Any]) -> None:
    """Refuse a plan made for other data.

    Parameters
    ----------
    plan : Plan
        The plan about to be used.
    current : mapping
        What is at hand now, as {"corpora": {domain: hash}, "tokenizer": hash, ...}; leave out what is not known.

    Raises
    ------
    FingerprintError
        When a domain's text, the tokenizer or another fingerprinted input changed, or a domain came or went.
    """
    phrases = changed_fingerprints(plan, current)
    if phrases:
        raise FingerprintError(
            f"plan: it was made for other data: {'; '.join(phrases)}; measure and plan again (new domains: "
            f"kinfold plan --extend), or accept it with --allow-changed."
        )


def _domains(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(set(old) - set(new)):
        yield f"domain {name!r} is gone"
    for name in sorted(set(new) - set(old)):
        yield f"domain {name!r} is new"
    for name in sorted(set(old) & set(new)):
        if old[name] and new[name] and old[name] != new[name]:
            yield f"the text of domain {name!r} changed"
