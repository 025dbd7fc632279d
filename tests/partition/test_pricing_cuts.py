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
    everything = pricer.exact(dual, 0.0, threshold=limit, climb=False, prices=prices)
    assert everything.complete
    assert len(everything.members) == sum(value >= limit for value in worth)


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
