r"""Dynamic programming over subsets: the exact answer for a handful of domains, with any cost per stage.

f_t(S) = max over T ⊆ S that holds the lowest item of S of v(T) + f_{t−1}(S \ T). Three to the power of n steps.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Core

__all__ = ["cluster_values", "subset_optimum"]

# Below every sum of whole-number gains, far above the least int64.
NOTHING = np.int64(-(2**61))


def cluster_values(core: Core, column: int = 0) -> NDArray[np.int64]:
    """The value of every subset as a stage (gain inside − kappa), `NOTHING` where it is no legal stage.

    Shape (2^n,), indexed by bit mask; `column` is the stage whose limits count.
    """
    n = core.n
    size = 1 << n
    value = np.zeros(size, dtype=np.int64)
    legal = np.ones(size, dtype=np.bool_)
    load = np.zeros((len(core.sizes), size), dtype=np.int64)
    for i in range(n):
        low = 1 << i
        # Subsets of the first i items, then the same with item i: pull of i on each subset, built by doubling.
        pull = np.zeros(low, dtype=np.int64)
        clash = np.zeros(low, dtype=np.bool_)
        for j in range(i):
            half = 1 << j
            pull[half : 2 * half] = pull[:half] + core.gain[i, j]
            clash[half : 2 * half] = clash[:half] | core.conflict[i, j]
        value[low : 2 * low] = value[:low] + pull
        legal[low : 2 * low] = legal[:low] & ~clash & (not core.conflict[i, i])
        load[:, low : 2 * low] = load[:, :low] + core.sizes[:, i : i + 1]
    for r in range(len(core.sizes)):
        legal &= (load[r] <= core.upper[r, column]) & (load[r] >= core.lower[r, column])
    legal[0] = False
    return np.where(legal, value - core.kappa, NOTHING)


def subset_optimum(core: Core) -> tuple[NDArray[np.int64] | None, int]:
    """The optimal item labels and their scaled value; (None, 0) when no partition is feasible."""
    n = core.n
    if core.labelled:
        return _layers(core, [cluster_values(core, t) for t in range(core.most)], _pairs(n, anchored=False))
    value = cluster_values(core)
    if core.least <= 1 and core.most >= n:
        return _free(core, value, _pairs(n, anchored=True))
    return _layers(core, [value] * core.most, _pairs(n, anchored=True))


@lru_cache(maxsize=4)
def _pairs(n: int, *, anchored: bool) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Every (mask, non-empty submask), grouped by mask: parts, rests, and where each mask's run starts.

    `anchored` keeps only submasks that hold the mask's highest item: equal stages need no other. Masks count from
    1, so run r belongs to mask r + 1.
    """
    parts: list[NDArray[np.int32]] = [np.zeros(1, dtype=np.int32)]
    for mask in range(1, 1 << n):
        top = 1 << (mask.bit_length() - 1)
        below = parts[mask ^ top]
        parts.append(np.concatenate([below, below | np.int32(top)]))
    runs = []
    for mask in range(1, 1 << n):
        inside = parts[mask]
        runs.append(inside[len(inside) // 2 :] if anchored else inside[1:])
    lengths = np.array([len(run) for run in runs])
    flat = np.concatenate(runs)
    masks = np.repeat(np.arange(1, 1 << n, dtype=np.int32), lengths)
    return flat, masks ^ flat, np.concatenate([[0], np.cumsum(lengths)[:-1]])


def _argmax_runs(total: NDArray[np.int64], starts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Maximum of each run and where its first maximum is."""
    top = np.maximum.reduceat(total, starts)
    lengths = np.diff(np.append(starts, len(total)))
    hit = total == np.repeat(top, lengths)
    where = np.minimum.reduceat(np.where(hit, np.arange(len(total)), len(total)), starts)
    return top, where


def _free(
    core: Core, value: NDArray[np.int64], pairs: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]
) -> tuple[NDArray[np.int64] | None, int]:
    """Any number of stages: masks in the order of their highest item, since the rest lies below it."""
    n = core.n
    parts, rests, starts = pairs
    ends = np.append(starts[1:], len(parts))
    best = np.full(1 << n, NOTHING, dtype=np.int64)
    best[0] = 0
    choice = np.zeros(1 << n, dtype=np.int64)
    for i in range(n):
        # Masks whose highest item is i: their anchored submasks leave rests with lower items only.
        first, last = (1 << i) - 1, (1 << (i + 1)) - 1
        span = slice(starts[first], ends[last - 1])
        total = value[parts[span]] + best[rests[span]]
        top, where = _argmax_runs(total, starts[first:last] - starts[first])
        best[first + 1 : last + 1] = np.maximum(top, NOTHING)
        choice[first + 1 : last + 1] = parts[span][where]
    full = (1 << n) - 1
    if best[full] <= NOTHING // 2:
        return None, 0
    labels = np.zeros(n, dtype=np.int64)
    rest, stage = full, 0
    while rest:
        part = int(choice[rest])
        _mark(labels, part, stage)
        rest ^= part
        stage += 1
    return labels, int(best[full]) + core.base


def _layers(
    core: Core,
    values: list[NDArray[np.int64]],
    pairs: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]],
) -> tuple[NDArray[np.int64] | None, int]:
    """Stage by stage: best[S] covers S with exactly t stages."""
    n, full = core.n, (1 << core.n) - 1
    parts, rests, starts = pairs
    best = np.full(1 << n, NOTHING, dtype=np.int64)
    best[0] = 0
    choices: list[NDArray[np.int64]] = []
    finals: list[int] = []
    for t in range(core.most):
        top, where = _argmax_runs(values[t][parts] + best[rests], starts)
        best = np.concatenate([[NOTHING], np.maximum(top, NOTHING)])
        choices.append(np.concatenate([[0], parts[where]]).astype(np.int64))
        finals.append(int(best[full]))
    count = max(range(core.least - 1, core.most), key=lambda t: finals[t])
    if finals[count] <= NOTHING // 2:
        return None, 0
    labels = np.zeros(n, dtype=np.int64)
    rest = full
    for t in range(count, -1, -1):
        part = int(choices[t][rest])
        _mark(labels, part, t)
        rest ^= part
    return labels, finals[count] + core.base


def _mark(labels: NDArray[np.int64], part: int, stage: int) -> None:
    for i in range(len(labels)):
        if part >> i & 1:
            labels[i] = stage
