"""What a domain may be called."""

from __future__ import annotations

import unicodedata

from .._files import slug
from ..errors import CorpusError

__all__ = ["checked_name", "did_you_mean"]

# A name becomes part of file names, percent-encoded; file systems end at 255 bytes.
_LONGEST_SLUG = 200


def checked_name(name: object, where: str) -> str:
    """A domain name that is safe as a file name, in a table and in a page, in Unicode's composed form.

    Raises
    ------
    CorpusError
        When it is not; `where` is what the message begins with.
    """
    if not isinstance(name, str):
        raise CorpusError(f"{where}: the domain name {name!r} is not text; put it in quotes.")
    name = unicodedata.normalize("NFC", name)
    if not name.strip():
        raise CorpusError(f"{where}: a domain name is empty; give it a name.")
    if name != name.strip():
        raise CorpusError(f"{where}: the domain name {name!r} begins or ends with white space; remove it.")
    if "/" in name or "\\" in name or ".." in name or name == ".":
        raise CorpusError(f"{where}: the domain name {name!r} has a path separator or '..'; use a plain name.")
    # Cc control, Cs surrogate, Zl and Zp line ends; the rest re-orders or hides what a reader sees.
    hidden = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200b\ufeff"
    if any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") or sign in hidden for sign in name):
        raise CorpusError(f"{where}: the domain name {name!r} has control characters; use a plain name.")
    if len(slug(name)) > _LONGEST_SLUG:
        raise CorpusError(f"{where}: the domain name {name[:40]!r}... is too long for a file name; shorten it.")
    return name


def did_you_mean(word: str, known: tuple[str, ...]) -> str:
    """The remedy for an unknown word: the nearest known one, or all of them."""
    import difflib

    near = difflib.get_close_matches(word.casefold(), known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}."
