"""The presets of `kinfold compare` on the demo's corpora: ablations, both weights, noise and imbalance.

python benchmarks/results_presets.py     (`--parts ablate,grid,robust` for some)

The stages of the demo's plan that hold two domains or more, and fewer and shorter texts than in results_sets.py, for
there are many runs. Every loss and both norm bounds are on, so that each can be taken out.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

from _results import STORE, demo_corpora, fetch_records, keep, keep_records, small_base, stamp, work_folder
from kinfold import compare, load_corpora
from kinfold.app.compare.settings import ABLATIONS, CompareSettings
from kinfold.partition import Plan
from results_sets import SETS

SEEDS = (0, 1, 2)
TRAIN = replace(
    SETS["demo"],
    documents=8,
    max_length=64,
    batch_tokens=192,
    eval_documents=8,
    bootstrap=20,
    ssl_weight=0.1,
    align_weight=0.1,
    kl_weight=0.1,
    kl_share=0.25,
    rho_shared=1.5,
    rho_domain=1.0,
)
PARTS: dict[str, dict[str, Any]] = {
    "ablate": {"ablate": tuple(name for name in ABLATIONS if name != "domain"), "draws": 1},
    "grid": {"methods": ("plan",), "grid_ssl": (0.0, 0.1, 1.0), "grid_align": (0.0, 0.1, 1.0)},
    "robust": {"methods": ("plan", "joint", "random"), "draws": 1, "token_noise": (0.3,), "imbalance": (8.0,)},
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", default=",".join(PARTS))
    options = parser.parse_args()
    stages = json.loads((STORE / "demo" / "compare.json").read_text())["plan"]["stages"]
    groups = tuple(tuple(sorted(stage)) for stage in stages if len(stage) > 1)
    plan = Plan(stages=groups, domains=tuple(sorted(name for group in groups for name in group)))
    folder, model = demo_corpora(), small_base()
    entries: dict[str, Any] = {name: {"path": folder / f"{name}.jsonl"} for name in plan.domains}
    corpora = load_corpora(entries | {"general": {"path": folder / "general.jsonl", "general": True}})
    work = work_folder() / "presets"
    (work / "records").mkdir(parents=True, exist_ok=True)
    fetch_records("presets", work)
    for part in options.parts.split(","):
        asked = {"methods": ("plan", "joint"), **PARTS[part]}
        try:
            comparison = compare(
                corpora, model=model, out=work, plan=plan, train=TRAIN, settings=CompareSettings(seeds=SEEDS, **asked)
            )
        finally:
            keep_records("presets", work)
        value = json.loads((comparison.path / "compare.json").read_text())
        value["made_of"]["model"] = model.name
        keep("presets", part, {**value, "made": stamp()})
        print(part, comparison.markdown, flush=True)


if __name__ == "__main__":
    main()
