"""Measures on document embeddings: debiased cosines of means, and the bootstrap weights that all of them share.

The squared norm of a mean of n noisy vectors is too large by (their variance) / n, which pulls every cosine of means
towards 0. The unbiased norm leaves out a document's product with itself:

    N = Σ_{a≠b} x_a·x_b / (n(n−1)),     cos(i, j) = x̄_i·x̄_j / √(N_i N_j)

so a domain against a fresh sample of itself reads 1 in expectation at any n.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._seeding import generator
from ..errors import InputError
from .mmd import check_sample

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["bootstrap_weights", "centred", "cosine_floor", "cosine_matrix", "cosine_table"]


def bootstrap_weights(sizes: Sequence[int], names: Sequence[str], draws: int, seed: int) -> list[NDArray[np.float32]]:
    """Multinomial document weights (n_i, draws), independent over domains, one stream a domain name."""
    out = []
    for n, name in zip(sizes, names, strict=True):
        rng = generator(seed, "bootstrap documents", name)
        out.append(rng.multinomial(n, np.full(n, 1.0 / n), size=draws).T.astype(np.float32))
    return out


def centred(samples: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Samples minus the mean of the domain means (each domain counts once)."""
    centre = np.mean([np.asarray(sample, np.float64).mean(axis=0) for sample in samples], axis=0)
    return [np.asarray(sample, np.float64) - centre for sample in samples]


def _table(means: NDArray[np.float64], norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines from means (k, d) and unbiased squared norms (k,); 0 where a norm is not above 0, within [−1, 1]."""
    alive = norms > 0
    scale = np.where(alive, 1.0 / np.sqrt(np.where(alive, norms, 1.0)), 0.0)
    table = np.clip((means @ means.T) * scale[:, None] * scale[None, :], -1.0, 1.0)
    np.fill_diagonal(table, 1.0)
    return table


def cosine_table(
    samples: Sequence[NDArray[Any]], weights: Sequence[NDArray[np.float32]] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.bool_]]:
    """Debiased cosines of all pairs, their draws (B, k, k), and which domains have a mean told from 0."""
    data = [np.asarray(sample, np.float64) for sample in samples]
    means = np.stack([x.mean(axis=0) for x in data])
    squares = [(x * x).sum(axis=1) for x in data]
    norms = np.array(
        [
            (len(x) ** 2 * (mean @ mean) - square.sum()) / (len(x) * (len(x) - 1)) if len(x) > 1 else mean @ mean
            for x, mean, square in zip(data, means, squares, strict=True)
        ]
    )
    k = len(data)
    if weights is None:
        return _table(means, norms), np.zeros((0, k, k), np.float32), norms > 0
    draws = weights[0].shape[1]
    drawn = np.zeros((k, draws, data[0].shape[1]))
    drawn_norms = np.zeros((k, draws))
    for i, (x, w, square) in enumerate(zip(data, weights, squares, strict=True)):
        n = len(x)
        total = w.T.astype(np.float64) @ x
        drawn[i] = total / n
        twice = (w.astype(np.float64) ** 2).sum(axis=0)
        own = (w.astype(np.float64) ** 2 * square[:, None]).sum(axis=0)
        drawn_norms[i] = ((total * total).sum(axis=1) - own) / np.maximum(n**2 - twice, 1.0)
    out = np.stack([_table(drawn[:, b], drawn_norms[:, b]) for b in range(draws)]) if draws else np.zeros((0, k, k))
    return _table(means, norms), out.astype(np.float32), norms > 0


def cosine_floor(
    samples: Sequence[NDArray[Any]], names: Sequence[str], *, splits: int = 100, level: float = 0.05, seed: int = 0
) -> NDArray[np.float64]:
    """What the debiased cosine of a domain with a fresh sample of itself stays above, for all pairs.

    Each domain's documents are split in halves `splits` times, and the two halves' debiased cosine taken. Its error is
    of second order in that of the means (the first order cancels between product and norms), so it shrinks as 1 / n:
    between whole samples it is half of what it is between halves. A pair's floor is the mean of its two domains'.

    Parameters
    ----------
    samples : sequence of k arrays of shape (n_i, d)
        Centred already where the centred cosine is meant.
    names : sequence of k str
        One random stream a name, so that a domain's floor does not depend on its company.
    splits : int
        Random halvings per domain.
    level : float
        Share of fresh samples that read below the floor.
    seed : int

    Returns
    -------
    ndarray of shape (k, k)
        −1 for a domain of fewer than four documents or one whose mean cannot be told from 0: nothing is above noise.
    """
    own = np.array(
        [
            _own_floor(np.asarray(x, np.float64), generator(seed, "halves", name), splits, level)
            for x, name in zip(samples, names, strict=True)
        ]
    )
    return np.asarray((own[:, None] + own[None, :]) / 2)


def _own_floor(x: NDArray[np.float64], rng: np.random.Generator, splits: int, level: float) -> float:
    """One domain's floor: a low quantile of the cosines of its halves, brought to whole samples."""
    half = len(x) // 2
    if half < 2:
        return -1.0
    order = rng.permuted(np.tile(np.arange(len(x)), (splits, 1)), axis=1)
    squares = (x * x).sum(axis=1)
    sums, norms = [], []
    for part in (order[:, :half], order[:, half : 2 * half]):
        chosen = np.zeros((splits, len(x)))
        np.put_along_axis(chosen, part, 1.0, axis=1)
        total = chosen @ x
        sums.append(total)
        norms.append(((total * total).sum(axis=1) - chosen @ squares) / (half * (half - 1)))
    product = (sums[0] * sums[1]).sum(axis=1) / half**2
    alive = (norms[0] > 0) & (norms[1] > 0)
    if alive.mean() < 1 - level:
        return -1.0
    cosine = product[alive] / np.sqrt(norms[0][alive] * norms[1][alive])
    return float(np.clip(1.0 - (1.0 - np.quantile(cosine, level)) / 2, -1.0, 1.0))


def cosine_matrix(samples: Sequence[ArrayLike], *, centre: bool = False, debias: bool = True) -> NDArray[np.float64]:
    """Cosines of mean embeddings for all pairs of samples, (k, k) with 1 on the diagonal.

    Parameters
    ----------
    samples : sequence of k arrays of shape (n_i, d)
    centre : bool
        Subtract the mean of the domain means first: raw means share one large component and crowd near 1.
    debias : bool
        Divide by unbiased norms; False gives the paper's plain cosine.

    Notes
    -----
    Symmetric, within [−1, 1]. A domain whose (centred) mean cannot be told from 0 has no direction: its cells are 0.
    """
    arrays = [check_sample(f"samples[{index}]", sample, least=1) for index, sample in enumerate(samples)]
    if not arrays:
        raise InputError("samples is empty; pass at least one domain's embeddings.")
    if len({array.shape[1] for array in arrays}) != 1:
        raise InputError("samples have different widths; embed all with the same model.")
    data = centred(arrays) if centre else arrays
    if debias:
        return cosine_table(data)[0]
    means = np.stack([np.asarray(x, np.float64).mean(axis=0) for x in data])
    return _table(means, (means * means).sum(axis=1))
