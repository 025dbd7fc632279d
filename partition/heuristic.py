"""The anytime heuristic: annealing from disorder and from the best so far, in parallel; hard masks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .._seeding import generator
from ._clock import gather
from ._core import Core
from ._jit import have_compiler
from ._rounds import RATE, SWEEP_RATE, Schedule
from ._start import feasible_start
from ._warm import ready_annealing
from .solution import canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Pool", "search"]


@dataclass
class Pool:
    """The best distinct partitions found, best first; `clusters` are raw material for exact methods."""

    labels: list[NDArray[np.int64]] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    keep: int = 64
    labelled: bool = False

    def add(self, labels: NDArray[np.int64], value: int) -> bool:
        """Insert unless known; whether it is the new best. Where stages differ (`labelled`) their numbers are kept."""
        labels = np.asarray(labels, dtype=np.int64) if self.labelled else canonical(labels)
        best = not self.values or value > self.values[0]
        for known, other in zip(self.values, self.labels, strict=True):
            if known == value and np.array_equal(other, labels):
                return False
        at = int(np.searchsorted(-np.array(self.values, dtype=np.float64), -float(value), side="right"))
        self.values.insert(at, value)
        self.labels.insert(at, labels)
        del self.values[self.keep :], self.labels[self.keep :]
        return best

    @property
    def best(self) -> tuple[NDArray[np.int64], int] | None:
        """Best labels and their scaled value."""
        return (self.labels[0], self.values[0]) if self.values else None


def search(
    core: Core,
    *,
    seconds: float,
    seed: int = 0,
    workers: int = 1,
    start: NDArray[np.int64] | None = None,
    pool: Pool | None = None,
    enough: Callable[[int], bool] = lambda value: False,
    on_better: Callable[[NDArray[np.int64], int], None] = lambda labels, value: None,
    deterministic: bool = False,
    rounds: int | None = None,
    clock: float | None = None,
) -> Pool:
    """Search for `seconds`; the pool is empty when no feasible partition was found.

    `seconds` is work: as much as a slow core does in that time. `clock`, the same by default, is when to
    stop whatever was done; a larger one keeps the answer the same on a busy machine.
    `enough(value)` stops the search early, for example when a bound is met. With `deterministic` the clock is not
    read at all: the work follows from `seconds` alone.
    """
    pool = Pool() if pool is None else pool
    pool.labelled = core.labelled
    ready_annealing()
    clock = seconds if clock is None else clock
    deadline = np.inf if deterministic else time.monotonic() + clock
    if start is None:
        start = feasible_start(core, generator(seed, "heuristic", "start"))
        if start is None:
            return pool
    pool.add(start, core.value(start))
    if core.n == 1:
        return pool
    workers = max(1, workers)
    budget = seconds * (RATE if have_compiler() else SWEEP_RATE)
    schedule = Schedule(core, start, seed)
    timer = threading.Timer(max(0.0, clock), schedule.ring)
    timer.daemon = True
    if not deterministic:
        timer.start()
    spent, number = 0.0, 0
    try:
        with ThreadPoolExecutor(max_workers=workers) as threads:
            # The first round always runs: importing or compiling the kernel may have used up a short limit.
            while number == 0 or (
                spent < budget
                and (deterministic or time.monotonic() < deadline)
                and (rounds is None or number < rounds)
            ):
                work = schedule.work(number, budget, int(pool.labels[0].max()) + 1)
                jobs = [schedule.job(pool.labels, number, worker, work) for worker in range(workers)]
                running = [threads.submit(schedule.run, job, deadline) for job in jobs]
                for labels, value, record in gather(running, schedule.ring):
                    if record is not None:
                        schedule.learn(record)
                    if value > pool.values[0]:
                        labels, value = schedule.finish(labels, value)
                    if pool.add(labels, value):
                        on_better(labels, value)
                spent += work
                number += 1
                if enough(pool.values[0]):
                    break
    finally:
        timer.cancel()
    return pool
