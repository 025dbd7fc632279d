"""The heuristic where no compiler is usable: heat-bath moves and swaps in NumPy, one vector of choices at a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Core

__all__ = ["heat_bath"]


def heat_bath(
    core: Core,
    start: NDArray[np.int64],
    hot: float,
    cold: float,
    sweeps: int,
    rng: np.random.Generator,
    deadline: float,
) -> tuple[NDArray[np.int64], int]:
    """Anneal from `start`: each item in turn draws its stage from exp(gain/T) over the stages that take it.

    Swaps of two items are tried as often as moves where a resource binds. Temperature falls geometrically from
    `hot` to `cold` (units of the whole-number gain). Returns the best labels seen and their scaled value.
    """
    n, m = core.n, core.most
    gain = core.gain.astype(np.float64)
    columns = np.arange(m) if core.labelled else np.zeros(m, dtype=np.int64)
    upper, lower = core.upper[:, columns], core.lower[:, columns]
    labels = start.copy()
    member = np.zeros((m, n))
    member[labels, np.arange(n)] = 1.0
    pull = member @ gain
    clash = member @ core.conflict.astype(np.float64)
    load = np.rint(core.sizes.astype(np.float64) @ member.T).astype(np.int64)
    count = member.sum(axis=1).astype(np.int64)
    value = core.value(labels)
    best, top = labels.copy(), value
    bounded = len(core.sizes) > 0
    for sweep in range(sweeps):
        if time.monotonic() > deadline:
            break
        temperature = hot * (cold / hot) ** (sweep / max(1, sweeps - 1))
        for i in rng.permutation(n):
            a = int(labels[i])
            size = core.sizes[:, i]
            if bounded and rng.random() < 0.5:
                j = int(rng.integers(n))
                c = int(labels[j])
                change = size - core.sizes[:, j]
                if c == a or clash[c, i] - core.conflict[i, j] > 0 or clash[a, j] - core.conflict[i, j] > 0:
                    continue
                into, out = load[:, c] + change, load[:, a] - change
                if (into > upper[:, c]).any() or (out > upper[:, a]).any():
                    continue
                if (into < lower[:, c]).any() or (out < lower[:, a]).any():
                    continue
                delta = pull[c, i] - pull[a, i] + pull[a, j] - pull[c, j] - 2 * gain[i, j]
                if delta < 0 and rng.random() >= np.exp(delta / temperature):
                    continue
                shift = gain[i] - gain[j]
                pull[a] -= shift
                pull[c] += shift
                turn = core.conflict[i].astype(np.float64) - core.conflict[j]
                clash[a] -= turn
                clash[c] += turn
                load[:, a] -= change
                load[:, c] += change
                labels[i], labels[j] = c, a
            else:
                last = count[a] == 1
                used = int((count > 0).sum())
                if last and used <= core.least:
                    continue
                if not last and (load[:, a] - size < lower[:, a]).any():
                    continue
                allowed = (clash[:, i] == 0) & (load + size[:, None] <= upper).all(axis=0)
                allowed &= (load + size[:, None] >= lower).all(axis=0)
                empty = np.flatnonzero(count == 0)
                allowed[empty[1:]] = False
                if last:
                    allowed[empty] = False
                allowed[a] = True
                score = pull[:, i] - pull[a, i] - core.kappa * (count == 0) + (core.kappa if last else 0)
                score[a] = 0.0
                noisy = np.where(allowed, score + temperature * rng.gumbel(size=m), -np.inf)
                c = int(noisy.argmax())
                if c == a:
                    continue
                delta = float(score[c])
                pull[a] -= gain[i]
                pull[c] += gain[i]
                clash[a] -= core.conflict[i]
                clash[c] += core.conflict[i]
                load[:, a] -= size
                load[:, c] += size
                count[a] -= 1
                count[c] += 1
                labels[i] = c
            value += round(delta)
            if value > top:
                best, top = labels.copy(), value
    return best, top
