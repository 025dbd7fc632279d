"""Turn sampled documents into vectors: LSA (offline), any sentence-transformers model, or the base model itself.

No document is cut in silence: one longer than a window is embedded window by window, by the embedder's own tokens, and
averaged by length; only above `max_windows` windows are evenly spaced ones taken, which a warning says.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .._files import digest, file_digest
from .._hub import hub_options
from .._progress import SILENT, Progress
from .._seeding import derive_seed
from ..errors import ModelError, RelationsError
from ._lora import quiet
from .ranks import exchange, one_for_all, place, together

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .settings import MeasureSettings

__all__ = ["Embedder", "Embedding", "StateEmbedder", "embed", "embedder_fingerprint", "require_sources"]

_log = logging.getLogger("kinfold.metrics")
# Words of scripts with spaces; single characters of those without.
_SPACELESS = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f"
_TERM = rf"(?u)[{_SPACELESS}]|[^\W{_SPACELESS}]{{2,}}"


@dataclass(frozen=True)
class Embedding:
    """Vectors (n_i, d) a domain, and how many documents were too long to be taken whole."""

    vectors: tuple[NDArray[np.float32], ...]
    fingerprint: str
    reduced: int


class Embedder(Protocol):
    """What turns documents into vectors in the place of the embedder that the settings name."""

    @property
    def fingerprint(self) -> str:
        """Identity: another model or another way of pooling has another one."""

    def embed(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """Vectors (len(texts), d), and how many documents were too long to be taken whole."""


def embedder_fingerprint(settings: MeasureSettings) -> str:
    """Identity of the embedder: its kind, settings and, for a local folder, the hash of its weights."""
    if settings.embedder == "lsa":
        return f"lsa:{settings.lsa_dimensions}"
    source = settings.model if settings.embedder == "model" else settings.embedder
    path = Path(str(source))
    mark = str(source)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix in (".safetensors", ".json") and file.is_file())
        mark = digest([[file.name, file_digest(file)] for file in files])
    kind = "model" if settings.embedder == "model" else "sentence-transformers"
    return f"{kind}:{mark}:{settings.max_length}:{settings.max_windows}"


def require_sources(settings: MeasureSettings) -> None:
    """Refuse, before any work, an embedder or model that is neither a folder nor within reach.

    Raises
    ------
    ModelError
        If it can only come from a hub that does not answer.
    """
    if settings.embedder not in ("lsa", "model"):
        hub_options(_sentence_source(settings.embedder))
    if settings.model is not None:
        hub_options(settings.model)


def _sentence_source(name: str) -> str:
    """What the library reads `name` as: without an owner, one of its own models."""
    return name if "/" in name or Path(name).exists() else f"sentence-transformers/{name}"


def embed(
    texts: Sequence[Sequence[str]],
    names: Sequence[str],
    settings: MeasureSettings,
    *,
    seed: int = 0,
    embedder: Embedder | None = None,
    progress: Progress = SILENT,
) -> Embedding:
    """Embed each domain's documents with `embedder`, or else with the one that `settings` names.

    Under several ranks lsa, which is fitted on all domains together, is made by rank 0 and handed to all; with a model
    each rank embeds every n-th domain and they exchange what they made.

    Raises
    ------
    ModelError
        The embedder cannot be loaded.
    RelationsError
        The embedder gave NaN or infinity for a document.
    """
    mark = embedder_fingerprint(settings) if embedder is None else embedder.fingerprint
    reduced = 0
    if embedder is None and settings.embedder == "lsa":
        with progress.task("embedding documents (lsa)", total=2, unit="steps") as task:
            vectors = one_for_all(lambda: _lsa(texts, settings.lsa_dimensions, seed, task.advance))
    else:
        rank, ranks = place()
        mine = range(rank, len(texts), ranks)

        def work() -> dict[int, tuple[NDArray[np.float32], int]]:
            encoder = embedder or (_base(settings, mark) if settings.embedder == "model" else _Sentence(settings, mark))
            out = {}
            with progress.task("embedding documents", total=sum(len(texts[i]) for i in mine), unit="documents") as task:
                for index in mine:
                    out[index] = encoder.embed(texts[index])
                    task.advance(len(texts[index]))
            return out

        found: dict[int, tuple[NDArray[np.float32], int]] = {}
        for part in exchange(together(work)):
            found.update(part)
        vectors = [found[index][0] for index in range(len(texts))]
        reduced = sum(cut for _, cut in found.values())
    for name, array in zip(names, vectors, strict=True):
        bad = ~np.isfinite(array).all(axis=1)
        if bad.any():
            raise RelationsError(
                f"the embedder {settings.embedder if embedder is None else mark!r} gave NaN or infinity for document "
                f"{int(np.argmax(bad))} of domain {name!r}; try another embedder or precision."
            )
    return Embedding(tuple(vectors), mark, reduced)


def _lsa(
    texts: Sequence[Sequence[str]], dimensions: int, seed: int, advance: Callable[[], None]
) -> list[NDArray[np.float32]]:
    """TF-IDF of words, truncated SVD, rows of length 1 (Deerwester et al. 1990); fitted on all documents given."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    flat = [text for group in texts for text in group]
    ends = np.cumsum([0, *(len(group) for group in texts)])
    matrix = None
    for least, pattern in ((2, _TERM), (1, _TERM), (1, r"(?s).")):
        try:
            vectorizer = TfidfVectorizer(
                min_df=least, sublinear_tf=True, token_pattern=pattern, max_features=50_000, dtype=np.float32
            )
            matrix = vectorizer.fit_transform(flat)
        except ValueError:  # an empty vocabulary
            continue
        if matrix.shape[1] > 1:
            break
    if matrix is None:
        raise RelationsError("lsa found no word in any document; use another embedder or check the texts.")
    advance()
    rank = min(dimensions, matrix.shape[1] - 1, matrix.shape[0] - 1)
    if rank < 1:
        vectors = np.asarray(matrix.toarray(), np.float32)
    else:
        svd = TruncatedSVD(rank, algorithm="randomized", n_iter=4, random_state=derive_seed(seed, "lsa") % 2**32)
        vectors = np.asarray(svd.fit_transform(matrix), np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
    advance()
    return [vectors[a:b] for a, b in pairwise(ends)]


def _device(name: str) -> str:
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _windows(ids: Sequence[int], size: int, most: int) -> tuple[list[tuple[int, int]], bool]:
    """(start, stop) of the windows of a document of len(ids) tokens, and whether some had to be left out."""
    n = len(ids)
    count = max(1, -(-n // size))
    edges = np.linspace(0, n, count + 1).round().astype(int)
    spans = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
    if count <= most:
        return spans, False
    picked = np.unique(np.linspace(0, count - 1, most).round().astype(int))
    return [spans[index] for index in picked], True


class _Sentence:
    """A sentence-transformers model, by id or path."""

    def __init__(self, settings: MeasureSettings, fingerprint: str) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.fingerprint = fingerprint
        source = settings.embedder
        options = hub_options(_sentence_source(source))
        try:
            from sentence_transformers import SentenceTransformer

            with quiet():
                self.model = SentenceTransformer(
                    source, device=_device(settings.device), model_kwargs={"use_safetensors": True}, **options
                )
        except Exception as fault:  # missing files, no network, unknown format
            reason = str(fault).strip().splitlines()[0][:160] if str(fault).strip() else type(fault).__name__
            raise ModelError(
                f"measure.embedder={source!r} could not be loaded ({reason}); give a path, a reachable id, or lsa."
            ) from None
        self.settings = settings
        limit = getattr(self.model, "max_seq_length", None) or settings.max_length
        specials = 2
        self.size = max(8, min(settings.max_length, int(limit)) - specials)

    def embed(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        parts: list[str] = []
        owners: list[int] = []
        weights: list[float] = []
        cut = 0
        tokenizer = self.model.tokenizer
        for number, text in enumerate(texts):
            found = tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True, truncation=False, verbose=False
            )
            offsets = found["offset_mapping"]
            spans, left = _windows(offsets, self.size, self.settings.max_windows)
            cut += left
            for start, stop in spans:
                parts.append(text if len(spans) == 1 else text[offsets[start][0] : offsets[stop - 1][1]])
                owners.append(number)
                weights.append(max(stop - start, 1))
        vectors = self.model.encode(
            parts, batch_size=self.settings.batch_size, show_progress_bar=False, convert_to_numpy=True
        )
        return _average(np.asarray(vectors, np.float32), owners, weights, len(texts)), cut


def _base(settings: MeasureSettings, fingerprint: str) -> StateEmbedder:
    """The embedder "model": the base model of the settings, loaded for this."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    source = str(settings.model)
    options = hub_options(source)
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        with quiet():
            model = AutoModel.from_pretrained(source, dtype=torch.float32, use_safetensors=True, **options)
    except Exception as fault:  # as above
        reason = str(fault).strip().splitlines()[0][:160] if str(fault).strip() else type(fault).__name__
        raise ModelError(f"measure.model={source!r} could not be loaded ({reason}); check the path or id.") from None
    model.to(_device(settings.device)).eval()
    return StateEmbedder(model, tokenizer, settings, fingerprint)


class StateEmbedder:
    """Mean-pooled last hidden states of a model that is already loaded, as it is: adapters on it count.

    Parameters
    ----------
    model
        A backbone that returns `last_hidden_state`, in evaluation mode, where it is to run.
    tokenizer
        Its tokenizer.
    settings
        `max_length`, `max_windows` and `batch_size` are read.
    fingerprint
        Identity of the model in its present state.
    """

    def __init__(self, model: Any, tokenizer: Any, settings: MeasureSettings, fingerprint: str) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.settings = settings
        self.fingerprint = fingerprint
        self.device = next(model.parameters()).device
        limit = getattr(model.config, "max_position_embeddings", None) or settings.max_length
        # RoBERTa-like models keep two positions for padding.
        self.size = max(8, min(settings.max_length, int(limit) - 4))

    def embed(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        """Vectors (len(texts), hidden), and how many documents had more windows than `max_windows`."""
        import torch

        pieces: list[list[int]] = []
        owners: list[int] = []
        weights: list[float] = []
        cut = 0
        for number, text in enumerate(texts):
            ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] or [0]
            spans, left = _windows(ids, self.size, self.settings.max_windows)
            cut += left
            for start, stop in spans:
                pieces.append(ids[start:stop])
                owners.append(number)
                weights.append(stop - start)
        order = np.argsort([len(piece) for piece in pieces], kind="stable")
        out = np.zeros((len(pieces), self.model.config.hidden_size), np.float32)
        for start in range(0, len(order), self.settings.batch_size):
            group = order[start : start + self.settings.batch_size]
            longest = max(len(pieces[index]) for index in group)
            ids_ = torch.zeros((len(group), longest), dtype=torch.long)
            mask = torch.zeros((len(group), longest), dtype=torch.long)
            for row, index in enumerate(group):
                ids_[row, : len(pieces[index])] = torch.tensor(pieces[index])
                mask[row, : len(pieces[index])] = 1
            with torch.inference_mode():
                states = self.model(
                    input_ids=ids_.to(self.device), attention_mask=mask.to(self.device)
                ).last_hidden_state
                keep = mask.to(self.device)[..., None].to(states.dtype)
                pooled = (states * keep).sum(dim=1) / keep.sum(dim=1)
            out[group] = pooled.float().cpu().numpy()
        return _average(out, owners, weights, len(texts)), cut


def _average(
    vectors: NDArray[np.float32], owners: Sequence[int], weights: Sequence[float], count: int
) -> NDArray[np.float32]:
    """Mean over a document's windows, weighted by their tokens."""
    weight = np.asarray(weights, np.float64)
    owner = np.asarray(owners)
    total = np.zeros((count, vectors.shape[1]))
    np.add.at(total, owner, vectors * weight[:, None])
    return (total / np.bincount(owner, weights=weight, minlength=count)[:, None]).astype(np.float32)
