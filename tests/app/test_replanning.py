"""`train --replan` from end to end: real measurements on the adapted model, and what is refused before any training."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import kinfold
import numpy as np
import pytest
from kinfold.app.cli import app
from kinfold.app.replanning import ModelReplanner, make_replanner
from kinfold.corpora import load_corpora
from kinfold.errors import ConfigError
from kinfold.metrics import MeasureSettings, Relations
from kinfold.partition import Plan, PlanSettings
from kinfold.stages import LoraSpec, ReplanRequest, Run, TrainSettings
from typer.testing import CliRunner

MEASURE: dict[str, Any] = {"bootstrap": 30, "permutations": 0, "samples": 40, "max_length": 32}
TRAIN: dict[str, Any] = {
    "lora": {"rank": 4},
    "max_steps": 6,
    "batch_tokens": 512,
    "max_length": 64,
    "eval_documents": 4,
    "bootstrap": 20,
    "lr": 3e-2,
    "threads": 1,
}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, toy_corpora: Path, tiny_llama_dir: Path) -> Path:
    folder = tmp_path_factory.mktemp("replan")
    relations = kinfold.measure(
        toy_corpora, model=tiny_llama_dir, embedder="model", out=folder / "relations", **MEASURE
    )
    kinfold.plan(relations, budget={"domains": 2}, bootstrap=0, phase=0, compare=False, out=folder / "plan.json")
    return folder


@pytest.fixture(scope="module")
def trained(planned: Path, toy_corpora: Path, tiny_llama_dir: Path) -> Path:
    config = planned / "kinfold.yaml"
    # One stage each, so that two re-plans have something to decide.
    plan = json.loads((planned / "plan.json").read_text())
    stages = [[name] for name in plan["domains"]]
    (planned / "alone.json").write_text(json.dumps({**plan, "stages": stages}))
    config.write_text(json.dumps({"corpora": str(toy_corpora), "model": str(tiny_llama_dir), "train": TRAIN}))
    words = ["train", str(planned / "alone.json"), "-c", str(config), "--relations", str(planned / "relations")]
    done = CliRunner().invoke(app, [*words, "-o", str(planned / "run"), "--replan"], env={"COLUMNS": "100"})
    assert done.exit_code == 0, done.output
    assert "Re-planned after stage 1" in done.stdout
    assert "--embedder model" not in done.output
    return planned / "run"


def test_relations_are_measured_anew_on_the_adapted_model(trained: Path, planned: Path, tiny_llama_dir: Path) -> None:
    run = Run.load(trained)
    before = Relations.load(planned / "relations")
    assert [record["stage"] for record in run.replans] == list(range(len(run.replans)))
    assert run.replans, "nothing was re-planned"
    seen = [before.matrix("cosine")]
    for record in run.replans:
        found = Relations.load(trained / "replans" / f"{record['stage']:02d}")
        assert found.fingerprints["embedder"] == record["embedder"]
        assert record["embedder"].startswith("adapted:")
        # What looks at the text alone is as it was, to the bit; what looks at features is not.
        np.testing.assert_array_equal(found.matrix("js"), before.matrix("js"))
        np.testing.assert_array_equal(found.matrix("jaccard"), before.matrix("jaccard"))
        assert all(np.abs(found.matrix("cosine") - other).max() > 1e-6 for other in seen)
        seen.append(found.matrix("cosine"))


def test_the_measured_features_are_those_of_the_base_with_the_shared_adapter(
    trained: Path, planned: Path, toy_corpora: Path, tiny_llama_dir: Path
) -> None:
    """The reference loads the shared adapter of stage 1 with PEFT, merges it and measures the saved model."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shared = trained / "stages" / "00" / "shared"
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama_dir), shared).merge_and_unload()
    merged.save_pretrained(planned / "merged")
    AutoTokenizer.from_pretrained(tiny_llama_dir).save_pretrained(planned / "merged")
    wanted = kinfold.measure(
        toy_corpora, tokenizer=tiny_llama_dir, model=planned / "merged", embedder="model", **MEASURE
    )
    found = Relations.load(trained / "replans" / "00")
    for name in ("cosine", "cosine_centred", "synergy"):
        np.testing.assert_allclose(found.matrix(name), wanted.matrix(name), atol=1e-4)


def test_the_run_says_which_plan_was_used_and_why(trained: Path) -> None:
    run = Run.load(trained)
    last = run.replans[-1]
    assert [list(stage) for stage in run.stages] == last["stages"] == run.evaluation["stages"]
    assert run.plan.stages == run.stages
    assert run.plan_given.stages == tuple((name,) for name in run.domains)
    for record in run.replans:
        assert record["changed"] == (record["stages"] != record["before"])
        assert record["stages"][: record["stage"] + 1] == record["before"][: record["stage"] + 1]
        if record["changed"]:
            assert record["low"] > 0
        assert max(map(len, record["stages"])) <= 2
    page = Path(kinfold.report(run)).read_text(encoding="utf-8")
    assert "Planned anew while training" in page
    assert run.replans[0]["why"][1:] in page  # its first letter is a capital there


def test_a_resumed_run_asks_nothing_again(trained: Path, planned: Path) -> None:
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file() and path.name != "report.html"}
    words = ["train", str(planned / "alone.json"), "-c", str(planned / "kinfold.yaml"), "-o", str(trained), "--replan"]
    words += ["--relations", str(planned / "relations"), "--resume"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert {path: path.read_bytes() for path in before} == before


def test_stopped_while_re_planning_it_goes_on_to_the_same_end(
    trained: Path, planned: Path, toy_corpora: Path, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped with the answer found and nothing of it written: the worst moment there is."""

    def go() -> Any:
        return kinfold.train(
            planned / "alone.json",
            toy_corpora,
            model=tiny_llama_dir,
            out=planned / "again",
            relations=planned / "relations",
            settings=TrainSettings(**{**TRAIN, "lora": LoraSpec(rank=4)}, replan=True),
            resume=(planned / "again").exists(),
        )

    asked: list[int] = []
    real = ModelReplanner.__call__

    def stopped(self: ModelReplanner, request: ReplanRequest) -> Any:
        answer = real(self, request)
        asked.append(request.done)
        if asked == [1, 2]:
            raise KeyboardInterrupt
        return answer

    monkeypatch.setattr(ModelReplanner, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        go()
    run = go()
    assert asked[:3] == [1, 2, 2]
    names = [str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()]
    skipped = ("timings.jsonl", "environment.json", "config.yaml", "README.md", "run.json")  # times and paths
    compared = [name for name in names if not name.endswith((*skipped, ".npz"))]
    assert "replans/01/relations.json" in compared
    assert [name for name in compared if (run.path / name).read_bytes() != (trained / name).read_bytes()] == []


def test_what_training_cannot_change_is_refused_before_training(
    toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    corpora = load_corpora(toy_corpora)
    names = ("engine", "garden", "harbour", "kitchen")
    plan = Plan(stages=tuple((name,) for name in names), domains=names, settings={"synergy": "jaccard"})
    with pytest.raises(ConfigError, match="jaccard and js, which look at the text alone"):
        kinfold.train(plan, corpora, model=tiny_llama_dir, out=tmp_path / "run", replan=True)
    assert not (tmp_path / "run").exists()
    by_hand = Plan(stages=plan.stages, domains=names)
    relations = kinfold.measure(corpora, bootstrap=5, permutations=0)
    with pytest.raises(ConfigError, match=r"measure\.bootstrap=5"):
        make_replanner(by_hand, corpora, model=str(tiny_llama_dir), relations=relations)


def test_it_measures_as_the_relations_and_plans_as_the_plan(
    toy_corpora: Path, planned: Path, tiny_llama_dir: Path
) -> None:
    corpora = load_corpora(toy_corpora)
    relations, plan = Relations.load(planned / "relations"), Plan.load(planned / "plan.json")
    made = make_replanner(plan, corpora, model=str(tiny_llama_dir), relations=relations, seed=9)
    assert isinstance(made.measure, MeasureSettings)
    assert {name: getattr(made.measure, name) for name in MEASURE} == MEASURE
    assert made.seed == relations.seed
    assert made.plan == PlanSettings(budget={"domains": 2}, bootstrap=0, phase=0, compare=False)
    shutil.copytree(tiny_llama_dir, planned / "moved")
    settings = {**relations.settings, "tokenizer": "gone"}
    moved = replace(relations, settings=settings)
    assert make_replanner(plan, corpora, model=str(planned / "moved"), relations=moved).identity == made.identity
    with pytest.raises(ConfigError, match=r"tokenizer that the relations were measured with \(gone\)"):
        make_replanner(plan, corpora, model=str(toy_corpora), relations=moved)
