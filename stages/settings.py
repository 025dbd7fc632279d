"""What a training run can be told: frozen values that cannot exist wrong, free of heavy imports."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ..errors import ConfigError
from ._lora_spec import LoraSpec

__all__ = ["LoraSpec", "TrainSettings"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "task": ("auto", "lm", "classification"),
    "head": ("domain", "shared"),
    "adapters": ("both", "shared", "domain"),
    "schedule": ("constant", "linear", "cosine"),
    "precision": ("fp32", "bf16"),
    "layout": ("auto", "flat", "packed", "padded"),
    "sampling": ("uniform", "proportional", "temperature", "alpha"),
    "ssl_kind": ("token", "span"),
    "align_kind": ("mmd", "linear"),
    "align_pool": ("mean", "last"),
    "kl_direction": ("reverse", "forward"),
    "weighting": ("static", "uncertainty", "dwa", "famo"),
    "evaluate_split": ("train", "validation", "test"),
    "attention": ("auto", "sdpa", "eager"),
    "device": ("auto", "cpu", "cuda", "mps"),
}


def _f(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


def _refuse(path: str, value: Any, allowed: str, remedy: str = "") -> None:
    end = f"; {remedy}." if remedy else "."
    raise ConfigError(f"train.{path}={value!r}: must be {allowed}{end}")


@dataclass(frozen=True)
class TrainSettings:
    """Everything about training but the plan, the corpora, the model and the seed.

    A *step* is one optimiser step; *tokens* are real tokens of documents, padding is never counted.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    # What is trained
    task: Literal["auto", "lm", "classification"] = _f("auto", "task; auto looks at the records (labels or not)")
    head: Literal["domain", "shared"] = _f("domain", "classification head: one per domain, or one for all")
    adapters: Literal["both", "shared", "domain"] = _f("both", "adapters: a shared one, one per domain, or both")
    lora: LoraSpec = field(default_factory=LoraSpec, metadata={"help": "shape of the adapters"})
    rho_shared: float | None = _f(None, "bound on the Frobenius norm of each stage's shared update; none = unbounded")
    rho_domain: float | None = _f(None, "bound on the Frobenius norm of each domain's update; none = unbounded")

    # How long
    epochs: float = _f(1.0, "passes over the tokens of a stage's domains")
    max_steps: int | None = _f(None, "upper bound on optimiser steps per stage")
    tokens_per_stage: int | None = _f(None, "tokens per stage instead of epochs (domain tokens, all domains together)")
    patience: int | None = _f(None, "early stopping: validation rounds without improvement before a domain stops")
    validate_every: int | None = _f(
        None, "optimiser steps between validation rounds (early stopping); none = 1/10 of a stage"
    )

    # Between stages
    replan: bool = _f(
        False, "after each stage, measure the domains on the adapted model and plan the remaining stages anew"
    )

    # Batches
    batch_tokens: int = _f(4096, "domain tokens per optimiser step, all domains, ranks and accumulation together")
    accumulation: int = _f(1, "micro-batches per optimiser step (per rank)")
    max_length: int = _f(
        512, "longest sequence in tokens; longer documents are cut into pieces, or truncated where labelled"
    )
    documents: int | None = _f(None, "most training documents used per domain; none = all")
    layout: Literal["auto", "flat", "packed", "padded"] = _f(
        "auto",
        "flat: documents back to back, no padding (decoders); packed: rows of max_length, documents kept apart by the "
        "mask; padded: a row each, grouped by length; auto: flat where the model can, else padded",
    )
    sampling: Literal["uniform", "proportional", "temperature", "alpha"] = _f(
        "proportional", "share of each domain in a batch"
    )
    temperature: float = _f(2.0, "sampling=temperature: share ~ tokens ** (1 / temperature)")
    alpha: float = _f(0.5, "sampling=alpha: share ~ tokens ** alpha")
    train_on_prompt: bool = _f(False, "also pay for the prompt's tokens of prompt + completion and chat records")
    chat_template: str | None = _f(None, "path of a Jinja chat template; none = the tokenizer's own")

    # Optimiser
    lr: float = _f(2e-4, "peak learning rate")
    schedule: Literal["constant", "linear", "cosine"] = _f("cosine", "learning-rate schedule, restarted every stage")
    warmup: float = _f(0.03, "warm-up, as a share of the stage's steps")
    min_lr: float = _f(0.0, "last learning rate, as a share of the peak")
    weight_decay: float = _f(0.0, "AdamW weight decay")
    beta1: float = _f(0.9, "AdamW beta1")
    beta2: float = _f(0.999, "AdamW beta2")
    grad_clip: float | None = _f(1.0, "largest global gradient norm; none = no clipping")

    # Losses
    ssl_weight: float = _f(0.1, "weight of the denoising loss (lambda 1); 0 = off")
    ssl_kind: Literal["token", "span"] = _f("token", "corrupt single tokens or spans")
    ssl_rate: float = _f(0.15, "share of tokens corrupted")
    ssl_share: float = _f(0.25, "denoising tokens per domain token")
    align_weight: float = _f(0.1, "weight of the alignment loss MMD^2 between the stage's domains (lambda 2); 0 = off")
    align_kind: Literal["mmd", "linear"] = _f("mmd", "multi-kernel MMD^2, or squared distance of mean features (eq. 3)")
    align_layer: int = _f(-1, "hidden layer whose pooled states are aligned; -1 = last")
    align_pool: Literal["mean", "last"] = _f("mean", "pooling of a document's states")
    align_queue: int = _f(64, "features of earlier steps kept per domain for the MMD estimate; 0 = none")
    kl_weight: float = _f(0.0, "weight of the KL divergence to the base model on general text; 0 = off")
    kl_direction: Literal["reverse", "forward"] = _f(
        "reverse", "reverse = KL(model || base), forward = KL(base || model)"
    )
    kl_share: float = _f(1.0, "general tokens per domain token while KL is on (1 = the 1:1 default)")
    weighting: Literal["static", "uncertainty", "dwa", "famo"] = _f("static", "how the loss terms are balanced")

    # Machine
    precision: Literal["fp32", "bf16"] = _f("fp32", "arithmetic; adapters and optimiser stay in fp32")
    device: Literal["auto", "cpu", "cuda", "mps"] = _f("auto", "device; auto takes an accelerator where there is one")
    threads: int | None = _f(None, "CPU threads; fix them for bit-identical results across machines")
    gradient_checkpointing: bool = _f(False, "recompute activations in the backward pass: less memory, more time")
    compile: bool = _f(False, "torch.compile the backbone")
    attention: Literal["auto", "sdpa", "eager"] = _f("auto", "attention kernel of the base model")
    trust_remote_code: bool = _f(False, "run code that comes with a hub model; off unless you trust it")

    # Keeping
    checkpoint_every: int | None = _f(200, "optimiser steps between checkpoints; none = only at the end of a stage")
    keep_checkpoints: int = _f(2, "checkpoints kept of the running stage")
    trackers: tuple[str, ...] = _f((), "also log to these Accelerate trackers: tensorboard, wandb")

    # Evaluation
    evaluate_split: Literal["train", "validation", "test"] = _f("test", "split that is evaluated")
    eval_documents: int = _f(200, "most documents evaluated per domain")
    eval_tokens: int = _f(8192, "tokens per evaluation batch, padding included")
    eval_generate: int = _f(0, "prompts per domain answered freely for exact match, token F1 and ROUGE-L; 0 = none")
    eval_new_tokens: int = _f(64, "longest generated answer, tokens")
    bootstrap: int = _f(1000, "bootstrap draws of the evaluation intervals")

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                _refuse(name, getattr(self, name), f"one of {', '.join(allowed)}")
        given: Any = self.trackers  # a list from YAML, one string from a flag
        if isinstance(given, (list, str)):
            names = given.split(",") if isinstance(given, str) else given
            object.__setattr__(self, "trackers", tuple(n.strip() for n in names if n.strip()))
        for tracker in self.trackers:
            if tracker not in ("tensorboard", "wandb"):
                _refuse("trackers", tracker, "tensorboard or wandb")
        self._check_numbers()

    def _check_numbers(self) -> None:
        whole: tuple[str, ...] = (
            "batch_tokens",
            "accumulation",
            "max_length",
            "keep_checkpoints",
            "eval_documents",
            "eval_tokens",
        )
        whole += ("eval_new_tokens", "bootstrap")
        whole_or_none: tuple[str, ...] = (
            "max_steps",
            "tokens_per_stage",
            "patience",
            "validate_every",
            "documents",
            "threads",
        )
        whole_or_none += ("checkpoint_every",)
        positive = ("epochs", "lr", "temperature")
        positive_or_none = ("rho_shared", "rho_domain", "grad_clip")
        not_negative = ("ssl_weight", "ssl_share", "align_weight", "kl_weight", "kl_share", "weight_decay", "alpha")
        for name in whole + whole_or_none + ("align_queue", "eval_generate"):
            value = getattr(self, name)
            if value is None and name in whole_or_none:
                continue
            low = 0 if name in ("align_queue", "eval_generate") else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                _refuse(
                    name, value, f"a whole number of at least {low}" + (" or none" if name in whole_or_none else "")
                )
        for name in positive + positive_or_none:
            value = getattr(self, name)
            if value is None and name in positive_or_none:
                continue
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                _refuse(name, value, "a finite number above 0" + (" or none" if name in positive_or_none else ""))
        for name in not_negative:
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
                _refuse(name, value, "a finite number of at least 0")
        for name in ("warmup", "min_lr"):
            if not 0 <= getattr(self, name) <= 1:
                _refuse(name, getattr(self, name), "a share in [0, 1]")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                _refuse(name, getattr(self, name), "in [0, 1)")
        if not 0 < self.ssl_rate < 1:
            _refuse("ssl_rate", self.ssl_rate, "a share in (0, 1)")
        if self.max_length < 4:
            _refuse("max_length", self.max_length, "at least 4 tokens")
        if self.ssl_weight > 0 and self.ssl_share == 0:
            _refuse("ssl_share", self.ssl_share, "above 0 while ssl_weight is", "or set train.ssl_weight to 0")
        if self.kl_weight > 0 and self.kl_share == 0:
            _refuse("kl_share", self.kl_share, "above 0 while kl_weight is", "or set train.kl_weight to 0")
        if self.replan and self.adapters == "domain":
            _refuse("replan", True, "false where adapters=domain", "without a shared adapter no feature changes")
        if self.adapters == "domain" and self.rho_shared is not None:
            _refuse("rho_shared", self.rho_shared, "none where adapters=domain", "there is no shared adapter to bound")
        if self.adapters == "shared" and self.rho_domain is not None:
            _refuse("rho_domain", self.rho_domain, "none where adapters=shared", "there is no domain adapter to bound")

    def to_dict(self) -> dict[str, Any]:
        """Plain, JSON-able values, as they go into `config.yaml` and the fingerprint."""
        values = dataclasses.asdict(self)
        if not self.replan:
            del values["replan"]  # so that runs begun before it existed keep their fingerprint
        values["trackers"] = list(self.trackers)
        if not isinstance(self.lora.targets, str):
            values["lora"]["targets"] = list(self.lora.targets)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainSettings:
        """The inverse of :meth:`to_dict`; an unknown key raises ConfigError."""
        values = dict(values)
        known = {f.name for f in dataclasses.fields(cls)}
        lora = values.pop("lora", {})
        known_lora = {f.name for f in dataclasses.fields(LoraSpec)}
        for name, keys, allowed in (("train", values, known), ("train.lora", lora, known_lora)):
            for key in keys:
                if key not in allowed:
                    raise ConfigError(f"{name}.{key}: unknown key; known are {', '.join(sorted(allowed))}.")
        return cls(lora=LoraSpec(**lora), **values)
