"""The demo from end to end: harvest, base model, measure, plan, train, evaluate, report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..._files import digest, read_json, write_json
from ..._progress import SILENT, Progress
from ...errors import InputError
from .base import base_model, cache_folder
from .harvesting import harvest
from .settings import DemoSettings

if TYPE_CHECKING:
    from ...corpora import Corpora
    from ...metrics import Relations
    from ...partition import Plan
    from ...stages import Run

__all__ = ["DemoResult", "run_demo"]

_MARK = "demo.json"
T = TypeVar("T")


@dataclass(frozen=True)
class DemoResult:
    """Where everything is, and what came of it.

    Attributes
    ----------
    out, run, report, plan, base : Path
        The demo's folder; in it the run folder, the page and the plan; and the base model in the cache.
    seconds : float
        Wall-clock time of this call.
    steps : dict of str to float
        The same, by step.
    lines : tuple of str
        What to tell the user at the end.
    domains : dict of str to dict
        For each domain the stage (from 1), and the test loss (nats a token) before and after, with the change.
    """

    out: Path
    run: Path
    report: Path
    plan: Path
    base: Path
    seconds: float
    steps: dict[str, float]
    lines: tuple[str, ...]
    domains: dict[str, dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        paths = {name: str(getattr(self, name)) for name in ("out", "run", "report", "plan", "base")}
        return {**paths, "seconds": self.seconds, "steps": self.steps, "domains": self.domains}


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    settings: DemoSettings | None = None,
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> DemoResult:
    """Run the whole demo into the folder `out`; called again after an interruption, it goes on where it stopped.

    Parameters
    ----------
    out : Path
        New or empty, or the folder of an earlier demo with the same seed and settings.
    seed : int
        Seed of everything random. The same seed gives the same plan and the same losses on one machine.
    settings : DemoSettings, optional
        `DemoSettings.small()` is done in under a minute.
    cache : Path, optional
        Where the base model is kept; see :func:`~kinfold.app.demo.base.cache_folder`.
    progress : Progress
        Where to report.

    Raises
    ------
    InputError
        If `out` holds something else, or a demo with another seed or other settings.
    CorpusError
        If too little text is installed.
    """
    from ..api import load_corpora, report

    settings = settings or DemoSettings()
    out = Path(out)
    _claim(out, seed, settings)
    steps: dict[str, float] = {}
    begin = time.perf_counter()

    def timed(name: str, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = work()
        steps[name] = round(time.perf_counter() - start, 2)
        return result

    folder = out / "corpora"
    if not folder.is_dir():
        timed("harvest", lambda: harvest(folder, progress, settings=settings.harvest))
    corpora = load_corpora(folder)
    base = timed("base", lambda: _base(corpora, settings, seed, cache_folder(cache), progress))
    relations = timed("measure", lambda: _relations(out / "relations", corpora, base, settings, seed, progress))
    plan = timed("plan", lambda: _plan(out / "plan.json", relations, settings, seed, progress))
    run = timed("train", lambda: _train(out / "run", plan, relations, corpora, base, settings, seed, progress))
    page = timed("report", lambda: report(run))
    domains = _outcome(run, plan)
    return DemoResult(
        out=out,
        run=run.path,
        report=page,
        plan=out / "plan.json",
        base=base,
        seconds=round(time.perf_counter() - begin, 2),
        steps=steps,
        lines=tuple(_lines(run, plan, base, page, domains)),
        domains=domains,
    )


def _claim(out: Path, seed: int, settings: DemoSettings) -> None:
    """Make `out` the demo's own, or refuse it: nothing of a user's is ever written over."""
    mark = out / _MARK
    wanted = {"version": 1, "seed": seed, "settings": digest(json.loads(json.dumps(asdict(settings), default=dict)))}
    try:
        if mark.exists():
            if read_json(mark) != wanted:
                raise InputError(
                    f"{out}: holds a demo made with another seed, other settings or another version; name a new folder "
                    "with -o, or remove this one."
                )
        elif out.exists() and any(out.iterdir()):
            raise InputError(f"{out}: is not empty and holds no demo; name a new or empty folder with -o.")
        else:
            write_json(mark, wanted)
    except OSError as fault:
        raise InputError(f"{out}: cannot be used ({fault.strerror}); name another folder with -o.") from fault


def _base(corpora: Corpora, settings: DemoSettings, seed: int, cache: Path, progress: Progress) -> Path:
    (general,) = corpora.general
    return base_model(
        cache,
        list(general.texts("train")),
        list(general.texts("validation")),
        settings=settings.base,
        seed=seed,
        progress=progress,
    )


def _relations(
    folder: Path, corpora: Corpora, base: Path, settings: DemoSettings, seed: int, progress: Progress
) -> Relations:
    from ...metrics import Relations
    from ..api import measure

    if (folder / "relations.json").exists():
        known = Relations.load(folder)
        if known.fingerprints.get("corpora") == {domain.name: domain.fingerprint for domain in corpora.planned}:
            return known
    return measure(corpora, model=base, out=folder, settings=settings.measure, seed=seed, progress=progress)


def _plan(path: Path, relations: Relations, settings: DemoSettings, seed: int, progress: Progress) -> Plan:
    from ...partition import Plan
    from ..api import plan

    if path.exists():
        known = Plan.load(path)
        if known.fingerprints.get("relations") == relations.digest:
            return known
    return plan(relations, settings=settings.plan, out=path, seed=seed, progress=progress)


def _train(
    folder: Path,
    plan: Plan,
    relations: Relations,
    corpora: Corpora,
    base: Path,
    settings: DemoSettings,
    seed: int,
    progress: Progress,
) -> Run:
    from ...stages import Run
    from ..api import train

    started = (folder / "run.json").exists()
    if started and Run.load(folder).finished:
        progress.say(f"Finished run found in {folder}.")
        return Run.load(folder)
    train(
        plan,
        corpora,
        model=base,
        out=folder,
        relations=relations,
        settings=settings.train,
        seed=seed,
        resume=started,
        progress=progress,
    )
    return Run.load(folder)


def _outcome(run: Run, plan: Plan) -> dict[str, dict[str, Any]]:
    """For each domain, in the plan's order: its stage, test loss before and after, and the paired change."""
    evaluation = run.evaluation
    result = {}
    for number, stage in enumerate(plan.stages, 1):
        for name in stage:
            change = evaluation["change"][name]["final"]
            result[name] = {
                "stage": number,
                "before": evaluation["before"][name]["loss"],
                "after": evaluation["final"][name]["loss"],
                "change": change["mean"],
                "low": change["low"],
                "high": change["high"],
            }
    return result


def _lines(run: Run, plan: Plan, base: Path, page: Path, domains: dict[str, dict[str, Any]]) -> list[str]:
    width = max(map(len, domains))
    lines = [
        f"Plan: {len(plan.stages)} stages, {plan.certificate}.",
        "Loss on test text before and after training, nats a token, with the 95 % interval of the change:",
    ]
    for name, row in domains.items():
        verdict = "gained" if row["high"] < 0 else "lost" if row["low"] > 0 else "unclear"
        lines.append(
            f"  stage {row['stage']}  {name:<{width}}  {row['before']:.3f} -> {row['after']:.3f}  "
            f"{row['change']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]  {verdict}"
        )
    general = run.evaluation.get("general")
    if general:
        before, after = general["before"]["loss"], general["after"]["loss"]
        lines.append(f"  general text, not trained on: {before:.3f} -> {after:.3f}  {after - before:+.3f}")
    lines += [
        "Whether this plan beats other partitions is another question: `kinfold compare` answers it.",
        f"Base model (use it with --model): {base}",
        f"Report: {page}",
    ]
    return lines
