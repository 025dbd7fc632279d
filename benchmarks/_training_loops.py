"""Kinfold's loop over one stage, a bare loop over the same steps, and what lies between the two."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from kinfold.stages._heap import kept_memory
from kinfold.stages.loop import StageLoop
from kinfold.stages.ranks import Ranks, Trackers
from kinfold.stages.training import Session, Stores, prepared_stage

__all__ = ["kinfold_loop", "overhead"]


def stage_loop(session: Session, stepper: Any, out: Path) -> StageLoop:
    folder = Path(tempfile.mkdtemp(dir=out))
    return StageLoop(
        stepper,
        session.settings,
        Ranks(session.base.device),
        stage=0,
        out=folder,
        log_bytes=0,
        validate=lambda domain: 0.0,
        trackers=Trackers((), folder, {}, main=True),
        estimate=lambda: "",
    )


def kinfold_loop(session: Session, stores: Stores, out: Path) -> Callable[[], int]:
    ranks = Ranks(session.base.device)

    def run() -> int:
        with prepared_stage(session, stores, ranks, 0, frozen=()) as stepper:
            return stage_loop(session, stepper, out).run().tokens

    return run


def bare_loop(session: Session, stores: Stores) -> Callable[[], int]:
    ranks = Ranks(session.base.device)

    def run() -> int:
        tokens = 0
        with prepared_stage(session, stores, ranks, 0, frozen=()) as stepper, kept_memory():
            optimizer = torch.optim.AdamW(stepper.bank.parameters(), lr=2e-4, fused=True)
            stepper.base.model.train()
            for number in range(stepper.schedule.steps):
                optimizer.zero_grad(set_to_none=True)
                tokens += stepper(number).tokens
                torch.nn.utils.clip_grad_norm_(stepper.bank.parameters(), 1.0)
                optimizer.step()
        return tokens

    return run


class _Timed:
    """Something called, with the CPU seconds spent inside."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.seconds = inner, 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        try:
            return self.inner(*args, **kwargs)
        finally:
            self.seconds += time.process_time() - began

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def overhead(session: Session, stores: Stores, out: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds per step that the executor adds to a bare loop over the same steps, found in two ways.

    By difference: a bare loop and the executor in turns, whole runs. By account: CPU seconds of the executor's run less
    those inside the gradient computation, clipping and the optimiser.
    """
    from kinfold.stages import loop as module

    differences, accounted = [], []
    steps = 0
    for _ in range(rounds + 1):
        times = []
        for run in (bare_loop(session, stores), kinfold_loop(session, stores, out)):
            began = time.process_time()
            run()
            times.append(time.process_time() - began)
        with prepared_stage(session, stores, Ranks(session.base.device), 0, frozen=()) as stepper:
            steps = stepper.schedule.steps
            loop = stage_loop(session, stepper, out)
            loop.stepper = inside = _Timed(loop.stepper)  # type: ignore[assignment]
            loop.optimizer.step = update = _Timed(loop.optimizer.step)  # type: ignore[assignment, method-assign]
            loop.optimizer.zero_grad = clear = _Timed(loop.optimizer.zero_grad)  # type: ignore[assignment, method-assign]
            clip = _Timed(module.nn.utils.clip_grad_norm_)
            module.nn.utils.clip_grad_norm_ = clip  # type: ignore[assignment]
            try:
                began = time.process_time()
                loop.run()
                whole = time.process_time() - began
            finally:
                module.nn.utils.clip_grad_norm_ = clip.inner
        rest = whole - inside.seconds - update.seconds - clear.seconds - clip.seconds
        differences.append((times[1] - times[0]) / steps * 1000)
        accounted.append(rest / steps * 1000)
    differences, accounted = differences[1:], accounted[1:]  # the first round warms up
    low, _, high = statistics.quantiles(differences, n=4)
    return {
        "steps": steps,
        "by_difference_ms": statistics.median(differences),
        "quartiles_ms": [low, high],
        "by_account_ms": statistics.median(accounted),
        "all_differences_ms": sorted(differences),
        "all_accounted_ms": sorted(accounted),
    }
