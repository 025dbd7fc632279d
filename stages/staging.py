"""One stage: its bank on the model, its loop, and what it leaves on disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from .._seeding import derive_seed
from .artefacts import load_frozen, save_stage, stage_record, stage_tensors
from .stores import schedule_of

if TYPE_CHECKING:
    from torch import nn

    from .bank import FrozenShared
    from .ranks import Ranks, Trackers
    from .session import Session
    from .step import Stepper
    from .stores import Stores

__all__ = ["prepared_stage", "train_stage"]


@contextmanager
def prepared_stage(
    session: Session, stores: Stores, ranks: Ranks, stage: int, *, frozen: Sequence[FrozenShared]
) -> Iterator[Stepper]:
    """The model with this stage's bank on it, and what computes its steps; the model is restored at the end."""
    from .bank import LoraBank
    from .model import set_checkpointing
    from .step import Stepper
    from .weighting import make_weighting

    settings, base = session.settings, session.base
    bank = LoraBank.attach(
        base.model,
        session.stages[stage],
        settings.lora,
        shared=settings.adapters != "domain",
        domain_adapters=settings.adapters != "shared",
        seed=derive_seed(session.seed, "bank", stage),
        frozen=frozen,
    )
    try:
        if session.heads is not None:
            # bank.attach freezes whatever the model holds.
            for _, parameter in session.heads.named_parameters():
                parameter.requires_grad_(True)
        if settings.gradient_checkpointing:
            set_checkpointing(base.model, True)
        weights = {"task": 1.0, "ssl": settings.ssl_weight, "kl": settings.kl_weight}
        if len(session.stages[stage]) > 1:
            weights["align"] = settings.align_weight
        trained = base
        if settings.compile:
            import torch

            # Only steps run compiled; evaluation has other shapes and would compile them all again.
            trained = replace(base, backbone=cast("nn.Module", torch.compile(base.backbone, dynamic=True)))
        yield Stepper(
            trained,
            bank,
            session.heads,
            schedule_of(session, stores, stage, ranks.count),
            make_weighting(settings.weighting, {name: w for name, w in weights.items() if w > 0}),
            settings,
            ranks,
            layout=session.layout,
            max_length=session.encoder.max_length,
            stage=stage,
            seed=session.seed,
        )
    finally:
        if settings.gradient_checkpointing:
            set_checkpointing(base.model, False)
        bank.detach()


def train_stage(session: Session, stores: Stores, ranks: Ranks, stage: int, trackers: Trackers) -> None:
    """Train stage number `stage` from its newest checkpoint and save it; the stages before it are on disk."""
    from .loop import StageLoop
    from .memory import estimate_phrase
    from .scoring import score, served

    settings, base, heads, out = session.settings, session.base, session.heads, session.out
    if heads is not None and stage:
        # As the stage before left them, from its file, whether this process trained it or not.
        tensors = stage_tensors(out, stage - 1)
        heads.load_state_dict({name: t for name, t in tensors.items() if name.startswith("head/")})
    with prepared_stage(session, stores, ranks, stage, frozen=load_frozen(out, stage)) as stepper:

        def validate(domain: str) -> float:
            return score(
                base,
                stores.validation[domain],
                layout=session.layout,
                max_length=session.encoder.max_length,
                tokens=settings.eval_tokens,
                serving=served(stepper.bank, domain),
                heads=heads,
            ).mean

        previous = stage_record(out, stage - 1) if stage else {"log_bytes": 0}
        outcome = StageLoop(
            stepper,
            settings,
            ranks,
            stage=stage,
            out=out,
            log_bytes=previous["log_bytes"],
            validate=validate,
            trackers=trackers,
            estimate=lambda: estimate_phrase(session, stage),
            step_offset=sum(stage_record(out, t)["steps"] for t in range(stage)),
            progress=session.progress,
        ).run()
        if ranks.main:
            schedule = stepper.schedule
            record = {
                "stage": stage,
                "domains": list(session.stages[stage]),
                "steps": outcome.steps,
                "tokens": outcome.tokens,
                "shares": dict(zip(schedule.domains, schedule.shares, strict=True)),
                "stopped": list(outcome.stopped),
                "norms": outcome.norms,
                "log_bytes": outcome.log_bytes,
            }
            save_stage(out, stage, stepper.bank, heads, base, record)
            shutil.rmtree(out / "checkpoints", ignore_errors=True)
