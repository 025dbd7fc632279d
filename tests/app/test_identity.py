"""Plans know their base model and tokenizer, and say so when another one is about to be trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from kinfold.app.checks import checked
from kinfold.app.config import KinfoldConfig
from kinfold.app.identity import marked, model_print, other_model
from kinfold.errors import ModelError
from kinfold.metrics import Relations
from kinfold.metrics.tokenizing import fingerprint, load_tokenizer
from kinfold.partition import Plan
from kinfold.stages.fingerprint import model_fingerprint


def made_with(tokenizer: str, *, named: str = "some-model", **fields: object) -> tuple[Plan, Relations]:
    relations = Relations(
        domains=("a", "b"),
        matrices={"js": np.zeros((2, 2))},
        fingerprints={"tokenizer": tokenizer},
        settings={"tokenizer": named},
        details={"vocabulary": 8192},
    )
    prints = {"tokenizer": tokenizer, "relations": relations.digest}
    plan = Plan(stages=(("a",), ("b",)), domains=("a", "b"), fingerprints=prints, **fields)  # type: ignore[arg-type]
    return plan, relations


@pytest.fixture
def other(tmp_path: Path, tiny_llama_dir: Path) -> Path:
    """The tiny model with one word more in its tokenizer and another width of rope in its configuration."""
    folder = tmp_path / "other"
    shutil.copytree(tiny_llama_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    state = json.loads((folder / "tokenizer.json").read_text())
    state["model"]["vocab"]["another-word"] = len(state["model"]["vocab"])
    (folder / "tokenizer.json").write_text(json.dumps(state))
    return folder


def test_a_model_on_this_machine_leaves_its_fingerprint(tmp_path: Path, tiny_llama_dir: Path) -> None:
    plan, relations = made_with("t")
    assert marked(plan, model_print(None)) is plan
    wanted = model_fingerprint(str(tiny_llama_dir))
    assert model_print(tiny_llama_dir) == wanted
    assert marked(plan, wanted).fingerprints == {**plan.fingerprints, "model": wanted}
    assert marked(relations, wanted).fingerprints["model"] == wanted
    # Weights that would have to be fetched are not; a folder that is not there is refused.
    assert model_print("nobody/has-this-one") is None
    with pytest.raises(ModelError, match="no such model folder"):
        model_print(str(tmp_path / "nowhere"))


def test_a_wrong_path_is_refused_before_anything_is_measured(
    tmp_path: Path, toy_corpora: Path, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kinfold
    import kinfold.metrics as metrics

    monkeypatch.setattr(metrics, "measure", lambda *_, **__: pytest.fail("it was measured"))
    with pytest.raises(ModelError, match="no such model folder"):
        kinfold.measure(toy_corpora, tokenizer=tiny_llama_dir, model=str(tmp_path / "nowhere"))


def test_a_model_that_is_not_here_is_not_fetched_to_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    import kinfold.stages.fingerprint as prints

    monkeypatch.setattr(prints, "model_fingerprint", lambda *_: pytest.fail("it was fetched"))
    plan = marked(made_with("")[0], "a model")
    assert list(other_model(plan, None, "nobody/has-this-one")) == []


def test_the_model_planned_for_is_silent_and_another_is_not(tiny_llama_dir: Path, other: Path) -> None:
    plan, relations = made_with(fingerprint(load_tokenizer(tiny_llama_dir)))
    plan = marked(plan, model_print(tiny_llama_dir))
    assert list(other_model(plan, relations, str(tiny_llama_dir))) == []
    about_model, about_tokenizer = other_model(plan, relations, str(other))
    assert "another base model than" in about_model
    assert "measured with another tokenizer, not with that of" in about_tokenizer
    assert "(8,192 entries against " in about_tokenizer
    assert "its measures count other tokens" in about_tokenizer
    # Without the relations, or without any fingerprint, no more is claimed than is known.
    assert "entries" not in list(other_model(plan, None, str(other)))[1]
    assert list(other_model(Plan(stages=(("a",),), domains=("a",)), None, str(other))) == []


def test_a_tokenizer_of_the_corpora_is_spoken_of_where_tokens_are_budgeted(tiny_llama_dir: Path) -> None:
    plan, relations = made_with("of the corpora", named="auto")
    assert list(other_model(plan, relations, str(tiny_llama_dir))) == []
    plan, relations = made_with("of the corpora", named="auto", budget={"tokens": 100.0})
    (said,) = other_model(plan, relations, str(tiny_llama_dir))
    assert "a tokenizer trained on the corpora" in said
    assert "token budget" in said
    assert f"--model {tiny_llama_dir}" in said


def test_validate_says_it_too(tmp_path: Path, tiny_llama_dir: Path, other: Path) -> None:
    plan, relations = made_with(fingerprint(load_tokenizer(tiny_llama_dir)))
    relations.save(tmp_path / "relations")
    plan.save(tmp_path / "plan.json")
    from kinfold._progress import SILENT

    for model, count in ((tiny_llama_dir, 0), (other, 1)):
        found = checked(KinfoldConfig(model=str(model)), tmp_path / "plan.json", SILENT)
        assert len([line for line in found.warnings if "tokenizer" in line]) == count
