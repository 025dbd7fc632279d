"""Parts of the annealing kernel (:mod:`._anneal`), compiled into it: how its books open, its questions, its dice."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._jit import inner

__all__ = ["empty_slots", "fill", "fits", "line_up", "seeded", "step"]


@inner
def fill(
    labels: Any,
    flat: Any,
    light: Any,
    sizes: Any,
    tag: Any,
    pulls: Any,
    own: Any,
    count: Any,
    total: Any,
    load: Any,
    room: Any,
    spare: Any,
    above: Any,
    below: Any,
) -> None:
    """Open the books for `labels`; all are zero before but `room` and `spare`, those of empty stages."""
    for i in range(labels.shape[0]):
        c = labels[i]
        tag[i] = c
        count[c] += 1
        total[c] += i
        for o in range(pulls.shape[1]):
            pulls[c, o] += flat[i, o]
        for r in range(load.shape[0]):
            load[r, c] += sizes[r, i]
            room[r, c] -= light[r, i]
            spare[r, c] += light[r, i]
    for i in range(labels.shape[0]):
        c = labels[i]
        own[i] = pulls[c, i]
        for r in range(load.shape[0]):
            above[r, i] = room[r, c]
            below[r, i] = spare[r, c]


@inner
def line_up(count: Any) -> Any:
    """Slots in use first, free ones behind; the place of each; how many are in use."""
    m = count.shape[0]
    slots = np.zeros(m, dtype=np.int64)
    place = np.zeros(m, dtype=np.int64)
    used, back = 0, m - 1
    for c in range(m):
        at = used if count[c] > 0 else back
        slots[at] = c
        place[c] = at
        if count[c] > 0:
            used += 1
        else:
            back -= 1
    return slots, place, used


@inner
def empty_slots(pulls: Any, cost: Any, slots: Any, begin: int, end: int) -> None:
    """Let slots[begin:end], which nobody is in, cost what a new stage costs."""
    for q in range(begin, end):
        c = slots[q]
        for o in range(pulls.shape[1]):
            pulls[c, o] = -cost


@inner
def fits(
    i: int,
    j: int,
    mate: int,
    a: int,
    c: int,
    sizes: Any,
    load: Any,
    upper: Any,
    lower: Any,
    count: Any,
    masked: bool,
    conflict: Any,
    tag: Any,
) -> bool:
    """Whether i may go from stage a to stage c, and j and mate the other way, in whole numbers and by all masks.

    Where i leaves a stage empty, that stage has no least.
    """
    nobody = sizes.shape[1] - 1
    closed = count[a] == 1 and j == nobody
    agreed = True
    for r in range(sizes.shape[0]):
        shift = sizes[r, i] - sizes[r, j] - sizes[r, mate]
        into, out = load[r, c] + shift, load[r, a] - shift
        if into > upper[r, c] or into < lower[r, c] or out > upper[r, a] or (out < lower[r, a] and not closed):
            agreed = False
    if masked and agreed:
        first, second = np.uint32(a), np.uint32(c)
        clash = 0
        for o in range(tag.shape[0]):
            x = tag[o]
            clash += conflict[i, o] * (x == second) + (conflict[j, o] + conflict[mate, o]) * (x == first)
        # j and mate leave as i comes.
        clash -= 2 * int(conflict[j, i]) + 2 * int(conflict[mate, i])
        agreed = clash == 0
    return agreed


@inner
def seeded(seed: Any) -> Any:
    """The generator's first state: the seed, hashed as SplitMix64 does."""
    state = (np.uint64(seed) + np.uint64(1)) * np.uint64(0xD1342543DE82EF95)
    state = (state ^ (state >> np.uint64(32))) * np.uint64(0xAF251AF3B0F025B5)
    return state ^ (state >> np.uint64(29))


@inner
def step(state: Any) -> Any:
    """The next state of the generator, a linear congruence whose upper bits are used."""
    return state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
