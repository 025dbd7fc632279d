"""demo: everything once, on real text that is already on the machine.

`harvest` reads eight or so domains from what came with Python and with Kinfold's dependencies, `base_model` pretrains
a small Llama on general text and keeps it in a cache, `run_demo` does these and then measures, plans, trains,
evaluates and reports.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base import base_model, cache_folder
    from .flow import DemoResult, run_demo
    from .harvesting import harvest
    from .settings import BaseSettings, DemoSettings, HarvestSettings

__all__ = [
    "BaseSettings",
    "DemoResult",
    "DemoSettings",
    "HarvestSettings",
    "base_model",
    "cache_folder",
    "harvest",
    "run_demo",
]

_HOMES = {
    "BaseSettings": "settings",
    "DemoResult": "flow",
    "DemoSettings": "settings",
    "HarvestSettings": "settings",
    "base_model": "base",
    "cache_folder": "base",
    "harvest": "harvesting",
    "run_demo": "flow",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
