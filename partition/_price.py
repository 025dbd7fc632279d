"""The kernel that prices stages for column generation: branch and bound, and the enumeration of all above a threshold.

Plain loops over arrays for a compiler. All values are whole numbers held in doubles, so sums are exact; only bounds
are rounded, and they carry a slack.

The bound: a set T added to S is worth Σ_{j∈T} (m_j + Σ_{l∈T} a_jl) with m_j = Σ_{i∈S} w_ij − dual_j, where every
pair is shared out between its members, a_jl + a_lj = w_jl. Member j can at most get its best partners that fit beside
it (a fractional knapsack over a list sorted once), and the members themselves form another fractional knapsack. Any
shares are valid; `_shares` looks for those with the least bound (Caprara, Pisinger and Toth 1999 for the quadratic
knapsack).

A cut is paid by its second member. The bound charges a third of the price to each pair among its items, and, once one
of them is in, a third to each of the others: whichever of them come, the charges add up to the price at most.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["price"]


def price(
    gain: Any,
    share: Any,
    partners: Any,
    dual: Any,
    constant: float,
    sizes: Any,
    upper: Any,
    lower: Any,
    main: int,
    conflict: Any,
    cuts: Any,
    cuts_of: Any,
    cut_price: Any,
    threshold: float,
    climb: bool,
    part: int,
    parts: int,
    node_limit: int,
    stop: Any,
    found: Any,
    values: Any,
    whole: Any,
    real: Any,
    result: Any,
) -> int:
    """Find sets worth at least `threshold`: value − Σ dual − constant.

    Parameters
    ----------
    gain : float64 (n, n)
    share : float64 (n, n), share[j, l] + share[l, j] = gain[j, l] − Σ ⌊cut_price / 3⌋ of the cuts that hold both
    partners : int32 (n, n), for each item those of positive share, most share per size first, −1 ends
    dual : float64 (n,); constant : cost of a stage
    sizes : int64 (r, n); upper, lower : int64 (r,); main : resource of the bounds, −1 for none
    conflict : uint8 (n, n)
    cuts : int32 (c, 3), triples of which a set that holds two or more pays cut_price, float64 (c,); cuts_of : int32
        (n, w), the cuts of each item, −1 ends
    threshold : sets worth less are of no interest; with `climb` it rises above each set found
    part, parts : only sets whose first item in the order of branching has this rank modulo `parts`
    stop : int64 (1,), not 0 from another thread ends the search as `node_limit` does
    found : int64 (K, words), output bit masks of 62 items a word; values : float64 (K,), output
    whole, real : int64 and float64 scratch of shapes (4, w, w), w >= max(n, c, 6) + 2
    result : float64 (4,), output: nodes, 1 when the search is complete, upper bound on any such set, sets found

    Returns the number of sets stored; with `climb` the last ones are the best.
    """
    n = gain.shape[0]
    resources = sizes.shape[0]
    capacity = found.shape[0]
    words = found.shape[1]
    cand = whole[0]
    state = whole[1]  # row 0: count per depth; 1: position; 2: chosen; 3: marks; 4: order; 5..: load per resource
    contribution = real[0]
    margin = real[1]
    relief = real[3]  # what the bound must not charge of the prices of cuts that are held once
    # row 0: p; 1: density; 2: value per depth; 3: rest bound per depth; 5, 6: change of margin, relief
    scratch = real[2]
    counts, position, chosen, marks, order = state[0], state[1], state[2], state[3], state[4]
    p, density, worth, rest = scratch[0], scratch[1], scratch[2], scratch[3]
    load = whole[2]
    held = whole[3, 0]
    shift = scratch[5]
    ease = scratch[6]
    for i in range(n + 2):
        marks[i] = 0
        shift[i] = 0.0
        ease[i] = 0.0
    for c in range(cuts.shape[0]):
        held[c] = 0
    stamp = 0
    stored = 0
    total_found = 0
    nodes = 0
    magnitude = abs(constant)
    for i in range(n):
        magnitude += abs(dual[i])
    for c in range(cuts.shape[0]):
        magnitude += cut_price[c]
    slack = 1e-6 + 4e-15 * magnitude
    for r in range(resources):
        load[0, r] = 0
    worth[0] = -constant
    count = 0
    for i in range(n):
        fits = conflict[i, i] == 0
        for r in range(resources):
            if sizes[r, i] > upper[r]:
                fits = False
        if fits:
            cand[0, count] = i
            margin[0, count] = -dual[i]
            relief[0, count] = 0.0
            count += 1
    counts[0] = count
    depth = 0
    fresh = True
    complete = True
    top = -1e300
    while depth >= 0:
        if fresh:
            fresh = False
            nodes += 1
            if nodes > node_limit or stop[0] != 0:
                complete = False
                break
            # Bound this node; drop candidates that cannot be in a set of interest, and bound again if many went.
            count = counts[depth]
            bound = worth[depth]
            passes = 0
            while True:
                stamp += 1
                short = False
                for r in range(resources):
                    reach = load[depth, r]
                    for c in range(count):
                        reach += sizes[r, cand[depth, c]]
                    if reach < lower[r]:
                        short = True
                if short:
                    bound = -1e300
                    count = 0
                    break
                for c in range(count):
                    marks[cand[depth, c]] = stamp
                room = 0.0
                if main >= 0:
                    room = float(upper[main] - load[depth, main])
                positive = 0
                for c in range(count):
                    j = cand[depth, c]
                    pull = 0.0
                    if main >= 0:
                        left = room - sizes[main, j]
                        for q in range(n):
                            o = partners[j, q]
                            if o < 0:
                                break
                            if marks[o] == stamp:
                                size = float(sizes[main, o])
                                if size <= left:
                                    pull += share[j, o]
                                    left -= size
                                else:
                                    pull += share[j, o] * left / size
                                    break
                    else:
                        for q in range(n):
                            o = partners[j, q]
                            if o < 0:
                                break
                            if marks[o] == stamp:
                                pull += share[j, o]
                    p[c] = margin[depth, c] + relief[depth, c] + pull
                    if p[c] > 0.0:
                        size = float(sizes[main, j]) if main >= 0 else 0.0
                        density[c] = p[c] / size if size > 0.0 else 1e300
                        # Insertion sort by density.
                        at = positive
                        while at > 0 and density[order[at - 1]] < density[c]:
                            order[at] = order[at - 1]
                            at -= 1
                        order[at] = c
                        positive += 1
                theta = 0.0
                if main >= 0:
                    left = room
                    for q in range(positive):
                        c = order[q]
                        left -= sizes[main, cand[depth, c]]
                        if left < 0.0:
                            theta = density[c]
                            break
                bound = worth[depth] + theta * room
                for q in range(positive):
                    c = order[q]
                    size = float(sizes[main, cand[depth, c]]) if main >= 0 else 0.0
                    if p[c] > theta * size:
                        bound += p[c] - theta * size
                kept = 0
                if bound + slack >= threshold:
                    for c in range(count):
                        j = cand[depth, c]
                        size = float(sizes[main, j]) if main >= 0 else 0.0
                        extra = p[c] - theta * size
                        if bound + min(0.0, extra) + slack >= threshold:
                            cand[depth, kept] = j
                            margin[depth, kept] = margin[depth, c]
                            relief[depth, kept] = relief[depth, c]
                            contribution[depth, kept] = extra
                            kept += 1
                before = count
                count = kept
                passes += 1
                if kept == before or kept == 0 or passes >= 4:
                    break
            # Largest contribution first: excluding it lowers the bound of the rest the most.
            for a in range(1, count):
                extra = contribution[depth, a]
                j = cand[depth, a]
                m = margin[depth, a]
                free = relief[depth, a]
                at = a
                while at > 0 and contribution[depth, at - 1] < extra:
                    contribution[depth, at] = contribution[depth, at - 1]
                    cand[depth, at] = cand[depth, at - 1]
                    margin[depth, at] = margin[depth, at - 1]
                    relief[depth, at] = relief[depth, at - 1]
                    at -= 1
                contribution[depth, at] = extra
                cand[depth, at] = j
                margin[depth, at] = m
                relief[depth, at] = free
            counts[depth] = count
            position[depth] = 0
            rest[depth] = bound
        at = position[depth]
        if at >= counts[depth] or rest[depth] + slack < threshold:
            depth -= 1
            if depth >= 0:
                for q in range(cuts_of.shape[1]):
                    c = cuts_of[chosen[depth], q]
                    if c < 0:
                        break
                    held[c] -= 1
            continue
        j = cand[depth, at]
        extra = contribution[depth, at]
        position[depth] = at + 1
        if depth == 0 and at % parts != part:
            # Somebody else's; for what remains here it stays out.
            rest[0] -= max(0.0, extra)
            continue
        if rest[depth] + min(0.0, extra) + slack < threshold:
            continue
        if extra > 0.0:
            rest[depth] -= extra
        value = worth[depth] + margin[depth, at]
        chosen[depth] = j
        legal = True
        for r in range(resources):
            load[depth + 1, r] = load[depth, r] + sizes[r, j]
            if load[depth + 1, r] < lower[r]:
                legal = False
        if legal and value > top:
            top = value
        if legal and value >= threshold:
            total_found += 1
            if not climb and stored >= capacity:
                complete = False
                break
            slot = stored % capacity
            for w in range(words):
                found[slot, w] = 0
            for d in range(depth + 1):
                item = chosen[d]
                found[slot, item // 62] |= 1 << (item % 62)
            values[slot] = value
            stored += 1
            if climb:
                threshold = value + 1.0
        # A cut is paid with its second member: once j is in, the others of its cuts cost that price; when j was
        # itself the second, the third comes free again.
        for q in range(cuts_of.shape[1]):
            c = cuts_of[j, q]
            if c < 0:
                break
            if held[c] == 0:
                for t in range(3):
                    shift[cuts[c, t]] -= cut_price[c]
                    ease[cuts[c, t]] += cut_price[c] - float(cut_price[c] // 3)
            elif held[c] == 1:
                for t in range(3):
                    shift[cuts[c, t]] += cut_price[c]
                    ease[cuts[c, t]] -= cut_price[c] - float(cut_price[c] // 3)
        count = 0
        for c in range(at + 1, counts[depth]):
            o = cand[depth, c]
            if conflict[j, o] != 0:
                continue
            fits = True
            for r in range(resources):
                if load[depth + 1, r] + sizes[r, o] > upper[r]:
                    fits = False
                    break
            if fits:
                cand[depth + 1, count] = o
                margin[depth + 1, count] = margin[depth, c] + gain[j, o] + shift[o]
                relief[depth + 1, count] = relief[depth, c] + ease[o]
                count += 1
        for q in range(cuts_of.shape[1]):
            c = cuts_of[j, q]
            if c < 0:
                break
            for t in range(3):
                shift[cuts[c, t]] = 0.0
                ease[cuts[c, t]] = 0.0
        if count > 0:
            for q in range(cuts_of.shape[1]):
                c = cuts_of[j, q]
                if c < 0:
                    break
                held[c] += 1
            depth += 1
            counts[depth] = count
            worth[depth] = value
            fresh = True
    bound = top
    if complete:
        # Worths are whole: what was left unseen is worth at most the whole number below the threshold.
        bound = max(top, np.ceil(threshold) - 1.0)
    else:
        for d in range(depth + 1):
            if fresh and d == depth:
                # Not bounded yet: what its parent allowed it.
                if d == 0:
                    bound = 1e300
                else:
                    bound = max(bound, rest[d - 1] + max(0.0, contribution[d - 1, position[d - 1] - 1]))
            else:
                bound = max(bound, rest[d])
        bound = max(bound, threshold)
    result[0] = nodes
    result[1] = 1.0 if complete else 0.0
    result[2] = bound
    result[3] = total_found
    kept_sets: int = min(stored, capacity)
    return kept_sets
