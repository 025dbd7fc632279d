"""Figures of a run by hand: transfers, early stopping, schedules per stage, and whose split was scored."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kinfold.corpora import load_corpora
from kinfold.errors import ConfigError
from kinfold.partition.plan import Plan
from kinfold.stages import LoraSpec, Run, TrainSettings, train
from kinfold.stages.evaluate import transfers
from kinfold.stages.loop import _Early, learning_rate
from kinfold.stages.scoring import macro_f1

SETTINGS = TrainSettings(
    lora=LoraSpec(rank=2), max_steps=8, batch_tokens=256, max_length=32, eval_documents=3, bootstrap=10, threads=1
)


def test_transfers_by_hand() -> None:
    """Three stages of one domain each; the second forgets the first by 0.5, the third helps both by 0.1."""
    before = {"a": 3.0, "b": 3.0, "c": 3.0}
    after = [{"a": 2.0, "b": 2.8, "c": 3.1}, {"a": 2.5, "b": 2.0, "c": 2.9}, {"a": 2.4, "b": 1.9, "c": 2.2}]
    found = transfers(before, after, {"a": 0, "b": 1, "c": 2}, ["a", "b", "c"])
    assert found["matrix"] == [[2.0, 2.8, 3.1], [2.5, 2.0, 2.9], [2.4, 1.9, 2.2]]
    # Backward: a lost 0.4 since its stage, b gained 0.1. Forward: b had gained 0.2 before its turn, c 0.1.
    assert found["backward_transfer"] == pytest.approx((-0.4 + 0.1) / 2)
    assert found["forward_transfer"] == pytest.approx((0.2 + 0.1) / 2)
    alone = transfers({"a": 3.0}, [{"a": 2.0}], {"a": 0}, ["a"])
    assert (alone["backward_transfer"], alone["forward_transfer"]) == (None, None)


def test_early_stopping_counts_rounds_without_improvement_and_keeps_the_best() -> None:
    import torch

    early = _Early(replace(SETTINGS, patience=2, validate_every=3), 100)
    assert [early.due(done) for done in (2, 3, 4, 6)] == [False, True, False, True]
    losses = [2.0, 1.5, 1.6, 1.5, 1.0]  # an equal loss is no improvement
    stops = [early.observe("a", loss, {"w": torch.tensor(float(i))}) for i, loss in enumerate(losses[:4])]
    assert stops == [False, False, False, True]
    assert float(early.kept["a"]["w"]) == 1.0
    assert early.best == {"a": 1.5}
    assert not early.observe("b", 9.0, {})


def test_a_domain_that_gets_worse_leaves_the_batches_and_keeps_its_best_adapter(
    toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    """Validation texts of one domain are noise: what is learnt only harms it, so it stops, and the other goes on."""
    lines = (toy_corpora / "garden.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{"text": json.loads(line)["text"], "split": "train"} for line in lines]
    rows += [
        {"text": "qzx jvw kkq xxj " * 4 + str(i), "split": split} for i in range(4) for split in ("validation", "test")
    ]
    (tmp_path / "garden.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    given = {"garden": {"path": str(tmp_path / "garden.jsonl")}, "engine": {"path": str(toy_corpora / "engine.jsonl")}}
    settings = replace(SETTINGS, max_steps=24, patience=2, validate_every=2, lr=5e-2, ssl_weight=0.0, align_weight=0.0)
    plan = Plan(stages=(("engine", "garden"),), domains=("engine", "garden"))
    run = train(plan, load_corpora(given), model=tiny_llama_dir, out=tmp_path / "run", settings=settings, seed=1)
    assert isinstance(run, Run)
    record = json.loads((run.path / "stages" / "00" / "stage.json").read_text())
    assert "garden" in record["stopped"]
    last = run.metrics[-1]["per_domain"]
    if "engine" not in record["stopped"]:
        assert set(last) == {"engine"}
    assert any(set(row["per_domain"]) == {"engine", "garden"} for row in run.metrics)


def test_each_stage_has_a_schedule_of_its_own(toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, max_steps=5, schedule="linear", warmup=0.2, min_lr=0.1, lr=1e-3)
    plan = Plan(stages=(("engine",), ("garden",)), domains=("engine", "garden"))
    run = train(plan, load_corpora(toy_corpora), model=tiny_llama_dir, out=tmp_path / "run", settings=settings)
    assert isinstance(run, Run)
    rates = [row["lr"] for row in run.metrics]
    assert rates[:5] == rates[5:] == [learning_rate(step, 5, settings) for step in range(5)]
    assert rates[0] == 1e-3
    assert rates[4] == pytest.approx(1e-3 * (0.1 + 0.9 * 0.25))


def test_general_text_without_the_split_is_scored_on_another_and_that_is_recorded(
    toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    rows = [json.dumps({"text": f"the year {i} was long and dry", "split": "train"}) for i in range(12)]
    (tmp_path / "general.jsonl").write_text("\n".join(rows), encoding="utf-8")
    given: dict[str, Any] = {name: {"path": str(toy_corpora / f"{name}.jsonl")} for name in ("engine", "garden")}
    given["general"] = {"path": str(tmp_path / "general.jsonl"), "general": True}
    plan = Plan(stages=(("engine", "garden"),), domains=("engine", "garden"))
    settings = replace(SETTINGS, max_steps=1)
    run = train(plan, load_corpora(given), model=tiny_llama_dir, out=tmp_path / "run", settings=settings)
    assert isinstance(run, Run)
    assert (run.evaluation["split"], run.evaluation["general"]["split"]) == ("test", "train")
    assert "train split" in (run.path / "README.md").read_text()


def test_macro_f1_by_hand() -> None:
    classes, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    assert macro_f1(classes, predicted) == pytest.approx((2 * 2 / (4 + 1) + 2 * 1 / (2 + 1)) / 2)
    assert macro_f1(np.array([0, 0]), np.array([1, 1])) == 0.0


def test_dora_is_refused_and_rslora_scales() -> None:
    with pytest.raises(ConfigError, match=r"lora\.dora"):
        LoraSpec(dora=True)
    assert LoraSpec(rank=4, alpha=8, rslora=True).scaling == pytest.approx(8 / 2)
    assert LoraSpec(rank=4, alpha=8).scaling == pytest.approx(2.0)
