"""What a LoRA adapter is made of: a value without torch, so that settings can carry it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..errors import ConfigError

__all__ = ["ALL_LINEAR", "LoraSpec"]

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class LoraSpec:
    """Shape and scale of every adapter of a bank (Hu et al. 2021, arXiv 2106.09685).

    The update of a linear layer is ``scaling * B @ A`` with A of shape (rank, in) and B of shape (out, rank).

    Raises
    ------
    ConfigError
        When a value is out of range, or for DoRA, which a bank cannot batch.
    """

    rank: int = field(default=8, metadata={"help": "rank of each low-rank update"})
    alpha: float = field(
        default=16.0, metadata={"help": "scale; the update is alpha / rank (rsLoRA: alpha / sqrt(rank)) times B A"}
    )
    dropout: float = field(
        default=0.0, metadata={"help": "share of the adapters' inputs dropped while training, 0 to below 1"}
    )
    targets: tuple[str, ...] | str = field(
        default=ALL_LINEAR, metadata={"help": "'all-linear' or names of layers, such as q_proj v_proj"}
    )
    rslora: bool = field(default=False, metadata={"help": "scale by 1 / sqrt(rank) (Kalajdzievski 2023)"})
    dora: bool = field(
        default=False, metadata={"help": "refused: weight-decomposed updates cannot share one batched forward"}
    )

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise ConfigError(f"lora.rank={self.rank!r} must be a whole number of at least 1; 8 or 16 are usual.")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ConfigError(f"lora.alpha={self.alpha!r} must be a positive number; twice the rank is usual.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout={self.dropout!r} must lie in [0, 1); 0 or 0.05 are usual.")
        if self.dora:
            raise ConfigError(
                "lora.dora=True is not supported: DoRA normalises each column of the adapted weight, so updates of "
                "several domains cannot share one base product; set lora.dora to false (lora.rslora is supported)."
            )
        if isinstance(self.targets, str):
            if self.targets != ALL_LINEAR:
                object.__setattr__(self, "targets", (self.targets,))
        else:
            object.__setattr__(self, "targets", tuple(self.targets))
            if not self.targets or not all(isinstance(target, str) and target for target in self.targets):
                raise ConfigError(
                    "lora.targets must be 'all-linear' or a list of layer names; an empty list adapts nothing."
                )

    @property
    def scaling(self) -> float:
        """The factor in front of B A."""
        return self.alpha / math.sqrt(self.rank) if self.rslora else self.alpha / self.rank
