"""The kernel of the local search for stages worth more than their domains cost: column generation's first resort."""

from __future__ import annotations

from typing import Any

__all__ = ["improve"]


def improve(
    gain: Any,
    dual: Any,
    constant: float,
    sizes: Any,
    upper: Any,
    lower: Any,
    conflict: Any,
    sets: Any,
    values: Any,
    whole: Any,
    real: Any,
) -> int:
    """Climb from each set by adding, dropping and swapping single items; sets become local optima in place.

    Parameters
    ----------
    sets : uint8 (s, n), in: feasible above, possibly under `lower`; out: local optima
    values : float64 (s,), output: worth, −1e300 where `lower` was not reached
    whole, real : int64 and float64 scratch of at least (4, n + 2, n + 2) as for :func:`price`

    Returns the number of sets of positive worth.
    """
    n = gain.shape[0]
    resources = sizes.shape[0]
    load = whole[0, 0]
    clash = whole[0, 1]
    pull = real[0, 0]
    positive = 0
    for s in range(sets.shape[0]):
        inside = sets[s]
        for j in range(n):
            pull[j] = -dual[j]
            clash[j] = conflict[j, j]
        for r in range(resources):
            load[r] = 0
        worth = -constant
        count = 0
        for i in range(n):
            if inside[i] != 0:
                count += 1
                worth += pull[i]
                for j in range(n):
                    pull[j] += gain[i, j]
                    clash[j] += conflict[i, j]
                for r in range(resources):
                    load[r] += sizes[r, i]
        for _ in range(4 * n):
            best = 0.0
            add = -1
            drop = -1
            hungry = False
            for r in range(resources):
                if load[r] < lower[r]:
                    hungry = True
            if hungry:
                best = -1e300
            for j in range(n):
                if inside[j] != 0 or pull[j] <= best or clash[j] != 0:
                    continue
                fits = True
                for r in range(resources):
                    if load[r] + sizes[r, j] > upper[r]:
                        fits = False
                        break
                if fits:
                    best = pull[j]
                    add = j
                    drop = -1
            if not hungry:
                for i in range(n):
                    if inside[i] == 0:
                        continue
                    if count > 1 and -pull[i] > best:
                        fits = True
                        for r in range(resources):
                            if load[r] - sizes[r, i] < lower[r]:
                                fits = False
                        if fits:
                            best = -pull[i]
                            drop = i
                            add = -1
                    for j in range(n):
                        if inside[j] != 0 or pull[j] - pull[i] - gain[i, j] <= best:
                            continue
                        if clash[j] - conflict[i, j] != 0:
                            continue
                        fits = True
                        for r in range(resources):
                            after = load[r] + sizes[r, j] - sizes[r, i]
                            if after > upper[r] or after < lower[r]:
                                fits = False
                                break
                        if fits:
                            best = pull[j] - pull[i] - gain[i, j]
                            add = j
                            drop = i
            if add < 0 and drop < 0:
                break
            worth += best
            if drop >= 0:
                inside[drop] = 0
                count -= 1
                for j in range(n):
                    pull[j] -= gain[drop, j]
                    clash[j] -= conflict[drop, j]
                for r in range(resources):
                    load[r] -= sizes[r, drop]
            if add >= 0:
                inside[add] = 1
                count += 1
                for j in range(n):
                    pull[j] += gain[add, j]
                    clash[j] += conflict[add, j]
                for r in range(resources):
                    load[r] += sizes[r, add]
        for r in range(resources):
            if load[r] < lower[r]:
                worth = -1e300
        values[s] = worth
        if worth > 0.5:
            positive += 1
    return positive
