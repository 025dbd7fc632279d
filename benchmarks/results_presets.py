"""The presets of `kinfold compare`: ablations, both weights, noise in words and labels, and imbalance.

python benchmarks/results_presets.py     (`--parts ablate,grid,robust,labels` for some)

The first three on the stages of the demo's plan that hold two domains or more, with fewer and shorter texts than in
results_sets.py, for there are many runs. In ablations and grid every loss and both norm bounds are on, so that each can
be taken out; noise and imbalance come with the task's loss and the default alignment alone. Wrong labels are put into
eight review domains, under the settings of results_when.py with an adapter per domain beside the shared one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from dataclasses import dataclass, replace
from typing import Any

from _frozen import lower_layers_kept
from _results import ENCODER, SMALL, STORE, Base, demo_corpora
from _results_shelf import Shelf, plain, settled
from kinfold import compare, load_corpora
from kinfold.app.compare.settings import ABLATIONS, CompareSettings
from kinfold.corpora import Corpora
from kinfold.partition import Plan
from kinfold.stages import TrainSettings
from results_sets import SETS
from results_when import DOMAINS, world
from results_when import TRAIN as LABELLED

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
_PLAIN = replace(TRAIN, documents=16, ssl_weight=0.0, kl_weight=0.0, rho_shared=None, rho_domain=None)


@dataclass(frozen=True)
class Part:
    """One preset: what is asked of `kinfold compare`, with which training."""

    asked: dict[str, Any]
    train: TrainSettings = TRAIN
    study: str = "presets"
    base: Base = SMALL

    def given(self) -> tuple[Corpora, Plan]:
        """The texts, and the plan that is judged."""
        if self.base is ENCODER:
            stages = json.loads((STORE / "when" / "plain-apart.json").read_text())["policies"]["plan by text"]
            return world(False)[0], Plan(stages=tuple(map(tuple, stages)), domains=tuple(sorted(DOMAINS)))
        stages = json.loads((STORE / "demo" / "compare.json").read_text())["plan"]["stages"]
        groups = tuple(tuple(sorted(stage)) for stage in stages if len(stage) > 1)
        plan = Plan(stages=groups, domains=tuple(sorted(name for group in groups for name in group)))
        folder = demo_corpora()
        entries: dict[str, Any] = {name: {"path": folder / f"{name}.jsonl"} for name in plan.domains}
        return load_corpora(entries | {"general": {"path": folder / "general.jsonl", "general": True}}), plan


_ROBUST = {"methods": ("plan", "joint", "random"), "draws": 1}
PARTS = {
    "ablate": Part({"ablate": tuple(name for name in ABLATIONS if name != "domain"), "draws": 1}),
    "grid": Part({"methods": ("plan",), "grid_ssl": (0.0, 0.1, 1.0), "grid_align": (0.0, 0.1, 1.0)}),
    "robust": Part({**_ROBUST, "token_noise": (0.3,), "imbalance": (8.0,)}, _PLAIN),
    "labels": Part({**_ROBUST, "label_noise": (0.3,)}, replace(LABELLED, adapters="both"), "presets-labels", ENCODER),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parts", default=",".join(PARTS))
    options = parser.parse_args()
    for name in options.parts.split(","):
        part = PARTS[name]
        corpora, plan = part.given()
        asked = {
            **{"methods": ("plan", "joint"), **part.asked},
            "train": part.train.to_dict(),
            "seeds": SEEDS,
            "stages": plan.stages,
            "texts": corpora.fingerprints,
            "base": part.base.identity,
        }
        if settled(part.study, name, asked):
            continue
        shelf = Shelf(part.study, part.base)
        settings = CompareSettings(seeds=SEEDS, **{"methods": ("plan", "joint"), **part.asked})
        try:
            with lower_layers_kept(5) if part.base is ENCODER else contextlib.nullcontext():
                comparison = compare(
                    corpora, model=shelf.base.folder, out=shelf.work, plan=plan, train=part.train, settings=settings
                )
        finally:
            shelf.take_in()
        value = json.loads((comparison.path / "compare.json").read_text())
        value["made_of"]["model"] = shelf.base.folder.name
        shelf.keep(name, {**value, "asked": plain(asked)})
        print(name, comparison.markdown, flush=True)


if __name__ == "__main__":
    main()
