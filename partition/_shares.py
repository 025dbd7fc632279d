"""The kernel that shares every pair out between its members so that the pricing bound (see `_price`) is least."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["balance"]


def balance(
    gain: Any, share: Any, dual: Any, constant: float, sizes: Any, room: float, target: float, rounds: int, real: Any
) -> float:
    """Move shares of pairs between their members until the root bound of :func:`price` is small, in place.

    Subgradient descent on min over shares of the two-level fractional knapsack; shares of pairs of positive gain
    only, the others stay halved.

    Parameters
    ----------
    gain, share : float64 (n, n), share[j, l] + share[l, j] = gain[j, l]; the best shares found are left in `share`
    dual : float64 (n,); constant : cost of a stage
    sizes : float64 (n,), of the resource that binds; room : most of it in a stage
    target : a value the bound cannot pass below, for the step length (Polyak)
    rounds : int
    real : float64 scratch (3, n + 2, n + 2)

    Returns the best bound.
    """
    n = gain.shape[0]
    trial = real[0]
    use = real[1]
    p = real[2, 0]
    x = real[2, 1]
    for i in range(n):
        for j in range(n):
            trial[i, j] = share[i, j]
    best = 1e300
    pace = 1.0
    stale = 0
    for _ in range(rounds):
        for j in range(n):
            left = room - sizes[j]
            pull = -dual[j]
            row = trial[j, :n]
            density = np.empty(n)
            for o in range(n):
                use[j, o] = 0.0
                density[o] = -1e300
                if o != j and gain[j, o] > 0.0 and row[o] > 0.0 and sizes[o] <= left:
                    density[o] = row[o] / max(sizes[o], 1e-9)
            for o in np.argsort(-density):
                if density[o] <= 0.0:
                    break
                size = sizes[o]
                if size <= left:
                    use[j, o] = 1.0
                    pull += row[o]
                    left -= size
                else:
                    use[j, o] = left / size
                    pull += row[o] * left / size
                    break
            p[j] = pull
            x[j] = 0.0
        density = np.empty(n)
        for j in range(n):
            density[j] = p[j] / max(sizes[j], 1e-9) if p[j] > 0.0 and sizes[j] <= room else -1e300
        left = room
        bound = -constant
        for j in np.argsort(-density):
            if density[j] <= 0.0 or left <= 0.0:
                break
            size = sizes[j]
            x[j] = 1.0 if size <= left else left / size
            bound += p[j] * x[j]
            left -= size
        if bound < best:
            if best - bound > 0.002 * (best - target):
                stale = 0
            best = bound
            for i in range(n):
                for j in range(n):
                    share[i, j] = trial[i, j]
        else:
            stale += 1
        if stale >= 4:
            pace *= 0.6
            stale = 0
        if bound <= target or pace < 0.02:
            break
        norm = 0.0
        for i in range(n):
            for j in range(i + 1, n):
                g = x[i] * use[i, j] - x[j] * use[j, i]
                norm += g * g
        if norm <= 0.0:
            break
        length = pace * (bound - target) / (2.0 * norm)
        for i in range(n):
            for j in range(i + 1, n):
                g = x[i] * use[i, j] - x[j] * use[j, i]
                if g != 0.0:
                    trial[i, j] -= length * g
                    trial[j, i] += length * g
    # Whole numbers again, so that sums in the search stay exact.
    for i in range(n):
        for j in range(i + 1, n):
            share[i, j] = np.rint(share[i, j])
            share[j, i] = gain[i, j] - share[i, j]
    return best
