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

from ._books import empty_slots, fill, fits, line_up, seeded, step

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
    gain : float32 (n + 1, blocks, width), whole numbers; conflicting pairs strongly negative; padded with zeros.
        Item n is nobody: no gains, no sizes, no conflicts.
    conflict : uint8 (n + 1, blocks · width), read only when `masked`
    sizes : int64 (r, n + 1); upper, lower : int64 (r, m), one column a stage slot; what is carried out is checked by
        them
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
    a: Any
    c: Any
    j: Any
    mate: Any
    agreed: Any
    n, blocks, width = gain.shape[0] - 1, gain.shape[1], gain.shape[2]
    m = upper.shape[1]
    resources = sizes.shape[0]
    padded = blocks * width
    real = gain.dtype.type
    zero, two, floor = real(0.0), real(2.0), real(-3e38)
    cost = real(kappa)
    flat = gain.reshape(n + 1, padded)
    bulk = weight.reshape(resources, padded)
    light = np.zeros((resources, n + 1), dtype=gain.dtype)
    light[:, :n] = bulk[:, :n]
    steps = blocks * (width / 16.0)
    buckets = record.shape[0]
    lowered = False
    for r in range(resources):
        for c in range(m):
            if lower[r, c] > 0:
                lowered = True

    # pull[c, i]: what item i gains from stage c. An item alone in its stage carries −kappa there, and an empty stage
    # −kappa for everybody, so that differences of pulls are changes of the objective.
    pull = np.zeros((m, blocks, width), dtype=gain.dtype)
    pulls = pull.reshape(m, padded)
    tags = np.zeros((blocks, width), dtype=np.uint32)
    tag = tags.reshape(padded)
    # own[i]: the pull of item i's own stage, without kappa; the padding never trades.
    own = np.full(padded, real(1e30), dtype=gain.dtype)
    count = np.zeros(m, dtype=np.int64)
    total = np.zeros(m, dtype=np.int64)  # of the indices of a stage's items: which one, where one is alone
    load = np.zeros((resources, m), dtype=np.int64)
    room = ceiling.copy()  # below the ceiling of a stage, and above its ground; then the same by item
    spare = -ground
    above = np.zeros((resources, padded), dtype=gain.dtype)
    below = np.zeros((resources, padded), dtype=gain.dtype)
    fill(labels, flat, light, sizes, tag, pulls, own, count, total, load, room, spare, above, below)
    value = 0.0
    for i in range(n):
        value += own[i]
    slots, place, used = line_up(count)
    value = value / 2.0 - kappa * used
    if cost != zero:
        for c in range(m):
            if count[c] == 1:
                pulls[c, total[c]] -= cost
    empty_slots(pulls, cost, slots, used, m if labelled else min(m, used + 1))
    top = value
    best[:] = labels
    improved = False

    state = seeded(seed)
    # Rows start anywhere in the table: every item sees every draw, also the rare ones that cross high walls.
    rows = np.uint64(noise.shape[0] - width - 1)
    chance = np.uint64(min(1.0, trade) * 1048576.0)
    drawn = np.zeros(m, dtype=np.uint64)
    score = np.zeros(width, dtype=gain.dtype)
    peak = np.zeros(width, dtype=gain.dtype)
    arg = np.zeros(width, dtype=np.uint32)
    wish = np.zeros(width, dtype=np.uint32)
    offer = np.zeros(m, dtype=gain.dtype)
    taken = np.zeros(padded, dtype=gain.dtype)
    swap = np.zeros(padded, dtype=gain.dtype)
    free = np.zeros(padded, dtype=gain.dtype)  # swaps whether or not they fit
    # The three looks for a partner: how far on the noise of a block starts from that of the one before, and their work.
    strides = np.array([7919, 104729, 15485863], dtype=np.uint64)
    dear = np.array([14.0 + 3.0 * resources, 5.0, 10.0 + 2.0 * resources])
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
                wish[k] = 0
            for q in range(candidates):
                c = slots[q]
                mark = np.uint32(c)
                state = step(state)
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
                    wish[k] = mark if better else wish[k]
                    peak[k] = score[k] if better else peak[k]
            spent += candidates * (20.0 + (width / 16.0) * (1.0 + resources)) + 60.0
            wishes = 0
            for k in range(width):
                wishes += wish[k] != tags[b, k]
            # First the items of the block that wish to move, then all that may trade places. A step takes item i from
            # stage a to stage c, and j and mate (or nobody) the other way.
            for turn in range(0 if wishes > 0 else width, 2 * width if trade > 0.0 else width):
                moving = turn < width
                k = turn if moving else turn - width
                i = b * width + k
                if i >= n:
                    continue
                a, c = np.int64(tag[i]), np.int64(wish[k])
                j, mate, delta = n, n, 0.0
                if moving:
                    if a == c:
                        continue
                    delta = np.float64(pulls[c, i]) - np.float64(pulls[a, i])
                    # Earlier moves of this block may have changed the pulls: with the same noise, does it still pay?
                    if delta + heat * (noise[drawn[c] + np.uint64(k)] - noise[drawn[a] + np.uint64(k)]) <= 0.0:
                        continue
                    if count[a] == 1 and (used <= least or count[c] == 0):
                        continue
                    if (resources > 0 or masked) and not fits(
                        i, j, mate, a, c, sizes, load, upper, lower, count, masked, conflict, tag
                    ):
                        continue
                else:
                    state = step(state)
                    if (state >> np.uint64(44)) >= chance and not descent:
                        continue
                    begin = state >> np.uint64(33)
                    for q in range(used):
                        c = slots[q]
                        offer[c] = pulls[c, i] - own[i]
                    offer[a] = floor
                    for o in range(padded):
                        taken[o] = offer[tag[o]]
                    agreed = False
                    # One for one; else i for a lighter j, and then for a mate of j's in its stage as well.
                    for look in range(3 if lead >= 0 else 1):
                        if look == 0:
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
                        elif look == 1:
                            size = bulk[lead, i]
                            for o in range(padded):
                                swap[o] = free[o] if bulk[lead, o] < size else floor
                        else:
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
                            row = (begin + np.uint64(d) * strides[look]) % rows
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
                        spent += steps * dear[look] + 20.0
                        seen = np.int64(arg[w]) * width + w
                        if look == 1:
                            j, c = seen, np.int64(tag[seen])
                            if j >= n or c == a or peak[w] <= floor:
                                break
                            continue
                        state = step(state)
                        row = ((state >> np.uint64(32)) * rows) >> np.uint64(32)
                        ask = heat * noise[row + np.uint64(w)]
                        if look == 0:
                            j, c = seen, np.int64(tag[seen])
                            if j >= n or c == a or peak[w] <= ask:
                                continue
                            delta = np.float64(pulls[c, i]) - np.float64(own[i])
                            delta += np.float64(pulls[a, j]) - np.float64(own[j]) - 2.0 * np.float64(flat[i, j])
                        else:
                            mate = seen
                            if mate >= n or mate == j or peak[w] <= floor or free[j] + peak[w] <= ask or tag[mate] != c:
                                break
                            delta = np.float64(pulls[c, i]) - np.float64(own[i])
                            delta += np.float64(pulls[a, j]) - np.float64(own[j])
                            delta += np.float64(pulls[a, mate]) - np.float64(own[mate])
                            delta += 2.0 * np.float64(flat[j, mate])
                            delta -= 2.0 * (np.float64(flat[i, j]) + np.float64(flat[i, mate]))
                        agreed = delta > 0.0 or not descent
                        agreed = agreed and fits(
                            i, j, mate, a, c, sizes, load, upper, lower, count, masked, conflict, tag
                        )
                        if agreed:
                            break
                    if not agreed:
                        continue
                # About to step down from what may be the best partition so far: keep it now, not at every rise.
                if delta < 0.0 and improved:
                    for o in range(n):
                        best[o] = tag[o]
                    improved = False
                opened = count[c] == 0
                if cost != zero:
                    for q in (a, c):
                        if count[q] == 1:
                            pulls[q, total[q]] += cost
                    if opened:
                        for o in range(padded):
                            pulls[c, o] += cost
                first, second = np.uint32(a), np.uint32(c)
                tag[i] = second
                count[a] -= 1
                count[c] += 1
                total[a] -= i
                total[c] += i
                for z in (j, mate):
                    if z < n:
                        tag[z] = first
                        count[a] += 1
                        count[c] -= 1
                        total[a] += z
                        total[c] -= z
                if trade == 0.0:
                    for o in range(padded):
                        g = flat[i, o]
                        pulls[a, o] -= g
                        pulls[c, o] += g
                else:
                    for o in range(padded):
                        g = flat[i, o] - flat[j, o] - flat[mate, o]
                        pulls[a, o] -= g
                        pulls[c, o] += g
                        x = tag[o]
                        own[o] += (g if x == second else zero) - (g if x == first else zero)
                    own[i] = pulls[c, i]
                    for z in (j, mate):
                        if z < n:
                            own[z] = pulls[a, z]
                if cost != zero:
                    for q in (a, c):
                        if count[q] == 1:
                            pulls[q, total[q]] -= cost
                for r in range(resources):
                    load[r, a] -= sizes[r, i] - sizes[r, j] - sizes[r, mate]
                    load[r, c] += sizes[r, i] - sizes[r, j] - sizes[r, mate]
                    change = light[r, i] - light[r, j] - light[r, mate]
                    room[r, a] += change
                    room[r, c] -= change
                    spare[r, a] -= change
                    spare[r, c] += change
                    if trade > 0.0:
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
                if opened:
                    other = slots[used]
                    slots[place[c]], place[other] = other, place[c]
                    slots[used], place[c] = c, used
                    used += 1
                if count[a] == 0:
                    used -= 1
                    other = slots[used]
                    slots[place[a]], place[other] = other, place[a]
                    slots[used], place[a] = a, used
                if opened or count[a] == 0:
                    # Whatever slot is now the next free one must look empty.
                    empty_slots(pulls, cost, slots, used, m if labelled else min(m, used + 1))
                done += 1
                value += delta
                if value > top:
                    top = value
                    improved = True
                price = (8.0 if trade > 0.0 else 4.0) if moving else 10.0 if mate == n else 20.0
                spent += price * steps + 20.0
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
    return float(top)
