"""Budgets that follow from the base model: memory on the device, and adapter parameters.

The planner knows domains, tokens and documents; what a stage takes of the machine is known to the trainer. Here the
trainer's own memory model is asked, so that a plan and the dry run of its training speak of the same bytes.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .._progress import SILENT, Progress
from ..errors import ConfigError
from .tables import human_bytes

if TYPE_CHECKING:
    from ..metrics import Relations
    from ..partition import PlanSettings
    from ..stages import MemoryEstimate, TrainSettings

__all__ = ["MODEL_RESOURCES", "sized_by_model", "typical_lengths"]

MODEL_RESOURCES = ("adapter_parameters", "gpu_memory")
_REMEDY = {
    "adapter_parameters": "train.lora.rank or train.lora.targets",
    "gpu_memory": "train.batch_tokens or train.lora.rank, or set train.gradient_checkpointing or train.precision: bf16",
}
_BYTES = 16  # a trainable fp32 number with its gradient and AdamW's two moments


def sized_by_model(
    settings: PlanSettings,
    lengths: Sequence[float],
    *,
    model: str | os.PathLike[str] | None,
    train: TrainSettings,
    progress: Progress = SILENT,
) -> PlanSettings:
    """`settings` with the sizes of those budgets that only the base model can tell; unchanged where there are none.

    A stage of n domains is taken to need `overhead + n · size`: exact for adapter parameters; for memory the steepest
    line through the estimate for one domain, so that no stage a plan allows needs more than was said. Shared adapters
    of earlier stages ride along, as many as the plan may have.

    Parameters
    ----------
    settings
        What is planned; a resource whose `sizes` are given stays as it is.
    lengths
        Tokens of a typical document of each domain. A batch is filled with whole documents, so each domain may bring
        one more than its share.
    model
        Base model, a folder or a hub id; only its configuration is read.
    train
        How stages will be trained.

    Raises
    ------
    ConfigError
        If such a budget is given and no model, or not even one domain fits it.
    """
    domains = len(lengths)
    asked = [
        name
        for name in MODEL_RESOURCES
        if (name in settings.budget or name in settings.minimum) and name not in settings.sizes
    ]
    if not asked:
        return settings
    if model is None:
        raise ConfigError(
            f"plan.budget.{asked[0]}: what a domain takes of it follows from the base model; give --model, or "
            f"plan.sizes.{asked[0]}."
        )
    estimates = _Estimates(model, train, max(lengths), earlier=_most_stages(settings, domains) - 1)
    sizes, overhead = dict(settings.sizes), dict(settings.overhead)
    with progress.task(f"estimate {' and '.join(name.replace('_', ' ') for name in asked)}", len(asked)) as task:
        for name in asked:
            size, base = _line(estimates.memory if name == "gpu_memory" else estimates.parameters, domains)
            sizes[name] = size
            overhead.setdefault(name, base)
            least = overhead[name] + size
            if least > settings.budget.get(name, math.inf):
                show = human_bytes if name == "gpu_memory" else "{:,.0f}".format
                raise ConfigError(
                    f"plan.budget.{name}: {show(settings.budget[name])}, but a stage of one domain needs "
                    f"{show(least)}; raise the budget, or lower {_REMEDY[name]}."
                )
            task.advance()
    return dataclasses.replace(settings, sizes=sizes, overhead=overhead)


def typical_lengths(relations: Relations) -> list[float]:
    """Mean tokens a document of each domain, as it was measured; never below one."""
    tokens, documents = relations.tokens.tolist(), relations.documents.tolist()
    return [max(1.0, t / max(1, d)) for t, d in zip(tokens, documents, strict=True)]


def _most_stages(settings: PlanSettings, domains: int) -> int:
    stages = settings.stages
    if isinstance(stages, int):
        return min(stages, domains)
    if isinstance(stages, (tuple, list)):
        return min(int(stages[1]), domains)
    return domains


class _Estimates:
    """The trainer's estimate for stages of different numbers of domains, each made once."""

    def __init__(self, model: str | os.PathLike[str], train: TrainSettings, document: float, *, earlier: int) -> None:
        self.model, self.train, self.earlier = os.fspath(model), train, earlier
        self.document = min(float(train.max_length), document)
        own = train.batch_tokens / train.accumulation
        ssl = train.ssl_share if train.ssl_weight > 0 else 0.0
        general = train.kl_share if train.kl_weight > 0 else 0.0
        self.tokens = own * (1.0 + ssl + general)
        self._made: dict[int, MemoryEstimate] = {}

    def of(self, domains: int) -> MemoryEstimate:
        from ..stages import estimate_memory

        if domains not in self._made:
            task = "classification" if self.train.task == "classification" else "lm"
            self._made[domains] = estimate_memory(
                self.model,
                self.train,
                domains=domains,
                earlier_stages=self.earlier,
                tokens=math.ceil(self.tokens + domains * self.document),
                task=task,  # type: ignore[arg-type]
            )
        return self._made[domains]

    def memory(self, domains: int) -> float:
        """Bytes at the peak of a step."""
        return float(self.of(domains).total)

    def parameters(self, domains: int) -> float:
        """Trainable numbers."""
        return self.of(domains).adapters / _BYTES


def _line(need: Callable[[int], float], most: int) -> tuple[float, float]:
    """(size, overhead) of a line that lies on `need` at one domain and nowhere below it at the others looked at."""
    first = need(1)
    counts = sorted({2, (most + 1) // 2, most} - {1})
    slope = max((need(count) - first) / (count - 1) for count in counts if count <= most) if most > 1 else 0.0
    slope = max(slope, 0.0)
    return slope, max(first - slope, 0.0)
