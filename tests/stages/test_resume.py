"""A run that is killed goes on bit for bit; anything else than the same run is refused."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from kinfold.corpora import load_corpora
from kinfold.errors import FingerprintError, RunError, TrainingError
from kinfold.partition.plan import Plan
from kinfold.stages import LoraSpec, Run, TrainSettings, train

PLAN = Plan(stages=(("garden", "kitchen"), ("engine", "harbour")), domains=("engine", "garden", "harbour", "kitchen"))
SETTINGS = TrainSettings(
    lora=LoraSpec(rank=4, dropout=0.1),
    max_steps=8,
    batch_tokens=512,
    max_length=64,
    eval_documents=6,
    lr=2e-2,
    bootstrap=20,
    threads=1,
    checkpoint_every=2,
    kl_weight=0.5,
    weighting="uncertainty",
    patience=2,
    validate_every=2,
)


def fingerprint(run: Path) -> dict[str, bytes]:
    """Every file of a finished run but those that hold times, versions or paths."""
    skipped = {"timings.jsonl", "environment.json"}
    return {
        str(file.relative_to(run)): file.read_bytes()
        for file in sorted(run.rglob("*"))
        if file.is_file() and file.name not in skipped and file.suffix != ".npz"
    }


def start(corpora: Path, model: Path, out: Path) -> int:
    """Train in a forked child; the child's exit status says how it ended."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            train(PLAN, load_corpora(corpora), model=model, out=out, settings=SETTINGS, seed=5, resume=True)
            status = 0
        finally:
            os._exit(status)
    return child


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_bit_for_bit_the_same(
    toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    whole = 0.0
    # Timed the second time: the first may compile kernels for longer than a run takes, and no kill would come in time.
    for name in ("first", "whole"):
        began = time.monotonic()
        child = start(toy_corpora, tiny_llama_dir, tmp_path / name)
        assert os.waitpid(child, 0)[1] == 0
        whole = time.monotonic() - began
    assert fingerprint(tmp_path / "first") == fingerprint(tmp_path / "whole")
    rng = random.Random(0)
    out, kills = tmp_path / "killed", 0
    for _ in range(60):
        child = start(toy_corpora, tiny_llama_dir, out)
        # Late enough to get anywhere, early enough to be killed most of the time.
        deadline = time.monotonic() + (rng.uniform(0.1, 0.9) * whole if kills < 4 else 600)
        status: int | None = None
        while status is None:
            pid, code = os.waitpid(child, os.WNOHANG)
            if pid:
                status = code
            elif time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                status = os.waitpid(child, 0)[1]
                kills += 1
            else:
                time.sleep(0.002)
        if status == 0:
            break
        assert os.WIFSIGNALED(status), "the run failed by itself"
    assert Run.load(out).finished
    assert kills >= 1
    mine, reference = fingerprint(out), fingerprint(tmp_path / "whole")
    assert mine.keys() == reference.keys()
    assert [name for name in mine if mine[name] != reference[name]] == []


def test_a_finished_run_is_left_alone_and_another_run_is_refused(
    toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    corpora = load_corpora(toy_corpora)
    settings = replace(SETTINGS, max_steps=2, patience=None)

    def again(**changes: object) -> Run:
        given = {"settings": settings, "seed": 5, "resume": True, **changes}
        result = train(PLAN, corpora, model=tiny_llama_dir, out=tmp_path / "run", **given)
        assert isinstance(result, Run)
        return result

    run = again()
    before = {file: file.stat().st_mtime_ns for file in run.path.rglob("*") if file.is_file()}
    again(settings=replace(settings, checkpoint_every=1))
    assert {file: file.stat().st_mtime_ns for file in run.path.rglob("*") if file.is_file()} == before
    with pytest.raises(FingerprintError, match=r"settings\.lr: 0\.02 -> 0\.001"):
        again(settings=replace(settings, lr=1e-3))
    with pytest.raises(FingerprintError, match="seed: 5 -> 6"):
        again(seed=6)
    with pytest.raises(RunError, match="--resume"):
        again(resume=False)


def test_changed_texts_are_refused_on_resume(toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "corpora"
    shutil.copytree(toy_corpora, copy)
    settings = replace(SETTINGS, max_steps=1, patience=None)
    train(PLAN, load_corpora(copy), model=tiny_llama_dir, out=tmp_path / "run", settings=settings)
    with open(copy / "garden.jsonl", "a", encoding="utf-8") as stream:
        stream.write('{"text": "one more seed"}\n')
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match=r"no run \(config\.yaml is there\)"):
        train(PLAN, load_corpora(copy), model=tiny_llama_dir, out=tmp_path / "mine", settings=settings, resume=True)
    sources = {name: {"path": str(copy / f"{name}.jsonl"), "weight": 2.0} for name in PLAN.domains}
    weighted = load_corpora({**sources, "general": {"path": str(copy / "general.jsonl"), "general": True}})
    with pytest.raises(FingerprintError, match=r"roles\.garden\.weight: 1\.0 -> 2\.0"):
        train(PLAN, weighted, model=tiny_llama_dir, out=tmp_path / "run", settings=settings, resume=True)
    with pytest.raises(FingerprintError, match=r"corpora\.garden"):
        train(PLAN, load_corpora(copy), model=tiny_llama_dir, out=tmp_path / "run", settings=settings, resume=True)


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    import torch
    from kinfold.stages.checkpoint import Checkpoint

    for step in (2, 4, 6):
        Checkpoint(0, step, {"x": torch.full((3,), float(step))}, {"n": step}, 10 * step).save(tmp_path, keep=2)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["00-00000004", "00-00000006"]
    newest = Checkpoint.newest(tmp_path, 0)
    assert newest is not None
    assert (newest.step, newest.log_bytes, float(newest.tensors["x"][0])) == (6, 60, 6.0)
    file = tmp_path / "00-00000006" / "tensors.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    older = Checkpoint.newest(tmp_path, 0)
    assert older is not None
    assert older.step == 4
    assert Checkpoint.newest(tmp_path, 1) is None


def test_a_loss_that_is_no_number_stops_with_the_last_good_checkpoint(
    toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kinfold.stages import step

    real = step.Stepper._pool

    def broken(self: step.Stepper, states, micro):
        pooled = real(self, states, micro)
        return pooled * float("nan") if self.calls > 3 else pooled

    original = step.Stepper.__call__

    def counted(self, number, stopped=frozenset()):
        self.calls = number + 1
        return original(self, number, stopped)

    monkeypatch.setattr(step.Stepper, "_pool", broken)
    monkeypatch.setattr(step.Stepper, "__call__", counted)
    settings = replace(SETTINGS, patience=None, weighting="static", align_queue=0, max_steps=5)
    with pytest.raises(TrainingError, match=r"Stage 1, step 4: the loss is nan.*last good checkpoint is .*00-00000002"):
        train(PLAN, load_corpora(toy_corpora), model=tiny_llama_dir, out=tmp_path / "run", settings=settings)
    monkeypatch.undo()
    # The adapters in that checkpoint are sound: the run goes on from it.
    run = train(
        PLAN, load_corpora(toy_corpora), model=tiny_llama_dir, out=tmp_path / "run", settings=settings, resume=True
    )
    assert isinstance(run, Run)
    assert run.finished


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    import torch
    from kinfold.stages import checkpoint

    Good = checkpoint.Checkpoint
    Good(0, 2, {"x": torch.zeros(2)}).save(tmp_path, keep=2)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_json", full)
    with pytest.raises(TrainingError, match=r"No space left.*last good checkpoint is .*00-00000002"):
        Good(0, 4, {"x": torch.zeros(2)}).save(tmp_path, keep=2)
    assert [folder.name for folder in tmp_path.iterdir()] == ["00-00000002"]
