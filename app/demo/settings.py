"""What the demo does, in numbers; the defaults were chosen by measurement on validation text (docs/demo.md)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from ...errors import ConfigError
from ...metrics import MeasureSettings
from ...partition import PlanSettings
from ...stages import LoraSpec, TrainSettings

__all__ = ["BaseSettings", "DemoSettings", "HarvestSettings"]


def _at_least(path: str, value: float, least: float) -> None:
    if not value >= least:
        raise ConfigError(f"{path}={value}: must be at least {least}; raise it.")


@dataclass(frozen=True)
class HarvestSettings:
    """How much text is harvested and how it is cut."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    characters: int = field(default=320_000, metadata={"help": "most characters of one domain (about 4 a token)"})
    general_characters: int = field(default=2_400_000, metadata={"help": "most characters of the general corpus"})
    longest: int = field(default=1_500, metadata={"help": "most characters of one document"})
    shortest: int = field(default=160, metadata={"help": "fewest characters of one document"})
    documents: int = field(default=120, metadata={"help": "fewest documents a domain needs to be kept"})
    domains: int = field(default=6, metadata={"help": "fewest domains the demo accepts"})
    test: float = field(default=0.14, metadata={"help": "share of the characters held out for testing"})
    validation: float = field(default=0.08, metadata={"help": "share of the characters held out for choosing settings"})

    def __post_init__(self) -> None:
        _at_least("harvest.characters", self.characters, 10_000)
        _at_least("harvest.general_characters", self.general_characters, 10_000)
        _at_least("harvest.shortest", self.shortest, 1)
        _at_least("harvest.longest", self.longest, 2 * self.shortest)
        _at_least("harvest.documents", self.documents, 10)
        _at_least("harvest.domains", self.domains, 2)
        if not (0 < self.test < 0.5 and 0 < self.validation < 0.5):
            raise ConfigError(
                f"harvest.test={self.test}, harvest.validation={self.validation}: each must lie between 0 and 0.5; "
                "lower them."
            )


@dataclass(frozen=True)
class BaseSettings:
    """The small Llama that the demo pretrains on its general corpus."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    vocabulary: int = field(default=4096, metadata={"help": "tokens in the byte-level BPE vocabulary"})
    hidden: int = field(default=192, metadata={"help": "width of the model"})
    intermediate: int = field(default=512, metadata={"help": "width of the feed-forward layers"})
    layers: int = field(default=4, metadata={"help": "number of layers"})
    heads: int = field(default=3, metadata={"help": "attention heads per layer"})
    context: int = field(default=256, metadata={"help": "tokens in one packed training row"})
    rows: int = field(default=4, metadata={"help": "rows in one optimiser step"})
    steps: int = field(default=360, metadata={"help": "optimiser steps"})
    lr: float = field(default=0.02, metadata={"help": "peak learning rate of Muon, for the matrices of the layers"})
    embedding_lr: float = field(default=0.05, metadata={"help": "peak learning rate of AdamW, for all the rest"})
    warmup: float = field(default=0.1, metadata={"help": "share of the steps spent warming up"})
    weight_decay: float = field(default=0.05, metadata={"help": "decoupled weight decay of Muon"})
    grad_clip: float = field(default=1.0, metadata={"help": "largest norm of the gradient"})

    def __post_init__(self) -> None:
        _at_least("base.vocabulary", self.vocabulary, 300)
        for name in ("hidden", "intermediate", "layers", "heads", "context", "rows", "steps"):
            _at_least(f"base.{name}", getattr(self, name), 1)
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            raise ConfigError(
                f"base.hidden={self.hidden}, base.heads={self.heads}: a head's width must be a whole even number; "
                "change one of them."
            )
        positive = min(self.lr, self.embedding_lr, self.grad_clip)
        if not (positive > 0 and 0 <= self.warmup < 1 and self.weight_decay >= 0):
            raise ConfigError(
                "base: lr, embedding_lr and grad_clip must be above 0, warmup in [0, 1), weight_decay at least 0; "
                "correct them."
            )


# At most four domains share a stage, and the objective decides how many stages there are: by default one stage for all
# would be the answer, and there would be nothing to show.
_MEASURE = MeasureSettings(bootstrap=100, permutations=200, samples=300)
_PLAN = PlanSettings(budget={"domains": 4}, stages="free")
_TRAIN = TrainSettings(
    lora=LoraSpec(rank=8, alpha=16),
    epochs=0.4,
    batch_tokens=2_048,
    max_length=256,
    lr=2e-3,
    ssl_weight=0.1,
    align_weight=0.1,
    eval_documents=40,
    checkpoint_every=20,
)


@dataclass(frozen=True)
class DemoSettings:
    """The whole demo: what is harvested, the base model, and the settings of the three rooms."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    harvest: HarvestSettings = field(default_factory=HarvestSettings, metadata={"help": "the text"})
    base: BaseSettings = field(default_factory=BaseSettings, metadata={"help": "the base model"})
    measure: MeasureSettings = field(default_factory=lambda: _MEASURE, metadata={"help": "how domains are measured"})
    plan: PlanSettings = field(default_factory=lambda: _PLAN, metadata={"help": "how stages are planned"})
    train: TrainSettings = field(default_factory=lambda: _TRAIN, metadata={"help": "how stages are trained"})

    @classmethod
    def small(cls) -> DemoSettings:
        """The same steps on a twentieth of the work: under a minute, and a base model that knows next to nothing."""
        return cls(
            harvest=HarvestSettings(
                characters=60_000, general_characters=400_000, documents=40, test=0.16, validation=0.08
            ),
            base=BaseSettings(
                vocabulary=1024, hidden=64, intermediate=176, layers=2, heads=2, context=128, rows=8, steps=60
            ),
            measure=replace(_MEASURE, bootstrap=20, permutations=50, samples=100),
            plan=replace(_PLAN, bootstrap=20),
            train=replace(_TRAIN, tokens_per_stage=6_000, batch_tokens=1_024, eval_documents=16, bootstrap=200),
        )
