"""The report: one self-contained HTML page made to be looked at, the same figures as files, tables for the terminal.

>>> from kinfold.app.report import write_report, write_plan_report, write_figures
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._figures import write_figures
    from ._fitting import write_fitting_report
    from ._page import write_plan_report, write_report

__all__ = ["write_figures", "write_fitting_report", "write_plan_report", "write_report"]

_HOME = {
    "write_figures": "._figures",
    "write_fitting_report": "._fitting",
    "write_plan_report": "._page",
    "write_report": "._page",
}


def __getattr__(name: str) -> Any:
    """Import on first use (PEP 562), so that the command line starts without NumPy or Jinja."""
    if name in _HOME:
        return getattr(import_module(_HOME[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
