"""Put discrepancy and synergy on one scale, so that λ means something, and turn relations into gains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import PlanError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..metrics.relations import Relations
    from .settings import PlanSettings

__all__ = ["Scaled", "gain_of", "noise_unit", "rank_scale", "scaled"]


@dataclass(frozen=True, eq=False)
class Scaled:
    """Both matrices on the common scale, and what one unit of it is.

    Attributes
    ----------
    discrepancy, synergy : float64 ndarray of shape (k, k)
        Symmetric, zero diagonal.
    units : mapping
        {measure: value of one unit in the measure's own unit}; empty for ranks.
    """

    discrepancy: NDArray[np.float64]
    synergy: NDArray[np.float64]
    units: Mapping[str, float]


def rank_scale(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pairs by rank, 0 for the smallest and 1 for the largest; ties share their mean rank.

    Parameters
    ----------
    matrix : float64 ndarray of shape (k, k)
        Symmetric; the diagonal is ignored.

    Returns
    -------
    float64 ndarray of shape (k, k)
        Multiples of 1/(2(P − 1)) for P pairs, which lets solvers compute in whole numbers without error.
        With one pair there is no order, and it gets 0.5.
    """
    k = len(matrix)
    rows, columns = np.triu_indices(k, 1)
    values = matrix[rows, columns]
    out = np.zeros((k, k))
    if len(values) == 0:
        return out
    if len(values) == 1:
        ranks = np.array([0.5])
    else:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        means = (ends - counts + ends - 1) / 2.0
        ranks = means[inverse.reshape(-1)] / (len(values) - 1)
    out[rows, columns] = out[columns, rows] = ranks
    return out


def noise_unit(relations: Relations, name: str) -> float:
    """One unit of noise of a measure: the median over pairs of its standard error, from its 95 % intervals.

    A normal 95 % interval spans 3.92 standard errors.
    """
    k = len(relations.domains)
    rows, columns = np.triu_indices(k, 1)
    low, high = relations.interval(name)
    width = np.asarray(high, dtype=np.float64)[rows, columns] - np.asarray(low, dtype=np.float64)[rows, columns]
    unit = float(np.median(width)) / 3.92 if len(width) else 1.0
    if not np.isfinite(unit) or unit <= 0:
        raise PlanError(
            f"plan.scale: 'floor' needs intervals of {name!r} and they are empty; measure with bootstrap > 0 or "
            f"use 'rank'."
        )
    return unit


def scaled(
    relations: Relations,
    settings: PlanSettings,
    *,
    replicate: int | None = None,
    units: Mapping[str, float] | None = None,
) -> Scaled:
    """Discrepancy and synergy as the settings ask, from the measured matrices or one bootstrap replicate.

    A composite is the weighted mean of its measures after each is scaled. Measures without replicates stand at
    their measured value.
    """
    found = dict(units or {})
    out = []
    for choice, kind in ((settings.discrepancy, "discrepancy"), (settings.synergy, "similarity")):
        weights = {choice: 1.0} if isinstance(choice, str) else {k: float(v) for k, v in choice.items() if v > 0}
        total = sum(weights.values())
        matrix = np.zeros((len(relations.domains),) * 2)
        for name, weight in weights.items():
            matrix += weight / total * _one(relations, name, kind, settings.scale, replicate, found)
        out.append(matrix)
    return Scaled(out[0], out[1], found)


def gain_of(parts: Scaled, lam: float) -> NDArray[np.float64]:
    """λ·synergy − discrepancy: what a pair adds when it shares a stage."""
    gain = lam * parts.synergy - parts.discrepancy
    np.fill_diagonal(gain, 0.0)
    return gain


def _one(
    relations: Relations, name: str, kind: str, scale: str, replicate: int | None, units: dict[str, float]
) -> NDArray[np.float64]:
    if name not in relations.names:
        raise PlanError(
            f"plan: the relations hold no measure {name!r}; they hold {', '.join(relations.names)}: measure it "
            f"or choose another."
        )
    info = relations.info(name)
    if info.kind == "p-value":
        raise PlanError(f"plan: {name!r} is a p-value and orders no pairs; choose the measure it tests.")
    raw = relations.matrix(name)
    if replicate is not None and name in relations.replicates:
        raw = relations.replicates[name][replicate]
    matrix = np.array(raw, dtype=np.float64)
    # Transfer may be asymmetric; sharing a stage goes both ways.
    matrix = (matrix + matrix.T) / 2
    np.fill_diagonal(matrix, 0.0)
    if not np.isfinite(matrix).all():
        i, j = np.argwhere(~np.isfinite(matrix))[0]
        raise PlanError(
            f"plan: {name!r} of {relations.domains[i]} and {relations.domains[j]} is not a number; measure "
            f"again with more text."
        )
    if info.kind != kind:
        # A similarity asked for as discrepancy (or the reverse) counts the other way round.
        matrix = -matrix
    if scale == "rank":
        return rank_scale(matrix)
    if scale == "floor":
        if name not in units:
            units[name] = noise_unit(relations, name)
        return matrix / units[name]
    return matrix
