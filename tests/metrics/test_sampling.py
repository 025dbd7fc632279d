from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.errors import CorpusError
from kinfold.metrics import halving, sampling, tokens
from kinfold.metrics.counting import TokenCounter
from kinfold.metrics.tokenizing import train_tokenizer

PROPERTY = settings(deadline=None, max_examples=60)
WORDS = [f"word{i}" for i in range(400)]


def _documents(seed, count, length=40):
    rng = np.random.default_rng(seed)
    p = 1 / np.arange(1, 401)
    p /= p.sum()
    return [" ".join(rng.choice(WORDS, size=int(rng.integers(5, length)), p=p)) for _ in range(count)]


COUNTER = TokenCounter(train_tokenizer([" ".join(WORDS)], 700))


def _sample(documents, *, max_tokens=10**6, samples=50, parts=1, seed=0, labels=None):
    records = list(zip(documents, labels or [None] * len(documents), strict=True))
    shares = [
        sampling.count_stream(
            records[part::parts], COUNTER, seed=seed, max_tokens=max_tokens, samples=samples, alone=parts == 1
        )
        for part in range(parts)
    ]
    for other in shares[1:]:
        shares[0].merge(other)
    return sampling.finish("d", shares[0], COUNTER, max_tokens=max_tokens, samples=samples, window=4096)


def _same(a, b):
    first, second = sampling.pack(a), sampling.pack(b)
    assert first.keys() == second.keys()
    for key in first:
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)


@PROPERTY
@given(st.integers(0, 10**6), st.integers(2, 6), st.sampled_from([200, 900, 10**6]))
def test_order_and_sharding_change_no_bit(seed, parts, max_tokens):
    documents = _documents(seed % 5, 80)
    documents += documents[:7]
    whole = _sample(documents, max_tokens=max_tokens, samples=10)
    order = np.random.default_rng(seed).permutation(len(documents))
    shuffled = [documents[index] for index in order]
    _same(whole, _sample(shuffled, max_tokens=max_tokens, samples=10))
    _same(whole, _sample(shuffled, max_tokens=max_tokens, samples=10, parts=parts))


def test_counts_cover_everything_and_the_sample_stays_bounded():
    documents = _documents(1, 400)
    expected = COUNTER.documents(documents).sum(axis=0)
    small = _sample(documents, max_tokens=1000, samples=5)
    np.testing.assert_array_equal(small.counts, expected)
    assert not small.complete
    assert 1000 <= small.rows.sum() < 1100
    assert len(small.texts) == 5
    whole = _sample(documents, samples=5)
    assert whole.complete
    np.testing.assert_array_equal(whole.counts, expected)
    np.testing.assert_array_equal(np.asarray(whole.rows.sum(axis=0)).ravel(), expected)


def test_the_sketch_is_uniform_over_documents_and_keyed_by_the_seed():
    documents = [f"document number {i}" for i in range(200)]
    hits = np.zeros(200)
    for seed in range(100):
        sketch = sampling.Sketch(seed, 0, 20)
        for text in documents:
            sketch.add(text)
        kept = {text for text, _, _ in sketch.sorted()}
        assert len(kept) == 20
        hits += [text in kept for text in documents]
    # Each document is kept with probability .1: 10 ± 3 of 100 draws, and none always or never by far.
    assert hits.std() == pytest.approx(3, abs=0.7)
    assert hits.max() < 25


def test_copies_are_one_document_with_a_count():
    documents = [*_documents(2, 40), *["the same again word1 word2"] * 9]
    sample = _sample(documents)
    assert sample.rows.shape[0] == 41
    assert sorted(sample.copies.tolist())[-1] == 9
    assert sample.documents == 49
    dealt = halving.halve(sample, halving.room(sample), 0, 0)
    assert dealt.first.shape[0] + dealt.second.shape[0] <= 41


def test_halves_hold_exactly_the_budget_and_share_no_document():
    samples = [_sample(_documents(seed, count)) for seed, count in enumerate((60, 150, 220))]
    ladder, short = halving.rungs(samples, None)
    assert short == []
    assert [reach for _, reach in ladder] == [[0, 1, 2], [1, 2]]
    assert ladder[1][0] == 2 * ladder[0][0]
    for budget, reach in ladder:
        for index in reach:
            for number in range(3):
                dealt = halving.halve(samples[index], budget // 2, 0, number)
                assert dealt.first.sum() == dealt.second.sum() == budget // 2
                assert (dealt.first.sum(axis=0) + dealt.second.sum(axis=0) <= samples[index].counts).all()
                assert dealt.whole().sum() == budget
    asked, short = halving.rungs(samples, ladder[0][0] + 401)
    assert asked == [(ladder[0][0] + 400, [0, 1, 2])]
    assert short == ["d"]


@PROPERTY
@given(st.lists(st.integers(1, 60), min_size=2, max_size=12), st.integers(0, 10**6))
def test_every_halving_reaches_what_the_room_promises(lengths, seed):
    import scipy.sparse as sp

    rows = sp.csr_array(np.array(lengths, np.int64)[:, None])
    sample = sampling.DomainSample(
        "d",
        np.array([sum(lengths)]),
        sum(lengths),
        len(lengths),
        0,
        rows,
        (),
        (),
        np.ones(len(lengths), np.int64),
        True,
        False,
        0,
    )
    dealt = halving.halve(sample, halving.room(sample), seed, 0)
    assert dealt.first.sum() == dealt.second.sum() == halving.room(sample)


def test_long_and_few_documents_are_cut_and_said_so():
    text = "\n".join(_documents(3, 4000))
    assert len(text) > 2 * 65_536
    sample = _sample([text])
    assert sample.long == 1
    assert sample.pieces
    assert sample.rows.shape[0] > 50
    parts = sampling.segments(text, 1000)
    assert "".join(parts) == text
    assert max(map(len, parts)) <= 1000


@PROPERTY
@given(st.text(max_size=300), st.integers(4, 50))
def test_segments_lose_nothing(text, size):
    parts = sampling.segments(text, size)
    assert "".join(parts) == text
    assert all(len(part) <= size for part in parts)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "no text"),
        (["", "  \n"], "no text"),
        (["one short"], "one distinct document"),
        (["copy"] * 30, "one distinct"),
    ],
)
def test_nothing_to_compare_is_a_clear_error(documents, message):
    with pytest.raises(CorpusError, match=message):
        _sample(documents)


def test_lone_surrogates_are_replaced():
    assert sampling.clean("a\ud800b") == "a\ufffdb"
    assert _sample([*_documents(4, 30), "broken \ud83d text"]).documents == 31


def test_packing_round_trips():
    labels = [None if i % 3 else ("" if i % 2 else "pos") for i in range(30)]
    sample = _sample(_documents(5, 30), labels=labels)
    again = sampling.unpack("d", sampling.pack(sample))
    _same(sample, again)
    assert again.texts == sample.texts
    assert again.labels == sample.labels


def _corpus(rng, p, documents, length, burst):
    """Documents whose token distributions vary around p (Dirichlet): bursty, as text is."""
    import scipy.sparse as sp

    rows = []
    for _ in range(documents):
        q = rng.dirichlet(p * burst) if burst else p
        rows.append(rng.multinomial(length, q))
    matrix = sp.csr_array(np.array(rows, np.int64))
    return sampling.DomainSample(
        "d",
        np.asarray(matrix.sum(axis=0)),
        int(matrix.sum()),
        documents,
        0,
        matrix,
        (),
        (),
        np.ones(documents, np.int64),
        True,
        False,
        0,
    )


def _pair(rng, p, q, documents=120, length=100, burst=300.0):
    a = _corpus(rng, p, documents, length, burst)
    b = _corpus(rng, q, documents, length, burst)
    import dataclasses

    return [dataclasses.replace(a, name="a"), dataclasses.replace(b, name="b")]


def _distributions(vocabulary=300):
    rng = np.random.default_rng(0)
    p = 1 / np.arange(1, vocabulary + 1)
    q = p * np.exp(rng.normal(0, 0.8, vocabulary))
    return p / p.sum(), q / q.sum()


def test_corrected_js_of_bursty_documents_is_nearly_unbiased_where_the_plugin_is_not():
    p, q = _distributions()
    rng = np.random.default_rng(1)
    same, far, plugin = [], [], []
    for seed in range(12):
        for target, other in ((same, p), (far, q)):
            samples = _pair(rng, p, other)
            table = tokens.token_table(samples, halving.rungs(samples, None)[0], bootstrap=0, seed=seed, halvings=8)
            target.append(table.js[0, 1])
            if other is p:
                plugin.append(table.js_plugin[0, 1])
    from scipy.spatial.distance import jensenshannon

    truth = jensenshannon(p, q, base=2) ** 2
    assert abs(np.mean(same)) < 0.004
    assert np.mean(plugin) > 0.015
    assert abs(np.mean(far) - truth) < 0.1 * truth


def test_intervals_cover_at_their_level():
    """Of 60 simulated pairs about 95 % of the intervals hold the expected value; 50 is beyond binomial error."""
    from kinfold.metrics.combine import interval, recentre

    p, q = _distributions(120)
    rng = np.random.default_rng(2)
    estimates, intervals = [], []
    for seed in range(60):
        samples = _pair(rng, p, q, documents=80, length=80)
        table = tokens.token_table(samples, halving.rungs(samples, None)[0], bootstrap=60, seed=seed, halvings=6)
        low, high = interval(recentre(table.js, table.draws["js"]), table.js, 0.95)
        estimates.append(table.js[0, 1])
        intervals.append((low[0, 1], high[0, 1]))
    centre = np.mean(estimates)
    held = sum(low <= centre <= high for low, high in intervals)
    assert 52 <= held <= 60
    widths = [high - low for low, high in intervals]
    # Neither far too wide: the mean half-width is near 2 standard deviations of the estimates.
    assert np.mean(widths) / 2 == pytest.approx(1.96 * np.std(estimates), rel=0.35)


def _cells_by_hand(sample, budget, seed, number):
    """What one domain shows to each side and the halves behind its floor, as dense counts."""
    wide = halving.room(sample) >= budget
    dealt = halving.halve(sample, budget if wide else budget // 2, seed, number)
    first, second = (np.asarray(part.sum(axis=0), float).ravel() for part in (dealt.first, dealt.second))
    return (first, second, first, second) if wide else (first + second, first + second, first, second)


def test_a_view_shows_all_of_a_small_domain_and_separate_samples_of_a_large_one():
    from kinfold.metrics import js_divergence

    samples = [_sample(_documents(seed, count)) for seed, count in enumerate((60, 70, 260))]
    budget = halving.rungs(samples, None)[0][0][0]
    view = halving.View(samples, budget, 0, 3)
    assert view.wide.tolist() == [False, False, True]
    cross, floors = view.cells()
    shown = [_cells_by_hand(sample, budget, 0, 3) for sample in samples]
    for i in range(3):
        assert floors[i] == pytest.approx(js_divergence(shown[i][2], shown[i][3]), abs=1e-9)
        for j in range(3):
            if i != j:
                both = js_divergence(shown[i][0], shown[j][1]), js_divergence(shown[j][0], shown[i][1])
                assert cross[i, j] == pytest.approx(np.mean(both), abs=2e-6)
    # Weights of one leave everything as it is; a document drawn twice counts twice.
    ones = [tuple(np.ones(part.shape[0], np.int64) for part in (half.first, half.second)) for half in view.halves]
    again = view.cells(ones)
    np.testing.assert_array_equal(again[0], cross)
    np.testing.assert_array_equal(again[1], floors)
    twice = view.cells([tuple(2 * part for part in pair) for pair in ones])
    np.testing.assert_allclose(twice[0], cross, atol=1e-6)


def test_the_step_between_budgets_foretells_the_floor_of_a_domain_that_is_too_small_for_it():
    p, _ = _distributions(3000)
    rng = np.random.default_rng(4)
    large = [_corpus(rng, p, 800, 60, 300.0) for _ in range(4)]
    budget = 6000
    truth = np.mean([halving.own_js(*_halved(sample, budget)) for sample in large])
    small = []
    for sample in large:
        rows = sample.rows[: int(budget / 60) + 2]
        import dataclasses

        small.append(dataclasses.replace(sample, rows=rows))
    views = [halving.View(small, budget, 0, number) for number in range(8)]
    assert not views[0].wide.any()
    floors = np.mean([view.cells()[1] for view in views], axis=0)
    lift = halving.steps(small, budget, views[0].wide, floors, 0, 8)
    assert np.mean(floors) > 1.2 * truth  # half the tokens read far more
    assert np.mean(floors * lift) == pytest.approx(truth, rel=0.05)


def _halved(sample, budget):
    import scipy.sparse as sp

    dealt = halving.halve(sample, budget, 1, 0)
    return tuple(sp.csr_array(np.asarray(part.sum(axis=0))[None]) for part in (dealt.first, dealt.second))


def test_rungs_are_equated_by_a_power_that_keeps_both_ends():
    low = np.array([[0, 0.2, 0.5], [0.2, 0, 0.9], [0.5, 0.9, 0]])
    assert tokens._lift(low, low**0.8) == pytest.approx(0.8)
    assert tokens._lift(low[:2, :2], low[:2, :2] ** 0.8) == 1.0  # one pair is not enough to tell
    np.testing.assert_allclose(tokens._raise(np.array([-0.01, 0.0, 1.0]), 0.5), [-0.1, 0, 1])


def test_a_small_domain_does_not_move_the_others():
    """The pair of large domains reads the same, within its noise, whether a tiny third domain is there or not."""
    p, q = _distributions()
    rng = np.random.default_rng(6)
    large = _pair(rng, p, q, documents=600)
    import dataclasses

    tiny = dataclasses.replace(_corpus(rng, q, 20, 100, 300.0), name="tiny")
    alone = tokens.token_table(large, halving.rungs(large, None)[0], bootstrap=0, seed=0)
    ladder = halving.rungs([*large, tiny], None)[0]
    joined = tokens.token_table([*large, tiny], ladder, bootstrap=0, seed=0)
    assert joined.rung[0, 1] > 8 * joined.rung[0, 2]
    assert joined.js[0, 1] == pytest.approx(alone.js[0, 1], abs=0.006)
    assert abs(joined.js[1, 2]) < 0.05 < joined.js[0, 2]


def test_self_noise_bounds_what_a_domain_reads_against_itself():
    p, _ = _distributions()
    rng = np.random.default_rng(3)
    inside = 0
    for seed in range(20):
        samples = _pair(rng, p, p)
        table = tokens.token_table(samples, halving.rungs(samples, None)[0], bootstrap=0, seed=seed, halvings=8)
        inside += abs(table.js[0, 1]) <= table.floor[0, 1]
    assert inside >= 17


def test_fewer_draws_for_many_domains():
    assert tokens.affordable(100, 10**2, 8000) == 100
    assert tokens.affordable(100, 300**2, 128_000) == 20
    assert tokens.affordable(5, 300**2, 128_000) == 5
