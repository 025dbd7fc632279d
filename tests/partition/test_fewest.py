"""The least number of stages, against every partition of small problems."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from unittest.mock import ANY

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.errors import ConfigError, InfeasibleError
from kinfold.partition import Plan, PlanSettings, extend_plan, make_plan, replan, solve
from kinfold.partition._clique import feasibility
from kinfold.partition._clock import Clock
from kinfold.partition._core import make_core
from kinfold.partition.fewest import fewest_stages
from kinfold.partition.problem import make_problem, violations


def every_partition(k: int) -> Iterator[list[int]]:
    """Every partition of k items, as restricted growth strings."""

    def grow(labels: list[int]) -> Iterator[list[int]]:
        if len(labels) == k:
            yield labels
            return
        for label in range(max(labels, default=-1) + 2):
            yield from grow([*labels, label])

    yield from grow([])


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=6),
    budget=st.integers(5, 25),
    minimum=st.sampled_from([None, 4, 8]),
    links=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), max_size=4),
)
def test_no_partition_has_fewer(
    sizes: list[int], budget: int, minimum: int | None, links: list[tuple[int, int, bool]]
) -> None:
    k = len(sizes)
    kept = [(a, b, together) for a, b, together in links if a < k and b < k and a != b]
    problem = make_problem(
        np.zeros((k, k)),
        sizes=sizes,
        budget=budget,
        minimum=minimum,
        must_link=[(a, b) for a, b, together in kept if together],
        cannot_link=[(a, b) for a, b, together in kept if not together],
    )
    allowed = [len(set(labels)) for labels in every_partition(k) if not violations(problem, labels)]
    assert fewest_stages(problem) == (min(allowed) if allowed else None)


def test_without_constraints_one_stage_will_do() -> None:
    assert fewest_stages(make_problem(np.zeros((40, 40)))) == 1


def test_what_first_fit_misses_is_found() -> None:
    # The hardest first, evenly: 6 5 4 then 4 3 2 leaves a gap that only another deal closes.
    sizes = [6, 5, 5, 4, 4, 3, 3]
    problem = make_problem(np.zeros((7, 7)), sizes=sizes, budget=10)
    assert fewest_stages(problem) == 3


@pytest.mark.parametrize(("hair", "stages"), [(0.0, 2), (1e-6, 3)])
def test_a_hair_over_the_budget_is_over_it(hair: float, stages: int) -> None:
    # In all they would fit into two stages, but no way to deal them does, by a ten-millionth.
    sizes = np.array([6.0, 5.0 - 2 * hair, 5.0, 4.0 + hair])
    assert fewest_stages(make_problem(np.zeros((4, 4)), sizes=sizes, budget=10)) == stages
    made = solve(np.ones((4, 4)), sizes=sizes, budget=10, stages=stages)
    assert len(set(made.assignment.tolist())) == stages


def test_domains_kept_apart_need_a_stage_each() -> None:
    pairs = [(a, b) for a in range(5) for b in range(a + 1, 5)]
    assert fewest_stages(make_problem(np.zeros((9, 9)), cannot_link=pairs)) == 5


def test_a_number_that_is_asked_for_is_the_least() -> None:
    assert fewest_stages(make_problem(np.zeros((6, 6)), stages=(3, 5))) == 3


QUICK = PlanSettings(bootstrap=4, phase=3, compare=True, workers=1, time_limit=5)


def test_by_default_a_plan_has_as_few_stages_as_the_budget_allows(relations, brute_force) -> None:
    plan = make_plan(relations, settings=QUICK)
    assert plan.settings["stages"] == "fewest"
    assert len(plan.stages) == 1
    assert plan.notes[0].startswith("As few stages as the constraints allow: one stage.")
    assert not any("As few stages" in line for line in plan.warnings)
    k = len(plan.domains)
    bound = make_plan(relations, settings=replace(QUICK, budget={"domains": 4}))
    needed = -(-k // 4)
    assert len(bound.stages) == needed
    best = brute_force(bound.gain, sizes=np.ones(k), budget=4, stages=(needed, needed))
    assert bound.objective == pytest.approx(best, abs=1e-9)
    assert bound.certificate == "proved optimal"
    assert bound.verify() == ()
    # Looser budgets of the map need fewer stages, tighter ones more.
    rows = [[n for n in row if n is not None] for row in bound.phase["n_stages"]]
    assert all(len(set(row)) <= 1 for row in rows)
    assert [row[0] for row in rows if row] == sorted((row[0] for row in rows if row), reverse=True)
    assert len({row[0] for row in rows if row}) > 1


def test_a_free_number_is_the_objectives(relations) -> None:
    free = make_plan(relations, settings=replace(QUICK, stages="free"))
    assert free.objective >= make_plan(relations, settings=QUICK).objective
    assert len(free.stages) > 1
    # Left empty, as plans and configurations of before leave it, it means the same.
    assert make_plan(relations, settings=replace(QUICK, stages=None)) == replace(free, seconds=ANY, solvers=ANY)


def test_extending_and_planning_again_keep_the_stages_there_are(relations_of) -> None:
    relations = relations_of(k=9, seed=2, replicates=24)
    settings = replace(QUICK, phase=0, bootstrap=0, budget={"domains": 4})
    small = make_plan(relations.subset(relations.domains[:-1]), settings=settings)
    assert len(small.stages) == 2
    # Both stages are full, so a ninth domain needs a third one.
    grown = extend_plan(small, relations, settings=settings)
    assert len(grown.plan.stages) == 3
    assert grown.plan.verify() == ()
    # Four stages by hand stay four, though two would do.
    names = list(relations.domains[:-1])
    hand = Plan(stages=tuple((a, b) for a, b in zip(names[::2], names[1::2], strict=True)), domains=tuple(names))
    answer = replan(hand, relations.subset(names), done=1, settings=settings)
    assert len(answer.plan.stages) == 4
    assert answer.plan.stages[0] == hand.stages[0]


def test_what_cannot_be_is_named_as_before_and_kappa_that_counts_for_nothing_is_said(relations) -> None:
    first, second = relations.domains[:2]
    with pytest.raises(InfeasibleError, match="cannot_link"):
        make_plan(relations, settings=replace(QUICK, must_link=((first, second),), cannot_link=((first, second),)))
    plan = make_plan(relations, settings=replace(QUICK, kappa=0.5))
    assert any("plan.kappa = 0.5 changes nothing" in line for line in plan.warnings)
    with pytest.raises(ConfigError, match="fewest, free, a whole number"):
        PlanSettings(stages="few")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sizes", "budget", "minimum", "apart", "least"),
    [
        # Three sizes fill the budget exactly, and a third of it is no whole number of any unit.
        ([2, 2, 3, 2, 3], 6.0, 0.0, [(3, 2)], 2),
        ([2, 1, 3, 2, 1], 4.5, 3.0, [], 3),
        # Sizes that are no decimals become whole numbers above 2^32, where the presolve of CP-SAT errs.
        ([0, 3, 1.61432365471991, 1, 1, 2], 4.3071618273599555, 2.1535809136799777, [(5, 1), (3, 2)], 3),
    ],
)
def test_limits_filled_exactly_and_sizes_that_are_no_decimals(sizes, budget, minimum, apart, least) -> None:
    k = len(sizes)
    problem = make_problem(
        np.zeros((k, k)), sizes=sizes, budget=budget, minimum=minimum or None, stages=(1, k), cannot_link=apart
    )
    assert fewest_stages(problem) == least


def test_cp_sat_finds_partitions_of_large_sizes() -> None:
    problem = make_problem(
        np.zeros((6, 6)),
        sizes=[0, 3, 1.61432365471991, 1, 1, 2],
        budget=4.3071618273599555,
        minimum=2.1535809136799777,
        stages=3,
        cannot_link=[(5, 1), (3, 2)],
    )
    labels, _, status, _ = feasibility(make_core(problem), clock=Clock(10.0), seed=0, workers=1)
    assert status == "feasible"
    assert make_core(problem).feasible(labels)


def test_a_pin_to_a_stage_that_is_not_needed_is_refused_with_the_number_that_is(relations) -> None:
    """Nine stages because one domain was pinned to the ninth is not what anybody means."""
    names = relations.domains
    settings = replace(QUICK, budget={"domains": -(-len(names) // 2)})
    with pytest.raises(ConfigError, match=r"plan\.pin\.d03: position 9 asks for 9 stages where the constraints need 2"):
        make_plan(relations, settings=replace(settings, pin={"d03": 9}))
    two = make_plan(relations, settings=replace(settings, pin={"d03": 2}))
    assert len(two.stages) == 2
    assert "d03" in two.stages[1]
    nine = make_plan(relations, settings=replace(settings, pin={"d03": 9}, stages=9))
    assert len(nine.stages) == 9
    assert "d03" in nine.stages[8]
    free = make_plan(relations, settings=replace(settings, pin={"d03": 3}, stages="free"))
    assert "d03" in free.stages[2]


def test_one_stage_is_called_one_stage(relations) -> None:
    plan = make_plan(relations, settings=QUICK)
    said = [line for one in plan.explain.values() for line in one["binding"]]
    assert "at most 1 stage" in said
    assert not any("1 stages" in line for line in said)


def test_an_edited_plan_does_not_call_its_stages_as_few_as_can_be(relations, tmp_path) -> None:
    plan = make_plan(relations, settings=QUICK)
    first, *rest = plan.domains
    by_hand = replace(plan, stages=((first,), tuple(rest)))
    by_hand.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json").notes == ()
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json").notes == plan.notes != ()


def test_nor_does_an_extension_that_keeps_old_stages(relations_of) -> None:
    relations = relations_of(k=8)
    plan = make_plan(relations.subset(relations.domains[:7]), settings=replace(QUICK, budget={"domains": 4}))
    assert plan.notes
    assert extend_plan(plan, relations, settings=replace(QUICK, budget={"domains": 4})).plan.notes == ()
