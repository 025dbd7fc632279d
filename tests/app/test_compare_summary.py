"""From records to verdicts, tables and pictures; names are text wherever they are shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from compare_cases import PLAN, TRAIN, record, summary
from kinfold.app.compare import CompareSettings, Comparison, comparison_table
from kinfold.app.compare._summary import summarise
from kinfold.app.compare._variants import variants
from kinfold.errors import RunError
from kinfold.partition import Plan, PlanSettings


def test_advantages_have_the_sign_of_better() -> None:
    value = summary()
    rows = {row["name"]: row for row in value["methods"]}
    assert rows["joint"]["plan_advantage"]["mean"] == pytest.approx(0.5)
    assert rows["joint"]["verdict"] == "plan better"
    assert rows["random"]["plan_advantage"]["mean"] == pytest.approx(-0.25)
    assert rows["random"]["verdict"] == "plan worse"
    assert rows["plan"]["mean"] == pytest.approx(3.65)
    assert rows["plan"]["sd_over_seeds"] == pytest.approx(np.std([3.15, 4.15], ddof=1))
    assert rows["joint"]["worst"] == {"domain": "kitchen", "value": pytest.approx(0.7), "of": "gain over the base"}
    assert rows["joint"]["other_serving"] == {"snapshot": 5.0}
    assert rows["random"]["runs"] == 4

    value = summary(task="classification")
    rows = {row["name"]: row for row in value["methods"]}
    assert value["metric"] == "accuracy"
    # Accuracy is higher for the plan where its loss was lower.
    assert rows["joint"]["plan_advantage"]["mean"] == pytest.approx(0.05)
    assert rows["joint"]["verdict"] == "plan better"
    assert rows["joint"]["worst"]["of"] == "accuracy"


def test_stopped_runs_are_left_out_in_pairs_and_said() -> None:
    value = summary(skip=("joint", 1))
    rows = {row["name"]: row for row in value["methods"]}
    assert rows["joint"]["seeds"] == [0]
    assert rows["joint"]["plan_advantage"]["mean"] == pytest.approx(0.5)
    assert rows["joint"]["verdict"] == "too few runs to say"
    assert any("joint: 1 run(s) had to stop; the first: it diverged" in warning for warning in value["warnings"])


def test_a_method_that_came_to_the_plan_is_called_the_same() -> None:
    made = CompareSettings(methods=("joint",), seeds=(0, 1))
    joint = Plan(stages=(PLAN.domains,), domains=PLAN.domains)
    runs = variants(joint, None, settings=made, train=TRAIN, plan_settings=PlanSettings(), seed=0)
    done = [(run, record(run, dict.fromkeys(PLAN.domains, 3.0))) for run in runs]
    value = summarise(done, {}, settings=made, plan={}, made_of={}, seed=0)
    assert value["methods"][1]["verdict"] == "same as the plan"
    assert any("nothing to compare" in warning for warning in value["warnings"])


def test_names_are_text_in_every_view(tmp_path: Path) -> None:
    value = json.loads(json.dumps(summary()))
    evil = "<script>|[x](y)*\x1b[31m$\\frac$"
    text = json.dumps(value).replace('"kitchen"', json.dumps(evil))
    comparison = Comparison(tmp_path, json.loads(text))
    shown = comparison.markdown
    assert "<script>" not in shown
    assert "\x1b" not in shown
    assert r"\[x\](y)\*" in shown
    table = next(line for line in shown.splitlines() if line.startswith("| domain"))
    for line in shown.splitlines():
        if "&lt;script" in line and line.startswith("| &lt;"):
            assert len(re.findall(r"(?<!\\)\|", line)) == table.count("|")
    comparison.save()
    assert (tmp_path / "forest.svg").read_text().startswith("<?xml")
    assert Comparison.load(tmp_path).to_dict() == comparison.to_dict()
    assert Comparison.load(tmp_path / "compare.json").methods == ("plan", "joint", "random")

    from rich.console import Console

    console = Console(width=80, record=True, file=(tmp_path / "t").open("w"))
    console.print(comparison_table(comparison))
    printed = console.export_text()
    assert all(len(line) <= 80 for line in printed.splitlines())
    assert "plan better" in printed
    assert "+0.500" in printed


def test_what_is_no_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file"):
        Comparison.load(tmp_path)
    (tmp_path / "compare.json").write_text("{}")
    with pytest.raises(RunError, match="not a comparison of this version"):
        Comparison.load(tmp_path)
    with pytest.raises(RunError, match="no method 'x'"):
        Comparison(tmp_path, summary()).method("x")
