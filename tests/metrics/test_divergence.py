from __future__ import annotations

import doctest

import kinfold.metrics.divergence as divergence
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from kinfold.errors import InputError, InputTypeError
from kinfold.metrics import corrected_js, jaccard, js_divergence, js_matrix, ruzicka, synergy
from kinfold.metrics.divergence import pair_table
from scipy.spatial.distance import jensenshannon

COUNTS = arrays(np.int64, 30, elements=st.integers(0, 1000)).filter(lambda a: a.sum() > 0)
PROPERTY = settings(deadline=None, max_examples=60)


@PROPERTY
@given(COUNTS, COUNTS)
def test_js_equals_scipy_and_is_a_bounded_symmetric_divergence(a, b):
    value = js_divergence(a, b)
    assert value == pytest.approx(jensenshannon(a, b, base=2) ** 2, abs=1e-10)
    assert value == js_divergence(b, a)
    assert 0 <= value <= 1
    assert js_divergence(a, 7 * a) == pytest.approx(0, abs=1e-12)
    assert js_divergence(a, b, base=np.e) == pytest.approx(jensenshannon(a, b) ** 2, abs=1e-10)


@PROPERTY
@given(COUNTS, COUNTS, st.permutations(range(30)))
def test_overlaps_follow_their_definition_and_ignore_the_order_of_tokens(a, b, order):
    x, y = set(np.flatnonzero(a)), set(np.flatnonzero(b))
    assert jaccard(a, b) == pytest.approx(len(x & y) / len(x | y), abs=1e-12)
    p, q = a / a.sum(), b / b.sum()
    assert ruzicka(a, b) == pytest.approx(sum(map(min, p, q)) / sum(map(max, p, q)), abs=1e-10)
    for measure in (jaccard, ruzicka, js_divergence):
        assert measure(a[list(order)], b[list(order)]) == pytest.approx(measure(a, b), abs=1e-12)


@PROPERTY
@given(arrays(np.int64, (5, 40), elements=st.integers(0, 50)).filter(lambda m: (m.sum(axis=1) > 0).all()))
def test_the_blocked_table_equals_the_pairwise_functions(counts):
    for table in (pair_table(counts), pair_table(sp.csr_array(counts))):
        for i in range(5):
            for j in range(5):
                assert table.js[i, j] == pytest.approx(js_divergence(counts[i], counts[j]), abs=2e-6)
                assert table.jaccard[i, j] == pytest.approx(jaccard(counts[i], counts[j]), abs=1e-12)
                assert table.ruzicka[i, j] == pytest.approx(ruzicka(counts[i], counts[j]), abs=2e-6)
    crossed = pair_table(counts[:2], counts[2:])
    whole = pair_table(counts)
    np.testing.assert_allclose(crossed.js, whole.js[:2, 2:], atol=2e-6)
    np.testing.assert_allclose(crossed.jaccard, whole.jaccard[:2, 2:], atol=1e-12)
    np.testing.assert_allclose(crossed.ruzicka, whole.ruzicka[:2, 2:], atol=2e-6)


def test_the_blocked_table_keeps_its_error_bound_at_a_real_vocabulary():
    rng = np.random.default_rng(0)
    counts = rng.zipf(1.2, (6, 128_000)).clip(max=10**6) * (rng.random((6, 128_000)) < 0.3)
    table = js_matrix(counts)
    for i in range(6):
        for j in range(i):
            assert abs(table[i, j] - jensenshannon(counts[i], counts[j], base=2) ** 2) <= 2e-6
    assert (table == table.T).all()
    assert (np.diagonal(table) == 0).all()


def test_the_table_does_not_depend_on_the_number_of_threads(monkeypatch):
    counts = np.random.default_rng(1).poisson(0.5, (8, 60_000))
    one = pair_table(counts)
    monkeypatch.setattr(divergence, "threads", lambda: 5)
    assert (pair_table(counts).js == one.js).all()


def _draw(rng, p, documents, length):
    return rng.multinomial(length, p, size=documents)


def test_corrected_js_is_near_zero_for_one_source_and_the_truth_for_two():
    rng = np.random.default_rng(2)
    p = 1.0 / np.arange(1, 3001) ** 1.1
    p /= p.sum()
    q = p[rng.permutation(3000)]
    truth = jensenshannon(p, q, base=2) ** 2
    null, far, plug_null, plug_far = [], [], [], []
    for _ in range(8):
        a = [rng.multinomial(10_000, p) for _ in range(2)]
        same = [rng.multinomial(10_000, p) for _ in range(2)]
        b = [rng.multinomial(10_000, q) for _ in range(2)]
        null.append(corrected_js(a, same).value)
        far.append(corrected_js(a, b).value)
        plug_null.append(js_divergence(a[0], same[0]))
        plug_far.append(js_divergence(a[0], b[0]))
    assert abs(np.mean(null)) < 0.005
    assert max(map(abs, null)) < 0.01
    assert np.mean(plug_null) > 0.05
    assert abs(np.mean(far) - truth) < abs(np.mean(plug_far) - truth)


def test_corrected_js_at_the_ends():
    a, b = [[1, 2, 0, 0], [2, 4, 0, 0]], [[0, 0, 3, 1], [0, 0, 6, 2]]
    assert corrected_js(a, b) == pytest.approx((1.0, 1.0, 0.0))
    assert corrected_js(a, a) == pytest.approx((0.0, 0.0, 0.0))
    lonely = [[1, 0, 0, 0], [0, 1, 0, 0]]
    assert corrected_js(lonely, lonely).value == 0.0  # the floor is 1: nothing is left to measure


def test_synergy_is_the_mean_for_numbers_and_matrices():
    assert synergy(0.2, 0.6) == pytest.approx(0.4)
    np.testing.assert_allclose(synergy(np.eye(2), np.ones((2, 2))), [[1, 0.5], [0.5, 1]])
    with pytest.raises(InputError, match="same domains"):
        synergy(np.eye(2), np.eye(3))
    with pytest.raises(InputError, match="not finite"):
        synergy(np.nan, 1)


@pytest.mark.parametrize("measure", [js_divergence, jaccard, ruzicka])
def test_bad_counts_are_named(measure):
    with pytest.raises(InputError, match="different vocabularies"):
        measure([1, 2], [1, 2, 3])
    with pytest.raises(InputError, match=r"every count is 0"):
        measure([0, 0], [1, 2])
    with pytest.raises(InputError, match="entry 1"):
        measure([1, np.nan], [1, 2])
    with pytest.raises(InputError, match="at least 0"):
        measure([1, -1], [1, 2])
    with pytest.raises(InputTypeError):
        measure("ab", [1, 2])
    with pytest.raises(InputError, match=r"\(V,\)"):
        measure([], [])


def test_bad_tables_are_named():
    with pytest.raises(InputError, match="row 1"):
        js_matrix([[1, 2], [0, 0]])
    with pytest.raises(InputError, match="finite"):
        js_matrix([[1, np.inf]])
    with pytest.raises(InputError, match=r"\(k, V\)"):
        js_matrix([1, 2])
    with pytest.raises(InputError, match="base"):
        js_divergence([1], [1], base=1)
    with pytest.raises(InputError, match="two count vectors"):
        corrected_js([[1]], [[1], [2]])


def test_doctests():
    assert doctest.testmod(divergence).failed == 0
