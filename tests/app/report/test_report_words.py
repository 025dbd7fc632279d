"""The words of the report follow from the numbers, also when the numbers are bad news."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.app.report import _frame, _outcome, _provenance, _relations
from kinfold.app.report._frame import Frame, number, pack
from kinfold.app.report._outcome import outcome_view, verdict
from kinfold.app.report._relations import smacof
from kinfold.app.report._summary import summarise
from kinfold.app.report._training import training_view

NAMES = ("a", "b", "c", "d")
FRAME = Frame(NAMES, ((0, 1), (2, 3)))


def evaluation(changes: dict[str, tuple[float, float, float] | None], general: float | None = None) -> dict:
    out: dict = {"split": "test", "before": {}, "final": {}, "change": {}, "stages": [["a", "b"], ["c", "d"]]}
    for name, cell in changes.items():
        out["before"][name] = {"loss": 3.0}
        out["final"][name] = {"loss": 3.0 + (cell[0] if cell else -0.1)}
        if cell:
            out["change"][name] = {"final": dict(zip(("mean", "low", "high"), cell, strict=True))}
    if general is not None:
        out["general"] = {"before": {"loss": 2.0}, "after": {"loss": 2.0 + general}}
    return out


def outcome_sentence(values: dict) -> str:
    view = outcome_view(values, FRAME)
    sentences = {s["about"]: s["text"] for s in summarise(NAMES, None, None, view, True)["sentences"]}
    return sentences["outcome"]


def test_no_gain_is_called_no_gain() -> None:
    text = outcome_sentence(evaluation(dict.fromkeys(NAMES, (-0.1, -0.3, 0.1))))
    assert "there is no gain to report" in text
    assert "lowered" not in text


def test_harm_is_named() -> None:
    text = outcome_sentence(
        evaluation({"a": (-0.5, -0.6, -0.4), "b": (0.2, 0.1, 0.3), "c": (0.3, 0.2, 0.4), "d": (0.0, -0.1, 0.1)}, 0.25)
    )
    assert "lowered the test loss of 1 of 4 domains" in text
    assert "raised the loss of c and b" in text
    assert "1 stayed within its interval" in text
    assert "general text the loss rose by 0.25 nats a token" in text
    only = outcome_sentence(evaluation(dict.fromkeys(NAMES, (0.2, 0.1, 0.3))))
    assert only.startswith("Training improved none of 4 domains")


def test_without_intervals_nothing_is_claimed() -> None:
    text = outcome_sentence(evaluation(dict.fromkeys(NAMES)))
    assert "no intervals were computed" in text
    assert "lowered" not in text


@given(st.floats(-5, 5), st.floats(0, 3), st.floats(0, 3))
@settings(deadline=None, max_examples=60)
def test_a_verdict_needs_an_interval_that_leaves_zero_out(mean: float, below: float, above: float) -> None:
    low, high = mean - below, mean + above
    word = verdict(mean, low, high)
    assert (word == "unclear") == (low <= 0 <= high)
    assert (word == "better") == (high < 0)
    assert verdict(mean, low, high, lower_is_better=False) == {"better": "worse", "worse": "better"}.get(word, word)


def test_the_forgetting_matrix_is_loss_less_the_loss_before() -> None:
    values = evaluation(dict.fromkeys(NAMES, (-0.5, -0.6, -0.4)))
    values["after_stage"] = [{"a": 2.0, "b": 2.5, "c": 3.1, "d": 3.0}, {"a": 2.4, "b": 2.4, "c": 2.0, "d": 2.2}]
    view = outcome_view(values, FRAME)["forgetting"]
    assert view["stages"] == 2
    # a lost most since its own stage: 2.4 against 2.0.
    assert view["worst"] == ["a", pytest.approx(0.4)]


def test_general_text_has_a_unit_and_an_interval() -> None:
    values = evaluation(dict.fromkeys(NAMES, (-0.5, -0.6, -0.4)), 0.17)
    values["general"]["change"] = {"mean": 0.17, "low": 0.14, "high": 0.2}
    assert "on general text the loss rose by 0.17 nats a token (95 % interval 0.14 to 0.20)" in outcome_sentence(values)
    values["general"]["change"] = {"mean": -0.17, "low": -0.2, "high": -0.14}
    assert "on general text the loss fell by 0.17 nats a token (95 % interval 0.14 to 0.20)" in outcome_sentence(values)
    tile = summarise(NAMES, None, None, outcome_view(values, FRAME), True)["tiles"][-1]
    assert tile["note"].endswith("; loss fell by 0.50 nats a token on average; general-text loss fell by 0.17")
    values["general"]["change"] = {"mean": 0.01, "low": -0.1, "high": 0.12}
    assert "on general text the loss stayed within its interval" in outcome_sentence(values)


def test_the_summary_names_what_later_stages_cost() -> None:
    values = evaluation(dict.fromkeys(NAMES, (-0.5, -0.6, -0.4)))
    values["change"]["a"] = {
        "snapshot": {"mean": -0.3, "low": -0.4, "high": -0.2},
        "final": {"mean": 0.01, "low": -0.05, "high": 0.07},
    }
    values["change"]["b"] = {
        "snapshot": {"mean": -0.55, "low": -0.65, "high": -0.45},
        "final": {"mean": -0.5, "low": -0.6, "high": -0.4},
    }
    values["change"]["c"] = {
        "snapshot": {"mean": -0.51, "low": -0.505, "high": -0.504},
        "final": {"mean": -0.5, "low": -0.6, "high": -0.4},
    }
    text = outcome_sentence(values)
    # c lost 0.01: too little to say.
    assert "Later stages cost 2 domains more than 0.02 nats a token, most a (0.31)" in text
    assert "; for 1 of them that is beyond the interval right after their own stage" in text
    assert text.endswith("of what a had gained, nothing certain is left.")
    values["change"].pop("a")
    values["change"].pop("b")
    assert "Later stages" not in outcome_sentence(values)


@pytest.mark.parametrize(
    ("backward", "forward", "words"),
    [
        (-0.083, 0.015, "Later stages cost earlier domains 0.083 nats a token on average. Before its own stage, a "
         "domain was on average 0.015 nats a token better than at the start."),
        (0.05, -0.01, "Later stages made earlier domains better by 0.050 nats a token on average. Before its own "
         "stage, a domain was on average 0.010 nats a token worse than at the start."),
        (0.0, None, "Later stages changed nothing for earlier domains on average."),
        (None, None, ""),
    ],
)  # fmt: skip
def test_transfers_are_told_without_signs(backward, forward, words) -> None:
    values = evaluation(dict.fromkeys(NAMES, (-0.5, -0.6, -0.4)))
    values["forgetting"] = {"backward_transfer": backward, "forward_transfer": forward}
    assert outcome_view(values, FRAME)["transfers"] == words


def test_pairs_that_moved_are_counted() -> None:
    values = evaluation(dict.fromkeys(NAMES, (-0.5, -0.6, -0.4)))
    values["domains"] = list(NAMES)
    before = np.ones((4, 4)) - np.eye(4)
    after = before.copy()
    after[0, 1] = after[1, 0] = 0.5
    after[2, 3] = after[3, 2] = after[0, 3] = after[3, 0] = 1.5

    def moved(matrix: np.ndarray) -> str:
        values["alignment"] = {"mmd2_before": before.tolist(), "mmd2_after": matrix.tolist()}
        return outcome_view(values, FRAME)["alignment"]["moved"]

    assert moved(after) == "Of 6 pairs, 1 moved closer and 2 moved farther apart."
    assert moved(before * 0.5) == "All 6 pairs moved closer."
    assert moved(before * 2) == "All 6 pairs moved farther apart."


def plan_sentence(**changes) -> str:
    base = {
        "stages": [{"names": ["a", "b"]}, {"names": ["c", "d"]}],
        "trivial": None,
        "by_hand": False,
        "status": "optimal",
        "certificate": "proved optimal",
        "replicates": 0,
        "fragile": [],
        "certainty": None,
        "gap": 0.0,
    }
    view = {**base, **changes}
    return {s["about"]: s["text"] for s in summarise(NAMES, None, view, None, False)["sentences"]}["plan"]


def test_the_plan_s_sentence_says_what_is_proved_and_what_is_not() -> None:
    assert "(proved)" in plan_sentence()
    assert "(a and b; c and d)" in plan_sentence()
    assert "within 1.2 % of the best possible" in plan_sentence(status="feasible", certificate="within 1.2 %")
    assert "could not be proved" in plan_sentence(status="feasible", certificate="no certificate")
    assert "nothing is proved" in plan_sentence(by_hand=True, status="given")
    assert "a is fragile: on resampled documents it often moved" in plan_sentence(replicates=50, fragile=["a"])
    assert "everything in one stage" in plan_sentence(trivial="together", stages=[{"names": list(NAMES)}])
    # A number that the constraints settled is no choice of the objective.
    few = plan_sentence(trivial="together", stages=[{"names": list(NAMES)}], fewest=True)
    assert "nothing forbids it" in few
    assert "scores higher" not in few
    assert "no other grouping into 2 stages" in plan_sentence(fewest=True)


def test_the_plan_s_sentence_says_when_it_hangs_on_the_settings_and_who_would_hurt_whom() -> None:
    moving = {"changes": "the number of stages changes with λ", "stability": "…"}
    text = plan_sentence(phase=moving)
    assert "(proved); the proof is for this objective only: the number of stages changes with λ." in text
    assert "changes with" not in plan_sentence(phase={"changes": "", "stability": ""})
    assert "changes with" not in plan_sentence(phase=moving, by_hand=True, status="given")
    text = plan_sentence(hurt={"names": ["a", "c"], "gain": -0.9, "apart": True})
    assert "a and c are expected to hurt each other most, and the plan keeps them apart" in text
    assert "expected from the measurements, not a result" in text
    assert "and yet share a stage" in plan_sentence(hurt={"names": ["a", "b"], "gain": -0.9, "apart": False})


def test_relations_that_separate_nothing_are_said_to() -> None:
    measure = {
        "id": "js",
        "kind": "discrepancy",
        "title": "Token divergence (JS)",
        "unit": "bits",
        "extremes": {"alike": [[0, 1, 0.01]], "apart": [[2, 3, 0.02]]},
        "noisy": 6,
        "pairs": 6,
    }
    texts = summarise(NAMES, {"measures": [{**measure, "closest_is_noise": True, "noisy": 1}]}, None, None, False)
    assert "a and b cannot be told apart by token divergence, and c and d differ most" in texts["sentences"][0]["text"]
    texts = summarise(NAMES, {"measures": [measure]}, None, None, False)
    assert "separate nothing" in texts["sentences"][0]["text"]
    assert texts["tiles"][0]["value"] == number(0) + "\N{NO-BREAK SPACE}%"


@given(st.integers(1, 12), st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_packing_keeps_values_to_a_sixty_thousandth_of_their_range(unpack, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(k, k)) * 10 ** rng.uniform(-3, 3)
    matrix = matrix + matrix.T
    matrix[rng.random((k, k)) < 0.1] = np.nan
    matrix[np.isnan(matrix.T)] = np.nan
    span = np.nanmax(matrix) - np.nanmin(matrix) if np.isfinite(matrix).any() else 0.0
    for symmetric in (True, False):
        np.testing.assert_allclose(unpack(pack(matrix, symmetric=symmetric)), matrix, atol=span / 65_000 + 1e-300)


def test_the_map_recovers_points_of_a_plane() -> None:
    rng = np.random.default_rng(3)
    points = rng.normal(size=(20, 2))
    distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
    found, stress = smacof(distances)
    seen = np.sqrt(((found[:, None] - found[None]) ** 2).sum(-1))
    assert stress < 1e-6
    np.testing.assert_allclose(seen, distances, atol=1e-5)


def test_the_map_s_stress_is_kruskal_s_and_beats_classical_scaling() -> None:
    rng = np.random.default_rng(4)
    points = rng.normal(size=(15, 6))
    distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
    found, stress = smacof(distances)
    seen = np.sqrt(((found[:, None] - found[None]) ** 2).sum(-1))
    assert stress == pytest.approx(np.sqrt(((seen - distances) ** 2).sum() / (distances**2).sum()))
    centre = np.eye(15) - 1 / 15
    values, vectors = np.linalg.eigh(-0.5 * centre @ distances**2 @ centre)
    classical = vectors[:, -2:] * np.sqrt(values[-2:])
    flat = np.sqrt(((classical[:, None] - classical[None]) ** 2).sum(-1))
    assert stress < np.sqrt(((flat - distances) ** 2).sum() / (distances**2).sum())


def test_curves_are_means_that_never_cross_a_stage() -> None:
    rows = [
        {"stage": t, "step": i, "tokens": 10, "loss": float(t), "seconds": 0.5, "memory": 3 * 2**29}
        for t in range(3)
        for i in range(777)
    ]
    view = training_view(rows, FRAME)
    loss = next(c for c in view["charts"] if c["id"] == "loss")["series"][0]["y"]
    assert set(loss) == {0.0, 1.0, 2.0}
    assert len(loss) == len(view["x"]) < 800
    assert view["x"][-1] == view["tokens"] == 3 * 777 * 10
    assert [loss[k] for k in view["breaks"]] == [1.0, 2.0]
    speed = next(c for c in view["charts"] if c["id"] == "speed")["series"][0]["y"]
    assert set(speed) == {20.0}
    memory = next(c for c in view["charts"] if c["id"] == "memory")["series"][0]["y"]
    assert set(memory) == {1.5}
    assert view["seconds"] == pytest.approx(3 * 777 * 0.5)


def test_sparse_norms_are_joined_inside_a_stage_and_the_caption_says_so() -> None:
    rows = [{"stage": t, "step": i, "tokens": 10, "lr": 1.0} for t in range(2) for i in range(7)]
    for i in (0, 3, 6):
        rows[i]["norms"] = {"shared": float(i)}
    rows[9]["norms"] = {"shared": 5.0}
    chart = next(c for c in training_view(rows, FRAME)["charts"] if c["id"] == "norms")
    assert chart["series"][0]["y"] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, None, None, 5.0, None, None, None, None]
    assert "straight lines join the measurements" in chart["caption"]
    for row in rows:
        row["norms"] = {"shared": 1.0}
    chart = next(c for c in training_view(rows, FRAME)["charts"] if c["id"] == "norms")
    assert "straight lines" not in chart["caption"]


def test_the_caption_of_the_learning_rate_follows_the_data() -> None:
    def caption(*stages: list[float]) -> str:
        rows = [{"stage": t, "tokens": 10, "lr": lr} for t, rates in enumerate(stages) for lr in rates]
        return next(c for c in training_view(rows, FRAME)["charts"] if c["id"] == "rate")["caption"]

    falling, climbing = [3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 1.0]
    assert "Only in stage 2 can the climb be seen" in caption(falling, climbing, falling)
    assert caption(climbing, climbing).endswith("climbs over its first steps.")
    assert caption(falling, falling).endswith("each time at its highest rate.")
    assert caption(climbing) == "The schedule."


@pytest.mark.parametrize("module", [_frame, _outcome, _provenance, _relations])
def test_examples_in_the_docstrings_hold(module) -> None:
    assert doctest.testmod(module).failed == 0


def test_general_text_scored_on_another_split_is_said() -> None:
    values = evaluation({"a": (-0.2, -0.3, -0.1)}, general=0.1)
    values["general"]["split"] = "test"
    assert outcome_view(values, FRAME)["general"][0]["name"] == "general text"
    values["general"]["split"] = "train"
    name = outcome_view(values, FRAME)["general"][0]["name"]
    assert name == "general text (its train split, which a KL term trains on: it has no test split)"
    values["general"]["split"] = "validation"
    assert (
        outcome_view(values, FRAME)["general"][0]["name"] == "general text (its validation split: it has no test split)"
    )


def test_taking_it_away_names_the_backbone_that_scored_better() -> None:
    values = evaluation(dict.fromkeys(NAMES, (-0.1, -0.3, 0.1)))
    assert outcome_view(values, FRAME)["serving"] is None  # no snapshots, nothing to choose
    values["snapshot"] = {name: {"loss": 2.8 if name in ("b", "d") else 2.95} for name in NAMES}
    assert outcome_view(values, FRAME)["serving"] == {"own": ["b", "d"], "last": ["a", "c"], "domains": 4}


def test_answers_and_macro_f1_are_taken_where_they_were_measured() -> None:
    values = evaluation(dict.fromkeys(NAMES, (-0.1, -0.3, 0.1)))
    view = outcome_view(values, FRAME)
    assert view["answers"] == []
    assert not view["has_f1"]
    values["before"]["b"] |= {"exact_match": 0.0, "token_f1": 0.1, "rouge_l": 0.2, "f1": 0.5}
    values["final"]["b"] |= {"exact_match": 0.3, "token_f1": 0.4, "rouge_l": 0.5, "f1": 0.75, "answers": 8}
    view = outcome_view(values, FRAME)
    (row,) = view["answers"]
    assert (row["name"], row["exact_match_before"], row["exact_match_final"]) == ("b", 0.0, 0.3)
    assert view["has_f1"]
