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
    assert "general text the loss rose by 0.25" in text
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


@pytest.mark.parametrize("module", [_frame, _outcome, _provenance, _relations])
def test_examples_in_the_docstrings_hold(module) -> None:
    assert doctest.testmod(module).failed == 0
