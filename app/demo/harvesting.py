"""Harvest: eight or so real text domains, and a general corpus, from what is already installed.

Each domain becomes one JSONL file with the fields `text` and `split`. Splits are made by source *file*, so that two
pieces of one file never stand on both sides of a comparison; a paragraph seen once is dropped wherever it returns,
across domains too.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..._files import atomic_dir
from ..._progress import SILENT, Progress
from ...errors import CorpusError
from . import sources
from ._text import Seen, clean, is_text, paragraphs, split_document
from .settings import HarvestSettings
from .sources import Piece

__all__ = ["DOMAINS", "DomainSource", "harvest"]

Reader = Callable[[], Iterator[Piece]]


@dataclass(frozen=True, slots=True)
class DomainSource:
    """One domain of the demo: its name, what it is in words, and the readers that are mixed for it."""

    name: str
    what: str
    readers: tuple[Reader, ...]


DOMAINS: tuple[DomainSource, ...] = (
    DomainSource("code", "Python's standard library, functions and classes", (sources.standard_code,)),
    DomainSource("deep", "docstrings of PyTorch", (sources.docstrings("torch"),)),
    DomainSource("graphs", "docstrings of NetworkX", (sources.docstrings("networkx"),)),
    DomainSource(
        "headers",
        "C++ headers shipped with PyTorch and PyArrow",
        (sources.headers("torch", "include/c10", "include/torch/csrc"), sources.headers("pyarrow", "include/arrow")),
    ),
    DomainSource("language", "the Python language reference", (sources.topics,)),
    DomainSource(
        "learning",
        "docstrings and data set descriptions of scikit-learn",
        (sources.descriptions, sources.docstrings("sklearn")),
    ),
    DomainSource("licences", "licence texts of installed packages", (sources.licences,)),
    DomainSource(
        "numerical", "docstrings of NumPy and SciPy", (sources.docstrings("numpy"), sources.docstrings("scipy"))
    ),
    DomainSource("tables", "docstrings of pandas", (sources.docstrings("pandas"),)),
)

# What the base model learns from: broad, and from packages that no domain above uses.
GENERAL = DomainSource(
    "general",
    "package READMEs and docstrings of the standard library and other packages",
    (
        sources.readmes,
        sources.standard_docstrings,
        *map(
            sources.docstrings,
            ["transformers", "sympy", "matplotlib", "huggingface_hub", "datasets", "numba", "peft", "accelerate"],
        ),
        *map(sources.docstrings, ["fontTools", "sentence_transformers", "rich", "click", "jinja2", "fsspec"]),
    ),
)


def harvest(
    out: Path,
    progress: Progress = SILENT,
    *,
    settings: HarvestSettings | None = None,
    domains: Iterable[DomainSource] = DOMAINS,
    general: DomainSource = GENERAL,
) -> Path:
    """Write one JSONL file a domain, and `general.jsonl`, into the folder `out`.

    The same installed versions give the same bytes.

    Parameters
    ----------
    out : Path
        The corpora folder; written atomically, replacing what was there.
    progress : Progress
        Where to report.
    settings : HarvestSettings, optional
        Sizes and shares.
    domains, general : DomainSource
        What to read; the defaults are the demo's.

    Returns
    -------
    Path
        `out`, which `kinfold.load_corpora` reads.

    Raises
    ------
    CorpusError
        If fewer than `settings.domains` domains have enough text on this machine.
    """
    settings = settings or HarvestSettings()
    rows = [*domains, general]
    seen = Seen()
    written: dict[str, list[dict[str, str]]] = {}
    with progress.task("Harvesting text", total=len(rows), unit="domains") as task:
        for source in rows:
            most = settings.general_characters if source is general else settings.characters
            records = _records(source, seen, most, settings)
            if len(records) < settings.documents:
                if source is general:
                    raise CorpusError(
                        f"general corpus: only {len(records)} documents found in the installed packages, "
                        f"{settings.documents} needed; reinstall Kinfold's dependencies with their files."
                    )
                progress.warn(
                    f"domain {source.name!r} skipped: {len(records)} documents of {source.what} on this Python, "
                    f"{settings.documents} needed."
                )
            else:
                written[source.name] = records
            task.advance()
    if len(written) - 1 < settings.domains:
        raise CorpusError(
            f"{out}: only {len(written) - 1} of {len(rows) - 1} demo domains have enough text on this Python, "
            f"{settings.domains} needed; use a full CPython installation."
        )
    _write(out, written)
    return out


def _records(source: DomainSource, seen: Seen, most: int, settings: HarvestSettings) -> list[dict[str, str]]:
    """Documents of one domain with their split, `most` characters in all, the readers taking turns."""
    documents: list[Piece] = []
    size = 0
    # Each reader may fill an equal part; what a small one leaves goes to the later ones.
    for position, reader in enumerate(source.readers):
        share = size + (most - size) // (len(source.readers) - position)
        for origin, pieces in itertools.groupby(reader(), key=lambda piece: piece.origin):
            for piece in pieces:
                parts = seen.fresh(paragraphs(clean(piece.text)))
                for text in split_document(parts, settings.longest, settings.shortest):
                    if is_text(text):
                        documents.append(Piece(text, origin))
                        size += len(text)
            if size >= share:
                break
    splits = _splits(documents, settings)
    return [{"text": document.text, "split": splits[document.origin]} for document in documents]


def _splits(documents: list[Piece], settings: HarvestSettings) -> dict[str, str]:
    """A split for each origin: whole files go to test, then to validation, until the shares are reached."""
    sizes: dict[str, int] = {}
    for document in documents:
        sizes[document.origin] = sizes.get(document.origin, 0) + len(document.text)
    total = sum(sizes.values())
    splits = dict.fromkeys(sizes, "train")
    for split, share in (("test", settings.test), ("validation", settings.validation)):
        left = share * total
        for origin in sorted(sizes, key=lambda name: sources.scattered(f"{split} {name}")):
            # A file as large as the whole share would be the split's only voice.
            if splits[origin] == "train" and sizes[origin] <= min(left * 1.1, 0.4 * share * total):
                splits[origin] = split
                left -= sizes[origin]
        if split not in splits.values() and len(sizes) > 2:  # a few large files: the smallest is better than none
            rest = [origin for origin in sizes if splits[origin] == "train"]
            splits[min(rest, key=lambda origin: (sizes[origin], origin))] = split
    return splits


def _write(out: Path, written: dict[str, list[dict[str, str]]]) -> None:
    texts = {
        f"{name}.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in records)
        for name, records in sorted(written.items())
    }
    with atomic_dir(out) as folder:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
