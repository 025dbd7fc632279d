"""The terms of the generalisation bound for a plan and its rivals, and a check of the paper's Corollary 3.1.

Theorem 3.1 of arXiv 2511.07198 bounds the risk by empirical loss + 2LB(ρ_θ + Σ α_j ρ_φ) + (β/k) Σ d(i, j) +
O(√(ln(1/δ)/n)). L, B and β are unknown constants, so only what differs between plans is reported: Σ d inside
stages, the synergy credited, the capacity (one ρ_θ a stage, one ρ_φ a domain) and Σ_t √(1/n_t).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["bound_terms", "corollary_check"]


def bound_terms(
    labels: NDArray[np.int64],
    discrepancy: NDArray[np.float64],
    synergy: NDArray[np.float64],
    amount: NDArray[np.float64],
) -> Mapping[str, float]:
    """The terms that differ between plans.

    Parameters
    ----------
    labels : int64 ndarray of shape (k,)
    discrepancy, synergy : float64 ndarray of shape (k, k)
        In the measures' own units (the theorem speaks of divergences, not of ranks).
    amount : float64 ndarray of shape (k,)
        Examples (or tokens) of each domain.

    Returns
    -------
    mapping
        stages; discrepancy = (1/k) Σ_t Σ_{i<j∈S_t} d; synergy likewise; capacity_shared (number of ρ_θ) and
        capacity_domain (number of ρ_φ); sampling = Σ_t √(1/n_t).
    """
    k = len(labels)
    same = np.triu(labels[:, None] == labels[None, :], 1)
    per_stage = np.array([amount[labels == t].sum() for t in np.unique(labels)], dtype=np.float64)
    return {
        "stages": float(len(per_stage)),
        "discrepancy": float(discrepancy[same].sum()) / k,
        "synergy": float(synergy[same].sum()) / k,
        "capacity_shared": float(len(per_stage)),
        "capacity_domain": float(k),
        "sampling": float(np.sqrt(1.0 / np.maximum(1.0, per_stage)).sum()),
    }


def corollary_check(
    labels: NDArray[np.int64],
    gain: NDArray[np.float64],
    names: tuple[str, ...],
    *,
    proved: bool,
    constrained: bool,
) -> Mapping[str, Any]:
    """Corollary 3.1 on one plan: every set whose synergy exceeds (discrepancy + capacity)/λ should share a stage.

    Pairs are checked: the premise reads gain_ij > 0. As stated the corollary is not a theorem: a pair may gain
    while both its members would lose more among the rest of either's stage. The sufficient condition that *is* one
    (gain_ij at least the sum of |gain_il| over l ≠ i, j: no company outweighs it) is checked beside it; a plan that is
    proved optimal without constraints and breaks that would be a defect of ours.
    """
    k = len(labels)
    rows, columns = np.triu_indices(k, 1)
    premise = gain[rows, columns] > 0
    together = labels[rows] == labels[columns]
    broken = [
        [names[i], names[j]] for i, j in zip(rows[premise & ~together], columns[premise & ~together], strict=True)
    ]
    weight = np.abs(gain).sum(axis=1)
    pair = gain[rows, columns]
    rest = np.minimum(weight[rows], weight[columns]) - np.abs(pair)
    sure = premise & (pair > rest)
    return {
        "premise_pairs": int(premise.sum()),
        "held": int((premise & together).sum()),
        "broken": broken,
        "holds": not broken,
        "sufficient_pairs": int(sure.sum()),
        "sufficient_held": int((sure & together).sum()),
        "applies": bool(proved and not constrained),
        "note": (
            "Corollary 3.1 speaks of optimal plans without budgets; "
            + ("this one is." if proved and not constrained else "this one is not proved or is constrained.")
        ),
    }
