"""stages: train a plan, evaluate it, export it.

Nothing heavy is imported until a name of this face is first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._lora_spec import LoraSpec
    from .bank import LoraBank
    from .dry import DryRun
    from .evaluate import evaluate_run
    from .export import export_run
    from .memory import MemoryEstimate, estimate_memory
    from .replanning import Replanner, ReplanRequest
    from .run import Run
    from .settings import TrainSettings
    from .training import train

_HOME = {
    "DryRun": "dry",
    "LoraBank": "bank",
    "LoraSpec": "_lora_spec",
    "MemoryEstimate": "memory",
    "ReplanRequest": "replanning",
    "Replanner": "replanning",
    "Run": "run",
    "TrainSettings": "settings",
    "estimate_memory": "memory",
    "evaluate_run": "evaluate",
    "export_run": "export",
    "train": "training",
}

__all__ = [
    "DryRun",
    "LoraBank",
    "LoraSpec",
    "MemoryEstimate",
    "ReplanRequest",
    "Replanner",
    "Run",
    "TrainSettings",
    "estimate_memory",
    "evaluate_run",
    "export_run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
