"""`measure`: corpora in, `Relations` out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._files import digest
from .._progress import SILENT, Progress
from .._seeding import derive_seed, generator
from ..errors import CorpusError, ModelError
from . import combine, halving, tokens
from ._gram import GramPass, GramResult
from ._rff import rff_pass
from .collect import Collection, collect
from .divergence import synergy
from .embedders import Embedder, Embedding, require_sources
from .embeddings import bootstrap_weights, centred, cosine_floor, cosine_table
from .mmd import default_bandwidths, median_sq_dist
from .ranks import exchange, one_for_all, place
from .registry import AFFINITY
from .relations import Relations
from .settings import MeasureSettings
from .store import cached_embedding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..corpora import Corpora

__all__ = ["measure"]

_TOKEN = ("js", "js_plugin", "jaccard", "ruzicka")
_EMBEDDED = ("cosine", "cosine_centred", "mmd2", "mmd2_p")
_NOISY_TOKENS = 10_000
_FEW_DOCUMENTS = 30
_EXACT_ROWS = 200_000
_MEDIAN_POINTS = 2048
_LEVEL = 0.05


class _Draft:
    """Matrices, draws, floors and warnings while they are made."""

    def __init__(self, k: int, confidence: float) -> None:
        self.k = k
        self.confidence = confidence
        self.matrices: dict[str, NDArray[np.float64]] = {}
        self.low: dict[str, NDArray[np.float64]] = {}
        self.high: dict[str, NDArray[np.float64]] = {}
        self.floors: dict[str, NDArray[np.float64]] = {}
        self.draws: dict[str, NDArray[np.float32]] = {}
        self.warnings: list[str] = []
        self.agreement: dict[str, dict[str, Any]] = {}
        self.details: dict[str, Any] = {}

    def put(self, name: str, value: NDArray[np.float64], draws: NDArray[np.float32] | None = None) -> None:
        """Keep a matrix; its draws are recentred on it and give the interval."""
        self.matrices[name] = np.asarray(value, np.float64)
        if draws is None or len(draws) < 2:
            return
        shifted = combine.recentre(value, draws)
        self.draws[name] = shifted
        self.low[name], self.high[name] = combine.interval(shifted, self.matrices[name], self.confidence)


def measure(
    corpora: Corpora,
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    settings: MeasureSettings | None = None,
    seed: int = 0,
    cache: Path | None = None,
    embedder: Embedder | None = None,
    progress: Progress = SILENT,
) -> Relations:
    """Measure how the planned domains of `corpora` relate.

    Parameters
    ----------
    corpora : Corpora
        From :func:`kinfold.load_corpora`; general and unlabelled domains are left out.
    tokenizer : str or path, optional
        A model folder, `tokenizer.json` or hub id; default: a byte-level BPE trained on a sample of the corpora.
    settings : MeasureSettings, optional
    seed : int
        Decides samples, halves, permutations and bootstrap draws; the same seed gives the same numbers.
    cache : Path, optional
        Folder for counts and embeddings, keyed by content, tokenizer and settings; safe to share between runs.
    embedder : Embedder, optional
        Embeds in the place of the one that `settings` names, for models that are no folder (a base model with
        adapters on it); its fingerprint is the relations'.
    progress : Progress

    Returns
    -------
    Relations

    Raises
    ------
    CorpusError
        No planned domain, or one without text or with a single document.
    ModelError
        The tokenizer, embedder or model cannot be loaded.
    """
    settings = settings or MeasureSettings()
    names = tuple(domain.name for domain in corpora.planned)
    if not names:
        raise CorpusError("the corpora hold no domain to measure; general and unlabelled domains do not count.")
    if settings.model is None and settings.validate == "probe" and settings.embedder == "model":
        raise ModelError("measure.validate=probe needs measure.model; name the base model's folder or id.")
    if embedder is None:
        require_sources(settings)
    collection = collect(corpora, settings, tokenizer=tokenizer, seed=seed, cache=cache, progress=progress)
    draft = _Draft(len(names), settings.confidence)
    wanted = _needed(settings)
    _about_sizes(collection, draft)
    if wanted & set(_TOKEN):
        _token_measures(collection, settings, seed, draft, progress)
    embedding: Embedding | None = None
    if wanted & {*_EMBEDDED, "class_mean_cosine", "probe_transfer", "proxy_a_distance"} or settings.validate == "probe":
        embedding = cached_embedding(collection, settings, seed=seed, cache=cache, embedder=embedder, progress=progress)
        if embedding.reduced:
            draft.warnings.append(
                f"{embedding.reduced} documents are longer than max_windows windows; evenly spaced ones stand for them."
            )
    if wanted & set(_EMBEDDED) and embedding is not None:
        _embedding_measures(embedding, names, settings, seed, wanted, draft, progress)
    _synergies(wanted, draft)
    asked_affinity = [name for name in settings.measures if name in AFFINITY]
    if asked_affinity:
        from .affinity import affinity_measures

        for name, affinity in affinity_measures(
            asked_affinity, collection, embedding, settings, seed=seed, progress=progress
        ).items():
            if affinity.value is not None:
                draft.put(name, affinity.value)
            draft.agreement[name] = affinity.agreement
            if not affinity.agreement["usable"]:
                draft.warnings.append(f"{name} should not be planned with: {affinity.agreement['why']}.")
    if "discrepancy" in wanted:
        value, draws = combine.composite(draft.matrices, draft.draws, dict(settings.discrepancy))
        draft.put("discrepancy", value, draws)
    validation: Mapping[str, Any] | None = None
    if settings.validate == "probe":
        from .validation import validate_measures

        asked = {name: value for name, value in draft.matrices.items() if name in settings.measures}
        validation = validate_measures(asked, collection, embedding, settings, seed=seed, progress=progress)
        draft.warnings += validation.get("warnings", [])
    keep = [name for name in draft.matrices if name in settings.measures]
    resolved = _resolved(settings, tokenizer)
    found = Relations(
        domains=names,
        matrices={name: draft.matrices[name] for name in keep},
        low={name: draft.low[name] for name in keep if name in draft.low},
        high={name: draft.high[name] for name in keep if name in draft.high},
        floors={name: draft.floors[name] for name in keep if name in draft.floors},
        replicates={name: draft.draws[name] for name in keep if name in draft.draws},
        tokens=np.array([sample.tokens for sample in collection.samples], np.int64),
        documents=np.array([sample.documents for sample in collection.samples], np.int64),
        characters=np.array([sample.characters for sample in collection.samples], np.int64),
        fingerprints={
            "corpora": {name: corpora.fingerprints[name] for name in names},
            "tokenizer": collection.tokenizer,
            "embedder": embedding.fingerprint if embedding is not None else "",
            "settings": digest(_without_speed(resolved)),
        },
        settings=resolved,
        seed=seed,
        warnings=tuple(dict.fromkeys(draft.warnings)),
        agreement=draft.agreement,
        validation=validation,
        details=draft.details,
    )
    return _settled(found)


def _settled(found: Relations) -> Relations:
    """One answer under several ranks: what follows counting and embedding is computed on each of them.

    A GPU or another machine may round it otherwise; then rank 0's relations are everybody's.
    """
    if place()[1] == 1 or len(set(exchange(found.digest))) == 1:
        return found
    return dataclasses.replace(one_for_all(lambda: found))  # made anew: arrays that travelled are not frozen


def _resolved(settings: MeasureSettings, tokenizer: str | os.PathLike[str] | None) -> dict[str, Any]:
    out = dataclasses.asdict(settings)
    out["measures"] = list(settings.measures)
    out["discrepancy"] = dict(settings.discrepancy)
    out["tokenizer"] = "auto" if tokenizer is None else str(tokenizer)
    return out


def _without_speed(resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that decide numbers: the number of processes, say, does not."""
    return {key: value for key, value in resolved.items() if key not in ("num_proc", "batch_size", "device")}


def _needed(settings: MeasureSettings) -> set[str]:
    """What is asked, and what that is made from."""
    wanted = set(settings.measures)
    if "synergy" in wanted:
        wanted |= {"jaccard", "cosine"}
    if "synergy_centred" in wanted:
        wanted |= {"jaccard", "cosine_centred"}
    if "discrepancy" in wanted:
        wanted |= {name for name, weight in settings.discrepancy.items() if weight > 0}
    return wanted


def _about_sizes(collection: Collection, draft: _Draft) -> None:
    for sample in collection.samples:
        n = int(sample.rows.shape[0])
        if sample.pieces:
            draft.warnings.append(
                f"domain {sample.name!r} has so few documents that pieces of them stand for documents; its intervals "
                "and corrections are too hopeful."
            )
        elif n < _FEW_DOCUMENTS:
            draft.warnings.append(
                f"domain {sample.name!r} has {n} documents; below {_FEW_DOCUMENTS} intervals and corrections are rough."
            )
        if sample.long:
            draft.warnings.append(
                f"domain {sample.name!r} has {sample.long} documents above 65,536 characters; these are cut."
            )
    draft.details["sampled_documents"] = [int(sample.rows.shape[0]) for sample in collection.samples]
    draft.details["sample_is_complete"] = [bool(sample.complete) for sample in collection.samples]
    draft.details["counted_by_unique_chunks"] = collection.fast
    draft.details["vocabulary"] = collection.size


def _token_measures(
    collection: Collection, settings: MeasureSettings, seed: int, draft: _Draft, progress: Progress
) -> None:
    ladder, short = halving.rungs(collection.samples, settings.tokens)
    budget = ladder[0][0]
    for name in short:
        draft.warnings.append(f"domain {name!r} holds less than the token budget; its token measures use what it has.")
    if budget < _NOISY_TOKENS:
        smallest = min(collection.samples, key=lambda sample: sample.tokens).name
        draft.warnings.append(
            f"the token budget is {budget} per domain, set by {smallest!r}; below {_NOISY_TOKENS} token measures "
            "are noisy: give it more text or leave it out."
        )
    columns = max(int((sample.counts > 0).sum()) for sample in collection.samples)
    replicates = tokens.affordable(
        settings.bootstrap, sum(len(reach) ** 2 for _, reach in [ladder[0], *ladder]), columns
    )
    if replicates < settings.bootstrap:
        draft.warnings.append(
            f"{replicates} instead of {settings.bootstrap} bootstrap draws of token measures: many domains."
        )
    table = tokens.token_table(collection.samples, ladder, bootstrap=replicates, seed=seed, progress=progress)
    for name in _TOKEN:
        draft.put(name, getattr(table, name), table.draws[name])
    draft.floors["js"] = table.floor
    for name in ("js_plugin", "jaccard", "ruzicka"):
        own = np.diagonal(draft.matrices[name])
        draft.floors[name] = (own[:, None] + own[None, :]) / 2
    draft.details["token_rungs"] = [
        {"tokens": rung, "domains": [collection.samples[index].name for index in reach]} for rung, reach in ladder
    ]
    draft.details["bootstrap_tokens"] = replicates


def _embedding_measures(
    embedding: Embedding,
    names: Sequence[str],
    settings: MeasureSettings,
    seed: int,
    wanted: set[str],
    draft: _Draft,
    progress: Progress,
) -> None:
    data = [vectors[: settings.samples] for vectors in embedding.vectors]
    sizes = [len(x) for x in data]
    weights = bootstrap_weights(sizes, names, settings.bootstrap, seed) if settings.bootstrap else None
    cosine, draws, _ = cosine_table(data, weights)
    draft.put("cosine", cosine, draws)
    draft.floors["cosine"] = cosine_floor(data, names, seed=seed)
    if len(names) > 1:
        around = centred(data)
        value, draws, alive = cosine_table(around, weights)
        draft.put("cosine_centred", value, draws)
        draft.floors["cosine_centred"] = cosine_floor(around, names, seed=seed)
        for name, has in zip(names, alive, strict=True):
            if not has:
                draft.warnings.append(
                    f"domain {name!r} lies at the centre of all domains; its centred cosines are 0 by definition."
                )
    else:
        draft.put("cosine_centred", np.ones((1, 1)))
    median = median_sq_dist(data, seed=derive_seed(seed, "median"), points=_MEDIAN_POINTS)
    bandwidths = default_bandwidths(median)
    draft.details["median_sq_dist"] = median
    if wanted & {"mmd2", "mmd2_p"}:
        _mmd(data, bandwidths, weights, settings, seed, draft, progress)
    draft.details["embedded_documents"] = sizes
    draft.details["sampling_error"] = _sampling_error(data, bandwidths, seed, progress)


def _mmd(
    data: Sequence[NDArray[Any]],
    bandwidths: Sequence[float],
    weights: Sequence[NDArray[np.float32]] | None,
    settings: MeasureSettings,
    seed: int,
    draft: _Draft,
    progress: Progress,
) -> None:
    rows = sum(len(x) for x in data)
    use_rff = settings.mmd == "rff" or (settings.mmd == "auto" and rows > _EXACT_ROWS)
    device = settings.device if settings.device not in ("auto",) else _auto_device(rows)
    found: GramResult
    if use_rff:
        found = rff_pass(
            data,
            bandwidths,
            features=settings.rff_features,
            weights=weights,
            permutations=settings.permutations,
            seed=seed,
            progress=progress,
        )
    else:
        gram = GramPass(data, bandwidths, precision=settings.precision, device=device)
        draft.details["mmd_precision"] = gram.precision
        found = gram.run(permutations=settings.permutations, weights=weights, seed=seed, progress=progress)
    draft.put("mmd2", found.mmd2, found.replicates)
    if found.p is not None and found.floor is not None:
        draft.put("mmd2_p", combine.adjust(found.p, settings.correction))
        pairs = len(data) * (len(data) - 1) // 2
        if settings.correction == "holm" and pairs > _LEVEL * (1 + settings.permutations):
            draft.warnings.append(
                f"mmd2_p: with {settings.permutations} permutations no p-value of {pairs} pairs can fall below "
                f"{_LEVEL:g} after Holm's correction; raise measure.permutations to {int(pairs / _LEVEL)}, or use bh."
            )
        draft.floors["mmd2"] = np.maximum(found.floor, 0.0)
    draft.details["mmd"] = "rff" if use_rff else "exact"


def _auto_device(rows: int) -> str:
    """A GPU pays only for large samples, and only where torch is already at work would its import be free."""
    if rows < 20_000:
        return "cpu"
    try:
        import torch
    except ImportError:
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "cpu"


def _sampling_error(
    data: Sequence[NDArray[Any]], bandwidths: Sequence[float], seed: int, progress: Progress
) -> list[dict[str, float]]:
    """Standard error of a cell against the number of documents, from two disjoint samples of n each."""
    smallest = min(len(x) for x in data)
    k = len(data)
    if k < 2 or k > 100:
        return []
    out: list[dict[str, float]] = []
    rng = generator(seed, "sampling error")
    upper = np.triu_indices(k, 1)
    counts = [n for n in (25, 50, 100, 200, 400) if 2 * n <= smallest]
    with progress.task("error against sample size", total=len(counts), unit="sizes") as task:
        for n in counts:
            orders = [rng.permutation(len(x)) for x in data]
            parts = [[x[o[side * n : side * n + n]] for x, o in zip(data, orders, strict=True)] for side in (0, 1)]
            cosines = [cosine_table(part)[0][upper] for part in parts]
            mmds = [GramPass(part, bandwidths, precision="float32").run().mmd2[upper] for part in parts]
            error = [float(np.sqrt(np.mean((a - b) ** 2) / 2)) for a, b in (cosines, mmds)]
            out.append({"documents": float(n), "cosine": error[0], "mmd2": error[1]})
            task.advance()
    return out


def _synergies(wanted: set[str], draft: _Draft) -> None:
    for name, part in (("synergy", "cosine"), ("synergy_centred", "cosine_centred")):
        if name not in wanted:
            continue
        value = synergy(draft.matrices["jaccard"], draft.matrices[part])
        a, b = draft.draws.get("jaccard"), draft.draws.get(part)
        draws = None
        if a is not None and b is not None:
            count = min(len(a), len(b))
            draws = ((a[:count] + b[:count]) / 2).astype(np.float32)
        draft.put(name, np.asarray(value), draws)
        if "jaccard" in draft.floors and part in draft.floors:
            draft.floors[name] = (draft.floors["jaccard"] + draft.floors[part]) / 2
