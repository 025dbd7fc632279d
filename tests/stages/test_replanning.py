"""Planning anew between stages: what was trained stays, what was decided is kept, and a kill changes nothing."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kinfold.corpora import load_corpora
from kinfold.errors import ConfigError, FingerprintError, PlanError
from kinfold.metrics.relations import Relations
from kinfold.partition import Plan
from kinfold.partition.replanning import Replan
from kinfold.stages import LoraSpec, ReplanRequest, Run, TrainSettings, train

GIVEN = Plan(
    stages=(("garden",), ("engine", "kitchen"), ("harbour",)), domains=("engine", "garden", "harbour", "kitchen")
)
OTHER = (("garden",), ("kitchen",), ("engine", "harbour"))
SETTINGS = TrainSettings(
    lora=LoraSpec(rank=4),
    max_steps=4,
    batch_tokens=512,
    max_length=64,
    eval_documents=6,
    lr=2e-2,
    bootstrap=20,
    threads=1,
    checkpoint_every=2,
    replan=True,
)


class Fake:
    """Answers with the stages of `answers[done]`, or with the plan at hand; notes what it was asked."""

    def __init__(self, answers: Mapping[int, tuple[tuple[str, ...], ...]], before: Callable[[int], None] | None = None):
        self.answers = answers
        self.before = before
        self.asked: list[tuple[int, tuple[tuple[str, ...], ...], str]] = []
        self.states: list[np.ndarray] = []

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "fake", "answers": {str(done): [*map(list, a)] for done, a in self.answers.items()}}

    def __call__(self, request: ReplanRequest) -> tuple[Replan, Relations]:
        import torch

        if self.before is not None:
            self.before(request.done)
        self.asked.append((request.done, request.plan.stages, request.fingerprint))
        with torch.no_grad():
            self.states.append(request.model(input_ids=torch.arange(8)[None]).last_hidden_state.numpy())
        stages = self.answers.get(request.done, request.plan.stages)
        plan = replace(request.plan, stages=stages)
        changed = stages != request.plan.stages
        found = Replan(plan, changed, "because the test says so", 1.0, 2.0, 0.5, 1.5, 20, stages)
        return found, Relations(domains=plan.domains, matrices={"js": np.zeros((4, 4))})


def go(corpora: Path, model: Path, out: Path, replanner: Any, **changes: Any) -> Run:
    settings = replace(SETTINGS, **changes)
    run = train(
        GIVEN, load_corpora(corpora), model=model, out=out, settings=settings, seed=5, resume=True, replanner=replanner
    )
    assert isinstance(run, Run)
    return run


@pytest.fixture(scope="module")
def changed(toy_corpora: Path, tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Fake]:
    fake = Fake({1: OTHER})
    return go(toy_corpora, tiny_llama_dir, tmp_path_factory.mktemp("replan") / "run", fake), fake


def test_a_changed_plan_is_trained_and_both_plans_are_kept(changed: tuple[Run, Fake]) -> None:
    run, fake = changed
    assert [(done, stages) for done, stages, _ in fake.asked] == [(1, GIVEN.stages), (2, OTHER)]
    assert run.stages == OTHER
    assert run.plan_given.stages == GIVEN.stages
    assert run.plan.stages == OTHER
    assert [(r["stage"], r["changed"]) for r in run.replans] == [(0, True), (1, False)]
    assert run.replans[0]["before"] == [list(stage) for stage in GIVEN.stages]
    assert run.replans[0]["why"] == "because the test says so"
    assert run.manifest["stages"] == [list(stage) for stage in GIVEN.stages]
    assert run.manifest["trained"] == [list(stage) for stage in OTHER]
    for number, stage in enumerate(OTHER):
        record = json.loads((run.path / "stages" / f"{number:02d}" / "stage.json").read_text())
        assert tuple(record["domains"]) == stage
        assert Relations.load(run.path / "replans" / "00").domains == GIVEN.domains
    assert run.evaluation["stages"] == [list(stage) for stage in OTHER]
    assert run.evaluation["replans"] == run.replans
    assert sorted(run.adapters) == sorted(GIVEN.domains)
    assert "planned anew" in (run.path / "README.md").read_text()


def test_the_run_is_that_of_the_other_plan_given_at_once(
    changed: tuple[Run, Fake], toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    run, _ = changed
    settings = replace(SETTINGS, replan=False)
    plan = replace(GIVEN, stages=OTHER)
    straight = train(
        plan, load_corpora(toy_corpora), model=tiny_llama_dir, out=tmp_path / "r", settings=settings, seed=5
    )
    assert isinstance(straight, Run)
    assert (straight.path / "metrics.jsonl").read_bytes() == (run.path / "metrics.jsonl").read_bytes()
    for name, folder in straight.adapters.items():
        mine = run.adapters[name] / "adapter_model.safetensors"
        assert mine.read_bytes() == (folder / "adapter_model.safetensors").read_bytes()


def test_it_is_asked_about_the_model_with_the_shared_adapters_of_what_was_trained(
    changed: tuple[Run, Fake], tiny_llama_dir: Path
) -> None:
    """The reference is PEFT's: the base with the shared adapters of stages 1 to t, loaded from their folders."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run, fake = changed
    assert fake.asked[0][2] != fake.asked[1][2]
    bare = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    model: Any = bare
    with torch.no_grad():
        untouched = bare.model(input_ids=torch.arange(8)[None]).last_hidden_state.numpy()
        for stage in (0, 1):
            merged = PeftModel.from_pretrained(model, run.path / "stages" / f"{stage:02d}" / "shared")
            model = merged.merge_and_unload()
            wanted = model.model(input_ids=torch.arange(8)[None]).last_hidden_state.numpy()
            np.testing.assert_allclose(fake.states[stage], wanted, atol=2e-5)
            assert np.abs(fake.states[stage] - untouched).max() > 1e-3


def fingerprint(run: Path) -> dict[str, bytes]:
    skipped = {"timings.jsonl", "environment.json"}
    return {
        str(file.relative_to(run)): file.read_bytes()
        for file in sorted(run.rglob("*"))
        if file.is_file() and file.name not in skipped and file.suffix != ".npz"
    }


def test_a_kill_while_re_planning_or_right_after_it_changes_nothing(
    changed: tuple[Run, Fake], toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    def die(done: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def in_a_child(replanner: Fake) -> int:
        child = os.fork()
        if child == 0:
            try:
                go(toy_corpora, tiny_llama_dir, out, replanner)
            finally:
                os._exit(1)
        return os.waitpid(child, 0)[1]

    out = tmp_path / "killed"
    # While the first answer is being found; then, with that answer on disk, while the second is.
    assert os.WIFSIGNALED(in_a_child(Fake({1: OTHER}, die)))
    assert not list(out.glob("replans/*"))
    assert os.WIFSIGNALED(in_a_child(Fake({1: OTHER}, lambda done: die(done) if done == 2 else None)))
    assert [folder.name for folder in out.glob("replans/*")] == ["00"]
    fake = Fake({1: OTHER})
    run = go(toy_corpora, tiny_llama_dir, out, fake)
    assert [done for done, *_ in fake.asked] == [2]
    mine, reference = fingerprint(run.path), fingerprint(changed[0].path)
    assert mine.keys() == reference.keys()
    assert [name for name in mine if mine[name] != reference[name]] == []


def test_another_replanner_or_none_is_refused_on_resume(
    changed: tuple[Run, Fake], toy_corpora: Path, tiny_llama_dir: Path
) -> None:
    path = changed[0].path
    with pytest.raises(FingerprintError, match=r"replan\.answers\.1"):
        go(toy_corpora, tiny_llama_dir, path, Fake({1: GIVEN.stages}))
    with pytest.raises(FingerprintError, match=r"settings\.replan: True -> none"):
        go(toy_corpora, tiny_llama_dir, path, None, replan=False)


@pytest.mark.parametrize(
    "answer", [(("kitchen",), ("garden",), ("engine", "harbour")), (("garden", "kitchen"), ("engine", "harbour"))]
)
def test_an_answer_that_moves_what_is_trained_is_refused(
    answer: tuple[tuple[str, ...], ...], toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match="moves what is trained"):
        go(toy_corpora, tiny_llama_dir, tmp_path / "run", Fake({1: answer}), max_steps=1, eval_documents=2)
    assert not (tmp_path / "run" / "replans").exists()


def test_nothing_is_asked_where_nothing_can_change(toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path) -> None:
    fake = Fake({})
    plan = replace(GIVEN, stages=(("engine", "garden", "kitchen"), ("harbour",)))
    settings = replace(SETTINGS, max_steps=1, eval_documents=2)
    corpora = load_corpora(toy_corpora)
    run = train(plan, corpora, model=tiny_llama_dir, out=tmp_path / "r", settings=settings, replanner=fake)
    assert isinstance(run, Run)
    assert (fake.asked, run.replans) == ([], [])
    assert "replans" not in run.evaluation


def test_what_cannot_be_re_planned_is_said_at_once(toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only kinfold train"):
        go(toy_corpora, tiny_llama_dir, tmp_path / "run", None)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=r"train\.replan=True: must be false where adapters=domain"):
        replace(SETTINGS, adapters="domain")
    assert "replan" not in TrainSettings().to_dict()
    assert TrainSettings.from_dict(SETTINGS.to_dict()) == SETTINGS
