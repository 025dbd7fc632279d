"""Pricing under subset-row cuts against all subsets: a bound that is too low would call a plan optimal that is not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest


@pytest.mark.parametrize("seed", range(120))
def test_no_stage_is_missed_and_no_bound_is_below_the_best(seed: int) -> None:
    """Six overlapping triples at prices as large as the gains: many sets hold one, two or three items of a cut."""
    from kinfold.partition._core import make_core
    from kinfold.partition._pricer import Pricer
    from kinfold.partition.problem import make_problem

    rng = np.random.default_rng(seed)
    n = (3, 5, 7)[seed % 3]
    upper = np.triu(rng.integers(-20, 40, (n, n)), 1).astype(float)
    gain = upper + upper.T
    budgeted = {"sizes": rng.integers(1, 5, n), "budget": 9} if seed % 2 else {}
    core = make_core(make_problem(gain, **budgeted))
    pricer = Pricer(core)
    triples = list(itertools.combinations(range(core.n), 3))
    rng.shuffle(triples)
    cuts = np.array(triples[:6], dtype=np.int32).reshape(-1, 3)
    pricer.set_cuts(cuts)
    prices = rng.integers(0, 40, len(cuts)).astype(float)
    dual = rng.integers(0, 60, core.n).astype(float)

    worth = []
    for size in range(1, core.n + 1):
        for items in itertools.combinations(range(core.n), size):
            chosen = list(items)
            inside = np.ix_(chosen, chosen)
            if core.conflict[inside].any() or any(
                row[chosen].sum() > core.upper[r, 0] for r, row in enumerate(core.sizes)
            ):
                continue
            paid = sum(price for price, cut in zip(prices, cuts, strict=True) if len(set(cut) & set(items)) > 1)
            worth.append(core.gain[inside].sum() / 2 - dual[chosen].sum() - paid)

    best = pricer.exact(dual, 0.0, threshold=-1e6, prices=prices)
    assert best.complete
    assert best.bound >= max(worth) - 1e-6
    limit = -20.0
    for workers in (1, 3):
        pricer = Pricer(core, workers=workers)
        pricer.set_cuts(cuts)
        pricer.balance(dual, 0.0, prices=prices)
        everything = pricer.exact(dual, 0.0, threshold=limit, climb=False, prices=prices)
        assert everything.complete
        assert len(np.unique(everything.members, axis=0)) == len(everything.members)
        assert sorted(everything.values) == sorted(value for value in worth if value >= limit)
        best = pricer.exact(dual, 0.0, threshold=-1e6, prices=prices)
        assert best.complete
        assert best.bound >= max(worth) - 1e-6


def test_a_threshold_between_whole_numbers_does_not_undercut_the_best() -> None:
    """A pair worth 10 lies below 10.7 and above 9.7: a search for more than 10.7 has not shown that 9.7 bounds it."""
    from kinfold.partition._core import make_core
    from kinfold.partition._pricer import Pricer
    from kinfold.partition.problem import make_problem

    pricer = Pricer(make_core(make_problem([[0.0, 10.0, -5.0], [10.0, 0.0, -5.0], [-5.0, -5.0, 0.0]])))
    found = pricer.exact(np.zeros(3), 0.0, threshold=10.7)
    assert found.complete
    assert not len(found.members)
    assert found.bound >= 10.0


@pytest.mark.parametrize("seed", range(60))
def test_the_climb_knows_the_prices_of_cuts(seed: int) -> None:
    """What it returns is worth what it says, and no item that joins, leaves or is exchanged would add to it."""
    from kinfold.partition._core import make_core
    from kinfold.partition._pricer import Pricer
    from kinfold.partition.problem import make_problem

    rng = np.random.default_rng([seed, 7])
    n = 9
    upper = np.triu(rng.integers(-20, 40, (n, n)), 1).astype(float)
    budgeted = {"sizes": rng.integers(1, 5, n), "budget": 11} if seed % 2 else {}
    core = make_core(make_problem(upper + upper.T, **budgeted))
    pricer = Pricer(core)
    triples = list(itertools.combinations(range(n), 3))
    rng.shuffle(triples)
    cuts = np.array(triples[:12], dtype=np.int32)
    pricer.set_cuts(cuts)
    # The last cuts have no price yet, as between cutting and the next linear programme.
    prices = rng.integers(0, 40, 10).astype(float)
    dual = rng.integers(0, 30, n).astype(float)

    def worth(items: frozenset[int]) -> float:
        chosen = sorted(items)
        inside = np.ix_(chosen, chosen)
        over = any(row[chosen].sum() > core.upper[r, 0] for r, row in enumerate(core.sizes))
        if over or core.conflict[inside].any():
            return -np.inf
        paid = sum(price for price, cut in zip(prices, cuts[:10], strict=True) if len(set(cut) & items) > 1)
        return float(core.gain[inside].sum() / 2 - dual[chosen].sum() - 1.0 - paid)

    members, values = pricer.local(dual, 1.0, np.eye(n, dtype=np.bool_), prices)
    # Some of sixty draws have no stage worth anything; a climb from every item finds one where it is worth as much.
    assert len(members) or max(worth(frozenset([i])) for i in range(n)) <= 0
    for inside, value in zip(members, values, strict=True):
        items = frozenset(np.flatnonzero(inside).tolist())
        assert worth(items) == value
        others = frozenset(range(n)) - items
        near = [items | {j} for j in others] + [(items - {i}) | {j} for i in items for j in others]
        near += [items - {i} for i in items if len(items) > 1]
        assert max(worth(one) for one in near) <= value
