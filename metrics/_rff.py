"""MMD² by random Fourier features, where exact Gram blocks would be too many.

For the RBF kernel of variance σ², k(x, y) = E[cos(ω·(x − y))] with ω ~ N(0, I/σ²) (Rahimi and Recht 2007). With the
pair (cos ω·x, sin ω·x) a document's product with itself is exactly 1, so the U-statistic needs only sums of features:
linear in the number of documents, and the pairs cost one product of k mean vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._progress import SILENT, Progress
from .._seeding import generator
from ._gram import GramPass, GramResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["rff_pass"]

# Permutation p-values need whole Gram blocks: a subsample of this many documents a domain gives them.
_TESTED = 100


def _frequencies(d: int, features: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Orthogonal random features (Yu et al. 2016), (features, d): orthogonal rows with χ-distributed lengths."""
    blocks = []
    for _ in range(-(-features // d)):
        q, _ = np.linalg.qr(rng.standard_normal((d, d)))
        blocks.append(q.T * np.sqrt(rng.chisquare(d, size=d))[:, None])
    return np.concatenate(blocks)[:features].astype(np.float32)


def rff_pass(
    samples: Sequence[NDArray[Any]],
    bandwidths: Sequence[float],
    *,
    features: int = 1024,
    weights: Sequence[NDArray[np.float32]] | None = None,
    permutations: int = 0,
    seed: int = 0,
    progress: Progress = SILENT,
) -> GramResult:
    """What :meth:`GramPass.run` yields, with MMD² and its draws from `features` random features a bandwidth."""
    k, d = len(samples), samples[0].shape[1]
    count = sum(len(sample) for sample in samples)
    centre = sum((np.asarray(sample, np.float64).sum(axis=0) for sample in samples), np.zeros(d)) / count
    base = _frequencies(d, features, generator(seed, "rff"))
    draws = 0 if weights is None else weights[0].shape[1]
    means = np.zeros((k, 2 * features * len(bandwidths)))
    drawn = np.zeros((draws, k, k), np.float64)
    own = np.zeros(k)
    scale = 1.0 / np.sqrt(features * len(bandwidths))
    within = np.zeros(k)
    own_draws = np.zeros((k, draws))
    sums: list[NDArray[np.float32]] = []
    with progress.task("random features", total=k, unit="domains") as task:
        for i, sample in enumerate(samples):
            x = np.asarray(np.asarray(sample, np.float64) - centre, np.float32)
            n = len(x)
            angles = x @ base.T
            w = None if weights is None else weights[i]
            parts, drawn_parts = [], []
            for sigma2 in bandwidths:
                turned = angles * np.float32(1.0 / np.sqrt(sigma2))
                z = np.concatenate([np.cos(turned), np.sin(turned)], axis=1) * np.float32(scale)
                parts.append(z.sum(axis=0, dtype=np.float64))
                if w is not None:
                    drawn_parts.append(w.T @ z)
            total = np.concatenate(parts)
            means[i] = total / n
            within[i] = (total @ total - n) / (n * (n - 1))
            own[i] = total @ total
            if w is not None:
                stacked = np.concatenate(drawn_parts, axis=1)
                squares = (w.astype(np.float64) ** 2).sum(axis=0)
                norm = np.einsum("bf,bf->b", stacked, stacked, dtype=np.float64)
                own_draws[i] = (norm - squares) / np.maximum(n**2 - squares, 1.0)
                sums.append((stacked / n).astype(np.float32))
            task.advance()
    mmd2 = within[:, None] + within[None, :] - 2.0 * means @ means.T
    np.fill_diagonal(mmd2, 0.0)
    replicates = None
    if weights is not None:
        for b in range(draws):
            stacked = np.stack([part[b] for part in sums]).astype(np.float64)
            drawn[b] = own_draws[:, b, None] + own_draws[None, :, b] - 2.0 * stacked @ stacked.T
            np.fill_diagonal(drawn[b], 0.0)
        replicates = drawn.astype(np.float32)
    if not permutations:
        return GramResult(mmd2, None, None, replicates)
    few = [np.asarray(sample)[:_TESTED] for sample in samples]
    tested = GramPass(few, bandwidths).run(permutations=permutations, seed=seed, progress=progress)
    return GramResult(mmd2, tested.p, tested.floor, replicates)
