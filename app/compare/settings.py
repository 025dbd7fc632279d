"""What a comparison can be told."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ...errors import ConfigError
from ...partition.settings import PEERS

__all__ = ["ABLATIONS", "BASELINES", "DEFAULT_METHODS", "CompareSettings", "method_name"]

BASELINES = ("plan", "joint", "independent", "one-per-domain", "random", "discrepancy-only")
"""Methods of our own, beside which every peer of the planner (`single-linkage`, `louvain`, ...) may be named."""

ABLATIONS = ("ssl", "align", "kl", "shared", "domain", "order", "bounds")
"""What can be taken out of the plan's training, one at a time."""

DEFAULT_METHODS = ("plan", "joint", "independent", "random", "single-linkage", "discrepancy-only")
_SAME = {"all-in-one": "joint", "lambda-0": "discrepancy-only", "separate": "independent"}


def method_name(name: object) -> str:
    """The settled name of a method.

    Raises
    ------
    ConfigError
        When there is none of that name.
    """
    known = [*BASELINES, *(peer.replace("_", "-") for peer in PEERS if peer not in ("all_in_one", "one_per_domain"))]
    known += [f"no-{ablation}" for ablation in ABLATIONS]
    settled = re.sub(r"[ _]+", "-", name.strip().casefold()) if isinstance(name, str) else ""
    settled = _SAME.get(settled, settled)
    if settled not in known:
        raise ConfigError(f"compare.methods: {name!r} is not known; use some of {', '.join(dict.fromkeys(known))}.")
    return settled


def _seeds(value: Any) -> tuple[int, ...]:
    items: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    if not items or any(isinstance(item, bool) or not isinstance(item, int) or item < 0 for item in items):
        raise ConfigError(f"compare.seeds={value!r}: must be whole numbers of at least 0, such as 0,1,2.")
    if len(set(items)) < len(items):
        raise ConfigError(f"compare.seeds={value!r}: names a seed twice; give each once.")
    return tuple(items)


def _levels(name: str, value: Any, low: float, high: float) -> tuple[float, ...]:
    """Distinct numbers; the lowest level of noise or imbalance would change nothing and is refused."""
    items: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    open_low = not name.startswith("grid")
    for item in items:
        number = isinstance(item, (int, float)) and not isinstance(item, bool) and math.isfinite(item)
        if not number or item < low or item > high or (open_low and item == low):
            span = f"{'above' if open_low else 'from'} {low:g}" + ("" if high == math.inf else f" up to {high:g}")
            raise ConfigError(f"compare.{name}={item!r}: must be a number {span}.")
    return tuple(dict.fromkeys(float(item) for item in items))


@dataclass(frozen=True)
class CompareSettings:
    """Which methods are trained beside the plan, how often, and what is held equal."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    methods: tuple[str, ...] = field(
        default=DEFAULT_METHODS,
        metadata={
            "help": "what is trained: plan, joint, independent, one-per-domain, random, or a peer such as louvain"
        },
    )
    seeds: tuple[int, ...] = field(
        default=(0, 1, 2), metadata={"help": "training seeds; every method gets each of them"}
    )
    draws: int = field(default=2, metadata={"help": "random partitions per seed, with the plan's stage sizes"})
    ablate: tuple[str, ...] = field(
        default=(), metadata={"help": "also train the plan without: ssl, align, kl, shared, domain, order, bounds"}
    )
    equal: Literal["tokens", "parameters"] = field(
        default="tokens",
        metadata={"help": "tokens: the same texts and rank for all; parameters: ranks also fitted to the plan's count"},
    )
    serving: Literal["final", "snapshot"] = field(
        default="final", metadata={"help": "backbone that is judged: after the last stage, or after each domain's own"}
    )
    grid_ssl: tuple[float, ...] = field(
        default=(), metadata={"help": "sensitivity: weights of the denoising loss (lambda 1) to train the plan with"}
    )
    grid_align: tuple[float, ...] = field(
        default=(), metadata={"help": "sensitivity: weights of the alignment loss (lambda 2) to train the plan with"}
    )
    token_noise: tuple[float, ...] = field(
        default=(), metadata={"help": "robustness: shares of training words replaced by other words of the domain"}
    )
    label_noise: tuple[float, ...] = field(
        default=(), metadata={"help": "robustness: shares of training labels replaced by another label of the domain"}
    )
    imbalance: tuple[float, ...] = field(
        default=(), metadata={"help": "robustness: ratios of the largest to the smallest domain's training records"}
    )
    jobs: int = field(default=1, metadata={"help": "runs trained at the same time, each in a process of its own"})
    bootstrap: int = field(default=4000, metadata={"help": "draws behind the intervals of the differences"})
    keep_runs: bool = field(
        default=False, metadata={"help": "keep the run folders (adapters, logs), not only the results"}
    )

    def __post_init__(self) -> None:
        for name in ("methods", "ablate"):
            value = getattr(self, name)
            if isinstance(value, str):
                value = [part for part in value.split(",") if part.strip()]
            if not isinstance(value, (list, tuple)):
                raise ConfigError(f"compare.{name}={value!r}: must be a list of names.")
            object.__setattr__(self, name, tuple(value))
        names = [method_name(name) for name in self.methods]
        for ablation in self.ablate:
            if ablation not in ABLATIONS:
                raise ConfigError(f"compare.ablate: {ablation!r} is not known; use some of {', '.join(ABLATIONS)}.")
            names.append(f"no-{ablation}")
        # The plan is what everything is compared with, so it always runs, and first.
        object.__setattr__(self, "methods", tuple(dict.fromkeys(["plan", *names])))
        object.__setattr__(self, "ablate", ())
        object.__setattr__(self, "seeds", _seeds(self.seeds))
        for name, allowed in (("equal", ("tokens", "parameters")), ("serving", ("final", "snapshot"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"compare.{name}={getattr(self, name)!r}: must be one of {', '.join(allowed)}.")
        for name in ("draws", "jobs", "bootstrap"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"compare.{name}={value!r}: must be a whole number of at least 1.")
        for name, low, high in (
            ("grid_ssl", 0.0, math.inf),
            ("grid_align", 0.0, math.inf),
            ("token_noise", 0.0, 1.0),
            ("label_noise", 0.0, 1.0),
            ("imbalance", 1.0, math.inf),
        ):
            object.__setattr__(self, name, _levels(name, getattr(self, name), low, high))
        if len(self.methods) < 2 and not (self.grid_ssl or self.grid_align):
            raise ConfigError("compare.methods: names nothing beside the plan; add joint, random or another method.")

    @property
    def conditions(self) -> tuple[tuple[str, float], ...]:
        """Kind and level of every robustness condition."""
        kinds = ("token_noise", "label_noise", "imbalance")
        return tuple((kind, level) for kind in kinds for level in getattr(self, kind))
