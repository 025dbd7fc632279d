"""Is a plan worth it? Baselines, ablations, several seeds, paired intervals, one table and one plot."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._compare import compare
    from ._views import comparison_table
    from .result import Comparison
    from .settings import CompareSettings

_HOME = {
    "CompareSettings": ".settings",
    "Comparison": ".result",
    "compare": "._compare",
    "comparison_table": "._views",
}

__all__ = ["CompareSettings", "Comparison", "compare", "comparison_table"]


def __getattr__(name: str) -> Any:
    """Import a name from its home on first use (PEP 562)."""
    if name in _HOME:
        return getattr(import_module(_HOME[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
