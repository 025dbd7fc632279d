"""The training loop of one stage: schedule, optimiser, log, checkpoints, early stopping, and the ways it can fail."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._progress import SILENT, Progress
from ..errors import TrainingError
from ._heap import kept_memory
from .checkpoint import Checkpoint, StepLog, load_optimizer, optimizer_tensors
from .step import Stepper, StepResult
from .weighting import SwampWatch

if TYPE_CHECKING:
    from .bank import LoraBank
    from .heads import Heads
    from .ranks import Ranks, Trackers
    from .settings import TrainSettings

__all__ = ["StageLoop", "StageOutcome", "learning_rate"]

_NORMS_EVERY = 10  # steps at least between two logged norms: they cost as much as an update of all adapters


def learning_rate(step: int, steps: int, settings: TrainSettings) -> float:
    """Learning rate of step `step` (from 0) of `steps`: linear warm-up, then constant, linear or cosine decay."""
    warm = math.ceil(settings.warmup * steps)
    if step < warm:
        return settings.lr * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    if settings.schedule == "constant":
        return settings.lr
    shape = 1.0 - done if settings.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
    return settings.lr * (settings.min_lr + (1.0 - settings.min_lr) * shape)


@dataclass(frozen=True)
class StageOutcome:
    """How a stage ended: steps done, domain tokens seen, domains stopped early, last norms."""

    steps: int
    tokens: int
    stopped: tuple[str, ...]
    norms: dict[str, float]
    log_bytes: int


class _Early:
    """Early stopping: a domain whose validation loss stops falling leaves the batches with its best adapter."""

    def __init__(self, settings: TrainSettings, steps: int) -> None:
        self.patience = settings.patience
        self.every = settings.validate_every or max(1, steps // 10)
        self.best: dict[str, float] = {}
        self.bad: dict[str, int] = {}
        self.stopped: frozenset[str] = frozenset()
        self.kept: dict[str, dict[str, Tensor]] = {}

    def due(self, done: int) -> bool:
        return self.patience is not None and done % self.every == 0

    def observe(self, domain: str, loss: float, state: Mapping[str, Tensor]) -> bool:
        """Note one validation loss; True when the domain has to stop."""
        if loss < self.best.get(domain, math.inf):
            self.best[domain], self.bad[domain] = loss, 0
            self.kept[domain] = {name: tensor.clone() for name, tensor in state.items()}
            return False
        self.bad[domain] = self.bad.get(domain, 0) + 1
        return self.patience is not None and self.bad[domain] >= self.patience

    def numbers(self) -> dict[str, Any]:
        return {"best": self.best, "bad": self.bad, "stopped": sorted(self.stopped)}

    def tensors(self) -> dict[str, Tensor]:
        return {f"best/{name}": t for kept in self.kept.values() for name, t in kept.items()}

    def load(self, numbers: Mapping[str, Any], tensors: Mapping[str, Tensor], owner: Callable[[str], str]) -> None:
        self.best, self.bad = dict(numbers["best"]), dict(numbers["bad"])
        self.stopped = frozenset(numbers["stopped"])
        for key, value in tensors.items():
            if key.startswith("best/"):
                name = key.removeprefix("best/")
                self.kept.setdefault(owner(name), {})[name] = value


class StageLoop:
    """Runs one stage from wherever its newest checkpoint is.

    Parameters
    ----------
    stepper
        Computes gradients of any step.
    validate
        Mean validation loss of one domain; asked only with early stopping on.
    estimate
        One phrase about the memory this was expected to take, for the out-of-memory message.
    """

    def __init__(
        self,
        stepper: Stepper,
        settings: TrainSettings,
        ranks: Ranks,
        *,
        stage: int,
        out: Path,
        log_bytes: int,
        validate: Callable[[str], float],
        trackers: Trackers,
        estimate: Callable[[], str],
        step_offset: int = 0,
        progress: Progress = SILENT,
    ) -> None:
        self.stepper, self.settings, self.ranks = stepper, settings, ranks
        self.bank: LoraBank = stepper.bank
        self.heads: Heads | None = stepper.heads
        self.stage, self.out = stage, out
        self.checkpoints = out / "checkpoints"
        self.validate, self.trackers, self.estimate = validate, trackers, estimate
        self.step_offset = step_offset
        self.progress = progress
        self.steps = stepper.schedule.steps
        self.named = self._named_parameters()
        self.optimizer = self._optimizer()
        self.early = _Early(settings, self.steps)
        self.swamp = SwampWatch()
        self.done = 0
        self.tokens = 0
        self._log_bytes = log_bytes
        guesses = stepper.base.vocabulary
        if stepper.heads is not None:
            guesses = max(len(labels) for labels in stepper.heads.labels.values())
        self._hopeless = 4.0 * math.log(guesses) + 10.0
        self._resume()

    # -- state --------------------------------------------------------------------------------------------------

    def _named_parameters(self) -> dict[str, nn.Parameter]:
        named = dict(self.bank.named_parameters())
        if self.heads is not None:
            mine = set(self.stepper.domains)
            shared = self.heads.shared
            named |= {n: p for n, p in self.heads.named_parameters() if shared or n.split("/")[1] in mine}
        for number, parameter in enumerate(self.stepper.weighting.parameters()):
            named[f"weighting/{number}"] = parameter
        for parameter in named.values():
            parameter.requires_grad_(True)
        return named

    def _optimizer(self) -> torch.optim.Optimizer:
        settings = self.settings
        decayed = [p for name, p in self.named.items() if not name.startswith("weighting/")]
        groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": settings.weight_decay}]
        free = [p for name, p in self.named.items() if name.startswith("weighting/")]
        if free:
            groups.append({"params": free, "weight_decay": 0.0})
        return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.beta1, settings.beta2), fused=True)

    def _names(self) -> dict[int, str]:
        return {id(parameter): name for name, parameter in self.named.items()}

    def _resume(self) -> None:
        state = Checkpoint.newest(self.checkpoints, self.stage)
        if state is None:
            return
        tensors = state.tensors
        own = {name: tensors[name] for name in self.named if name in tensors}
        with torch.no_grad():
            for name, value in own.items():
                self.named[name].copy_(value)
        load_optimizer(self.optimizer, self._names(), tensors)
        self.stepper.weighting.load_state_dict(state.numbers["weighting"])
        if self.stepper.queue is not None:
            device = self.ranks.device
            queue = {k.removeprefix("queue/"): v.to(device) for k, v in tensors.items() if k.startswith("queue/")}
            self.stepper.queue.load_state_dict(queue)
        self.early.load(state.numbers["early"], tensors, lambda name: name.split("/")[1])
        self.done, self.tokens = state.step, int(state.numbers["tokens"])
        self._log_bytes = state.log_bytes

    def _save(self, log: StepLog) -> None:
        if not self.ranks.main:
            return
        tensors: dict[str, Tensor] = {name: parameter.detach() for name, parameter in self.named.items()}
        tensors |= optimizer_tensors(self.optimizer, self._names())
        if self.stepper.queue is not None:
            tensors |= {f"queue/{name}": value for name, value in self.stepper.queue.state_dict().items()}
        tensors |= self.early.tensors()
        numbers = {
            "tokens": self.tokens,
            "weighting": self.stepper.weighting.state_dict(),
            "early": self.early.numbers(),
        }
        state = Checkpoint(self.stage, self.done, tensors, numbers, log.sync())
        state.save(self.checkpoints, keep=self.settings.keep_checkpoints)

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(self) -> StageOutcome:
        """Train to the end of the stage.

        Raises
        ------
        TrainingError
            If the loss is no number or hopeless, memory runs out, or the disk is full; names the last good checkpoint.
        """
        with kept_memory(wanted=self.ranks.device.type == "cpu"):
            return self._run()

    def _run(self) -> StageOutcome:
        log = StepLog(self.out / "metrics.jsonl", self._log_bytes) if self.ranks.main else None
        timing = StepLog.up_to(self.out / "timings.jsonl", self.stage, self.done) if self.ranks.main else None
        names = ", ".join(self.stepper.domains)
        norms: dict[str, float] = {}
        model = self.stepper.base.model
        model.train()
        try:
            title = f"stage {self.stage + 1}: {names if len(names) <= 48 else f'{len(self.stepper.domains)} domains'}"
            with self.progress.task(title, total=self.steps, unit="step") as task:
                task.update(completed=self.done)
                while self.done < self.steps and len(self.early.stopped) < len(self.stepper.domains):
                    started = time.perf_counter()
                    row = self._step()
                    seconds = time.perf_counter() - started
                    norms = row.get("norms", norms)
                    if log is not None and timing is not None:
                        log.write(row)
                        entry = {"stage": self.stage, "step": row["step"], "seconds": round(seconds, 6)}
                        timing.write({**entry, "memory": self._memory()})
                        self._track(row)
                        if self.early.due(self.done):
                            self._early_round()
                        every = self.settings.checkpoint_every
                        if every is not None and self.done % every == 0 and self.done < self.steps:
                            self._save(log)
                        elif self.done % 20 == 0:
                            log.flush()
                    elif self.early.due(self.done):
                        self._early_round()
                    rate = row["tokens"] / max(seconds, 1e-9)
                    task.update(completed=self.done, note=f"loss {row['loss']:.3f}, {rate:,.0f} tokens/s")
            norms = self.bank.norms()
            end = log.sync() if log is not None else 0
        except (torch.OutOfMemoryError, MemoryError) as fault:
            raise self._out_of_memory(fault) from fault
        except RuntimeError as fault:
            if "DefaultCPUAllocator" in str(fault) or "out of memory" in str(fault):
                raise self._out_of_memory(fault) from fault
            raise
        finally:
            for stream in (log, timing):
                if stream is not None:
                    stream.close()
            model.eval()
        return StageOutcome(self.done, self.tokens, tuple(sorted(self.early.stopped)), norms, end)

    def _step(self) -> dict[str, Any]:
        settings = self.settings
        rate = learning_rate(self.done, self.steps, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        result = self.stepper(self.done, self.early.stopped)
        own = [p for name, p in self.named.items() if not name.startswith("weighting/")]
        self.ranks.sum_gradients(own)
        limit = settings.grad_clip if settings.grad_clip is not None else math.inf
        norm = float(nn.utils.clip_grad_norm_(own, limit, foreach=True))
        self._check(result, norm)
        self.optimizer.step()
        norms: dict[str, float] | None = None
        if settings.rho_shared is not None or settings.rho_domain is not None:
            norms = self.bank.project_(settings.rho_shared, settings.rho_domain)
        elif self.done % max(_NORMS_EVERY, self.steps // 20) == 0:
            norms = self.bank.norms()
        if self.stepper.weighting.name != "famo":
            self.stepper.weighting.after_step(result.parts)
        self.done += 1
        self.tokens += result.tokens
        warning = self.swamp.observe(result.parts, result.weights)
        if warning is not None:
            self.progress.warn(f"Stage {self.stage + 1}, step {self.done}: {warning}")
        row: dict[str, Any] = {
            "stage": self.stage,
            "step": self.done,
            "tokens": result.tokens,
            "lr": rate,
            "loss": result.loss,
            "parts": result.parts,
            "weights": result.weights,
            "per_domain": result.per_domain,
            "grad_norm": norm,
        }
        if norms is not None:
            row["norms"] = norms
        return row

    def _check(self, result: StepResult, norm: float) -> None:
        """Stop before a broken update reaches the adapters."""
        numbers = [result.loss, norm, *result.parts.values()]
        task = result.parts.get("task", 0.0)
        if all(math.isfinite(value) for value in numbers) and task <= self._hopeless:
            return
        last = Checkpoint.last_path(self.checkpoints)
        good = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
        what = f"the loss is {result.loss:.4g} (gradient norm {norm:.4g})"
        if task > self._hopeless and math.isfinite(task):
            what = f"the task loss {task:.4g} is far worse than guessing"
        raise TrainingError(
            f"Stage {self.stage + 1}, step {self.done + 1}: {what}; {good}: lower train.lr or "
            "train.grad_clip, then train anew into another folder."
        )

    def _early_round(self) -> None:
        model = self.stepper.base.model
        model.eval()
        for domain in self.stepper.domains:
            if domain in self.early.stopped:
                continue
            state = {name: p.detach() for name, p in self.named.items() if self._of(domain, name)}
            if self.early.observe(domain, self.validate(domain), state):
                with torch.no_grad():
                    for name, kept in self.early.kept[domain].items():
                        self.named[name].copy_(kept)
                self.early.stopped |= {domain}
                self.progress.say(f"Stage {self.stage + 1}: {domain} stopped early after {self.done} steps.")
        model.train()

    @staticmethod
    def _of(domain: str, name: str) -> bool:
        kind, _, rest = name.partition("/")
        return kind in ("domain", "head") and rest.startswith(f"{domain}/")

    def _track(self, row: Mapping[str, Any]) -> None:
        values = {"loss": row["loss"], "lr": row["lr"], "grad_norm": row["grad_norm"]}
        values |= {f"parts/{name}": value for name, value in row["parts"].items()}
        values |= {f"domain/{name}": value for name, value in row["per_domain"].items()}
        self.trackers.log(values, self.step_offset + row["step"])

    def _memory(self) -> int:
        """Peak bytes so far: of the device's allocator, or of the whole process on a CPU."""
        if self.ranks.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated())
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def _out_of_memory(self, fault: BaseException) -> TrainingError:
        last = Checkpoint.last_path(self.checkpoints)
        good = f"; the last good checkpoint is {last}" if last else ""
        where = "GPU" if isinstance(fault, torch.OutOfMemoryError) else "main"
        return TrainingError(
            f"Stage {self.stage + 1}, step {self.done + 1}: out of {where} memory ({self.estimate()}){good}: "
            "(1) raise train.accumulation or lower train.batch_tokens, (2) set train.gradient_checkpointing, "
            "(3) lower train.max_length or set train.precision to bf16."
        )
