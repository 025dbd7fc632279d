"""The parts: orders, ranks, bounds, kernels and their fallback, each against something that shares no code with it."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from kinfold.errors import InfeasibleError, PlanError
from kinfold.partition import solve
from kinfold.partition._core import make_core
from kinfold.partition._heatbath import heat_bath
from kinfold.partition._start import feasible_start
from kinfold.partition._triangles import triangle_bound
from kinfold.partition.order import best_order, order_score, stage_matrices
from kinfold.partition.peers import PEER_TABLE, run_peer
from kinfold.partition.problem import make_problem, violations
from kinfold.partition.scaling import rank_scale
from kinfold.partition.solution import canonical


@pytest.mark.parametrize("seed", range(8))
def test_the_best_order_beats_every_permutation(seed):
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 7))
    transfer, forgetting = rng.normal(size=(m, m)), rng.normal(size=(m, m))
    found = best_order(transfer, forgetting)
    best = max(order_score(order, transfer, forgetting) for order in itertools.permutations(range(m)))
    assert found.exact
    assert found.score == pytest.approx(best)
    if m > 2:
        pinned = best_order(transfer, forgetting, pin={0: m - 1, 1: 0})
        best = max(
            order_score(order, transfer, forgetting)
            for order in itertools.permutations(range(m))
            if order[-1] == 0 and order[0] == 1
        )
        assert pinned.score == pytest.approx(best)


def test_long_orders_are_permutations_keep_pins_and_beat_random():
    rng = np.random.default_rng(0)
    transfer, forgetting = rng.normal(size=(18, 18)), rng.normal(size=(18, 18))
    found = best_order(transfer, forgetting, pin={3: 0, 7: 17}, seed=1)
    assert sorted(found.order) == list(range(18))
    assert found.order[0] == 3
    assert found.order[-1] == 7
    assert not found.exact
    assert found.score > max(order_score(rng.permutation(18), transfer, forgetting) for _ in range(50))


def test_exact_order_of_fifteen_stages_is_no_worse_than_local_search():
    rng = np.random.default_rng(3)
    transfer, forgetting = rng.normal(size=(15, 15)), 0.2 * rng.normal(size=(15, 15))
    found = best_order(transfer, forgetting)
    assert found.exact
    assert sorted(found.order) == list(range(15))
    assert all(found.score >= order_score(rng.permutation(15), transfer, forgetting) for _ in range(200))


def test_two_pins_on_one_position_are_refused():
    with pytest.raises(InfeasibleError, match="positions"):
        best_order(np.zeros((3, 3)), np.zeros((3, 3)), pin={0: 1, 2: 1})


def test_stage_matrices_by_hand():
    transfer = np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0]], dtype=float)
    forward, forgetting = stage_matrices([[0, 1], [2]], transfer, 10 * transfer, np.array([1.0, 1.0, 2.0]))
    assert forward[0, 1] == forward[1, 0] == 2.5
    assert forgetting[0, 1] == 25 * 0.5
    assert forgetting[1, 0] == 25 * 0.5


def test_ranks_match_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 6, (7, 7)).astype(float)
    matrix = np.triu(matrix, 1) + np.triu(matrix, 1).T
    pairs = np.triu_indices(7, 1)
    expected = (stats.rankdata(matrix[pairs]) - 1) / 20
    assert np.allclose(rank_scale(matrix)[pairs], expected)
    assert np.array_equal(rank_scale(matrix), rank_scale(matrix).T)


@pytest.mark.parametrize("seed", range(6))
def test_triangle_bound_is_above_the_optimum_and_tight_on_structure(seed):
    rng = np.random.default_rng(seed)
    gain = rng.normal(size=(11, 11))
    gain = gain + gain.T
    arguments = {"sizes": rng.integers(1, 5, 11), "budget": 9, "minimum": 2} if seed % 2 else {}
    answer = solve(gain, **arguments, workers=1)
    core = make_core(make_problem(gain, **arguments))
    found = triangle_bound(core)
    assert core.unscale(found.bound) >= answer.objective - 1e-9
    if found.labels is not None:
        assert core.unscale(core.value(found.labels)) <= answer.objective + 1e-9


@pytest.mark.parametrize("seed", range(8))
def test_pairs_are_fixed_only_where_every_better_partition_agrees(seed, capfd):
    """From a poor incumbent, so that there are better partitions for the fixed pairs to be wrong about."""
    from kinfold.partition._triangles import contracted

    rng = np.random.default_rng(seed)
    points = rng.normal(size=(4, 3))[rng.integers(0, 4, 12)] + 0.3 * rng.normal(size=(12, 3))
    gain = np.round(30 - 20 * ((points[:, None] - points[None]) ** 2).sum(-1))
    core = make_core(make_problem(gain))
    best = solve(gain, workers=1)
    poor = best.assignment.copy()
    poor[int(rng.integers(12))] = poor.max() + 1
    found = triangle_bound(core, incumbent=poor)
    assert "model has been changed" not in capfd.readouterr().err
    if core.value(poor) < core.value(best.assignment):
        same = best.assignment[:, None] == best.assignment[None, :]
        assert not (found.apart & same).any()
        assert not (found.together & ~same).any()
        rest = contracted(core, found)
        assert rest is not None
        smaller, item = rest
        first = np.unique(item, return_index=True)[1]
        assert smaller.value(best.assignment[first]) == core.value(best.assignment)
    else:
        assert found.bound >= core.value(best.assignment)


@pytest.mark.parametrize("seed", range(4))
def test_pricing_finds_the_best_stage_and_enumerates_all(seed):
    from kinfold.partition._jit import have_compiler
    from kinfold.partition._pricer import Pricer

    if not have_compiler():
        pytest.skip("needs a compiler")
    rng = np.random.default_rng(seed)
    n = 11
    gain = rng.integers(-20, 21, (n, n)).astype(float)
    gain = np.triu(gain, 1) + np.triu(gain, 1).T
    arguments = {} if seed == 0 else {"sizes": rng.integers(1, 6, n), "budget": 12, "cannot_link": [(0, 1)]}
    core = make_core(make_problem(gain, **arguments))
    pricer = Pricer(core)
    pricer.set_cuts(np.array([[0, 2, 3], [4, 5, 6]], dtype=np.int32))
    prices = np.array([7.0, 4.0])
    dual = rng.integers(-5, 15, n).astype(float)
    worth = {}
    for mask in range(1, 1 << n):
        items = [i for i in range(n) if mask >> i & 1]
        if len(core.sizes) and sum(core.sizes[0, items]) > core.upper[0, 0]:
            continue
        if core.conflict[np.ix_(items, items)].any():
            continue
        value = sum(core.gain[i, j] for i, j in itertools.combinations(items, 2)) - dual[items].sum() - 3.0
        value -= sum(p for p, cut in zip(prices, ({0, 2, 3}, {4, 5, 6}), strict=True) if len(cut & set(items)) > 1)
        worth[frozenset(items)] = value
    best = max(worth.values())
    found = pricer.exact(dual, 3.0, threshold=-1e6, prices=prices)
    assert found.complete
    assert found.bound == best
    assert found.values.max() == best
    limit = sorted(worth.values())[-40]
    everything = pricer.exact(dual, 3.0, threshold=limit, climb=False, prices=prices)
    assert everything.complete
    sets = {frozenset(np.flatnonzero(row).tolist()) for row in everything.members}
    assert sets == {one for one, value in worth.items() if value >= limit}
    short = pricer.exact(dual, 3.0, threshold=-1e6, prices=prices, nodes=3)
    assert not short.complete
    assert short.bound >= best


def test_heat_bath_reaches_the_optimum_of_small_problems():
    rng = np.random.default_rng(1)
    gain = rng.normal(size=(10, 10))
    gain = gain + gain.T
    problem = make_problem(gain, sizes=rng.integers(1, 4, 10), budget=8, cannot_link=[(0, 1)])
    core = make_core(problem)
    start = feasible_start(core, rng)
    unit = float(core.scale)
    labels, value = heat_bath(core, start, 2 * unit, 0.05 * unit, 300, rng, np.inf)
    assert core.feasible(labels)
    assert core.value(labels) == value
    best = solve(gain, sizes=problem.resources[0].sizes, budget=8, cannot_link=[(0, 1)], workers=1).objective
    assert core.unscale(value) == pytest.approx(best)


def test_everything_works_without_a_compiler():
    code = (
        "import numpy as np, sys\n"
        "from kinfold.partition import solve\n"
        "g = np.random.default_rng(0).normal(size=(14, 14)); g = g + g.T\n"
        "a = solve(g, sizes=np.ones(14), budget=5, workers=1, time_limit=8)\n"
        "assert 'numba' not in sys.modules\n"
        "print(repr(a.objective), a.status)\n"
    )
    environment = {**os.environ, "KINFOLD_NO_COMPILER": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    value, status = done.stdout.split()
    gain = np.random.default_rng(0).normal(size=(14, 14))
    # Kernels that no cache holds yet are compiled within the limit.
    here = solve(gain + gain.T, sizes=np.ones(14), budget=5, workers=1, time_limit=120)
    assert here.status == "optimal"
    assert float(value) <= here.objective + 1e-9
    if status == "optimal":
        assert float(value) == pytest.approx(here.objective)


def test_importing_the_room_is_light():
    code = (
        "import sys, kinfold.partition, kinfold.partition.settings\n"
        "heavy = {'numpy', 'torch', 'ortools', 'numba', 'scipy', 'sklearn', 'networkx', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from kinfold.partition import make_plan, solve\n"
        "solve([[0, 1], [1, 0]])\n"
        "assert not {'torch', 'numba', 'ortools', 'sklearn'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", sorted(PEER_TABLE))
def test_every_peer_is_feasible_or_says_why(name):
    rng = np.random.default_rng(2)
    for case in range(6):
        k = int(rng.integers(3, 14))
        gain = rng.normal(size=(k, k))
        arguments: dict = {}
        if case % 2:
            arguments = {"sizes": rng.integers(1, 5, k), "budget": 9}
        if case == 4:
            arguments["stages"] = (2, 3)
        problem = make_problem(gain + gain.T, **arguments)
        try:
            answer = run_peer(problem, name, seed=case)
        except PlanError:
            assert arguments, "without constraints every proposal stands"
            continue
        assert violations(problem, answer.assignment) == []
        assert answer.bound == np.inf
        assert answer.certificate == "no certificate"
        assert answer.objective <= solve(gain + gain.T, **arguments, workers=1, time_limit=5).objective + 1e-9


def test_single_linkage_is_the_papers():
    """Joins along the best link alone: a chain of good links becomes one stage whatever lies between its ends."""
    gain = np.array([[0, 2, -9, -9], [2, 0, 2, -9], [-9, 2, 0, 2], [-9, -9, 2, 0]], dtype=float)
    assert run_peer(make_problem(gain), "single_linkage").assignment.tolist() == [0, 0, 0, 0]
    assert run_peer(make_problem(gain), "average_linkage").stages == 2


def test_canonical_labels():
    assert canonical(np.array([5, 5, 1, 9, 1])).tolist() == [0, 0, 1, 2, 1]


def test_public_optima_of_the_literature_are_found_and_proved(shared_data):
    folder = shared_data / "partition" / "cplib"
    for name, optimum in (("wildcats", 1304), ("cetacea", 967)):
        words = (folder / f"{name}.txt").read_text().split()
        n = int(words[0])
        gain = np.zeros((n, n))
        gain[np.triu_indices(n, 1)] = np.array(words[1:], dtype=float)
        answer = solve(gain + gain.T, time_limit=30, workers=1)
        assert answer.objective == optimum
        assert answer.status == "optimal"
