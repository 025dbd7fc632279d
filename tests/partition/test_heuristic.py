"""The annealing kernel and the search around it: its books are right, it breaks nothing, and no clock decides."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.errors import PlanError
from kinfold.partition import solve
from kinfold.partition._core import Core, make_core
from kinfold.partition._jit import have_compiler
from kinfold.partition._pack import pack
from kinfold.partition._polish import polish
from kinfold.partition._rounds import Leg, run_kernel
from kinfold.partition._start import feasible_start
from kinfold.partition.heuristic import Pool, search
from kinfold.partition.problem import make_problem

needs_compiler = pytest.mark.skipif(not have_compiler(), reason="needs a compiler")


def problem(k: int, seed: int) -> Core:
    """A random problem with any mix of budgets, minima, links, costs, counts, and gains too fine for 32-bit floats."""
    rng = np.random.default_rng([k, seed])
    gain = rng.normal(size=(k, k)) if rng.random() < 0.4 else rng.integers(-9, 10, (k, k)).astype(float)
    gain = np.triu(gain, 1) + np.triu(gain, 1).T
    arguments: dict = {}
    if rng.random() < 0.6:
        coarse = rng.random() < 0.5
        sizes = rng.integers(1, 9, k).astype(float) if coarse else np.exp(rng.normal(0, 1, k)) * 1e7
        budget = float(max(sizes.max(), sizes.sum() / rng.integers(1, max(2, k // 3) + 1)) * 1.2)
        arguments = {"sizes": sizes, "budget": budget}
        if rng.random() < 0.4:
            arguments["minimum"] = float(sizes.min() * rng.integers(1, 4))
        kind = rng.random()
        if kind < 0.2:
            m = int(np.ceil(1.5 * sizes.sum() / budget)) + 1
            budgets = budget * rng.uniform(0.8, 1.4, m)
            arguments |= {"budget": budgets.tolist(), "minimum": [0.0] * m, "stages": m}
        elif kind < 0.4:
            arguments["sizes"] = {"tokens": sizes, "memory": rng.random(k)}
            arguments["budget"] = {"tokens": budget, "memory": 0.3 * k}
            arguments.pop("minimum", None)
    if "stages" not in arguments and rng.random() < 0.4:
        low = int(rng.integers(1, k))
        arguments["stages"] = (low, int(rng.integers(low, k + 1)))
    if k > 3 and rng.random() < 0.4:
        arguments["cannot_link"] = [tuple(int(i) for i in rng.choice(k, 2, replace=False)) for _ in range(k // 3)]
    if rng.random() < 0.4:
        arguments["kappa"] = float(rng.integers(-5, 8))
    return make_core(make_problem(gain, **arguments))


@needs_compiler
@settings(deadline=None, max_examples=150)
@given(st.integers(2, 90), st.integers(0, 10**6), st.floats(0.05, 6.0), st.floats(0.0, 1.0))
def test_what_the_kernel_returns_is_feasible_and_its_value_is_true(k, seed, heat, chill):
    core = problem(k, seed)
    start = feasible_start(core, np.random.default_rng(seed))
    if start is None:
        return
    packed = pack(core)
    hot = packed.unit * heat
    best, record, value = run_kernel(
        packed, start, Leg(hot, hot * (0.01 + 0.99 * chill), 2e5), seed, np.zeros(1, dtype=np.int64)
    )
    assert core.feasible(best)
    # The packed gains, summed by other means: what the kernel adds up step by step must be just that.
    n = core.n
    whole = packed.gain.reshape(n + 1, -1)[:n, :n].astype(np.int64)
    assert (whole[~core.conflict] == np.rint(core.gain * packed.shrink)[~core.conflict]).all()
    same = np.triu(best[:, None] == best[None, :], 1)
    assert value == whole[same].sum() - packed.kappa * len(np.unique(best))
    if packed.exact:
        assert core.value(best) == value + core.base
        assert core.value(best) >= core.value(start)
    assert record[:, 0].sum() > 0


@needs_compiler
def test_the_kernel_finds_the_optimum_of_small_problems(brute_force):
    for seed in range(40):
        rng = np.random.default_rng(seed)
        gain = rng.integers(-9, 10, (8, 8)).astype(float)
        gain = np.triu(gain, 1) + np.triu(gain, 1).T
        arguments = {} if seed % 2 else {"sizes": rng.integers(1, 6, 8).astype(float), "budget": 11.0}
        core = make_core(make_problem(gain, kappa=float(seed % 3), **arguments))
        pool = search(core, seconds=0.01, seed=seed, deterministic=True)
        assert core.unscale(pool.values[0]) == brute_force(gain, kappa=float(seed % 3), **arguments)


@needs_compiler
def test_one_item_trades_places_with_two() -> None:
    """Both stages are full and no two items of equal size would gain by an exchange: only one for two leads on."""
    gain = np.zeros((6, 6))
    for i, j, value in ((0, 5, 10), (1, 2, 5), (3, 4, 5), (1, 3, 1)):
        gain[i, j] = gain[j, i] = value
    sizes = np.array([2.0, 1.0, 2.0, 1.0, 1.0, 3.0])
    core = make_core(make_problem(gain, sizes=sizes, budget=5.0, stages=2))
    start, packed = np.array([0, 0, 0, 1, 1, 1]), pack(core)
    assert packed.lead == 0
    best, _, value = run_kernel(packed, start, Leg(1e-3, 1e-4, 1e4), 0, np.zeros(1, dtype=np.int64))
    assert value == 21.0 * packed.shrink * core.scale
    assert core.unscale(core.value(best)) == 21.0
    alike = pack(make_core(make_problem(gain, sizes=np.ones(6), budget=3.0)))
    assert alike.lead == -1


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 25), st.integers(0, 10**6))
def test_polish_stays_feasible_and_leaves_no_better_move_or_swap(k, seed):
    core = problem(k, seed)
    start = feasible_start(core, np.random.default_rng(seed))
    if start is None:
        return
    labels, value = polish(core, start)
    assert core.feasible(labels)
    assert value == core.value(labels) >= core.value(start)
    for i in range(core.n):
        for c in range(core.most):
            moved = labels.copy()
            moved[i] = c
            assert not core.feasible(moved) or core.value(moved) <= value
        for j in range(i):
            if len(core.sizes) or core.conflict.any():
                traded = labels.copy()
                traded[i], traded[j] = labels[j], labels[i]
                assert not core.feasible(traded) or core.value(traded) <= value


def test_a_slow_clock_changes_nothing_in_deterministic_mode(monkeypatch):
    rng = np.random.default_rng(2)
    gain = np.triu(rng.integers(-100, 101, (70, 70)), 1).astype(float)
    gain += gain.T
    sizes = rng.integers(1, 9, 70).astype(float)

    def answers() -> list[np.ndarray]:
        free = solve(gain, method="heuristic", time_limit=0.1, seed=4, deterministic=True)
        bound = solve(gain, sizes=sizes, budget=40, method="heuristic", time_limit=0.1, seed=4, deterministic=True)
        return [free.assignment, bound.assignment]

    quick = answers()
    real = time.monotonic
    # Every look at the clock costs a tenth of a second more than the last one: far beyond the limit at once.
    looks = [0]

    def slow() -> float:
        looks[0] += 1
        return real() + 0.1 * looks[0]

    monkeypatch.setattr(time, "monotonic", slow)
    late = answers()
    assert all(np.array_equal(one, other) for one, other in zip(quick, late, strict=True))


def test_search_is_bounded_by_work_and_repeats_itself():
    core = problem(60, 12)
    pools = [search(core, seconds=0.05, seed=3, workers=2, deterministic=True) for _ in range(2)]
    assert pools[0].values == pools[1].values
    assert all(np.array_equal(a, b) for a, b in zip(pools[0].labels, pools[1].labels, strict=True))


def test_search_never_ends_below_its_start_and_keeps_distinct_partitions_in_order():
    core = problem(40, 5)
    start = feasible_start(core, np.random.default_rng(0))
    pool = search(core, seconds=0.05, seed=1, start=start, deterministic=True, pool=Pool(keep=5))
    assert pool.values[0] >= core.value(start)
    assert pool.values == sorted(pool.values, reverse=True)
    assert len(pool.values) <= 5
    assert [core.value(labels) for labels in pool.labels] == pool.values
    assert len({labels.tobytes() for labels in pool.labels}) == len(pool.labels)


@needs_compiler
@pytest.mark.parametrize("case", range(4))
def test_the_answer_is_no_worse_than_any_peer(case):
    rng = np.random.default_rng([case, 77])
    k = 50
    points = rng.normal(size=(7, 5))[rng.integers(0, 7, k)] + 0.6 * rng.normal(size=(k, 5))
    gain = 6.0 - ((points[:, None] - points[None]) ** 2).sum(-1)
    gain = (gain + gain.T) / 2
    arguments: dict = {}
    if case % 2:
        sizes = rng.integers(1, 9, k).astype(float)
        arguments = {"sizes": sizes, "budget": float(np.ceil(1.2 * sizes.sum() / 6))}
    ours = solve(gain, method="heuristic", time_limit=0.3, deterministic=True, **arguments).objective
    for name in ("single_linkage", "average_linkage", "louvain", "leiden", "spectral", "greedy", "all_in_one"):
        try:
            assert ours >= solve(gain, method=name, **arguments).objective - 1e-9, name
        except PlanError:
            continue  # what a peer proposes may be beyond repair


def test_stages_with_limits_of_their_own_keep_their_numbers():
    rng = np.random.default_rng(8)
    gain = rng.integers(-9, 10, (20, 20)).astype(float)
    gain = np.triu(gain, 1) + np.triu(gain, 1).T
    sizes = rng.integers(1, 6, 20).astype(float)
    # The stage of the first domain need not be the first stage: relabelling would break the limits.
    budget = [10.0, 14.0, 18.0, 22.0, 26.0]
    core = make_core(make_problem(gain, sizes=sizes, budget=budget, minimum=[1.0, 2.0, 3.0, 15.0, 18.0]))
    pool = search(core, seconds=0.05, seed=2, deterministic=True)
    assert len(pool.labels) > 1
    assert all(core.feasible(labels) for labels in pool.labels)
    assert [core.value(labels) for labels in pool.labels] == pool.values
