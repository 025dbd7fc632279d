"""What each method trains: stages, settings and seeds, drawn again alike, and keys that tell runs apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from compare_cases import PLAN, TRAIN
from kinfold._progress import SILENT
from kinfold.app.compare import CompareSettings
from kinfold.app.compare._compare import _planned
from kinfold.app.compare._variants import Variant, trained_units, variants
from kinfold.errors import ConfigError, PlanError
from kinfold.metrics.relations import Relations
from kinfold.partition import Plan, PlanSettings
from kinfold.stages import LoraSpec, TrainSettings


def _variants(plan: Plan = PLAN, train: TrainSettings = TRAIN, seed: int = 0, **values: Any) -> list[Variant]:
    return variants(
        plan, None, settings=CompareSettings(**values), train=train, plan_settings=PlanSettings(), seed=seed
    )


def _of(found: list[Variant], method: str) -> list[Variant]:
    return [variant for variant in found if variant.method == method]


def test_every_method_trains_every_domain_once_per_seed() -> None:
    found = _variants(
        methods=("joint", "independent", "one-per-domain", "random"), seeds=(0, 5), draws=3, ablate=("order", "shared")
    )
    assert Counter((variant.method, variant.seed) for variant in found) == {
        (method, seed): 3 if method in ("random", "no-order") else 1
        for method in ("plan", "joint", "independent", "one-per-domain", "random", "no-order", "no-shared")
        for seed in (0, 5)
    }
    for variant in found:
        assert sorted(name for stage in variant.stages for name in stage) == sorted(PLAN.domains)
    assert _of(found, "plan")[0].stages == (("garden", "kitchen"), ("engine", "harbour"))
    assert _of(found, "joint")[0].stages == (("engine", "garden", "harbour", "kitchen"),)
    assert [len(stage) for stage in _of(found, "independent")[0].stages] == [1] * 4
    assert _of(found, "independent")[0].settings.adapters == "domain"
    assert _of(found, "one-per-domain")[0].settings.adapters == "both"
    assert _of(found, "no-shared")[0].settings.adapters == "domain"
    for variant in _of(found, "random"):
        assert sorted(len(stage) for stage in variant.stages) == [2, 2]
    for variant in _of(found, "no-order"):
        assert set(variant.stages) == set(_of(found, "plan")[0].stages)


def test_random_partitions_are_drawn_anew_by_seed_and_draw_and_come_again() -> None:
    names = tuple(f"d{n}" for n in range(9))
    plan = Plan(stages=(names[:4], names[4:6], names[6:]), domains=names)
    found = [variant.stages for variant in _of(_variants(plan, methods=("random",), draws=4), "random")]
    assert len(set(found)) == 12
    assert [variant.stages for variant in _of(_variants(plan, methods=("random",), draws=4), "random")] == found
    assert [variant.stages for variant in _of(_variants(plan, methods=("random",), draws=4, seed=1), "random")] != found
    assert all(sorted(map(len, stages)) == [2, 3, 4] for stages in found)
    # More seeds and draws move none of the others.
    fewer = [variant.stages for variant in _of(_variants(plan, methods=("random",), draws=1), "random")]
    assert fewer == found[::4]


def test_random_partitions_keep_the_budget() -> None:
    sizes = {"tokens": dict(zip(PLAN.domains, (6.0, 5.0, 4.0, 1.0), strict=True))}
    plan = replace(PLAN, sizes=sizes, budget={"tokens": 9.0})
    for variant in _of(_variants(plan, methods=("random",), draws=20), "random"):
        assert all(sum(sizes["tokens"][name] for name in stage) <= 9.0 for stage in variant.stages)
    with pytest.raises(PlanError, match="no random partition of the plan's stage sizes keeps its budgets"):
        _variants(replace(plan, budget={"tokens": 5.0}), methods=("random",))


def test_ablations_change_one_thing_and_refuse_what_is_not_there() -> None:
    train = replace(TRAIN, ssl_weight=0.2, align_weight=0.1, rho_shared=1.0)
    found = _variants(train=train, methods=(), ablate=("ssl", "align", "bounds", "domain"), seeds=(0,))
    assert _of(found, "no-ssl")[0].settings == replace(train, ssl_weight=0.0)
    assert _of(found, "no-align")[0].settings == replace(train, align_weight=0.0)
    assert _of(found, "no-bounds")[0].settings == replace(train, rho_shared=None)
    assert _of(found, "no-domain")[0].settings == replace(train, adapters="shared")
    for ablation in ("ssl", "align", "kl", "bounds"):
        with pytest.raises(ConfigError, match=r"compare\.ablate"):
            _variants(methods=(), ablate=(ablation,))


def test_equal_parameters_fit_the_rank() -> None:
    found = {
        variant.method: variant
        for variant in _variants(
            train=replace(TRAIN, lora=LoraSpec(rank=8, alpha=16)),
            methods=("joint", "independent", "one-per-domain"),
            seeds=(0,),
            equal="parameters",
        )
    }
    # Adapters: plan 2 + 4, joint 1 + 4, independent 4, one per domain 4 + 4.
    assert {name: trained_units(one.stages, one.settings) for name, one in found.items()} == {
        "plan": 6,
        "joint": 5,
        "independent": 4,
        "one-per-domain": 8,
    }
    assert {name: one.settings.lora.rank for name, one in found.items()} == {
        "plan": 8,
        "joint": 10,
        "independent": 12,
        "one-per-domain": 6,
    }
    assert all(one.settings.lora.scaling == 2.0 for one in found.values())


def test_equal_runs_have_one_key_and_unequal_ones_do_not() -> None:
    found = _variants(methods=("joint", "independent", "one-per-domain"), ablate=("shared",), seeds=(0, 1))
    keys = {(variant.method, variant.seed): variant.key({"model": "m"}) for variant in found}
    assert len(set(keys.values())) == len(keys)
    plan = _of(found, "plan")[0]
    again = replace(plan, method="single-linkage", settings=replace(plan.settings, checkpoint_every=7))
    assert again.key({"model": "m"}) == plan.key({"model": "m"})
    assert plan.key({"model": "n"}) != plan.key({"model": "m"})
    assert replace(plan, settings=replace(plan.settings, lr=1e-3)).key({"model": "m"}) != plan.key({"model": "m"})


def test_independent_adapters_share_no_head_either() -> None:
    found = _variants(train=replace(TRAIN, head="shared"), methods=("joint", "independent"), seeds=(0,))
    assert {variant.method: variant.settings.head for variant in found} == {
        "plan": "shared",
        "joint": "shared",
        "independent": "domain",
    }


def test_a_default_plan_of_one_stage_gives_way_to_a_free_one() -> None:
    rng = np.random.default_rng(3)
    k = 6
    matrix = rng.uniform(0.2, 0.8, (k, k))
    js = (matrix + matrix.T) / 2 * (1 - np.eye(k))
    relations = Relations(
        domains=tuple("abcdef"), matrices={"js": js, "synergy": 1 - js}, replicates={}, tokens=np.full(k, 100)
    )
    quick = PlanSettings(bootstrap=0, phase=0, compare=False)
    plan, settings, notes = _planned(relations, quick, 0, SILENT)
    assert len(plan.stages) > 1
    assert settings.stages == "free"
    assert "one stage for all" in notes[0]
    budget = replace(quick, budget={"domains": 3})
    plan, settings, notes = _planned(relations, budget, 0, SILENT)
    assert (len(plan.stages), settings, notes) == (2, budget, [])
