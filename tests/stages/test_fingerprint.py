"""Which model this is: every byte counts, nothing is read twice, a silent hub costs no half minute."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from kinfold._hub import hub_options
from kinfold.errors import ModelError
from kinfold.stages import TrainSettings, fingerprint
from kinfold.stages.fingerprint import model_fingerprint, weights_digest
from kinfold.stages.model import load_base


@pytest.fixture
def model(tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KINFOLD_CACHE", str(tmp_path / "cache"))
    copy = tmp_path / "model"
    shutil.copytree(tiny_llama_dir, copy)
    aged(copy / "model.safetensors", 100)
    return copy


def aged(file: Path, seconds: float) -> None:
    os.utime(file, (time.time() - seconds,) * 2)


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def test_a_byte_anywhere_makes_another_model_and_a_move_does_not(model: Path, tmp_path: Path) -> None:
    first = model_fingerprint(model)
    shutil.copytree(model, tmp_path / "elsewhere")
    assert model_fingerprint(tmp_path / "elsewhere") == first
    weights = model / "model.safetensors"
    seen = {first}
    for place in (-1, weights.stat().st_size // 2, weights.stat().st_size // 3):
        flip(weights, place)
        aged(weights, 50 + place % 7)
        seen.add(model_fingerprint(model))
    assert len(seen) == 4
    config = model / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    assert model_fingerprint(model) not in seen


def test_weights_are_read_once_until_they_change(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    real = fingerprint.file_digest

    def counted(path: Path) -> str:
        read.append(path)
        return real(path)

    monkeypatch.setattr(fingerprint, "file_digest", counted)
    weights = model / "model.safetensors"
    assert weights_digest(weights) == weights_digest(weights) == real(weights)
    assert len(read) == 1
    flip(weights, 5000)
    aged(weights, 60)
    assert weights_digest(weights) == real(weights)
    assert len(read) == 2
    for note in (Path(os.environ["KINFOLD_CACHE"]) / "fingerprints").iterdir():
        note.write_text("{")
    assert weights_digest(weights) == real(weights)
    assert len(read) == 3


def test_a_file_that_may_still_be_changing_is_not_remembered(model: Path) -> None:
    weights = model / "model.safetensors"
    aged(weights, 0)
    before = weights_digest(weights)
    facts = weights.stat()
    flip(weights, 5000)
    os.utime(weights, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert weights_digest(weights) != before


def test_a_hub_that_does_not_answer_is_asked_once_and_said_in_one_sentence(silent_hub: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(
            ModelError, match=r"no/where: no such folder here, not in the hub's cache.*no route to host"
        ):
            load_base("no/where", TrainSettings())
    with pytest.raises(ModelError, match="no/where"):
        model_fingerprint("no/where")
    assert len(silent_hub) == 1
    with pytest.raises(ModelError, match="no such model folder"):
        model_fingerprint("./no/where")
    with pytest.raises(ModelError, match="a hub id is not written so"):
        hub_options("not an id")


def test_without_the_hub_its_cache_serves(silent_hub: list[str], tiny_llama_dir: Path, tmp_path: Path) -> None:
    root = tmp_path / "hub" / "models--some--model"
    snapshot = root / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_llama_dir, snapshot)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    assert hub_options("some/model") == {"local_files_only": True}
    assert model_fingerprint("some/model") == model_fingerprint(tiny_llama_dir)
