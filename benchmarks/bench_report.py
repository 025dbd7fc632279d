"""Size of the report and time to write it, from 10 to 400 domains with all eleven text measures and a full plan.

Random matrices: they compress no better than real ones, since the page packs and does not compress.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from _common import interleaved, record, table
from kinfold._seeding import generator
from kinfold.app.report import write_plan_report
from kinfold.metrics import Relations
from kinfold.metrics.registry import DEFAULT_MEASURES
from kinfold.partition import Plan


def made_up(k: int, seed: int) -> tuple[Relations, Plan]:
    """Relations with intervals, floors and every default measure, and a plan with gains and co-assignment."""
    rng = generator(seed, "bench", "report", k)

    def symmetric() -> np.ndarray:
        half = np.triu(rng.random((k, k)), 1)
        return half + half.T

    names = tuple(f"domain-{i:03d}" for i in range(k))
    values = {name: symmetric() for name in DEFAULT_MEASURES}
    relations = Relations(
        domains=names, matrices=values, low=values, high=values, floors=values, tokens=np.full(k, 10**6)
    )
    stages = [list(names[start : start + 6]) for start in range(0, k, 6)]
    plan = Plan.from_dict(
        {
            "version": 1,
            "stages": stages,
            "gain": (symmetric() - symmetric()).tolist(),
            "status": "optimal",
            "objective": 1.0,
            "bound": 1.0,
            "gap": 0.0,
            "confidence": {"co_assignment": symmetric().tolist(), "fragile": [], "replicates": 100},
        }
    )
    return relations, plan


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--domains", type=int, nargs="+", default=[10, 60, 200, 400])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for k in given.domains:
            relations, plan = made_up(k, given.seed)
            page = Path(folder) / f"{k}.html"
            seconds = interleaved({"write": partial(write_plan_report, relations, plan, page)}, repeats=3)["write"]
            rows.append(
                {
                    "domains": k,
                    "measures": len(relations.names),
                    "kB": round(page.stat().st_size / 1000),
                    "cpu_seconds": round(seconds, 2),
                }
            )
    print(table([list(row.values()) for row in rows], ["domains", "measures", "kB", "CPU-seconds"]))
    print(record("report", {"domains": given.domains}, rows, "jinja2", seed=given.seed))


if __name__ == "__main__":
    main()
