"""Answers as text: metrics against hand values and independent formulas, and generation under a trained adapter."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold._progress import SilentProgress
from kinfold.corpora import load_corpora
from kinfold.partition.plan import Plan
from kinfold.stages import LoraSpec, Run, TrainSettings, evaluate_run, train
from kinfold.stages.generation import exact_match, rouge_l, token_f1

WORDS = st.lists(st.sampled_from(["oil", "pump", "rope", "tide"]), max_size=7)


@given(WORDS, WORDS)
@settings(max_examples=60, deadline=None)
def test_rouge_l_is_the_longest_common_subsequence(first: list[str], second: list[str]) -> None:
    @lru_cache(None)
    def longest(i: int, j: int) -> int:
        if i == len(first) or j == len(second):
            return 0
        if first[i] == second[j]:
            return 1 + longest(i + 1, j + 1)
        return max(longest(i + 1, j), longest(i, j + 1))

    value = rouge_l(" ".join(first), " ".join(second))
    if first and second:
        precision, recall = longest(0, 0) / len(first), longest(0, 0) / len(second)
        expected = 2 * precision * recall / (precision + recall) if precision else 0.0
        assert value == pytest.approx(expected)
    assert value == rouge_l(" ".join(second), " ".join(first))
    assert token_f1(" ".join(first), " ".join(second)) >= value - 1e-12


def test_metrics_by_hand() -> None:
    assert exact_match("The  pump!", "a pump") == 1
    assert exact_match("pumps", "pump") == 0
    assert token_f1("oil oil pump", "oil rope") == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))
    assert token_f1("", "") == 1
    assert token_f1("", "oil") == 0


def test_a_run_reports_answers_before_and_after(tiny_llama_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpora"
    folder.mkdir()
    for name, word in (("engine", "piston"), ("garden", "basil")):
        rows = [
            json.dumps({"prompt": f"what is number {i}? ", "completion": word, "split": split})
            for split in ("train", "test")
            for i in range(6)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    plan = Plan(stages=(("engine", "garden"),), domains=("engine", "garden"))
    chosen = TrainSettings(
        lora=LoraSpec(rank=4),
        max_steps=2,
        batch_tokens=200,
        eval_generate=3,
        eval_new_tokens=4,
        bootstrap=10,
        threads=1,
    )
    run = train(plan, load_corpora(folder), model=tiny_llama_dir, out=tmp_path / "run", settings=chosen)
    assert isinstance(run, Run)
    for key in ("before", "final"):
        row = run.evaluation[key]["garden"]
        assert row["answers"] == 3
        assert 0 <= row["exact_match"] <= row["token_f1"] <= 1
    assert run.evaluation["final"]["garden"]["tokens"] < 6 * 12
    again = evaluate_run(run, load_corpora(folder), generate=2)
    assert {again[key]["engine"]["answers"] for key in ("before", "final")} == {2}
    assert "answers" not in evaluate_run(run, load_corpora(folder), generate=0)["final"]["engine"]


def test_asking_for_answers_where_nothing_asks_is_said(toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path) -> None:
    warned: list[str] = []

    class Heard(SilentProgress):
        def warn(self, message: str) -> None:
            warned.append(message)

    plan = Plan(stages=(("engine", "garden"),), domains=("engine", "garden"))
    chosen = TrainSettings(lora=LoraSpec(rank=2), max_steps=1, eval_generate=3, eval_documents=2, bootstrap=10)
    run = train(
        plan, load_corpora(toy_corpora), model=tiny_llama_dir, out=tmp_path / "run", settings=chosen, progress=Heard()
    )
    assert isinstance(run, Run)
    assert "answers" not in run.evaluation["final"]["engine"]
    assert [line for line in warned if "train.eval_generate=3: no record of the test split has a prompt" in line]
