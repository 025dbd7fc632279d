"""Re-planning between stages: when it is due, what it is asked, and how its answer is kept.

This room trains plans and measures nothing, so the answer comes from a callable that whoever starts the training hands
in (`kinfold.train` does); what it must look like is :class:`Replanner`. Its answer is written in one step before the
next stage begins and never asked for again: a run killed while it is being found asks again and, since a replanner is
deterministic, hears the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .._files import atomic_dir, digest, file_digest, read_json, write_json
from .._progress import SILENT, Progress
from ..errors import ConfigError, PlanError, RunError
from .artefacts import serving_bank, stage_folder

if TYPE_CHECKING:
    from ..metrics.relations import Relations
    from ..partition.plan import Plan
    from ..partition.replanning import Replan
    from .ranks import Ranks
    from .session import Session

__all__ = ["ReplanRequest", "Replanner", "plan_in_use", "replan_records", "replanned", "required"]

_VERSION = 1


@dataclass(frozen=True)
class ReplanRequest:
    """What a replanner is asked after a stage.

    Attributes
    ----------
    plan
        The plan in use.
    done
        Stages trained so far; these must stay as they are.
    model
        The base model's inner network, in evaluation mode, with the shared adapters of all trained stages active and
        no domain's own.
    tokenizer
        Its tokenizer.
    fingerprint
        Identity of base model and adapters together.
    progress
        Where to report.
    """

    plan: Plan
    done: int
    model: Any
    tokenizer: Any
    fingerprint: str
    progress: Progress = SILENT


class Replanner(Protocol):
    """Measures anew and plans the rest; deterministic, and called on every rank at once."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything its answers depend on besides the request; a run is resumed only with the same."""

    def __call__(self, request: ReplanRequest) -> tuple[Replan, Relations]:
        """The plan to go on with, why, and the relations that say so."""


def required(replanner: Replanner | None) -> Replanner:
    """The replanner of a run with `train.replan` on.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if replanner is None:
        raise ConfigError(
            "train.replan: only kinfold train (kinfold.train) measures and plans between stages; set it to false here, "
            "or give stages.train a replanner."
        )
    return replanner


def _root(out: Path) -> Path:
    return out / "replans"


def replan_records(out: Path) -> list[dict[str, Any]]:
    """The `replan.json` of each re-plan of a run, in order."""
    if not _root(out).is_dir():
        return []
    found = sorted(path for path in _root(out).glob("*/replan.json") if not path.parent.name.startswith("."))
    return [read_json(path, error=RunError) for path in found]


def plan_in_use(out: Path, given: Plan) -> Plan:
    """The plan that the last re-plan of the run in `out` settled on, or the given one where there was none."""
    from ..partition.plan import Plan

    records = replan_records(out)
    return Plan.load(_root(out) / f"{records[-1]['stage']:02d}" / "plan.json") if records else given


def replanned(session: Session, plan: Plan, stage: int, replanner: Replanner, ranks: Ranks) -> Plan:
    """The plan to go on with after stage number `stage` (from 0): asked for once, then read from disk.

    Raises
    ------
    PlanError
        If the answer moves what is trained, or is not of the same domains.
    """
    import torch

    from ..partition.plan import Plan

    if sum(map(len, plan.stages[stage + 1 :])) < 2:
        return plan  # one domain alone can only be trained alone
    folder = _root(session.out) / f"{stage:02d}"
    # The first rank decides for all: on a shared disk that lags, one that sees no file yet would measure alone and wait
    # for ever.
    if not ranks.sum(torch.tensor(float(ranks.main and (folder / "replan.json").exists()), device=ranks.device)):
        answer, relations = _ask(session, plan, stage, replanner)
        if ranks.main:
            _keep(folder, plan, stage, answer, relations)
    ranks.wait()
    used = Plan.load(folder / "plan.json")
    record = read_json(folder / "replan.json", error=RunError)
    session.progress.say(f"Re-planned after stage {stage + 1}: {record['why']}.")
    return used


def _ask(session: Session, plan: Plan, stage: int, replanner: Replanner) -> tuple[Replan, Relations]:
    base, out, done = session.base, session.out, stage + 1
    session.progress.say(f"Measuring the domains on the model as stage {done} left it.")
    bank = serving_bank(base, out, session.stages[:done], session.settings, session.heads)
    factors = [file_digest(stage_folder(out, t) / "factors.safetensors") for t in range(done)]
    base.model.eval()
    model: Any = base.model
    try:
        with bank.serve(None):
            request = ReplanRequest(
                plan=plan,
                done=done,
                model=model.base_model,
                tokenizer=base.tokenizer,
                fingerprint=f"adapted:{digest(base.fingerprint, factors)}",
                progress=session.progress,
            )
            answer, relations = replanner(request)
    finally:
        bank.detach()
    if answer.plan.stages[:done] != plan.stages[:done] or sorted(answer.plan.domains) != sorted(plan.domains):
        raise PlanError(
            f"replan: the answer after stage {done} moves what is trained or has other domains; mend the replanner."
        )
    return answer, relations


def _keep(folder: Path, before: Plan, stage: int, answer: Replan, relations: Relations) -> None:
    """Plan, relations and reason in one step."""
    from dataclasses import replace

    record = {
        "version": _VERSION,
        "stage": stage,
        **answer.to_dict(),
        "before": [list(names) for names in before.stages],
        "stages": [list(names) for names in answer.plan.stages],
        "embedder": relations.fingerprints.get("embedder"),
        "relations": relations.digest,
    }
    with atomic_dir(folder) as made:
        relations.save(made)
        # Without its seconds, the file is the same for the same seed.
        replace(answer.plan, seconds=0.0).save(made / "plan.json")
        write_json(made / "replan.json", record)
