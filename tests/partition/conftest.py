"""Judges that share no code with the solvers: plain enumeration of all partitions, and relations made by hand."""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import pytest
from kinfold.metrics.relations import Relations


def _partitions(k: int) -> Iterator[list[int]]:
    """Restricted growth strings: every partition of k items once."""

    def grow(prefix: list[int], top: int) -> Iterator[list[int]]:
        if len(prefix) == k:
            yield list(prefix)
            return
        for label in range(top + 1):
            yield from grow([*prefix, label], max(top, label + 1))

    yield from grow([], 0)


@cache
def _table(k: int) -> np.ndarray:
    return np.array(list(_partitions(k)), dtype=np.int64)


def enumerate_best(
    gain: np.ndarray,
    *,
    sizes: np.ndarray | None = None,
    budget: float | None = None,
    minimum: float | None = None,
    stages: tuple[int, int] | None = None,
    must_link: list[tuple[int, int]] = (),
    cannot_link: list[tuple[int, int]] = (),
    kappa: float = 0.0,
    more: list[tuple[np.ndarray, float]] = (),
) -> float:
    """The best objective over all partitions that keep every constraint, or −inf; `more` are further budgets."""
    k = len(gain)
    table = _table(k)
    count = table.max(axis=1) + 1
    keep = np.ones(len(table), dtype=bool)
    low, high = stages or (1, k)
    keep &= (count >= low) & (count <= high)
    for i, j in must_link:
        keep &= table[:, i] == table[:, j]
    for i, j in cannot_link:
        keep &= table[:, i] != table[:, j]
    limits = [*more] if budget is None else [(sizes, budget), *more]
    for label in range(k):
        inside = table == label
        for size, most in limits:
            keep &= inside @ size <= most + 1e-9
        if minimum is not None:
            keep &= (inside @ sizes >= minimum - 1e-9) | ~inside.any(axis=1)
    if not keep.any():
        return -np.inf
    total = -kappa * count.astype(float)
    for i in range(k):
        for j in range(i + 1, k):
            total += np.where(table[:, i] == table[:, j], gain[i, j], 0.0)
    return float(total[keep].max())


@pytest.fixture
def brute_force() -> Callable[..., float]:
    return enumerate_best


def make_relations(k: int = 10, seed: int = 0, replicates: int = 12, noise: float = 0.05) -> Relations:
    """Domains as noisy points around k/4 centres, with bootstrap draws of the given noise."""
    rng = np.random.default_rng(seed)
    groups = max(2, k // 4)
    points = rng.normal(size=(groups, 6))[rng.integers(0, groups, k)] + 0.6 * rng.normal(size=(k, 6))
    square = ((points[:, None] - points[None]) ** 2).sum(-1)
    js = 1 - np.exp(-square / 10)
    norm = np.sqrt((points**2).sum(1))
    synergy = points @ points.T / np.outer(norm, norm)

    def draws(matrix: np.ndarray) -> np.ndarray:
        errors = noise * rng.normal(size=(replicates, k, k))
        return (matrix + (errors + errors.transpose(0, 2, 1)) / 2).astype(np.float32)

    names = tuple(f"d{i:02d}" for i in range(k))
    return Relations(
        domains=names,
        matrices={"js": js, "synergy": synergy},
        low={"js": js - 2 * noise, "synergy": synergy - 2 * noise},
        high={"js": js + 2 * noise, "synergy": synergy + 2 * noise},
        replicates={"js": draws(js), "synergy": draws(synergy)},
        tokens=rng.integers(1000, 9000, k),
        documents=rng.integers(100, 900, k),
        fingerprints={"corpora": {name: f"hash-{name}" for name in names}, "tokenizer": "t"},
    )


@pytest.fixture
def relations() -> Relations:
    return make_relations()


@pytest.fixture
def relations_of() -> Callable[..., Relations]:
    return make_relations
