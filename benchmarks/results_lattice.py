"""Which objective finds a good partition? All 35 ways to split eight review domains into two groups of four.

python benchmarks/results_lattice.py     (`--seeds 0,1` for some)

Groups share nothing, so a group is trained once for all partitions that hold it: 70 trainings a seed give the outcome
of every partition, and with it that of every λ, scale and measure that a planner could have used. World, model and
settings are those of the cell plain-apart of results_when.py, whose runs are found again.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from typing import Any

from _frozen import lower_layers_kept
from _results import ENCODER
from _results_shelf import Shelf, plain, settled
from kinfold.app.compare._runs import finished, train_one
from kinfold.app.compare._variants import Variant
from kinfold.metrics import MeasureSettings, measure
from kinfold.stages.manifest import roles
from results_when import CELLS, DOMAINS, world

SEEDS = (0,)
WIDTH = 4
MEASURES = (
    "js",
    "synergy",
    "synergy_centred",
    "jaccard",
    "ruzicka",
    "cosine",
    "cosine_centred",
    "mmd2",
    "class_mean_cosine",
    "proxy_a_distance",
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)))
    options = parser.parse_args()
    cell = next(cell for cell in CELLS if cell.name == "plain-apart")
    corpora, _ = world(cell.turned)
    seeds = [int(word) for word in options.seeds.split(",")]
    asked = {"train": cell.train.to_dict(), "seeds": seeds, "measures": list(MEASURES), "width": WIDTH}
    asked |= {"texts": corpora.fingerprints, "base": ENCODER.identity}
    if settled("when", "lattice", asked):
        return
    shelf = Shelf("when", ENCODER)
    relations = measure(
        corpora,
        tokenizer=str(ENCODER.folder),
        settings=MeasureSettings(measures=MEASURES, embedder="lsa", samples=200, bootstrap=20, permutations=0),
    )
    prints = {"corpora": corpora.fingerprints, "roles": roles(corpora), "model": ENCODER.fingerprint}
    groups: list[dict[str, Any]] = []
    try:
        with lower_layers_kept(5):
            for seed in seeds:
                for group in combinations(sorted(DOMAINS), WIDTH):
                    key = Variant("lattice", 0, seed, (group,), cell.train).key(prints)
                    if finished(shelf.work, key) is None:
                        train_one(
                            (group,),
                            cell.train,
                            seed,
                            key=key,
                            corpora=corpora,
                            model=str(ENCODER.folder),
                            folder=shelf.work,
                            keep=False,
                        )
                    groups.append({"seed": seed, "group": list(group), "record": key})
                print("seed", seed, flush=True)
                value = {
                    "domains": list(relations.domains),
                    "matrices": {name: relations.matrix(name).round(6).tolist() for name in relations.names},
                    "intervals": {
                        name: [side.round(6).tolist() for side in relations.interval(name)]
                        for name in ("js", "synergy")
                    },
                    "settings": cell.train.to_dict(),
                    "groups": groups,
                    **({"asked": plain(asked)} if seed == seeds[-1] else {}),
                }
                shelf.keep("lattice", value)
    finally:
        shelf.take_in()


if __name__ == "__main__":
    main()
