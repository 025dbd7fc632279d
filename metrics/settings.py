"""What a user can set about measuring; read by the configuration and by every flag of `kinfold measure`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ..errors import ConfigError
from .registry import AFFINITY, DEFAULT_MEASURES, MEASURES

__all__ = ["MeasureSettings"]


def _at_least(name: str, value: float, low: float, remedy: str) -> None:
    if not value >= low:
        raise ConfigError(f"measure.{name}={value!r} must be at least {low:g}; {remedy}.")


def _setting(default: Any, text: str) -> Any:
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """Settings of :func:`kinfold.metrics.measure`; a value that cannot work raises `ConfigError` on construction."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    measures: tuple[str, ...] = _setting(
        DEFAULT_MEASURES, f"what to measure; affinity, on request: {', '.join(AFFINITY)}"
    )
    split: Literal["train", "validation", "test"] = _setting("train", "which split of the corpora is measured")
    tokens: int | None = _setting(None, "equal token budget per domain, in tokens; default: the smallest domain")
    max_tokens: int = _setting(400_000, "most tokens kept per domain for budgets, halves and intervals")
    vocabulary: int = _setting(8192, "size of the tokenizer trained on the corpora when none is given, in entries")
    bootstrap: int = _setting(100, "bootstrap replicates over documents behind each interval; 0 for none")
    confidence: float = _setting(0.95, "level of the intervals, between 0 and 1")
    embedder: str = _setting("lsa", "lsa, model (the base model, mean-pooled), or a sentence-transformers id or path")
    model: str | None = _setting(None, "base model for embedder 'model', gradient affinity and validation")
    samples: int = _setting(500, "documents embedded per domain")
    lsa_dimensions: int = _setting(256, "dimensions of the lsa embedding")
    max_length: int = _setting(
        256, "window length for embedding, in tokens; longer documents are windowed and averaged"
    )
    max_windows: int = _setting(8, "most windows embedded per document, evenly spaced over it")
    batch_size: int = _setting(32, "windows per forward pass of an embedder")
    device: str = _setting("auto", "auto, cpu or a torch device for embedders, gradients and large MMD")
    mmd: Literal["auto", "exact", "rff"] = _setting("auto", "exact Gram blocks, random Fourier features, or by size")
    rff_features: int = _setting(1024, "random Fourier features per kernel of the mixture")
    precision: Literal["auto", "float64", "float32", "bf16"] = _setting("auto", "arithmetic of the Gram products")
    permutations: int = _setting(500, "permutations behind each MMD p-value; 0 for none")
    correction: Literal["bh", "holm", "none"] = _setting("bh", "correction of the p-values over all pairs")
    discrepancy: Mapping[str, float] = _setting(
        {"js": 0.5, "cosine_centred": 0.5}, "parts of the composite discrepancy and their weights"
    )
    affinity_documents: int = _setting(500, "documents per domain for labelled and gradient affinity")
    gradient_sketch: int = _setting(8192, "numbers kept per LoRA gradient (random projection)")
    gradient_warmup: int = _setting(0, "warm-up steps on all domains before gradients are taken")
    agreement: float = _setting(0.5, "an affinity measure whose halves agree less than this is flagged as unusable")
    validate: Literal["none", "probe"] = _setting("none", "probe: short real trainings to validate every cheap measure")
    probe_domains: int = _setting(12, "most domains trained by the validation probe")
    probe_documents: int = _setting(300, "training documents per domain of the validation probe")
    probe_steps: int = _setting(60, "training steps per domain of the validation probe")
    probe_seeds: int = _setting(1, "seeds of the validation probe; 2 or more also tell its reliability")
    num_proc: int = _setting(1, "processes that count tokens")

    def __post_init__(self) -> None:
        object.__setattr__(self, "measures", tuple(self.measures))
        unknown = [name for name in self.measures if name not in MEASURES]
        if unknown:
            raise ConfigError(
                f"measure.measures: {unknown[0]!r} is not a measure; choose from {', '.join(sorted(MEASURES))}."
            )
        if not self.measures:
            raise ConfigError("measure.measures is empty; name at least one, for example js.")
        for name in ("max_tokens", "samples", "vocabulary"):
            low = {"max_tokens": 1000, "samples": 2, "vocabulary": 300}[name]
            _at_least(name, getattr(self, name), low, "raise it")
        if self.tokens is not None:
            _at_least("tokens", self.tokens, 100, "raise it or leave it out")
        for name in ("bootstrap", "permutations", "gradient_warmup"):
            _at_least(name, getattr(self, name), 0, "use 0 for none")
        for name in (
            "lsa_dimensions",
            "max_windows",
            "batch_size",
            "rff_features",
            "num_proc",
            "probe_steps",
            "probe_seeds",
        ):
            _at_least(name, getattr(self, name), 1, "raise it")
        _at_least("max_length", self.max_length, 8, "raise it")
        _at_least("affinity_documents", self.affinity_documents, 8, "raise it")
        _at_least("probe_documents", self.probe_documents, 8, "raise it")
        _at_least("probe_domains", self.probe_domains, 3, "a rank correlation needs three domains")
        _at_least("gradient_sketch", self.gradient_sketch, 16, "raise it")
        if not 0.5 <= self.confidence < 1:
            raise ConfigError(f"measure.confidence={self.confidence!r} must lie in [0.5, 1); 0.95 is usual.")
        if not -1 <= self.agreement <= 1:
            raise ConfigError(f"measure.agreement={self.agreement!r} is a correlation; choose a value in [-1, 1].")
        if not self.embedder.strip():
            raise ConfigError("measure.embedder is empty; use lsa, model, or a sentence-transformers id or path.")
        self._check_composite()
        if self.embedder == "model" and self.model is None:
            raise ConfigError("measure.embedder=model needs measure.model; name the base model's folder or id.")
        if "gradient_affinity" in self.measures and self.model is None:
            raise ConfigError("measure.measures: gradient_affinity needs measure.model; name the base model.")

    def _check_composite(self) -> None:
        parts = dict(self.discrepancy)
        allowed = [name for name, info in MEASURES.items() if info.composable]
        for name, weight in parts.items():
            if name not in allowed:
                raise ConfigError(f"measure.discrepancy: {name!r} cannot be a part; choose from {', '.join(allowed)}.")
            if not math.isfinite(weight) or weight < 0:
                raise ConfigError(f"measure.discrepancy.{name}={weight!r} must be a number of at least 0.")
        if "discrepancy" in self.measures and not sum(parts.values()) > 0:
            raise ConfigError("measure.discrepancy has no positive weight; give one, for example {js: 1}.")
