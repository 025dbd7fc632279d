"""What a training would do, without doing it: stages, steps, memory, time, and samples as the model sees them."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batches import Item
    from .session import Session
    from .stores import Stores

__all__ = ["DryRun", "Sample", "dry"]

_SHOWN = 48  # tokens of a sample


@dataclass(frozen=True)
class Sample:
    """The beginning of one training document.

    Attributes
    ----------
    domain, kind
        Where it is from; "task", "ssl" or "general".
    shown
        The tokens the model reads, as text pieces.
    paid
        Whether each of them is paid for as a target.
    """

    domain: str
    kind: str
    shown: tuple[str, ...]
    paid: tuple[bool, ...]


@dataclass(frozen=True)
class DryRun:
    """What :func:`~kinfold.stages.train` would do.

    Attributes
    ----------
    stages
        Per stage: domains, steps, tokens, share of each domain, seconds (from two measured steps), memory (bytes).
    seconds
        All stages together, evaluation left out.
    memory
        Peak bytes of the largest stage, and its parts.
    samples
        A few documents as the model will see them.
    """

    task: str
    layout: str
    model: str
    stages: tuple[dict[str, Any], ...]
    tokens: int
    steps: int
    seconds: float
    memory: dict[str, int]
    samples: tuple[Sample, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def dry(session: Session) -> DryRun:
    """Lay the run out, estimate its memory, and time two steps of the first stage; nothing is written."""
    from .memory import estimate_stage
    from .stores import Stores, schedule_of

    stores = Stores.read(session)
    schedules = [schedule_of(session, stores, stage) for stage in range(len(session.stages))]
    per_token = _seconds_per_token(session, stores)
    rows: list[dict[str, Any]] = []
    peak: dict[str, int] = {}
    for stage, schedule in enumerate(schedules):
        tokens = schedule.total_tokens
        memory = estimate_stage(session, stores, stage).to_dict()
        if memory["total"] > peak.get("total", -1):
            peak = memory
        rows.append(
            {
                "domains": list(schedule.domains),
                "steps": schedule.steps,
                "tokens": tokens,
                "shares": dict(zip(schedule.domains, schedule.shares, strict=True)),
                "seconds": tokens * per_token,
                "memory": memory["total"],
            }
        )
    return DryRun(
        task=session.base.task,
        layout=session.layout,
        model=session.base.name,
        stages=tuple(rows),
        tokens=sum(row["tokens"] for row in rows),
        steps=sum(row["steps"] for row in rows),
        seconds=sum(row["seconds"] for row in rows),
        memory=peak,
        samples=_samples(session, schedules[0]),
    )


def _seconds_per_token(session: Session, stores: Stores) -> float:
    """Seconds per domain token of a training step, all terms included: the faster of two steps on the first stage."""
    from .ranks import Ranks
    from .staging import prepared_stage

    times = []
    with prepared_stage(session, stores, Ranks(session.base.device), 0, frozen=()) as stepper:
        stepper.base.model.train()
        for number in range(min(2, stepper.schedule.steps)):
            began = time.perf_counter()
            result = stepper(number)
            times.append((time.perf_counter() - began) / max(result.tokens, 1))
        stepper.base.model.eval()
    return min(times)


def _samples(session: Session, schedule: Any) -> tuple[Sample, ...]:
    """The first document of each kind and domain in the first step."""
    from .batches import GENERAL, SSL
    from .collate import corrupted_items

    kinds: dict[int, str] = {0: "task", SSL: "ssl", GENERAL: "general"}
    bins = schedule.step(0)
    corrupted = corrupted_items(
        bins, session.base, session.settings, seed=session.seed, max_length=session.encoder.max_length
    )
    seen: dict[tuple[str, int], Item] = {}
    for items in bins:
        for item in items:
            seen.setdefault((item.store.domain, item.kind), item)
    samples = []
    for (domain, kind), item in sorted(seen.items(), key=lambda entry: (entry[0][1], entry[0][0]))[:8]:
        begin, end = item.store.offsets[item.piece], item.store.offsets[item.piece + 1]
        shown, paid = item.store.tokens[begin:end].astype("int64"), item.store.pays[begin:end]
        if kind == SSL and corrupted is not None:
            shown, labels = corrupted[item]
            paid = labels >= 0
        pieces = tuple(session.base.tokenizer.decode([int(token)]) for token in shown[:_SHOWN])
        samples.append(Sample(domain, kinds[kind], pieces, tuple(bool(flag) for flag in paid[:_SHOWN])))
    return tuple(samples)
