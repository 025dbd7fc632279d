"""Stored runs and answers of the results page are found by what was asked; nothing is trained twice."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from compare_cases import TRAIN
from kinfold.corpora import load_corpora

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("_common", "_frozen", "_results", "_results_shelf", "results_sets")


@pytest.fixture
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The modules of the scripts, imported as they import them."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield {name: importlib.import_module(name) for name in NAMES}
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
        for name in NAMES:
            sys.modules.pop(name, None)


def test_asked_the_same_by_an_earlier_version(scripts: dict[str, ModuleType]) -> None:
    same = scripts["_results_shelf"].same
    default = {"train": {"lr": 0.1, "new": None}}
    asked = {"train": {"lr": 0.1, "new": None}, "seeds": [0, 1]}
    assert same({"train": {"lr": 0.1}, "seeds": [0, 1]}, asked, default)
    assert not same({"train": {"lr": 0.1}, "seeds": [0, 1]}, {**asked, "train": {"lr": 0.1, "new": 3}}, default)
    assert not same({"train": {"lr": 0.2}, "seeds": [0, 1]}, asked, default)
    assert not same({"train": {"lr": 0.1}, "seeds": [0]}, asked, default)
    # What an earlier version was asked and this one does not know is no more the same.
    assert not same({"train": {"lr": 0.1, "old": 1}, "seeds": [0, 1]}, asked, default)
    assert not same({"train": {"lr": 0.1}}, asked, default)


def test_runs_named_in_an_answer(scripts: dict[str, ModuleType]) -> None:
    value = {
        "methods": [{"name": "plan", "records": ["a", "b"]}],
        "grid": {"records": [[["c"], []]]},
        "runs": [{"parts": ["d"], "policy": "x"}, {"record": "e"}],
        "asked": {"parts": ["contrary"]},
    }
    assert sorted(scripts["_results_shelf"].runs_named(value)) == ["a", "b", "c", "d", "e"]


def test_a_study_is_trained_once_whatever_code_asks_for_it(
    scripts: dict[str, ModuleType],
    toy_corpora: Path,
    tiny_llama_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from kinfold.app.compare import _runs
    from kinfold.stages import model

    sets, store = scripts["results_sets"], tmp_path / "store"
    corpora = load_corpora(toy_corpora)
    for name in ("_results", "_results_shelf"):
        monkeypatch.setattr(scripts[name], "STORE", store)
    base = SimpleNamespace(identity="a tiny model", folder=tiny_llama_dir)
    monkeypatch.setattr(sets, "base_of", lambda _: base)
    monkeypatch.setattr(sets, "corpora_of", lambda _: corpora)
    monkeypatch.setattr(sets, "expected", lambda *_: None)
    monkeypatch.setitem(sets.SETS, "prose", replace(TRAIN, documents=4))
    monkeypatch.setattr(sys, "argv", ["results_sets.py", "prose", "--methods", "plan,joint", "--seeds", "0"])
    trained: list[str] = []
    train_one = _runs.train_one

    def counted(*args: Any, key: str, **more: Any) -> dict[str, Any]:
        trained.append(key)
        return train_one(*args, key=key, **more)

    monkeypatch.setattr(_runs, "train_one", counted)

    def main(work: str) -> list[str]:
        monkeypatch.setenv("KINFOLD_RESULTS", str(tmp_path / work))
        base.fingerprint = model.model_fingerprint(str(tiny_llama_dir))
        trained.clear()
        sets.main()
        return list(trained)

    assert len(main("one")) == 2
    answer, held = store / "prose" / "compare.json", sorted((store / "prose" / "records").iterdir())
    assert len(held) == 2
    first = json.loads(answer.read_text())
    # All is there: nothing is done, not a byte changes.
    before = answer.read_bytes()
    capsys.readouterr()
    assert main("two") == []
    assert "recorded already" in capsys.readouterr().out
    assert answer.read_bytes() == before
    # A version that names the model otherwise and has a setting more finds the runs, under the names they have.
    monkeypatch.setattr(model, "model_fingerprint", lambda _: "another scheme")
    for file in held:
        record = json.loads(file.read_text())
        del record["settings"]["kl_direction"]  # at its default
        file.write_text(json.dumps(record))
    answer.write_text(json.dumps({key: value for key, value in first.items() if key != "asked"}))
    assert main("three") == []
    again = json.loads(answer.read_text())
    assert again["methods"] == first["methods"]
    assert again["asked"] == first["asked"]
    assert sorted((store / "prose" / "records").iterdir()) == held
    # A run that is gone is made again; another question is another study.
    held[0].unlink()
    assert len(main("four")) == 1
    assert main("four") == []
    monkeypatch.setitem(sets.SETS, "prose", replace(TRAIN, documents=4, lr=1e-5))
    assert len(main("five")) == 2
