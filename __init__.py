"""Kinfold: plan which text domains to fine-tune together, train them stage by stage, and see whether it was worth it.

The public API fits on a card; each function has one command of the same name:

>>> import kinfold
>>> sorted(kinfold.__all__)  # doctest: +NORMALIZE_WHITESPACE
['__version__', 'compare', 'evaluate', 'load_corpora', 'measure', 'plan', 'report', 'train']

Nothing heavy is imported until a function is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app.api import compare, evaluate, load_corpora, measure, plan, report, train

__version__ = "0.1.0"

__all__ = ["__version__", "compare", "evaluate", "load_corpora", "measure", "plan", "report", "train"]


def __getattr__(name: str) -> Any:
    """Import the public API on first use (PEP 562), so that `import kinfold` costs nothing."""
    if name in __all__:
        return getattr(import_module(".app.api", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
