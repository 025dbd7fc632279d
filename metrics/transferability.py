"""Transferability of features: the H-score, with its null floor, on any features array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .._seeding import generator
from ..errors import InputError
from .mmd import check_sample

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["HScore", "h_score", "h_score_report"]


@dataclass(frozen=True)
class HScore:
    """H-score with what random labels would read.

    Attributes
    ----------
    value : float
        The H-score as asked for, 0..(classes − 1).
    null_mean, null_high : float
        Mean and 95 % quantile under permuted labels: random labels do not read 0.
    adjusted : float
        (value − null_mean) / (bound − null_mean), bound = classes − 1: 0 for random labels in expectation, 1 at most.
    p : float
        Permutation p-value, (1 + #{null ≥ value}) / (1 + permutations).
    """

    value: float
    null_mean: float
    null_high: float
    adjusted: float
    p: float


class _Solved:
    """Centred features and what maps class means to the score; made once, used for every relabelling."""

    def __init__(self, features: NDArray[np.float64], shrinkage: str | None) -> None:
        self.x = features - features.mean(axis=0)
        n, d = self.x.shape
        alpha = 0.0
        if shrinkage == "ledoit_wolf":
            from sklearn.covariance import ledoit_wolf_shrinkage

            alpha = float(ledoit_wolf_shrinkage(self.x, assume_centered=True))
        # Eigenvectors of the covariance (1/n) through the SVD: stable, and a pseudo-inverse where rank is short.
        _, singular, right = np.linalg.svd(self.x, full_matrices=False)
        values = singular**2 / n
        mean = float(values.sum()) / d
        shrunk = (1 - alpha) * values + alpha * mean
        alive = shrunk > 1e-12 * max(float(shrunk.max(initial=0.0)), 1e-300)
        self.alpha = alpha
        # cov⁻¹ on the span of the data; class means lie in that span. Shrinkage scales the between-class part as well.
        self.white = (self.x @ right[alive].T) / np.sqrt(shrunk[alive])
        self.scale = 1.0 - alpha

    def score(self, codes: NDArray[np.int64], classes: int) -> float:
        n = len(codes)
        sizes = np.bincount(codes, minlength=classes).astype(np.float64)
        onehot = np.zeros((classes, n))
        onehot[codes, np.arange(n)] = 1.0
        sums = onehot @ self.white
        return float(self.scale * ((sums * sums).sum(axis=1) / sizes).sum() / n)


def _inputs(features: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    x = check_sample("features", features).astype(np.float64)
    y = np.asarray(labels)
    if y.ndim != 1 or len(y) != len(x):
        raise InputError(f"labels: shape {y.shape} does not fit {len(x)} rows of features; pass one label a row.")
    names, codes = np.unique(y, return_inverse=True)
    if len(names) < 2:
        raise InputError("labels hold one class; an H-score needs at least two.")
    return x, codes.astype(np.int64), len(names)


def h_score(features: ArrayLike, labels: ArrayLike, shrinkage: Literal["ledoit_wolf"] | None = None) -> float:
    """H-score of features for labels: tr(cov(f)⁻¹ cov(E[f | y])).

    Parameters
    ----------
    features : array_like of shape (n, d)
    labels : array_like of shape (n,)
        Classes of any kind; at least two.
    shrinkage : {None, "ledoit_wolf"}
        None uses the sample covariance (its pseudo-inverse where n ≤ d). "ledoit_wolf" uses the shrunk covariance and
        scales the between-class part by 1 − α, as Ibrahim et al. (2022) do: stable for d near or above n.

    Returns
    -------
    float
        0 .. classes − 1; larger means the features separate the classes better. Random labels already give about
        (classes − 1) d / (n − 1) without shrinkage: see :func:`h_score_report` for the adjusted value.

    Raises
    ------
    InputError
        Shapes that do not fit, NaN, or a single class.

    References
    ----------
    Bao et al. (2019), An information-theoretic approach to transferability, eq. 2; Ibrahim et al. (2022), Newer is not
    always better, section 3.
    """
    if shrinkage not in (None, "ledoit_wolf"):
        raise InputError(f"shrinkage={shrinkage!r} is not None or 'ledoit_wolf'.")
    x, codes, classes = _inputs(features, labels)
    return _Solved(x, shrinkage).score(codes, classes)


def h_score_report(
    features: ArrayLike,
    labels: ArrayLike,
    shrinkage: Literal["ledoit_wolf"] | None = "ledoit_wolf",
    *,
    permutations: int = 200,
    seed: int = 0,
) -> HScore:
    """The H-score beside what permuted labels read: value, null, adjusted value and p (see :class:`HScore`)."""
    if permutations < 1:
        raise InputError(f"permutations={permutations} must be at least 1; 200 is usual.")
    x, codes, classes = _inputs(features, labels)
    solved = _Solved(x, shrinkage)
    value = solved.score(codes, classes)
    rng = generator(seed, "h_score")
    null: Any = np.array([solved.score(rng.permutation(codes), classes) for _ in range(permutations)])
    mean = float(null.mean())
    bound = classes - 1.0
    return HScore(
        value=value,
        null_mean=mean,
        null_high=float(np.quantile(null, 0.95)),
        adjusted=(value - mean) / (bound - mean) if bound > mean else 0.0,
        p=float((1 + (null >= value - 1e-12).sum()) / (1 + permutations)),
    )
