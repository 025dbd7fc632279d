"""What benchmarks share: interleaved timing in CPU-seconds, machine facts, tables and records.

Other work may run beside a benchmark, so times are process CPU-seconds of interleaved runs, and what is claimed are
ratios of medians.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

RECORDS = Path(__file__).resolve().parent / "records"
SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"


def shared_data() -> Path:
    """The test data beside the repository, or a polite exit."""
    if not SHARED.is_dir():
        sys.exit(f"{SHARED} is not here; this benchmark needs the data beside the repository.")
    return SHARED


def interleaved(runs: Mapping[str, Callable[[], Any]], *, repeats: int = 5, warm: bool = True) -> dict[str, float]:
    """Median CPU-seconds of each run, taken in turns so that disturbances fall on all alike."""
    if warm:
        for run in runs.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def peak_memory() -> float:
    """Largest resident size of this process so far, MB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024


def machine(*packages: str) -> dict[str, Any]:
    """Where and with what a record was made."""
    versions = {}
    for package in ("numpy", "scipy", *packages):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "missing"
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "python": platform.python_version(),
        "versions": versions,
    }


def record(name: str, config: Mapping[str, Any], results: Any, *packages: str, seed: int = 0) -> Path:
    """Append one JSON record to `records/<name>.json` (a list, newest last)."""
    file = RECORDS / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    held = json.loads(file.read_text()) if file.is_file() else []
    held.append(
        {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "machine": machine(*packages),
            "config": dict(config),
            "seed": seed,
            "results": results,
        }
    )
    file.write_text(json.dumps(held, indent=1) + "\n")
    return file


def table(rows: Sequence[Sequence[Any]], head: Sequence[str]) -> str:
    """A Markdown table."""
    cells = [[_cell(value) for value in row] for row in rows]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells)])


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
