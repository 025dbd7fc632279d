"""Paired differences between methods, with intervals over seeds and domains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..._seeding import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Difference", "paired_difference"]

_LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """A mean paired difference, with a 95 % interval where there is something to resample.

    Parameters
    ----------
    mean
        Mean over domains, seeds and draws.
    low, high
        Percentile interval of the crossed bootstrap; None with one seed and one domain.
    by_domain
        Mean over seeds and draws, per domain.
    by_domain_range
        Least and greatest over seeds (mean over draws), per domain.
    better, worse
        Number of domains where the mean is above and below 0.
    """

    mean: float
    low: float | None
    high: float | None
    by_domain: tuple[float, ...]
    by_domain_range: tuple[tuple[float, float], ...]
    better: int
    worse: int


def paired_difference(
    values: NDArray[np.float64], reference: NDArray[np.float64], *, draws: int, seed: int
) -> Difference:
    """How far `values` lie above `reference`, paired by seed and domain.

    Seeds, the random partitions within a seed and domains are all resampled with replacement, each as a factor of its
    own (the pigeonhole bootstrap, Owen 2007), so the interval speaks about other seeds, other partitions and other
    domains of the same kind. It is conservative: the factors' variances add up.

    Parameters
    ----------
    values : ndarray of shape (n_seeds, n_draws, n_domains)
        The method; `n_draws` is 1 but for random methods.
    reference : ndarray of shape (n_seeds, n_domains)
        The plan.
    draws, seed
        Bootstrap draws and their seed.
    """
    difference = values - reference[:, None, :]
    seeds, partitions, domains = difference.shape
    by_seed = difference.mean(axis=1)
    by_domain = by_seed.mean(axis=0)
    low: float | None = None
    high: float | None = None
    if seeds * partitions * domains > 1:
        rng = generator(seed, "compare", "bootstrap")
        means = np.empty(draws)
        block = 512
        for start in range(0, draws, block):
            size = min(block, draws - start)
            s = rng.integers(0, seeds, (size, seeds))
            r = rng.integers(0, partitions, (size, seeds, partitions))
            d = rng.integers(0, domains, (size, domains))
            # (size, seeds, partitions, domains): every resampled seed with its own resampled partitions.
            picked = difference[s[:, :, None, None], r[:, :, :, None], d[:, None, None, :]]
            means[start : start + size] = picked.mean(axis=(1, 2, 3))
        tail = 100 * (1 - _LEVEL) / 2
        low, high = (float(x) for x in np.percentile(means, [tail, 100 - tail]))
    return Difference(
        float(difference.mean()),
        low,
        high,
        tuple(float(x) for x in by_domain),
        tuple((float(a), float(b)) for a, b in zip(by_seed.min(axis=0), by_seed.max(axis=0), strict=True)),
        int((by_domain > 0).sum()),
        int((by_domain < 0).sum()),
    )
