"""Every exact method against plain enumeration, and the properties a planner must have."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.errors import InfeasibleError, InputTypeError, PlanError
from kinfold.partition import solve, solve_problem
from kinfold.partition._core import make_core
from kinfold.partition._subsets import subset_optimum
from kinfold.partition.problem import make_problem, objective_value, violations


def draw(case: int) -> tuple[np.ndarray, dict]:
    """A random small problem with budgets, counts, links and costs."""
    rng = np.random.default_rng([case, 11])
    k = int(rng.choice([2, 3, 4, 5, 6, 7, 7, 8, 8, 9]))
    gain = rng.normal(size=(k, k))
    gain = gain + gain.T
    if case % 3 == 0:
        gain = np.rint(3 * gain)
    np.fill_diagonal(gain, 0)
    arguments: dict = {}
    if rng.random() < 0.6:
        arguments |= {"sizes": rng.integers(1, 6, k).astype(float), "budget": float(rng.integers(5, 14))}
        if rng.random() < 0.4:
            arguments["minimum"] = float(rng.integers(1, 5))
    if rng.random() < 0.4:
        low = int(rng.integers(1, k + 1))
        arguments["stages"] = (low, int(rng.integers(low, k + 1)))
    for name in ("must_link", "cannot_link"):
        if rng.random() < 0.3:
            arguments[name] = [tuple(int(i) for i in rng.choice(k, 2, replace=False))]
    if rng.random() < 0.3:
        arguments["kappa"] = float(rng.normal())
    return gain, arguments


@pytest.mark.parametrize("block", range(10))
def test_exact_methods_agree_with_enumeration_in_500_cases(brute_force, block):
    for case in range(50 * block, 50 * block + 50):
        gain, arguments = draw(case)
        best = brute_force(gain, **arguments)
        # Subset programming and CP-SAT for all, column generation for every other.
        methods = ["auto", "clique", *(["columns"] if case % 2 else [])]
        for method in methods:
            if best == -np.inf:
                with pytest.raises(InfeasibleError):
                    solve(gain, **arguments, method=method, deterministic=True, time_limit=5)
                continue
            # By work, not by the clock: a starved machine proves as much.
            answer = solve(gain, **arguments, method=method, deterministic=True, time_limit=10)
            assert answer.status == "optimal", (case, method, answer)
            assert answer.objective == pytest.approx(best, abs=1e-9), (case, method)
            assert answer.bound == pytest.approx(best, abs=1e-6)
            problem = make_problem(gain, **arguments)
            assert violations(problem, answer.assignment) == []
            assert objective_value(problem, answer.assignment) == answer.objective


@pytest.mark.parametrize("case", range(30))
def test_several_resources(brute_force, case):
    rng = np.random.default_rng([case, 5])
    k = int(rng.integers(4, 8))
    gain = rng.integers(-5, 9, (k, k)).astype(float)
    gain = np.triu(gain, 1) + np.triu(gain, 1).T
    tokens, memory = rng.integers(1, 9, k).astype(float), rng.random(k)
    best = brute_force(gain, sizes=tokens, budget=14.0, more=[(memory, 1.6)])
    answer = solve(
        gain,
        sizes={"tokens": tokens, "memory": memory},
        budget={"tokens": 14.0, "memory": 1.6},
        method="columns" if case % 2 else "auto",
        workers=1,
    )
    assert answer.objective == best
    assert answer.status == "optimal"


@pytest.mark.parametrize("method", ["auto", "clique"])
def test_stages_with_their_own_limits_are_labelled(method):
    rng = np.random.default_rng(3)
    gain = rng.integers(-4, 8, (6, 6)).astype(float)
    gain = np.triu(gain, 1) + np.triu(gain, 1).T
    sizes = np.array([1.0, 2.0, 3.0, 2.0, 1.0, 2.0])
    budget, minimum = [4.0, 5.0, 6.0], [1.0, 2.0, 3.0]
    best = -np.inf
    for labels in itertools.product(range(3), repeat=6):
        array = np.array(labels)
        loads = [sizes[array == t].sum() for t in range(3)]
        if all(low <= load <= high for low, load, high in zip(minimum, loads, budget, strict=True)):
            same = np.triu(array[:, None] == array[None, :], 1)
            best = max(best, gain[same].sum())
    answer = solve(gain, sizes=sizes, budget=budget, minimum=minimum, method=method, workers=1)
    assert answer.objective == best
    assert answer.status == "optimal"
    for t in range(3):
        assert minimum[t] <= sizes[answer.assignment == t].sum() <= budget[t]


def test_equal_limits_per_stage_are_the_same_problem_as_one_limit():
    rng = np.random.default_rng(0)
    gain = rng.normal(size=(14, 14))
    gain = gain + gain.T
    sizes = rng.integers(1, 5, 14)
    one = solve(gain, sizes=sizes, budget=12, minimum=4, stages=4, workers=1)
    many = solve(gain, sizes=sizes, budget=[12] * 4, minimum=[4] * 4, workers=1)
    assert one.status == many.status == "optimal"
    assert one.objective == many.objective


def test_subset_programming_takes_a_hundred_draws_at_k_12_and_matches_columns():
    rng = np.random.default_rng(1)
    for _ in range(4):
        gain = rng.integers(-9, 10, (13, 13)).astype(float)
        gain = np.triu(gain, 1) + np.triu(gain, 1).T
        core = make_core(make_problem(gain, sizes=np.ones(13), budget=4))
        labels, value = subset_optimum(core)
        assert labels is not None
        assert core.value(labels) == value
        other = solve(gain, sizes=np.ones(13), budget=4, method="columns", workers=1)
        assert other.objective == core.unscale(value)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 40), st.integers(0, 10**6), st.booleans(), st.booleans(), st.booleans())
def test_the_heuristic_never_breaks_a_constraint(k, seed, bounded, linked, counted):
    rng = np.random.default_rng(seed)
    gain = rng.normal(size=(k, k))
    gain = gain + gain.T
    arguments: dict = {}
    if bounded:
        sizes = rng.integers(1, 8, k).astype(float)
        arguments = {"sizes": sizes, "budget": float(max(sizes.max(), 2 * sizes.sum() / max(2, k // 4)))}
    if linked and k > 3:
        a, b, c, d = (int(i) for i in rng.permutation(k)[:4])
        arguments |= {"must_link": [(a, b)], "cannot_link": [(a, c), (c, d)]}
        if bounded:
            arguments["budget"] += float(arguments["sizes"].max())
    if counted:
        arguments["stages"] = (1, max(2, k - 1))
    problem = make_problem(gain, **arguments)
    try:
        answer = solve_problem(problem, method="heuristic", time_limit=0.05, seed=seed % 1000, workers=1)
    except PlanError:
        return  # no start found in time is an answer too; the enumeration tests bound how often
    assert violations(problem, answer.assignment) == []
    assert answer.objective == objective_value(problem, answer.assignment)
    assert answer.bound >= answer.objective


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6))
def test_more_budget_never_hurts_and_relabelling_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    k = 9
    gain = rng.normal(size=(k, k))
    gain = gain + gain.T
    sizes = rng.integers(1, 6, k)
    values = [solve(gain, sizes=sizes, budget=b, workers=1).objective for b in (6, 9, 14)]
    assert values[0] <= values[1] + 1e-9 <= values[2] + 2e-9
    order = rng.permutation(k)
    shuffled = solve(gain[np.ix_(order, order)], sizes=sizes[order], budget=9, workers=1)
    plain = solve(gain, sizes=sizes, budget=9, workers=1)
    assert shuffled.objective == pytest.approx(plain.objective, abs=1e-9)
    # Continuous random gains have one optimum: the very same groups come back.
    back = np.empty(k, dtype=int)
    back[order] = shuffled.assignment
    same = plain.assignment[:, None] == plain.assignment[None, :]
    assert np.array_equal(back[:, None] == back[None, :], same)


def test_same_seed_same_answer_and_deterministic_mode_reads_no_clock():
    rng = np.random.default_rng(2)
    gain = rng.integers(-100, 101, (60, 60)).astype(float)
    gain = np.triu(gain, 1) + np.triu(gain, 1).T
    answers = [
        solve(gain, method="heuristic", time_limit=0.05, seed=4, deterministic=True).assignment for _ in range(2)
    ]
    assert np.array_equal(*answers)


def test_proof_of_a_planning_like_instance_beyond_subset_programming():
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(5, 6))
    points = centres[rng.integers(0, 5, 30)] + 0.5 * rng.normal(size=(30, 6))
    gain = 3.0 - ((points[:, None] - points[None]) ** 2).sum(-1)
    sizes = rng.integers(1, 9, 30)
    answer = solve(gain, sizes=sizes, budget=40, workers=1, time_limit=60)
    other = solve(gain, sizes=sizes, budget=40, workers=1, time_limit=60, method="clique")
    assert answer.status == "optimal"
    assert answer.gap == 0
    assert other.objective <= answer.objective + 1e-6
    assert other.bound >= answer.objective - 1e-6


def test_a_forbidding_weight_is_respected_and_does_not_change_the_rest(brute_force):
    rng = np.random.default_rng(5)
    gain = rng.integers(-5, 9, (8, 8)).astype(float)
    gain = np.triu(gain, 1) + np.triu(gain, 1).T
    gain[0, 1] = gain[1, 0] = -9999.0
    answer = solve(gain, workers=1)
    assert answer.objective == brute_force(gain)
    assert answer.assignment[0] != answer.assignment[1]


def test_one_domain_and_two():
    assert solve([[0.0]]).assignment.tolist() == [0]
    assert solve([[0.0]], kappa=2.0).objective == -2.0
    assert solve([[0, 1], [1, 0]]).assignment.tolist() == [0, 0]
    assert solve([[0, -1], [-1, 0]]).assignment.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"gain": [[0, 1], [2, 0]]}, PlanError, "symmetric"),
        ({"gain": [[0, np.nan], [np.nan, 0]]}, PlanError, "finite"),
        ({"gain": [[0, 1, 2], [1, 0, 3]]}, PlanError, "k×k"),
        ({"gain": "nonsense"}, InputTypeError, "matrix"),
        ({"sizes": [1]}, PlanError, "sizes"),
        ({"sizes": [1, -1], "budget": 2}, PlanError, "0 or more"),
        ({"stages": 0}, PlanError, "min <= max"),
        ({"stages": (2, 1)}, PlanError, "min <= max"),
        ({"stages": "two"}, InputTypeError, "stages"),
        ({"budget": [1, 2], "minimum": [1, 1, 1]}, PlanError, "same number"),
        ({"budget": [2, 2], "stages": 3}, PlanError, "agree"),
        ({"must_link": [(0, 5)]}, PlanError, "must_link"),
        ({"method": "magic"}, PlanError, "unknown"),
        ({"time_limit": 0}, PlanError, "time_limit"),
        ({"budget": {"tokens": 3}}, PlanError, "resource name"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(arguments, error, words):
    full = {"gain": [[0, 1], [1, 0]], **arguments}
    with pytest.raises(error, match=words):
        solve(**full)
