"""Trackers get every step once, are opened before training, and never cost a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kinfold.corpora import load_corpora
from kinfold.errors import ConfigError
from kinfold.partition.plan import Plan
from kinfold.stages import LoraSpec, Run, TrainSettings, train
from kinfold.stages.ranks import _identity

PLAN = Plan(stages=(("garden", "kitchen"), ("engine",)), domains=("engine", "garden", "kitchen"))


def go(corpora: Path, model: Path, out: Path, *trackers: str, **options: Any) -> Run:
    settings = TrainSettings(
        lora=LoraSpec(rank=2),
        max_steps=3,
        batch_tokens=256,
        max_length=32,
        eval_documents=2,
        bootstrap=10,
        threads=1,
        trackers=trackers,
    )
    run = train(PLAN, load_corpora(corpora), model=model, out=out, settings=settings, **options)
    assert isinstance(run, Run)
    return run


def test_tensorboard_holds_every_step_of_all_stages(toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = go(toy_corpora, tiny_llama_dir, tmp_path / "run", "tensorboard")
    events = EventAccumulator(str(run.path / "trackers" / "tensorboard"))
    events.Reload()
    rows = run.metrics
    for name, of in (
        ("loss", lambda row: row["loss"]),
        ("lr", lambda row: row["lr"]),
        ("parts/task", lambda row: row["parts"]["task"]),
    ):
        seen = events.Scalars(name)
        assert [event.step for event in seen] == [1, 2, 3, 4, 5, 6]
        assert [event.value for event in seen] == pytest.approx([of(row) for row in rows], rel=1e-5)
    assert "domain/garden" in events.Tags()["scalars"]


def test_wandb_offline_is_one_run(
    toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = go(toy_corpora, tiny_llama_dir, tmp_path / "run", "wandb")
    folders = list((run.path / "trackers" / "wandb").glob("offline-run-*"))
    assert len(folders) == 1
    (record,) = folders[0].glob("*.wandb")
    data = record.read_bytes()
    assert b"parts/task" in data
    assert b"domain/engine" in data  # of the second stage, in the same run


def test_a_tracker_that_is_not_there_is_said_before_training(
    toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import tracking

    monkeypatch.setattr(tracking, "is_tensorboard_available", lambda: False)
    with pytest.raises(ConfigError, match=r"tensorboard is not installed.*kinfold\[trackers\]"):
        go(toy_corpora, tiny_llama_dir, tmp_path / "run", "tensorboard")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="tensorboard or wandb"):
        TrainSettings(trackers=("mlflow",))


def test_a_tracker_that_breaks_costs_a_warning(
    toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import tracking
    from kinfold._progress import SilentProgress

    opened: list[Any] = []
    told: list[str] = []

    class Broken:
        def __init__(self, project: str, **options: Any) -> None:
            opened.append((project, options))

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            assert values["max_steps"] == 3

        def log(self, values: dict[str, float], step: int) -> None:
            if step == 2:
                raise ConnectionError("the line is dead")
            assert step == 1, "logged to after it broke"

        def finish(self) -> None:
            raise AssertionError("it is gone already")

    class Heard(SilentProgress):
        def warn(self, message: str) -> None:
            told.append(message)

    monkeypatch.setattr(tracking, "is_wandb_available", lambda: True)
    monkeypatch.setattr(tracking, "WandBTracker", Broken)
    run = go(toy_corpora, tiny_llama_dir, tmp_path / "run", "wandb", progress=Heard())
    assert run.finished
    assert len(opened) == 1
    assert [line for line in told if "wandb" in line] == [
        "wandb is logged to no more (the line is dead); metrics.jsonl has every step."
    ]


def test_one_that_cannot_be_started_is_one_sentence(
    toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import tracking

    def refuse(*words: Any, **options: Any) -> Any:
        raise RuntimeError("api_key not configured\n(no tty)")

    monkeypatch.setattr(tracking, "is_wandb_available", lambda: True)
    monkeypatch.setattr(tracking, "WandBTracker", refuse)
    with pytest.raises(ConfigError, match=r"wandb cannot be started \(api_key not configured \(no tty\)\)"):
        go(toy_corpora, tiny_llama_dir, tmp_path / "run", "wandb")


def test_the_wandb_run_is_the_folders_and_not_the_paths(tmp_path: Path) -> None:
    file = tmp_path / "trackers" / "wandb.id"
    file.parent.mkdir()
    first = _identity(file)
    assert _identity(file) == first
    # The run is deleted and another written to the same place: it must not go on in the old one.
    file.unlink()
    assert _identity(file) != first
