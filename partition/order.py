"""In what order to train the stages: forward transfer along the path against forgetting of what came before.

score(order) = Σ over neighbours t → u of transfer(t, u) − w · Σ over t before u of forgetting(t, u),
where transfer(t, u) is the mean synergy from the domains of t to those of u, and forgetting(t, u) the mean
discrepancy between them times the share of all text that stage u trains on: a later stage overwrites an earlier one
the more, the more it differs and the longer it trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from .._seeding import generator
from ..errors import InfeasibleError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Ordering", "best_order", "order_score", "stage_matrices"]

EXACT_LIMIT = 15
_FORBIDDEN = -1e30


@dataclass(frozen=True)
class Ordering:
    """A permutation of stages, its score and whether it is proved best."""

    order: tuple[int, ...]
    score: float
    exact: bool


def stage_matrices(
    stages: Sequence[Sequence[int]],
    transfer: NDArray[np.float64],
    discrepancy: NDArray[np.float64],
    weight: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Transfer and forgetting between stages, both of shape (M, M), from domain matrices of shape (k, k).

    `weight` is the amount of text of each domain; row t, column u reads "t trained before u".
    """
    m = len(stages)
    forward = np.zeros((m, m))
    forgetting = np.zeros((m, m))
    total = float(weight.sum()) or 1.0
    for t, a in enumerate(stages):
        for u, b in enumerate(stages):
            if t != u:
                block = np.ix_(list(a), list(b))
                forward[t, u] = float(transfer[block].mean())
                forgetting[t, u] = float(discrepancy[block].mean()) * float(weight[list(b)].sum()) / total
    return forward, forgetting


def order_score(order: Sequence[int], transfer: NDArray[np.float64], forgetting: NDArray[np.float64]) -> float:
    """The score of one order, by plain loops."""
    score = sum(float(transfer[t, u]) for t, u in pairwise(order))
    for a, t in enumerate(order):
        for u in order[a + 1 :]:
            score -= float(forgetting[t, u])
    return score


def best_order(
    transfer: NDArray[np.float64],
    forgetting: NDArray[np.float64],
    *,
    pin: Mapping[int, int] | None = None,
    seed: int = 0,
) -> Ordering:
    """The best order of M stages: exact by dynamic programming up to 15, by insertion local search beyond.

    Parameters
    ----------
    transfer, forgetting : float64 ndarray of shape (M, M)
        Forgetting already weighted.
    pin : mapping of stage to position, both from 0

    Raises
    ------
    InfeasibleError
        When two stages are pinned to one position.
    """
    m = len(transfer)
    pin = dict(pin or {})
    if len(set(pin.values())) < len(pin) or any(not 0 <= p < m for p in pin.values()):
        raise InfeasibleError(f"plan: pins ask for positions {sorted(pin.values())} of {m} stages; give each its own.")
    if m <= EXACT_LIMIT:
        order = _exact(transfer, forgetting, pin)
        return Ordering(order, order_score(order, transfer, forgetting), True)
    order = _local(transfer, forgetting, pin, generator(seed, "order"))
    return Ordering(order, order_score(order, transfer, forgetting), False)


def _exact(transfer: NDArray[np.float64], forgetting: NDArray[np.float64], pin: Mapping[int, int]) -> tuple[int, ...]:
    """Held–Karp with a set-dependent cost: best[S, t] orders the stages of S with t last."""
    m = len(transfer)
    size = 1 << m
    at = {position: stage for stage, position in pin.items()}
    # Forgetting caused by training u after the set S, by doubling over S.
    cost = np.zeros((size, m))
    for t in range(m):
        low = 1 << t
        cost[low : 2 * low] = cost[:low] + forgetting[t]
    best = np.full((size, m), _FORBIDDEN)
    before = np.full((size, m), -1, dtype=np.int64)
    members = np.arange(m)
    for t in range(m):
        if at.get(0, t) == t and pin.get(t, 0) == 0:
            best[1 << t, t] = 0.0
    for mask in range(1, size):
        row = best[mask]
        if row.max() <= _FORBIDDEN / 2:
            continue
        position = int(mask).bit_count()
        reach = row[:, None] + transfer
        last = reach.argmax(axis=0)
        value = reach[last, members] - cost[mask]
        for u in range(m):
            if mask >> u & 1 or at.get(position, u) != u or pin.get(u, position) != position:
                continue
            after = mask | 1 << u
            if value[u] > best[after, u]:
                best[after, u] = value[u]
                before[after, u] = last[u]
    mask, t = size - 1, int(best[size - 1].argmax())
    order = [t]
    while before[mask, t] >= 0:
        mask, t = mask ^ 1 << t, int(before[mask, t])
        order.append(t)
    return tuple(reversed(order))


def _local(
    transfer: NDArray[np.float64],
    forgetting: NDArray[np.float64],
    pin: Mapping[int, int],
    rng: np.random.Generator,
    restarts: int = 8,
) -> tuple[int, ...]:
    """Insertions and reversals until none helps, from several starts; pinned stages stay where they are."""
    m = len(transfer)
    best: list[int] = []
    top = -np.inf
    for restart in range(restarts):
        order = _pinned(_greedy(transfer, rng) if restart % 2 == 0 else rng.permutation(m).tolist(), pin, m)
        value = order_score(order, transfer, forgetting)
        improved = True
        while improved:
            improved = False
            for a in rng.permutation(m):
                for b in range(m):
                    trial = list(order)
                    trial.insert(b, trial.pop(int(a)))
                    if a == b or any(trial[p] != s for s, p in pin.items()):
                        continue
                    score = _fast(trial, transfer, forgetting)
                    if score > value + 1e-12:
                        order, value, improved = trial, score, True
                        break
        if value > top:
            best, top = list(order), value
    return tuple(int(t) for t in best)


def _fast(order: list[int], transfer: NDArray[np.float64], forgetting: NDArray[np.float64]) -> float:
    index = np.array(order)
    ordered = forgetting[np.ix_(index, index)]
    return float(transfer[index[:-1], index[1:]].sum() - np.triu(ordered, 1).sum())


def _greedy(transfer: NDArray[np.float64], rng: np.random.Generator) -> list[int]:
    left = set(range(len(transfer)))
    order = [int(rng.integers(len(transfer)))]
    left.discard(order[0])
    while left:
        order.append(max(sorted(left), key=lambda u: transfer[order[-1], u]))
        left.discard(order[-1])
    return order


def _pinned(order: list[int], pin: Mapping[int, int], m: int) -> list[int]:
    rest = iter([t for t in order if t not in pin])
    at = {position: stage for stage, position in pin.items()}
    return [at[p] if p in at else next(rest) for p in range(m)]
