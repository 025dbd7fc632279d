"""Training end to end on tiny models: what a run leaves behind, repeatable to the bit, equal to plain PEFT."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from kinfold.corpora import load_corpora
from kinfold.partition.plan import Plan
from kinfold.stages import LoraSpec, Run, TrainSettings, train

STAGES = (("garden", "kitchen"), ("engine", "harbour"))
SMALL = TrainSettings(
    lora=LoraSpec(rank=4),
    max_steps=12,
    batch_tokens=512,
    max_length=64,
    eval_documents=8,
    lr=5e-2,
    bootstrap=50,
    threads=1,
)


def plan_of(stages: tuple[tuple[str, ...], ...]) -> Plan:
    return Plan(stages=stages, domains=tuple(sorted(name for stage in stages for name in stage)))


@pytest.fixture(scope="module")
def finished(toy_corpora: Path, tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("run") / "run"
    return train(plan_of(STAGES), load_corpora(toy_corpora), model=tiny_llama_dir, out=out, settings=SMALL, seed=3)


def test_a_run_leaves_everything_behind(finished: Run) -> None:
    assert finished.finished
    for name in ("config.yaml", "plan.json", "metrics.jsonl", "evaluation.json", "environment.json", "README.md"):
        assert (finished.path / name).is_file(), name
    assert sorted(finished.adapters) == ["engine", "garden", "harbour", "kitchen"]
    assert finished.stages == STAGES
    rows = finished.metrics
    assert [(row["stage"], row["step"]) for row in rows] == [(t, s) for t in (0, 1) for s in range(1, 13)]
    assert all(set(row["parts"]) == {"task", "ssl", "align"} for row in rows)
    assert all(row["seconds"] > 0 for row in rows)
    logged = [(row["stage"], row["step"]) for row in rows if "norms" in row]
    assert logged == [(0, 1), (0, 11), (1, 1), (1, 11)]
    assert not list(finished.path.rglob(".*")), "temporary files left behind"
    assert not (finished.path / "checkpoints").exists()


def test_training_lowers_the_loss_of_every_domain(finished: Run) -> None:
    evaluation = finished.evaluation
    for name in finished.domains:
        assert (
            evaluation["final"][name]["loss"] < evaluation["before"][name]["loss"] - 0.02
        )  # tied random embeddings allow little
        change = evaluation["change"][name]["final"]
        assert change["low"] <= change["mean"] <= change["high"] < 0
        expected = evaluation["final"][name]["loss"] - evaluation["before"][name]["loss"]
        assert change["mean"] == pytest.approx(expected)


def test_evaluation_has_the_promised_parts(finished: Run) -> None:
    evaluation = finished.evaluation
    assert evaluation["domains"] == sorted(finished.domains)
    matrix = np.array(evaluation["forgetting"]["matrix"])
    assert matrix.shape == (2, 4)
    # A domain of the last stage has one and the same snapshot and final model.
    assert evaluation["snapshot"]["engine"] == evaluation["final"]["engine"]
    assert evaluation["after_stage"][0]["garden"] == pytest.approx(evaluation["snapshot"]["garden"]["loss"])
    assert evaluation["general"]["before"]["loss"] > 0
    assert np.array(evaluation["alignment"]["mmd2_before"]).shape == (4, 4)


def test_the_same_seed_gives_the_same_bits(
    finished: Run, toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    again = train(
        plan_of(STAGES), load_corpora(toy_corpora), model=tiny_llama_dir, out=tmp_path / "b", settings=SMALL, seed=3
    )
    assert (again.path / "metrics.jsonl").read_bytes() == (finished.path / "metrics.jsonl").read_bytes()
    assert json.loads((again.path / "evaluation.json").read_text()) == finished.evaluation
    for name, folder in finished.adapters.items():
        mine = again.adapters[name] / "adapter_model.safetensors"
        assert mine.read_bytes() == (folder / "adapter_model.safetensors").read_bytes()


def test_one_stage_of_the_shared_adapter_equals_plain_peft_step_for_step(
    toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    """The reference is written with transformers, PEFT and torch alone: padded batches, full logits, one AdamW."""
    import torch
    from kinfold.stages.stores import schedule_of
    from kinfold.stages.training import Session, Stores
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    settings = TrainSettings(
        adapters="shared",
        lora=LoraSpec(rank=4, alpha=8),
        ssl_weight=0,
        align_weight=0,
        max_steps=5,
        batch_tokens=300,
        max_length=128,
        schedule="linear",
        lr=1e-2,
        weight_decay=0.01,
        eval_documents=2,
        threads=1,
    )
    corpora = load_corpora(toy_corpora)
    plan = plan_of((("garden", "harbour", "kitchen"),))
    run = train(plan, corpora, model=tiny_llama_dir, out=tmp_path / "run", settings=settings, seed=1)

    session = Session.open(plan.stages, corpora, model=tiny_llama_dir, out=tmp_path / "no", settings=settings, seed=1)
    schedule = schedule_of(session, Stores.read(session), 0)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    peft = get_peft_model(model, config)
    start = _initial_factors(session)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if ".lora_A." in name:
                layer = name.removeprefix("base_model.model.").split(".lora_A.")[0]
                parameter.copy_(start[f"shared/{layer}/A"])
    own = [p for p in peft.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(own, lr=1e-2, weight_decay=0.01)
    peft.train()
    losses = []
    for step in range(5):
        items = [item for micro in schedule.step(step) for item in micro]
        batch = tokenizer.pad(
            {"input_ids": [item.store.piece(item.piece).tolist() for item in items]}, return_tensors="pt"
        )
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 if step == 0 else 1e-2 * (1 - (step - 1) / 4)  # one step of warm-up, then linear
        loss = peft(**batch, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(own, 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    assert [row["loss"] for row in run.metrics] == pytest.approx(losses, rel=2e-5)
    assert losses[-1] < losses[0] - 0.01


def _initial_factors(session):
    from kinfold._seeding import derive_seed
    from kinfold.stages import LoraBank

    bank = LoraBank.attach(
        session.base.model,
        session.stages[0],
        session.settings.lora,
        domain_adapters=False,
        seed=derive_seed(session.seed, "bank", 0),
    )
    state = {name: tensor.clone() for name, tensor in bank.state_dict().items()}
    bank.detach()
    return state


def test_peft_loads_each_adapter_and_gives_the_evaluated_loss(
    finished: Run, toy_corpora: Path, tiny_llama_dir: Path
) -> None:
    """The loss in evaluation.json is that of the exported adapter in PEFT, text by text with full logits."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    corpora = load_corpora(toy_corpora)
    for name, folder in finished.adapters.items():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama_dir), folder)
        total = count = 0.0
        with torch.no_grad():
            for record in corpora[name].sample(8, "test"):
                ids = [*tokenizer(record.text)["input_ids"], tokenizer.eos_token_id]
                for begin in range(0, len(ids) - 1, 63):  # max_length 64, overlapping by one
                    piece = torch.tensor([ids[begin : begin + 64]])
                    total += float(model(piece, labels=piece).loss) * (piece.shape[1] - 1)
                    count += piece.shape[1] - 1
        assert finished.evaluation["final"][name]["loss"] == pytest.approx(total / count, rel=1e-5)
        assert finished.evaluation["final"][name]["tokens"] == count
