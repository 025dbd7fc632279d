"""Paired differences: the intervals hold what they promise, with few seeds too."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.app.compare._statistics import bootstrap_interval, paired_difference, student_half_width


def test_the_bootstrap_agrees_with_all_resamples() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 2, 2))
    reference = rng.normal(size=(3, 2))
    difference = values - reference[:, None, :]
    means = []
    for seeds in itertools.product(range(3), repeat=3):
        for draws in itertools.product(itertools.product(range(2), repeat=2), repeat=3):
            for domains in itertools.product(range(2), repeat=2):
                picked = [
                    difference[s, r, d] for s, inner in zip(seeds, draws, strict=True) for r in inner for d in domains
                ]
                means.append(np.mean(picked))
    found = bootstrap_interval(difference, draws=60_000, seed=1)
    assert found == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.05 * np.std(means))
    whole = paired_difference(values, reference, draws=500, seed=1)
    assert whole.mean == pytest.approx(difference.mean())


def test_with_one_domain_or_one_seed_the_interval_is_students() -> None:
    """Against SciPy's own t interval of the mean, where the crossed model has a single factor."""
    from scipy import stats

    sample = np.random.default_rng(3).normal(size=6)
    low, high = stats.t.interval(0.95, df=5, loc=sample.mean(), scale=stats.sem(sample))
    for values in (sample[:, None], sample[None, :]):
        assert student_half_width(values) == pytest.approx((high - low) / 2)
        found = paired_difference(values[:, None, :], np.zeros(values.shape), draws=500, seed=0)
        assert found.low == pytest.approx(low)
        assert found.high == pytest.approx(high)
    assert student_half_width(np.full((3, 4), 2.0)) == 0.0


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.floats(-3, 3), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_differences_shift_and_turn_with_the_values(s: int, r: int, k: int, shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, reference = rng.normal(size=(s, r, k)), rng.normal(size=(s, k))
    base = paired_difference(values, reference, draws=50, seed=seed)
    moved = paired_difference(values + shift, reference, draws=50, seed=seed)
    turned = paired_difference(-values, -reference, draws=50, seed=seed)
    assert moved.mean == pytest.approx(base.mean + shift)
    assert turned.mean == pytest.approx(-base.mean)
    assert base.better + base.worse <= k
    assert (turned.better, turned.worse) == (base.worse, base.better)
    if s * r * k == 1:
        assert base.low is None
    else:
        assert base.low is not None
        assert base.high is not None
        assert moved.low is not None
        assert moved.low == pytest.approx(base.low + shift)
        assert base.low <= base.high
    assert base.by_domain == pytest.approx((values - reference[:, None]).mean(axis=(0, 1)))
    for mean, (least, most) in zip(base.by_domain, base.by_domain_range, strict=True):
        assert least - 1e-12 <= mean <= most + 1e-12


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(
    ("seed_sd", "domain_sd", "noise_sd"), [(1.0, 0.3, 0.3), (0.5, 0.5, 0.5), (0.0, 1.0, 0.5), (0.0, 0.0, 1.0)]
)
def test_equal_methods_are_seldom_told_apart(seeds: int, seed_sd: float, domain_sd: float, noise_sd: float) -> None:
    """At most 5 % of verdicts are false, wherever the variance comes from; 500 trials tell 7.5 % from it at 99 %."""
    rng = np.random.default_rng(5)
    trials, false = 500, 0
    for trial in range(trials):
        effects = seed_sd * rng.normal(size=(seeds, 1)) + domain_sd * rng.normal(size=(1, 8))
        values = effects + noise_sd * rng.normal(size=(seeds, 8))
        found = paired_difference(values[:, None, :], np.zeros((seeds, 8)), draws=60, seed=trial)
        assert found.low is not None
        assert found.high is not None
        false += found.low > 0 or found.high < 0
    assert false / trials < 0.075


def test_a_clear_difference_is_found() -> None:
    rng = np.random.default_rng(6)
    values = 1.0 + 0.1 * rng.normal(size=(3, 1, 8))
    found = paired_difference(values, np.zeros((3, 8)), draws=500, seed=0)
    assert found.low is not None
    assert found.low > 0.5
