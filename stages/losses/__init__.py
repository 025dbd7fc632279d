"""The losses of the method: each returns a sum and a count, so that accumulation and sharding change nothing.

| part | function |
|---|---|
| task cross-entropy, from hidden states | :func:`fused_cross_entropy` |
| Kullback–Leibler divergence to the base, from hidden states | :func:`fused_kl` |
| alignment of domains' features | :func:`alignment_mmd2`, :class:`FeatureQueue` |
| corrupted inputs for denoising | :func:`corrupt`, :class:`Corrupted` |
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .alignment import FeatureQueue, alignment_mmd2
    from .denoising import Corrupted, corrupt
    from .head import fused_cross_entropy, fused_kl
    from .parts import LossPart

__all__ = ["Corrupted", "FeatureQueue", "LossPart", "alignment_mmd2", "corrupt", "fused_cross_entropy", "fused_kl"]

_HOMES = {
    "Corrupted": "denoising",
    "FeatureQueue": "alignment",
    "LossPart": "parts",
    "alignment_mmd2": "alignment",
    "corrupt": "denoising",
    "fused_cross_entropy": "head",
    "fused_kl": "head",
}


def __getattr__(name: str) -> Any:
    """Import a loss on first use: torch is heavy."""
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
