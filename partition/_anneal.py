"""The annealing kernel: moves and swaps over feasible partitions, written for a compiler.

Plain loops over arrays, no objects: numba compiles it (see `_jit`); it is never called uncompiled, since
`_heatbath` does the same work in NumPy at a tenth of the speed but a hundred times that of interpreted loops.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["anneal"]


def anneal(
    gain: Any,
    sizes: Any,
    upper: Any,
    lower: Any,
    conflict: Any,
    bounded: bool,
    masked: bool,
    kappa: float,
    least: int,
    labels: Any,
    best: Any,
    hot: float,
    cold: float,
    moves: int,
    seed: int,
    acceptance: Any,
    stop: Any,
) -> float:
    """Anneal `labels` in place, keep the best partition seen in `best` and return its value.

    Parameters
    ----------
    gain : float64 (n, n), whole numbers
    sizes : int64 (r, n); upper, lower : int64 (r, m), one column a stage slot
    conflict : uint8 (n, n); `masked` says whether any is set, `bounded` whether there are resources
    kappa : cost of a stage; least : fewest stages; the most is m, the number of slots
    labels : int64 (n,), a feasible start, overwritten; best : int64 (n,), output
    hot, cold : first and last temperature, in units of the gain
    moves : proposals; seed : of the generator in the kernel
    acceptance : float64 (1,), output: the share of proposals made
    stop : int64 (1,), set to 1 from another thread when the time is up; read every few thousand proposals
    """
    n = gain.shape[0]
    m = upper.shape[1]
    resources = sizes.shape[0]
    pull = np.zeros((m, n))
    clash = np.zeros((m, n), dtype=np.int32)
    load = np.zeros((resources, m), dtype=np.int64)
    count = np.zeros(m, dtype=np.int64)
    used = 0
    for i in range(n):
        c = labels[i]
        if count[c] == 0:
            used += 1
        count[c] += 1
        for r in range(resources):
            load[r, c] += sizes[r, i]
        for j in range(n):
            pull[c, j] += gain[i, j]
        if masked:
            for j in range(n):
                clash[c, j] += conflict[i, j]
    value = 0.0
    for i in range(n):
        value += pull[labels[i], i]
    value = value / 2.0 - kappa * used
    top = value
    best[:] = labels
    improved = False

    # Slots in use first, free ones behind: drawing among the first used + 1 proposes every stage and one new one
    # with equal odds. Drawing the stage of a random domain instead would favour large stages.
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

    # SplitMix64; the seed is hashed first, or neighbouring seeds would walk the same sequence a step apart.
    state = (np.uint64(seed) + np.uint64(1)) * np.uint64(0xD1342543DE82EF95)
    state = (state ^ (state >> np.uint64(32))) * np.uint64(0xAF251AF3B0F025B5)
    state ^= state >> np.uint64(29)
    # Proposals come in blocks of one temperature; a block is short against the whole.
    every = max(1, min(64, moves // 64))
    ratio = (cold / hot) ** (every / max(1, moves))
    temperature = hot
    accepted = 0
    for step in range(moves):
        if step % every == 0 and step > 0:
            temperature *= ratio
        if step & 8191 == 8191 and stop[0] != 0:
            break
        state += np.uint64(0x9E3779B97F4A7C15)
        word = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        word ^= word >> np.uint64(31)
        i = int((word & np.uint64(0xFFFFFF)) * np.uint64(n) >> np.uint64(24))
        kind = np.int64((word >> np.uint64(48)) & np.uint64(0xFF))
        span = n if bounded and kind >= 128 else min(m, used + 1)
        j = int(((word >> np.uint64(24)) & np.uint64(0xFFFFFF)) * np.uint64(span) >> np.uint64(24))
        a = labels[i]
        swap = False
        if bounded and kind >= 128:
            c = labels[j]
            if c == a:
                continue
            swap = True
        else:
            c = slots[j]
            if c == a or (count[c] == 0 and count[a] == 1):
                continue
        feasible = True
        if swap:
            if masked and (clash[c, i] - conflict[i, j] > 0 or clash[a, j] - conflict[i, j] > 0):
                continue
            for r in range(resources):
                change = sizes[r, i] - sizes[r, j]
                into, out = load[r, c] + change, load[r, a] - change
                if into > upper[r, c] or out > upper[r, a] or into < lower[r, c] or out < lower[r, a]:
                    feasible = False
                    break
            if not feasible:
                continue
            delta = pull[c, i] - pull[a, i] + pull[a, j] - pull[c, j] - 2.0 * gain[i, j]
        else:
            if masked and clash[c, i] > 0:
                continue
            last = count[a] == 1
            if last and used <= least:
                continue
            for r in range(resources):
                into, out = load[r, c] + sizes[r, i], load[r, a] - sizes[r, i]
                if into > upper[r, c] or into < lower[r, c] or (not last and out < lower[r, a]):
                    feasible = False
                    break
            if not feasible:
                continue
            delta = pull[c, i] - pull[a, i]
            if last:
                delta += kappa
            if count[c] == 0:
                delta -= kappa
        if delta < 0.0:
            if delta < -18.0 * temperature:
                continue
            state += np.uint64(0x9E3779B97F4A7C15)
            word = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            draw = np.float64((word ^ (word >> np.uint64(31))) >> np.uint64(11)) * (1.0 / 9007199254740992.0)
            if draw >= np.exp(delta / temperature):
                continue
            # About to step down from what may be the best partition so far: keep it now, not at every rise.
            if improved:
                best[:] = labels
                improved = False
        accepted += 1
        if swap:
            for r in range(resources):
                change = sizes[r, i] - sizes[r, j]
                load[r, c] += change
                load[r, a] -= change
            for o in range(n):
                change = gain[i, o] - gain[j, o]
                pull[a, o] -= change
                pull[c, o] += change
            if masked:
                for o in range(n):
                    shift = np.int32(conflict[i, o]) - np.int32(conflict[j, o])
                    clash[a, o] -= shift
                    clash[c, o] += shift
            labels[i] = c
            labels[j] = a
        else:
            if count[c] == 0:
                other = slots[used]
                slots[place[c]], place[other] = other, place[c]
                slots[used], place[c] = c, used
                used += 1
            for r in range(resources):
                load[r, c] += sizes[r, i]
                load[r, a] -= sizes[r, i]
            for o in range(n):
                pull[a, o] -= gain[i, o]
                pull[c, o] += gain[i, o]
            if masked:
                for o in range(n):
                    clash[a, o] -= conflict[i, o]
                    clash[c, o] += conflict[i, o]
            count[a] -= 1
            count[c] += 1
            if count[a] == 0:
                used -= 1
                other = slots[used]
                slots[place[a]], place[other] = other, place[a]
                slots[used], place[a] = a, used
            labels[i] = c
        value += delta
        if value > top:
            top = value
            improved = True
    if improved:
        best[:] = labels
    acceptance[0] = accepted / max(1, moves)
    return top
