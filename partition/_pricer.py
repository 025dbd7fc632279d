"""The pricing kernels with their scratch space: exact search, enumeration and local search over stages."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ._climb import improve
from ._clock import Clock, forever, gather
from ._jit import compiled
from ._price import price
from ._shares import balance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Core

__all__ = ["Priced", "Pricer"]

_WORD = 62


@dataclass(frozen=True)
class Priced:
    """Stages found, best last, and what the search proved.

    `members` is a bool array of shape (found, n); `bound` holds for the worth of *any* stage when `complete`, and
    still does otherwise, only more loosely.
    """

    members: NDArray[np.bool_]
    values: NDArray[np.float64]
    complete: bool
    bound: float
    nodes: int


class Pricer:
    """Prices stages of one core, with `workers` threads; not for use from several threads at once."""

    def __init__(self, core: Core, clock: Clock | None = None, stored: int = 4000, workers: int = 1) -> None:
        n = core.n
        self.core = core
        self.clock = clock or forever()
        self.n = n
        self.gain = core.gain.astype(np.float64)
        self.sizes = np.ascontiguousarray(core.sizes)
        self.upper = np.ascontiguousarray(core.upper[:, 0])
        self.lower = np.ascontiguousarray(core.lower[:, 0])
        total = self.sizes.sum(axis=1) if len(self.sizes) else np.zeros(0)
        binding = total / np.maximum(1, self.upper) if len(self.sizes) else np.zeros(0)
        self.main = int(binding.argmax()) if len(binding) and binding.max() > 1.0 else -1
        conflict = core.conflict.copy()
        for r in range(len(self.sizes)):
            over = self.sizes[r][:, None] + self.sizes[r][None, :] > self.upper[r]
            np.fill_diagonal(over, False)
            conflict |= over
        self.conflict = conflict.astype(np.uint8)
        self.apart = conflict
        self.share = self.gain / 2.0
        self.stored = stored
        self.workers = max(1, workers)
        self.stop = np.zeros(1, dtype=np.int64)
        self.set_cuts(np.zeros((0, 3), dtype=np.int32))

    def set_cuts(self, cuts: NDArray[np.int32]) -> None:
        """Triples of items of which a stage that holds two or more pays a price (subset-row cuts)."""
        n = self.n
        self.cuts = np.ascontiguousarray(cuts, dtype=np.int32)
        # Scratch rows beyond the items (density, shifts, marks) need at least this much room.
        width = max(n, len(cuts), 6) + 2
        self.scratch = [
            (np.zeros((4, width, width), dtype=np.int64), np.zeros((4, width, width))) for _ in range(self.workers)
        ]
        lists: list[list[int]] = [[] for _ in range(n)]
        for c, triple in enumerate(self.cuts):
            for i in triple:
                lists[int(i)].append(c)
        longest = max(1, *(len(one) for one in lists), 1)
        self.cuts_of = np.full((n, longest), -1, dtype=np.int32)
        for i, one in enumerate(lists):
            self.cuts_of[i, : len(one)] = one

    def pays(self, members: NDArray[np.bool_]) -> NDArray[np.float64]:
        """1 where a stage holds two or more of a cut's items: shape (stages, cuts)."""
        if not len(self.cuts):
            return np.zeros((len(members), 0))
        counted: NDArray[np.float64] = (members[:, self.cuts].sum(axis=2) >= 2).astype(np.float64)
        return counted

    def _prices(self, prices: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """One price a cut; those not priced yet cost nothing."""
        padded = np.zeros(len(self.cuts))
        if prices is not None:
            padded[: len(prices)] = prices
        return padded

    def _partners(self) -> NDArray[np.int32]:
        """For each item its compatible partners of positive share, by share per size of the main resource; −1 ends."""
        n = self.n
        size = self.sizes[self.main].astype(np.float64) if self.main >= 0 else np.ones(n)
        useful = (self.share > 0) & ~self.apart
        density = np.where(useful, self.share / np.maximum(size, 1e-9)[None, :], -np.inf)
        order = np.argsort(-density, axis=1, kind="stable").astype(np.int32)
        ranked = np.take_along_axis(useful, order.astype(np.int64), axis=1)
        out: NDArray[np.int32] = np.where(ranked, order, np.int32(-1)).astype(np.int32)
        return np.ascontiguousarray(out)

    def _charged(self, prices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Gains less a third of the price of every cut that holds the pair: what the bound may share out."""
        gain = self.gain.copy()
        third = np.floor(prices / 3.0)
        for a, b in ((0, 1), (0, 2), (1, 2)):
            np.subtract.at(gain, (self.cuts[:, a], self.cuts[:, b]), third)
            np.subtract.at(gain, (self.cuts[:, b], self.cuts[:, a]), third)
        return gain

    def _reshare(self, gain: NDArray[np.float64]) -> None:
        """Make the shares of every pair add up to its gain again, from the shares of the last call."""
        miss = gain - self.share - self.share.T
        if miss.any():
            self.share = self.share + np.triu(np.floor(miss / 2.0), 1)
            lower = np.tril_indices(self.n, -1)
            self.share[lower] = (gain - self.share.T)[lower]
            np.fill_diagonal(self.share, 0.0)

    def balance(
        self,
        dual: NDArray[np.float64],
        constant: float,
        rounds: int = 60,
        prices: NDArray[np.float64] | None = None,
    ) -> float:
        """Share pairs out anew for these duals; the root bound reached. From the shares of the last call."""
        whole = self._charged(self._prices(prices))
        self._reshare(whole)
        size = self.sizes[self.main].astype(np.float64) if self.main >= 0 else np.zeros(self.n)
        room = float(self.upper[self.main]) if self.main >= 0 else 1.0
        gain = np.where(self.apart, np.minimum(whole, 0.0), whole)
        share = self.share
        bound = compiled(balance)(
            gain,
            share,
            np.asarray(dual, dtype=np.float64),
            float(constant),
            size,
            room,
            0.0,
            rounds,
            self.scratch[0][1],
        )
        self.share = np.where(self.apart, whole / 2.0, share)
        return float(bound)

    def exact(
        self,
        dual: NDArray[np.float64],
        constant: float,
        *,
        threshold: float = 1.0,
        climb: bool = True,
        nodes: int = 2_000_000,
        prices: NDArray[np.float64] | None = None,
        stored: int | None = None,
    ) -> Priced:
        """Every stage worth `threshold` or more (ever better ones only, with `climb`)."""
        prices = self._prices(prices)
        self._reshare(self._charged(prices))
        words = (self.n + _WORD - 1) // _WORD
        most = stored or self.stored
        parts = self.workers
        limit = -(-min(nodes, self.clock.node_limit()) // parts)
        partners = self._partners()

        def search(part: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
            found, values, result = np.zeros((most, words), dtype=np.int64), np.zeros(most), np.zeros(4)
            count = compiled(price)(
                self.gain,
                self.share,
                partners,
                np.asarray(dual, dtype=np.float64),
                float(constant),
                self.sizes,
                self.upper,
                self.lower,
                self.main,
                self.conflict,
                self.cuts,
                self.cuts_of,
                prices,
                float(threshold),
                climb,
                part,
                parts,
                limit,
                self.stop,
                found,
                values,
                *self.scratch[part],
                result,
            )
            return found[:count], values[:count], result

        with self.clock.alarm(self.stop), ThreadPoolExecutor(max_workers=parts) as threads:
            done = gather([threads.submit(search, part) for part in range(parts)], lambda: self.stop.fill(1))
        results = np.array([result for _, _, result in done])
        self.clock.nodes(float(results[:, 0].sum()))
        found = np.concatenate([masks for masks, _, _ in done])
        values = np.concatenate([worths for _, worths, _ in done])
        order = np.argsort(values, kind="stable")
        items = np.arange(self.n)
        members = (found[order][:, items // _WORD] >> (items % _WORD)) & 1 > 0
        complete = bool(results[:, 1].all()) and (climb or len(found) <= most)
        return Priced(members, values[order], complete, float(results[:, 2].max()), int(results[:, 0].sum()))

    def local(
        self,
        dual: NDArray[np.float64],
        constant: float,
        starts: NDArray[np.bool_],
        prices: NDArray[np.float64] | None = None,
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Distinct local optima of positive worth climbed to from `starts`, best first."""
        sets = np.ascontiguousarray(starts.astype(np.uint8))
        values = np.zeros(len(sets))
        compiled(improve)(
            self.gain,
            np.asarray(dual, dtype=np.float64),
            float(constant),
            self.sizes,
            self.upper,
            self.lower,
            self.conflict,
            self.cuts,
            self.cuts_of,
            self._prices(prices),
            sets,
            values,
            *self.scratch[0],
        )
        good = values > 0.5
        members, values = sets[good].astype(np.bool_), values[good]
        _, first = np.unique(members, axis=0, return_index=True)
        order = first[np.argsort(-values[first], kind="stable")]
        return members[order], values[order]
