"""Why does a staged plan lose to one stage? Three suspects, one at a time, on a set that results_sets.py has run.

python benchmarks/results_schedule.py prose     (or reviews)

span     one learning-rate schedule over all stages, where it otherwise starts anew with each stage
steps    batches as much smaller as the plan has stages, so that a domain's adapter gets as many optimiser steps as it
         gets in one stage for all, from the same tokens
both     the two together
one      one stage for all with those smaller batches, for smaller batches may help it too

The plan and one stage for all as they are come from the records of results_sets.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from _frozen import lower_layers_kept
from _results import STORE, corpora_of, encoder, fetch_records, keep, keep_records, small_base, stamp, work_folder
from kinfold._files import digest
from kinfold.app.compare._runs import finished, train_one
from kinfold.app.compare._variants import Variant
from kinfold.stages.manifest import roles
from kinfold.stages.model import model_fingerprint
from results_sets import SEEDS, SETS


@contextlib.contextmanager
def one_schedule(total: int) -> Iterator[None]:
    """Every stage takes its part of one schedule over `total` steps."""
    from kinfold.stages import loop

    rate, begin = loop.learning_rate, loop.StageLoop.__init__
    offset = 0

    def noting(self: Any, *args: Any, step_offset: int = 0, **more: Any) -> None:
        nonlocal offset
        offset = step_offset
        begin(self, *args, step_offset=step_offset, **more)

    loop.StageLoop.__init__ = noting  # type: ignore[method-assign]
    loop.learning_rate = lambda step, steps, settings: rate(offset + step, total, settings)
    try:
        yield
    finally:
        loop.StageLoop.__init__ = begin  # type: ignore[method-assign]
        loop.learning_rate = rate


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("set", choices=("prose", "reviews"))
    parser.add_argument("--variants", default="span,steps,one")
    options = parser.parse_args()
    study = f"schedule-{options.set}"
    work = work_folder() / study
    (work / "records").mkdir(parents=True, exist_ok=True)
    fetch_records(study, work)
    compared = json.loads((STORE / options.set / "compare.json").read_text())
    (stages,) = next(row["stages"] for row in compared["methods"] if row["name"] == "plan")
    groups = tuple(tuple(stage) for stage in stages)
    model = str(encoder() if options.set == "reviews" else small_base())
    corpora = corpora_of(options.set)
    prints = {"corpora": corpora.fingerprints, "roles": roles(corpora), "model": model_fingerprint(model)}
    base = SETS[options.set]
    total = round(next(row["cost"]["steps"] for row in compared["methods"] if row["name"] == "plan"))
    held = STORE / study / "schedule.json"
    index = json.loads(held.read_text())["runs"] if held.exists() else []
    try:
        with lower_layers_kept(4) if options.set == "reviews" else contextlib.nullcontext():
            for variant in options.variants.split(","):
                settings, steps = base, total
                if variant in ("steps", "both", "one"):
                    settings = replace(base, batch_tokens=max(32, base.batch_tokens // len(groups)))
                    steps = total * base.batch_tokens // settings.batch_tokens
                for seed in SEEDS:
                    trained = (tuple(sorted(compared["plan"]["domains"])),) if variant == "one" else groups
                    key = digest(variant, Variant("plan", 0, seed, trained, settings).key(prints))
                    if finished(work, key) is None:
                        spanning = one_schedule(steps) if variant in ("span", "both") else contextlib.nullcontext()
                        with spanning:
                            train_one(
                                trained,
                                settings,
                                seed,
                                key=key,
                                corpora=corpora,
                                model=model,
                                folder=work,
                                keep=False,
                            )
                    row = {"variant": variant, "seed": seed, "record": key}
                    index = [one for one in index if one != row] + [row]
                    print(variant, seed, flush=True)
    finally:
        keep_records(study, work)
        keep(
            study, "schedule", {"set": options.set, "stages": [list(g) for g in groups], "runs": index, "made": stamp()}
        )


if __name__ == "__main__":
    main()
