"""Is the plan worth it? Train it beside its rivals on the same texts, over several seeds, and say how sure we are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._progress import SILENT, Progress
from ...errors import ConfigError, PlanError, RelationsError, RunError, TrainingError
from .result import Comparison
from .settings import CompareSettings

if TYPE_CHECKING:
    from ...corpora import Corpora
    from ...metrics import MeasureSettings, Relations
    from ...partition import Plan, PlanSettings
    from ...stages import TrainSettings
    from ._queue import Job
    from ._variants import Variant

__all__ = ["compare"]


def compare(
    corpora: Corpora,
    *,
    model: str | os.PathLike[str],
    out: str | os.PathLike[str],
    relations: Relations | None = None,
    plan: Plan | None = None,
    settings: CompareSettings | None = None,
    train: TrainSettings | None = None,
    plan_settings: PlanSettings | None = None,
    measure_settings: MeasureSettings | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    jobs: int | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Comparison:
    """Train the plan and its rivals at equal tokens over several seeds and compare them pair by pair.

    Every run sees each domain's texts equally often (`train.epochs`), so methods differ only in what is grouped, in
    which order, and what is shared. Finished runs are kept as records; the same call in the same folder skips them,
    and goes on with an interrupted one from its checkpoint.

    Parameters
    ----------
    corpora
        What :func:`kinfold.load_corpora` returns.
    model
        Base model, a folder or a hub id.
    out
        Folder of the comparison.
    relations
        Measured relations; where None they are measured when a method needs them.
    plan
        The plan to be judged; where None it is made from the relations.
    settings
        See :class:`CompareSettings`.
    train, plan_settings, measure_settings
        Settings of the rooms, the same for every method.
    methods, seeds, jobs
        In place of those of `settings`.
    seed
        Seed of measuring, planning, random partitions and intervals; training seeds are `seeds`.
    progress
        Where to report.

    Raises
    ------
    ConfigError, CorpusError, PlanError, ModelError, RunError
        When something brought along cannot be used.
    """
    from ...corpora import require_domains
    from ...metrics import MeasureSettings
    from ...partition import PlanSettings
    from ...stages import TrainSettings
    from ...stages.manifest import roles
    from ...stages.model import model_fingerprint
    from ._conditions import condition
    from ._grid import grid_summary, grid_variants, shortened
    from ._queue import Job, train_all
    from ._variants import variants

    settings = _resolved(settings or CompareSettings(), methods, seeds, jobs)
    train = train or TrainSettings()
    plan_settings = plan_settings or PlanSettings()
    _check(train)
    require_domains(corpora)
    folder, name = Path(out), os.fspath(model)
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; name a folder for the comparison.")
    model_print = model_fingerprint(name)
    notes: list[str] = []
    if relations is None and (plan is None or _need_relations(settings)):
        relations = _measured(corpora, name, folder, measure_settings or MeasureSettings(), seed, progress)
    if plan is None:
        assert relations is not None  # measured above
        plan, plan_settings, notes = _planned(relations, plan_settings, seed, progress)
    _check_plan(plan, corpora)
    runs = variants(plan, relations, settings=settings, train=train, plan_settings=plan_settings, seed=seed)
    squares = grid_variants(plan, settings=settings, train=train)
    harder = {}
    if settings.conditions:
        with progress.task("making harder corpora", total=len(settings.conditions)) as task:
            for kind, level in settings.conditions:
                harder[kind, level] = condition(
                    corpora, kind, level, folder / "conditions", seed=seed, documents=train.documents
                )
                task.advance()

    def jobs_of(some: Sequence[Variant], texts: Corpora, about: str = "") -> list[Job]:
        prints = {"corpora": texts.fingerprints, "roles": roles(texts), "model": model_print}
        return [Job(run, texts, run.key(prints), about) for run in some]

    main = jobs_of(runs, corpora)
    grid = jobs_of(squares, corpora)
    robust = {(kind, level): jobs_of(runs, texts, f"{kind} {level:g}") for (kind, level), texts in harder.items()}
    everything = [*main, *grid, *(job for some in robust.values() for job in some)]
    records, stopped = train_all(everything, model=name, folder=folder, settings=settings, progress=progress)
    made_of = {
        "fingerprints": {"corpora": corpora.fingerprints, "model": model_print},
        "train": train.to_dict(),
        "plan_fingerprints": dict(plan.fingerprints),
        "model": name,
        "seed": seed,
    }
    value = _summary(main, records, stopped, settings=settings, plan=plan.to_dict(), made_of=made_of, seed=seed)
    value["warnings"] = [*notes, *value["warnings"]]
    value["grid"] = grid_summary(grid, records, settings) if grid else None
    value["conditions"] = [
        {"kind": kind, "level": level, **shortened(_summary(some, records, stopped, settings=settings, seed=seed))}
        for (kind, level), some in robust.items()
    ]
    comparison = Comparison(folder, value)
    comparison.save()
    left = folder / "runs"
    if not settings.keep_runs and left.is_dir() and not any(left.iterdir()):
        left.rmdir()
    return comparison


def _summary(
    jobs: Sequence[Job],
    records: Mapping[str, Mapping[str, Any]],
    stopped: Mapping[str, str],
    *,
    settings: CompareSettings,
    seed: int,
    plan: Mapping[str, Any] | None = None,
    made_of: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    from ._summary import summarise

    done = [(job.variant, records[job.key]) for job in jobs if job.key in records]
    failed: dict[str, list[str]] = {}
    for job in jobs:
        if job.key in stopped:
            failed.setdefault(job.variant.method, []).append(stopped[job.key])
    if not any(variant.method == "plan" for variant, _ in done):
        raise TrainingError(f"compare: every run of the plan had to stop; the first: {failed['plan'][0]}")
    return summarise(done, failed, settings=settings, plan=plan or {}, made_of=made_of or {}, seed=seed)


def _resolved(
    settings: CompareSettings, methods: Sequence[str] | None, seeds: Sequence[int] | None, jobs: int | None
) -> CompareSettings:
    given = {"methods": methods, "seeds": seeds, "jobs": jobs}
    changed = {
        name: value if isinstance(value, (str, int)) else tuple(value)
        for name, value in given.items()
        if value is not None
    }
    return replace(settings, **changed)  # type: ignore[arg-type]  # checked where they are made


def _check(train: TrainSettings) -> None:
    """Refuse what would give the methods different amounts of text."""
    for name in ("tokens_per_stage", "max_steps", "patience"):
        if getattr(train, name) is not None:
            raise ConfigError(
                f"train.{name}={getattr(train, name)!r}: would give methods with more stages more or less text, so a "
                "comparison cannot use it; leave it out and set train.epochs (or train.documents) instead."
            )


def _planned(
    relations: Relations, settings: PlanSettings, seed: int, progress: Progress
) -> tuple[Plan, PlanSettings, list[str]]:
    """The plan to be judged, the settings it was made with, and what is to be said of them."""
    from ...partition import make_plan

    plan = make_plan(relations, settings=settings, seed=seed, progress=progress)
    if settings.stages != "fewest" or len(plan.stages) > 1 or len(plan.domains) < 2:
        return plan, settings, []
    # One stage beside one stage would answer nothing; whether more of them pay is what is asked here.
    free = replace(settings, stages="free")
    note = "By default the plan is one stage for all, which is 'joint'; compared is the plan with plan.stages = free."
    progress.say(f"compare: {note}")
    return make_plan(relations, settings=free, seed=seed, progress=progress), free, [note]


def _check_plan(plan: Plan, corpora: Corpora) -> None:
    planned = {domain.name for domain in corpora.planned}
    strange = sorted(set(plan.domains) - planned)
    if strange:
        raise PlanError(
            f"compare: the plan trains {', '.join(strange)}, which the corpora do not hold as a domain; "
            f"they hold {', '.join(sorted(planned))}."
        )
    if len(plan.domains) < 2:
        raise PlanError("compare: the plan has one domain only, so there is nothing to compare; plan two or more.")


def _need_relations(settings: CompareSettings) -> bool:
    free = ("plan", "joint", "independent", "one-per-domain", "random")
    return any(name not in free and not name.startswith("no-") for name in settings.methods)


def _measured(
    corpora: Corpora, model: str, folder: Path, settings: MeasureSettings, seed: int, progress: Progress
) -> Relations:
    """Relations kept in the folder from an earlier call, if they are of these corpora; measured anew otherwise."""
    from ...metrics import Relations, measure

    kept = folder / "relations"
    if (kept / "relations.json").exists():
        try:
            relations = Relations.load(kept)
        except RelationsError:
            relations = None
        prints = {domain.name: domain.fingerprint for domain in corpora.planned}
        if relations is not None and relations.seed == seed and relations.fingerprints.get("corpora") == prints:
            return relations
    relations = measure(corpora, tokenizer=model, settings=settings, seed=seed, progress=progress)
    relations.save(kept)
    return relations
