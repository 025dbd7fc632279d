"""Halve domains by document at equal token budgets, and tell their floors: the ground under :mod:`.tokens`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._seeding import generator
from .divergence import js_of, pair_table

if TYPE_CHECKING:
    import scipy.sparse as sp
    from numpy.typing import NDArray

    from .sampling import DomainSample

__all__ = ["Halving", "Stack", "View", "halve", "lengths_of", "own_js", "room", "rungs", "steps"]

# How f(2x)/f(x) falls with the next doubling of x, before the data at hand are asked, and how many domains that weighs.
_FALL = 0.945
_PRIOR = 8
# Floors smaller than this say nothing about the step between budgets.
_CLEAR = 0.01


@dataclass(frozen=True)
class Halving:
    """Documents of both halves of one domain, thinned to the budget: two sparse (n, V) of equal sums."""

    first: sp.csr_array
    second: sp.csr_array

    def whole(self) -> sp.csr_array:
        """Both halves under each other."""
        import scipy.sparse as sp

        return sp.csr_array(sp.vstack([self.first, self.second]))


def lengths_of(rows: sp.csr_array) -> NDArray[np.int64]:
    """Tokens of each document, (n,)."""
    return np.asarray(rows.sum(axis=1), dtype=np.int64).ravel()


def _deal(lengths: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """Documents, in their order, each to the half that has fewer tokens so far."""
    sides: tuple[list[int], list[int]] = ([], [])
    held = [0, 0]
    for index, length in enumerate(lengths.tolist()):
        side = 0 if held[0] <= held[1] else 1
        sides[side].append(index)
        held[side] += length
    return sides


def _thin(rows: sp.csr_array, budget: int, rng: np.random.Generator) -> sp.csr_array:
    """The first documents up to exactly `budget` tokens; the last one is thinned at random, without replacement."""
    import scipy.sparse as sp

    ends = np.cumsum(lengths_of(rows))
    if ends[-1] <= budget:
        return sp.csr_array(rows)
    last = int(np.searchsorted(ends, budget))
    out = sp.csr_array(rows[: last + 1]).copy()
    spare = budget - (int(ends[last - 1]) if last else 0)
    start, stop = out.indptr[last], out.indptr[last + 1]
    out.data[start:stop] = rng.multivariate_hypergeometric(out.data[start:stop], spare, method="marginals")
    out.eliminate_zeros()
    return out


def room(sample: DomainSample) -> int:
    """Tokens per half that a domain can surely give: what the longest document may unbalance is left out."""
    lengths = lengths_of(sample.rows)
    total, longest = int(lengths.sum()), int(lengths.max(initial=0))
    # Dealing each document to the lighter half leaves them at most one document apart.
    return max((total - longest) // 2, min(int(np.sort(lengths)[-2:].min(initial=1)), total // 2), 1)


def halve(sample: DomainSample, budget: int, seed: int, number: int) -> Halving:
    """Halving `number` of one domain; each half has min(budget, what is there) tokens."""
    import scipy.sparse as sp

    rng = generator(seed, "halving", sample.name, budget, number)
    lengths = lengths_of(sample.rows)
    order = rng.permutation(np.flatnonzero(lengths))
    # No more documents than two full halves need, and one to spare for the last of each.
    enough = int(np.searchsorted(np.cumsum(lengths[order]), 2 * budget + 2 * int(lengths.max()))) + 2
    order = order[:enough]
    first, second = _deal(lengths[order])
    sides = [sp.csr_array(sample.rows[order[side]]) for side in (first, second)]
    return Halving(_thin(sides[0], budget, rng), _thin(sides[1], budget, rng))


def rungs(samples: Sequence[DomainSample], tokens: int | None) -> tuple[list[tuple[int, list[int]]], list[str]]:
    """(tokens compared, domains that reach it) from the lowest rung up, and the names of domains short of `tokens`.

    With `tokens` given there is one rung; else the lowest is what the smallest domain gives and each next one is twice
    as high, as long as two domains reach it. A rung is an even number: it can be halved.
    """
    rooms = [room(sample) for sample in samples]
    if tokens is not None:
        half = max(1, tokens // 2)
        short = [sample.name for sample, have in zip(samples, rooms, strict=True) if have < half]
        return [(2 * half, list(range(len(samples))))], short
    out: list[tuple[int, list[int]]] = []
    half = min(rooms)
    while True:
        reach = [index for index, have in enumerate(rooms) if have >= half]
        if out and len(reach) < 2:
            return out, []
        out.append((2 * half, reach))
        half *= 2


def own_js(first: Any, second: Any) -> NDArray[np.float64]:
    """JS of each row of one sparse table with the same row of the other, (k,)."""
    out = np.zeros(first.shape[0])
    for row in range(len(out)):
        p, q = (table[[row]].toarray().ravel().astype(np.float64) for table in (first, second))
        out[row] = js_of(p / max(p.sum(), 1.0), q / max(q.sum(), 1.0))
    return out


class Stack:
    """Blocks of documents, one a domain, under each other, and weighted sums of documents per domain."""

    def __init__(self, blocks: Sequence[Any]) -> None:
        import scipy.sparse as sp

        self.count = len(blocks)
        self.rows = sp.csr_array(sp.vstack(blocks))
        self.owner = np.repeat(np.arange(self.count), [block.shape[0] for block in blocks])

    def sums(self, weights: Sequence[NDArray[np.int64]] | None = None) -> Any:
        """Counts (k, V); `weights` holds one vector a domain, as long as its block."""
        import scipy.sparse as sp

        weight = np.ones(len(self.owner), np.int64) if weights is None else np.concatenate(weights)
        used = np.flatnonzero(weight)
        shape = (self.count, len(self.owner))
        return sp.csr_array((weight[used], (self.owner[used], used)), shape=shape) @ self.rows


class View:
    """One halving of every domain of a rung: what is compared, and what tells the floors.

    A domain with room for two samples of N tokens shows one to each side; their JS is its floor. Any other shows all of
    its N tokens to both sides (never set against itself), and its floor comes from the halves of these.
    """

    def __init__(self, samples: Sequence[DomainSample], budget: int, seed: int, number: int) -> None:
        self.wide = np.array([room(sample) >= budget for sample in samples])
        self.halves = [
            halve(sample, budget if wide else budget // 2, seed, number)
            for sample, wide in zip(samples, self.wide, strict=True)
        ]
        pairs = list(zip(self.halves, self.wide, strict=True))
        self.left = Stack([half.first if wide else half.whole() for half, wide in pairs])
        self.right = Stack([half.second if wide else half.whole() for half, wide in pairs])
        self.ends = (Stack([half.first for half in self.halves]), Stack([half.second for half in self.halves]))

    def cells(
        self, weights: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Cross values (k, k) at N tokens, and floors (k,): at N tokens of wide domains, at N/2 of the others."""
        if weights is None:
            left, right, first, second = (one.sums() for one in (self.left, self.right, *self.ends))
        else:
            both = [(np.concatenate(pair), np.concatenate(pair)) for pair in weights]
            shown = [pair if wide else union for pair, union, wide in zip(weights, both, self.wide, strict=True)]
            left, right = (one.sums([pair[side] for pair in shown]) for side, one in enumerate((self.left, self.right)))
            first, second = (one.sums([pair[side] for pair in weights]) for side, one in enumerate(self.ends))
        cross = pair_table(left, right).js
        return (cross + cross.T) / 2, own_js(first, second)

    def draw(self, rngs: Sequence[np.random.Generator]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Multinomial weights of every document, drawn within each half of each domain."""
        out = []
        for rng, half in zip(rngs, self.halves, strict=True):
            first, second = (
                rng.multinomial(part.shape[0], np.full(part.shape[0], 1.0 / part.shape[0])).astype(np.int64)
                for part in (half.first, half.second)
            )
            out.append((first, second))
        return out


def steps(
    samples: Sequence[DomainSample],
    budget: int,
    wide: NDArray[np.bool_],
    floors: NDArray[np.float64],
    seed: int,
    count: int,
) -> NDArray[np.float64]:
    """What takes the floors of one rung, (k,), to its budget N: 1 for wide domains, f(N)/f(N/2) of the others.

    `floors` are those of :meth:`View.cells`. The step of each domain from N/4 to N/2 is measured, and multiplied by
    how much the step falls with one doubling: the mean over wide domains, with `_PRIOR` domains of `_FALL` to begin.
    """

    def floor(index: int, tokens: int) -> float:
        parts = [halve(samples[index], max(tokens, 1), seed, number) for number in range(count)]
        sums = [Stack([part.first for part in parts]).sums(), Stack([part.second for part in parts]).sums()]
        return float(own_js(sums[0], sums[1]).mean())

    falls = [_FALL] * _PRIOR
    for index in np.flatnonzero(wide).tolist():
        half, quarter = floor(index, budget // 2), floor(index, budget // 4)
        if min(half, quarter) > _CLEAR:
            falls.append(floors[index] / half / (half / quarter))
    fall = float(np.mean(falls))
    out = np.ones(len(samples))
    for index in np.flatnonzero(~wide).tolist():
        quarter = floor(index, budget // 4)
        step = floors[index] / quarter * fall if min(floors[index], quarter) > _CLEAR else 1.0
        out[index] = np.clip(step, 0.5, 1.0)
    return out
