from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.errors import InputError
from kinfold.metrics import mmd2, mmd2_matrix
from kinfold.metrics._gram import GramPass, choose_precision
from kinfold.metrics._rff import rff_pass
from kinfold.metrics.combine import adjust
from kinfold.metrics.mmd import default_bandwidths, median_sq_dist
from scipy.stats import kstest
from sklearn.metrics.pairwise import rbf_kernel

PROPERTY = settings(deadline=None, max_examples=30)


def _reference(x, y, sigma2s, unbiased=True):
    """Three explicit sums over scikit-learn's kernel."""
    k = lambda a, b: np.mean([rbf_kernel(a, b, gamma=1 / (2 * s)) for s in sigma2s], axis=0)  # noqa: E731
    n, m = len(x), len(y)
    xx, yy, xy = k(x, x), k(y, y), k(x, y)
    if unbiased:
        first = sum(xx[a, b] for a in range(n) for b in range(n) if a != b) / (n * (n - 1))
        second = sum(yy[a, b] for a in range(m) for b in range(m) if a != b) / (m * (m - 1))
        return first + second - 2 * xy.mean()
    return xx.mean() + yy.mean() - 2 * xy.mean()


def _samples(seed, sizes=(14, 9, 11), d=5):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((n, d)) + 0.3 * i for i, n in enumerate(sizes)]


@PROPERTY
@given(st.integers(0, 10**6), st.booleans())
def test_mmd2_equals_three_explicit_sums(seed, unbiased):
    x, y, _ = _samples(seed)
    sigma2s = (0.5, 2.0, 7.0)
    value = mmd2(x, y, sigma2s, unbiased)
    assert value == pytest.approx(_reference(x, y, sigma2s, unbiased), abs=1e-10)
    assert value == pytest.approx(mmd2(y, x, sigma2s, unbiased), abs=1e-12)
    order = np.random.default_rng(seed).permutation(len(x))
    assert value == pytest.approx(mmd2(x[order], y, sigma2s, unbiased), abs=1e-12)
    if not unbiased:
        assert value >= -1e-12


def test_default_bandwidths_are_five_around_the_pooled_off_diagonal_median():
    x, y, _ = _samples(3)
    pooled = np.concatenate([x, y])
    distances = [((a - b) ** 2).sum() for i, a in enumerate(pooled) for b in pooled[:i]]
    sigma2s = [m * np.median(distances) for m in (0.25, 0.5, 1, 2, 4)]
    assert mmd2(x, y) == pytest.approx(_reference(x, y, sigma2s), abs=1e-10)


@pytest.mark.parametrize(("precision", "error"), [("float64", 1e-12), ("float32", 1e-6), ("bf16", 3e-4)])
@pytest.mark.parametrize("sizes", [(14, 9, 11), (2, 33, 65), (17, 17, 17)])
def test_the_blocked_matrix_equals_brute_force_in_every_precision(precision, error, sizes):
    samples = _samples(4, sizes)
    sigma2s = default_bandwidths(median_sq_dist(samples))
    table = mmd2_matrix(samples, precision=precision)
    for i in range(3):
        for j in range(3):
            expected = 0 if i == j else _reference(samples[i], samples[j], sigma2s)
            assert table[i, j] == pytest.approx(expected, abs=error)
    biased = mmd2_matrix(samples, (1.0, 3.0), unbiased=False, precision="float64")
    assert biased[0, 1] == pytest.approx(_reference(samples[0], samples[1], (1.0, 3.0), False), abs=1e-12)


def test_bf16_error_at_a_realistic_shape_and_the_global_setting_is_put_back():
    rng = np.random.default_rng(5)
    samples = [rng.standard_normal((200, 384)) + 0.05 * rng.standard_normal(384) for _ in range(4)]
    samples = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in samples]
    before = torch.backends.mkldnn.matmul.fp32_precision
    low = mmd2_matrix(samples, precision="bf16")
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    assert np.abs(low - mmd2_matrix(samples, precision="float64")).max() <= 1e-5


def test_the_torch_device_path_agrees():
    samples = [x.astype(np.float32) for x in _samples(6)]
    sigma2s = default_bandwidths(median_sq_dist(samples))
    for values in (sigma2s, (1.0, 5.0)):
        plain = GramPass(samples, values, precision="float64").run().mmd2
        device = GramPass(samples, values, precision="float32", device="cpu:0").run().mmd2
        np.testing.assert_allclose(device, plain, atol=1e-6)


def test_permutation_p_values_match_explicit_relabelling():
    x, y, z = _samples(7, (9, 7, 9))
    sigma2s = (1.0, 4.0)
    gram = GramPass([x, y, z], sigma2s, precision="float64")
    found = gram.run(permutations=50, seed=3)
    from kinfold.metrics._gram import _Labels

    labels = _Labels([9, 7, 9], 50, 3, np.float64)
    for i, j, a, b in ((0, 1, x, y), (0, 2, x, z), (1, 2, y, z)):
        pooled = np.concatenate([a, b])
        u, v = labels[0, len(a), len(b)], labels[1, len(a), len(b)]
        t = np.concatenate([u, v])
        assert (t.sum(axis=0) == len(a)).all()
        null = [_reference(pooled[t[:, n] == 1], pooled[t[:, n] == 0], sigma2s) for n in range(50)]
        observed = _reference(a, b, sigma2s)
        expected = (1 + sum(value >= observed - 1e-12 for value in null)) / 51
        assert found.p[i, j] == found.p[j, i] == pytest.approx(expected)
        assert found.floor[i, j] == pytest.approx(np.quantile(null, 0.95), abs=1e-10)


def test_many_different_sizes_give_the_same_p_values_without_keeping_labels(monkeypatch):
    samples = _samples(12, (9, 7, 11))
    kept = GramPass(samples, (1.0, 4.0), precision="float64").run(permutations=40, seed=1)
    monkeypatch.setattr("kinfold.metrics._gram._SHARED_SIZES", 0)
    drawn = GramPass(samples, (1.0, 4.0), precision="float64").run(permutations=40, seed=1)
    np.testing.assert_array_equal(kept.p, drawn.p)
    np.testing.assert_allclose(kept.floor, drawn.floor, atol=1e-12)


def test_p_values_are_uniform_under_the_null():
    rng = np.random.default_rng(8)
    values = []
    for draw in range(200):
        samples = [rng.standard_normal((20, 3)) for _ in range(2)]
        sigma2s = default_bandwidths(median_sq_dist(samples))
        values.append(GramPass(samples, sigma2s, precision="float32").run(permutations=199, seed=draw).p[0, 1])
    # p takes values in steps of 1/200: shift to the middle of a step before the continuous test.
    assert kstest(np.array(values) - 0.5 / 200, "uniform").pvalue > 0.01
    assert min(values) >= 1 / 200


def test_p_is_small_for_different_and_one_for_identical_constant_samples():
    rng = np.random.default_rng(9)
    far = [rng.standard_normal((40, 4)), rng.standard_normal((40, 4)) + 2]
    sigma2s = default_bandwidths(median_sq_dist(far))
    assert GramPass(far, sigma2s).run(permutations=199).p[0, 1] == pytest.approx(1 / 200)
    equal = [np.ones((10, 4)), np.ones((10, 4))]
    found = GramPass(equal, default_bandwidths(median_sq_dist(equal))).run(permutations=99)
    assert found.mmd2[0, 1] == pytest.approx(0, abs=1e-7)
    assert found.p[0, 1] == 1.0


def test_bootstrap_draws_match_explicit_resampling():
    x, y, _ = _samples(10)
    sigma2s = (1.0, 4.0)
    rng = np.random.default_rng(0)
    weights = [rng.multinomial(len(s), np.full(len(s), 1 / len(s)), size=4).T.astype(np.float32) for s in (x, y)]
    draws = GramPass([x, y], sigma2s, precision="float64").run(weights=weights).replicates
    k = lambda a, b: np.mean([rbf_kernel(a, b, gamma=1 / (2 * s)) for s in sigma2s], axis=0)  # noqa: E731
    for b in range(4):
        picked = [np.repeat(np.arange(len(s)), w[:, b].astype(int)) for s, w in zip((x, y), weights, strict=True)]
        within = []
        for s, rows in zip((x, y), picked, strict=True):
            kernel = k(s, s)
            pairs = [kernel[i, j] for i in rows for j in rows if i != j]
            within.append(np.mean(pairs))
        cross = np.mean([k(x, y)[i, j] for i in picked[0] for j in picked[1]])
        assert draws[b, 0, 1] == pytest.approx(within[0] + within[1] - 2 * cross, abs=1e-6)


def test_random_features_approach_the_exact_matrix():
    samples = _samples(11, (200, 150, 180), 12)
    sigma2s = default_bandwidths(median_sq_dist(samples))
    exact = mmd2_matrix(samples, precision="float64")
    errors = [np.abs(rff_pass(samples, sigma2s, features=n).mmd2 - exact).max() for n in (64, 4096)]
    assert errors[1] < 4e-3
    assert errors[1] < errors[0]
    weights = [np.ones((len(s), 2), np.float32) for s in samples]
    found = rff_pass(samples, sigma2s, features=256, weights=weights, permutations=30)
    np.testing.assert_allclose(found.replicates[0], found.mmd2, atol=1e-4)
    assert found.p is not None
    assert (found.p > 0).all()


@pytest.mark.parametrize("apart", [0.05, 0.008])
def test_random_features_keep_their_error_at_a_realistic_size(apart):
    """Documents as embedders give them (unit vectors, 384 wide): 1,024 features are within 2 % of a cell, unbiased."""
    rng = np.random.default_rng(13)
    centres = rng.standard_normal((6, 384)) * apart
    samples = [rng.standard_normal((400, 384)) / 20 + centre for centre in centres]
    samples = [(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in samples]
    sigma2s = default_bandwidths(median_sq_dist(samples))
    upper = np.triu_indices(6, 1)
    exact = GramPass(samples, sigma2s, precision="float32").run().mmd2[upper]
    found = np.stack([rff_pass(samples, sigma2s, features=1024, seed=seed).mmd2[upper] for seed in range(6)])
    relative = found / exact - 1
    assert np.sqrt((relative**2).mean()) < 0.02
    assert np.abs(relative).max() < 0.06
    assert abs(relative.mean()) < 0.006
    finer = rff_pass(samples, sigma2s, features=4096, seed=0).mmd2[upper] / exact - 1
    assert np.sqrt((finer**2).mean()) < 0.01


def test_bad_samples_are_named():
    good = np.ones((3, 2))
    with pytest.raises(InputError, match=r"y: 1 document"):
        mmd2(good, good[:1])
    with pytest.raises(InputError, match="row 1 holds NaN"):
        mmd2(np.array([[1, 2], [np.nan, 0.0]]), good)
    with pytest.raises(InputError, match="same model"):
        mmd2(good, np.ones((3, 5)))
    with pytest.raises(InputError, match="positive"):
        mmd2(good, good, [0.0])
    with pytest.raises(InputError, match="empty"):
        mmd2_matrix([])
    with pytest.raises(InputError, match="precision"):
        choose_precision("half", [good])
    with pytest.raises(InputError, match=r"\(n, d\)"):
        mmd2(good[0], good)


def _holm(p):
    m = len(p)
    order = sorted(range(m), key=lambda i: p[i])
    out, running = [0.0] * m, 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (m - rank) * p[i]))
        out[i] = running
    return out


@PROPERTY
@given(st.lists(st.floats(0.001, 1), min_size=6, max_size=6))
def test_corrections_follow_their_definitions(p):
    from scipy.stats import false_discovery_control

    table = np.ones((4, 4))
    table[np.triu_indices(4, 1)] = p
    table = np.minimum(table, table.T)
    upper = np.triu_indices(4, 1)
    np.testing.assert_allclose(adjust(table, "holm")[upper], _holm(p), atol=1e-12)
    np.testing.assert_allclose(adjust(table, "bh")[upper], false_discovery_control(p, method="bh"), atol=1e-12)
    np.testing.assert_allclose(adjust(table, "none"), table)
    assert (adjust(table, "holm") == adjust(table, "holm").T).all()
    with pytest.raises(InputError, match="holm"):
        adjust(table, "bonferroni")
