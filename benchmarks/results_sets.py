"""Is a plan worth it on three sets? `kinfold compare` on reviews, prose and the demo's corpora, kept as records.

python benchmarks/results_sets.py reviews     (or prose, or demo; `--methods`, `--seeds` for a part of it)

Runs that are in benchmarks/records/results already are not made again, and where all are there nothing is done. The
numbers below follow from what two cores can train in the time that the page states; `reviews-short` came first, and its
stages turned out too short to learn.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from _frozen import lower_layers_kept, targets
from _results import ENCODER, SMALL, Base, corpora_of, work_folder
from _results_shelf import Shelf, plain, settled
from kinfold import compare
from kinfold.app.compare.settings import CompareSettings
from kinfold.metrics import MeasureSettings, Relations
from kinfold.partition import PlanSettings
from kinfold.partition.expectation import expectation
from kinfold.stages import LoraSpec, TrainSettings

METHODS = (
    "plan",
    "joint",
    "random",
    "independent",
    "single-linkage",
    "discrepancy-only",
    "one-per-domain",
)
# Beside the three sets of the first question: the main rivals alone.
ASKED = dict.fromkeys(("reviews-short", "reviews-text"), ("plan", "joint", "random", "independent"))
# The second accounting, shown where it was run: ranks fitted to the plan's number of trained parameters.
EQUAL = {"prose-equal": "prose"}
ASKED |= dict.fromkeys(EQUAL, ("plan", "joint", "independent"))
SEEDS = (0, 1, 2)
DRAWS = {"reviews": 3, "reviews-short": 1, "prose": 4, "demo": 4, "reviews-text": 1, "prose-equal": 1}
LOWER = {"reviews": 5, "reviews-short": 4}
BUDGET = {"domains": 4}
# The objective decides how many stages there are (None, as records from before "free" had a name have it).
PLAN = PlanSettings(budget=BUDGET, stages=None)

_COMMON: dict[str, Any] = {"lora": LoraSpec(rank=8, alpha=16), "bootstrap": 200, "checkpoint_every": None}
_REVIEWS = TrainSettings(
    documents=100,
    max_length=48,
    batch_tokens=256,
    head="shared",
    ssl_weight=0.0,
    align_weight=0.0,
    precision="bf16",
    eval_documents=50,
    **_COMMON,
)
SETS: dict[str, TrainSettings] = {
    # No denoising loss: a sentence encoder has no head that predicts words. One head, for the labels mean the same.
    "reviews": replace(_REVIEWS, epochs=2.0, lr=2e-3, lora=LoraSpec(rank=8, alpha=16, targets=targets(5))),
    # The first series: so few steps a stage that stages hardly learn.
    "reviews-short": replace(_REVIEWS, lr=7e-4, lora=LoraSpec(rank=8, alpha=16, targets=targets(4))),
    "prose": TrainSettings(
        documents=30, max_length=128, batch_tokens=512, lr=2e-3, ssl_weight=0.0, eval_documents=12, **_COMMON
    ),
    "demo": TrainSettings(
        documents=20, max_length=128, batch_tokens=512, lr=2e-3, ssl_weight=0.0, eval_documents=12, **_COMMON
    ),
    # The reviews' texts without their labels, chosen after prose and demo had shown which groups train better there.
    "reviews-text": TrainSettings(
        task="lm",
        documents=12,
        max_length=128,
        batch_tokens=512,
        lr=2e-3,
        ssl_weight=0.0,
        eval_documents=8,
        **_COMMON,
    ),
}
MEASURED = MeasureSettings(permutations=100)
SETS |= {name: SETS[like] for name, like in EQUAL.items()}
# Four stages of four on the last set, so that sizes and their order are no part of what is compared.
PLANNED = {"reviews-text": PlanSettings(budget=BUDGET, stages=4)}


@contextlib.contextmanager
def nothing_trained() -> Iterator[None]:
    """Comparisons take the finished runs for all there are; a method is then paired over the seeds that it has."""
    from kinfold.app.compare import _queue
    from kinfold.app.compare._runs import finished

    train_all = _queue.train_all

    def found(jobs: Sequence[Any], *, folder: Path, **_: Any) -> tuple[dict[str, Any], dict[str, str]]:
        kept = {job.key: finished(folder, job.key) for job in jobs}
        return {key: record for key, record in kept.items() if record is not None}, {}

    _queue.train_all = found  # type: ignore[assignment]
    try:
        yield
    finally:
        _queue.train_all = train_all


def expected(relations: Relations, stages: list[list[str]]) -> dict[str, Any] | None:
    """What the planner expects of its groups: their lead over random ones, and that of noise."""
    stage = {name: number for number, group in enumerate(stages) for name in group}
    found = expectation(np.array([stage[name] for name in relations.domains]), relations, PlanSettings(budget=BUDGET))
    return None if found is None else {**asdict(found), "matters": found.matters}


def base_of(name: str) -> Base:
    """The base model of a set."""
    return ENCODER if name in LOWER else SMALL


def asked_of(name: str, methods: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """What a set's comparison is made of."""
    return {
        "train": SETS[name].to_dict(),
        "plan": asdict(PLANNED.get(name, PLAN)),
        "measure": {"permutations": MEASURED.permutations},
        "methods": list(methods),
        "seeds": list(seeds),
        "draws": DRAWS[name],
        "lower": LOWER.get(name),
        "equal": "parameters" if name in EQUAL else "tokens",
        "texts": corpora_of(name).fingerprints,
        "base": base_of(name).identity,
    }


def relations_of(name: str) -> Relations:
    """What was measured on a set, or is now."""
    from kinfold._progress import SILENT
    from kinfold.app.compare._compare import _measured

    work = work_folder() / name
    return _measured(corpora_of(name), str(base_of(name).folder), work, MEASURED, 0, SILENT)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("set", choices=tuple(SETS))
    parser.add_argument("--methods")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    parser.add_argument("--kept", action="store_true", help="train nothing: sum up the runs that have a record")
    options = parser.parse_args()
    name: str = options.set
    methods = tuple(options.methods.split(",")) if options.methods else ASKED.get(name, METHODS)
    seeds = tuple(int(word) for word in options.seeds.split(","))
    asked = asked_of(name, methods, seeds)
    beside = (EQUAL[name],) if name in EQUAL else ()
    if settled(name, "compare", asked, beside=beside):
        return
    shelf = Shelf(name, base_of(name), beside=beside)
    lower = LOWER.get(name)
    try:
        with contextlib.ExitStack() as stack:
            if lower:
                stack.enter_context(lower_layers_kept(lower))
            if options.kept:
                stack.enter_context(nothing_trained())
            comparison = compare(
                corpora_of(name),
                model=shelf.base.folder,
                out=shelf.work,
                train=SETS[name],
                plan_settings=PLANNED.get(name, PLAN),
                measure_settings=MEASURED,
                methods=methods,
                seeds=seeds,
                settings=CompareSettings(draws=DRAWS[name], equal="parameters" if name in EQUAL else "tokens"),
            )
    finally:
        shelf.take_in()
    value = json.loads((comparison.path / "compare.json").read_text())
    value["made_of"]["model"] = shelf.base.folder.name
    value["expectation"] = expected(relations_of(name), value["plan"]["stages"])
    shelf.keep("compare", {**value, **({} if options.kept else {"asked": plain(asked)})})
    print(comparison.markdown)


if __name__ == "__main__":
    main()
