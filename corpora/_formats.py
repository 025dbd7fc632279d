"""Which format a file has: by its first bytes, and by its suffix where the bytes leave a choice."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import CorpusError
from ._json import JsonStream, JsonStreamError
from ._streams import HEAD, head
from .record import named_split

__all__ = ["FORMATS", "detect", "format_by_name", "is_saved_dataset", "split_by_name", "stem"]

FORMATS = ("txt", "jsonl", "json", "csv", "parquet")
_SUFFIXES = {
    ".txt": "txt",
    ".text": "txt",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
_COMPRESSED = (".gz", ".gzip", ".zst", ".zstd")
_SHARD = re.compile(r"^(.*?)[-_.]\d+(?:-of-\d+)?$")


def _bare(name: str) -> str:
    path = Path(name)
    return path.stem if path.suffix.casefold() in _COMPRESSED else name


def format_by_name(path: Path) -> str | None:
    """The format that the suffix promises (a `.gz` or `.zst` at its end aside), or None."""
    return _SUFFIXES.get(Path(_bare(path.name)).suffix.casefold())


def stem(path: Path) -> str:
    """The file's name without the suffixes of formats and compressions.

    >>> stem(Path("x/news.v2.jsonl.gz"))
    'news.v2'
    """
    bare = Path(_bare(path.name))
    return bare.stem if bare.suffix.casefold() in _SUFFIXES else bare.name


def split_by_name(path: Path, root: Path | None = None) -> str | None:
    """The split that a file is named after: its own name, or a folder's between it and `root`.

    >>> split_by_name(Path("d/train-00000-of-00002.parquet")), split_by_name(Path("d/trains.txt"))
    ('train', None)
    """
    names = [stem(path)]
    if root is not None:
        names += reversed(path.relative_to(root).parent.parts)
    for name in names:
        shard = _SHARD.match(name)
        split = named_split(name) or (named_split(shard[1]) if shard else None)
        if split:
            return split
    return None


def is_saved_dataset(folder: Path) -> bool:
    """Whether `folder` was written by `datasets`' `save_to_disk`."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def detect(path: Path) -> str:
    """The format of `path`, one of :data:`FORMATS`.

    Raises
    ------
    CorpusError
        When the file is empty, binary or of no format that is read here.
    """
    if not path.exists():
        raise CorpusError(f"{path}: no such file; check the path.")
    if not path.is_file():
        raise CorpusError(f"{path}: is not a regular file; name a file.")
    start = head(path, HEAD + 1)
    named = format_by_name(path)
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(b"ARROW1"):
        raise CorpusError(f"{path}: is an Arrow file; name the folder that `datasets` saved, or write Parquet.")
    if named == "parquet":
        raise CorpusError(f"{path}: is named Parquet but is not; write the file again.")
    if b"\0" in start:
        raise CorpusError(f"{path}: is binary, not text; use one of .txt, .jsonl, .json, .csv, .parquet (.gz, .zst).")
    text = start.decode("utf-8", "replace").removeprefix("\ufeff")
    if not text.strip():
        raise CorpusError(f"{path}: holds no record; fill the file or remove it.")
    if named in ("txt", "csv"):
        return named
    if text.lstrip()[0] in "[{":
        return _json_kind(text.lstrip(), named, cut=len(start) > HEAD)
    if named in ("jsonl", "json"):
        return named
    if named is None and path.suffix:
        raise CorpusError(
            f"{path}: the suffix {path.suffix!r} is not known; "
            "use one of .txt, .jsonl, .json, .csv, .parquet (.gz, .zst)."
        )
    return "txt"


def _json_kind(text: str, named: str | None, *, cut: bool) -> str:
    """Tell JSON Lines from one JSON value by the first line; the suffix decides only where the line cannot.

    `text` is the beginning of the file, `cut` says that the file goes on.
    """
    first, newline, rest = text.partition("\n")
    first = first.strip()
    if not newline and cut:
        # One line longer than what was read: a minified array or object, or a very long record.
        return "json" if text[0] == "[" or named == "json" else "jsonl"
    stream = JsonStream(iter([first]))
    try:
        stream.value()
        whole = not stream.peek()
    except JsonStreamError:
        whole = False
    if whole:
        if rest.strip():
            return "jsonl"
        return "json" if text[0] == "[" or named == "json" else "jsonl"
    if text[0] == "[" or first == "{":
        return "json"
    # An object that does not end on its line is an indented value, or a broken record among others.
    return "json" if named != "jsonl" and first[-1] in "[{,:" else "jsonl"
