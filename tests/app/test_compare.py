"""Comparing a plan with its rivals: what is trained, what is paired, how sure it is, and what is kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compare_cases import PLAN, TRAIN
from kinfold.app.compare import CompareSettings, Comparison, compare
from kinfold.corpora import Corpora, load_corpora
from kinfold.errors import ConfigError, CorpusError, ModelError, PlanError, RunError
from kinfold.partition import Plan


@pytest.fixture(scope="module")
def compared(
    toy_corpora: Path, tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Corpora, Comparison]:
    corpora = load_corpora(toy_corpora)
    comparison = compare(
        corpora,
        model=tiny_llama_dir,
        out=tmp_path_factory.mktemp("compare") / "out",
        plan=PLAN,
        train=TRAIN,
        settings=CompareSettings(methods=("joint", "independent"), seeds=(0, 1), bootstrap=200),
    )
    return corpora, comparison


def test_a_comparison_from_end_to_end(compared: tuple[Corpora, Comparison]) -> None:
    _, comparison = compared
    value = comparison.value
    assert comparison.methods == ("plan", "joint", "independent")
    assert value["metric"] == "loss"
    assert value["domains"] == sorted(PLAN.domains)
    rows = {name: comparison.method(name) for name in comparison.methods}
    tokens = [row["cost"]["tokens"] for row in rows.values()]
    assert max(tokens) <= 1.25 * min(tokens)
    # The same factors per adapter: 2 + 4, 1 + 4 and 4 of them.
    unit = rows["plan"]["cost"]["parameters"] / 6
    assert rows["joint"]["cost"]["parameters"] == 5 * unit
    assert rows["independent"]["cost"]["parameters"] == 4 * unit
    for row in rows.values():
        assert row["runs"] == 2
        assert row["cost"]["seconds"] > 0
        assert row["cost"]["peak_memory"] > 1e7
        assert row["mean"] < np.mean(list(value["before"].values()))
    assert sorted(path.name for path in comparison.path.iterdir()) == [
        "compare.json",
        "compare.md",
        "forest.png",
        "forest.svg",
        "records",
    ]
    held = {path.stem: json.loads(path.read_text()) for path in (comparison.path / "records").iterdir()}
    assert len(held) == 6
    assert sorted(key for row in rows.values() for key in row["records"]) == sorted(held)
    for record in held.values():
        assert record["cpu_seconds"] > 0
        assert record["h_score"] is None  # there are no labels
        # The mean over pairs of an unbiased estimate: near 0 it may be below.
        assert set(record["mmd2"]) == {"before", "after"}
        assert record["mmd2"]["before"] > -0.1
    assert (comparison.path / "forest.png").read_bytes()[:4] == b"\x89PNG"
    assert len(comparison.lines) >= 2


def test_the_same_call_again_trains_only_what_is_missing(
    compared: tuple[Corpora, Comparison], tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpora, comparison = compared
    before = comparison.to_dict()
    lost = next(
        path for path in (comparison.path / "records").iterdir() if len(json.loads(path.read_text())["stages"]) == 1
    )
    lost.unlink()
    trained = []
    import kinfold.app.compare._runs as runs

    real = runs.train_one

    def spy(*args: Any, **options: Any) -> Any:
        trained.append(options["key"])
        return real(*args, **options)

    monkeypatch.setattr(runs, "train_one", spy)
    again = compare(
        corpora,
        model=tiny_llama_dir,
        out=comparison.path,
        plan=PLAN,
        train=TRAIN,
        settings=CompareSettings(methods=("joint", "independent"), seeds=(0, 1), bootstrap=200),
    ).to_dict()
    assert trained == [lost.stem]
    for old, new in zip(before["methods"], again["methods"], strict=True):
        assert old["values"] == new["values"]
        assert old["plan_advantage"] == new["plan_advantage"]


def test_an_interrupted_comparison_goes_on(
    compared: tuple[Corpora, Comparison], tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpora, comparison = compared
    import kinfold.stages.training as training

    real = training.export_adapter
    calls = []

    def interrupted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 7:  # in the second run, when its adapters are written
            raise KeyboardInterrupt
        return real(*args, **options)

    def call() -> Comparison:
        return compare(
            corpora,
            model=tiny_llama_dir,
            out=tmp_path / "out",
            plan=PLAN,
            train=TRAIN,
            settings=CompareSettings(methods=("joint",), seeds=(0,)),
        )

    monkeypatch.setattr(training, "export_adapter", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call()
    assert not (tmp_path / "out" / "compare.json").exists()
    assert len(list((tmp_path / "out" / "records").iterdir())) == 1
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 1
    monkeypatch.undo()
    for name in ("plan", "joint"):
        assert call().method(name)["values"][0] == comparison.method(name)["values"][0]
    assert not (tmp_path / "out" / "runs").exists()


def test_processes_beside_each_other_give_the_same_losses(
    compared: tuple[Corpora, Comparison], tiny_llama_dir: Path, tmp_path: Path
) -> None:
    corpora, comparison = compared
    apart = compare(
        corpora,
        model=tiny_llama_dir,
        out=tmp_path / "apart",
        plan=PLAN,
        train=TRAIN,
        methods=("joint",),
        seeds=(1,),
        jobs=2,
        settings=CompareSettings(bootstrap=200, keep_runs=True),
    )
    for name in ("plan", "joint"):
        one = comparison.method(name)["values"][1]["by_domain"]
        assert apart.method(name)["values"][0]["by_domain"] == pytest.approx(one, abs=1e-5)
    runs = [path for path in (tmp_path / "apart" / "runs").iterdir() if (path / "run.json").exists()]
    assert len(runs) == 2


def test_presets_train_beside_what_is_there(
    compared: tuple[Corpora, Comparison], tiny_llama_dir: Path, tmp_path: Path
) -> None:
    corpora, comparison = compared
    shutil.copytree(comparison.path, tmp_path / "out")
    more = compare(
        corpora,
        model=tiny_llama_dir,
        out=tmp_path / "out",
        plan=PLAN,
        train=TRAIN,
        settings=CompareSettings(methods=("joint",), seeds=(0,), imbalance=(4.0,), grid_align=(0.0, 0.5)),
    )
    uneven = more.value["conditions"][0]
    assert [(row["name"], row["runs"]) for row in uneven["methods"]] == [("plan", 1), ("joint", 1)]
    assert uneven["methods"][0]["mean"] != more.method("plan")["mean"]
    # The square with the weights of the training settings is the plan's own run.
    assert more.value["grid"]["mean"][0][0] == pytest.approx(more.method("plan")["mean"])
    assert len(list((tmp_path / "out" / "records").iterdir())) == 6 + 2 + 1


def test_what_is_brought_along_is_checked_before_anything_is_written(
    compared: tuple[Corpora, Comparison], tiny_llama_dir: Path, toy_corpora: Path, tmp_path: Path
) -> None:
    corpora, _ = compared
    out = tmp_path / "out"

    def call(**changed: Any) -> None:
        compare(
            **{
                "corpora": corpora,
                "model": tiny_llama_dir,
                "out": out,
                "plan": PLAN,
                "train": TRAIN,
                "methods": ("joint",),
                **changed,
            }
        )

    with pytest.raises(ConfigError, match=r"train\.max_steps=5: would give methods with more stages more or less text"):
        call(train=replace(TRAIN, max_steps=5))
    with pytest.raises(ModelError):
        call(model=tmp_path / "no-model")
    with pytest.raises(PlanError, match="the plan trains x, which the corpora do not hold"):
        call(plan=Plan(stages=(("x", "garden"),), domains=("x", "garden")))
    with pytest.raises(PlanError, match="one domain only"):
        call(plan=Plan(stages=(("garden",),), domains=("garden",)))
    with pytest.raises(CorpusError, match="only one domain"):
        call(corpora=load_corpora({"garden": toy_corpora / "garden.jsonl"}))
    with pytest.raises(ConfigError, match="is not known"):
        call(methods=("jiont",))
    assert not out.exists()
    out.write_text("a file")
    with pytest.raises(RunError, match="is a file"):
        call()
