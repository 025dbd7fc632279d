"""Token measures of all pairs at equal budgets: split halves, floors, corrected values, bootstrap draws.

Every domain gives two halves of its documents, each thinned to the same number of tokens H. One half of a domain is
then set against the other half of every domain, its own included, so all cells are of equal sample size:

    cross_ij = ½ (JS(i₁, j₂) + JS(j₁, i₂)),    f_i = JS(i₁, i₂),    f_ij = ½ (f_i + f_j)
    js_ij = (cross_ij − f_ij) / (1 − f_ij)

Bootstrap: documents are drawn anew within each half. A draw has fewer distinct documents than the half, which raises
cross and floor alike; draws are recentred on the estimate before they are used.
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

__all__ = ["Half", "TokenTable", "affordable", "halves_of", "self_noise", "token_table"]

_RESPLITS = 8
# One pair and column of the blocked loop, in seconds: decides how many replicates a large k can afford.
_CELL_SECONDS = 1.7e-9
_BOOTSTRAP_SECONDS = 240.0
_FEWEST = 20


@dataclass(frozen=True)
class Half:
    """Documents of one half, thinned to the budget: counts (n, V) whose sum is the half's budget."""

    rows: sp.csr_array

    @property
    def counts(self) -> NDArray[np.float64]:
        """Token counts of the half, (V,)."""
        return np.asarray(self.rows.sum(axis=0), dtype=np.float64).ravel()


@dataclass(frozen=True)
class TokenTable:
    """Matrices (k, k) of the token measures; `draws` maps a measure to (B, k, k) draws, not yet recentred."""

    js: NDArray[np.float64]
    js_plugin: NDArray[np.float64]
    jaccard: NDArray[np.float64]
    ruzicka: NDArray[np.float64]
    floor: NDArray[np.float64]
    draws: dict[str, NDArray[np.float32]]


def _split(lengths: NDArray[np.int64]) -> tuple[list[int], list[int]]:
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

    lengths = np.asarray(rows.sum(axis=1)).ravel().astype(np.int64)
    ends = np.cumsum(lengths)
    if ends[-1] <= budget:
        return sp.csr_array(rows)
    last = int(np.searchsorted(ends, budget))
    out = sp.csr_array(rows[: last + 1]).copy()
    spare = budget - (int(ends[last - 1]) if last else 0)
    start, stop = out.indptr[last], out.indptr[last + 1]
    out.data[start:stop] = rng.multivariate_hypergeometric(out.data[start:stop], spare, method="marginals")
    out.eliminate_zeros()
    return out


def halves_of(
    samples: Sequence[DomainSample], tokens: int | None, seed: int
) -> tuple[list[tuple[Half, Half]], int, list[str]]:
    """Two halves a domain of H tokens each; H is half of `tokens`, or what the smallest domain allows.

    Returns the halves, H, and the names of domains that hold less than the budget asked for.
    """
    import scipy.sparse as sp

    sides = []
    for sample in samples:
        lengths = np.asarray(sample.rows.sum(axis=1)).ravel().astype(np.int64)
        used = np.flatnonzero(lengths)
        first, second = _split(lengths[used])
        sides.append((sp.csr_array(sample.rows[used[first]]), sp.csr_array(sample.rows[used[second]])))
    room = [min(int(a.sum()), int(b.sum())) for a, b in sides]
    budget = min(room) if tokens is None else max(1, tokens // 2)
    short = [sample.name for sample, have in zip(samples, room, strict=True) if have < budget]
    out = []
    for sample, pair, have in zip(samples, sides, room, strict=True):
        thinned = [
            Half(_thin(side, min(budget, have), generator(seed, "thin", sample.name, number)))
            for number, side in enumerate(pair)
        ]
        out.append((thinned[0], thinned[1]))
    return out, budget, short


def _symmetric(table: NDArray[np.float64]) -> NDArray[np.float64]:
    return (table + table.T) / 2


def _measures(first: Any, second: Any) -> dict[str, NDArray[np.float64]]:
    table = pair_table(first, second)
    own = np.diagonal(table.js)
    plugin = _symmetric(table.js)
    js = np.asarray(correct(plugin, (own[:, None] + own[None, :]) / 2))
    np.fill_diagonal(js, 0.0)
    return {
        "js": js,
        "js_plugin": plugin,
        "jaccard": _symmetric(table.jaccard),
        "ruzicka": _symmetric(table.ruzicka),
    }


def self_noise(halves: tuple[Half, Half], seed: int, name: str) -> float:
    """Root mean square of a domain's corrected JS against itself, from random re-splits into quarters; bits.

    Quarters hold half as many tokens as the halves of the estimate, so this errs on the side of more noise.
    """
    import scipy.sparse as sp

    rows = sp.csr_array(sp.vstack([half.rows for half in halves]))
    n = rows.shape[0]
    if n < 4:
        return 1.0
    rng = generator(seed, "self", name)
    groups = np.zeros((_RESPLITS * 4, n))
    lengths = np.asarray(rows.sum(axis=1)).ravel()
    for split in range(_RESPLITS):
        order = rng.permutation(n)
        # Deal the documents out so that the four quarters hold nearly equal numbers of tokens.
        held = np.zeros(4)
        for document in order.tolist():
            quarter = int(np.argmin(held))
            held[quarter] += lengths[document]
            groups[split * 4 + quarter, document] = 1
    counts = sp.csr_array(groups) @ rows
    values = []
    for split in range(_RESPLITS):
        quarters = counts[split * 4 : split * 4 + 4]
        if (np.asarray(quarters.sum(axis=1)).ravel() == 0).any():
            continue
        js = pair_table(quarters).js
        cross = (js[0, 1] + js[0, 3] + js[2, 1] + js[2, 3]) / 4
        values.append(correct(cross, (js[0, 2] + js[1, 3]) / 2))
    return float(np.sqrt(np.mean(np.square(values)))) if values else 1.0


def affordable(asked: int, k: int, columns: int) -> int:
    """Bootstrap replicates for k domains over `columns` shared tokens, within a few CPU-minutes but at least 20."""
    if asked <= _FEWEST:
        return asked
    seconds = k * k * columns * _CELL_SECONDS
    return int(np.clip(_BOOTSTRAP_SECONDS / max(seconds, 1e-9), _FEWEST, asked))


def token_table(
    samples: Sequence[DomainSample],
    halves: Sequence[tuple[Half, Half]],
    *,
    bootstrap: int,
    seed: int,
    progress: Progress = SILENT,
) -> TokenTable:
    """All token measures of k domains, with `bootstrap` draws over documents."""
    import scipy.sparse as sp

    stacks = [sp.csr_array(sp.vstack([pair[side].rows for pair in halves])) for side in (0, 1)]
    owners = [np.repeat(np.arange(len(halves)), [pair[side].rows.shape[0] for pair in halves]) for side in (0, 1)]

    def gather(weights: Sequence[NDArray[np.int64]]) -> list[Any]:
        out = []
        for stack, owner, weight in zip(stacks, owners, weights, strict=True):
            used = np.flatnonzero(weight)
            pick = sp.csr_array(
                (weight[used].astype(np.int64), (owner[used], used)), shape=(len(halves), stack.shape[0])
            )
            out.append(pick @ stack)
        return out

    value = _measures(*gather([np.ones(len(owner), np.int64) for owner in owners]))
    k = len(halves)
    draws = {name: np.zeros((bootstrap, k, k), np.float32) for name in value}
    rngs = [[generator(seed, "bootstrap tokens", sample.name, side) for sample in samples] for side in (0, 1)]
    with progress.task("resampling documents (tokens)", total=bootstrap, unit="draws") as task:
        for draw in range(bootstrap):
            weights = []
            for side in (0, 1):
                parts = []
                for rng, pair in zip(rngs[side], halves, strict=True):
                    n = pair[side].rows.shape[0]
                    parts.append(rng.multinomial(n, np.full(n, 1.0 / n)))
                weights.append(np.concatenate(parts))
            for name, matrix in _measures(*gather(weights)).items():
                draws[name][draw] = matrix
            task.advance()
    noise = np.array([self_noise(pair, seed, sample.name) for pair, sample in zip(halves, samples, strict=True)])
    floor = 1.96 * np.sqrt((noise[:, None] ** 2 + noise[None, :] ** 2) / 2)
    return TokenTable(value["js"], value["js_plugin"], value["jaccard"], value["ruzicka"], floor, draws)
