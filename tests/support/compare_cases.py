"""A plan of four domains, small settings and made-up records: what the tests of `kinfold compare` start from."""

from __future__ import annotations

from typing import Any

from kinfold.app.compare import CompareSettings
from kinfold.app.compare._summary import summarise
from kinfold.app.compare._variants import Variant, variants
from kinfold.partition import Plan, PlanSettings
from kinfold.stages import LoraSpec, TrainSettings

PLAN = Plan(stages=(("garden", "kitchen"), ("harbour", "engine")), domains=("engine", "garden", "harbour", "kitchen"))

TRAIN = TrainSettings(
    epochs=1,
    documents=12,
    batch_tokens=512,
    max_length=64,
    lr=1e-2,
    lora=LoraSpec(rank=4),
    eval_documents=5,
    bootstrap=20,
    ssl_weight=0.0,
    align_weight=0.0,
)


def record(variant: Variant, losses: dict[str, float], **more: Any) -> dict[str, Any]:
    """What a finished training of `variant` leaves, with these losses a domain."""
    table = {name: {"loss": value, "accuracy": 1 - value / 10} for name, value in losses.items()}
    before = {name: {"loss": 5.0, "accuracy": 0.5} for name in losses}
    return {
        "key": variant.key({}),
        "task": "lm",
        "split": "test",
        "before": before,
        "final": table,
        "snapshot": before,
        "general": None,
        "tokens": 1000,
        "steps": 10,
        "train_seconds": 2.0,
        "wall_seconds": 3.0,
        "peak_memory": 10,
        "parameters": 100,
        "environment": {},
    } | more


def summary(task: str = "lm", skip: tuple[str, int] | None = None, **values: Any) -> dict[str, Any]:
    """A summary in which one stage for all is behind the plan by .5 and random groups lead it by .25.

    `skip` names a method and seed whose run failed.
    """
    made = CompareSettings(**{"methods": ("joint", "random"), "seeds": (0, 1), "draws": 2, **values})
    runs = variants(PLAN, None, settings=made, train=TRAIN, plan_settings=PlanSettings(), seed=0)
    offset = {"plan": 0.0, "joint": 0.5, "random": -0.25}
    done = [
        (
            run,
            record(
                run,
                {name: 3.0 + offset[run.method] + i / 10 + run.seed for i, name in enumerate(PLAN.domains)},
                task=task,
            ),
        )
        for run in runs
        if skip != (run.method, run.seed)
    ]
    return summarise(done, {skip[0]: ["it diverged"]} if skip else {}, settings=made, plan={}, made_of={}, seed=0)
