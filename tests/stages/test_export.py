"""Exports give the run back: exact adapters, compressed ones with their error, merged weights, a router that routes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from kinfold.corpora import load_corpora
from kinfold.errors import ConfigError, RunError
from kinfold.partition.plan import Plan
from kinfold.stages import LoraSpec, Run, TrainSettings, export_run, train
from kinfold.stages.export import _check
from kinfold.stages.router import Router, _wilson

PLAN = Plan(stages=(("garden", "kitchen"), ("engine",)), domains=("engine", "garden", "kitchen"))
SETTINGS = TrainSettings(
    lora=LoraSpec(rank=4), max_steps=3, batch_tokens=384, eval_documents=4, lr=5e-2, bootstrap=10, threads=1
)


@pytest.fixture(scope="module")
def run(toy_corpora: Path, tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("export") / "run"
    made = train(PLAN, load_corpora(toy_corpora), model=tiny_llama_dir, out=out, settings=SETTINGS, seed=3)
    assert isinstance(made, Run)
    return made


def test_a_perfect_score_on_few_texts_is_not_certainty() -> None:
    low, high = _wilson(1.0, 20)
    assert (round(low, 4), high) == (0.8389, 1.0)  # 1 / (1 + 1.96² / 20)
    assert _wilson(0.0, 20) == pytest.approx((0.0, 1 - low))
    low, high = _wilson(0.3, 100)
    assert (round(low, 4), round(high, 4)) == (0.2189, 0.3958)


def test_exact_adapters_and_a_router(run: Run, toy_corpora: Path, tmp_path: Path) -> None:
    result = export_run(run, tmp_path / "out", backbone="last", corpora=load_corpora(toy_corpora))
    # Two shared adapters of rank 4 and the domain's own.
    assert result.ranks == {"engine": 12, "garden": 12, "kitchen": 12}
    assert set(result.errors.values()) == {0.0}
    assert max(result.logits.values()) < 1e-5
    router = Router.load(tmp_path / "out" / "router")
    assert router.route(["tomato soil seed leaf plant", "piston torque crank cylinder"]) == ["garden", "engine"]
    texts = list(load_corpora(toy_corpora)["kitchen"].texts("test"))
    share = sum(name == "kitchen" for name in router.route(texts)) / len(texts)
    row = router.accuracy["confusion"][2]
    assert share == pytest.approx(row[2] / sum(row))
    with pytest.raises(RunError, match="not empty"):
        export_run(run, tmp_path / "out")


def test_compression_states_its_error(run: Run, tmp_path: Path) -> None:
    full = export_run(run, tmp_path / "a", rank=12, backbone="last", domains=["garden"])
    assert full.errors["garden"] < 1e-5
    assert full.logits["garden"] < 1e-4
    small = export_run(run, tmp_path / "b", rank=2, backbone="last", domains=["garden"])
    assert small.ranks == {"garden": 2}
    assert 0.05 < small.errors["garden"] < 1
    assert small.logits["garden"] > full.logits["garden"]


def test_each_domain_is_served_behind_the_backbone_that_scored_better(run: Run, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    own = export_run(run, tmp_path / "own", backbone="own")
    assert own.stages == {"engine": 2, "garden": 1, "kitchen": 1}
    # One shared adapter of rank 4 less than on the last backbone, and just what the stage itself had left.
    assert own.ranks == {"engine": 12, "garden": 8, "kitchen": 8}
    written = load_file(Path(own.paths["garden"]) / "adapter_model.safetensors")
    left = load_file(run.adapter("garden", stage=0) / "adapter_model.safetensors")
    assert written.keys() == left.keys()
    assert all(torch.equal(written[name], left[name]) for name in left)
    file = run.path / "evaluation.json"
    kept = file.read_text()
    try:
        evaluation = json.loads(kept)
        evaluation["snapshot"]["garden"]["loss"], evaluation["final"]["garden"]["loss"] = 1.0, 2.0
        evaluation["snapshot"]["kitchen"]["loss"], evaluation["final"]["kitchen"]["loss"] = 2.0, 1.0
        file.write_text(json.dumps(evaluation))
        assert export_run(run, tmp_path / "better").stages == {"engine": 2, "garden": 1, "kitchen": 2}
        file.unlink()
        assert export_run(run, tmp_path / "unscored").stages == {"engine": 2, "garden": 2, "kitchen": 2}
    finally:
        file.write_text(kept)
    with pytest.raises(ConfigError, match=r"better, last, own"):
        export_run(run, tmp_path / "bad", backbone="first")  # type: ignore[arg-type]


def test_merged_weights_need_no_adapter(run: Run, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = export_run(run, tmp_path / "out", form="merged", domains=["engine"])
    merged = AutoModelForCausalLM.from_pretrained(result.paths["engine"])
    base = AutoModelForCausalLM.from_pretrained(run.manifest["model"]["name"])
    tokenizer = AutoTokenizer.from_pretrained(result.paths["engine"])
    batch = tokenizer("the old piston and the oil", return_tensors="pt")
    with torch.no_grad():
        plain = base(**batch).logits
        adapted = PeftModel.from_pretrained(base, run.adapter("engine"))(**batch).logits
        torch.testing.assert_close(merged(**batch).logits, adapted, rtol=1e-4, atol=1e-5)
    assert (adapted - plain).abs().max() > 1e-3


def test_a_vllm_bundle_says_how_to_serve_it(run: Run, tmp_path: Path) -> None:
    result = export_run(run, tmp_path / "a bundle", form="vllm")
    assert "--max-lora-rank 16" in result.flags
    assert f"'engine={tmp_path}/a bundle/adapters/engine'" in result.flags
    assert (tmp_path / "a bundle" / "serve.sh").read_text().endswith(f"exec {result.flags}\n")


def test_a_vllm_bundle_holds_what_vllm_accepts(run: Run, tmp_path: Path) -> None:
    """The rules of vLLM's own adapter check (`PEFTHelper` and `MaxLoRARanks`, 2026), applied to what we write."""
    import shlex

    from safetensors import safe_open

    result = export_run(run, tmp_path / "bundle", form="vllm")
    words = shlex.split(result.flags)
    most = int(words[words.index("--max-lora-rank") + 1])
    assert most in (1, 8, 16, 32, 64, 128, 256, 320, 512)
    assert words[:2] == ["vllm", "serve"]
    assert "--enable-lora" in words
    modules = dict(word.split("=", 1) for word in words[words.index("--lora-modules") + 1 :])
    assert set(modules) == {"engine", "garden", "kitchen"}
    assert int(words[words.index("--max-cpu-loras") + 1]) >= int(words[words.index("--max-loras") + 1]) >= 1
    for folder in map(Path, modules.values()):
        config = json.loads((folder / "adapter_config.json").read_text())
        assert 0 < config["r"] <= most
        assert isinstance(config["lora_alpha"], int)
        assert config["target_modules"]
        assert config["bias"] == "none"
        assert config["init_lora_weights"] is True
        for refused in ("modules_to_save", "use_dora", "lora_bias", "alora_invocation_tokens", "layer_replication"):
            assert not config.get(refused)
        with safe_open(folder / "adapter_model.safetensors", framework="np") as file:
            names = list(file.keys())
            for name in names:
                assert name.startswith("base_model.model.model.layers.")
                assert name.endswith((".lora_A.weight", ".lora_B.weight"))
                shape = file.get_slice(name).get_shape()
                assert shape[0 if ".lora_A." in name else 1] == config["r"]
    with pytest.raises(ConfigError, match="classification head"):
        _check(run, tmp_path / "x", "vllm", ("engine",), None, "classification")


def test_what_cannot_be_exported(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no domain 'cellar'"):
        export_run(run, tmp_path / "x", domains=["cellar"])
    with pytest.raises(ConfigError, match="form"):
        export_run(run, tmp_path / "x", form="onnx")  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


def test_dry_run_writes_nothing_and_counts_what_training_does(
    run: Run, toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "dry"
    dry = train(PLAN, load_corpora(toy_corpora), model=tiny_llama_dir, out=out, settings=SETTINGS, seed=3, dry_run=True)
    assert not isinstance(dry, Run)
    assert not out.exists()
    values = dry.to_dict()
    assert [stage["steps"] for stage in values["stages"]] == [3, 3]
    assert [stage["tokens"] for stage in values["stages"]] == [
        sum(row["tokens"] for row in run.metrics if row["stage"] == stage) for stage in (0, 1)
    ]
    assert values["memory"]["total"] > 0
    assert {sample["kind"] for sample in values["samples"]} == {"task", "ssl"}
    masked = next(sample for sample in values["samples"] if sample["kind"] == "ssl")
    assert "<mask>" in masked["shown"]


def test_memory_grows_with_what_it_should_grow_with(tiny_llama_dir: Path) -> None:
    from kinfold.stages import estimate_memory

    small = estimate_memory(tiny_llama_dir, SETTINGS)
    assert estimate_memory(tiny_llama_dir, replace(SETTINGS, batch_tokens=4096)).activations > 4 * small.activations
    assert estimate_memory(tiny_llama_dir, SETTINGS, domains=4).adapters == pytest.approx(small.adapters * 5 / 2)
    assert estimate_memory(tiny_llama_dir, replace(SETTINGS, precision="bf16")).weights == small.weights // 2
    big = replace(SETTINGS, batch_tokens=4096)
    checkpointed = estimate_memory(tiny_llama_dir, replace(big, gradient_checkpointing=True))
    assert checkpointed.activations < estimate_memory(tiny_llama_dir, big).activations
