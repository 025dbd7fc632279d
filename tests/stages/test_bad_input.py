"""What users bring that does not fit, and what machines do in the middle of a run: one sentence, and nothing lost."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kinfold._progress import SilentProgress
from kinfold.corpora import load_corpora
from kinfold.errors import ConfigError, CorpusError, ModelError, TrainingError
from kinfold.partition.plan import Plan
from kinfold.stages import LoraSpec, Run, TrainSettings, train
from kinfold.stages.checkpoint import Checkpoint, StepLog
from kinfold.stages.step import Stepper

PLAN = Plan(stages=(("garden", "kitchen"),), domains=("garden", "kitchen"))
SETTINGS = TrainSettings(
    lora=LoraSpec(rank=2),
    max_steps=6,
    batch_tokens=256,
    max_length=32,
    eval_documents=2,
    bootstrap=10,
    threads=1,
    checkpoint_every=2,
    lr=1e-2,
)


class Heard(SilentProgress):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def go(corpora: Path | dict[str, Any], model: Path, out: Path, **changes: Any) -> Run:
    options = {key: changes.pop(key) for key in ("resume", "progress", "dry_run") if key in changes}
    opened = load_corpora(corpora)
    run = train(PLAN, opened, model=model, out=out, settings=replace(SETTINGS, **changes), seed=2, **options)
    assert isinstance(run, Run)
    return run


@pytest.fixture(scope="module")
def whole(toy_corpora: Path, tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return go(toy_corpora, tiny_llama_dir, tmp_path_factory.mktemp("whole") / "run")


def same(run: Run, reference: Run) -> bool:
    """Whether adapters and step log agree to the bit."""
    if (run.path / "metrics.jsonl").read_bytes() != (reference.path / "metrics.jsonl").read_bytes():
        return False
    name = "adapter_model.safetensors"
    return all((run.adapters[d] / name).read_bytes() == (p / name).read_bytes() for d, p in reference.adapters.items())


# -- what users bring -------------------------------------------------------------------------------------------


def test_texts_longer_than_the_model_are_cut_to_it_and_that_is_said(
    toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    heard = Heard()
    long = {
        name: {"path": str(_joined(toy_corpora / f"{name}.jsonl", tmp_path / f"{name}.jsonl"))} for name in PLAN.domains
    }
    run = go(long, tiny_llama_dir, tmp_path / "run", max_length=4096, progress=heard, batch_tokens=1024)
    assert run.finished
    assert any("at most 128 tokens" in line and "max_length=4096" in line for line in heard.said)


def _joined(source: Path, target: Path) -> Path:
    """Documents joined by tens: hundreds of tokens each."""
    texts = [json.loads(line)["text"] for line in source.read_text(encoding="utf-8").splitlines()]
    rows = [json.dumps({"text": " ".join(texts[i : i + 10]), "split": "train"}) for i in range(0, 50, 10)]
    rows += [json.dumps({"text": " ".join(texts[50:]), "split": "test"})]
    target.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return target


@pytest.mark.parametrize("dry_run", [False, True])
def test_an_empty_split_is_said_before_anything_is_written(
    tiny_llama_dir: Path, tmp_path: Path, *, dry_run: bool
) -> None:
    rows = "".join(json.dumps({"text": f"a pump and a valve {i}", "split": "train"}) + "\n" for i in range(9))
    for name in PLAN.domains:
        (tmp_path / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    given = {name: {"path": str(tmp_path / f"{name}.jsonl")} for name in PLAN.domains}
    with pytest.raises(CorpusError, match="garden: its test split holds no usable record"):
        go(given, tiny_llama_dir, tmp_path / "run", dry_run=dry_run)
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_without_a_pad_token_trains_the_same(
    toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_llama_dir, bare)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "config.json", "generation_config.json"):
        path = bare / name
        if path.exists():
            kept = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("pad_token", "pad_token_id")}
            path.write_text(json.dumps(kept))
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(bare).pad_token is None
    # Padding is never paid for, so whatever stands in for it, losses are those of the model as it was. (Denoising is
    # off: it draws replacements among ordinary tokens, and the old pad token is one now.)
    first = go(toy_corpora, tiny_llama_dir, tmp_path / "first", layout="padded", ssl_weight=0, max_steps=3)
    run = go(toy_corpora, bare, tmp_path / "run", layout="padded", ssl_weight=0, max_steps=3)
    assert [row["loss"] for row in run.metrics] == [row["loss"] for row in first.metrics]


def test_targets_that_match_nothing_are_said_before_anything_is_written(
    toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"'query' matches no layer.*q_proj \(2\)"):
        go(toy_corpora, tiny_llama_dir, tmp_path / "run", lora=LoraSpec(targets=("query",)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("tensor", ["model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_weights_are_named_before_anything_is_written(
    tensor: str, value: float, toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny_llama_dir, tmp_path / "damaged")
    weights = load_file(tmp_path / "damaged" / "model.safetensors")
    weights[tensor][-1, 0] = value  # of the embedding: a row that most texts never look at
    save_file(weights, tmp_path / "damaged" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"{tensor} holds values that are no finite numbers; get the weights anew"):
        go(toy_corpora, tmp_path / "damaged", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_compiling_on_a_cpu_is_refused_with_the_reason(toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.compile: not on a CPU.*set it to false"):
        go(toy_corpora, tiny_llama_dir, tmp_path / "run", compile=True)
    assert not (tmp_path / "run").exists()


def test_kl_without_general_text_is_refused(toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path) -> None:
    given = {name: {"path": str(toy_corpora / f"{name}.jsonl")} for name in PLAN.domains}
    with pytest.raises(CorpusError, match=r"kl_weight is on, but the corpora hold no general text"):
        go(given, tiny_llama_dir, tmp_path / "run", kl_weight=0.5)
    assert not (tmp_path / "run").exists()


# -- what machines do -------------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, at: int, fault: Callable[[], Exception]) -> None:
    """Let step number `at` (from 1) of the run fail, once."""
    real, calls = Stepper.__call__, [0]

    def step(self: Stepper, number: int, stopped: frozenset[str] = frozenset()) -> Any:
        calls[0] += 1
        if calls[0] == at:
            raise fault()
        return real(self, number, stopped)

    monkeypatch.setattr(Stepper, "__call__", step)


@pytest.mark.parametrize("kind", ["cuda", "cpu", "python"])
def test_out_of_memory_names_the_estimate_three_remedies_and_the_checkpoint(
    kind: str, whole: Run, toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    faults: dict[str, Callable[[], Exception]] = {
        "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        "cpu": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        "python": MemoryError,
    }
    failing(monkeypatch, 4, faults[kind])
    with pytest.raises(TrainingError) as raised:
        go(toy_corpora, tiny_llama_dir, tmp_path / "run")
    message = str(raised.value)
    assert "Stage 1, step 4: out of" in message
    assert ("GPU" in message) == (kind == "cuda")
    assert "estimated peak" in message
    assert all(
        remedy in message for remedy in ("train.accumulation", "train.gradient_checkpointing", "train.max_length")
    )
    assert str(tmp_path / "run" / "checkpoints" / "00-00000002") in message
    assert Checkpoint.load(tmp_path / "run" / "checkpoints" / "00-00000002").step == 2
    assert same(go(toy_corpora, tiny_llama_dir, tmp_path / "run", resume=True), whole)


@pytest.mark.parametrize("what", ["tensors", "log", "evaluation"])
def test_a_full_disk_costs_nothing_that_was_done(
    what: str, whole: Run, toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full while the second checkpoint is written (safetensors has its own error), the log, or the evaluation."""
    import numpy as np
    import safetensors.torch
    from safetensors import SafetensorError

    with monkeypatch.context() as patch:
        if what == "tensors":
            real, calls = safetensors.torch.save_file, [0]

            def save(tensors: Any, path: Path, *words: Any) -> None:
                calls[0] += 1
                if calls[0] == 2:
                    Path(path).write_bytes(b"half")
                    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
                real(tensors, path, *words)

            patch.setattr(safetensors.torch, "save_file", save)
        elif what == "log":

            def full(self: StepLog) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(StepLog, "sync", full)
        else:

            def savez(*words: Any, **arrays: Any) -> None:
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(np, "savez", savez)
        with pytest.raises(TrainingError, match=r"No space left on device.*free space and train again with --resume"):
            go(toy_corpora, tiny_llama_dir, tmp_path / "run")
    for folder in (tmp_path / "run" / "checkpoints").glob("0*"):
        assert Checkpoint.load(folder).step == 2
    assert same(go(toy_corpora, tiny_llama_dir, tmp_path / "run", resume=True), whole)
    assert not list((tmp_path / "run").rglob(".*")), "temporary files left behind"


def test_a_loss_that_is_no_number_stops_before_the_update_and_the_checkpoint_loads(
    whole: Run, toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Stepper.__call__

    def broken(self: Stepper, number: int, stopped: frozenset[str] = frozenset()) -> Any:
        result = real(self, number, stopped)
        return replace(result, loss=float("nan")) if number == 4 else result

    with monkeypatch.context() as patch:
        patch.setattr(Stepper, "__call__", broken)
        with pytest.raises(TrainingError, match=r"step 5: the loss is nan.*last good checkpoint is .*00-00000004"):
            go(toy_corpora, tiny_llama_dir, tmp_path / "run")
    assert Checkpoint.load(tmp_path / "run" / "checkpoints" / "00-00000004").step == 4
    assert same(go(toy_corpora, tiny_llama_dir, tmp_path / "run", resume=True), whole)
