"""What the heuristic does round by round: which problem it anneals, from where, how hot and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._seeding import derive_seed, generator
from ._anneal import anneal
from ._jit import compiled, have_compiler
from ._pack import Packed, pack
from ._polish import polish
from .solution import canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Core

__all__ = ["RATE", "SWEEP_RATE", "Job", "Leg", "Schedule", "run_kernel"]

# Vector steps a second of the compiled kernel, and items a second of the fallback, on a slow core: they turn seconds
# into work, so that the same seed and time limit give the same answer on any machine that keeps up.
RATE = 1_000_000_000
SWEEP_RATE = 15_000
_BUCKETS = 32
_ELITE = 4
# Shares of the way from disorder to the end: most of the structure forms between the first and the last.
_HOT, _COLD = 0.15, 0.998
# Where rounds from one of the best partitions begin, in turn: the further up, the more of it melts. With the last alone
# random weights -5..5 ended .2 % lower on one of five instances of 300. Where budgets or masks block moves deeper melts
# won .02 and .08 % in two pairs of runs on generated instances and lost .03 and .05 % in two: there the last alone.
_MELTS, _MELTS_BLOCKED = (0.75, 0.85, 0.93), (0.93,)
# Rounds start from disorder or from one of the best partitions, partly melted, in turn; large problems rarely gain from
# another start. Contracting what two of the best agree on was a third kind and lost to both (docs/partition.md).
_KINDS, _KINDS_LARGE = ("fresh", "warm"), ("fresh", "warm", "warm", "warm")
_LARGE = 600
# Rugged problems want many short legs from disorder, smooth ones few long ones: rounds are cut into these in turn.
_PARTS = (1, 8)
# Rounds in which a leg from far above to far below reads off the temperatures anew: a short one lags behind them.
_WIDE = (0, 3, 6)
# All pairs are looked at in every sweep up to here; beyond, as many items a sweep try to trade.
_TRADERS = 300


@dataclass(frozen=True)
class Leg:
    """One annealing: first and last temperature in packed units, and vector steps to spend."""

    hot: float
    cold: float
    work: float


@dataclass(frozen=True, eq=False)
class Job:
    """What a worker does in a round: `parts` legs of one kind, from `start`, that share the work.

    `melt` says how much of `start` melts, where the kind is "warm" (an index of the ladder's middle temperatures).
    """

    start: NDArray[np.int64]
    kind: str
    work: float
    seed: int
    parts: int
    melt: int


def run_kernel(
    packed: Packed, start: NDArray[np.int64], leg: Leg, seed: int, stop: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], float]:
    """Best labels of one leg, the kernel's record by temperature and the packed value (:func:`._anneal.anneal`)."""
    core = packed.core
    labels = start.astype(np.int64) if core.labelled else canonical(start)
    best = labels.copy()
    record = np.zeros((_BUCKETS, 3))
    value = compiled(anneal)(
        packed.gain,
        packed.conflict,
        packed.weight,
        packed.sizes,
        packed.upper,
        packed.lower,
        packed.ceiling,
        packed.ground,
        packed.masked,
        core.labelled,
        packed.kappa,
        core.least,
        labels,
        best,
        leg.hot,
        leg.cold,
        leg.work,
        min(1.0, _TRADERS / core.n) if packed.trades else 0.0,
        packed.lead,
        seed % 2**62,
        packed.noise,
        record,
        stop,
    )
    return best, record, float(value)


class Schedule:
    """Plans the jobs of each round and runs them; `stop` rings in the kernels when the time is up."""

    def __init__(self, core: Core, start: NDArray[np.int64], seed: int) -> None:
        self.core = core
        self.start = start
        self.seed = seed
        self.stop = np.zeros(1, dtype=np.int64)
        self.packed = pack(core) if have_compiler() else None
        self.ladder: tuple[float, tuple[float, ...], float] | None = None
        upper = np.abs(core.gain[np.triu_indices(core.n, 1)].astype(np.float64))
        self.unit = float(np.sqrt(np.mean(upper**2))) or 1.0 if len(upper) else 1.0

    def ring(self) -> None:
        """Tell the kernels that the time is up."""
        self.stop[0] = 1

    def sweep(self, stages: int) -> float:
        """Vector steps of one sweep over all items."""
        n, resources = self.core.n, len(self.core.sizes)
        steps = -(-n // 16)
        blocks = -(-n // 64)
        looks = (stages + 1) * (20.0 * blocks + steps * (1.0 + resources)) + 60.0 * blocks
        moves = looks + 0.2 * n * (4.0 * steps + 20.0)
        if self.packed is None or not self.packed.trades:
            return moves
        trades = steps * (14.0 + 3.0 * resources) + 20.0
        if self.packed.lead >= 0:
            trades += steps * (15.0 + 2.0 * resources) + 40.0
        return moves + min(n, _TRADERS) * trades

    def work(self, number: int, budget: float, stages: int) -> float:
        """Work of a round: short ones first, so that there is an answer early; then longer ones."""
        if self.packed is None:
            return max(20.0 * self.core.n, min(budget / 4, 40.0 * self.core.n * (1 + number)))
        base = 200.0 * self.sweep(stages)
        return min(max(base, budget / 12), base * 2.0 ** min(number, 40))

    def job(self, labels: list[NDArray[np.int64]], number: int, worker: int, work: float) -> Job:
        """What a worker does in a round, given the best partitions so far (best first)."""
        seed = derive_seed(self.seed, "heuristic", number, worker)
        rng = generator(seed, "elite")
        kinds = _KINDS_LARGE if self.core.n > _LARGE else _KINDS
        kind = kinds[(number + worker) % len(kinds)]
        if self.ladder is None or (number in _WIDE and worker == 0):
            kind = "wide"
        start = labels[int(rng.integers(min(_ELITE, len(labels))))] if kind == "warm" else self.start
        parts = _PARTS[number // len(kinds) % len(_PARTS)] if kind == "fresh" else 1
        return Job(start, kind, work, seed, parts, number // len(kinds) + worker)

    def run(self, job: Job, deadline: float) -> tuple[NDArray[np.int64], int, NDArray[np.float64] | None]:
        """Labels of the original items, their scaled value, and the record of a wide leg."""
        if self.packed is None:
            from ._heatbath import heat_bath

            rng = generator(job.seed, "heat bath")
            sweeps = max(10, int(job.work) // self.core.n)
            found, value = heat_bath(self.core, job.start, 3.0 * self.unit, 0.1 * self.unit, sweeps, rng, deadline)
            return found, value, None
        labels, value, record = job.start, self.core.value(job.start), None
        for part in range(job.parts):
            leg = self._leg(job.kind, job.work / job.parts, job.melt)
            found, record, _ = run_kernel(self.packed, job.start, leg, derive_seed(job.seed, part), self.stop)
            reached = self.core.value(found)
            if reached > value or part == 0:
                labels, value = found, reached
            if self.stop[0]:
                break
        return labels, value, record if job.kind == "wide" else None

    def _leg(self, kind: str, work: float, melt: int = 0) -> Leg:
        assert self.packed is not None
        if kind == "wide" or self.ladder is None:
            return Leg(self.packed.unit * max(8.0, 0.5 * np.sqrt(self.core.n)), self.packed.unit / 50.0, work)
        hot, melts, cold = self.ladder
        return Leg(hot if kind == "fresh" else max(melts[melt % len(melts)], 1.2 * cold), cold, work)

    def learn(self, record: NDArray[np.float64]) -> None:
        """Read the temperatures off a wide leg: where structure begins to form, is there in part, is there."""
        if self.packed is None:
            return
        wide = self._leg("wide", 1.0)
        seen = np.flatnonzero(record[:, 0] > 0)
        if not len(seen):
            return
        energy = record[seen, 2] / record[seen, 0]
        rise = (energy - energy[0]) / max(1e-9, float(energy.max() - energy[0]))
        heat = wide.hot * (wide.cold / wide.hot) ** ((seen + 0.5) / len(record))
        # The last temperature at which less than each share of the way from disorder to the end is covered.
        melts = _MELTS_BLOCKED if self.packed.trades or self.core.n > _LARGE else _MELTS
        hot, *middle, cold = (float(heat[np.flatnonzero(rise < share)[-1]]) for share in (_HOT, *melts, _COLD))
        self.ladder = (hot, tuple(min(one, hot) for one in middle), min(cold, 0.7 * hot))

    def finish(self, labels: NDArray[np.int64], value: int) -> tuple[NDArray[np.int64], int]:
        """A last descent in the exact gains where the packed ones are rounded."""
        if self.packed is None or self.packed.exact:
            return labels, value
        return polish(self.core, labels)
