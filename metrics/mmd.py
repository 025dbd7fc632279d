"""Maximum mean discrepancy: exact for one pair, and for all pairs from one blocked pass over the Gram matrix.

k(x, y) = mean over five bandwidths of exp(−‖x−y‖² / (2σ²)), σ² = {¼, ½, 1, 2, 4} · median ‖x−y‖², one median for all
pairs (a median per pair would measure each pair with another ruler). The unbiased statistic (Gretton et al. 2012,
eq. 3)

    MMD²_u = Σ_{a≠b} k(x_a, x_b) / (n(n−1)) + Σ_{a≠b} k(y_a, y_b) / (m(m−1)) − 2 Σ_{a,b} k(x_a, y_b) / (nm)

is 0 in expectation for equal distributions and may be negative; it is never clamped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._seeding import generator
from ..errors import InputError, InputTypeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["MULTIPLIERS", "check_sample", "default_bandwidths", "median_sq_dist", "mmd2", "mmd2_matrix"]

MULTIPLIERS = (0.25, 0.5, 1.0, 2.0, 4.0)
_MEDIAN_POINTS = 4096


def check_sample(name: str, value: ArrayLike, *, least: int = 2) -> NDArray[Any]:
    """`value` as a float array of shape (n, d) with n ≥ `least`; `InputError` otherwise."""
    try:
        array = np.asarray(value)
        if array.dtype not in (np.float32, np.float64):
            array = array.astype(np.float64)
    except (TypeError, ValueError):
        raise InputTypeError(f"{name}: not an array of numbers; pass embeddings of shape (n, d).") from None
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(f"{name}: shape {array.shape} is not (n, d); pass one row per document.")
    if array.shape[0] < least:
        raise InputError(
            f"{name}: {array.shape[0]} document(s), but at least {least} are needed; add documents to this domain."
        )
    if not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        raise InputError(f"{name}: row {row} holds NaN or infinity; check the embedder on that document.")
    return array


def _sq_dists(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared distances in float64, clamped at 0; centred first, so that far-off clouds do not cancel."""
    centre = x.mean(axis=0)
    a, b = x - centre, y - centre
    out = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None, :] - 2.0 * (a @ b.T)
    return np.asarray(np.maximum(out, 0.0))


def median_sq_dist(samples: Sequence[NDArray[Any]], *, seed: int = 0, points: int = _MEDIAN_POINTS) -> float:
    """Median squared distance over pairs of distinct rows of the pooled samples; 1.0 where all rows are equal.

    Exact up to `points` pooled rows; above, each sample gives an equal, seeded share of `points` rows.
    """
    total = sum(len(sample) for sample in samples)
    if total > points:
        share = max(2, points // len(samples))
        picked = []
        for index, sample in enumerate(samples):
            rows = generator(seed, "median", index).permutation(len(sample))[:share]
            picked.append(np.asarray(sample)[np.sort(rows)])
        samples = picked
    pooled = np.concatenate([np.asarray(sample, np.float64) for sample in samples])[: 2 * points]
    sq_dists = _sq_dists(pooled, pooled)
    upper = sq_dists[np.triu_indices(len(pooled), 1)]
    median = float(np.median(upper))
    if median <= 1e-12 * max(1.0, float((pooled**2).sum(axis=1).mean())):
        # More than half of the documents coincide: take the mean distance, and any unit where all coincide.
        median = float(upper.mean())
    return median if median > 0 else 1.0


def default_bandwidths(median: float) -> tuple[float, ...]:
    """The five σ² around one median squared distance."""
    return tuple(multiplier * median for multiplier in MULTIPLIERS)


def _bandwidths(value: Sequence[float] | None, samples: Sequence[NDArray[Any]], seed: int) -> tuple[float, ...]:
    if value is None:
        return default_bandwidths(median_sq_dist(samples, seed=seed))
    out = tuple(float(number) for number in np.atleast_1d(np.asarray(value, np.float64)))
    if not out or not all(np.isfinite(number) and number > 0 for number in out):
        raise InputError(f"bandwidths={value!r}: each σ² must be a positive number.")
    return out


def _kernel(sq_dists: NDArray[np.float64], bandwidths: Sequence[float]) -> NDArray[np.float64]:
    total = np.zeros_like(sq_dists)
    for sigma2 in bandwidths:
        total += np.exp(sq_dists / (-2.0 * sigma2))
    return total / len(bandwidths)


def _within(kernel: NDArray[Any], unbiased: bool) -> float:
    n = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (n * (n - 1))) if unbiased else float(kernel.mean())


def mmd2(x: ArrayLike, y: ArrayLike, bandwidths: Sequence[float] | None = None, unbiased: bool = True) -> float:
    """Squared maximum mean discrepancy of two samples, in float64.

    Parameters
    ----------
    x : array_like of shape (n, d)
    y : array_like of shape (m, d)
    bandwidths : sequence of float, optional
        σ² of the RBF mixture, k = mean exp(−‖x−y‖² / (2σ²)). Default: {¼, ½, 1, 2, 4} times the median squared
        distance over pairs of distinct rows of the pooled sample.
    unbiased : bool
        U-statistic (may be negative, needs n, m ≥ 2) or V-statistic (≥ 0).

    Returns
    -------
    float
        In kernel units: 0 for equal distributions, at most 2.

    Raises
    ------
    InputError
        Fewer than two rows, different widths, NaN, or a bandwidth that is not positive.

    References
    ----------
    Gretton et al. (2012), A kernel two-sample test, JMLR 13, eq. 3 (unbiased) and 5 (biased).
    """
    least = 2 if unbiased else 1
    a, b = check_sample("x", x, least=least), check_sample("y", y, least=least)
    if a.shape[1] != b.shape[1]:
        raise InputError(f"x has {a.shape[1]} columns and y {b.shape[1]}; embed both with the same model.")
    a, b = a.astype(np.float64), b.astype(np.float64)
    sigma2 = _bandwidths(bandwidths, [a, b], 0)
    cross = float(_kernel(_sq_dists(a, b), sigma2).mean())
    return (
        _within(_kernel(_sq_dists(a, a), sigma2), unbiased)
        + _within(_kernel(_sq_dists(b, b), sigma2), unbiased)
        - 2.0 * cross
    )


def mmd2_matrix(
    samples: Sequence[ArrayLike],
    bandwidths: Sequence[float] | None = None,
    unbiased: bool = True,
    *,
    precision: str = "auto",
    device: str = "cpu",
    seed: int = 0,
) -> NDArray[np.float64]:
    """MMD² of all pairs of samples, with one bandwidth for all, from one blocked Gram pass.

    Parameters
    ----------
    samples : sequence of k arrays of shape (n_i, d)
    bandwidths, unbiased
        As in :func:`mmd2`; the median is over all samples pooled (:func:`median_sq_dist`).
    precision : {"auto", "float64", "float32", "bf16"}
        Arithmetic of the Gram products; sums are float64 in each. "float64" agrees with brute force to 1e-12,
        "float32" to 1e-6, "bf16" (needs torch) to 1e-5.
    device : str
        "cpu", or a torch device such as "cuda".

    Returns
    -------
    ndarray of shape (k, k)
        Symmetric; 0 on the diagonal by definition.
    """
    from ._gram import GramPass

    arrays = [
        check_sample(f"samples[{index}]", sample, least=2 if unbiased else 1) for index, sample in enumerate(samples)
    ]
    if not arrays:
        raise InputError("samples is empty; pass at least one domain's embeddings.")
    widths = {array.shape[1] for array in arrays}
    if len(widths) != 1:
        raise InputError(f"samples have different widths {sorted(widths)}; embed all with the same model.")
    sigma2 = _bandwidths(bandwidths, arrays, seed)
    return GramPass(arrays, sigma2, precision=precision, device=device).run(unbiased=unbiased).mmd2
