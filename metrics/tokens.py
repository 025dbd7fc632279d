"""Token measures of all pairs at equal budgets: floors, corrected values, bootstrap draws.

A *halving* shuffles the documents of every domain, deals them into two halves and thins each half to H tokens. What a
domain reads against itself at H tokens is f_i(H) = JS(first half, second half). Two domains are compared at N = 2H
tokens, on all that the smaller one has: halving it would double the bias that has to be corrected, which blurs ranks.

    cross_ij = JS(N tokens of i, N tokens of j),    f_ij = ½ (f_i(N) + f_j(N))
    js_ij = (cross_ij − f_ij) / (1 − f_ij)

A domain with 2N tokens gives f(N) directly. One with less gives f(H) and f(N/4), and the step from H to N is taken
from the step before it: f(2x)/f(x) falls from one doubling to the next by a factor that hardly differs between domains;
it is learned from the domains that are large enough, with .945 to begin with (`benchmarks/bench_metrics_quality.py
--floors`).

The step is an estimate, so a pair that is nearly alike would read its error as a difference. Such pairs take the value
of the halves instead, js(H), which needs no step and is 0 in expectation for one source: js = js(N) + w (js(H) −
js(N)), w = exp(−(js(H)/.05)²), on the lowest rung.

Two more steps keep a small domain from blurring the others. cross and f are *means over several halvings*: a large
domain gives other documents to each, and the noise of thinning averages out. And budgets form a *ladder*, N, 2N, 4N,
...: a pair is compared on the highest rung that both reach. The correction shrinks distances a little more on low
rungs, so pairs that stop at one are lifted to the next by the power that maps the other pairs' values there (0 stays 0,
1 stays 1). Overlaps and the plug-in value depend on the sample size; they compare halves of H tokens of the lowest
rung, so that a domain can be set against itself.

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
from .halving import Halving, Stack, View, halve, lengths_of, steps

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .sampling import DomainSample

__all__ = ["TokenTable", "affordable", "self_noise", "token_table"]

_RESPLITS = 8
# One pair and column of the blocked loop, in seconds: decides how many replicates a large k can afford.
_CELL_SECONDS = 1.7e-9
_BOOTSTRAP_SECONDS = 240.0
_FEWEST = 20
_RESAMPLED = 4
_FEW_DOMAINS, _MANY_DOMAINS = 24, 60
# Values nearer to 0 or 1 than this say nothing about the power between rungs.
_CLEAR = 0.01


# Scale, in bits, under which a pair counts as nearly alike.
_NEAR = 0.05


@dataclass(frozen=True)
class TokenTable:
    """Matrices (k, k) of the token measures, and their recentred draws (B, k, k).

    `rung` holds the tokens of each domain on which a pair's js was measured; `floor` what js reads for one source, with
    its noise.
    """

    js: NDArray[np.float64]
    js_plugin: NDArray[np.float64]
    jaccard: NDArray[np.float64]
    ruzicka: NDArray[np.float64]
    floor: NDArray[np.float64]
    rung: NDArray[np.int64]
    draws: dict[str, NDArray[np.float32]]


def _symmetric(table: NDArray[np.float64]) -> NDArray[np.float64]:
    return (table + table.T) / 2


def _tables(first: Any, second: Any) -> NDArray[np.float64]:
    """Cross values of JS, Jaccard and Ruzicka, (3, k, k); the diagonals hold each domain's own halves."""
    table = pair_table(first, second)
    return np.stack([_symmetric(table.js), _symmetric(table.jaccard), _symmetric(table.ruzicka)])


def _corrected(cross: NDArray[np.float64], own: NDArray[np.float64]) -> NDArray[np.float64]:
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
    lengths = lengths_of(rows)
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


def _overlaps(samples: Sequence[DomainSample], budget: int, seed: int, number: int) -> tuple[Stack, Stack]:
    """Both halves, of half the budget, of every domain: what overlaps and the plug-in value compare."""
    halves = [halve(sample, budget // 2, seed, number) for sample in samples]
    return Stack([half.first for half in halves]), Stack([half.second for half in halves])


def _narrow(draws: NDArray[np.float64], halvings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draws (B, k, k) around 0 whose spread is that of the mean over halvings, not of one.

    One halving varies with variance V over data sets and with W over halvings of one data set; the mean over R of them
    with V − W (1 − 1/R). W/V is pooled over the cells of a domain, since W comes from few halvings.
    """
    r, k = len(halvings), halvings.shape[1]
    if r < 2 or k < 2 or len(draws) < 2:
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

    `halvings` is the number averaged over; default 16, and 8 or 4 for many domains.
    """
    k = len(samples)
    count = halvings or (16 if k <= _FEW_DOMAINS else 8 if k <= _MANY_DOMAINS else 4)
    value = {name: np.zeros((k, k)) for name in ("js", "js_plugin", "jaccard", "ruzicka")}
    draws = {name: np.zeros((bootstrap, k, k), np.float32) for name in value}
    noise = np.zeros((k, k))
    rung = np.zeros((k, k), np.int64)
    groups = np.arange(bootstrap) % min(_RESAMPLED, count)
    total = (len(ladder) + 1) * (count + bootstrap)
    with progress.task("resampling documents (tokens)", total=total, unit="draws") as task:

        def rngs(names: Sequence[str], budget: int) -> list[np.random.Generator]:
            return [generator(seed, "bootstrap tokens", name, budget) for name in names]

        # Overlaps and the plug-in value: halves of the lowest rung.
        budget = ladder[0][0]
        streams = rngs([sample.name for sample in samples], budget // 2)
        tables = np.zeros((count, 3, k, k))
        drawn = np.zeros((bootstrap, 3, k, k), np.float32)
        for number in range(count):
            first, second = _overlaps(samples, budget, seed, number)
            tables[number] = _tables(first.sums(), second.sums())
            task.advance()
            for draw in np.flatnonzero(groups == number).tolist():
                weights = [_multinomials(stack, streams) for stack in (first, second)]
                drawn[draw] = _tables(first.sums(weights[0]), second.sums(weights[1]))
                task.advance()
        for column, name in enumerate(("js_plugin", "jaccard", "ruzicka")):
            value[name] = tables[:, column].mean(axis=0)
            draws[name][:] = value[name] + _narrow(_around(drawn[:, column], groups), tables[:, column])
        near = _corrected(value["js_plugin"], np.diagonal(value["js_plugin"]))
        singles = np.stack([_corrected(table, np.diagonal(table)) for table in tables[:, 0]])
        halved = np.array([_corrected(table, np.diagonal(table)) for table in drawn[:, 0]]).reshape(bootstrap, k, k)
        near_spread = _narrow(_around(halved, groups), singles)
        del tables, drawn, halved

        for level, (budget, members) in enumerate(ladder):
            reach = np.array(members, np.int64)
            held = [samples[index] for index in reach]
            streams = rngs([sample.name for sample in held], budget)
            cross = np.zeros((count, len(reach), len(reach)))
            floors = np.zeros((count, len(reach)))
            drawn_cross = np.zeros((bootstrap, len(reach), len(reach)), np.float32)
            drawn_floors = np.zeros((bootstrap, len(reach)))
            wide = np.zeros(len(reach), bool)
            own_noise = np.zeros(len(reach))
            for number in range(count):
                view = View(held, budget, seed, number)
                wide = view.wide
                if number == 0:
                    own_noise[:] = [
                        self_noise(half, seed, sample.name) for half, sample in zip(view.halves, held, strict=True)
                    ]
                cross[number], floors[number] = view.cells()
                task.advance()
                for draw in np.flatnonzero(groups == number).tolist():
                    drawn_cross[draw], drawn_floors[draw] = view.cells(view.draw(streams))
                    task.advance()
            lift = steps(held, budget, wide, floors.mean(axis=0), seed, count)
            found = _corrected(cross.mean(axis=0), floors.mean(axis=0) * lift)
            cells = np.ix_(reach, reach)
            singles = np.stack([_corrected(c, f * lift) for c, f in zip(cross, floors, strict=True)])
            for draw in range(bootstrap):
                drawn_cross[draw] = _corrected(drawn_cross[draw].astype(np.float64), drawn_floors[draw] * lift)
            spread = _narrow(_around(drawn_cross, groups), singles)
            if level == 0:
                weight = np.exp(-((near / _NEAR) ** 2))
                found = found + weight * (near - found)
                spread = _widened(spread, near_spread, weight)
            else:
                # All pairs measured so far stopped at a lower rung, but for those measured anew here.
                power = _lift(value["js"][cells], found)
                value["js"] = _raise(value["js"], power)
                draws["js"] = _raise(draws["js"], power).astype(np.float32)
            value["js"][cells] = found
            noise[cells] = np.sqrt((own_noise[:, None] ** 2 + own_noise[None, :] ** 2) / 2)
            rung[cells] = budget
            draws["js"][np.ix_(np.arange(bootstrap), reach, reach)] = spread + found
    return TokenTable(value["js"], value["js_plugin"], value["jaccard"], value["ruzicka"], 1.96 * noise, rung, draws)


def _widened(
    spread: NDArray[np.float64], other: NDArray[np.float64], weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`spread`, cell by cell as wide as the weighted mean of both; which documents were drawn stays the same."""
    if len(spread) < 2:
        return spread
    own, theirs = spread.std(axis=0), other.std(axis=0)
    wanted = own + weight * (theirs - own)
    return np.asarray(spread * np.divide(wanted, own, out=np.ones_like(own), where=own > 0))


def _multinomials(stack: Stack, rngs: Sequence[np.random.Generator]) -> list[NDArray[np.int64]]:
    """Multinomial weights of every document of a stack, drawn within each domain."""
    sizes = np.bincount(stack.owner, minlength=stack.count)
    return [rng.multinomial(n, np.full(n, 1.0 / n)).astype(np.int64) for rng, n in zip(rngs, sizes, strict=True)]


def _around(drawn: NDArray[Any], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Draws (B, k, k) of each halving around their own mean; few draws share a mean, hence the small factor."""
    out = np.array(drawn, np.float64)
    for group in np.unique(groups):
        part = out[groups == group]
        out[groups == group] = (part - part.mean(axis=0)) * np.sqrt(len(part) / max(len(part) - 1, 1))
    return out
