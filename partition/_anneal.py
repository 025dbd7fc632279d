"""The annealing kernel: heat-bath moves and swaps over feasible partitions, written for a vectorising compiler.

A block of `width` items looks at every stage at once: the noise of a heat bath (one Gumbel draw a candidate, from a
table) is added to the gain of each stage and the largest sum wins. That costs a few instructions for sixteen
candidates, where drawing and judging one proposal after another costs some thirty for one. The winners of a block
are then carried out one by one and only where, with the same noise, they still beat staying. Where a budget or a
mask can block a move, an item also looks at trading places with every other item, in the same way; and where sizes
differ, then at trading places with two lighter ones of a stage: stages that are full or at their least exchange nothing
else but items of equal size.

Plain loops over arrays, no objects: numba compiles it (see `_jit`); it is never called uncompiled, since `_heatbath`
does the same work in NumPy. Inner loops run over arrays of 32-bit floats that hold whole numbers below 2^24 (`_pack`
makes them), so no running sum is ever rounded and nothing drifts; changes of the objective are added in 64 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["anneal"]


def anneal(
    gain: Any,
    conflict: Any,
    weight: Any,
    sizes: Any,
    upper: Any,
    lower: Any,
    ceiling: Any,
    ground: Any,
    masked: bool,
    labelled: bool,
    kappa: float,
    least: int,
    labels: Any,
    best: Any,
    hot: float,
    cold: float,
    work: float,
    trade: float,
    lead: int,
    seed: int,
    noise: Any,
    record: Any,
    stop: Any,
) -> float:
    """Anneal from `labels`, keep the best partition seen in `best` and return its value.

    Parameters
    ----------
    gain : float32 (n, blocks, width), whole numbers; conflicting pairs strongly negative; padded with zeros
    conflict : uint8 (n, blocks · width), read only when `masked`
    sizes : int64 (r, n); upper, lower : int64 (r, m), one column a stage slot; what is carried out is checked by them
    weight : float32 (r, blocks, width), ceiling, ground : float32 (r, m)
        The same rounded to below 2^24 so that no feasible step is screened out; the padding is huge
    labelled : whether slots differ (all empty ones are then candidates, not just one)
    kappa : cost of a stage; least : fewest stages; the most is m, the number of slots
    labels : int64 (n,), a feasible start; best : int64 (n,), output
    hot, cold : first and last temperature, in units of the gain
    work : vector steps to spend between them, a descent at temperature zero follows
    trade : share of the items that try to swap in each sweep, 0 for none
    lead : resource by which an item that found no swap looks for two lighter ones to trade for, −1 for none
    seed : of the generator in the kernel
    noise : float32 (many,), Gumbel draws
    record : float64 (buckets, 3), output: items judged, moved, and value summed, by the logarithm of the temperature
    stop : int64 (1,), set to 1 from another thread when the time is up; read once a block
    """
    n, blocks, width = gain.shape
    m = upper.shape[1]
    resources = sizes.shape[0]
    padded = blocks * width
    real = gain.dtype.type
    zero, two, floor = real(0.0), real(2.0), real(-3e38)
    cost = real(kappa)
    flat = gain.reshape(n, padded)
    bulk = weight.reshape(resources, padded)
    steps = blocks * (width / 16.0)
    buckets = record.shape[0]

    # pull[c, i]: what item i gains from stage c. An item alone in its stage carries −kappa there, and an empty stage
    # −kappa for everybody, so that differences of pulls are changes of the objective.
    pull = np.zeros((m, blocks, width), dtype=gain.dtype)
    pulls = pull.reshape(m, padded)
    tags = np.zeros((blocks, width), dtype=np.uint32)
    tag = tags.reshape(padded)
    # own[i]: the pull of item i's own stage, without kappa; the padding never trades.
    own = np.full(padded, real(1e30), dtype=gain.dtype)
    load = np.zeros((resources, m), dtype=np.int64)
    room = np.zeros((resources, m), dtype=gain.dtype)
    spare = np.zeros((resources, m), dtype=gain.dtype)
    above = np.zeros((resources, padded), dtype=gain.dtype)
    below = np.zeros((resources, padded), dtype=gain.dtype)
    count = np.zeros(m, dtype=np.int64)
    total = np.zeros(m, dtype=np.int64)
    used = 0
    lowered = False
    for i in range(n):
        c = labels[i]
        tag[i] = c
        if count[c] == 0:
            used += 1
        count[c] += 1
        total[c] += i
        for o in range(padded):
            pulls[c, o] += flat[i, o]
        for r in range(resources):
            load[r, c] += sizes[r, i]
    for r in range(resources):
        for c in range(m):
            room[r, c] = ceiling[r, c]
            spare[r, c] = -ground[r, c]
            if lower[r, c] > 0:
                lowered = True
        for i in range(n):
            room[r, tag[i]] -= bulk[r, i]
            spare[r, tag[i]] += bulk[r, i]
        for i in range(n):
            above[r, i] = room[r, tag[i]]
            below[r, i] = spare[r, tag[i]]
    value = 0.0
    for i in range(n):
        own[i] = pulls[tag[i], i]
        value += own[i]
    value = value / 2.0 - kappa * used
    if cost != zero:
        for i in range(n):
            if count[tag[i]] == 1:
                pulls[tag[i], i] -= cost
    top = value
    best[:] = labels
    improved = False

    # Slots in use first, free ones behind.
    slots = np.zeros(m, dtype=np.int64)
    place = np.zeros(m, dtype=np.int64)
    front, back = 0, m - 1
    for c in range(m):
        if count[c] > 0:
            slots[front] = c
            place[c] = front
            front += 1
        else:
            slots[back] = c
            place[c] = back
            back -= 1
    if cost != zero:
        for q in range(used, m if labelled else min(m, used + 1)):
            for o in range(padded):
                pulls[slots[q], o] = -cost

    # SplitMix64 hashes the seed, a linear congruence draws rows of the noise table from it.
    state = (np.uint64(seed) + np.uint64(1)) * np.uint64(0xD1342543DE82EF95)
    state = (state ^ (state >> np.uint64(32))) * np.uint64(0xAF251AF3B0F025B5)
    state ^= state >> np.uint64(29)
    # Rows start anywhere in the table: every item sees every draw, also the rare ones that cross high walls.
    rows = np.uint64(noise.shape[0] - width - 1)
    chance = np.uint64(min(1.0, trade) * 1048576.0)
    drawn = np.zeros(m, dtype=np.uint64)
    score = np.zeros(width, dtype=gain.dtype)
    peak = np.zeros(width, dtype=gain.dtype)
    arg = np.zeros(width, dtype=np.uint32)
    offer = np.zeros(m, dtype=gain.dtype)
    taken = np.zeros(padded, dtype=gain.dtype)
    swap = np.zeros(padded, dtype=gain.dtype)
    free = np.zeros(padded, dtype=gain.dtype)  # swaps whether or not they fit
    party = np.zeros(3, dtype=np.int64)
    span = np.log(cold / hot)
    spent = 0.0
    done = 0
    descent = False
    halted = False
    while not halted:
        fraction = min(1.0, spent / work)
        heat = real(0.0) if descent else real(hot * np.exp(span * fraction))
        before = done
        for b in range(blocks):
            if stop[0] != 0:
                halted = True
                break
            # One new stage at most, unless slots differ.
            candidates = m if labelled else min(m, used + 1)
            for k in range(width):
                peak[k] = floor
                arg[k] = 0
            for q in range(candidates):
                c = slots[q]
                mark = np.uint32(c)
                state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
                row = ((state >> np.uint64(32)) * rows) >> np.uint64(32)
                drawn[c] = row
                for k in range(width):
                    score[k] = pull[c, b, k] + heat * noise[row + np.uint64(k)]
                for r in range(resources):
                    limit = room[r, c]
                    for k in range(width):
                        score[k] = score[k] if (weight[r, b, k] <= limit or tags[b, k] == mark) else floor
                for k in range(width):
                    better = score[k] > peak[k]
                    arg[k] = mark if better else arg[k]
                    peak[k] = score[k] if better else peak[k]
            spent += candidates * (20.0 + (width / 16.0) * (1.0 + resources)) + 60.0
            wishes = 0
            for k in range(width):
                wishes += arg[k] != tags[b, k]
            for k in range(width if wishes > 0 else 0):
                i = b * width + k
                if i >= n:
                    break
                a, c = np.int64(tag[i]), np.int64(arg[k])
                if a == c:
                    continue
                delta = np.float64(pulls[c, i]) - np.float64(pulls[a, i])
                # Earlier moves of this block may have changed the pulls: with the same noise, does it still pay?
                if delta + heat * (noise[drawn[c] + np.uint64(k)] - noise[drawn[a] + np.uint64(k)]) <= 0.0:
                    continue
                last = count[a] == 1
                if last and (used <= least or count[c] == 0):
                    continue
                fits = True
                for r in range(resources):
                    into, out = load[r, c] + sizes[r, i], load[r, a] - sizes[r, i]
                    if into > upper[r, c] or into < lower[r, c] or (not last and out < lower[r, a]):
                        fits = False
                if masked and fits:
                    clash = 0
                    mark = np.uint32(c)
                    for o in range(padded):
                        clash += conflict[i, o] * (tag[o] == mark)
                    fits = clash == 0
                if not fits:
                    continue
                # About to step down from what may be the best partition so far: keep it now, not at every rise.
                if delta < 0.0 and improved:
                    for o in range(n):
                        best[o] = tag[o]
                    improved = False
                done += 1
                opened = count[c] == 0
                if opened:
                    other = slots[used]
                    slots[place[c]], place[other] = other, place[c]
                    slots[used], place[c] = c, used
                    used += 1
                tag[i] = c
                for o in range(padded):
                    pulls[a, o] -= flat[i, o]
                    pulls[c, o] += flat[i, o]
                count[a] -= 1
                count[c] += 1
                total[a] -= i
                total[c] += i
                if count[a] == 0:
                    used -= 1
                    other = slots[used]
                    slots[place[a]], place[other] = other, place[a]
                    slots[used], place[a] = a, used
                if cost != zero:
                    if opened:
                        for o in range(padded):
                            pulls[c, o] += cost
                        pulls[c, i] -= cost
                    elif count[c] == 2:
                        pulls[c, total[c] - i] += cost
                    if count[a] == 1:
                        pulls[a, total[a]] -= cost
                if count[a] == 0 or opened:
                    # Whatever slot is now the next free one must look empty.
                    for q in range(used, m if labelled else min(m, used + 1)):
                        for o in range(padded):
                            pulls[slots[q], o] = -cost
                first, second = np.uint32(a), np.uint32(c)
                for r in range(resources):
                    load[r, a] -= sizes[r, i]
                    load[r, c] += sizes[r, i]
                    room[r, a] += weight[r, b, k]
                    room[r, c] -= weight[r, b, k]
                    spare[r, a] -= weight[r, b, k]
                    spare[r, c] += weight[r, b, k]
                if trade > 0.0:
                    for o in range(padded):
                        g = flat[i, o]
                        x = tag[o]
                        own[o] += (g if x == second else zero) - (g if x == first else zero)
                    own[i] = pulls[c, i]
                    if cost != zero and count[c] == 1:
                        own[i] += cost
                    for r in range(resources):
                        here, there = room[r, a], room[r, c]
                        for o in range(padded):
                            x = tag[o]
                            h = here if x == first else above[r, o]
                            above[r, o] = there if x == second else h
                        if lowered:
                            here, there = spare[r, a], spare[r, c]
                            for o in range(padded):
                                x = tag[o]
                                h = here if x == first else below[r, o]
                                below[r, o] = there if x == second else h
                value += delta
                if value > top:
                    top = value
                    improved = True
                spent += (8.0 if trade > 0.0 else 4.0) * steps + 20.0
            if trade > 0.0:
                for inside in range(width):
                    i = b * width + inside
                    if i >= n:
                        break
                    state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
                    if (state >> np.uint64(44)) >= chance and not descent:
                        continue
                    begin = state >> np.uint64(33)
                    a = np.int64(tag[i])
                    for q in range(used):
                        c = slots[q]
                        offer[c] = pulls[c, i] - own[i]
                    offer[a] = floor
                    for o in range(padded):
                        taken[o] = offer[tag[o]]
                    for o in range(padded):
                        swap[o] = taken[o] + pulls[a, o] - own[o] - two * flat[i, o]
                        free[o] = swap[o]
                    for r in range(resources):
                        size, here, there = bulk[r, i], room[r, a], spare[r, a]
                        for o in range(padded):
                            change = size - bulk[r, o]
                            x = swap[o] if change <= above[r, o] else floor
                            swap[o] = x if -change <= here else floor
                        if lowered:
                            for o in range(padded):
                                change = size - bulk[r, o]
                                x = swap[o] if change <= there else floor
                                swap[o] = x if -change <= below[r, o] else floor
                    for k in range(width):
                        peak[k] = floor
                        arg[k] = 0
                    for d in range(blocks):
                        row = (begin + np.uint64(d) * np.uint64(7919)) % rows
                        mark = np.uint32(d)
                        at = d * width
                        for k in range(width):
                            x = swap[at + k] + heat * noise[row + np.uint64(k)]
                            better = x > peak[k]
                            arg[k] = mark if better else arg[k]
                            peak[k] = x if better else peak[k]
                    spent += steps * (14.0 + 3.0 * resources) + 20.0
                    w = 0
                    for k in range(1, width):
                        if peak[k] > peak[w]:
                            w = k
                    state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
                    row = ((state >> np.uint64(32)) * rows) >> np.uint64(32)
                    traded = False
                    while True:  # left at once where the swap is not to be
                        if peak[w] <= heat * noise[row + np.uint64(w)]:
                            break
                        j = np.int64(arg[w]) * width + w
                        if j >= n:
                            break
                        c = np.int64(tag[j])
                        if c == a:
                            break
                        delta = (
                            np.float64(pulls[c, i]) - np.float64(own[i]) + np.float64(pulls[a, j]) - np.float64(own[j])
                        )
                        delta -= 2.0 * np.float64(flat[i, j])
                        if descent and delta <= 0.0:
                            break
                        fits = True
                        for r in range(resources):
                            into = load[r, c] + sizes[r, i] - sizes[r, j]
                            out = load[r, a] + sizes[r, j] - sizes[r, i]
                            if into > upper[r, c] or into < lower[r, c] or out > upper[r, a] or out < lower[r, a]:
                                fits = False
                        first, second = np.uint32(a), np.uint32(c)
                        if masked and fits:
                            clash = -2 * int(conflict[i, j])
                            for o in range(padded):
                                x = tag[o]
                                clash += conflict[i, o] * (x == second) + conflict[j, o] * (x == first)
                            fits = clash == 0
                        if not fits:
                            break
                        if delta < 0.0 and improved:
                            for o in range(n):
                                best[o] = tag[o]
                            improved = False
                        done += 1
                        tag[i], tag[j] = second, first
                        for o in range(padded):
                            g = flat[i, o] - flat[j, o]
                            pulls[a, o] -= g
                            pulls[c, o] += g
                            x = tag[o]
                            own[o] += (g if x == second else zero) - (g if x == first else zero)
                        total[a] += j - i
                        total[c] += i - j
                        own[i], own[j] = pulls[c, i], pulls[a, j]
                        if cost != zero:
                            if count[a] == 1:
                                pulls[a, i] += cost
                                pulls[a, j] -= cost
                            if count[c] == 1:
                                pulls[c, j] += cost
                                pulls[c, i] -= cost
                        for r in range(resources):
                            load[r, a] += sizes[r, j] - sizes[r, i]
                            load[r, c] += sizes[r, i] - sizes[r, j]
                            change = bulk[r, i] - bulk[r, j]
                            room[r, a] += change
                            room[r, c] -= change
                            spare[r, a] -= change
                            spare[r, c] += change
                            here, there = room[r, a], room[r, c]
                            for o in range(padded):
                                x = tag[o]
                                h = here if x == first else above[r, o]
                                above[r, o] = there if x == second else h
                            if lowered:
                                here, there = spare[r, a], spare[r, c]
                                for o in range(padded):
                                    x = tag[o]
                                    h = here if x == first else below[r, o]
                                    below[r, o] = there if x == second else h
                        value += delta
                        if value > top:
                            top = value
                            improved = True
                        spent += 10.0 * steps + 20.0
                        traded = True
                        break
                    if traded or lead < 0:
                        continue
                    # One for two: i for a lighter j and for a mate of j's in its stage.
                    weigh = bulk[lead, i]
                    for k in range(width):
                        peak[k] = floor
                        arg[k] = 0
                    for d in range(blocks):
                        row = (begin + np.uint64(d) * np.uint64(104729)) % rows
                        mark = np.uint32(d)
                        at = d * width
                        for k in range(width):
                            x = free[at + k] + heat * noise[row + np.uint64(k)]
                            x = x if bulk[lead, at + k] < weigh else floor
                            better = x > peak[k]
                            arg[k] = mark if better else arg[k]
                            peak[k] = x if better else peak[k]
                    w = 0
                    for k in range(1, width):
                        if peak[k] > peak[w]:
                            w = k
                    j = np.int64(arg[w]) * width + w
                    spent += steps * 5.0 + 20.0
                    if j >= n or tag[j] == tag[i] or peak[w] <= floor:
                        continue
                    c = np.int64(tag[j])
                    second = np.uint32(c)
                    for o in range(padded):
                        x = pulls[a, o] - own[o] + two * (flat[j, o] - flat[i, o])
                        swap[o] = x if tag[o] == second else floor
                    swap[j] = floor
                    for r in range(resources):
                        rest = bulk[r, i] - bulk[r, j]
                        here, there = room[r, a] + rest, spare[r, a] - rest
                        most, fewest = min(here, spare[r, c] + rest), max(-there, rest - room[r, c])
                        for o in range(padded):
                            x = swap[o] if bulk[r, o] <= most else floor
                            swap[o] = x if bulk[r, o] >= fewest else floor
                    for k in range(width):
                        peak[k] = floor
                        arg[k] = 0
                    for d in range(blocks):
                        row = (begin + np.uint64(d) * np.uint64(15485863)) % rows
                        mark = np.uint32(d)
                        at = d * width
                        for k in range(width):
                            x = swap[at + k] + heat * noise[row + np.uint64(k)]
                            better = x > peak[k]
                            arg[k] = mark if better else arg[k]
                            peak[k] = x if better else peak[k]
                    w = 0
                    for k in range(1, width):
                        if peak[k] > peak[w]:
                            w = k
                    mate = np.int64(arg[w]) * width + w
                    spent += steps * (10.0 + 2.0 * resources) + 20.0
                    state = state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
                    row = ((state >> np.uint64(32)) * rows) >> np.uint64(32)
                    if mate >= n or peak[w] <= floor or free[j] + peak[w] <= heat * noise[row + np.uint64(w)]:
                        continue
                    delta = np.float64(pulls[c, i]) - np.float64(own[i])
                    delta += (
                        np.float64(pulls[a, j])
                        - np.float64(own[j])
                        + np.float64(pulls[a, mate])
                        - np.float64(own[mate])
                    )
                    delta += 2.0 * (np.float64(flat[j, mate]) - np.float64(flat[i, j]) - np.float64(flat[i, mate]))
                    if descent and delta <= 0.0:
                        continue
                    fits = tag[mate] == second and mate != j
                    for r in range(resources):
                        shift = sizes[r, i] - sizes[r, j] - sizes[r, mate]
                        into, out = load[r, c] + shift, load[r, a] - shift
                        if into > upper[r, c] or into < lower[r, c] or out > upper[r, a] or out < lower[r, a]:
                            fits = False
                    if masked and fits:
                        first = np.uint32(a)
                        clash = -2 * int(conflict[i, j]) - 2 * int(conflict[i, mate])
                        for o in range(padded):
                            x = tag[o]
                            clash += conflict[i, o] * (x == second)
                            clash += (conflict[j, o] + conflict[mate, o]) * (x == first)
                        fits = clash == 0
                    if not fits:
                        continue
                    if delta < 0.0 and improved:
                        for o in range(n):
                            best[o] = tag[o]
                        improved = False
                    done += 1
                    # One after the other, so that neither stage is ever empty.
                    party[0], party[1], party[2] = j, i, mate
                    for q in range(3):
                        z = party[q]
                        source = a if q == 1 else c
                        target = c if q == 1 else a
                        first, second = np.uint32(source), np.uint32(target)
                        tag[z] = second
                        for o in range(padded):
                            g = flat[z, o]
                            pulls[source, o] -= g
                            pulls[target, o] += g
                            x = tag[o]
                            own[o] += (g if x == second else zero) - (g if x == first else zero)
                        own[z] = pulls[target, z]
                        count[source] -= 1
                        count[target] += 1
                        total[source] -= z
                        total[target] += z
                        if cost != zero:
                            if count[target] == 2:
                                pulls[target, total[target] - z] += cost
                            if count[source] == 1:
                                pulls[source, total[source]] -= cost
                        for r in range(resources):
                            load[r, source] -= sizes[r, z]
                            load[r, target] += sizes[r, z]
                            change = bulk[r, z]
                            room[r, source] += change
                            room[r, target] -= change
                            spare[r, source] -= change
                            spare[r, target] += change
                    for r in range(resources):
                        first, second = np.uint32(a), np.uint32(c)
                        here, there = room[r, a], room[r, c]
                        for o in range(padded):
                            x = tag[o]
                            g = here if x == first else above[r, o]
                            above[r, o] = there if x == second else g
                        if lowered:
                            here, there = spare[r, a], spare[r, c]
                            for o in range(padded):
                                x = tag[o]
                                g = here if x == first else below[r, o]
                                below[r, o] = there if x == second else g
                    value += delta
                    if value > top:
                        top = value
                        improved = True
                    spent += 20.0 * steps + 20.0
        if descent:
            if done == before:
                break
        else:
            bucket = min(buckets - 1, int(fraction * buckets))
            record[bucket, 0] += n
            record[bucket, 1] += done - before
            record[bucket, 2] += value * n
            descent = spent >= work
    if improved:
        for o in range(n):
            best[o] = tag[o]
    return top
