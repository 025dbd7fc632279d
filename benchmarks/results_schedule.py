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
from _results import STORE, corpora_of
from _results_shelf import Shelf, plain, settled
from kinfold._files import digest
from kinfold.app.compare._runs import finished, train_one
from kinfold.app.compare._variants import Variant
from kinfold.stages.manifest import roles
from results_sets import LOWER, SEEDS, SETS, base_of


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
    study, name = f"schedule-{options.set}", options.set
    compared = json.loads((STORE / name / "compare.json").read_text())
    (stages,) = next(row["stages"] for row in compared["methods"] if row["name"] == "plan")
    groups = tuple(tuple(stage) for stage in stages)
    corpora = corpora_of(name)
    asked = {"train": SETS[name].to_dict(), "variants": options.variants.split(","), "seeds": list(SEEDS)}
    asked |= {"stages": stages, "texts": corpora.fingerprints, "base": base_of(name).identity}
    if settled(study, "schedule", asked):
        return
    shelf = Shelf(study, base_of(name))
    prints = {"corpora": corpora.fingerprints, "roles": roles(corpora), "model": shelf.base.fingerprint}
    base = SETS[name]
    total = round(next(row["cost"]["steps"] for row in compared["methods"] if row["name"] == "plan"))
    held = STORE / study / "schedule.json"
    index = json.loads(held.read_text())["runs"] if held.exists() else []
    answered = {}
    try:
        with lower_layers_kept(LOWER[name]) if name in LOWER else contextlib.nullcontext():
            for variant in options.variants.split(","):
                settings, steps = base, total
                if variant in ("steps", "both", "one"):
                    settings = replace(base, batch_tokens=max(32, base.batch_tokens // len(groups)))
                    steps = total * base.batch_tokens // settings.batch_tokens
                for seed in SEEDS:
                    trained = (tuple(sorted(compared["plan"]["domains"])),) if variant == "one" else groups
                    key = digest(variant, Variant("plan", 0, seed, trained, settings).key(prints))
                    if finished(shelf.work, key) is None:
                        spanning = one_schedule(steps) if variant in ("span", "both") else contextlib.nullcontext()
                        with spanning:
                            train_one(
                                trained,
                                settings,
                                seed,
                                key=key,
                                corpora=corpora,
                                model=str(shelf.base.folder),
                                folder=shelf.work,
                                keep=False,
                            )
                        shelf.note(key, way=variant)
                    row = {"variant": variant, "seed": seed, "record": key}
                    index = [one for one in index if (one["variant"], one["seed"]) != (variant, seed)] + [row]
                    print(variant, seed, flush=True)
        answered = {"asked": plain(asked)}
    finally:
        shelf.keep("schedule", {"set": name, "stages": [list(g) for g in groups], "runs": index, **answered})


if __name__ == "__main__":
    main()
