"""A descent in the exact whole numbers, for partitions found with rounded ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Core

__all__ = ["polish"]

# A look at all pairs of items costs n² steps of NumPy.
_PAIRS_LIMIT = 1200


def polish(core: Core, labels: NDArray[np.int64], *, steps: int = 200) -> tuple[NDArray[np.int64], int]:
    """Carry out the best feasible move or swap until none improves (or `steps` are done); labels and scaled value."""
    n, m = core.n, core.most
    labels = np.asarray(labels, dtype=np.int64).copy()
    if labels.max() >= m:  # labels of stages need not be dense where stages are alike
        labels = np.unique(labels, return_inverse=True)[1]
    columns = np.arange(m) if core.labelled else np.zeros(m, dtype=np.int64)
    upper, lower = core.upper[:, columns], core.lower[:, columns]
    everyone = np.arange(n)
    member = np.zeros((m, n), dtype=np.int64)
    member[labels, everyone] = 1
    pull = (member.astype(np.float64) @ core.gain.astype(np.float64)).astype(np.int64)
    clash = (member.astype(np.float32) @ core.conflict.astype(np.float32)) > 0 if core.conflict.any() else None
    load = core.sizes @ member.T
    bounded = len(core.sizes) > 0 or clash is not None
    for _ in range(steps):
        count = np.bincount(labels, minlength=m)
        own = pull[labels, everyone]
        change = pull - own[None, :] - core.kappa * (count == 0)[:, None] + core.kappa * (count[labels] == 1)[None, :]
        allowed = np.ones((m, n), dtype=np.bool_)
        allowed[labels, everyone] = False
        if clash is not None:
            allowed &= ~clash
        for r, size in enumerate(core.sizes):
            into = load[r][:, None] + size[None, :]
            allowed &= (into <= upper[r][:, None]) & (into >= lower[r][:, None])
            allowed &= ((load[r][labels] - size >= lower[r][labels]) | (count[labels] == 1))[None, :]
        if (count > 0).sum() <= core.least:
            allowed &= (count[labels] > 1)[None, :]
        c, i = divmod(int(np.where(allowed, change, -1).argmax()), n)
        if allowed[c, i] and change[c, i] > 0:
            moved: tuple[tuple[int, int, int], ...] = ((i, int(labels[i]), c),)
        else:
            found = _best_swap(core, labels, pull, load, upper, lower, own) if bounded and n <= _PAIRS_LIMIT else None
            if found is None:
                break
            one, two = found
            moved = ((one, int(labels[one]), int(labels[two])), (two, int(labels[two]), int(labels[one])))
        for item, source, target in moved:
            pull[source] -= core.gain[item]
            pull[target] += core.gain[item]
            load[:, source] -= core.sizes[:, item]
            load[:, target] += core.sizes[:, item]
            labels[item] = target
            if clash is not None:
                for stage in (source, target):
                    clash[stage] = core.conflict[labels == stage].any(axis=0)
    return labels, core.value(labels)


def _best_swap(
    core: Core,
    labels: NDArray[np.int64],
    pull: NDArray[np.int64],
    load: NDArray[np.int64],
    upper: NDArray[np.int64],
    lower: NDArray[np.int64],
    own: NDArray[np.int64],
) -> tuple[int, int] | None:
    """The best improving swap that keeps budgets and conflicts, or None."""
    across = pull[labels] - own[None, :]
    delta = across + across.T - 2 * core.gain
    allowed = labels[:, None] != labels[None, :]
    for r, size in enumerate(core.sizes):
        after = load[r][labels][:, None] - size[:, None] + size[None, :]
        fits = (after <= upper[r][labels][:, None]) & (after >= lower[r][labels][:, None])
        allowed &= fits & fits.T
    if core.conflict.any():
        # Conflicts of i with the stage of j, j itself left out.
        same = (labels[:, None] == labels[None, :]).astype(np.float32)
        hits = core.conflict.astype(np.float32) @ same - core.conflict
        allowed &= (hits <= 0) & (hits.T <= 0)
    best = np.where(allowed, delta, -1)
    i, j = np.unravel_index(int(best.argmax()), best.shape)
    return (int(i), int(j)) if best[i, j] > 0 else None
