"""Embeddings kept on disk, keyed by content, embedder and settings."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._files import atomic_path, digest
from .._progress import SILENT, Progress
from .collect import Collection
from .embedders import Embedding, embed, embedder_fingerprint

if TYPE_CHECKING:
    from .settings import MeasureSettings

__all__ = ["cached_embedding"]

_log = logging.getLogger("kinfold.metrics")
_FORMAT = 1


def cached_embedding(
    collection: Collection,
    fingerprints: Mapping[str, str],
    settings: MeasureSettings,
    *,
    seed: int,
    cache: Path | None,
    progress: Progress = SILENT,
) -> Embedding:
    """Embeddings of every domain's sampled documents, from the cache where they are there and whole."""
    texts = [sample.texts for sample in collection.samples]
    names = [sample.name for sample in collection.samples]
    if cache is None:
        return embed(texts, names, settings, seed=seed, progress=progress)
    mark = embedder_fingerprint(settings)
    # LSA is fitted on all domains together, so one file holds all; the texts themselves are the key.
    key = digest([_FORMAT, mark, seed, names, [digest(list(group)) for group in texts]])
    file = Path(cache) / "embeddings" / f"{key}.npz"
    if file.is_file():
        try:
            with np.load(file, allow_pickle=False) as data:
                vectors = tuple(data[f"v{index}"] for index in range(len(texts)))
                if [len(v) for v in vectors] == [len(group) for group in texts]:
                    return Embedding(vectors, mark, int(data["reduced"]))
        except Exception as fault:  # zip, numpy and key errors alike: embed again
            _log.warning("%s: damaged cache entry (%s); embedding again", file, fault)
    made = embed(texts, names, settings, seed=seed, progress=progress)
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {f"v{i}": v for i, v in enumerate(made.vectors)}
    np.savez(buffer, reduced=np.array(made.reduced), **arrays)
    try:
        with atomic_path(file) as temporary:
            temporary.write_bytes(buffer.getvalue())
    except OSError as fault:
        _log.warning("%s: cache not written (%s)", file, fault)
    return made
