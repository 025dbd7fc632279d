"""Comparing a plan with its rivals: what is trained, what is paired, how sure it is, and what is kept."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.app.compare import CompareSettings, Comparison, compare, comparison_table
from kinfold.app.compare._conditions import condition
from kinfold.app.compare._grid import grid_summary, grid_variants, shortened
from kinfold.app.compare._queue import Job
from kinfold.app.compare._statistics import bootstrap_interval, paired_difference, student_half_width
from kinfold.app.compare._summary import summarise
from kinfold.app.compare._variants import Variant, trained_units, variants
from kinfold.corpora import Corpora, load_corpora
from kinfold.errors import ConfigError, CorpusError, ModelError, PlanError, RunError
from kinfold.partition import Plan, PlanSettings
from kinfold.stages import LoraSpec, TrainSettings

PLAN = Plan(stages=(("garden", "kitchen"), ("harbour", "engine")), domains=("engine", "garden", "harbour", "kitchen"))
TRAIN = TrainSettings(
    epochs=1,
    documents=12,
    batch_tokens=512,
    max_length=64,
    lr=1e-2,
    lora=LoraSpec(rank=4),
    eval_documents=5,
    bootstrap=20,
    ssl_weight=0.0,
    align_weight=0.0,
)


# -- settings ---------------------------------------------------------------------------------------------------


def test_methods_are_settled_and_the_plan_comes_first() -> None:
    made = CompareSettings(methods=("Single_Linkage", "joint", "all in one"), ablate=("ssl",), seeds=(3,))
    assert made.methods == ("plan", "single-linkage", "joint", "no-ssl")
    assert replace(made, seeds=(1,)).methods == made.methods
    assert CompareSettings(methods="joint, random").methods == ("plan", "joint", "random")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": ("jiont",)}, "compare.methods: 'jiont' is not known"),
        ({"methods": ()}, "names nothing beside the plan"),
        ({"ablate": ("lora",)}, "compare.ablate: 'lora' is not known"),
        ({"seeds": ()}, "compare.seeds"),
        ({"seeds": (0, 0)}, "names a seed twice"),
        ({"seeds": (-1,)}, "compare.seeds"),
        ({"draws": 0}, "compare.draws=0"),
        ({"jobs": True}, "compare.jobs=True"),
        ({"equal": "time"}, "compare.equal='time'"),
        ({"serving": "last"}, "compare.serving='last'"),
    ],
)
def test_settings_cannot_exist_wrong(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        CompareSettings(**values)


# -- what is trained --------------------------------------------------------------------------------------------


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


# -- statistics -------------------------------------------------------------------------------------------------


def test_the_bootstrap_agrees_with_all_resamples() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 2, 2))
    reference = rng.normal(size=(3, 2))
    difference = values - reference[:, None, :]
    means = []
    for seeds in itertools.product(range(3), repeat=3):
        for draws in itertools.product(itertools.product(range(2), repeat=2), repeat=3):
            for domains in itertools.product(range(2), repeat=2):
                picked = [
                    difference[s, r, d] for s, inner in zip(seeds, draws, strict=True) for r in inner for d in domains
                ]
                means.append(np.mean(picked))
    found = bootstrap_interval(difference, draws=60_000, seed=1)
    assert found == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.05 * np.std(means))
    whole = paired_difference(values, reference, draws=500, seed=1)
    assert whole.mean == pytest.approx(difference.mean())


def test_with_one_domain_or_one_seed_the_interval_is_students() -> None:
    """Against SciPy's own t interval of the mean, where the crossed model has a single factor."""
    from scipy import stats

    sample = np.random.default_rng(3).normal(size=6)
    low, high = stats.t.interval(0.95, df=5, loc=sample.mean(), scale=stats.sem(sample))
    for values in (sample[:, None], sample[None, :]):
        assert student_half_width(values) == pytest.approx((high - low) / 2)
        found = paired_difference(values[:, None, :], np.zeros(values.shape), draws=500, seed=0)
        assert found.low == pytest.approx(low)
        assert found.high == pytest.approx(high)
    assert student_half_width(np.full((3, 4), 2.0)) == 0.0


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.floats(-3, 3), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_differences_shift_and_turn_with_the_values(s: int, r: int, k: int, shift: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, reference = rng.normal(size=(s, r, k)), rng.normal(size=(s, k))
    base = paired_difference(values, reference, draws=50, seed=seed)
    moved = paired_difference(values + shift, reference, draws=50, seed=seed)
    turned = paired_difference(-values, -reference, draws=50, seed=seed)
    assert moved.mean == pytest.approx(base.mean + shift)
    assert turned.mean == pytest.approx(-base.mean)
    assert base.better + base.worse <= k
    assert (turned.better, turned.worse) == (base.worse, base.better)
    if s * r * k == 1:
        assert base.low is None
    else:
        assert base.low is not None
        assert base.high is not None
        assert moved.low is not None
        assert moved.low == pytest.approx(base.low + shift)
        assert base.low <= base.high
    assert base.by_domain == pytest.approx((values - reference[:, None]).mean(axis=(0, 1)))
    for mean, (least, most) in zip(base.by_domain, base.by_domain_range, strict=True):
        assert least - 1e-12 <= mean <= most + 1e-12


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(
    ("seed_sd", "domain_sd", "noise_sd"), [(1.0, 0.3, 0.3), (0.5, 0.5, 0.5), (0.0, 1.0, 0.5), (0.0, 0.0, 1.0)]
)
def test_equal_methods_are_seldom_told_apart(seeds: int, seed_sd: float, domain_sd: float, noise_sd: float) -> None:
    """At most 5 % of verdicts are false, wherever the variance comes from; 500 trials tell 7.5 % from it at 99 %."""
    rng = np.random.default_rng(5)
    trials, false = 500, 0
    for trial in range(trials):
        effects = seed_sd * rng.normal(size=(seeds, 1)) + domain_sd * rng.normal(size=(1, 8))
        values = effects + noise_sd * rng.normal(size=(seeds, 8))
        found = paired_difference(values[:, None, :], np.zeros((seeds, 8)), draws=60, seed=trial)
        assert found.low is not None
        assert found.high is not None
        false += found.low > 0 or found.high < 0
    assert false / trials < 0.075


def test_a_clear_difference_is_found() -> None:
    rng = np.random.default_rng(6)
    values = 1.0 + 0.1 * rng.normal(size=(3, 1, 8))
    found = paired_difference(values, np.zeros((3, 8)), draws=500, seed=0)
    assert found.low is not None
    assert found.low > 0.5


# -- summary ----------------------------------------------------------------------------------------------------


def _record(variant: Variant, losses: dict[str, float], **more: Any) -> dict[str, Any]:
    table = {name: {"loss": value, "accuracy": 1 - value / 10} for name, value in losses.items()}
    before = {name: {"loss": 5.0, "accuracy": 0.5} for name in losses}
    return {
        "key": variant.key({}),
        "task": "lm",
        "split": "test",
        "before": before,
        "final": table,
        "snapshot": before,
        "general": None,
        "tokens": 1000,
        "steps": 10,
        "train_seconds": 2.0,
        "wall_seconds": 3.0,
        "peak_memory": 10,
        "parameters": 100,
        "environment": {},
    } | more


def _summary(task: str = "lm", skip: tuple[str, int] | None = None, **values: Any) -> dict[str, Any]:
    made = CompareSettings(**{"methods": ("joint", "random"), "seeds": (0, 1), "draws": 2, **values})
    runs = variants(PLAN, None, settings=made, train=TRAIN, plan_settings=PlanSettings(), seed=0)
    offset = {"plan": 0.0, "joint": 0.5, "random": -0.25}
    done = [
        (
            run,
            _record(
                run,
                {name: 3.0 + offset[run.method] + i / 10 + run.seed for i, name in enumerate(PLAN.domains)},
                task=task,
            ),
        )
        for run in runs
        if skip != (run.method, run.seed)
    ]
    return summarise(done, {skip[0]: ["it diverged"]} if skip else {}, settings=made, plan={}, made_of={}, seed=0)


def test_advantages_have_the_sign_of_better() -> None:
    value = _summary()
    rows = {row["name"]: row for row in value["methods"]}
    assert rows["joint"]["plan_advantage"]["mean"] == pytest.approx(0.5)
    assert rows["joint"]["verdict"] == "plan better"
    assert rows["random"]["plan_advantage"]["mean"] == pytest.approx(-0.25)
    assert rows["random"]["verdict"] == "plan worse"
    assert rows["plan"]["mean"] == pytest.approx(3.65)
    assert rows["plan"]["sd_over_seeds"] == pytest.approx(np.std([3.15, 4.15], ddof=1))
    assert rows["joint"]["worst"] == {"domain": "kitchen", "value": pytest.approx(0.7), "of": "gain over the base"}
    assert rows["joint"]["other_serving"] == {"snapshot": 5.0}
    assert rows["random"]["runs"] == 4

    value = _summary(task="classification")
    rows = {row["name"]: row for row in value["methods"]}
    assert value["metric"] == "accuracy"
    # Accuracy is higher for the plan where its loss was lower.
    assert rows["joint"]["plan_advantage"]["mean"] == pytest.approx(0.05)
    assert rows["joint"]["verdict"] == "plan better"
    assert rows["joint"]["worst"]["of"] == "accuracy"


def test_stopped_runs_are_left_out_in_pairs_and_said() -> None:
    value = _summary(skip=("joint", 1))
    rows = {row["name"]: row for row in value["methods"]}
    assert rows["joint"]["seeds"] == [0]
    assert rows["joint"]["plan_advantage"]["mean"] == pytest.approx(0.5)
    assert rows["joint"]["verdict"] == "too few runs to say"
    assert any("joint: 1 run(s) had to stop; the first: it diverged" in warning for warning in value["warnings"])


def test_a_method_that_came_to_the_plan_is_called_the_same() -> None:
    made = CompareSettings(methods=("joint",), seeds=(0, 1))
    joint = Plan(stages=(PLAN.domains,), domains=PLAN.domains)
    runs = variants(joint, None, settings=made, train=TRAIN, plan_settings=PlanSettings(), seed=0)
    done = [(run, _record(run, dict.fromkeys(PLAN.domains, 3.0))) for run in runs]
    value = summarise(done, {}, settings=made, plan={}, made_of={}, seed=0)
    assert value["methods"][1]["verdict"] == "same as the plan"
    assert any("nothing to compare" in warning for warning in value["warnings"])


def test_names_are_text_in_every_view(tmp_path: Path) -> None:
    value = json.loads(json.dumps(_summary()))
    evil = "<script>|[x](y)*\x1b[31m$\\frac$"
    text = json.dumps(value).replace('"kitchen"', json.dumps(evil))
    comparison = Comparison(tmp_path, json.loads(text))
    shown = comparison.markdown
    assert "<script>" not in shown
    assert "\x1b" not in shown
    assert r"\[x\](y)\*" in shown
    table = next(line for line in shown.splitlines() if line.startswith("| domain"))
    for line in shown.splitlines():
        if "&lt;script" in line and line.startswith("| &lt;"):
            assert len(re.findall(r"(?<!\\)\|", line)) == table.count("|")
    comparison.save()
    assert (tmp_path / "forest.svg").read_text().startswith("<?xml")
    assert Comparison.load(tmp_path).to_dict() == comparison.to_dict()
    assert Comparison.load(tmp_path / "compare.json").methods == ("plan", "joint", "random")

    from rich.console import Console

    console = Console(width=80, record=True, file=(tmp_path / "t").open("w"))
    console.print(comparison_table(comparison))
    printed = console.export_text()
    assert all(len(line) <= 80 for line in printed.splitlines())
    assert "plan better" in printed
    assert "+0.500" in printed


def test_what_is_no_comparison_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such file"):
        Comparison.load(tmp_path)
    (tmp_path / "compare.json").write_text("{}")
    with pytest.raises(RunError, match="not a comparison of this version"):
        Comparison.load(tmp_path)
    with pytest.raises(RunError, match="no method 'x'"):
        Comparison(tmp_path, _summary()).method("x")


# -- presets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grid_ssl": (-0.1,)}, "compare.grid_ssl=-0.1: must be a number from 0"),
        ({"token_noise": (0.0,)}, "compare.token_noise=0.0: must be a number above 0 up to 1"),
        ({"label_noise": (1.5,)}, "compare.label_noise=1.5"),
        ({"imbalance": (1.0,)}, "compare.imbalance=1.0: must be a number above 1"),
        ({"imbalance": ("ten",)}, "compare.imbalance='ten'"),
    ],
)
def test_levels_are_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        CompareSettings(**values)


def test_noise_changes_training_words_alone_and_comes_again(toy_corpora: Path, tmp_path: Path) -> None:
    corpora = load_corpora(toy_corpora)
    noisy = condition(corpora, "token_noise", 0.3, tmp_path / "a", seed=0)
    assert noisy.names == corpora.names
    assert noisy["general"] is corpora["general"]
    total = changed = 0
    for domain in corpora.planned:
        pool = {word for text in domain.texts("train") for word in text.split()}
        for split in ("validation", "test"):
            assert list(noisy[domain.name].texts(split)) == list(domain.texts(split))
        for old, new in zip(domain.texts("train"), noisy[domain.name].texts("train"), strict=True):
            assert set(new.split()) <= pool
            pairs = list(zip(old.split(), new.split(), strict=True))
            total += len(pairs)
            changed += sum(a != b for a, b in pairs)
    # A replacement may hit the same word again, so a little below .3.
    assert 0.25 < changed / total < 0.31
    again = condition(corpora, "token_noise", 0.3, tmp_path / "b", seed=0)
    assert again.fingerprints == noisy.fingerprints
    assert condition(corpora, "token_noise", 0.3, tmp_path / "b", seed=1).fingerprints != noisy.fingerprints


def test_wrong_labels(toy_labelled: Path, toy_corpora: Path, tmp_path: Path) -> None:
    corpora = load_corpora(toy_labelled)
    noisy = condition(corpora, "label_noise", 1.0, tmp_path, seed=0)
    for domain in corpora.planned:
        for old, new in zip(domain.records("train"), noisy[domain.name].records("train"), strict=True):
            assert (old.text, {"0": "1", "1": "0"}[str(old.label)]) == (new.text, new.label)
        assert [r.label for r in noisy[domain.name].records("test")] == [r.label for r in domain.records("test")]
    with pytest.raises(ConfigError, match=r"compare\.label_noise: engine has 0 label"):
        condition(load_corpora(toy_corpora), "label_noise", 0.1, tmp_path / "none", seed=0)
    assert not list((tmp_path / "none").iterdir())


def test_imbalance_goes_from_the_smallest_domain_down(toy_corpora: Path, tmp_path: Path) -> None:
    corpora = load_corpora(toy_corpora)
    uneven = condition(corpora, "imbalance", 8.0, tmp_path, seed=0)
    least = min(sum(1 for _ in domain.records("train")) for domain in corpora.planned)
    sizes = sorted(sum(1 for _ in domain.records("train")) for domain in uneven.planned)
    assert sizes == [round(least / 8), round(least / 4), round(least / 2), least]
    for domain in corpora.planned:
        assert set(uneven[domain.name].texts("train")) <= set(domain.texts("train"))
        assert sorted(uneven[domain.name].texts("test")) == sorted(domain.texts("test"))


def test_grid_runs_change_two_weights(tmp_path: Path) -> None:
    made = CompareSettings(methods=(), grid_ssl=(0, 0.5), grid_align=(0.1,), seeds=(0, 1))
    found = grid_variants(PLAN, settings=made, train=TRAIN)
    assert [(run.settings.ssl_weight, run.settings.align_weight, run.seed) for run in found] == [
        (0.0, 0.1, 0),
        (0.0, 0.1, 1),
        (0.5, 0.1, 0),
        (0.5, 0.1, 1),
    ]
    assert grid_variants(PLAN, settings=CompareSettings(), train=TRAIN) == []
    losses = [1.0, 2.0, 4.0]
    jobs = [Job(run, Corpora(()), str(n)) for n, run in enumerate(found)]
    records = {str(n): _record(found[n], dict.fromkeys(PLAN.domains, loss)) for n, loss in enumerate(losses)}
    grid = grid_summary(jobs, records, made)
    assert grid["mean"] == [[1.5], [4.0]]
    assert grid["sd_over_seeds"] == [[pytest.approx(np.std([1, 2], ddof=1))], [None]]
    assert grid["runs"] == [[2], [1]]
    value = _summary() | {
        "grid": grid,
        "conditions": [{"kind": "token_noise", "level": 0.1, **shortened(_summary())}],
    }
    comparison = Comparison(tmp_path, value)
    assert "| 0.5 | 4.0000 |" in comparison.markdown
    assert "| token noise 0.1 | 3.6500 | 4.1500 (+0.5000" in comparison.markdown
    comparison.save()
    pictures = {path: path.read_bytes() for path in tmp_path.glob("*.*g")}
    comparison.save()
    assert {path: path.read_bytes() for path in pictures} == pictures
    assert {path.name for path in tmp_path.glob("*.svg")} == {"forest.svg", "sensitivity.svg", "robustness.svg"}


# -- whole runs -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared(
    toy_corpora: Path, tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Corpora, Comparison]:
    corpora = load_corpora(toy_corpora)
    comparison = compare(
        corpora,
        model=tiny_llama_dir,
        out=tmp_path_factory.mktemp("compare") / "out",
        plan=PLAN,
        train=TRAIN,
        settings=CompareSettings(methods=("joint", "independent"), seeds=(0, 1), bootstrap=200),
    )
    return corpora, comparison


def test_a_comparison_from_end_to_end(compared: tuple[Corpora, Comparison]) -> None:
    _, comparison = compared
    value = comparison.value
    assert comparison.methods == ("plan", "joint", "independent")
    assert value["metric"] == "loss"
    assert value["domains"] == sorted(PLAN.domains)
    rows = {name: comparison.method(name) for name in comparison.methods}
    tokens = [row["cost"]["tokens"] for row in rows.values()]
    assert max(tokens) <= 1.25 * min(tokens)
    # The same factors per adapter: 2 + 4, 1 + 4 and 4 of them.
    unit = rows["plan"]["cost"]["parameters"] / 6
    assert rows["joint"]["cost"]["parameters"] == 5 * unit
    assert rows["independent"]["cost"]["parameters"] == 4 * unit
    for row in rows.values():
        assert row["runs"] == 2
        assert row["cost"]["seconds"] > 0
        assert row["cost"]["peak_memory"] > 1e7
        assert row["mean"] < np.mean(list(value["before"].values()))
    assert sorted(path.name for path in comparison.path.iterdir()) == [
        "compare.json",
        "compare.md",
        "forest.png",
        "forest.svg",
        "records",
    ]
    assert len(list((comparison.path / "records").iterdir())) == 6
    assert (comparison.path / "forest.png").read_bytes()[:4] == b"\x89PNG"
    assert len(comparison.lines) >= 2


def test_the_same_call_again_trains_only_what_is_missing(
    compared: tuple[Corpora, Comparison], tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpora, comparison = compared
    before = comparison.to_dict()
    lost = next(
        path for path in (comparison.path / "records").iterdir() if len(json.loads(path.read_text())["stages"]) == 1
    )
    lost.unlink()
    trained = []
    import kinfold.app.compare._runs as runs

    real = runs.train_one

    def spy(*args: Any, **options: Any) -> Any:
        trained.append(options["key"])
        return real(*args, **options)

    monkeypatch.setattr(runs, "train_one", spy)
    again = compare(
        corpora,
        model=tiny_llama_dir,
        out=comparison.path,
        plan=PLAN,
        train=TRAIN,
        settings=CompareSettings(methods=("joint", "independent"), seeds=(0, 1), bootstrap=200),
    ).to_dict()
    assert trained == [lost.stem]
    for old, new in zip(before["methods"], again["methods"], strict=True):
        assert old["values"] == new["values"]
        assert old["plan_advantage"] == new["plan_advantage"]


def test_an_interrupted_comparison_goes_on(
    compared: tuple[Corpora, Comparison], tiny_llama_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpora, comparison = compared
    import kinfold.stages.training as training

    real = training.export_adapter
    calls = []

    def interrupted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 7:  # in the second run, when its adapters are written
            raise KeyboardInterrupt
        return real(*args, **options)

    def call() -> Comparison:
        return compare(
            corpora,
            model=tiny_llama_dir,
            out=tmp_path / "out",
            plan=PLAN,
            train=TRAIN,
            settings=CompareSettings(methods=("joint",), seeds=(0,)),
        )

    monkeypatch.setattr(training, "export_adapter", interrupted)
    with pytest.raises(KeyboardInterrupt):
        call()
    assert not (tmp_path / "out" / "compare.json").exists()
    assert len(list((tmp_path / "out" / "records").iterdir())) == 1
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 1
    monkeypatch.undo()
    for name in ("plan", "joint"):
        assert call().method(name)["values"][0] == comparison.method(name)["values"][0]
    assert not (tmp_path / "out" / "runs").exists()


def test_processes_beside_each_other_give_the_same_losses(
    compared: tuple[Corpora, Comparison], tiny_llama_dir: Path, tmp_path: Path
) -> None:
    corpora, comparison = compared
    apart = compare(
        corpora,
        model=tiny_llama_dir,
        out=tmp_path / "apart",
        plan=PLAN,
        train=TRAIN,
        methods=("joint",),
        seeds=(1,),
        jobs=2,
        settings=CompareSettings(bootstrap=200, keep_runs=True),
    )
    for name in ("plan", "joint"):
        one = comparison.method(name)["values"][1]["by_domain"]
        assert apart.method(name)["values"][0]["by_domain"] == pytest.approx(one, abs=1e-5)
    runs = [path for path in (tmp_path / "apart" / "runs").iterdir() if (path / "run.json").exists()]
    assert len(runs) == 2


def test_presets_train_beside_what_is_there(
    compared: tuple[Corpora, Comparison], tiny_llama_dir: Path, tmp_path: Path
) -> None:
    corpora, comparison = compared
    shutil.copytree(comparison.path, tmp_path / "out")
    more = compare(
        corpora,
        model=tiny_llama_dir,
        out=tmp_path / "out",
        plan=PLAN,
        train=TRAIN,
        settings=CompareSettings(methods=("joint",), seeds=(0,), imbalance=(4.0,), grid_align=(0.0, 0.5)),
    )
    uneven = more.value["conditions"][0]
    assert [(row["name"], row["runs"]) for row in uneven["methods"]] == [("plan", 1), ("joint", 1)]
    assert uneven["methods"][0]["mean"] != more.method("plan")["mean"]
    # The square with the weights of the training settings is the plan's own run.
    assert more.value["grid"]["mean"][0][0] == pytest.approx(more.method("plan")["mean"])
    assert len(list((tmp_path / "out" / "records").iterdir())) == 6 + 2 + 1


def test_what_is_brought_along_is_checked_before_anything_is_written(
    compared: tuple[Corpora, Comparison], tiny_llama_dir: Path, toy_corpora: Path, tmp_path: Path
) -> None:
    corpora, _ = compared
    out = tmp_path / "out"

    def call(**changed: Any) -> None:
        compare(
            **{
                "corpora": corpora,
                "model": tiny_llama_dir,
                "out": out,
                "plan": PLAN,
                "train": TRAIN,
                "methods": ("joint",),
                **changed,
            }
        )

    with pytest.raises(ConfigError, match=r"train\.max_steps=5: would give methods with more stages more or less text"):
        call(train=replace(TRAIN, max_steps=5))
    with pytest.raises(ModelError):
        call(model=tmp_path / "no-model")
    with pytest.raises(PlanError, match="the plan trains x, which the corpora do not hold"):
        call(plan=Plan(stages=(("x", "garden"),), domains=("x", "garden")))
    with pytest.raises(PlanError, match="one domain only"):
        call(plan=Plan(stages=(("garden",),), domains=("garden",)))
    with pytest.raises(CorpusError, match="only one domain"):
        call(corpora=load_corpora({"garden": toy_corpora / "garden.jsonl"}))
    with pytest.raises(ConfigError, match="is not known"):
        call(methods=("jiont",))
    assert not out.exists()
    out.write_text("a file")
    with pytest.raises(RunError, match="is a file"):
        call()
