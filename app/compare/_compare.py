"""Is the plan worth it? Train it beside its rivals on the same texts, over several seeds, and say how sure we are."""

from __future__ import annotations

import os
import shutil
import time
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
    from ._runs import Worker
    from ._variants import Variant

__all__ = ["compare"]

_PAUSE = 0.2


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
    from ...partition import PlanSettings, make_plan
    from ...stages import TrainSettings
    from ...stages.model import model_fingerprint
    from ._summary import summarise
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
    if relations is None and (plan is None or _need_relations(settings)):
        relations = _measured(corpora, name, folder, measure_settings or MeasureSettings(), seed, progress)
    if plan is None:
        assert relations is not None  # measured above
        plan = make_plan(relations, settings=plan_settings, seed=seed, progress=progress)
    _check_plan(plan, corpora)
    runs = variants(plan, relations, settings=settings, train=train, plan_settings=plan_settings, seed=seed)
    prints = {"corpora": corpora.fingerprints, "model": model_print}
    keys = [run.key(prints) for run in runs]
    failed = _train_all(runs, keys, corpora, name, folder, settings, progress)
    done = []
    stopped: dict[str, list[str]] = {}
    for run, key in zip(runs, keys, strict=True):
        record = _record(folder, key)
        if record is not None:
            done.append((run, record))
        else:
            stopped.setdefault(run.method, []).append(failed[key])
    if not any(run.method == "plan" for run, _ in done):
        raise TrainingError(f"compare: every run of the plan had to stop; the first: {stopped['plan'][0]}")
    made_of = {
        "fingerprints": prints,
        "train": train.to_dict(),
        "plan_fingerprints": dict(plan.fingerprints),
        "model": name,
        "seed": seed,
    }
    value = summarise(done, stopped, settings=settings, plan=plan.to_dict(), made_of=made_of, seed=seed)
    comparison = Comparison(folder, value)
    comparison.save()
    if not settings.keep_runs and (folder / "runs").is_dir() and not any((folder / "runs").iterdir()):
        shutil.rmtree(folder / "runs")
    return comparison


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


def _record(folder: Path, key: str) -> dict[str, Any] | None:
    from ._runs import finished

    return finished(folder, key)


def _train_all(
    runs: Sequence[Variant],
    keys: Sequence[str],
    corpora: Corpora,
    model: str,
    folder: Path,
    settings: CompareSettings,
    progress: Progress,
) -> dict[str, str]:
    """Train what has no record yet; returns why runs had to stop, by key."""
    waiting = {key: run for run, key in zip(runs, keys, strict=True) if _record(folder, key) is None}
    total = len(set(keys))
    if len(waiting) < total:
        progress.say(f"{folder}: {total - len(waiting)} of {total} runs are finished already.")
    failed: dict[str, str] = {}
    with progress.task("comparing", total=total, unit="runs") as task:
        task.advance(total - len(waiting))
        if settings.jobs == 1:
            for key, run in waiting.items():
                task.update(note=_called(run))
                _train_here(run, key, corpora, model, folder, settings, progress, failed)
                task.advance()
        else:
            _train_apart(waiting, corpora, model, folder, settings, task, failed)
    for key, why in failed.items():
        progress.warn(f"run {key[:8]} had to stop: {why}")
    return failed


def _called(run: Variant) -> str:
    return f"{run.method}, seed {run.seed}" + (f", draw {run.draw + 1}" if run.draw else "")


def _train_here(
    run: Variant,
    key: str,
    corpora: Corpora,
    model: str,
    folder: Path,
    settings: CompareSettings,
    progress: Progress,
    failed: dict[str, str],
) -> None:
    from ._runs import train_one

    try:
        train_one(
            run.stages,
            run.settings,
            run.seed,
            key=key,
            corpora=corpora,
            model=model,
            folder=folder,
            keep=settings.keep_runs,
            progress=progress,
        )
    except TrainingError as fault:
        # A rival that diverges is a result, not the end of the comparison.
        failed[key] = str(fault)


def _train_apart(
    waiting: Mapping[str, Variant],
    corpora: Corpora,
    model: str,
    folder: Path,
    settings: CompareSettings,
    task: Any,
    failed: dict[str, str],
) -> None:
    from ._runs import start_worker

    threads = max(1, (os.cpu_count() or 1) // settings.jobs)
    queue = list(waiting.items())
    working: list[Worker] = []
    try:
        while queue or working:
            while queue and len(working) < settings.jobs:
                key, run = queue.pop(0)
                task.update(note=_called(run))
                working.append(
                    start_worker(
                        run,
                        key=key,
                        corpora=corpora,
                        model=model,
                        folder=folder,
                        keep=settings.keep_runs,
                        threads=threads,
                    )
                )
            for worker in list(working):
                said = worker.result()
                if said is not None:
                    working.remove(worker)
                    if "failed" in said:
                        failed[worker.key] = str(said["failed"])
                    task.advance()
            time.sleep(_PAUSE)
    finally:
        for worker in working:
            worker.stop()
