"""The memory estimate against storages counted in a real step; benchmarks/bench_memory.py asks the allocator itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kinfold.corpora import load_corpora
from kinfold.stages import LoraSpec, TrainSettings
from kinfold.stages._linear import drop_scratch
from kinfold.stages.losses._chunked import scratch_bytes
from kinfold.stages.memory import BatchShape, StorageMeter, estimate_stage, largest_shape
from kinfold.stages.ranks import Ranks
from kinfold.stages.session import Session
from kinfold.stages.staging import prepared_stage
from kinfold.stages.stores import Stores

SETTINGS = TrainSettings(lora=LoraSpec(rank=4), batch_tokens=2048, max_length=64, max_steps=1, threads=1)
STAGES = (("engine", "garden", "harbour", "kitchen"),)


@pytest.mark.parametrize(
    "changes",
    [
        {"ssl_weight": 0.0, "align_weight": 0.0},
        {"kl_weight": 0.5},
        {"precision": "bf16", "kl_weight": 0.5},
        {"gradient_checkpointing": True},
        {"layout": "padded"},
        {"layout": "packed"},
        {"adapters": "shared"},
    ],
    ids=lambda changes: ",".join(f"{key}={value}" for key, value in changes.items()),
)
def test_the_estimate_is_within_a_tenth_of_a_real_step(
    changes: dict[str, Any], toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, **changes)
    session = Session.open(
        STAGES, load_corpora(toy_corpora), model=tiny_llama_dir, out=tmp_path, settings=settings, seed=0
    )
    stores = Stores.read(session)
    estimate = estimate_stage(session, stores, 0)
    with prepared_stage(session, stores, Ranks(session.base.device), 0, frozen=()) as stepper:
        parameters = list(stepper.bank.parameters())
        for parameter in parameters:
            parameter.requires_grad_(True)
        session.base.model.train()
        stepper(0)
        for parameter in parameters:
            parameter.grad = None
        drop_scratch()  # which a first step takes
        with StorageMeter() as meter:
            stepper(0)
    weights = sum(p.numel() * p.element_size() for p in {id(p): p for p in session.base.model.parameters()}.values())
    trainable = sum(p.numel() for p in parameters)
    held = {id(p) for p in parameters} & {id(p) for p in session.base.model.parameters()}
    weights -= sum(p.numel() * p.element_size() for p in parameters if id(p) in held)
    measured = weights + 3 * 4 * trainable + meter.peak  # factors, and both moments that AdamW will keep
    assert estimate.weights == weights
    assert estimate.adapters == 16 * trainable
    assert estimate.total == pytest.approx(measured, rel=0.1)


def test_a_typical_batch_by_hand() -> None:
    shape = BatchShape.typical(
        replace(SETTINGS, batch_tokens=100, ssl_weight=0.1, ssl_share=0.5, ssl_rate=0.2, kl_weight=1.0, kl_share=0.5),
        domains=2,
        layout="flat",
        lengths=[30, 90],
        max_length=64,
    )
    assert shape.documents == (30, 64, 30, 64, 12)
    assert (shape.rows, shape.length, shape.groups) == (1, 200, (100, 100))
    # A decoder restores every token of a corrupted document, an encoder those that were corrupted.
    assert (shape.paid, shape.general) == (150, 50)
    encoder = BatchShape.typical(
        replace(SETTINGS, batch_tokens=100, ssl_weight=0.1, ssl_share=0.5, ssl_rate=0.2),
        domains=1,
        layout="padded",
        max_length=64,
        decoder=False,
    )
    assert encoder.paid == 110
    padded = BatchShape.typical(SETTINGS, domains=2, layout="padded", lengths=[30, 50], tokens=100, max_length=64)
    assert (padded.rows, padded.length) == (3, 50)


def test_the_meter_counts_births_and_deaths() -> None:
    with StorageMeter() as meter:
        a = torch.zeros(100)
        b = a + 1
        del a
        c = b.view(10, 10)
        assert meter.now == 400
        assert meter.peak == 800
        del b, c
        assert meter.now == 0


@pytest.mark.parametrize("kind", ["token", "span"])
def test_a_typical_batch_is_like_a_real_one(kind: str, toy_corpora: Path, tiny_llama_dir: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, ssl_weight=0.1, ssl_kind=kind, kl_weight=0.5)
    session = Session.open(
        STAGES, load_corpora(toy_corpora), model=tiny_llama_dir, out=tmp_path, settings=settings, seed=0
    )
    real = largest_shape(session, Stores.read(session), 0)
    guess = BatchShape.typical(
        settings, domains=4, layout="flat", lengths=real.documents, tokens=real.length, max_length=64
    )
    assert guess.paid == pytest.approx(real.paid, rel=0.1)
    assert guess.general == pytest.approx(real.general, rel=0.15)


def test_capped_logits_never_run_compiled() -> None:
    capped = scratch_bytes(512, 1000, 64, 1, 4, torch.device("cpu"), capped=True)
    # Logits and their gradient, and hidden states: what PyTorch's own chunks hold, wherever it runs.
    assert capped == 2 * 512 * 1000 * 4 + 512 * 64 * 4
