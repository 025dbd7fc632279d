"""All runs of a comparison, one after the other or several at a time; finished ones are skipped."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._progress import Progress, Task
from ...errors import TrainingError

if TYPE_CHECKING:
    from ...corpora import Corpora
    from ._runs import Worker
    from ._variants import Variant
    from .settings import CompareSettings

__all__ = ["Job", "train_all"]

_PAUSE = 0.2


@dataclass(frozen=True)
class Job:
    """A run to make, the corpora it is trained on, and what it is called."""

    variant: Variant
    corpora: Corpora
    key: str
    about: str = ""

    @property
    def title(self) -> str:
        """What the progress bar says."""
        run = self.variant
        draw = f", draw {run.draw + 1}" if run.draw else ""
        return f"{run.method}{', ' + self.about if self.about else ''}, seed {run.seed}{draw}"


def train_all(
    jobs: Sequence[Job], *, model: str, folder: Path, settings: CompareSettings, progress: Progress
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Train every job that has no record yet.

    Returns
    -------
    records, stopped
        By key: the records of finished runs, and why the others had to stop.

    Raises
    ------
    KinfoldError
        When a run cannot be trained for another reason than that its loss went astray.
    """
    from ._runs import finished

    waiting = {job.key: job for job in jobs}
    total = len(waiting)
    for key in list(waiting):
        if finished(folder, key) is not None:
            del waiting[key]
    if len(waiting) < total:
        progress.say(f"{folder}: {total - len(waiting)} of {total} runs are finished already.")
    stopped: dict[str, str] = {}
    with progress.task("comparing", total=total, unit="runs") as task:
        task.advance(total - len(waiting))
        if settings.jobs == 1:
            for job in waiting.values():
                task.update(note=job.title)
                _train_here(job, model, folder, settings, progress, stopped)
                task.advance()
        else:
            _train_apart(waiting, model, folder, settings, task, stopped)
    titles = {job.key: job.title for job in jobs}
    for key, why in stopped.items():
        progress.warn(f"{titles[key]} had to stop: {why}")
    found = {key: finished(folder, key) for key in titles}
    return {key: record for key, record in found.items() if record is not None}, stopped


def _train_here(
    job: Job, model: str, folder: Path, settings: CompareSettings, progress: Progress, stopped: dict[str, str]
) -> None:
    from ._runs import train_one

    try:
        train_one(
            job.variant.stages,
            job.variant.settings,
            job.variant.seed,
            key=job.key,
            corpora=job.corpora,
            model=model,
            folder=folder,
            keep=settings.keep_runs,
            progress=progress,
        )
    except TrainingError as fault:
        # A rival that diverges is a result, not the end of the comparison.
        stopped[job.key] = str(fault)


def _train_apart(
    waiting: Mapping[str, Job], model: str, folder: Path, settings: CompareSettings, task: Task, stopped: dict[str, str]
) -> None:
    from ._runs import start_worker

    threads = max(1, (os.cpu_count() or 1) // settings.jobs)
    queue = list(waiting.values())
    working: list[Worker] = []
    try:
        while queue or working:
            while queue and len(working) < settings.jobs:
                job = queue.pop(0)
                task.update(note=job.title)
                working.append(
                    start_worker(
                        job.variant,
                        key=job.key,
                        corpora=job.corpora,
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
                        stopped[worker.key] = str(said["failed"])
                    task.advance()
            time.sleep(_PAUSE)
    finally:
        for worker in working:
            worker.stop()
