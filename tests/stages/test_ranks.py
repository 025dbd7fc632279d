"""Two processes give what one gives: the same log but for rounding, alignment over all ranks' features included."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from kinfold.corpora import load_corpora
from kinfold.partition.plan import Plan
from kinfold.stages import LoraSpec, TrainSettings, train

PLAN = Plan(stages=(("garden", "harbour"), ("kitchen",)), domains=("garden", "harbour", "kitchen"))
SETTINGS = TrainSettings(
    lora=LoraSpec(rank=4),
    max_steps=3,
    batch_tokens=600,
    max_length=64,
    eval_documents=3,
    bootstrap=10,
    lr=2e-2,
    align_weight=1.0,
    kl_weight=0.5,
    threads=1,
)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(rank: int, port: int, corpora: Path, model: Path, out: Path) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            import torch.distributed

            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "RANK": str(rank)}
            os.environ |= {"LOCAL_RANK": str(rank), "ACCELERATE_USE_CPU": "true"}
            train(PLAN, load_corpora(corpora), model=model, out=out, settings=SETTINGS, seed=2)
            # Had each process trained alone, the logs would agree as well.
            status = 0 if torch.distributed.is_initialized() and torch.distributed.get_world_size() == 2 else 3
            torch.distributed.destroy_process_group()
        finally:
            os._exit(status)
    return child


def _log(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_ranks_train_what_one_trains_with_two_micro_batches(
    toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, accumulation=2)
    train(PLAN, load_corpora(toy_corpora), model=tiny_llama_dir, out=tmp_path / "one", settings=settings, seed=2)
    port = _free_port()
    children = [_start(rank, port, toy_corpora, tiny_llama_dir, tmp_path / "two") for rank in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    one, two = _log(tmp_path / "one"), _log(tmp_path / "two")
    assert len(one) == len(two) == 6
    for mine, theirs in zip(two, one, strict=True):
        assert mine["tokens"] == theirs["tokens"]
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=2e-4)
        assert mine["per_domain"] == pytest.approx(theirs["per_domain"], rel=2e-4)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=2e-2)
