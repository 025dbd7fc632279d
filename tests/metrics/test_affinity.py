from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.corpora import load_corpora
from kinfold.errors import InputError
from kinfold.metrics import MeasureSettings, cosine_matrix, h_score, h_score_report, measure
from kinfold.metrics.affinity import _auc, agreement_of, class_mean_cosine, probe_transfer, proxy_a_distance
from kinfold.metrics.embeddings import bootstrap_weights, cosine_table
from kinfold.metrics.gradients import affinity_from_halves, sketch
from kinfold.metrics.validation import residual
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

PROPERTY = settings(deadline=None, max_examples=40)


def _labelled(rng, direction, n=200, strength=1.0, shift=0.0):
    y = rng.integers(0, 2, n)
    x = rng.standard_normal((n, len(direction))) + shift
    return SimpleNamespace(x=x + strength * np.where(y, 1, -1)[:, None] * direction, y=y)


def test_class_mean_cosine_finds_the_angle_between_tasks():
    rng = np.random.default_rng(0)
    e = np.eye(20)
    turned = np.cos(1.0) * e[0] + np.sin(1.0) * e[1]
    data = [_labelled(rng, e[0], 4000), _labelled(rng, turned, 4000, shift=3), _labelled(rng, -e[0], 4000)]
    found = class_mean_cosine(data)
    assert found[0, 1] == pytest.approx(np.cos(1.0), abs=0.05)
    assert found[0, 2] == pytest.approx(-1, abs=0.02)
    # Unbiased norms: few documents do not pull the mean of many draws towards 0.
    draws = []
    for _ in range(200):
        small = [_labelled(rng, e[0], 40), _labelled(rng, e[0], 40)]
        draws.append(class_mean_cosine(small)[0, 1])
    assert np.mean(draws) > 0.93


@PROPERTY
@given(st.integers(0, 10**6), st.booleans())
def test_auc_equals_scikit_learn(seed, ties):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, 30).astype(float) if ties else rng.standard_normal(30)
    positive = rng.random(30) < 0.4
    positive[:2] = True, False
    assert _auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)


def test_probe_transfer_is_high_where_the_task_is_shared_and_low_where_it_is_reversed():
    rng = np.random.default_rng(1)
    e = np.eye(10)
    data = [_labelled(rng, e[0]), _labelled(rng, e[0]), _labelled(rng, -e[0]), _labelled(rng, e[5])]
    found = probe_transfer(data)
    assert found[0, 1] > 0.85
    assert found[0, 2] < 0.15
    assert abs(found[0, 3] - 0.5) < 0.15
    assert (np.diagonal(found) > 0.85).all()
    noise = [SimpleNamespace(x=rng.standard_normal((60, 40)), y=rng.integers(0, 2, 60)) for _ in range(8)]
    # No document is graded by a probe that saw it: on noise the diagonal stays near chance.
    assert abs(np.mean(np.diagonal(probe_transfer(noise))) - 0.5) < 0.1
    many = [SimpleNamespace(x=e[y] * 3 + rng.standard_normal((90, 10)), y=y) for y in (np.arange(90) % 3,) * 2]
    assert probe_transfer(many)[0, 1] > 0.8


def test_proxy_a_distance_at_both_ends():
    rng = np.random.default_rng(2)
    same = [rng.standard_normal((400, 8)) for _ in range(2)]
    far = [rng.standard_normal((400, 8)), rng.standard_normal((300, 8)) + 4]
    assert abs(proxy_a_distance(same)[0, 1]) < 0.25
    assert proxy_a_distance(far)[0, 1] > 1.95
    np.testing.assert_array_equal(proxy_a_distance(far), proxy_a_distance(far).T)


def test_agreement_flags_noise():
    rng = np.random.default_rng(3)
    base = rng.standard_normal((12, 12))
    base = base + base.T
    near = agreement_of(base, base + 0.1 * rng.standard_normal((12, 12)), symmetric=True, least=0.5)
    assert near["usable"]
    assert near["split_half"] > 0.9
    apart = agreement_of(base, rng.standard_normal((12, 12)), symmetric=True, least=0.5)
    assert not apart["usable"]
    assert "agree at" in apart["why"]
    assert agreement_of(base[:2, :2], base[:2, :2], symmetric=True, least=0.5)["split_half"] is None
    assert not agreement_of(np.ones((4, 4)), base[:4, :4], symmetric=True, least=0.5)["usable"]


def test_sketches_keep_inner_products():
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((2, 20_000))
    y = y + 0.5 * x
    found = [sketch(x, 256, seed) @ sketch(y, 256, seed) for seed in range(200)]
    exact = x @ y
    error = np.linalg.norm(x) * np.linalg.norm(y) / np.sqrt(256)
    assert np.mean(found) == pytest.approx(exact, abs=4 * error / np.sqrt(200))
    assert np.std(found) < 2 * error


def test_gradient_affinity_follows_its_formula():
    rng = np.random.default_rng(5)
    truth = rng.standard_normal((3, 500))
    found = affinity_from_halves(truth, truth)
    expected = truth @ truth.T / np.linalg.norm(truth, axis=1)[:, None]
    np.testing.assert_allclose(found, expected, atol=1e-10)
    noise = affinity_from_halves(rng.standard_normal((3, 50)), rng.standard_normal((3, 50)))
    assert np.isfinite(noise).all()


@PROPERTY
@given(st.integers(0, 10**6), st.integers(2, 4), st.booleans())
def test_h_score_equals_its_definition(seed, classes, wide):
    rng = np.random.default_rng(seed)
    n, d = 40, 60 if wide else 6
    x = rng.standard_normal((n, d))
    y = np.arange(n) % classes
    centred = x - x.mean(axis=0)
    between = np.zeros((d, d))
    for label in range(classes):
        mean = centred[y == label].mean(axis=0)
        between += (y == label).mean() * np.outer(mean, mean)
    expected = np.trace(np.linalg.pinv(centred.T @ centred / n) @ between)
    assert h_score(x, y) == pytest.approx(expected, rel=1e-8)
    covariance, alpha = ledoit_wolf(x)
    shrunk = (1 - alpha) * np.trace(np.linalg.inv(covariance) @ between)
    assert h_score(x, y, "ledoit_wolf") == pytest.approx(shrunk, rel=1e-6)
    names = np.array(["c", "a", "b", "z"])[y]
    assert h_score(x, names) == pytest.approx(expected, rel=1e-8)


def test_h_score_report_tells_signal_from_dimension():
    rng = np.random.default_rng(6)
    y = rng.integers(0, 2, 300)
    noise = rng.standard_normal((300, 100))
    null = h_score_report(noise, y, None, permutations=100)
    assert null.value == pytest.approx(100 / 299, abs=0.1)  # random labels read d / (n - 1)
    assert abs(null.adjusted) < 0.1
    assert null.p > 0.01
    signal = noise.copy()
    signal[:, 0] += 4 * y
    found = h_score_report(signal, y, permutations=100)
    assert found.adjusted > 0.4
    assert found.p == pytest.approx(1 / 101)
    with pytest.raises(InputError, match="one class"):
        h_score(noise, np.zeros(300))
    with pytest.raises(InputError, match="does not fit"):
        h_score(noise, y[:5])
    with pytest.raises(InputError, match="shrinkage"):
        h_score(noise, y, "oas")
    with pytest.raises(InputError, match="NaN"):
        h_score(np.full((300, 2), np.nan), y)


def test_debiased_cosines_read_one_for_one_source_at_any_size():
    rng = np.random.default_rng(7)
    centre = rng.standard_normal(50) / 7
    plain, debiased = [], []
    for _ in range(100):
        samples = [centre + rng.standard_normal((20, 50)) for _ in range(2)]
        plain.append(cosine_matrix(samples, debias=False)[0, 1])
        debiased.append(cosine_matrix(samples)[0, 1])
    assert np.mean(plain) < 0.45
    assert np.median(debiased) > 0.8
    big = [centre + rng.standard_normal((20_000, 50)) for _ in range(2)]
    assert cosine_matrix(big)[0, 1] == pytest.approx(1, abs=0.02)
    assert cosine_matrix(big, debias=False)[0, 1] == pytest.approx(cosine_matrix(big)[0, 1], abs=0.05)
    opposite = cosine_matrix([big[0], -big[0]], centre=True)
    assert opposite[0, 1] == pytest.approx(-1, abs=0.02)


def test_cosine_draws_equal_explicit_resampling():
    rng = np.random.default_rng(8)
    samples = [rng.standard_normal((12, 4)) + 1, rng.standard_normal((9, 4)) + np.array([3, -1, 0, 0])]
    weights = bootstrap_weights([12, 9], ["a", "b"], 3, seed=0)
    _, draws, _ = cosine_table(samples, weights)
    for b in range(3):
        means, norms = [], []
        for x, w in zip(samples, weights, strict=True):
            rows = np.repeat(np.arange(len(x)), w[:, b].astype(int))
            drawn = x[rows]
            means.append(drawn.mean(axis=0))
            norms.append(np.mean([x[i] @ x[j] for i in rows for j in rows if i != j]))
        expected = means[0] @ means[1] / np.sqrt(norms[0] * norms[1])
        assert abs(expected) < 1  # not clipped
        assert draws[b, 0, 1] == pytest.approx(expected, abs=1e-5)
    assert (bootstrap_weights([12], ["a"], 3, seed=0)[0] == weights[0]).all()  # a stream per name


def test_residuals_have_no_row_or_column_effects():
    rng = np.random.default_rng(9)
    signal = rng.standard_normal((9, 9))
    signal = signal + signal.T
    rows, columns = rng.standard_normal((2, 9)) * 5
    found = residual(signal + rows[:, None] + columns[None, :])
    np.testing.assert_allclose(found, residual(signal), atol=1e-9)
    np.testing.assert_allclose(found.sum(axis=0), 0, atol=1e-9)


def test_fewer_documents_for_affinity_than_were_sampled(toy_corpora):
    few = MeasureSettings(
        bootstrap=4, permutations=20, samples=40, affinity_documents=20, vocabulary=500, lsa_dimensions=16,
        measures=("js", "proxy_a_distance"), agreement=-1.0,
    )  # fmt: skip
    found = measure(load_corpora(toy_corpora), settings=few)
    assert np.isfinite(found.matrix("proxy_a_distance")).all()
