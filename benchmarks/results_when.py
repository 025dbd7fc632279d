"""When does a plan matter? Eight review domains under conditions that make sharing cheap or costly.

python benchmarks/results_when.py     (all cells; `--cells conflict-apart,...` for some)

A cell fixes the world (labels as they are, or with the convention turned round in half of the domains), what groups
share (stages on one adapter and head, each going on from the last; or nothing: an adapter and a head per group), how
many domains fit a stage, and how many texts there are. In each cell the groups come from the planner fed with label
affinity, the planner fed with the text measures, the worst partition by that same label objective, and random draws;
one stage for all stands beside them. Everything else is equal.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from _common import shared_data
from _frozen import lower_layers_kept, targets
from _results import ENCODER, STORE, work_folder
from _results_shelf import Shelf, plain, settled
from kinfold._seeding import generator
from kinfold.app.compare._runs import finished, train_one
from kinfold.app.compare._variants import Variant
from kinfold.corpora import Corpora, load_corpora
from kinfold.metrics import MeasureSettings, measure
from kinfold.partition import PlanSettings, make_plan
from kinfold.stages import LoraSpec, TrainSettings
from kinfold.stages.manifest import roles

DOMAINS = ("apparel", "books", "camera_photo", "dvd", "electronics", "kitchen_housewares", "music", "video")
SEEDS = (0, 1, 2)
DRAWS = 2
TRAIN = TrainSettings(
    documents=100,
    epochs=2.0,
    max_length=48,
    batch_tokens=256,
    lr=2e-3,
    lora=LoraSpec(rank=8, alpha=16, targets=targets(5)),
    adapters="shared",
    head="shared",
    ssl_weight=0.0,
    align_weight=0.0,
    precision="bf16",
    eval_documents=60,
    bootstrap=100,
    checkpoint_every=None,
)
Groups = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Cell:
    """One condition of the map."""

    name: str
    turned: bool = False
    apart: bool = False
    width: int = 4
    documents: int = 100
    adapters: str = "shared"
    head: str = "shared"

    @property
    def train(self) -> TrainSettings:
        """Settings of its runs: the scarcer the texts, the more passes, up to six."""
        epochs = min(6.0, TRAIN.epochs * 100 / self.documents)
        return replace(TRAIN, documents=self.documents, epochs=epochs, adapters=self.adapters, head=self.head)  # type: ignore[arg-type]


CELLS = (
    Cell("conflict-apart", turned=True, apart=True),
    Cell("plain-apart", apart=True),
    Cell("plain-apart-scarce", apart=True, documents=20),
    Cell("conflict-staged", turned=True),
    Cell("plain-staged"),
    Cell("plain-apart-pairs", apart=True, width=2),
    Cell("conflict-default", turned=True, adapters="both", head="domain"),
)
# Not run for the page by itself; it is shown where it was.
MORE = (Cell("plain-both", adapters="both"),)


def world(turned: bool) -> tuple[Corpora, tuple[str, ...]]:
    """The corpora, and the domains whose labels are turned round (a random half)."""
    source = shared_data() / "reviews"
    if not turned:
        return load_corpora({name: source / f"{name}.jsonl" for name in DOMAINS}), ()
    order = generator(0, "results", "turned").permutation(len(DOMAINS))
    odd = tuple(sorted(DOMAINS[i] for i in order[: len(DOMAINS) // 2]))
    folder = work_folder() / "turned"
    folder.mkdir(exist_ok=True)
    for name in DOMAINS:
        if not (folder / f"{name}.jsonl").exists():
            rows = [json.loads(line) for line in (source / f"{name}.jsonl").read_text().splitlines()]
            for row in rows:
                row["label"] = 1 - int(row["label"]) if name in odd else int(row["label"])
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_corpora({name: folder / f"{name}.jsonl" for name in DOMAINS}), odd


def partitions(names: Sequence[str], width: int) -> Iterator[Groups]:
    """Every partition into groups of `width`."""
    if not names:
        yield ()
        return
    from itertools import combinations

    first, rest = names[0], names[1:]
    for others in combinations(rest, width - 1):
        left = [name for name in rest if name not in others]
        for tail in partitions(left, width):
            yield ((first, *others), *tail)


def policies(corpora: Corpora, model: str, width: int) -> dict[str, Any]:
    """Groups by policy (without random ones), and the label objective of every partition."""
    settings = MeasureSettings(
        measures=("js", "synergy", "jaccard", "cosine", "class_mean_cosine"),
        embedder="lsa",
        samples=200,
        bootstrap=0,
        permutations=0,
    )
    relations = measure(corpora, tokenizer=model, settings=settings)
    quick = PlanSettings(
        budget={"domains": width}, stages=len(DOMAINS) // width, bootstrap=0, phase=0, compare=False, order="given"
    )
    text = make_plan(relations, settings=quick)
    label = make_plan(
        relations, settings=replace(quick, discrepancy="class_mean_cosine", synergy="class_mean_cosine", lam=1.0)
    )
    at = {name: i for i, name in enumerate(label.domains)}

    def value(groups: Groups) -> float:
        return float(sum(label.gain[at[a], at[b]] for g in groups for n, a in enumerate(g) for b in g[n + 1 :]))

    every = list(partitions(sorted(DOMAINS), width))
    return {
        "plan by labels": [list(g) for g in label.stages],
        "plan by text": [list(g) for g in text.stages],
        "worst by labels": [list(g) for g in min(every, key=value)],
        "count": len(every),
        "class_mean_cosine": relations.matrix("class_mean_cosine").round(4).tolist(),
        "agreement": relations.agreement.get("class_mean_cosine"),
        "value": {name: value(tuple(map(tuple, groups))) for name, groups in (("best", label.stages),)}
        | {"worst": min(map(value, every)), "mean": sum(map(value, every)) / len(every)},
    }


def _drawn(width: int, seed: int, draw: int) -> Groups:
    every = list(partitions(sorted(DOMAINS), width))
    rng = generator(0, "results", "draw", width, seed, draw)
    groups = every[int(rng.integers(len(every)))]
    return tuple(groups[i] for i in rng.permutation(len(groups)))


def asked_of(cell: Cell) -> dict[str, Any]:
    """What a cell is made of."""
    return {
        "train": cell.train.to_dict(),
        "apart": cell.apart,
        "width": cell.width,
        "seeds": list(SEEDS),
        "draws": DRAWS,
        "texts": world(cell.turned)[0].fingerprints,
        "base": ENCODER.identity,
    }


def run_cell(cell: Cell, shelf: Shelf) -> None:
    """Train what is missing of a cell and keep its index."""
    corpora, odd = world(cell.turned)
    model = str(shelf.base.folder)
    prints = {"corpora": corpora.fingerprints, "roles": roles(corpora), "model": shelf.base.fingerprint}
    held = STORE / "when" / f"{cell.name}.json"
    planned = json.loads(held.read_text())["policies"] if held.exists() else policies(corpora, model, cell.width)
    index: list[dict[str, Any]] = []

    def one(policy: str, groups: Groups, seed: int, draw: int = 0) -> None:
        parts = [(group,) for group in groups] if cell.apart else [groups]
        keys = []
        for part in parts:
            stages = tuple(tuple(sorted(stage)) for stage in part)
            variant = Variant(policy, draw, seed, stages, cell.train)
            key = variant.key(prints)
            if finished(shelf.work, key) is None:
                train_one(
                    stages, cell.train, seed, key=key, corpora=corpora, model=model, folder=shelf.work, keep=False
                )
            keys.append(key)
        index.append({"policy": policy, "seed": seed, "draw": draw, "groups": [list(g) for g in groups], "parts": keys})

    try:
        for seed in SEEDS:
            for policy in ("plan by labels", "plan by text", "worst by labels"):
                one(policy, tuple(map(tuple, planned[policy])), seed)
            for draw in range(DRAWS):
                one("random", _drawn(cell.width, seed, draw), seed, draw)
            one("joint", (tuple(sorted(DOMAINS)),), seed)
            # After each seed, so that a run that is cut short leaves whole seeds behind.
            made = {"domains": list(DOMAINS), "turned": list(odd), "policies": planned, "runs": index}
            made |= {"asked": plain(asked_of(cell))} if seed == SEEDS[-1] else {}
            shelf.keep(cell.name, {"cell": cell.__dict__, "settings": cell.train.to_dict(), **made})
            print(cell.name, "seed", seed, flush=True)
    finally:
        shelf.take_in()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", default=",".join(cell.name for cell in CELLS))
    options = parser.parse_args()
    wanted = options.cells.split(",")
    missing = [
        cell for cell in (*CELLS, *MORE) if cell.name in wanted and not settled("when", cell.name, asked_of(cell))
    ]
    if missing:
        shelf = Shelf("when", ENCODER)
        # Turned labels are no turned texts: the kept states serve both worlds.
        with lower_layers_kept(5):
            for cell in missing:
                run_cell(cell, shelf)


if __name__ == "__main__":
    main()
