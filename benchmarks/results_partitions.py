"""Does a higher planned objective mean a better trained outcome? Several partitions of one set, trained alike.

python benchmarks/results_partitions.py prose     (or demo, or reviews; `--parts contrary,halves` for some)

contrary   the partition of the plan's sizes that the objective likes least
reversed   the plan's stages in reverse order
fewest     the plan in as few stages as the budget allows
few        random groups of the sizes of those
apart      the plan and random groups with nothing carried from group to group: each group is trained from the base
           model, so that only who shares a group counts; beside them the
           groups of those sizes that gradient affinity and the measured transfer itself like best (results_transfer.py)
halves     two random stages, beside one stage and the plan's: what one more stage costs
grid       the plan at every λ and scale; settings that come to the same groups are trained once

Settings, budget and seeds are those of results_sets.py, whose runs of the plan, of one stage for all and of random
groups stand beside these. Whatever the policy, groups have the plan's sizes except where the part says otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from _frozen import lower_layers_kept
from _results import STORE, corpora_of
from _results_shelf import Shelf, plain, settled
from kinfold._seeding import generator
from kinfold.app.compare._runs import finished, train_one
from kinfold.app.compare._variants import Variant
from kinfold.metrics import Relations
from kinfold.partition import make_plan
from kinfold.partition.expectation import _exchanged, lead
from kinfold.partition.scaling import rank_scale
from kinfold.stages.manifest import roles
from results_sets import BUDGET, LOWER, PLAN, SEEDS, SETS, base_of, relations_of

Groups = tuple[tuple[str, ...], ...]
PARTS = ("contrary", "reversed", "fewest", "few", "apart", "halves", "grid")
# What the page shows.
ASKED = {
    "prose": ("contrary", "reversed", "fewest", "few", "apart", "halves"),
    "demo": ("contrary", "reversed", "fewest"),
    "reviews-text": ("contrary",),
    "reviews": ("fewest",),
}
LAMS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
SCALES = ("rank", "floor", "none")
DRAWS = 2
_STARTS = 200


def contrary(gain: Any, names: Sequence[str], plan: Groups) -> Groups:
    """The groups of the plan's sizes, in the order of the plan's sizes, that its objective likes least."""
    stage = {name: t for t, group in enumerate(plan) for name in group}
    labels = np.array([stage[name] for name in names])
    rng = generator(0, "results", "contrary")
    found = max((_exchanged(-gain, rng.permutation(labels)) for _ in range(_STARTS)), key=lambda one: lead(-gain, one))
    return tuple(tuple(names[i] for i in np.flatnonzero(found == t)) for t in range(len(plan)))


def liked(name: str, names: Sequence[str], plan: Groups) -> dict[str, Groups]:
    """The groups of the plan's sizes that gradient affinity, and measured transfer, like best; ranks of pairs count."""
    path = STORE / f"transfer-{name}" / "transfer.json"
    if not path.exists():
        raise SystemExit(f"{path} is not there; run benchmarks/results_transfer.py {name} first.")
    value = json.loads(path.read_text())
    at = [value["domains"].index(one) for one in names]
    found = {"by transfer": np.mean(value["transfer"], axis=0)}
    for one in value["matrices"]:
        if one.startswith("gradient_affinity"):
            found["by gradients"] = np.array(value["matrices"][one])
    out = {}
    for policy, matrix in found.items():
        even = (matrix + matrix.T)[np.ix_(at, at)] / 2
        np.fill_diagonal(even, 0.0)
        out[policy] = contrary(-rank_scale(even), names, plan)
    return out


def drawn(names: Sequence[str], sizes: Sequence[int], *about: object) -> Groups:
    """Random groups of these sizes, in random order."""
    rng = generator(0, "results", "partitions", *about)
    order, widths = rng.permutation(len(names)), rng.permutation(sizes)
    ends = np.cumsum(widths)
    return tuple(
        tuple(sorted(names[i] for i in order[end - width : end])) for width, end in zip(widths, ends, strict=True)
    )


def settings_grid(relations: Relations) -> list[dict[str, Any]]:
    """The groups of every λ and scale, and the settings that came to them."""
    found: dict[frozenset[tuple[str, ...]], dict[str, Any]] = {}
    for scale in SCALES:
        for lam in LAMS:
            asked = replace(PLAN, lam=lam, scale=scale, bootstrap=0, phase=0, compare=False)  # type: ignore[arg-type]
            stages = make_plan(relations, settings=asked).stages
            row = found.setdefault(frozenset(stages), {"stages": [list(group) for group in stages], "settings": []})
            row["settings"].append([scale, lam])
    return list(found.values())


class Study:
    """Trains what has no record yet and keeps the index."""

    def __init__(self, name: str) -> None:
        self.name, self.study = name, f"partitions-{name}"
        self.corpora = corpora_of(name)
        compared = json.loads((STORE / name / "compare.json").read_text())
        self.plan: Groups = tuple(tuple(stage) for stage in compared["plan"]["stages"])
        self.names = tuple(compared["plan"]["domains"])
        self.gain = np.array(compared["plan"]["gain"])
        held = STORE / self.study / "partitions.json"
        self.value: dict[str, Any] = json.loads(held.read_text()) if held.exists() else {"set": name, "runs": []}
        self.value.pop("asked", None)

    def asked(self, parts: Sequence[str]) -> dict[str, Any]:
        """What the study is made of."""
        return {
            "train": SETS[self.name].to_dict(),
            "parts": list(parts),
            "seeds": list(SEEDS),
            "draws": DRAWS,
            "plan of the set": [list(group) for group in self.plan],
            "texts": self.corpora.fingerprints,
            "base": base_of(self.name).identity,
        }

    def begin(self) -> None:
        """Lay out what has been trained already; runs of the set itself are found again instead of being repeated."""
        self.shelf = Shelf(self.study, base_of(self.name), beside=(self.name,))
        prints = {"corpora": self.corpora.fingerprints, "roles": roles(self.corpora)}
        self.prints = {**prints, "model": self.shelf.base.fingerprint}

    def one(self, part: str, policy: str, stages: Groups, seed: int, draw: int = 0, *, apart: bool = False) -> None:
        """One partition under one seed: a run of its stages, or a run for each group."""
        keys = []
        for some in [(group,) for group in stages] if apart else [stages]:
            settled = tuple(tuple(sorted(stage)) for stage in some)
            key = Variant(policy, draw, seed, settled, SETS[self.name]).key(self.prints)
            if finished(self.shelf.work, key) is None:
                train_one(
                    settled,
                    SETS[self.name],
                    seed,
                    key=key,
                    corpora=self.corpora,
                    model=str(self.shelf.base.folder),
                    folder=self.shelf.work,
                    keep=False,
                )
            keys.append(key)
        row = {"part": part, "policy": policy, "seed": seed, "draw": draw, "stages": [list(g) for g in stages]}
        self.value["runs"] = [
            one for one in self.value["runs"] if any(one[k] != row[k] for k in ("part", "policy", "seed", "draw"))
        ]
        self.value["runs"].append({**row, "parts": keys})
        self.keep()
        print(part, policy, "seed", seed, flush=True)

    def keep(self, **more: Any) -> None:
        """Store the index and the records it names, but those that the set has anyway."""
        self.shelf.keep("partitions", {**self.value, **more})

    def before(self, policy: str) -> Groups | None:
        """The groups that a policy came to when it was first trained: a later search may order equals otherwise."""
        found = [row["stages"] for row in self.value["runs"] if row["policy"] == policy]
        return tuple(tuple(group) for group in found[0]) if found else None

    def run(self, part: str) -> None:
        """Every run of a part, seed by seed, so that a study cut short leaves whole seeds."""
        other = self.before("contrary") or contrary(self.gain, self.names, self.plan)
        if part == "grid" and "grid" not in self.value:
            relations = relations_of(self.name)
            self.value["grid"] = settings_grid(relations)
            pairs = {name: np.round(relations.matrix(name), 6).tolist() for name in ("js", "synergy")}
            self.value["relations"] = {"domains": list(relations.domains), **pairs}
        best: dict[str, Groups] = {}
        if part == "apart":
            names = ("by transfer", "by gradients")
            best = {name: groups for name in names if (groups := self.before(name))}
            best = best or liked(self.name, self.names, self.plan)
        fewest: Groups = ()
        if part in ("fewest", "few"):
            fewest = self.before("fewest") or ()
        if part in ("fewest", "few") and not fewest:
            least = -(-len(self.names) // BUDGET["domains"])
            fewest = make_plan(relations_of(self.name), settings=replace(PLAN, stages=least)).stages
        for seed in SEEDS:
            if part == "fewest":
                self.one(part, "fewest", fewest, seed)
            elif part == "few":
                for draw in range(DRAWS):
                    groups = drawn(self.names, [len(g) for g in fewest], "fewest", seed, draw)
                    self.one("fewest", "random, as few", groups, seed, draw)
            elif part == "contrary":
                self.one(part, "contrary", other, seed)
            elif part == "reversed":
                self.one(part, "reversed", self.plan[::-1], seed)
            elif part == "apart":
                self.one(part, "plan", self.plan, seed, apart=True)
                for policy, groups in best.items():
                    self.one(part, policy, groups, seed, apart=True)
                for draw in range(DRAWS):
                    groups = drawn(self.names, [len(g) for g in self.plan], "apart", seed, draw)
                    self.one(part, "random", groups, seed, draw, apart=True)
            elif part == "halves":
                half = len(self.names) // 2
                self.one(part, "halves", drawn(self.names, [half, len(self.names) - half], "halves", seed), seed)
            else:
                for number, row in enumerate(self.value["grid"]):
                    self.one(part, f"grid {number}", tuple(map(tuple, row["stages"])), seed)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("set", choices=("prose", "demo", "reviews", "reviews-text"))
    parser.add_argument("--parts", help=f"some of {', '.join(PARTS)}; for the page: see ASKED")
    options = parser.parse_args()
    study = Study(options.set)
    parts = options.parts.split(",") if options.parts else ASKED[options.set]
    asked = study.asked(parts)
    if settled(study.study, "partitions", asked, beside=(options.set,)):
        return
    study.begin()
    lower = LOWER.get(options.set)
    with lower_layers_kept(lower) if lower else contextlib.nullcontext():
        for part in parts:
            study.run(part)
    study.keep(asked=plain(asked))


if __name__ == "__main__":
    main()
