"""The public API: seven functions, each with one command of the same name (`load_corpora`: `kinfold validate`).

>>> import kinfold  # doctest: +SKIP
>>> corpora = kinfold.load_corpora("my-corpora")  # doctest: +SKIP
>>> relations = kinfold.measure(corpora, model="my-model")  # doctest: +SKIP
>>> plan = kinfold.plan(relations, budget={"tokens": 2e6})  # doctest: +SKIP
>>> run = kinfold.train(plan, corpora, model="my-model", out="run")  # doctest: +SKIP
>>> kinfold.report(run)  # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import write_text
from .._progress import SILENT, Progress
from ._given import (
    PathLike,
    find_relations,
    given_corpora,
    given_plan,
    given_relations,
    given_run,
    given_settings,
    where_it_stopped,
)
from .identity import marked, model_print, other_model

if TYPE_CHECKING:
    from ..corpora import Corpora
    from ..metrics import MeasureSettings, Relations
    from ..partition import Plan, PlanSettings
    from ..stages import DryRun, Run, TrainSettings
    from .compare import CompareSettings, Comparison
    from .config import KinfoldConfig

__all__ = ["compare", "evaluate", "find_relations", "load_corpora", "measure", "plan", "report", "train"]


def load_corpora(
    source: PathLike | Mapping[str, Any],
    *,
    strict: bool = False,
    limit: int | None = None,
    validation: float | None = None,
    test: float | None = None,
) -> Corpora:
    """Open the user's domains; nothing is read into memory.

    Parameters
    ----------
    source
        A folder with one file or sub-folder per domain, a YAML manifest, or a mapping `{name: {"path": ...}}`.
    strict
        Whether a bad record stops the work instead of being counted and named.
    limit
        Most records read of each split of a domain, in file order; None for all.
    validation, test
        Shares for the deterministic split by content of records that name no split; None for a tenth each.

    Raises
    ------
    CorpusError
        When a domain cannot be opened; the message names the file and the remedy.
    """
    from ..corpora import load_corpora as load

    shares: Any = {name: value for name, value in (("validation", validation), ("test", test)) if value is not None}
    return load(source if isinstance(source, Mapping) else Path(source), strict=strict, limit=limit, **shares)


def measure(
    corpora: Corpora | PathLike | Mapping[str, Any],
    *,
    tokenizer: PathLike | None = None,
    model: PathLike | None = None,
    out: PathLike | None = None,
    settings: MeasureSettings | Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
    **overrides: Any,
) -> Relations:
    """Measure how the domains relate.

    Parameters
    ----------
    corpora
        What :func:`load_corpora` returns or takes.
    tokenizer
        Folder or hub id; None takes `model`'s, or trains a small one on the corpora.
    model
        Base model whose tokenizer (and, with `embedder="model"`, whose states) are measured with.
    out
        Folder for `relations.npz` and `relations.json`; None writes nothing.
    settings
        A :class:`~kinfold.metrics.MeasureSettings` or a mapping of some of its fields.
    seed, progress
        Seed of every sample and bootstrap draw; where to report.
    **overrides
        Single fields of the settings, such as `bootstrap=200`.
    """
    from ..corpora import require_domains
    from ..metrics import MeasureSettings
    from ..metrics import measure as run
    from .config import needs_model

    given = dataclasses.asdict(settings) if isinstance(settings, MeasureSettings) else dict(settings or {})
    if model is not None and {**given, **overrides}.get("model") is None and needs_model({**given, **overrides}):
        overrides["model"] = os.fspath(model)
    resolved = given_settings(MeasureSettings, settings, overrides, "measure")
    opened = given_corpora(corpora)
    require_domains(opened)
    model_is = model_print(model, progress)
    relations = run(
        opened,
        tokenizer=os.fspath(tokenizer) if tokenizer is not None else None if model is None else os.fspath(model),
        settings=resolved,
        seed=seed,
        progress=progress,
    )
    relations = marked(relations, model_is)
    if out is not None:
        relations.save(Path(out))
    return relations


def plan(
    relations: Relations | PathLike,
    *,
    model: PathLike | None = None,
    train: TrainSettings | Mapping[str, Any] | None = None,
    settings: PlanSettings | Mapping[str, Any] | None = None,
    out: PathLike | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
    **overrides: Any,
) -> Plan:
    """Group the domains into stages, with a proof where one can be had.

    Parameters
    ----------
    relations
        What :func:`measure` returned, or the folder it wrote.
    model, train
        Base model and settings of the training to come, for budgets that follow from them: `gpu_memory` in bytes and
        `adapter_parameters`. The plan keeps the model's fingerprint, and training with another is warned of.
    settings
        A :class:`~kinfold.partition.PlanSettings` or a mapping of some of its fields.
    out
        File for the plan; None writes nothing.
    seed, progress
        Seed of the heuristics and bootstrap; where to report.
    **overrides
        Single fields of the settings, such as `lam=0.5` or `budget={"tokens": 2e6}`.

    Raises
    ------
    InfeasibleError
        When no partition satisfies the constraints; the message names those in conflict.
    """
    from ..partition import PlanSettings, make_plan
    from ..stages.settings import TrainSettings
    from .resources import sized_by_model, typical_lengths

    known = given_relations(relations)
    resolved = sized_by_model(
        given_settings(PlanSettings, settings, overrides, "plan"),
        typical_lengths(known),
        model=model,
        train=given_settings(TrainSettings, train, {}, "train"),
        progress=progress,
    )
    model_is = model_print(model, progress)
    made = marked(make_plan(known, settings=resolved, seed=seed, progress=progress), model_is)
    if out is not None:
        made.save(Path(out))
    return made


def train(
    plan: Plan | PathLike,
    corpora: Corpora | PathLike | Mapping[str, Any],
    *,
    model: PathLike,
    out: PathLike,
    relations: Relations | PathLike | None = None,
    settings: TrainSettings | Mapping[str, Any] | None = None,
    config: KinfoldConfig | None = None,
    seed: int = 0,
    resume: bool = False,
    dry_run: bool = False,
    allow_changed: bool = False,
    progress: Progress = SILENT,
    **overrides: Any,
) -> Run | DryRun:
    """Train a plan stage by stage and evaluate it before and after.

    Parameters
    ----------
    plan
        What :func:`plan` returned, or its file; a file written by hand needs `version` and `stages`.
    corpora
        What :func:`load_corpora` returns or takes.
    model
        Base model: a local folder or a hub id. It stays frozen.
    out
        Run folder. It must not exist yet, unless `resume`.
    relations
        The relations the plan was made from, kept with the run for the report. Where None and `plan` is a file,
        the folder of that file is searched for those whose fingerprint the plan carries.
    settings
        A :class:`~kinfold.stages.TrainSettings` or a mapping of some of its fields. With `replan`, domains are measured
        anew after each stage, as `relations` were, and the remaining stages planned anew.
    config
        The whole configuration, written into the run as `config.yaml`; None writes what is known here.
    seed
        Seed of initialisation, order of batches and corruption.
    resume
        Go on where an interrupted run stopped.
    dry_run
        Only estimate: nothing is trained or written.
    allow_changed
        Train although the corpora differ from those the plan was made for.
    progress
        Where to report.
    **overrides
        Single fields of the settings, such as `lr=1e-4`.
    """
    from ..stages import TrainSettings
    from ..stages import train as run
    from .config import absolute, dump_yaml

    if relations is None and isinstance(plan, (str, os.PathLike)):
        relations = find_relations(plan)
    made = given_plan(plan)
    known = None if relations is None else given_relations(relations)
    out = Path(out)
    ours = not (out / "run.json").exists()
    resolved = given_settings(TrainSettings, settings, overrides, "train")
    opened = given_corpora(corpora)
    for difference in other_model(made, known, model, progress):
        progress.warn(difference)
    if resume and not dry_run and (stopped := where_it_stopped(out, len(made.stages))) is not None:
        progress.say(stopped)
    replanner = None
    if resolved.replan:
        from .replanning import make_replanner

        if known is None and (out / "relations.json").exists():
            known = given_relations(out)  # a run that goes on after its relations were moved
        replanner = make_replanner(
            made, opened, model=os.fspath(model), relations=known, config=config, seed=seed, progress=progress
        )

    def keep() -> None:
        if known is not None:
            known.save(out)
        if config is not None:
            write_text(out / "config.yaml", dump_yaml(absolute(config)))

    try:
        result = run(
            made,
            opened,
            model=os.fspath(model),
            out=out,
            settings=resolved,
            seed=seed,
            resume=resume,
            dry_run=dry_run,
            progress=progress,
            allow_changed=allow_changed,
            replanner=replanner,
        )
    except BaseException:
        # What belongs to the run stays with it; on a full disk this fails as well, and is not what must be told.
        if ours and not dry_run and (out / "run.json").exists():
            with contextlib.suppress(OSError):
                keep()
        raise
    if not dry_run:
        keep()
    return result


def evaluate(
    run: Run | PathLike,
    corpora: Corpora | PathLike | Mapping[str, Any],
    *,
    split: str = "test",
    progress: Progress = SILENT,
    **options: Any,
) -> dict[str, Any]:
    """Evaluate a trained run again, on another split or other texts, and write its `evaluation.json`.

    Parameters
    ----------
    run
        What :func:`train` returned, or its folder.
    corpora
        What :func:`load_corpora` returns or takes.
    split
        "train", "validation" or "test".
    progress
        Where to report.
    **options
        Handed on to :func:`kinfold.stages.evaluate_run`.
    """
    from ..stages import evaluate_run

    result: dict[str, Any] = evaluate_run(
        given_run(run), given_corpora(corpora), split=split, progress=progress, **options
    )
    return result


def compare(
    corpora: Corpora | PathLike | Mapping[str, Any],
    *,
    model: PathLike,
    out: PathLike,
    relations: Relations | PathLike | None = None,
    plan: Plan | PathLike | None = None,
    settings: CompareSettings | Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
    **options: Any,
) -> Comparison:
    """Train a plan beside its rivals at equal tokens over several seeds, and say whether it was worth it.

    Parameters
    ----------
    corpora
        What :func:`load_corpora` returns or takes.
    model
        Base model: a local folder or a hub id.
    out
        Folder for the results. Running again in the same folder goes on: what is there is not trained again.
    relations, plan
        Made where None.
    settings
        A :class:`~kinfold.app.compare.CompareSettings` or a mapping of some of its fields.
    seed, progress
        Seed of relations, plan and intervals; where to report.
    **options
        Handed on: `train`, `plan_settings` and `measure_settings`, the settings of the other rooms; single fields of
        the settings such as `methods=("joint", "random")`.
    """
    from .compare import CompareSettings
    from .compare import compare as run

    rooms = {name: options.pop(name) for name in ("train", "plan_settings", "measure_settings") if name in options}
    return run(
        given_corpora(corpora),
        model=os.fspath(model),
        out=Path(out),
        relations=None if relations is None else given_relations(relations),
        plan=None if plan is None else given_plan(plan),
        settings=given_settings(CompareSettings, settings, options, "compare"),
        seed=seed,
        progress=progress,
        **rooms,
    )


def report(
    run: Run | PathLike,
    out: PathLike | None = None,
    *,
    plan: Plan | PathLike | None = None,
    figures: PathLike | None = None,
) -> Path:
    """Write the report: one HTML page that needs no network.

    Parameters
    ----------
    run
        A run or its folder; or, before any training, a folder of relations.
    out
        The page; None writes `report.html` into the folder.
    plan
        With relations only: the plan made from them. None looks for `plan.json` in or beside their folder.
    figures
        Folder for the same pictures as SVG and PNG; None writes none.

    Returns
    -------
    Path
        The page.
    """
    from .report import write_fitting_report

    return write_fitting_report(run, out, plan=plan, figures=figures)
