"""Put measures together: intervals from draws, p-values over all pairs, and the composite discrepancy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from .registry import MEASURES

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["adjust", "composite", "interval", "ranks", "recentre"]


def recentre(value: NDArray[np.float64], draws: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bootstrap draws moved so that their mean is the estimate.

    A bootstrap sample has fewer distinct documents than the sample, which moves every sparse statistic; the *spread*
    of the draws is what tells about sampling, so only that is kept.
    """
    centre = draws.mean(axis=0, dtype=np.float64)
    return np.asarray(draws - centre + value, dtype=np.float32)


def interval(
    draws: NDArray[np.float32], value: NDArray[np.float64], confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the interval: quantiles of recentred draws with Student's widening for few draws; holds the estimate."""
    from scipy.stats import t

    tail = (1.0 - confidence) / 2.0
    count = len(draws)
    low, high = np.quantile(draws.astype(np.float64), [tail, 1.0 - tail], axis=0)
    # Quantiles of B draws are noisy and, far out, too narrow: set them beside the normal form and take the mean.
    spread = draws.std(axis=0, ddof=1, dtype=np.float64) * float(t.ppf(1.0 - tail, count - 1))
    low, high = (low + value - spread) / 2.0, (high + value + spread) / 2.0
    return np.minimum(low, value), np.maximum(high, value)


def adjust(p: NDArray[np.float64], method: str) -> NDArray[np.float64]:
    """p-values corrected over all pairs of a symmetric matrix; the diagonal stays 1.

    Parameters
    ----------
    p : ndarray of shape (k, k)
    method : {"holm", "bh", "none"}
        Holm (1979) controls the chance of any false finding; Benjamini–Hochberg (1995) the share of false findings.
    """
    if method not in ("holm", "bh", "none"):
        raise InputError(f"correction={method!r} is not one of holm, bh, none.")
    out = np.ones_like(p)
    upper = np.triu_indices(len(p), 1)
    raw = p[upper]
    m = len(raw)
    if m == 0 or method == "none":
        out[upper] = raw
        return np.minimum(out, out.T)
    order = np.argsort(raw, kind="stable")
    ranked = raw[order]
    if method == "holm":
        stepped = np.maximum.accumulate(ranked * (m - np.arange(m)))
    else:
        stepped = np.minimum.accumulate((ranked * m / (np.arange(m) + 1))[::-1])[::-1]
    adjusted = np.empty(m)
    adjusted[order] = np.minimum(stepped, 1.0)
    out[upper] = adjusted
    return np.minimum(out, out.T)


def ranks(matrix: NDArray[Any], *, flip: bool = False) -> NDArray[np.float64]:
    """Off-diagonal cells replaced by their rank among all pairs, (rank − ½) / pairs in 0..1; ties share; diagonal 0."""
    from scipy.stats import rankdata

    k = len(matrix)
    out = np.zeros((k, k))
    upper = np.triu_indices(k, 1)
    cells = np.asarray((matrix + matrix.T) / 2, np.float64)[upper]
    if len(cells) == 0:
        return out
    out[upper] = (rankdata(-cells if flip else cells) - 0.5) / len(cells)
    return np.asarray(out + out.T)


def composite(
    matrices: Mapping[str, NDArray[np.float64]],
    draws: Mapping[str, NDArray[np.float32]],
    weights: Mapping[str, float],
) -> tuple[NDArray[np.float64], NDArray[np.float32] | None]:
    """Weighted mean of the parts, each as ranks over pairs (similarities turned round): one scale, whatever the unit.

    Returns the (k, k) composite in 0..1 and its draws, where every part has some.
    """
    used = {name: weight for name, weight in weights.items() if weight > 0}
    missing = [name for name in used if name not in matrices]
    if missing:
        raise InputError(f"measure.discrepancy: {missing[0]!r} was not measured; add it to measure.measures.")
    total = sum(used.values())
    flips = {name: MEASURES[name].kind == "similarity" for name in used}

    def mix(source: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        parts = [used[name] / total * ranks(source[name], flip=flips[name]) for name in used]
        return np.asarray(np.sum(parts, axis=0))

    value = mix(matrices)
    if not all(name in draws for name in used):
        return value, None
    count = min(len(draws[name]) for name in used)
    drawn = np.stack([mix({name: draws[name][b] for name in used}) for b in range(count)]).astype(np.float32)
    return value, drawn
