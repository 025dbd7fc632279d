"""Train a plan: the one function that ties the room together."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from .._files import slug, write_json
from .._progress import SILENT, Progress
from ..errors import CorpusError, PlanError
from .artefacts import export_adapter, finished_stages, serving_bank
from .manifest import check_folder, environment, open_folder, write_config
from .replanning import Replanner, plan_in_use, replanned, required
from .run import Run
from .session import Session, open_run, threads
from .settings import TrainSettings
from .staging import prepared_stage, train_stage
from .stores import Stores

if TYPE_CHECKING:
    from ..corpora import Corpora
    from ..partition.plan import Plan
    from .dry import DryRun
    from .evaluate import Evaluator
    from .ranks import Ranks, Trackers

__all__ = ["Session", "Stores", "open_run", "prepared_stage", "train"]


def _check(plan: Plan, corpora: Corpora, settings: TrainSettings, *, allow_changed: bool) -> None:
    """Everything that can be refused before a model is loaded."""
    from ..partition.fingerprints import check_fingerprints
    from .evaluate import missing_domains

    if not plan.stages or not all(plan.stages):
        raise PlanError("plan: it has an empty stage, or none at all; plan again.")
    domains = [name for stage in plan.stages for name in stage]
    missing_domains(corpora, domains, "plan")
    for name in domains:
        if corpora[name].general or corpora[name].unlabelled:
            raise PlanError(
                f"plan: {name} is general or unlabelled text, which is never trained on as a domain; plan again."
            )
    if not allow_changed and plan.fingerprints.get("corpora"):
        prints = {domain.name: domain.fingerprint for domain in corpora.planned}
        check_fingerprints(plan, {"corpora": prints})
    if settings.kl_weight > 0 and not corpora.general:
        raise CorpusError(
            "train.kl_weight is on, but the corpora hold no general text; mark a domain `general: true`, or set "
            "train.kl_weight to 0."
        )


def train(
    plan: Plan,
    corpora: Corpora,
    *,
    model: str | Path,
    out: str | Path,
    settings: TrainSettings | None = None,
    seed: int = 0,
    resume: bool = False,
    dry_run: bool = False,
    progress: Progress = SILENT,
    allow_changed: bool = False,
    replanner: Replanner | None = None,
) -> Run | DryRun:
    """Train `plan` on `corpora`, stage by stage, and evaluate before and after each stage.

    Parameters
    ----------
    plan
        Stages in training order.
    corpora
        Holds every domain of the plan; general text feeds the KL term and the retention figure, unlabelled text the
        denoising term.
    model
        Base model, a folder or a hub id. It stays frozen.
    out
        Run folder, new or (with `resume`) of an interrupted run.
    settings
        See :class:`TrainSettings`.
    seed
        Everything random follows from it: same seed, same threads, same bits on a CPU.
    resume
        Go on after an interruption; a finished run is left as it is.
    dry_run
        Train and write nothing; return what would happen.
    progress
        Where to report.
    allow_changed
        Accept corpora that differ from those the plan was made for.
    replanner
        With `settings.replan`: what plans the remaining stages anew after each stage.

    Returns
    -------
    Run or DryRun

    Raises
    ------
    PlanError, CorpusError, ModelError, ConfigError, RunError, FingerprintError
        If something brought along cannot be used; nothing has been written then but an empty run folder at most.
    TrainingError
        If training has to stop; the message names the last good checkpoint.
    """
    from .ranks import check_trackers

    settings = settings or TrainSettings()
    out = Path(out)
    if not dry_run:
        check_trackers(settings.trackers)
        if os.environ.get("RANK", "0") == "0":  # before the model is read; other ranks may see what this one wrote
            check_folder(out, resume=resume)
            if resume and not (out / "run.json").exists():
                progress.warn(f"{out}: holds no run to go on with; training begins anew.")
    asked = required(replanner) if settings.replan and not dry_run else None
    _check(plan, corpora, settings, allow_changed=allow_changed)
    with threads(settings.threads):
        session = Session.open(
            plan.stages, corpora, model=model, out=out, settings=settings, seed=seed, progress=progress
        )
        if dry_run:
            from .dry import dry

            # What training would refuse, a dry run refuses too: an empty split to evaluate on, for one.
            session.evaluator()
            return dry(session)
        return _train(session, plan, asked, resume=resume)


def _train(session: Session, plan: Plan, replanner: Replanner | None, *, resume: bool) -> Run:
    from .card import write_card
    from .checkpoint import clean_leftovers, disk_errors
    from .ranks import Ranks, Trackers

    out, base = session.out, session.base
    ranks = Ranks(base.device)
    manifest = session.manifest(plan, None if replanner is None else replanner.identity)
    # Read before anything is written, so that an empty split leaves no half-made run behind.
    evaluator = session.evaluator()
    stores = Stores.read(session)
    with disk_errors(out, out / "checkpoints"):
        if ranks.main:
            resumed = open_folder(out, manifest, resume=resume)
            if resumed:
                clean_leftovers(out)
            else:
                plan.save(out / "plan.json")
                write_config(out, base.name, session.seed, session.settings)
                write_json(out / "environment.json", environment(base.device.type))
        ranks.wait()
        if Run(out).finished:
            session.progress.say(f"{out}: finished already.")
            return Run(out)
        trackers = Trackers(
            session.settings.trackers,
            out / "trackers",
            session.settings.to_dict(),
            main=ranks.main,
            name=out.resolve().name,
            progress=session.progress,
        )
        try:
            session = _train_stages(session, plan, replanner, evaluator, stores, ranks, trackers)
        finally:
            trackers.close()
        if ranks.main:
            evaluator.follow(session.stages)
            for number in range(len(session.stages)):
                evaluator.measure(number)
            _export_final(session)
            evaluation = evaluator.report()
            finished = {**manifest, "state": "finished"}
            if replanner is not None:
                finished["trained"] = [list(names) for names in session.stages]
            write_card(out, finished, evaluation)
            write_json(out / "run.json", finished)
            shutil.rmtree(out / "checkpoints", ignore_errors=True)
        ranks.wait()
    return Run(out)


def _train_stages(
    session: Session,
    plan: Plan,
    replanner: Replanner | None,
    evaluator: Evaluator,
    stores: Stores,
    ranks: Ranks,
    trackers: Trackers,
) -> Session:
    """Train what is not on disk yet, planning anew in between where asked; the session with the stages as trained."""
    current = plan_in_use(session.out, plan)
    session = session.following(current)
    if ranks.main:
        evaluator.measure(None)
    stage = finished_stages(session.out, len(session.stages))
    while stage < len(session.stages):
        if replanner is not None and stage > 0:
            current = replanned(session, current, stage - 1, replanner, ranks)
            session = session.following(current)
            evaluator.follow(session.stages)
        train_stage(session, stores, ranks, stage, trackers)
        ranks.wait()
        if ranks.main:
            evaluator.measure(stage)
        stage += 1
    return session


def _export_final(session: Session) -> None:
    """Each domain's adapter on the final backbone."""
    bank = serving_bank(session.base, session.out, session.stages, session.settings, session.heads)
    try:
        for name in bank.domains:
            path = session.out / "adapters" / slug(name)
            if not (path / "adapter_config.json").exists():
                export_adapter(bank, name, path, session.base, session.heads)
    finally:
        bank.detach()
