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
from _results import encoder, fetch_records, keep, keep_records, stamp, work_folder
from kinfold.app.compare._runs import finished, train_one
from kinfold.app.compare._variants import Variant
from kinfold.metrics import MeasureSettings, measure
from kinfold.stages.manifest import roles
from kinfold.stages.model import model_fingerprint
from results_when import CELLS, DOMAINS, world

SEEDS = (0, 1)
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
    work = work_folder() / "when"
    (work / "records").mkdir(parents=True, exist_ok=True)
    fetch_records("when", work)
    cell = next(cell for cell in CELLS if cell.name == "plain-apart")
    corpora, _ = world(cell.turned)
    model = encoder()
    relations = measure(
        corpora,
        tokenizer=str(model),
        settings=MeasureSettings(measures=MEASURES, embedder="lsa", samples=200, bootstrap=20, permutations=0),
    )
    prints = {"corpora": corpora.fingerprints, "roles": roles(corpora), "model": model_fingerprint(str(model))}
    groups: list[dict[str, Any]] = []
    try:
        with lower_layers_kept(5):
            for seed in map(int, options.seeds.split(",")):
                for group in combinations(sorted(DOMAINS), WIDTH):
                    key = Variant("lattice", 0, seed, (group,), cell.train).key(prints)
                    if finished(work, key) is None:
                        train_one(
                            (group,),
                            cell.train,
                            seed,
                            key=key,
                            corpora=corpora,
                            model=str(model),
                            folder=work,
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
                    "made": stamp(),
                }
                keep("when", "lattice", value)
    finally:
        keep_records("when", work)


if __name__ == "__main__":
    main()
