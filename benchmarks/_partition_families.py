"""Generators of the families that the clustering literature is judged on, for development: never the shipped instances.

Each follows the description of its family in the literature, checked against the statistics (range, density, share of
forbidden pairs) of the shipped instances; no shipped instance can come out of it.

    rand      whole weights drawn from -100..100                                            (clique partitioning)
    cpn       weights 0..100, a fifth of the pairs forbidden by -9999                       (clique partitioning)
    rand5     the same from -5..5                                                           (clique partitioning)
    signs     +1 or -1                                                                      (clique partitioning)
    votes     50 random partitions: pairs together less pairs apart                         (clique partitioning)
    relations 50 random symmetric relations: related less unrelated                         (clique partitioning)
    corr      rounded normal weights, standard deviation 14                                 (clique partitioning)
    zoo       objects with categorical attributes from noisy prototypes; matches - mismatches (clique partitioning)
    graph     modularity weights (m e_ij - d_i d_j / 2, scaled) of a planted-partition graph  (modularity)
    ranreal   real weights 0..100, node weights 1..10, clusters within 75..125              (capacitated)
    sparse    a sixth of the pairs with exponential-like weights, clusters within 25..75    (capacitated)
    mdg       real weights 0..10 or 0..1000, unit sizes, equal or nearly equal groups       (maximally diverse grouping)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from _partition_instances import Instance, planning, random_weights

__all__ = ["FAMILIES", "make"]


def _symmetric(upper: np.ndarray) -> np.ndarray:
    upper = np.triu(upper, 1)
    return upper + upper.T


def rand(n: int, rng: np.random.Generator) -> Instance:
    return Instance("", _symmetric(rng.integers(-100, 101, (n, n)).astype(float)))


def rand5(n: int, rng: np.random.Generator) -> Instance:
    return Instance("", _symmetric(rng.integers(-5, 6, (n, n)).astype(float)))


def signs(n: int, rng: np.random.Generator) -> Instance:
    return Instance("", _symmetric(np.where(rng.random((n, n)) < 0.5, -1.0, 1.0)))


def votes(n: int, rng: np.random.Generator) -> Instance:
    gain = np.zeros((n, n))
    for _ in range(50):
        group = rng.integers(0, int(rng.integers(2, 8)), n)
        gain += np.where(group[:, None] == group[None, :], 1.0, -1.0)
    return Instance("", _symmetric(gain - np.rint(gain[np.triu_indices(n, 1)].mean())))


def relations(n: int, rng: np.random.Generator) -> Instance:
    return Instance("", _symmetric(2.0 * rng.binomial(50, 0.5, (n, n)) - 50.0))


def cpn(n: int, rng: np.random.Generator) -> Instance:
    weights = rng.integers(0, 101, (n, n)).astype(float)
    return Instance("", _symmetric(np.where(rng.random((n, n)) < 0.2, -9999.0, weights)))


def corr(n: int, rng: np.random.Generator) -> Instance:
    return Instance("", _symmetric(np.rint(14 * rng.normal(size=(n, n)))))


def zoo(n: int, rng: np.random.Generator) -> Instance:
    attributes, kinds = 16, 7
    prototypes = rng.integers(0, 2, (kinds, attributes))
    prototypes[:, -1] = rng.integers(0, 6, kinds)
    values = prototypes[rng.integers(0, kinds, n)]
    noise = rng.random((n, attributes)) < 0.12
    values = np.where(noise, rng.integers(0, 2, (n, attributes)), values)
    same = (values[:, None, :] == values[None, :, :]).sum(-1)
    return Instance("", _symmetric((2 * same - attributes).astype(float)))


def graph(n: int, rng: np.random.Generator) -> Instance:
    groups = rng.integers(0, max(2, n // 20), n)
    odds = np.where(groups[:, None] == groups[None, :], 6.0, 1.0)
    odds *= min(1.0, 5.0 / (odds.mean() * n))
    edges = _symmetric((rng.random((n, n)) < odds).astype(float))
    degree = edges.sum(axis=1)
    total = degree.sum()
    return Instance("", _symmetric(2 * edges * total - 2 * np.outer(degree, degree)))


def _capacitated(gain: np.ndarray, sizes: np.ndarray, m: int, low: float, high: float) -> Instance:
    arguments = {"sizes": sizes, "minimum": [low] * m, "budget": [high] * m, "stages": m}
    return Instance("", gain, arguments)


def ranreal(n: int, rng: np.random.Generator) -> Instance:
    m = max(2, n // 20)
    sizes = rng.integers(1, 11, n).astype(float)
    mean = sizes.sum() / m
    low, high = (75.0, 125.0) if abs(mean - 107) < 15 else (np.floor(0.7 * mean), np.ceil(1.15 * mean))
    return _capacitated(_symmetric(np.round(100 * rng.random((n, n)), 6)), sizes, m, low, high)


def sparse(n: int, rng: np.random.Generator) -> Instance:
    m = max(2, round(n / 10.25))
    sizes = rng.integers(1, 11, n).astype(float)
    weights = np.round(rng.exponential(4.7, (n, n)), 6)
    gain = _symmetric(np.where(rng.random((n, n)) < 0.163, np.minimum(weights, 28.0), 0.0))
    return _capacitated(gain, sizes, m, 25.0, 75.0)


def mdg(n: int, rng: np.random.Generator) -> Instance:
    m = max(2, n // 24)
    top = float(rng.choice([10.0, 1000.0]))
    mean = n / m
    spread = int(rng.integers(0, 2)) * 0.2
    low, high = float(np.floor(mean * (1 - spread))), float(np.ceil(mean * (1 + spread)))
    return _capacitated(_symmetric(np.round(top * rng.random((n, n)), 2)), np.ones(n), m, low, high)


FAMILIES: dict[str, Callable[[int, np.random.Generator], Instance]] = {
    "rand": rand,
    "rand5": rand5,
    "signs": signs,
    "votes": votes,
    "relations": relations,
    "cpn": cpn,
    "corr": corr,
    "zoo": zoo,
    "graph": graph,
    "ranreal": ranreal,
    "sparse": sparse,
    "mdg": mdg,
}


def make(family: str, n: int, seed: int) -> Instance:
    """Instance `seed` of a family at size n; `planning` and `random` are the planner's own."""
    if family == "planning":
        return planning(n, 10_000 + seed)
    if family == "random":
        return random_weights(n, 10_000 + seed)
    one = FAMILIES[family](n, np.random.default_rng([n, seed, 2026]))
    return Instance(f"{family}-{n}-{seed}", one.gain, one.arguments)
