"""How domains relate: token, vocabulary and embedding measures, each with an interval and a noise floor.

Nothing heavy is imported until a name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .divergence import CorrectedJS, corrected_js, jaccard, js_divergence, js_matrix, ruzicka, synergy
    from .embeddings import cosine_matrix
    from .measuring import measure
    from .mmd import mmd2, mmd2_matrix
    from .registry import MEASURES, MeasureInfo
    from .relations import Relations
    from .settings import MeasureSettings
    from .transferability import HScore, h_score, h_score_report

_WHERE = {
    "CorrectedJS": "divergence",
    "HScore": "transferability",
    "MEASURES": "registry",
    "MeasureInfo": "registry",
    "MeasureSettings": "settings",
    "Relations": "relations",
    "corrected_js": "divergence",
    "cosine_matrix": "embeddings",
    "h_score": "transferability",
    "h_score_report": "transferability",
    "jaccard": "divergence",
    "js_divergence": "divergence",
    "js_matrix": "divergence",
    "measure": "measuring",
    "mmd2": "mmd",
    "mmd2_matrix": "mmd",
    "ruzicka": "divergence",
    "synergy": "divergence",
}

__all__ = [
    "MEASURES",
    "CorrectedJS",
    "HScore",
    "MeasureInfo",
    "MeasureSettings",
    "Relations",
    "corrected_js",
    "cosine_matrix",
    "h_score",
    "h_score_report",
    "jaccard",
    "js_divergence",
    "js_matrix",
    "measure",
    "mmd2",
    "mmd2_matrix",
    "ruzicka",
    "synergy",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name in _WHERE:
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
