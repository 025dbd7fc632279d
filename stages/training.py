"""Train a plan: the one function that ties the room together."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from .._files import slug, write_json
from .._progress import SILENT, Progress
from .._seeding import derive_seed
from ..errors import ConfigError, CorpusError, PlanError, RunError
from .artefacts import (
    export_adapter,
    finished_stages,
    load_frozen,
    save_stage,
    serving_bank,
    stage_record,
    stage_tensors,
)
from .manifest import environment, make_manifest, open_folder, write_config
from .run import Run
from .settings import TrainSettings

if TYPE_CHECKING:
    from torch import nn

    from ..corpora import Corpora
    from ..partition.plan import Plan
    from .bank import FrozenShared
    from .data import Encoder, TokenStore
    from .dry import DryRun
    from .evaluate import Evaluator
    from .heads import Heads
    from .model import Base
    from .ranks import Ranks
    from .step import Stepper

__all__ = ["Session", "Stores", "open_run", "prepared_stage", "train"]


@dataclass(frozen=True)
class Session:
    """Everything that stays the same over a run's stages."""

    base: Base
    corpora: Corpora
    stages: tuple[tuple[str, ...], ...]
    settings: TrainSettings
    encoder: Encoder
    heads: Heads | None
    layout: Literal["flat", "packed", "padded"]
    seed: int
    out: Path
    labels: dict[str, tuple[str, ...]] | None
    progress: Progress

    @classmethod
    def open(
        cls,
        stages: Sequence[Sequence[str]],
        corpora: Corpora,
        *,
        model: str | Path,
        out: Path,
        settings: TrainSettings,
        seed: int,
        task: str | None = None,
        labels: Mapping[str, Sequence[str]] | None = None,
        progress: Progress = SILENT,
    ) -> Session:
        """Load the base model and decide task, labels and layout."""
        from .attention import enable_flat
        from .data import Encoder, label_sets, resolve_task
        from .heads import Heads
        from .model import load_base

        domains = tuple(name for stage in stages for name in stage)
        found: dict[str, tuple[str, ...]] | None = None
        kind = task or resolve_task(corpora, domains, settings.task)
        if kind == "classification":
            shared = settings.head == "shared"
            found = (
                {name: tuple(values) for name, values in labels.items()}
                if labels is not None
                else label_sets(corpora, domains, shared=shared)
            )
            _check_classification(settings)
        progress.say(f"Loading the base model {model}.")
        width = max(len(values) for values in found.values()) if found else 2
        base = load_base(
            model, settings, task="classification" if kind == "classification" else "lm", labels=width, seed=seed
        )
        layout: Literal["flat", "packed", "padded"] = "padded"
        if base.task == "lm":
            if settings.layout in ("auto", "flat") and not settings.compile and enable_flat(base):
                layout = "flat"
            elif settings.layout == "flat":
                raise ConfigError(
                    "train.layout='flat': the attention of this model cannot take it; use auto or padded."
                )
            elif settings.layout == "packed":
                layout = "packed"
        heads = Heads(base, found, shared=settings.head == "shared", seed=seed) if found is not None else None
        encoder = Encoder(base, settings, found)
        return cls(
            base, corpora, tuple(map(tuple, stages)), settings, encoder, heads, layout, seed, Path(out), found, progress
        )

    def evaluator(self, split: str | None = None) -> Evaluator:
        """The evaluator of this run."""
        from .evaluate import Evaluator

        return Evaluator(
            self.base,
            self.corpora,
            self.stages,
            self.settings,
            self.encoder,
            self.heads,
            layout=self.layout,
            seed=self.seed,
            out=self.out,
            split=split,
            progress=self.progress,
        )

    def manifest(self, plan: Plan) -> dict[str, Any]:
        """The value of `run.json`."""
        model = {"name": self.base.name, "fingerprint": self.base.fingerprint}
        return make_manifest(
            plan,
            self.corpora,
            self.settings,
            seed=self.seed,
            task=self.base.task,
            labels=self.labels,
            layout=self.layout,
            model=model,
        )


def _check_classification(settings: TrainSettings) -> None:
    if settings.kl_weight > 0:
        raise ConfigError(
            "train.kl_weight: KL compares next-token distributions, which a classifier has none of; set it to 0."
        )
    if settings.compile:
        raise ConfigError("train.compile: only language models are compiled here; set it to false.")
    if settings.layout in ("flat", "packed"):
        raise ConfigError(f"train.layout={settings.layout!r}: classification needs a row per text; use auto or padded.")


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
    settings = settings or TrainSettings()
    out = Path(out)
    _check(plan, corpora, settings, allow_changed=allow_changed)
    with _threads(settings.threads):
        session = Session.open(
            plan.stages, corpora, model=model, out=out, settings=settings, seed=seed, progress=progress
        )
        if dry_run:
            from .dry import dry

            return dry(session)
        return _train(session, plan, resume=resume)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train(session: Session, plan: Plan, *, resume: bool) -> Run:
    from .card import write_card
    from .checkpoint import clean_leftovers, disk_errors
    from .ranks import Ranks

    out, base = session.out, session.base
    ranks = Ranks(base.device)
    manifest = session.manifest(plan)
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
        if ranks.main:
            evaluator.measure(None)
        for stage in range(finished_stages(out, len(session.stages)), len(session.stages)):
            _train_stage(session, stores, ranks, stage)
            ranks.wait()
            if ranks.main:
                evaluator.measure(stage)
        if ranks.main:
            for stage in range(len(session.stages)):
                evaluator.measure(stage)
            _export_final(session)
            evaluation = evaluator.report()
            write_card(out, manifest, evaluation)
            write_json(out / "run.json", {**manifest, "state": "finished"})
            shutil.rmtree(out / "checkpoints", ignore_errors=True)
        ranks.wait()
    return Run(out)


@dataclass(frozen=True)
class Stores:
    """The tokenised training texts: one store per domain, and those of general and unlabelled text."""

    domains: dict[str, TokenStore]
    validation: dict[str, TokenStore]
    general: tuple[TokenStore, ...]
    unlabelled: tuple[TokenStore, ...]

    @classmethod
    def read(cls, session: Session) -> Stores:
        """Tokenise what the settings ask for."""
        settings, corpora, encoder = session.settings, session.corpora, session.encoder
        names = [name for stage in session.stages for name in stage]
        domains: dict[str, TokenStore] = {}
        with session.progress.task("tokenise", total=len(names), unit="domain") as task:
            for name in names:
                domains[name] = encoder.store(corpora[name], "train", limit=settings.documents)
                task.advance()
        for name, store in domains.items():
            if store.truncated:
                session.progress.warn(
                    f"{name}: {store.truncated} of {store.records} records are longer than {encoder.max_length} tokens "
                    "and were cut; raise train.max_length to keep them whole."
                )
        validation = {}
        if settings.patience is not None:
            limit = settings.eval_documents
            validation = {name: encoder.store(corpora[name], "validation", limit=limit) for name in names}
        general = corpora.general if settings.kl_weight > 0 else ()
        unlabelled = corpora.unlabelled if settings.ssl_weight > 0 else ()
        return cls(
            domains,
            validation,
            tuple(encoder.store(d, "train", limit=settings.documents, task_free=True) for d in general),
            tuple(encoder.store(d, "train", limit=settings.documents, task_free=True) for d in unlabelled),
        )


def _schedule(session: Session, stores: Stores, stage: int, ranks: int = 1) -> Any:
    from .batches import Schedule

    names = session.stages[stage]
    return Schedule.make(
        stage,
        {name: stores.domains[name] for name in names},
        session.settings,
        seed=session.seed,
        unlabelled=stores.unlabelled,
        general=stores.general,
        ranks=ranks,
        window=session.layout == "padded",
        weights={name: session.corpora[name].weight for name in names},
    )


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
            _schedule(session, stores, stage, ranks.count),
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


def _train_stage(session: Session, stores: Stores, ranks: Ranks, stage: int) -> None:
    from .loop import StageLoop
    from .memory import estimate_phrase
    from .ranks import Trackers
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
        trackers = Trackers(settings.trackers, out / "trackers", settings.to_dict(), main=ranks.main)
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
        trackers.close()
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


@contextmanager
def open_run(
    run: Run | str | Path,
    corpora: Corpora,
    *,
    split: str | None = None,
    documents: int | None = None,
    progress: Progress = SILENT,
) -> Iterator[Evaluator]:
    """The evaluator of a finished run, with its base model loaded."""
    from .evaluate import missing_domains

    opened = run if isinstance(run, Run) else Run.load(run)
    manifest = opened.manifest
    stages = opened.stages
    if finished_stages(opened.path, len(stages)) < len(stages):
        raise RunError(f"{opened.path}: not all stages are trained yet; resume the run first.")
    missing_domains(corpora, manifest["domains"], str(opened.path))
    settings = TrainSettings.from_dict(manifest["settings"])
    if documents is not None:
        settings = replace(settings, eval_documents=documents)
    with _threads(settings.threads):
        session = Session.open(
            stages,
            corpora,
            model=manifest["model"]["name"],
            out=opened.path,
            settings=settings,
            seed=manifest["seed"],
            task=manifest["task"],
            labels=manifest["labels"],
            progress=progress,
        )
        if session.base.fingerprint != manifest["model"]["fingerprint"]:
            raise RunError(
                f"{opened.path}: the base model {manifest['model']['name']} is not the one it was trained on; "
                "restore that model."
            )
        yield session.evaluator(split)
