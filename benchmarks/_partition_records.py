"""Records of the partition benchmarks: one line a run, so that a study can stop at any run and go on later.

A run is known by its study and its configuration. The newest line of a run counts; `known` says whether there is one.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().with_name("records") / "partition_runs.jsonl"

Record = dict[str, Any]


def load(file: Path = FILE) -> list[Record]:
    """The newest record of every run, in the order in which runs were first made."""
    newest: dict[str, Record] = {}
    if file.is_file():
        for line in file.read_text().splitlines():
            record = json.loads(line)
            newest[_key(record["study"], record["config"])] = record
    return list(newest.values())


def of(records: list[Record], study: str, **config: Any) -> list[Record]:
    """Those of a study whose configuration has these values."""
    return [r for r in records if r["study"] == study and all(r["config"].get(k) == v for k, v in config.items())]


class Book:
    """Makes runs that have no record yet, until a time is up.

    Parameters
    ----------
    again
        Make known runs anew.
    stop_after
        No run begins after so many seconds.
    """

    def __init__(self, *, again: bool = False, stop_after: float = float("inf"), file: Path = FILE) -> None:
        self.file = file
        self.known = {} if again else {_key(r["study"], r["config"]): r["result"] for r in load(file)}
        self.end = time.monotonic() + stop_after
        self.left_out = 0

    def run(self, study: str, config: Mapping[str, Any], work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """The result of a run, from its record if there is one; None when there was no time to make it."""
        key = _key(study, config)
        if key not in self.known:
            if time.monotonic() > self.end:
                self.left_out += 1
                return None
            load_before, wall, cpu = os.getloadavg()[0], time.monotonic(), time.process_time()
            result = work()
            record = {
                "study": study,
                "config": dict(config),
                "result": result,
                "wall": round(time.monotonic() - wall, 3),
                "cpu": round(time.process_time() - cpu, 3),
                "load": round(load_before, 1),
                "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                "commit": _commit(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "versions": {name: version(name) for name in ("numpy", "numba", "ortools", "scipy")},
            }
            self.file.parent.mkdir(exist_ok=True)
            with self.file.open("a") as stream:
                stream.write(json.dumps(record, default=float) + "\n")
            self.known[key] = result
        return self.known[key]


def _key(study: str, config: Mapping[str, Any]) -> str:
    return json.dumps([study, dict(config)], sort_keys=True)


def _commit() -> str:
    """The commit that the tree is at, with a + where the planner differs from it."""
    root = FILE.parents[2]
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "partition", "_compile.py"], cwd=root)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed.returncode else "")
