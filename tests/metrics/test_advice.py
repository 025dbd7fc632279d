from __future__ import annotations

import numpy as np
import pytest
from kinfold.errors import InputError
from kinfold.metrics.advice import advise, rank_measures
from scipy.stats import spearmanr

SIMILAR = ("synergy", "jaccard", "cosine_centred", "cosine")
APART = ("js", "mmd2", "discrepancy")


def _noise(rng, k):
    square = rng.standard_normal((k, k))
    return square + square.T


def _signal(rng, k):
    """Distances between points: pairs of one domain hang together, as those of real measures do."""
    points = rng.standard_normal((k, 3))
    return -((points[:, None] - points[None]) ** 2).sum(axis=-1) / 3


def test_correlations_are_spearmans_with_discrepancies_turned_round():
    rng = np.random.default_rng(0)
    truth, other = _signal(rng, 14), _noise(rng, 14)
    found = rank_measures({"js": -truth, "cosine": truth, "jaccard": other, "mmd2_p": truth}, truth, draws=100)
    assert found["js"]["rho"] == pytest.approx(1)
    assert found["cosine"]["rho"] == pytest.approx(1)
    upper = np.triu_indices(14, 1)
    assert found["jaccard"]["rho"] == pytest.approx(spearmanr(other[upper], truth[upper]).statistic)
    assert found["jaccard"]["low"] < 0 < found["jaccard"]["high"]
    assert found["cosine"]["p"] == pytest.approx(1 / 101)
    assert "jaccard" in found["cosine"]["better"]
    assert "js" not in found["cosine"]["better"]  # another kind: the planner takes one of each
    assert "mmd2_p" not in found
    assert rank_measures({"js": np.ones((4, 4))}, _noise(rng, 4)) == {}
    with pytest.raises(InputError, match="at least 3"):
        rank_measures({"js": np.eye(2)}, np.eye(2))


@pytest.mark.parametrize("k", [5, 10])
def test_noise_is_rarely_advised(k):
    """Nothing foretells anything: of 40 data sets at most 5 % + 3 standard errors may be told that something does."""
    rng = np.random.default_rng(k)
    wrong = beyond = 0
    for draw in range(40):
        matrices = {name: _noise(rng, k) for name in (*APART, *SIMILAR)}
        best, advice = advise(rank_measures(matrices, _signal(rng, k), seed=draw, draws=99))
        beyond += best is not None
        wrong += "clearly better" in advice
    assert beyond <= 6
    assert wrong <= 2


def test_equally_good_measures_are_not_told_apart():
    """All measures see the same signal through noise of their own: choosing another than the default is luck."""
    rng = np.random.default_rng(1)
    wrong = named = 0
    for draw in range(24):
        signal = _signal(rng, 10)
        truth = signal + 0.7 * _noise(rng, 10)
        matrices = {name: signal + 0.7 * _noise(rng, 10) for name in SIMILAR}
        matrices |= {name: -signal - 0.7 * _noise(rng, 10) for name in APART}
        _, advice = advise(rank_measures(matrices, truth, seed=draw, draws=99))
        wrong += "clearly better" in advice
        named += "keep the default" in advice or "ranks first" in advice
    assert wrong <= 4  # two choices a data set
    assert named >= 12


def test_a_measure_that_is_truly_better_is_found():
    rng = np.random.default_rng(2)
    found = 0
    for draw in range(10):
        signal = _signal(rng, 16)
        truth = signal + 0.2 * _noise(rng, 16)
        matrices = {name: signal + 3 * _noise(rng, 16) for name in SIMILAR}
        matrices["cosine_centred"] = signal + 0.1 * _noise(rng, 16)
        matrices["js"] = -truth
        _, advice = advise(rank_measures(matrices, truth, seed=draw, draws=99))
        found += "use cosine_centred" in advice and "clearly better than the default synergy" in advice
        assert "the default js ranks first" in advice
    assert found >= 9


def test_advice_says_what_was_not_measured():
    rng = np.random.default_rng(3)
    signal = _signal(rng, 12)
    best, advice = advise(rank_measures({"mmd2": -signal}, signal, draws=99))
    assert best == "mmd2"
    assert "default js was not measured" in advice
    assert "for plan.synergy none is beyond chance" in advice
    row = {"low": -1.0, "high": 1.0, "pairs": 45.0, "better": []}
    weak = {"synergy": {**row, "rho": 0.15, "p": 0.3}, "cosine": {**row, "rho": 0.5, "p": 0.01}}
    assert "keep the default synergy (ρ 0.15, by itself not beyond chance): cosine ranks first" in advise(weak)[1]
    best, advice = advise({})
    assert best is None
    assert "beyond chance" in advice


def test_three_domains_are_too_few_to_tell():
    rng = np.random.default_rng(5)
    truth = _signal(rng, 3)
    found = rank_measures({"js": -truth, "mmd2": truth, "synergy": truth}, truth, draws=200)
    assert found["js"]["rho"] == pytest.approx(1)
    for row in found.values():
        assert (row["low"], row["high"], row["better"]) == (-1.0, 1.0, [])
        assert row["p"] > 0.05
    name, words = advise(found)
    assert name is None
    assert "three domains are too few" in words
    # Four have 24 orders, so one of them can be rare.
    assert "too few" not in advise(rank_measures({"js": _noise(rng, 4)}, _noise(rng, 4), draws=200))[1]
