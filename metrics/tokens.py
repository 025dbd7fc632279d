"""Token measures of all pairs at equal budgets: split halves, floors, corrected values, bootstrap draws.

A *halving* shuffles the documents of every domain, deals them into two halves and thins each half to the same number of
tokens H. One half of a domain is set against the other half of every domain, its own included, so all cells are of
equal sample size:

    cross_ij = ½ (JS(i₁, j₂) + JS(j₁, i₂)),    f_i = JS(i₁, i₂),    f_ij = ½ (f_i + f_j)
    js_ij = (cross_ij − f_ij) / (1 − f_ij)

Two steps keep a small domain from blurring the others. cross and f are *means over several halvings*: a large domain
gives other documents to each, and the noise of thinning averages out. And budgets form a *ladder*, H, 2H, 4H, ...: a
pair is compared on the highest rung that both reach. The correction shrinks distances a little more on low rungs, so
pairs that stop at one are lifted to the next by the power that maps the other pairs' values there (0 stays 0, 1 stays
1). `benchmarks/bench_metrics_quality.py` shows what this gains under tenfold imbalance. Overlaps and the plug-in value
depend on the sample size, so all of their cells stay on the lowest rung.

Bootstrap: documents are drawn anew within each half. A draw has fewer distinct documents than the half, which raises
cross and floor alike, so draws are recentred, and their spread, which is that of one halving, is narrowed by as much as
the mean over halvings varies less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._progress import SILENT, Progress
from .._seeding import generator
from .divergence import correct, pair_table

if TYPE_CHECKING:
    import scipy.sparse as sp
    from numpy.typing import NDArray

    from .sampling import DomainSample

__all__ = ["Halving", "TokenTable", "affordable", "halve", "room", "rungs", "self_noise", "token_table"]

_RESPLITS = 8
# One pair and column of the blocked loop, in seconds: decides how many replicates a large k can afford.
_CELL_SECONDS = 1.7e-9
_BOOTSTRAP_SECONDS = 240.0
_FEWEST = 20
_RESAMPLED = 4
_MANY_DOMAINS = 60
# Values nearer to 0 or 1 than this say nothing about the power between rungs.
_CLEAR = 0.01


@dataclass(frozen=True)
class Halving:
    """Documents of both halves of one domain, thinned to the budget: two sparse (n, V) of equal sums."""

    first: sp.csr_array
    second: sp.csr_array


@dataclass(frozen=True)
class TokenTable:
    """Matrices (k, k) of the token measures, and their recentred draws (B, k, k).

    `rung` holds the tokens per half on which each pair's js was measured; `floor` what js reads for one source, with
    its noise.
    """

    js: NDArray[np.float64]
    js_plugin: NDArray[np.float64]
    jaccard: NDArray[np.float64]
    ruzicka: NDArray[np.float64]
    floor: NDArray[np.float64]
    rung: NDArray[np.int64]
    draws: dict[str, NDArray[np.float32]]


def _lengths(rows: sp.csr_array) -> NDArray[np.int64]:
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

    ends = np.cumsum(_lengths(rows))
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
    lengths = _lengths(sample.rows)
    total, longest = int(lengths.sum()), int(lengths.max(initial=0))
    # Dealing each document to the lighter half leaves them at most one document apart.
    return max((total - longest) // 2, min(int(np.sort(lengths)[-2:].min(initial=1)), total // 2), 1)


def halve(sample: DomainSample, budget: int, seed: int, number: int) -> Halving:
    """Halving `number` of one domain; each half has min(budget, what is there) tokens."""
    import scipy.sparse as sp

    rng = generator(seed, "halving", sample.name, budget, number)
    lengths = _lengths(sample.rows)
    order = rng.permutation(np.flatnonzero(lengths))
    # No more documents than two full halves need, and one to spare for the last of each.
    enough = int(np.searchsorted(np.cumsum(lengths[order]), 2 * budget + 2 * int(lengths.max()))) + 2
    order = order[:enough]
    first, second = _deal(lengths[order])
    sides = [sp.csr_array(sample.rows[order[side]]) for side in (first, second)]
    return Halving(_thin(sides[0], budget, rng), _thin(sides[1], budget, rng))


def rungs(samples: Sequence[DomainSample], tokens: int | None) -> tuple[list[tuple[int, list[int]]], list[str]]:
    """(budget per half, domains that reach it) from the lowest rung up, and the names of domains short of `tokens`.

    With `tokens` given there is one rung; else the lowest is what the smallest domain gives and each next one is twice
    as high, as long as two domains reach it.
    """
    rooms = [room(sample) for sample in samples]
    if tokens is not None:
        budget = max(1, tokens // 2)
        short = [sample.name for sample, have in zip(samples, rooms, strict=True) if have < budget]
        return [(budget, list(range(len(samples))))], short
    out: list[tuple[int, list[int]]] = []
    budget = min(rooms)
    while True:
        reach = [index for index, have in enumerate(rooms) if have >= budget]
        if out and len(reach) < 2:
            return out, []
        out.append((budget, reach))
        budget *= 2


def _symmetric(table: NDArray[np.float64]) -> NDArray[np.float64]:
    return (table + table.T) / 2


def _tables(first: Any, second: Any) -> NDArray[np.float64]:
    """Cross values of JS, Jaccard and Ruzicka, (3, k, k); the diagonals hold each domain's own halves."""
    table = pair_table(first, second)
    return np.stack([_symmetric(table.js), _symmetric(table.jaccard), _symmetric(table.ruzicka)])


def _corrected(cross: NDArray[np.float64]) -> NDArray[np.float64]:
    own = np.diagonal(cross)
    js = np.asarray(correct(cross, (own[:, None] + own[None, :]) / 2))
    np.fill_diagonal(js, 0.0)
    return js


def self_noise(halving: Halving, seed: int, name: str) -> float:
    """Root mean square of a domain's corrected JS against itself, from random re-splits into quarters; bits.

    Quarters hold half as many tokens as the halves of the estimate, so this errs on the side of more noise.
    """
    import scipy.sparse as sp

    rows = sp.csr_array(sp.vstack([halving.first, halving.second]))
    n = rows.shape[0]
    if n < 4:
        return 1.0
    rng = generator(seed, "self", name)
    lengths = _lengths(rows)
    values = []
    for _ in range(_RESPLITS):
        groups = np.zeros((4, n))
        held = np.zeros(4)
        for document in rng.permutation(n).tolist():
            # Deal the documents out so that the four quarters hold nearly equal numbers of tokens.
            quarter = int(np.argmin(held))
            held[quarter] += lengths[document]
            groups[quarter, document] = 1
        if (held == 0).any():
            continue
        js = pair_table(sp.csr_array(groups) @ rows).js
        cross = (js[0, 1] + js[0, 3] + js[2, 1] + js[2, 3]) / 4
        values.append(correct(cross, (js[0, 2] + js[1, 3]) / 2))
    return float(np.sqrt(np.mean(np.square(values)))) if values else 1.0


def affordable(asked: int, pairs: int, columns: int) -> int:
    """Bootstrap replicates for `pairs` over `columns` shared tokens, within a few CPU-minutes but at least 20."""
    if asked <= _FEWEST:
        return asked
    seconds = pairs * columns * _CELL_SECONDS
    return int(np.clip(_BOOTSTRAP_SECONDS / max(seconds, 1e-9), _FEWEST, asked))


class _Stack:
    """The halves of several domains under each other, and weighted sums of documents per domain."""

    def __init__(self, halvings: Sequence[Halving]) -> None:
        import scipy.sparse as sp

        self.count = len(halvings)
        sides = [[h.first for h in halvings], [h.second for h in halvings]]
        self.sizes = [[rows.shape[0] for rows in side] for side in sides]
        self.rows = [sp.csr_array(sp.vstack(side)) for side in sides]
        self.owners = [np.repeat(np.arange(self.count), sizes) for sizes in self.sizes]

    def sums(self, weights: Sequence[NDArray[np.int64]] | None = None) -> list[Any]:
        """Counts (k, V) of both sides, documents weighted."""
        import scipy.sparse as sp

        out: list[Any] = []
        for side in (0, 1):
            owner = self.owners[side]
            weight = np.ones(len(owner), np.int64) if weights is None else weights[side]
            used = np.flatnonzero(weight)
            shape = (self.count, len(owner))
            out.append(sp.csr_array((weight[used], (owner[used], used)), shape=shape) @ self.rows[side])
        return out


def _draw(stack: _Stack, rngs: Sequence[np.random.Generator]) -> list[NDArray[np.int64]]:
    """Multinomial weights of every document, drawn within each half of each domain."""
    return [
        np.concatenate([rng.multinomial(n, np.full(n, 1.0 / n)) for rng, n in zip(rngs, sizes, strict=True)])
        for sizes in stack.sizes
    ]


def _narrow(draws: NDArray[np.float64], halvings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draws (B, k, k) around 0 whose spread is that of the mean over halvings, not of one.

    One halving varies with variance V over data sets and with W over halvings of one data set; the mean over R of them
    with V − W (1 − 1/R). W/V is pooled over the cells of a domain, since W comes from few halvings.
    """
    r, k = len(halvings), halvings.shape[1]
    if r < 2 or k < 2:
        return draws
    single = draws.var(axis=0)
    between = halvings.var(axis=0, ddof=1)
    off = ~np.eye(k, dtype=bool)
    ratio = np.zeros((k, k))
    ratio[off] = between[off] / np.where(single[off] > 0, single[off], np.inf)
    mean = ratio.sum(axis=1) / (k - 1)
    pooled = np.clip((mean[:, None] + mean[None, :]) / 2, 0.0, 1.0)
    return np.asarray(draws * np.sqrt(np.maximum(1.0 - pooled * (1.0 - 1.0 / r), 1.0 / r)))


def _lift(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    """Power that maps the same pairs' values on one rung to the next: the median of log high / log low; 1 for few."""
    upper = np.triu_indices(len(low), 1)
    x, y = low[upper], high[upper]
    clear = (x > _CLEAR) & (y > _CLEAR) & (x < 1 - _CLEAR) & (y < 1 - _CLEAR)
    if clear.sum() < 3:
        return 1.0
    return float(np.clip(np.median(np.log(y[clear]) / np.log(x[clear])), 0.7, 1.3))


def _raise(values: NDArray[Any], power: float) -> NDArray[Any]:
    return np.asarray(np.sign(values) * np.abs(values) ** power)


def token_table(
    samples: Sequence[DomainSample],
    ladder: Sequence[tuple[int, Sequence[int]]],
    *,
    bootstrap: int,
    seed: int,
    halvings: int | None = None,
    progress: Progress = SILENT,
) -> TokenTable:
    """All token measures of k domains on the rungs of `ladder`, with `bootstrap` draws over documents.

    `halvings` is the number averaged over; default 8, or 4 for many domains.
    """
    k = len(samples)
    count = halvings or (8 if k <= _MANY_DOMAINS else 4)
    value = {name: np.zeros((k, k)) for name in ("js", "js_plugin", "jaccard", "ruzicka")}
    draws = {name: np.zeros((bootstrap, k, k), np.float32) for name in value}
    noise = np.zeros((k, k))
    rung = np.zeros((k, k), np.int64)
    groups = np.arange(bootstrap) % min(_RESAMPLED, count)
    with progress.task("resampling documents (tokens)", total=len(ladder) * (count + bootstrap), unit="draws") as task:
        for level, (budget, members) in enumerate(ladder):
            reach = np.array(members, np.int64)
            names = [samples[index].name for index in reach]
            rngs = [generator(seed, "bootstrap tokens", name, budget) for name in names]
            tables = np.zeros((count, 3, len(reach), len(reach)))
            drawn = np.zeros((bootstrap, 3, len(reach), len(reach)))
            own_noise = np.zeros(len(reach))
            for number in range(count):
                parts = [halve(samples[index], budget, seed, number) for index in reach]
                if number == 0:
                    own_noise[:] = [self_noise(part, seed, name) for part, name in zip(parts, names, strict=True)]
                stack = _Stack(parts)
                tables[number] = _tables(*stack.sums())
                task.advance()
                for draw in np.flatnonzero(groups == number):
                    drawn[draw] = _tables(*stack.sums(_draw(stack, rngs)))
                    task.advance()
            mean = tables.mean(axis=0)
            singles = np.concatenate([tables, np.stack([_corrected(t[0]) for t in tables])[:, None]], axis=1)
            resampled = np.zeros((0, 4, len(reach), len(reach)))
            if bootstrap:
                resampled = np.concatenate([drawn, np.stack([_corrected(t[0]) for t in drawn])[:, None]], axis=1)
                for group in np.unique(groups):
                    # Each halving's draws around their own mean; few draws share a mean, hence the small factor.
                    part = resampled[groups == group]
                    size = len(part)
                    resampled[groups == group] = (part - part.mean(axis=0)) * np.sqrt(size / max(size - 1, 1))
            cells = np.ix_(reach, reach)
            found = _corrected(mean[0])
            if level:
                # All pairs measured so far stopped at a lower rung, but for those measured anew here.
                power = _lift(value["js"][cells], found)
                value["js"] = _raise(value["js"], power)
                draws["js"] = _raise(draws["js"], power).astype(np.float32)
            value["js"][cells] = found
            noise[cells] = np.sqrt((own_noise[:, None] ** 2 + own_noise[None, :] ** 2) / 2)
            rung[cells] = budget
            targets = {"js": 3} if level else {"js": 3, "js_plugin": 0, "jaccard": 1, "ruzicka": 2}
            for name, column in targets.items():
                if name != "js":
                    value[name][cells] = mean[column]
                if bootstrap:
                    spread = _narrow(resampled[:, column], singles[:, column])
                    draws[name][np.ix_(np.arange(bootstrap), reach, reach)] = spread + value[name][cells]
    return TokenTable(value["js"], value["js_plugin"], value["jaccard"], value["ruzicka"], 1.96 * noise, rung, draws)
