"""How domains relate: token, vocabulary and embedding measures, each with an interval and a noise floor.

Nothing heavy is imported until a name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .registry import MEASURES, MeasureInfo
    from .relations import Relations
    from .settings import MeasureSettings

_WHERE = {
    "MEASURES": "registry",
    "MeasureInfo": "registry",
    "MeasureSettings": "settings",
    "Relations": "relations",
}

__all__ = ["MEASURES", "MeasureInfo", "MeasureSettings", "Relations"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name in _WHERE:
        return getattr(import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
