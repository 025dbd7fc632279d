"""Paired differences between methods, with intervals over seeds and domains."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..._seeding import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Difference", "bootstrap_interval", "paired_difference", "student_half_width"]

_LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """A mean paired difference, with a 95 % interval where there is something to resample.

    Parameters
    ----------
    mean
        Mean over domains, seeds and draws.
    low, high
        The interval (see :func:`paired_difference`); None with one seed and one domain.
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

    The interval speaks about other seeds, other random partitions and other domains of the same kind. It is the wider
    of two: a percentile interval of the crossed bootstrap (seeds, partitions within a seed and domains each resampled
    as a factor of its own, the pigeonhole bootstrap of Owen 2007), which follows the shape of the data but is far too
    narrow for a handful of seeds; and a Student interval from the variances of the crossed factors, which is honest
    about the handful.

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
    by_seed = difference.mean(axis=1)
    by_domain = by_seed.mean(axis=0)
    low: float | None = None
    high: float | None = None
    if difference.size > 1:
        low, high = bootstrap_interval(difference, draws=draws, seed=seed)
        mean = float(difference.mean())
        half = student_half_width(by_seed)
        low, high = min(low, mean - half), max(high, mean + half)
    return Difference(
        float(difference.mean()),
        low,
        high,
        tuple(float(x) for x in by_domain),
        tuple((float(a), float(b)) for a, b in zip(by_seed.min(axis=0), by_seed.max(axis=0), strict=True)),
        int((by_domain > 0).sum()),
        int((by_domain < 0).sum()),
    )


def bootstrap_interval(difference: NDArray[np.float64], *, draws: int, seed: int) -> tuple[float, float]:
    """Percentile interval of the mean of `difference` (n_seeds, n_draws, n_domains) under the crossed bootstrap."""
    seeds, partitions, domains = difference.shape
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
    return low, high


def student_half_width(values: NDArray[np.float64]) -> float:
    """Half the width of the Student interval of the mean of crossed effects, for `values` (n_seeds, n_domains).

    Under x_sd = mu + a_s + b_d + e_sd with random a, b and e, the variance of the mean is at most v_s + v_d, the
    variances that the means of seeds and those of domains suggest (both contain e). Each gets its own Student quantile,
    and the two half-widths are added in quadrature (variance estimates recovery, Zou and Donner 2008): one quantile
    with Satterthwaite's degrees of freedom is too narrow where v_s happens to come out small from two or three seeds.
    A factor with one level adds nothing: the interval then says nothing about other levels of it.
    """
    from scipy.special import stdtrit

    total = 0.0
    for axis in (1, 0):
        means = values.mean(axis=axis)
        if len(means) > 1:
            quantile = float(stdtrit(len(means) - 1, (1 + _LEVEL) / 2))
            total += quantile**2 * float(means.var(ddof=1)) / len(means)
    return math.sqrt(total)
