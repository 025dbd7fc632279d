"""One set again from raw data, into empty folders, by its own command: what it costs and how far its figures are.

python benchmarks/results_repeat.py demo     (or another set)

Nothing of an earlier run is there: for the demo's corpora even texts and base model are made anew. Beside the stored
comparison stand the same methods' means and the plan's leads, and the largest difference of any run in any domain.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _results import STORE, keep, stamp
from results_sets import SETS


def _runs(value: Mapping[str, Any]) -> dict[tuple[str, int, int], dict[str, float]]:
    """Values by domain of each run, by method, seed and draw."""
    return {
        (method["name"], one["seed"], one["draw"]): one["by_domain"]
        for method in value["methods"]
        for one in method.get("values", ())
    }


def compared(stored: Mapping[str, Any], again: Mapping[str, Any]) -> dict[str, Any]:
    """How far the second is from the first: run by run and domain by domain, in means and in leads."""
    first, second = _runs(stored), _runs(again)
    both = sorted(set(first) & set(second))
    apart = [abs(first[key][name] - second[key][name]) for key in both for name in first[key]]
    methods = {}
    for one in stored["methods"]:
        other = next((method for method in again["methods"] if method["name"] == one["name"]), None)
        if other is not None and "mean" in one and "mean" in other:
            methods[one["name"]] = {
                "mean": [one["mean"], other["mean"]],
                "lead": [one["plan_advantage"], other["plan_advantage"]],
                "verdict": [one["verdict"], other["verdict"]],
                "stages": one["stages"] == other["stages"],
            }
    return {
        "runs": len(both),
        "largest": max(apart, default=0.0),
        "mean": sum(apart) / len(apart) if apart else 0.0,
        "methods": methods,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("set", choices=tuple(SETS))
    name: str = parser.parse_args().set
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        environment = dict(os.environ, KINFOLD_RESULTS=str(Path(folder) / "work"), KINFOLD_RESULTS_STORE=str(store))
        script = Path(__file__).with_name("results_sets.py")
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, str(script), name], env=environment, check=True)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        again = json.loads((store / name / "compare.json").read_text())
        records = [json.loads(file.read_text()) for file in (store / name / "records").glob("*.json")]
    value = {
        "set": name,
        "command": f"benchmarks/results_sets.py {name}",
        "trained": len(records),
        "training_cpu_seconds": sum(record["cpu_seconds"] for record in records),
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall_seconds": wall,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "again": {key: again[key] for key in ("methods", "domains", "higher_is_better")},
        "made": stamp(),
    }
    print(keep("repeat", name, value))
    stored = STORE / name / "compare.json"
    if stored.exists():
        found = compared(json.loads(stored.read_text()), again)
        print({key: found[key] for key in ("runs", "largest", "mean")})


if __name__ == "__main__":
    main()
