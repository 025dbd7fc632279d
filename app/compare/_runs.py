"""Training one run of a comparison, here or in a process of its own, and the record that it leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ... import errors
from ..._files import read_json, write_json
from ..._progress import SILENT, Progress
from ...errors import KinfoldError, RunError, TrainingError

if TYPE_CHECKING:
    from ...corpora import Corpora
    from ...stages import Run, TrainSettings
    from ._variants import Variant

__all__ = ["RECORD_VERSION", "Worker", "finished", "start_worker", "train_one"]

RECORD_VERSION = 1


def finished(folder: Path, key: str) -> dict[str, Any] | None:
    """The record of a run that was trained before, if it is whole."""
    path = folder / "records" / f"{key}.json"
    if not path.exists():
        return None
    record = read_json(path, error=RunError)
    if not isinstance(record, dict) or record.get("version") != RECORD_VERSION or record.get("key") != key:
        raise RunError(f"{path}: is not a record of this comparison; remove the file.")
    return record


def train_one(
    variant_stages: tuple[tuple[str, ...], ...],
    settings: TrainSettings,
    seed: int,
    *,
    key: str,
    corpora: Corpora,
    model: str,
    folder: Path,
    keep: bool,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Train one run, or finish an interrupted one, and write its record.

    Raises
    ------
    KinfoldError
        As :func:`kinfold.stages.train`.
    """
    from ...partition import Plan
    from ...stages import Run, train
    from ...stages.manifest import roles

    names = tuple(sorted(name for stage in variant_stages for name in stage))
    path = folder / "runs" / key
    _reset_peak()
    started, busy = time.perf_counter(), time.process_time()
    run = train(
        Plan(stages=variant_stages, domains=names),
        corpora,
        model=model,
        out=path,
        settings=settings,
        seed=seed,
        resume=path.exists(),
        progress=progress,
    )
    if not isinstance(run, Run):
        raise RunError(f"{path}: training returned no run; report this.")
    record = {
        "version": RECORD_VERSION,
        "key": key,
        "stages": [list(stage) for stage in variant_stages],
        "seed": seed,
        "settings": settings.to_dict(),
        # Which texts, in which roles: with the stages, settings, seed and model, all that the key is a digest of.
        "corpora": dict(corpora.fingerprints),
        "roles": roles(corpora),
        "wall_seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - busy,
        "peak_memory": _peak(run),
        **_outcome(run),
    }
    write_json(folder / "records" / f"{key}.json", record)
    if not keep:
        shutil.rmtree(path, ignore_errors=True)
    return record


def _outcome(run: Run) -> dict[str, Any]:
    evaluation = run.evaluation
    stages = [
        read_json(run.path / "stages" / f"{t:02d}" / "stage.json", error=RunError) for t in range(len(run.stages))
    ]
    kept = ("loss", "perplexity", "accuracy", "f1", "tokens", "documents")

    def table(name: str) -> dict[str, dict[str, float]]:
        rows: Mapping[str, Mapping[str, float]] = evaluation[name]
        return {domain: {key: row[key] for key in kept if key in row} for domain, row in rows.items()}

    general = evaluation.get("general")
    h_score = evaluation.get("h_score")
    return {
        "task": evaluation["task"],
        "split": evaluation["split"],
        "before": table("before"),
        "snapshot": table("snapshot"),
        "final": table("final"),
        "general": None if not general else {key: general[key]["loss"] for key in ("before", "after")},
        "backward_transfer": evaluation["forgetting"]["backward_transfer"],
        "h_score": None if not h_score else {key: float(h_score[key]) for key in ("before", "after")},
        "mmd2": _mean_mmd2(evaluation.get("alignment")),
        "tokens": sum(int(stage["tokens"]) for stage in stages),
        "steps": sum(int(stage["steps"]) for stage in stages),
        "train_seconds": sum(float(row["seconds"] or 0.0) for row in run.metrics),
        "parameters": _parameters(run),
        "model": run.manifest["model"]["fingerprint"],
        "environment": run.environment,
    }


def _mean_mmd2(alignment: Mapping[str, Any] | None) -> dict[str, float] | None:
    """Mean MMD² over pairs of domains, before and after training, in the kernel that the evaluation fixed for both."""
    if not alignment:
        return None
    found = {}
    for key in ("before", "after"):
        rows = alignment[f"mmd2_{key}"]
        pairs = [float(rows[i][j]) for i in range(len(rows)) for j in range(i + 1, len(rows))]
        found[key] = sum(pairs) / len(pairs)
    return found


def _parameters(run: Run) -> int:
    """Numbers that were trained: the factors of each stage's own adapters, and the heads once."""
    from safetensors import safe_open

    total = 0
    count = len(run.stages)
    for stage in range(count):
        with safe_open(run.path / "stages" / f"{stage:02d}" / "factors.safetensors", framework="np") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                if not name.startswith("head/") or stage == count - 1:
                    size = 1
                    for length in file.get_slice(name).get_shape():
                        size *= int(length)
                    total += size
    return total


def _reset_peak() -> None:
    """Let the kernel (and CUDA) begin a new high-water mark; where that cannot be, the peak is of the whole process."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak(run: Run) -> int | None:
    """Most memory in bytes: of the accelerator where one was used, else resident memory of this process."""
    import torch

    if run.environment.get("device") == "cuda" and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        try:
            import resource
        except ImportError:  # not a Unix system
            return None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return int(peak if sys.platform == "darwin" else peak * 1024)
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else None


@dataclass(frozen=True)
class Worker:
    """A process that trains one run."""

    key: str
    process: subprocess.Popen[str]
    log: IO[str]

    def result(self) -> dict[str, Any] | None:
        """None while it works; then {} or {"failed": why} where training itself had to stop.

        Raises
        ------
        KinfoldError
            When the run could not be trained; the error is of the kind that was raised in the process.
        """
        if self.process.poll() is None:
            return None
        out = self.process.stdout.read() if self.process.stdout else ""
        self.log.seek(0)
        trouble = self.log.read().strip().splitlines()
        self.log.close()
        try:
            said = json.loads(out.strip().splitlines()[-1])
        except (IndexError, ValueError):
            last = trouble[-1] if trouble else f"exit code {self.process.returncode}"
            raise RunError(f"compare: the process of run {self.key} broke off ({last}); run the same again.") from None
        if "error" in said:
            kind = getattr(errors, str(said["kind"]), RunError)
            raise kind(said["error"])
        return dict(said)

    def stop(self) -> None:
        """End the process; the run goes on from its last checkpoint when the comparison is run again."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()


def start_worker(
    variant: Variant, *, key: str, corpora: Corpora, model: str, folder: Path, keep: bool, threads: int
) -> Worker:
    """Start a process that trains one run."""
    task = {
        "stages": [list(stage) for stage in variant.stages],
        "settings": variant.settings.to_dict(),
        "seed": variant.seed,
        "key": key,
        "corpora": corpora.to_dict(),
        "model": model,
        "folder": str(folder.absolute()),
        "keep": keep,
    }
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="false", PYTHONSAFEPATH="1")
    # A file, not a pipe: nobody reads it while the process works. The worker holds it open.
    log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
    process = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import work; work()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
    )
    assert process.stdin is not None  # asked for above
    process.stdin.write(json.dumps(task))
    process.stdin.close()
    process.stdin = None
    return Worker(key, process, log)


def work() -> None:
    """What a worker process does: read a task from standard input, train it, say how it went."""
    from ...corpora import Corpora
    from ...stages import TrainSettings

    # Whatever a library prints must not mix with the answer.
    answer, sys.stdout = sys.stdout, sys.stderr
    task = json.load(sys.stdin)
    said: dict[str, Any] = {}
    try:
        train_one(
            tuple(tuple(stage) for stage in task["stages"]),
            TrainSettings.from_dict(task["settings"]),
            task["seed"],
            key=task["key"],
            corpora=Corpora.from_dict(task["corpora"]),
            model=task["model"],
            folder=Path(task["folder"]),
            keep=task["keep"],
        )
    except TrainingError as fault:
        said = {"failed": str(fault)}
    except KinfoldError as fault:
        said = {"error": str(fault), "kind": type(fault).__name__}
    print(json.dumps(said), file=answer, flush=True)
