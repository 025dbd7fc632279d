"""Whether a grouping is expected to matter: yes where there is structure, no where there is only noise."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.metrics.relations import Relations
from kinfold.partition import PlanSettings, make_plan
from kinfold.partition.expectation import Expectation, _exchanged, expectation, label_warning, lead

PLAIN = PlanSettings(budget={"domains": 3}, bootstrap=0, phase=0, compare=False, workers=1, time_limit=5)


def _only_noise(relations: Relations, seed: int, noise: float = 0.02) -> Relations:
    """The same kind of relations where every pair is alike but for the noise of sampling."""
    rng = np.random.default_rng(seed)
    k = len(relations.domains)

    def sample(centre: np.ndarray, *shape: int) -> np.ndarray:
        errors = noise * rng.normal(size=(*shape, k, k))
        return centre + np.triu(errors, 1) + np.swapaxes(np.triu(errors, 1), -1, -2)

    found = {"js": sample(np.full((k, k), 0.3)), "synergy": sample(np.full((k, k), 0.6))}
    return replace(
        relations,
        matrices=found,
        low={name: value - 2 * noise for name, value in found.items()},
        high={name: value + 2 * noise for name, value in found.items()},
        replicates={name: sample(value, 30).astype(np.float32) for name, value in found.items()},
    )


def _labels(plan: object) -> np.ndarray:
    return np.array(plan.assignment)  # type: ignore[attr-defined]


def test_structure_beyond_noise_is_not_warned_about(relations_of) -> None:
    for seed in range(8):
        relations = relations_of(k=12, seed=seed, replicates=20, noise=0.03)
        found = expectation(_labels(make_plan(relations, settings=PLAIN)), relations, PLAIN)
        assert found is not None
        assert found.matters
        assert found.warning is None


def test_noise_alone_is_warned_about(relations_of) -> None:
    warned = 0
    for seed in range(20):
        relations = _only_noise(relations_of(k=12), seed)
        found = expectation(_labels(make_plan(relations, settings=PLAIN)), relations, PLAIN)
        assert found is not None
        # The planner finds a lead in noise too; it must not be taken for structure.
        assert found.advantage > 0
        warned += found.warning is not None
    assert warned >= 17


def test_more_text_turns_the_verdict(relations_of) -> None:
    weak = relations_of(k=12, seed=1, replicates=20, noise=3.0)
    labels = _labels(make_plan(weak, settings=PLAIN))
    loud = expectation(labels, weak, PLAIN)
    calm = expectation(labels, replace(weak, replicates=relations_of(k=12, seed=1, noise=0.01).replicates), PLAIN)
    assert loud is not None
    assert calm is not None
    assert loud.advantage == calm.advantage
    assert not loud.matters
    assert calm.matters


def test_constraints_that_cut_across_clear_blocks_are_not_called_harmony(relations_of) -> None:
    """Three clear blocks, and must-links that force every stage across them."""
    k, rng = 9, np.random.default_rng(0)
    block = np.arange(k) // 3
    same = block[:, None] == block[None, :]
    base = relations_of(k=k)
    found = {"js": np.where(same, 0.1, 0.6), "synergy": np.where(same, 0.8, 0.2)}
    draws = {name: (value + 0.02 * rng.normal(size=(20, k, k))).astype(np.float32) for name, value in found.items()}
    blocks = replace(base, matrices=found, low=found, high=found, replicates=draws)
    across = tuple(tuple(f"d{i:02d}" for i in range(k) if i % 3 == rest) for rest in range(3))
    forced = replace(PLAIN, must_link=across)
    plan = make_plan(blocks, settings=forced)
    assert {frozenset(stage) for stage in plan.stages} == {frozenset(group) for group in across}
    assert not any("any grouping within budget will do" in line for line in plan.warnings)
    assert any("keep the plan from using the differences measured" in line for line in plan.warnings)
    free = make_plan(blocks, settings=PLAIN)
    assert not any("random groups of the same sizes" in line for line in free.warnings)


def test_nothing_is_said_where_nothing_can_be_exchanged(relations) -> None:
    k = len(relations.domains)
    assert expectation(np.zeros(k, dtype=np.int64), relations, PLAIN) is None
    assert expectation(np.arange(k), relations, PLAIN) is None
    bare = replace(relations, replicates={})
    assert expectation(np.arange(k) // 2, bare, PLAIN) is None


def test_contradicting_labels_in_one_stage_are_named(relations) -> None:
    k = len(relations.domains)
    side = np.where(np.arange(k) % 2 == 0, 1.0, -1.0)
    cosine = 0.6 * np.outer(side, side)
    np.fill_diagonal(cosine, 1.0)
    cosine[0, 3] = cosine[3, 0] = -0.9
    agreement = {"class_mean_cosine": {"split_half": 0.9, "usable": True, "why": ""}}
    known = replace(relations, matrices={**relations.matrices, "class_mean_cosine": cosine}, agreement=agreement)
    together = np.zeros(k, dtype=np.int64)
    said = label_warning(together, known)
    assert said is not None
    assert "d00 and d03 (class-mean cosine -0.90)" in said
    assert f"{(k // 2) * (k - k // 2)} pair(s)" in said
    # Apart by convention, unknown, or not to be trusted: nothing to say.
    apart = label_warning((side < 0).astype(np.int64), known) or ""
    assert "none shares a stage" in apart
    assert "own stage's backbone" in apart
    assert label_warning(together, relations) is None
    alike = replace(known, matrices={**known.matrices, "class_mean_cosine": np.abs(cosine)})
    assert "Labels agree between all domains (least class-mean cosine 0.60)" in (label_warning(together, alike) or "")
    assert label_warning(np.zeros(1, dtype=np.int64), alike.subset(["d00"])) is None
    unsure = {"class_mean_cosine": {"split_half": 0.1, "usable": False, "why": "noise"}}
    assert label_warning(together, replace(known, agreement=unsure)) is None


def test_the_sentence_names_the_numbers() -> None:
    said = Expectation(1.0, 2.5, 2.0, 0.5, 9).warning
    assert said is not None
    assert "1.00" in said
    assert "2.00 ± 0.50" in said
    assert Expectation(3.5, 4.0, 2.0, 0.5, 9).warning is None
    held_back = Expectation(1.0, 9.0, 2.0, 0.5, 9).warning
    assert held_back is not None
    assert "hardly conflict" not in held_back
    assert "other groups of these sizes reach 9.00" in held_back


@given(st.integers(4, 7), st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_the_lead_is_over_the_mean_of_all_deals_and_exchanges_only_raise_it(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    gain = rng.normal(size=(k, k))
    gain = gain + gain.T
    labels = rng.integers(0, 3, k)
    labels = np.unique(labels, return_inverse=True)[1].reshape(-1)
    if len(np.unique(labels)) < 2:
        return

    def inside(some: np.ndarray) -> float:
        return sum(gain[i, j] for i, j in itertools.combinations(range(k), 2) if some[i] == some[j])

    deals = [np.array(one) for one in itertools.permutations(labels.tolist())]
    assert lead(gain, labels) == pytest.approx(inside(labels) - np.mean([inside(one) for one in deals]))
    after = _exchanged(gain, labels)
    assert sorted(after.tolist()) == sorted(labels.tolist())
    assert lead(gain, after) >= lead(gain, labels) - 1e-9
    assert max(inside(one) for one in deals) >= inside(after) - 1e-9


def test_the_planner_warns_where_it_expects_no_difference_and_only_there(relations_of) -> None:
    clear = make_plan(relations_of(k=12, seed=3, replicates=20, noise=0.03), settings=PLAIN)
    assert not any("any grouping within budget will do" in line for line in clear.warnings)
    blurred = [make_plan(_only_noise(relations_of(k=12), seed), settings=PLAIN) for seed in range(6)]
    warned = [any("any grouping within budget will do" in line for line in plan.warnings) for plan in blurred]
    assert sum(warned) >= 4


def test_contradicting_labels_are_kept_apart_by_default(relations) -> None:
    k = len(relations.domains)
    side = np.where(np.arange(k) % 2 == 0, 1.0, -1.0)
    agreement = {"class_mean_cosine": {"split_half": 0.9, "usable": True, "why": ""}}
    matrices = {**relations.matrices, "class_mean_cosine": 0.6 * np.outer(side, side)}
    known = replace(relations, matrices=matrices, agreement=agreement)
    quick = PlanSettings(bootstrap=0, phase=0, compare=False, workers=1, time_limit=5)
    plan = make_plan(known, settings=quick)
    assert {frozenset(stage) for stage in plan.stages} == {
        frozenset(known.domains[i] for i in np.flatnonzero(side == sign)) for sign in (1.0, -1.0)
    }
    assert plan.verify() == ()
    assert any("none shares a stage" in line for line in plan.warnings)
    # Not measured, or halves that do not agree: nothing is known, and one stage it is.
    assert len(make_plan(relations, settings=quick).stages) == 1
    unsure = {"class_mean_cosine": {"split_half": 0.1, "usable": False, "why": "noise"}}
    assert len(make_plan(replace(known, agreement=unsure), settings=quick).stages) == 1
    # What the user links stays linked, and is warned about.
    linked = make_plan(known, settings=replace(quick, must_link=(known.domains[:2],)))
    assert len(linked.stages) == 1
    assert any("Labels contradict in" in line and "share a stage" in line for line in linked.warnings)
    # Whoever names a number, or leaves it free, gets it.
    assert len(make_plan(known, settings=replace(quick, stages=1)).stages) == 1
