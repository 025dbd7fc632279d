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
    cuts: Any,
    cuts_of: Any,
    cut_price: Any,
    sets: Any,
    values: Any,
    whole: Any,
    real: Any,
) -> int:
    """Climb from each set by adding, dropping and swapping single items; sets become local optima in place.

    Parameters
    ----------
    cuts : int32 (c, 3), triples of which a set that holds two or more pays cut_price, float64 (c,); cuts_of : int32
        (n, w), the cuts of each item, −1 ends
    sets : uint8 (s, n), in: feasible above, possibly under `lower`; out: local optima
    values : float64 (s,), output: worth, −1e300 where `lower` was not reached
    whole, real : int64 and float64 scratch of shape (4, w, w), w >= max(n, c) + 2, as for the search

    Returns the number of sets of positive worth.
    """
    n = gain.shape[0]
    resources = sizes.shape[0]
    load = whole[0, 0]
    clash = whole[0, 1]
    held = whole[0, 2]
    pull = real[0, 0]
    # What joining costs an item outside, and leaving gives back to one inside, in prices of cuts.
    toll = real[0, 1]
    # What a swap with the item at hand changes in that, since the two have cuts in common.
    shared = real[0, 2]
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
        for c in range(cuts.shape[0]):
            held[c] = 0
            for t in range(3):
                if inside[cuts[c, t]] != 0:
                    held[c] += 1
            if held[c] >= 2:
                worth -= cut_price[c]
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
            for j in range(n):
                toll[j] = 0.0
                shared[j] = 0.0
            for c in range(cuts.shape[0]):
                for t in range(3):
                    j = cuts[c, t]
                    if held[c] == 1 + inside[j]:
                        toll[j] += cut_price[c]
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
                if inside[j] != 0 or pull[j] - toll[j] <= best or clash[j] != 0:
                    continue
                fits = True
                for r in range(resources):
                    if load[r] + sizes[r, j] > upper[r]:
                        fits = False
                        break
                if fits:
                    best = pull[j] - toll[j]
                    add = j
                    drop = -1
            if not hungry:
                for i in range(n):
                    if inside[i] == 0:
                        continue
                    if count > 1 and toll[i] - pull[i] > best:
                        fits = True
                        for r in range(resources):
                            if load[r] - sizes[r, i] < lower[r]:
                                fits = False
                        if fits:
                            best = toll[i] - pull[i]
                            drop = i
                            add = -1
                    for q in range(cuts_of.shape[1]):
                        c = cuts_of[i, q]
                        if c < 0:
                            break
                        for t in range(3):
                            if held[c] == 1:
                                shared[cuts[c, t]] += cut_price[c]
                            elif held[c] == 2:
                                shared[cuts[c, t]] -= cut_price[c]
                    for j in range(n):
                        if inside[j] != 0:
                            continue
                        change = pull[j] - toll[j] - pull[i] + toll[i] - gain[i, j] + shared[j]
                        if change <= best:
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
                            best = change
                            add = j
                            drop = i
                    for q in range(cuts_of.shape[1]):
                        c = cuts_of[i, q]
                        if c < 0:
                            break
                        for t in range(3):
                            shared[cuts[c, t]] = 0.0
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
                for q in range(cuts_of.shape[1]):
                    if cuts_of[drop, q] < 0:
                        break
                    held[cuts_of[drop, q]] -= 1
            if add >= 0:
                inside[add] = 1
                count += 1
                for j in range(n):
                    pull[j] += gain[add, j]
                    clash[j] += conflict[add, j]
                for r in range(resources):
                    load[r] += sizes[r, add]
                for q in range(cuts_of.shape[1]):
                    if cuts_of[add, q] < 0:
                        break
                    held[cuts_of[add, q]] += 1
        for r in range(resources):
            if load[r] < lower[r]:
                worth = -1e300
        values[s] = worth
        if worth > 0.5:
            positive += 1
    return positive
