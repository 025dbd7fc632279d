"""Kinfold's own step on a random Llama and random documents, as benchmarks run it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import transformers
from bench_engine import optimiser_of
from kinfold.stages import LoraSpec, TrainSettings
from kinfold.stages._heap import kept_memory
from kinfold.stages.attention import enable_flat
from kinfold.stages.bank import LoraBank
from kinfold.stages.batches import Schedule
from kinfold.stages.data import TokenStore
from kinfold.stages.model import Base
from kinfold.stages.ranks import Ranks
from kinfold.stages.step import Stepper
from kinfold.stages.weighting import make_weighting

__all__ = ["Run", "make_model", "stepper", "stepping"]

Run = Callable[[], Any]


def make_model(args: argparse.Namespace) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.hidden,
        intermediate_size=args.hidden * 8 // 3 // 32 * 32,
        num_hidden_layers=args.layers,
        num_attention_heads=max(1, args.hidden // 64),
        max_position_embeddings=1024,
    )
    model = transformers.LlamaForCausalLM(config)
    return model.to(torch.bfloat16 if args.precision == "bf16" else torch.float32).train()


def tokenizer(vocabulary: int) -> Any:
    from tokenizers import Tokenizer, models

    words = {"<pad>": 0, "<eos>": 1, "<mask>": 2, **{f"w{i}": i for i in range(3, vocabulary)}}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")),
        pad_token="<pad>",
        eos_token="<eos>",
        mask_token="<mask>",
    )


def store(name: str, documents: int, args: argparse.Namespace, seed: int) -> TokenStore:
    """`documents` documents of args.length random tokens."""
    tokens = np.random.default_rng(seed).integers(3, args.vocabulary, documents * args.length).astype(np.int32)
    offsets = np.arange(documents + 1, dtype=np.int64) * args.length
    return TokenStore(name, tokens, np.ones(len(tokens), bool), offsets, np.arange(documents, dtype=np.int64))


def stepper(args: argparse.Namespace, documents: list[int], **changes: Any) -> Stepper:
    """What the product would step through: so many documents of each domain in the one step of its stage."""
    model = make_model(args).eval()
    base = Base(
        model=model,
        backbone=model.base_model,
        tokenizer=tokenizer(args.vocabulary),
        kind="decoder",
        name="random",
        fingerprint="",
        task="lm",
        hidden_size=args.hidden,
        limit=1024,
        pad=0,
        bos=None,
        eos=1,
        mask=2,
    )
    if not enable_flat(base):
        raise SystemExit("the flat layout is not supported here: nothing to measure.")
    settings = replace(
        TrainSettings(
            task="lm",
            lora=LoraSpec(rank=args.rank, alpha=args.rank),
            batch_tokens=sum(documents) * args.length,
            ssl_weight=0,
            align_weight=0,
            precision=args.precision,
        ),
        **changes,
    )
    names = [f"d{i}" for i in range(len(documents))]
    stores = {name: store(name, count, args, i) for i, (name, count) in enumerate(zip(names, documents, strict=True))}
    general = [store("general", sum(documents), args, 99)] if settings.kl_weight > 0 else []
    bank = LoraBank.attach(
        model,
        names,
        settings.lora,
        shared=settings.adapters != "domain",
        domain_adapters=settings.adapters != "shared",
    )
    schedule = Schedule.make(0, stores, settings, seed=0, general=general)
    if schedule.steps != 1 or schedule.tokens(0) != settings.batch_tokens:
        raise SystemExit(f"{schedule.steps} steps, {schedule.tokens(0)} tokens: not the step that was asked for.")
    weights = {"task": 1.0, "ssl": settings.ssl_weight, "align": settings.align_weight, "kl": settings.kl_weight}
    model.train()
    return Stepper(
        base,
        bank,
        None,
        schedule,
        make_weighting("static", {name: w for name, w in weights.items() if w > 0}),
        settings,
        Ranks(base.device),
        layout="flat",
        max_length=args.length,
        stage=0,
        seed=0,
    )


def stepping(step: Stepper) -> Run:
    optimiser = optimiser_of(step.bank.parameters())

    def run() -> None:
        optimiser.zero_grad(set_to_none=True)
        step(0)
        optimiser.step()

    run.within = kept_memory  # type: ignore[attr-defined]
    return run
