"""Sequence classification: a head per domain or a shared one, on encoders and decoders, served by PEFT."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kinfold.corpora import load_corpora
from kinfold.errors import ConfigError, CorpusError
from kinfold.partition.plan import Plan
from kinfold.stages import LoraSpec, Run, TrainSettings, train

STAGES = (("engine", "garden"), ("harbour",))
SMALL = TrainSettings(
    lora=LoraSpec(rank=4),
    epochs=6,
    batch_tokens=1024,
    max_length=96,
    lr=2e-2,
    bootstrap=50,
    threads=1,
    eval_documents=12,
)


def plan() -> Plan:
    return Plan(stages=STAGES, domains=("engine", "garden", "harbour"))


@pytest.mark.parametrize(("head", "base"), [("domain", "bert"), ("shared", "bert"), ("domain", "llama")])
def test_peft_serves_what_was_evaluated(
    head: str, base: str, toy_labelled: Path, tiny_llama_dir: Path, tiny_bert_dir: Path, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tiny_bert_dir if base == "bert" else tiny_llama_dir
    corpora = load_corpora(toy_labelled)
    settings = replace(SMALL, head=head, epochs=2)
    run = train(plan(), corpora, model=folder, out=tmp_path / "run", settings=settings, seed=1)
    assert isinstance(run, Run)
    assert run.manifest["task"] == "classification"
    evaluation = run.evaluation
    assert set(evaluation["final"]["engine"]) >= {"loss", "accuracy", "f1", "documents"}
    assert evaluation["h_score"] is None or evaluation["h_score"]["after"] > 0
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for name, path in run.adapters.items():
        model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
        model.config.pad_token_id = tokenizer.pad_token_id
        served = PeftModel.from_pretrained(model, path).eval()
        right, losses = [], []
        for record in corpora[name].sample(12, "test"):
            batch = tokenizer(record.text, truncation=True, max_length=96, return_tensors="pt")
            batch.pop("token_type_ids", None)
            with torch.no_grad():
                logits = served(**batch).logits
            right.append(int(logits.argmax()) == int(record.label))
            losses.append(float(torch.nn.functional.cross_entropy(logits, torch.tensor([int(record.label)]))))
        assert evaluation["final"][name]["accuracy"] == pytest.approx(np.mean(right))
        assert evaluation["final"][name]["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


def test_a_learnable_label_is_learnt(tiny_bert_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpora"
    folder.mkdir()
    words = {0: "soil seed leaf", 1: "piston gear torque"}
    for name in ("engine", "garden", "harbour"):
        rows = [
            json.dumps(
                {"text": words[i % 2] + f" {'old' if i % 3 else 'new'}" * (1 + i % 4), "label": i % 2, "split": s}
            )
            for s in ("train", "test")
            for i in range(24)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    settings = replace(SMALL, align_weight=0.0, ssl_weight=0.0, epochs=12, batch_tokens=256, lr=1e-2)
    run = train(plan(), load_corpora(folder), model=tiny_bert_dir, out=tmp_path / "run", settings=settings)
    assert isinstance(run, Run)
    for name in run.domains:
        assert run.evaluation["final"][name]["accuracy"] > 0.9
        assert run.evaluation["final"][name]["f1"] > 0.9


def test_labels_and_terms_that_do_not_fit_are_refused(
    toy_labelled: Path, tiny_bert_dir: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    corpora = load_corpora(toy_labelled)
    unknown = tmp_path / "corpora"
    unknown.mkdir()
    for name in ("engine", "garden", "harbour"):
        text = (toy_labelled / f"{name}.jsonl").read_text(encoding="utf-8")
        if name == "garden":
            text += '{"text": "good soil good", "label": 7, "split": "test"}\n'
        (unknown / f"{name}.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(CorpusError, match=r"garden.*label '7' is unknown to the head of garden"):
        train(
            plan(),
            load_corpora(unknown),
            model=tiny_bert_dir,
            out=tmp_path / "a",
            settings=replace(SMALL, eval_documents=10**6),
        )
    assert not (tmp_path / "a").exists()
    with pytest.raises(ConfigError, match="layout"):
        train(plan(), corpora, model=tiny_bert_dir, out=tmp_path / "b", settings=replace(SMALL, layout="flat"))
    general = replace_general(toy_labelled, tmp_path / "g")
    with pytest.raises(ConfigError, match="next-token"):
        train(
            plan(),
            load_corpora(general),
            model=tiny_llama_dir,
            out=tmp_path / "c",
            settings=replace(SMALL, kl_weight=1.0),
        )


def replace_general(source: Path, target: Path) -> Path:
    import shutil

    shutil.copytree(source, target)
    (target / "general.jsonl").write_text('{"text": "people of the city"}\n' * 3, encoding="utf-8")
    return target
