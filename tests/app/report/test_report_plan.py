"""What the page says of a plan equals what can be worked out from the plan by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kinfold.app.report import write_plan_report
from kinfold.app.report._frame import Frame
from kinfold.app.report._plan import plan_view
from kinfold.metrics import Relations
from kinfold.partition import Plan

GAIN = np.array(
    [
        [0.0, 2.0, 1.0, -3.0],
        [2.0, 0.0, -0.5, 0.1],
        [1.0, -0.5, 0.0, 0.2],
        [-3.0, 0.1, 0.2, 0.0],
    ]
)


def plan(**changes) -> Plan:
    values = {
        "version": 1,
        "stages": [["a", "b", "c"], ["d"]],
        "domains": ["a", "b", "c", "d"],
        "gain": GAIN.tolist(),
        "objective": 2.5,
        "bound": 2.5,
        "gap": 0.0,
        "status": "optimal",
        "sizes": {"tokens": {"a": 10.0, "b": 20.0, "c": 30.0, "d": 5.0}, "documents": {"a": 1, "b": 1, "c": 1, "d": 1}},
        "budget": {"tokens": 80.0},
        "settings": {"lam": 2.0, "kappa": 0.0},
        "solvers": [
            {"name": "random", "objective": -1.0, "gap": None, "seconds": 0.1, "stages": 2},
            {"name": "greedy", "objective": 2.5, "gap": None, "seconds": 0.1, "stages": 2, "note": "greedy"},
            {"name": "kinfold", "objective": 2.5, "gap": 0.0, "seconds": 0.2, "stages": 2, "note": "proved optimal"},
            {"name": "broken", "objective": 9.0, "gap": None, "seconds": 0.1, "stages": 1, "feasible": False},
        ],
        "explain": {
            "a": {"stage": 0, "gain": 3.0, "best_other": None, "best_other_gain": 0.0, "margin": 3.0, "binding": []},
            "b": {"stage": 0, "gain": 1.5, "best_other": 1, "best_other_gain": 0.1, "margin": 1.4, "binding": []},
            "c": {"stage": 0, "gain": 0.5, "best_other": 1, "best_other_gain": 0.2, "margin": 0.3, "binding": []},
            "d": {
                "stage": 1,
                "gain": 0.0,
                "best_other": 0,
                "best_other_gain": 1.0,
                "margin": -1.0,
                "binding": ["tokens budget"],
            },
        },
        "confidence": {"co_assignment": np.ones((4, 4)).tolist(), "fragile": ["d"], "replicates": 10},
        "phase": {"lam": [1.0, 2.0], "budget": [40.0, 80.0], "resource": "tokens", "n_stages": [[4, None], [3, 2]]},
        **changes,
    }
    made = Plan.from_dict(values)
    # A file without a seal loads as a plan by hand; these numbers are meant to be a solver's.
    return replace(made, **{key: values[key] for key in ("objective", "bound", "gap", "status")})


def view(**changes) -> dict:
    made = plan(**changes)
    return plan_view(made, Frame.of(None, made), None)


def test_a_stage_s_gain_is_the_sum_over_its_pairs_and_its_worst_pair_is_named() -> None:
    first, second = view()["stages"]
    assert first["gain"] == pytest.approx(2.0 + 1.0 - 0.5)
    assert first["worst"] == ["b", "c", -0.5]
    assert second["gain"] is None
    assert sum(stage["gain"] or 0.0 for stage in view()["stages"]) == pytest.approx(plan().objective)


def test_budgets_show_what_is_used_of_them_and_unlimited_resources_stay_out() -> None:
    first, second = view()["stages"]
    assert [(use["resource"], use["used"], use["limit"], use["share"]) for use in first["used"]] == [
        ("tokens", 60.0, 80.0, 0.75)
    ]
    assert second["used"][0]["share"] == pytest.approx(5 / 80)
    unlimited = view(budget={})["stages"][0]["used"]
    assert [(use["resource"], use["limit"]) for use in unlimited] == [("tokens", None)]


def test_solvers_are_sorted_with_the_plan_first_among_equals_and_the_infeasible_last() -> None:
    rows = view()["solvers"]
    assert [row["name"] for row in rows] == ["kinfold", "greedy", "random", "broken"]
    assert [row["short"] for row in rows[:3]] == [0.0, 0.0, 3.5]
    assert not rows[3]["best"]
    assert rows[1]["note"] == ""


def test_reasons_come_least_certain_first_in_words() -> None:
    rows = view()["explain"]
    assert [row["name"] for row in rows] == ["d", "c", "b", "a"]
    assert rows[0]["other"] == "stage 1"
    assert rows[0]["binding"] == "tokens budget"
    assert rows[0]["fragile"]
    assert rows[3]["other"] == "a stage of its own"


def test_certainty_counts_pairs_placed_as_in_the_plan() -> None:
    # Everything always together: right about the three pairs of stage 1, wrong about the three with d.
    assert view()["certainty"] == pytest.approx(0.5)
    same = np.eye(4)
    same[:3, :3] = 1.0
    assert view(confidence={"co_assignment": same.tolist(), "replicates": 5})["certainty"] == pytest.approx(1.0)
    assert view(confidence=None)["certainty"] is None


def test_the_phase_diagram_outlines_the_plan_s_own_lambda(unpack) -> None:
    phase = view()["phase"]
    assert (phase["row"], phase["column"]) == (1, 1)
    assert phase["budget"] == ["tokens ≤ 40", "tokens ≤ 80"]
    # Above it no plan fits; to its left another number of stages.
    assert phase["stability"] == "Its only neighbour has another number of stages: this choice is not a stable one."
    assert phase["changes"] == "the number of stages changes with λ"
    np.testing.assert_array_equal(unpack(phase["counts"]), [[4.0, np.nan], [3.0, 2.0]])
    assert view(settings={"lam": 1.5})["phase"]["column"] is None
    assert view(phase={"lam": [1.0], "budget": [1.0, 2.0], "n_stages": [[1, 2]]})["phase"] is None


def test_limits_on_domains_are_whole_and_said_once(unpack) -> None:
    phase = {"lam": [1.0, 2.0, 4.0], "budget": [2.0, 2.828, 4.0, 5.657], "resource": "domains"}
    counts = [[3, 3, 3], [3, 3, 3], [2, 2, 2], [2, 2, 2]]
    agreement = [[0.5] * 3, [0.5] * 3, [1.0] * 3, [1.0, 0.9, 1.0]]
    found = view(budget={"domains": 4}, phase={**phase, "n_stages": counts, "agreement": agreement})["phase"]
    assert found["budget"] == ["domains ≤ 2", "domains ≤ 4", "domains ≤ 5"]
    assert unpack(found["counts"]).tolist() == [[3, 3, 3], [2, 2, 2], [2, 2, 2]]
    assert (found["row"], found["column"]) == (1, 1)
    assert found["stability"].startswith("1 of its 4 neighbours has another number of stages")
    assert found["changes"] == "the number of stages changes with the budget"
    same = {**phase, "n_stages": [[2] * 3] * 4}
    regrouped = view(budget={"domains": 4}, phase={**same, "agreement": agreement})["phase"]
    assert regrouped["changes"] == ""
    assert regrouped["stability"].startswith("2 of its 4 neighbours group the domains otherwise")
    sure = view(budget={"domains": 4}, phase={**same, "agreement": [[1.0] * 3] * 4})["phase"]
    assert sure["stability"].startswith("All of its ")
    assert "same plan" in sure["stability"]


def test_stage_cards_give_the_reason() -> None:
    explain = {
        "c": {"best_other": 0, "best_other_gain": 0.5, "margin": -0.3, "binding": ["domains budget"]},
        "d": {"best_other": 0, "best_other_gain": -2.9, "margin": 2.9, "binding": []},
    }
    first, second, third = view(stages=[["a", "b"], ["c"], ["d"]], explain=explain)["stages"]
    assert first["worst"] is None
    assert first["gain"] == pytest.approx(2.0)
    assert first["why"] == ""
    assert second["why"] == "c would gain more in stage 1 (+0.500), which has no room for it (domains budget)."
    assert third["why"] == "A stage of its own: even in stage 1, the best other, it would cost 2.90."
    lonely = GAIN.copy()
    lonely[3] = lonely[:, 3] = -1.0
    stages = view(stages=[["a", "b"], ["c"], ["d"]], explain={}, gain=lonely.tolist())["stages"]
    assert [stage["why"] for stage in stages] == ["", "A stage of its own.", "A stage of its own: no partner gains."]
    linked = {"c": {**explain["c"], "binding": ["cannot_link a", "domains budget"]}}
    assert "no room" not in view(stages=[["a", "b"], ["c"], ["d"]], explain=linked)["stages"][1]["why"]


def test_ties_are_said_and_repaired_peers_are_labelled() -> None:
    assert view()["ties"] == ""
    peers = [
        {"name": "kinfold", "objective": 2.5, "stages": 2},
        {"name": "greedy", "objective": 2.5, "stages": 2, "note": "greedy merging"},
        {"name": "all_in_one", "objective": 2.5, "stages": 2, "note": "one stage for all", "repaired": True},
        {"name": "one_per_domain", "objective": 0.0, "stages": 4, "note": "one stage a domain"},
    ]
    found = view(solvers=peers)
    assert found["ties"].startswith("2 of 3 other methods reach the same objective: this problem is easy")
    notes = {row["name"]: row["note"] for row in found["solvers"]}
    assert notes["all in one"] == "one stage for all, repaired to the budget"
    assert notes["one per domain"] == "one stage a domain"
    linked = view(solvers=peers, settings={"cannot_link": [["a", "d"]]})
    notes = {row["name"]: row["note"] for row in linked["solvers"]}
    assert notes["all in one"] == "one stage for all, repaired to the constraints"


def test_help_and_harm_are_the_extreme_gains_with_their_sign() -> None:
    pulls = view()["pulls"]
    assert pulls["together"][0] == [0, 1, 2.0]
    assert pulls["apart"] == [[0, 3, -3.0], [1, 2, -0.5]]
    assert view()["hurt"] == {"names": ["a", "d"], "gain": -3.0, "apart": True}
    assert view(gain=np.abs(GAIN).tolist())["hurt"] is None


@pytest.mark.parametrize(
    ("stages", "word"), [([["a", "b", "c", "d"]], "together"), ([["a"], ["b"], ["c"], ["d"]], "alone")]
)
def test_trivial_plans_are_called_trivial(stages, word, tmp_path) -> None:
    trivial = plan(stages=stages, explain={}, objective=None, bound=None, gap=None, status="feasible", confidence=None)
    assert plan_view(trivial, Frame.of(None, trivial), None)["trivial"] == word
    assert "A trivial plan." in write_plan_report(None, trivial, tmp_path / "p.html").read_text(encoding="utf-8")


def test_relations_without_a_measure_have_no_section(tmp_path) -> None:
    page = write_plan_report(Relations(domains=("a", "b"), matrices={}), plan(), tmp_path / "p.html").read_text(
        encoding="utf-8"
    )
    assert 'id="relations"' not in page
    assert 'id="plan"' in page


def test_a_trivial_plan_by_hand_is_not_said_to_have_scored_best(tmp_path) -> None:
    by_hand = Plan.from_dict({"version": 1, "stages": [["a", "b"]]})
    assert "scored best" not in write_plan_report(None, by_hand, tmp_path / "p.html").read_text(encoding="utf-8")


def test_one_stage_that_nothing_forbids_is_not_said_to_have_scored_best(tmp_path) -> None:
    few = plan(stages=(("a", "b", "c", "d"),), settings={"stages": "fewest"}, status="optimal", explain={})
    page = write_plan_report(None, few, tmp_path / "p.html").read_text(encoding="utf-8")
    assert "Nothing forbids one stage for all" in page
    assert "scored best" not in page
