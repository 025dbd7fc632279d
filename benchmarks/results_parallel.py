"""Does `kinfold compare --jobs 2` find what `--jobs 1` finds, and how much sooner? Four runs of the presets' study.

python benchmarks/results_parallel.py     (a fresh folder each time; the record is replaced)
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

from _results import SMALL, STORE, demo_corpora, keep, stamp
from kinfold import compare, load_corpora
from kinfold.app.compare.settings import CompareSettings
from kinfold.partition import Plan
from results_presets import TRAIN

SEEDS = (0, 1)


def main() -> None:
    stages = json.loads((STORE / "demo" / "compare.json").read_text())["plan"]["stages"]
    groups = tuple(tuple(sorted(stage)) for stage in stages if len(stage) > 1)
    plan = Plan(stages=groups, domains=tuple(sorted(name for group in groups for name in group)))
    folder, model = demo_corpora(), SMALL.folder
    entries: dict[str, object] = {name: {"path": folder / f"{name}.jsonl"} for name in plan.domains}
    corpora = load_corpora(entries | {"general": {"path": folder / "general.jsonl", "general": True}})
    seconds, found = {}, {}
    for jobs in (1, 2):
        out = Path(tempfile.mkdtemp())
        settings = CompareSettings(methods=("plan", "joint"), seeds=SEEDS, jobs=jobs)
        start = time.perf_counter()
        comparison = compare(corpora, model=model, out=out, plan=plan, train=TRAIN, settings=settings)
        seconds[str(jobs)] = time.perf_counter() - start
        found[jobs] = {
            m["name"]: m["values"] for m in json.loads((comparison.path / "compare.json").read_text())["methods"]
        }
        shutil.rmtree(out)
    apart = [
        abs(one["by_domain"][name] - other["by_domain"][name])
        for method, rows in found[1].items()
        for one, other in zip(rows, found[2][method], strict=True)
        for name in one["by_domain"]
    ]
    value = {"runs": 2 * len(SEEDS), "seconds": seconds, "largest_difference": max(apart), "cores": os.cpu_count()}
    keep("parallel", "parallel", {**value, "threads": os.environ.get("OMP_NUM_THREADS"), "made": stamp()})
    print(value)


if __name__ == "__main__":
    main()
