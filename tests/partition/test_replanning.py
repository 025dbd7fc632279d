"""Planning the rest of a run anew: what is trained stays, noise changes nothing, a real change is followed."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from kinfold.errors import PlanError
from kinfold.metrics.relations import Relations
from kinfold.partition import Plan, PlanSettings, make_plan, replan

NAMES = ("a", "b", "c", "d", "e", "f")
SETTINGS = PlanSettings(stages="free", scale="none", lam=1.0, bootstrap=4, phase=0, compare=False)


def relations_of(groups: list[str], noise: float = 0.02, draws: int = 60, seed: int = 0) -> Relations:
    """Domains of one group are near, all others far; replicates scatter by `noise`."""
    rng = np.random.default_rng(seed)
    same = np.array([[any(x in g and y in g for g in groups) for y in NAMES] for x in NAMES])
    made: dict[str, np.ndarray] = {}
    replicates: dict[str, np.ndarray] = {}
    for name, near, far in (("js", 0.2, 0.6), ("synergy", 0.6, 0.2)):
        matrix = np.where(same, near, far)
        scatter = rng.normal(0, noise, (draws, 6, 6))
        made[name] = matrix
        replicates[name] = (matrix + (scatter + scatter.transpose(0, 2, 1)) / 2).astype(np.float32)
    return Relations(domains=NAMES, matrices=made, replicates=replicates, tokens=np.full(6, 100))


def planned(**changes: object) -> Plan:
    return make_plan(relations_of(["ab", "cd", "ef"]), settings=replace(SETTINGS, **changes), seed=1)


def grouped(stages: tuple[tuple[str, ...], ...]) -> list[str]:
    return sorted("".join(sorted(stage)) for stage in stages)


def test_what_is_trained_stays_and_the_rest_follows_the_new_relations() -> None:
    plan = planned()
    assert grouped(plan.stages) == ["ab", "cd", "ef"]
    first = plan.stages[0]
    rest = sorted(set(NAMES) - set(first))
    # The new relations pull one trained domain to an untrained one, and pair the others crosswise.
    wanted = [first[0] + rest[0] + rest[2], first[1], rest[1] + rest[3]]
    answer = replan(plan, relations_of(wanted), done=1, seed=3)
    assert answer.changed
    assert answer.plan.stages[0] == first
    assert grouped(answer.plan.stages) == sorted(["".join(first), rest[0] + rest[2], rest[1] + rest[3]])
    assert answer.low is not None
    assert 0 < answer.low <= answer.best - answer.kept <= answer.high
    assert answer.plan.verify() == ()
    assert "beyond their noise" in answer.why


def test_the_answer_is_the_best_of_all_plans_that_keep_the_trained_stage(brute_force) -> None:
    rng = np.random.default_rng(5)
    plan = planned()
    for seed in range(5):
        base = relations_of(["abcdef"], seed=seed)
        values = {name: rng.uniform(0, 1, (6, 6)) for name in ("js", "synergy")}
        values = {name: (v + v.T) / 2 for name, v in values.items()}
        draws = {name: np.repeat(v[None], 30, 0) for name, v in values.items()}
        relations = replace(base, matrices=values, replicates=draws)
        answer = replan(plan, relations, done=1)
        gain = values["synergy"] - values["js"]
        index = {name: i for i, name in enumerate(NAMES)}
        first = [index[name] for name in plan.stages[0]]
        free = [i for i in range(6) if i not in first]
        cannot = [(first[0], i) for i in free]
        must = list(itertools.pairwise(first))
        assert answer.best == pytest.approx(brute_force(gain, must_link=must, cannot_link=cannot), abs=1e-6)


def test_noise_does_not_move_a_plan() -> None:
    plan = planned()
    relations = relations_of(["ab", "cd", "ef"])
    js = np.array(relations.matrix("js"))
    # A hair in favour of another pairing, drowned by the scatter of the draws.
    rest = [NAMES.index(name) for name in sorted(set(NAMES) - set(plan.stages[0]))]
    for i, j in itertools.combinations(rest, 2):
        js[i, j] = js[j, i] = 0.2 if (i, j) in ((rest[0], rest[2]), (rest[1], rest[3])) else 0.201
    synergy = np.where(np.eye(6, dtype=bool), 0.6, 0.2)
    draws = {
        "js": js + np.random.default_rng(1).normal(0, 0.05, (60, 6, 6)),
        "synergy": np.repeat(synergy[None], 60, 0),
    }
    drowned = replace(relations, matrices={"js": js, "synergy": synergy}, replicates=draws)
    pairs = replace(SETTINGS, stages=3, budget={"domains": 2})
    answer = replan(plan, drowned, done=1, settings=pairs)
    assert not answer.changed
    assert answer.plan is plan
    assert answer.best > answer.kept
    assert answer.low is not None
    assert answer.low < 0
    assert "within their noise" in answer.why


def test_relations_that_say_the_same_change_nothing() -> None:
    plan = planned()
    answer = replan(plan, relations_of(["ab", "cd", "ef"], seed=9), done=1)
    assert (answer.changed, answer.plan) == (False, plan)
    assert "still the best" in answer.why


def test_budgets_links_and_numbers_of_stages_still_hold() -> None:
    settings = {"budget": {"domains": 2}, "cannot_link": (("c", "e"),), "stages": 3}
    plan = planned(**settings)
    first = plan.stages[0]
    rest = sorted(set(NAMES) - set(first))
    answer = replan(plan, relations_of(["".join(rest), *first]), done=1)
    assert max(map(len, answer.plan.stages)) <= 2
    assert len(answer.plan.stages) == 3
    assert not any({"c", "e"} <= set(stage) for stage in answer.plan.stages)
    assert answer.plan.verify() == ()


def test_trained_stages_that_break_the_constraints_do_not_strand_the_run() -> None:
    # Grouped by hand against its own budget: whatever comes next, no plan can keep the trained stage and the budget.
    plan = replace(planned(), stages=(("a", "b", "c"), ("d", "e", "f")), order=None)
    settings = replace(SETTINGS, budget={"domains": 2})
    answer = replan(plan, relations_of(["ab", "cd", "ef"]), done=1, settings=settings)
    assert (answer.changed, answer.plan) == (False, plan)
    assert "no plan fits the constraints while the trained stages stay" in answer.why


def test_a_second_re_plan_builds_on_the_first() -> None:
    plan = planned(stages=None)
    rest = sorted(set(NAMES) - set(plan.stages[0]))
    alone = [*plan.stages[0], *rest]
    once = replan(plan, relations_of(alone), done=1, settings=SETTINGS)
    assert len(once.plan.stages) == 5
    twice = replan(once.plan, relations_of(["".join(plan.stages[0]), "".join(rest)]), done=2, settings=SETTINGS)
    assert twice.plan.stages[:2] == once.plan.stages[:2]
    assert grouped(twice.plan.stages[2:]) == ["".join(sorted(set(rest) - set(once.plan.stages[1])))]


def test_the_same_arguments_give_the_same_answer() -> None:
    plan = planned()
    relations = relations_of(["ae", "bf", "cd"], seed=4)
    one, two = (replan(plan, relations, done=1, seed=7) for _ in range(2))
    assert one.to_dict() == two.to_dict()
    assert one.plan.stages == two.plan.stages


def test_relations_without_draws_or_of_other_domains_are_refused() -> None:
    plan = planned()
    with pytest.raises(PlanError, match="bootstrap"):
        replan(plan, relations_of(["ad", "be", "cf"], draws=5), done=1)
    with pytest.raises(PlanError, match="domains"):
        replan(plan, relations_of(["ab", "cd", "ef"]).subset(NAMES[:4]), done=1)
    with pytest.raises(PlanError, match="7 stages"):
        replan(plan, relations_of(["ab", "cd", "ef"]), done=7)
