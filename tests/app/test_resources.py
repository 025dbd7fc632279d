"""Budgets that only the base model can size: the plan keeps to the trainer's own memory model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import kinfold
import numpy as np
import pytest
from kinfold.app.resources import sized_by_model, typical_lengths
from kinfold.errors import ConfigError
from kinfold.metrics import Relations
from kinfold.partition import PlanSettings
from kinfold.stages import TrainSettings, estimate_memory

TRAIN = TrainSettings(batch_tokens=256, max_length=32)
QUICK = {"bootstrap": 0, "phase": 0, "compare": False, "time_limit": 2.0}
NAMES = ("a", "b", "c", "d", "e")


def relations() -> Relations:
    k = len(NAMES)
    js = 0.2 * (1 - np.eye(k))
    return Relations(
        domains=NAMES,
        matrices={"js": js, "synergy": 1 - js},
        tokens=np.full(k, 600, np.int64),
        documents=np.full(k, 30, np.int64),
    )


def test_adapter_parameters_are_exact(tiny_llama_dir: Path) -> None:
    asked = PlanSettings(budget={"adapter_parameters": 1e9})
    sized = sized_by_model(asked, [20.0] * 5, model=tiny_llama_dir, train=TRAIN)
    for domains in (1, 2, 3, 5):
        trained = estimate_memory(tiny_llama_dir, TRAIN, domains=domains).adapters / 16
        said = sized.overhead["adapter_parameters"] + domains * sized.sizes["adapter_parameters"]
        assert said == pytest.approx(trained, rel=1e-12)
    alone = dataclasses.replace(TRAIN, adapters="shared")
    assert sized_by_model(asked, [20.0] * 5, model=tiny_llama_dir, train=alone).sizes["adapter_parameters"] == 0


def test_no_stage_needs_more_memory_than_the_plan_was_told(tiny_llama_dir: Path) -> None:
    sized = sized_by_model(PlanSettings(budget={"gpu_memory": 1e12}), [20.0] * 5, model=tiny_llama_dir, train=TRAIN)
    for domains in (1, 2, 3, 4, 5):
        needed = estimate_memory(
            tiny_llama_dir, TRAIN, domains=domains, earlier_stages=4, tokens=round(256 * 1.25) + 20 * domains
        )
        said = sized.overhead["gpu_memory"] + domains * sized.sizes["gpu_memory"]
        assert needed.total <= said <= 1.05 * needed.total
    bigger = dataclasses.replace(TRAIN, batch_tokens=1024)
    other = sized_by_model(PlanSettings(budget={"gpu_memory": 1e12}), [20.0] * 5, model=tiny_llama_dir, train=bigger)
    assert other.overhead["gpu_memory"] > sized.overhead["gpu_memory"]


def test_a_plan_under_a_memory_budget_has_room_in_every_stage(tiny_llama_dir: Path) -> None:
    sized = sized_by_model(
        PlanSettings(budget={"gpu_memory": 1e12}), typical_lengths(relations()), model=tiny_llama_dir, train=TRAIN
    )
    room = sized.overhead["gpu_memory"] + 2.5 * sized.sizes["gpu_memory"]
    plan = kinfold.plan(relations(), model=tiny_llama_dir, train=TRAIN, budget={"gpu_memory": room}, **QUICK)
    assert max(map(len, plan.stages)) == 2
    assert len(plan.stages) == 3
    plan.verify()


def test_sizes_that_are_given_are_not_estimated() -> None:
    asked = PlanSettings(budget={"gpu_memory": 8.0, "tokens": 9.0}, sizes={"gpu_memory": 2.0})
    assert sized_by_model(asked, [20.0] * 3, model=None, train=TRAIN) is asked


def test_without_a_model_the_remedy_is_named() -> None:
    with pytest.raises(ConfigError, match=r"plan\.budget\.gpu_memory: .* give --model, or plan\.sizes\.gpu_memory"):
        kinfold.plan(relations(), budget={"gpu_memory": 8e9})


def test_a_budget_below_one_domain_says_what_one_needs(tiny_llama_dir: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"2\.0 KiB, but a stage of one domain needs .* MiB; raise the budget, or low"
    ):
        kinfold.plan(relations(), model=tiny_llama_dir, train=TRAIN, budget={"gpu_memory": 2048})
    with pytest.raises(ConfigError, match=r"2,048, but a stage of one domain needs [\d,]+; raise .* train\.lora\.rank"):
        kinfold.plan(relations(), model=tiny_llama_dir, train=TRAIN, budget={"adapter_parameters": 2048})
