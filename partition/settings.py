"""How a plan is asked for: one frozen dataclass that cannot exist wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from ..errors import ConfigError

__all__ = ["METHODS", "PEERS", "SCALES", "PlanSettings"]

Scale = Literal["rank", "floor", "none"]
Order = Literal["optimal", "reverse", "random", "given"]
Peer = Literal[
    "single_linkage",
    "average_linkage",
    "louvain",
    "leiden",
    "spectral",
    "greedy",
    "random",
    "all_in_one",
    "one_per_domain",
]
Method = Literal["auto", "exact", "heuristic", "dp", "clique", "columns", Peer]

PEERS: tuple[str, ...] = get_args(Peer)
METHODS: tuple[str, ...] = get_args(Method)
SCALES: tuple[str, ...] = ("rank", "floor", "none")


@dataclass(frozen=True)
class PlanSettings:
    """What to maximise, under which constraints, and how long to try.

    The plan maximises Σ_t Σ_{i<j∈S_t} (lam · s_ij − d_ij) − kappa · (number of stages); see `docs/partition.md`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    discrepancy: str | Mapping[str, float] = field(
        default="js", metadata={"help": "measure (or {measure: weight}) that keeps domains apart"}
    )
    synergy: str | Mapping[str, float] = field(
        default="synergy", metadata={"help": "measure (or {measure: weight}) that draws domains together"}
    )
    lam: float = field(default=1.0, metadata={"help": "weight of synergy against discrepancy (λ), 0 or more"})
    kappa: float = field(default=0.0, metadata={"help": "cost of one more stage (κ), in units of the scaled gain"})
    scale: Scale = field(
        default="rank", metadata={"help": "common scale of both matrices: rank (0..1), floor (noise units) or none"}
    )
    stages: Literal["fewest", "free"] | int | tuple[int, int] | None = field(
        default="fewest",
        metadata={
            "help": "number of stages: the fewest the constraints allow, free (the objective decides), N, (min, max)"
        },
    )
    budget: Mapping[str, float] = field(
        default_factory=dict,
        metadata={"help": "most of each resource in one stage, e.g. {tokens: 2e6, domains: 4}"},
    )
    minimum: Mapping[str, float] = field(
        default_factory=dict, metadata={"help": "least of each resource in one stage, same keys as budget"}
    )
    sizes: Mapping[str, float | Mapping[str, float]] = field(
        default_factory=dict,
        metadata={"help": "what each domain takes of a resource that is not measured: one number, or {domain: number}"},
    )
    overhead: Mapping[str, float] = field(
        default_factory=dict,
        metadata={
            "help": "what every stage takes of a resource before any domain, e.g. {gpu_memory: bytes of the base}"
        },
    )
    must_link: tuple[tuple[str, ...], ...] = field(
        default=(), metadata={"help": "groups of domains that share a stage"}
    )
    cannot_link: tuple[tuple[str, ...], ...] = field(
        default=(), metadata={"help": "groups of domains of which no two share a stage"}
    )
    pin: Mapping[str, int] = field(
        default_factory=dict, metadata={"help": "{domain: position of its stage}, 1 is trained first, -1 last"}
    )
    method: Method = field(default="auto", metadata={"help": "auto, exact, heuristic, or the name of a peer"})
    time_limit: float = field(default=10.0, metadata={"help": "seconds for the main solve"})
    order: Order = field(default="optimal", metadata={"help": "stage order: optimal, reverse, random or given"})
    forgetting: float = field(
        default=1.0, metadata={"help": "weight of expected forgetting against forward transfer in the stage order"}
    )
    bootstrap: int = field(
        default=50, metadata={"help": "bootstrapped relations to re-plan for confidence, 0 for none"}
    )
    phase: int = field(default=5, metadata={"help": "points per axis of the λ×budget phase diagram, 0 for none"})
    compare: bool = field(default=True, metadata={"help": "run every peer beside the plan"})
    workers: int | None = field(default=None, metadata={"help": "solver threads; empty for all cores"})

    def __post_init__(self) -> None:
        if self.stages is None:
            # Plans and configurations of before "fewest" leave it empty and mean this.
            object.__setattr__(self, "stages", "free")
        faults = [*self._faults()]
        if faults:
            raise ConfigError(" ".join(faults))

    def _stage_faults(self) -> list[str]:
        given: Any = self.stages
        if given in ("fewest", "free"):
            return []
        pair = tuple(given) if isinstance(given, (tuple, list)) else (given, given)
        if len(pair) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) for n in pair):
            return [f"plan.stages: {given!r} must be fewest, free, a whole number or a (min, max) pair."]
        if not 1 <= pair[0] <= pair[1]:
            return [f"plan.stages: {given!r} must satisfy 1 <= min <= max."]
        return []

    def _faults(self) -> list[str]:
        faults: list[str] = []
        for name in ("discrepancy", "synergy"):
            value = getattr(self, name)
            if isinstance(value, str):
                if not value:
                    faults.append(
                        f"plan.{name}: is empty; name a measure such as {'js' if name[0] == 'd' else 'synergy'}."
                    )
            elif not value or not all(_number(weight) and weight >= 0 for weight in value.values()):
                faults.append(f"plan.{name}: {dict(value)!r} must give each measure a weight of 0 or more.")
            elif sum(value.values()) <= 0:
                faults.append(f"plan.{name}: every weight is 0; raise at least one.")
        for name, least, strict in (
            ("lam", 0.0, False),
            ("kappa", 0.0, False),
            ("time_limit", 0.0, True),
            ("forgetting", 0.0, False),
        ):
            value = getattr(self, name)
            if not _number(value) or value < least or (strict and value == least):
                faults.append(
                    f"plan.{name}: {value!r} must be a finite number {'above' if strict else 'of at least'} {least:g}."
                )
        for name, allowed in (
            ("scale", SCALES),
            ("method", METHODS),
            ("order", ("optimal", "reverse", "random", "given")),
        ):
            if getattr(self, name) not in allowed:
                faults.append(f"plan.{name}: {getattr(self, name)!r} is unknown; choose one of {', '.join(allowed)}.")
        for name in ("budget", "minimum", "overhead"):
            for key, value in getattr(self, name).items():
                if not _number(value) or value < 0 or (name == "budget" and value == 0):
                    faults.append(f"plan.{name}.{key}: {value!r} must be a finite positive number.")
        for key, value in self.minimum.items():
            if key in self.budget and _number(value) and value > self.budget[key]:
                faults.append(
                    f"plan.minimum.{key}: {value:g} is above plan.budget.{key} {self.budget[key]:g}; lower one "
                    f"or raise the other."
                )
        for key, value in self.sizes.items():
            numbers = list(value.values()) if isinstance(value, Mapping) else [value]
            if not all(_number(number) and number >= 0 for number in numbers):
                faults.append(f"plan.sizes.{key}: every size must be a finite number of 0 or more.")
        faults += self._stage_faults()
        for name in ("must_link", "cannot_link"):
            faults += [
                f"plan.{name}: {group!r} must name two or more different domains."
                for group in getattr(self, name)
                if isinstance(group, str) or len(group) < 2 or len(set(group)) < len(group)
            ]
        for domain, position in self.pin.items():
            if not isinstance(position, int) or isinstance(position, bool) or position == 0 or position < -1:
                faults.append(f"plan.pin.{domain}: {position!r} must be 1 or more (1 is trained first) or -1 (last).")
        for name, least_count in (("bootstrap", 0), ("phase", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least_count:
                faults.append(f"plan.{name}: {value!r} must be a whole number of at least {least_count}.")
        if self.workers is not None and (not isinstance(self.workers, int) or self.workers < 1):
            faults.append(
                f"plan.workers: {self.workers!r} must be a whole number of at least 1, or empty for all cores."
            )
        return faults


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
