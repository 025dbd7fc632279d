"""A first feasible partition, by greedy packing in several orders; and one near given groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .solution import canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Core

__all__ = ["feasible_start", "fit", "merge_best", "repair"]


def feasible_start(core: Core, rng: np.random.Generator, tries: int = 24) -> NDArray[np.int64] | None:
    """Item labels that keep every constraint, or None when greedy packing finds none."""
    n = core.n
    weight = (core.sizes / np.maximum(1, core.upper.max(axis=1, initial=1))[:, None]).sum(axis=0)
    degree = core.conflict.sum(axis=1)
    for trial in range(tries):
        noise = rng.random(n) * (0.0 if trial == 0 else 0.3 * trial / tries + 0.05)
        span = max(1e-12, float(weight.max(initial=0.0)))
        order = np.argsort(-(weight / span + 0.5 * degree / max(1, n) + noise), kind="stable")
        for stages in _counts(core, trial):
            labels = _pack(core, order, stages, greedy=trial % 3 == 2)
            if labels is not None:
                return labels
    return None


def repair(core: Core, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64] | None:
    """A feasible partition near `labels`: groups are kept where they fit, the rest is packed by gain."""
    n = core.n
    out = np.full(n, -1, dtype=np.int64)
    slots = core.most
    load = np.zeros((len(core.sizes), slots), dtype=np.int64)
    groups = sorted((np.flatnonzero(labels == c) for c in np.unique(labels)), key=len, reverse=True)
    left: list[int] = []
    opened = 0
    for group in groups:
        if opened >= slots:
            left.extend(group.tolist())
            continue
        c = opened
        opened += 1
        inner = core.gain[np.ix_(group, group)].sum(axis=1)
        for i in group[np.argsort(-inner, kind="stable")]:
            column = c if core.labelled else 0
            room = (load[:, c] + core.sizes[:, i] <= core.upper[:, column]).all()
            if room and not core.conflict[i, i] and not core.conflict[i, out == c].any():
                out[i] = c
                load[:, c] += core.sizes[:, i]
            else:
                left.append(int(i))
        if not (out == c).any():
            opened -= 1
    order = sorted(left, key=lambda i: -int(core.sizes[:, i].sum()))
    for i in order:
        best, where = None, -1
        for c in range(min(slots, opened + 1)):
            column = c if core.labelled else 0
            if (load[:, c] + core.sizes[:, i] > core.upper[:, column]).any() or core.conflict[i, out == c].any():
                continue
            value = int(core.gain[i, out == c].sum()) - (core.kappa if c == opened else 0)
            if best is None or value > best:
                best, where = value, c
        if where < 0:
            return None
        opened += where == opened
        out[i] = where
        load[:, where] += core.sizes[:, i]
    return out if core.feasible(out) else None


def fit(core: Core, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64] | None:
    """`labels` if feasible; else merged or split to the number of stages and repacked to the budgets."""
    if core.feasible(labels):
        return labels
    labels = canonical(labels)
    while labels.max() + 1 > core.most:
        labels = merge_best(core, labels)
    out = repair(core, labels, rng)
    if out is None and not core.labelled:
        # Lower bounds or stage counts: merge small stages into the best partner while that is legal.
        out = _merge_until(core, labels)
    while out is None and labels.max() + 1 < max(core.least, 1):
        big = int(np.bincount(labels).argmax())
        members = np.flatnonzero(labels == big)
        if len(members) < 2:
            break
        inner = core.gain[np.ix_(members, members)].sum(axis=1)
        labels[members[inner.argmin()]] = labels.max() + 1
        out = labels if core.feasible(labels) else repair(core, labels, rng)
    return out


def merge_best(core: Core, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Merge the two groups that gain most, budgets and conflicts permitting where possible."""
    m = int(labels.max()) + 1
    member = np.zeros((m, core.n), dtype=np.int64)
    member[labels, np.arange(core.n)] = 1
    gain = (member @ core.gain @ member.T).astype(np.float64)
    clash = (member @ core.conflict.astype(np.int64) @ member.T) > 0
    load = core.sizes @ member.T
    over = np.zeros((m, m), dtype=np.bool_)
    for r in range(len(core.sizes)):
        over |= load[r][:, None] + load[r][None, :] > core.upper[r, 0]
    penalty = float(np.abs(gain).max(initial=0.0)) + 1.0
    score = np.where(clash | over, gain - 4 * penalty, gain)
    score[np.tril_indices(m)] = -np.inf
    a, b = np.unravel_index(int(score.argmax()), score.shape)
    return canonical(np.where(labels == b, a, labels))


def _merge_until(core: Core, labels: NDArray[np.int64]) -> NDArray[np.int64] | None:
    while labels.max() > 0:
        labels = merge_best(core, labels)
        if core.feasible(labels):
            return labels
    return None


def _counts(core: Core, trial: int) -> list[int]:
    """Numbers of stages worth packing into: those the resources allow, near the least that fits first."""
    low = core.least
    if len(core.sizes) and not core.labelled:
        total = core.sizes.sum(axis=1)
        room = np.maximum(1, core.upper[:, 0])
        low = max(low, int(np.ceil(total / room).max()))
    low = min(max(1, low), core.most)
    high = core.most
    for r in range(len(core.sizes)):
        least = int(core.lower[r, 0])
        if not core.labelled and least > 0:
            high = min(high, int(core.sizes[r].sum()) // least)
    if high < low:
        return [low]
    return sorted({low, min(high, low + 1 + trial), (low + high) // 2, high})


def _pack(core: Core, order: NDArray[np.int64], stages: int, *, greedy: bool) -> NDArray[np.int64] | None:
    """Each item in turn to the emptiest stage that takes it (or the best by gain when `greedy`)."""
    n = core.n
    labels = np.full(n, -1, dtype=np.int64)
    columns = np.arange(stages) if core.labelled else np.zeros(stages, dtype=np.int64)
    upper, lower = core.upper[:, columns], core.lower[:, columns]
    load = np.zeros((len(core.sizes), stages), dtype=np.int64)
    count = np.zeros(stages, dtype=np.int64)
    for rank, i in enumerate(order):
        if core.conflict[i, i]:
            return None
        allowed = np.asarray((load + core.sizes[:, i : i + 1] <= upper).all(axis=0))
        mates = np.flatnonzero(core.conflict[i] & (labels >= 0))
        allowed[labels[mates]] = False
        # Keep enough items back to leave no stage empty.
        if (count == 0).sum() >= n - rank:
            allowed &= count == 0
        if not allowed.any():
            return None
        need = np.maximum(0, lower - load).sum(axis=0) if len(core.sizes) else np.zeros(stages)
        fill = (load / np.maximum(1, upper)).max(axis=0, initial=0.0) if len(core.sizes) else count / n
        if greedy:
            pull = np.array([core.gain[i, labels == c].sum() for c in range(stages)], dtype=np.float64)
            key = np.where(need > 0, pull + np.abs(pull).max() + 1, pull)
        else:
            key = -fill
        key = np.where(allowed, key, -np.inf)
        c = int(key.argmax())
        labels[i] = c
        count[c] += 1
        load[:, c] += core.sizes[:, i]
    return labels if core.feasible(labels) else None
