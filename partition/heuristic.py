"""The anytime heuristic: annealing restarts in parallel, contraction of what the best agree on, hard masks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from .._seeding import derive_seed, generator
from ._anneal import anneal
from ._jit import compiled, have_compiler
from ._start import feasible_start, repair
from .solution import canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Core

__all__ = ["Pool", "search"]

# Proposals a second of the compiled kernel on a slow core: turns seconds into a number of moves, so that the same
# seed and time limit give the same answer on any machine that keeps up.
_RATE = 25_000_000
_SWEEP_RATE = 15_000
_ELITE = 12
# From here on a hot start forgets more than the moves at hand can find again.
_LARGE = 400


@dataclass
class Pool:
    """The best distinct partitions found, best first; `clusters` are raw material for exact methods."""

    labels: list[NDArray[np.int64]] = field(default_factory=list)
    values: list[int] = field(default_factory=list)
    keep: int = 64

    def add(self, labels: NDArray[np.int64], value: int) -> bool:
        """Insert unless known; whether it is the new best."""
        labels = canonical(labels)
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

    `seconds` is work: a number of moves that a slow core makes in that time. `clock`, the same by default, is when to
    stop whatever was done; a larger one keeps the answer the same on a busy machine.
    `enough(value)` stops the search early, for example when a bound is met. With `deterministic` the clock is not
    read at all: the number of moves follows from `seconds` alone.
    """
    pool = Pool() if pool is None else pool
    _warm_up()
    clock = seconds if clock is None else clock
    deadline = np.inf if deterministic else time.monotonic() + clock
    rng = generator(seed, "heuristic", "start")
    if start is None:
        start = feasible_start(core, rng)
        if start is None:
            return pool
    pool.add(start, core.value(start))
    if core.n == 1:
        return pool
    anneal_round = _compiled_round if have_compiler() else _numpy_round
    rate = (_RATE if have_compiler() else _SWEEP_RATE) * max(1, workers)
    budget = seconds * rate
    spent = 0.0
    schedule = _Schedule(core)
    round_number = 0
    timer = threading.Timer(max(0.0, clock), schedule.ring)
    timer.daemon = True
    if not deterministic:
        timer.start()
    with ThreadPoolExecutor(max_workers=max(1, workers)) as threads:
        # The first round always runs: importing or compiling the kernel may have used up a short limit.
        while round_number == 0 or (
            spent < budget and time.monotonic() < deadline and (rounds is None or round_number < rounds)
        ):
            moves = schedule.moves(round_number, budget, workers)
            jobs = []
            for worker in range(max(1, workers)):
                stream = derive_seed(seed, "heuristic", round_number, worker)
                target, from_item, first = schedule.problem(core, pool, round_number, worker, stream)
                jobs.append((threads.submit(anneal_round, target, first, moves, stream, deadline, schedule), from_item))
            for job, from_item in jobs:
                labels, _ = job.result()
                labels = labels[from_item]
                value = core.value(labels)
                if pool.add(labels, value):
                    on_better(labels, value)
            spent += moves * max(1, workers)
            round_number += 1
            if enough(pool.values[0]):
                break
    timer.cancel()
    return pool


@cache
def _warm_up() -> None:
    """Compile or load the kernel before the clock starts: once a process, and compiled once a machine."""
    if not have_compiler():
        return
    one = np.zeros((1, 1))
    none = np.zeros((0, 1), dtype=np.int64)
    label = np.zeros(1, dtype=np.int64)
    masks = np.zeros((1, 1), dtype=np.uint8)
    compiled(anneal)(
        one,
        none,
        none,
        none,
        masks,
        False,
        False,
        0.0,
        1,
        label,
        label.copy(),
        1.0,
        1.0,
        1,
        0,
        np.zeros(1),
        label.copy(),
    )


class _Schedule:
    """Which problem each round anneals, how long and how hot."""

    def __init__(self, core: Core) -> None:
        upper = core.gain[np.triu_indices(core.n, 1)].astype(np.float64)
        # Forbidding weights (such as −9999 among tens) must not set the temperature: clip at the positive range.
        top = float(np.maximum(upper, 0).max(initial=0.0)) or float(np.abs(upper).max(initial=1.0)) or 1.0
        self.unit = float(np.sqrt(np.mean(np.minimum(np.abs(upper), top) ** 2))) or 1.0
        self.n = core.n
        self.bounded = len(core.sizes) > 0
        self.stop = np.zeros(1, dtype=np.int64)

    def ring(self) -> None:
        """Tell the kernels that the time is up."""
        self.stop[0] = 1

    def accept(self, seed: int) -> float:
        """Share of proposals accepted at the hot end: varied, so that some rounds refine and others start afresh."""
        return (0.02, 0.1, 0.2, 0.05)[seed % 4] if self.n > _LARGE else (0.2, 0.1, 0.3, 0.05)[seed % 4]

    def moves(self, number: int, budget: float, workers: int) -> int:
        """Short rounds first, so that there is an answer early; then longer ones."""
        if not have_compiler():
            return int(max(20 * self.n, min(budget / workers / 4, 40 * self.n * (1 + number))))
        base = 400 * self.n
        return int(min(max(base, budget / workers / 6), base * 4 ** min(number, 20)))

    def problem(
        self, core: Core, pool: Pool, number: int, worker: int, seed: int
    ) -> tuple[Core, NDArray[np.int64], NDArray[np.int64]]:
        """The (contracted) core to anneal, the item each original item went into, and the start."""
        whole = np.arange(core.n)
        rng = generator(seed, "contract")
        first = pool.labels[int(rng.integers(min(4, len(pool.labels))))]
        # Without budgets, what two good partitions agree on is mostly right; with them it is less so.
        alone = (number + worker) % 4 != 1 if self.bounded else (number + worker) % 3 == 0
        if alone or len(pool.labels) < 3:
            return core, whole, first
        picks = rng.choice(min(_ELITE, len(pool.labels)), size=2, replace=False)
        joint = canonical(pool.labels[picks[0]] * (core.n + 1) + pool.labels[picks[1]])
        if joint.max() + 1 >= core.n:
            return core, whole, first
        return contract(core, joint), joint, _first(pool.labels[picks[0]], joint)


def contract(core: Core, groups: NDArray[np.int64]) -> Core:
    """The core whose items are `groups` of this one's items, which must not conflict among themselves."""
    n = int(groups.max()) + 1
    member = np.zeros((n, core.n), dtype=np.int64)
    member[groups, np.arange(core.n)] = 1
    gain = member @ core.gain @ member.T
    inner = int(np.trace(gain)) // 2
    np.fill_diagonal(gain, 0)
    return replace(
        core,
        gain=np.ascontiguousarray(gain),
        base=core.base + inner,
        sizes=core.sizes @ member.T,
        conflict=(member @ core.conflict.astype(np.int64) @ member.T) > 0,
        most=core.most if core.labelled else min(core.most, n),
        group=groups[core.group],
    )


def _first(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """The label of each group's first member."""
    _, index = np.unique(groups, return_index=True)
    return labels[index]


def _slots(core: Core, start: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    if core.labelled:
        return start.astype(np.int64), core.upper, core.lower
    m = core.most
    ones = np.ones(m, dtype=np.int64)
    return canonical(start), core.upper[:, :1] * ones, core.lower[:, :1] * ones


def _compiled_round(
    core: Core, start: NDArray[np.int64], moves: int, seed: int, deadline: float, schedule: _Schedule
) -> tuple[NDArray[np.int64], int]:
    kernel = compiled(anneal)
    labels, upper, lower = _slots(core, start)
    gain = core.gain.astype(np.float64)
    sizes = np.ascontiguousarray(core.sizes)
    upper, lower = np.ascontiguousarray(upper), np.ascontiguousarray(lower)
    conflict = core.conflict.astype(np.uint8)
    masked = bool(core.conflict.any())
    # Where a budget or a mask can block a move, two items may still trade places.
    bounded = len(core.sizes) > 0 or masked
    acceptance = np.zeros(1)

    def run(begin: NDArray[np.int64], hot: float, cold: float, steps: int, stream: int) -> NDArray[np.int64]:
        best = begin.copy()
        kernel(
            gain,
            sizes,
            upper,
            lower,
            conflict,
            bounded,
            masked,
            float(core.kappa),
            core.least,
            begin.copy(),
            best,
            hot,
            cold,
            steps,
            stream % (2**62),
            acceptance,
            schedule.stop,
        )
        return best

    # Calibrate: the hot end accepts about a fifth of all proposals, whatever the scale of the gains.
    low, high = schedule.unit / 64, schedule.unit * 64
    probe = min(20_000, 50 * core.n)
    for step in range(9):
        middle = float(np.sqrt(low * high))
        run(labels, middle, middle, probe, derive_seed(seed, "probe", step))
        if acceptance[0] < schedule.accept(seed):
            low = middle
        else:
            high = middle
    hot = float(np.sqrt(low * high))
    best = run(labels, hot, hot / 8.0, moves, seed)
    best = run(best, hot / 16.0, hot / 1000.0, 60 * core.n, derive_seed(seed, "quench"))
    return best, core.value(best)


def _numpy_round(
    core: Core, start: NDArray[np.int64], moves: int, seed: int, deadline: float, schedule: _Schedule
) -> tuple[NDArray[np.int64], int]:
    from ._heatbath import heat_bath

    rng = generator(seed, "heat bath")
    sweeps = max(10, moves // core.n)
    return heat_bath(core, start, 3.0 * schedule.unit, 0.1 * schedule.unit, sweeps, rng, deadline)


__all__ += ["contract", "repair"]
