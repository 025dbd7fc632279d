"""Embeddings kept on disk, keyed by content, embedder and settings."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._files import atomic_path, digest
from .._progress import SILENT, Progress
from .collect import Collection
from .embedders import Embedder, Embedding, embed, embedder_fingerprint
from .ranks import one_for_all, place

if TYPE_CHECKING:
    from .settings import MeasureSettings

__all__ = ["cached_embedding"]

_log = logging.getLogger("kinfold.metrics")
_FORMAT = 1


def cached_embedding(
    collection: Collection,
    settings: MeasureSettings,
    *,
    seed: int,
    cache: Path | None,
    embedder: Embedder | None = None,
    progress: Progress = SILENT,
) -> Embedding:
    """Embeddings of every domain's sampled documents, from the cache where they are there and whole."""
    texts = [sample.texts for sample in collection.samples]
    names = [sample.name for sample in collection.samples]
    mark = embedder_fingerprint(settings) if embedder is None else embedder.fingerprint
    # LSA is fitted on all domains together, so one file holds all; the texts themselves are the key.
    key = digest([_FORMAT, mark, seed, names, [digest(list(group)) for group in texts]])
    file = None if cache is None else Path(cache) / "embeddings" / f"{key}.npz"
    # The cache of rank 0 decides for all ranks: half of them waiting for the other half's embeddings would never end.
    held = one_for_all(lambda: None if file is None else _read(file, mark, [len(group) for group in texts]))
    if held is not None:
        return held
    made = embed(texts, names, settings, seed=seed, embedder=embedder, progress=progress)
    if file is not None and place()[0] == 0:
        _write(file, made)
    return made


def _read(file: Path, mark: str, sizes: Sequence[int]) -> Embedding | None:
    """Cached embeddings; a damaged file is as good as none."""
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as data:
            vectors = tuple(data[f"v{index}"] for index in range(len(sizes)))
            fits = [len(v) for v in vectors] == list(sizes) and all(np.isfinite(v).all() for v in vectors)
            return Embedding(vectors, mark, int(data["reduced"])) if fits else None
    except Exception as fault:  # zip, numpy and key errors alike: embed again
        _log.warning("%s: damaged cache entry (%s); embedding again", file, fault)
        return None


def _write(file: Path, made: Embedding) -> None:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {f"v{i}": v for i, v in enumerate(made.vectors)}
    np.savez(buffer, reduced=np.array(made.reduced), **arrays)
    try:
        with atomic_path(file) as temporary:
            temporary.write_bytes(buffer.getvalue())
    except OSError as fault:
        _log.warning("%s: cache not written (%s)", file, fault)
