"""The results page: its words follow from the numbers, and what lies in docs/ is what the script writes."""

from __future__ import annotations

import copy
import importlib
import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")


@pytest.fixture(scope="module")
def page() -> Iterator[dict[str, ModuleType]]:
    """The modules of the script, imported as it imports them."""
    names = (
        "_results_words",
        "_results_data",
        "_results_pages",
        "_results_lattice",
        "_results_partitions",
        "_results_presets",
        "_results_foretelling",
        "_results_more",
        "_results_repeat",
        "_results_opening",
        "results",
    )
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
        for name in ("_common", "_results", "_results_shelf", "results_sets", "results_repeat", *names):
            sys.modules.pop(name, None)


def test_words_follow_the_interval(page: dict[str, ModuleType]) -> None:
    words, lead = page["_results_words"], page["_results_data"].Lead
    higher, lower = {"higher_is_better": True}, {"higher_is_better": False}
    assert "**beats one stage for all** by 5.0 points of accuracy" in words.against(
        higher, "joint", lead(0.05, 0.01, 0.09, 7, 8, 3)
    )
    assert "**loses to one stage for all** by 0.050 nats" in words.against(
        lower, "joint", lead(-0.05, -0.09, -0.01, 1, 8)
    )
    unsure = words.against(lower, "random", lead(0.05, -0.01, 0.11, 5, 8))
    assert "**no difference is shown**" in unsure
    assert "better in 5 of 8 domains" in unsure
    assert "not run" in words.against(lower, "random", None)
    assert words.than(lead(0.2, 0.1, 0.3), "x").startswith("better than x")
    assert words.than(lead(-0.2, -0.3, -0.1), "x").startswith("worse than x")
    assert words.than(lead(0.2, -0.1, 0.3), "x").startswith("not to be told from x")


def test_where_it_stands_over_several_sets(page: dict[str, ModuleType]) -> None:
    words, lead = page["_results_words"], page["_results_data"].Lead
    leads = {"a": lead(0.2, 0.1, 0.3), "b": lead(-0.2, -0.3, -0.1), "c": lead(0.0, -0.1, 0.1), "d": lead(0.3, 0.2, 0.4)}
    assert words.standing(leads, figures=False) == "ahead on a, d; behind on b; not to be told apart on c"
    assert words.standing({"b": leads["b"]}) == "behind on b (-0.200 [-0.300, -0.100])"
    assert [words.mark(leads[name])[:5] for name in "abc"] == ["**+**", "**−**", "≈ +0."]
    assert words.mark(None) == "–"


@pytest.mark.parametrize(("low", "beaten"), [(0.1, True), (-0.4, False)])
def test_the_answer_turns_with_the_leads(page: dict[str, ModuleType], store: Path, low: float, beaten: bool) -> None:
    gain = {"mean": low + 0.1, "low": low, "high": low + 0.2, "better": 2}
    rows = [{"name": name, "plan_advantage": gain, "seeds": [0, 1, 2], "verdict": ""} for name in ("joint", "random")]
    value = {"domains": ["a", "b"], "higher_is_better": False, "methods": rows}
    value["methods"].append({**rows[0], "name": "discrepancy-only", "verdict": "same as the plan"})
    _write(store, {f"{name}/compare": value for name in ("reviews", "prose", "demo")})
    text: str = page["_results_opening"].opening()
    assert ("One stage for all is the thing to beat" in text) is not beaten
    assert ("nowhere better than groups drawn at random, and on reviews, prose, demo worse" in text) is not beaten
    assert f"One stage for all: {'ahead' if beaten else 'behind'} on reviews, prose, demo." in text
    assert "| the plan's stages |" in text
    assert ("**+** +0.200" in text) is beaten


def test_how_far_a_set_made_again_is(page: dict[str, ModuleType]) -> None:
    def comparison(shift: float) -> dict[str, Any]:
        values = [{"seed": 0, "draw": 0, "by_domain": {"a": 1.0 + shift, "b": 2.0}}]
        row = {
            "name": "plan",
            "mean": 1.5,
            "plan_advantage": None,
            "verdict": "reference",
            "stages": [],
            "values": values,
        }
        return {"methods": [row, {**row, "name": "joint", "verdict": "plan better" if shift else "plan worse"}]}

    found = page["_results_repeat"].compared(comparison(0.0), comparison(0.5))
    assert (found["runs"], found["largest"], found["mean"]) == (2, 0.5, 0.25)
    assert found["methods"]["joint"]["verdict"] == ["plan worse", "plan better"]
    assert page["_results_repeat"]._verdicts(found) == (0, 1)
    assert page["_results_repeat"]._verdicts(page["_results_repeat"].compared(comparison(0.0), comparison(0.0))) == (
        1,
        1,
    )


def test_squares_of_the_grid_are_told_from_the_one_without_both(page: dict[str, ModuleType], store: Path) -> None:
    rng = np.random.default_rng(6)
    held, grid = {}, {"ssl_weight": [0.0, 1.0], "align_weight": [0.0, 1.0]}
    means, keys = np.array([[5.0, 4.0], [6.0, 5.0]]), [[["00"], ["01"]], [["10"], ["11"]]]
    for x, y in itertools.product(range(2), repeat=2):
        keys[x][y] = [f"{x}{y}{seed}" for seed in range(3)]
        for seed, key in enumerate(keys[x][y]):
            rows = {name: {"loss": means[x, y] + 0.01 * rng.normal()} for name in "abcd"}
            held[f"records/{key}"] = {"task": "lm", "seed": seed, "final": rows}
    grid |= {"mean": means.tolist(), "records": keys, "sd_over_seeds": [[0.1, 0.1], [0.1, 0.1]]}
    value = {"domains": list("abcd"), "higher_is_better": False, "grid": grid, "seeds": [0, 1, 2], "methods": []}
    _write(store / "presets", {"grid": value, **held})
    (line,) = page["_results_presets"].presets_lines()
    assert "ahead at λ₁ = 0, λ₂ = 1 (+" in line
    assert "behind at λ₁ = 1, λ₂ = 0 (-" in line
    assert "not to be told apart at 1 of 3 pairs" in line


def test_one_measure_correlates_more_than_another(page: dict[str, ModuleType]) -> None:
    data = page["_results_data"]
    rng = np.random.default_rng(2)
    near = rng.normal(size=(12, 12))
    near, noise = near + near.T, rng.normal(size=(12, 12))
    value = {
        "transfer": [(near + 0.1 * rng.normal(size=(12, 12))).tolist() for _ in range(2)],
        "matrices": {"synergy": data.residual(near).tolist(), "cosine": (noise + noise.T).tolist()},
        "agreement": {},
    }
    assert data.correlation_lead(value, "synergy", "cosine").low > 0.3
    assert data.correlation_lead(value, "cosine", "synergy").high < -0.3


def test_a_lead_is_of_the_first_over_the_second(page: dict[str, ModuleType]) -> None:
    data = page["_results_data"]
    rng = np.random.default_rng(0)
    low = 1.0 + 0.01 * rng.normal(size=(3, 6))
    high = 2.0 + 0.01 * rng.normal(size=(3, 2, 6))
    assert data.lead_of(low, high, higher=False).low > 0.5
    assert data.lead_of(low, high, higher=True).high < -0.5


def test_correlations_find_what_is_there_and_nothing_else(page: dict[str, ModuleType]) -> None:
    data = page["_results_data"]
    rng = np.random.default_rng(1)
    k = 12
    points = rng.normal(size=(k, 3))
    near = -((points[:, None] - points[None]) ** 2).sum(-1)
    noise = rng.normal(size=(k, k))
    runs = [near + 0.1 * rng.normal(size=(k, k)) for _ in range(2)]
    centred = data.residual(near)
    value = {
        "transfer": [run.tolist() for run in runs],
        "matrices": {"synergy": centred.tolist(), "js": (-centred).tolist(), "ruzicka": (noise + noise.T).tolist()},
        "agreement": {},
    }
    found = {one.name: one for one in data.correlations(value)}
    for name in ("synergy", "js"):  # the second is a discrepancy: its sign is turned
        assert found[name].rho > 0.8
        assert found[name].p < 0.01
    assert found["ruzicka"].p > 0.05
    assert data.truth_of(value)[1] > 0.8
    scan = data.lambda_scan(value, (0.0, 1.0))
    assert min(scan["rank"]) > 0.8


def test_a_comparison_turned_round_turns_the_page(
    page: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = page["_results_data"].stored("prose", "compare")
    if value is None:
        pytest.skip("no stored comparison")
    turned = copy.deepcopy(value)
    for method in turned["methods"]:
        gain = method.get("plan_advantage")
        if gain:
            gain["mean"], gain["low"], gain["high"] = 0.3, 0.2, 0.4
    (tmp_path / "prose").mkdir()
    (tmp_path / "prose" / "compare.json").write_text(json.dumps(turned))
    records = page["_results_data"].STORE / "prose" / "records"
    (tmp_path / "prose" / "records").symlink_to(records)
    monkeypatch.setattr(page["_results_data"], "STORE", tmp_path)
    page["_results_data"].records.cache_clear()
    try:
        text: str = page["_results_pages"].set_page("prose")
    finally:
        page["_results_data"].records.cache_clear()
    assert "beats one stage for all** by 0.300 nats" in text
    assert "loses to" not in text


@pytest.fixture
def store(page: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty store in place of the records, and nothing remembered of the other."""
    remembered = [page["_results_data"].records]
    remembered += [getattr(page["_results_lattice"], name) for name in ("lattice", "lattice_rows")]
    remembered += [page["_results_partitions"]._policies]
    monkeypatch.setattr(page["_results_data"], "STORE", tmp_path)
    for one in remembered:
        one.cache_clear()
    yield tmp_path
    for one in remembered:
        one.cache_clear()


def _write(folder: Path, values: dict[str, Any]) -> None:
    for name, value in values.items():
        path = folder / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_what_follows_the_objective_is_told_from_what_goes_against_it(
    page: dict[str, ModuleType], store: Path, sign: float
) -> None:
    rng = np.random.default_rng(4)
    names = [f"d{i}" for i in range(6)]
    matrix = rng.normal(size=(6, 6))
    gain = matrix + matrix.T
    value = {"plan": {"domains": names, "gain": gain.tolist()}, "domains": names, "higher_is_better": False}
    parts = page["_results_partitions"]

    def run(stages: list[list[str]], seed: int) -> dict[str, Any]:
        loss = 5.0 - sign * 0.1 * parts.objective(value, stages)
        rows = {name: {"loss": loss + 0.001 * rng.normal()} for name in names}
        return {"task": "lm", "seed": seed, "stages": stages, "final": rows, "snapshot": rows}

    pairs = [[names[:2], names[2:4], names[4:]], [names[::2][:2], names[1:3], names[4:]]]
    best, worst = sorted(pairs, key=lambda stages: -parts.objective(value, stages))
    held: dict[str, dict[str, Any]] = {}
    methods: dict[str, list[str]] = {"plan": [], "joint": [], "random": []}
    rows = []
    for seed in range(4):
        for method, stages in (("plan", best), ("joint", [names])):
            held[f"{method}{seed}"] = run(stages, seed)
            methods[method].append(f"{method}{seed}")
        for draw in range(3):
            order = [names[i] for i in rng.permutation(6)]
            held[f"random{seed}{draw}"] = run([order[:2], order[2:4], order[4:]], seed)
            methods["random"].append(f"random{seed}{draw}")
        held[f"contrary{seed}"] = run(worst, seed)
        row = {"part": "contrary", "policy": "contrary", "seed": seed, "draw": 0, "stages": worst}
        rows.append({**row, "parts": [f"contrary{seed}"]})
    value["methods"] = [{"name": name, "records": keys} for name, keys in methods.items()]
    _write(store / "prose", {"compare": value, **{f"records/{key}": one for key, one in held.items()}})
    _write(store / "partitions-prose", {"partitions": {"runs": rows}})
    rho = parts.over_random("prose", "final")
    assert rho[3] == 12
    assert sign * rho[0] > 0.9
    assert sign * rho[1] > 0.5 or sign * rho[2] > 0.5
    lead = parts.lead_over("prose", "contrary", "plan")
    assert sign * lead.mean < 0
    assert (lead.high < 0) if sign > 0 else (lead.low > 0)
    text = parts.partitions_page()
    assert ("worse than" if sign > 0 else "better than") + " the plan" in text
    assert ("trained worse beyond doubt" in parts.objective_default()) == (sign < 0)


def test_all_partitions_tell_the_measure_that_foretells_from_noise(page: dict[str, ModuleType], store: Path) -> None:
    rng = np.random.default_rng(5)
    names = [f"d{i}" for i in range(8)]
    true, noise = (matrix + matrix.T for matrix in rng.normal(size=(2, 8, 8)))
    groups, held = [], {}
    for number, group in enumerate(itertools.combinations(range(8), 4)):
        gain = sum(true[i, j] for i, j in itertools.combinations(group, 2))
        rows = {names[i]: {"accuracy": 0.7 + 0.01 * gain + 0.002 * rng.normal()} for i in group}
        held[f"records/r{number}"] = {"task": "classification", "seed": 0, "final": rows}
        groups.append({"seed": 0, "group": [names[i] for i in group], "record": f"r{number}"})
    small = np.full((8, 8), 0.1)
    lattice = {
        "domains": names,
        "matrices": {"synergy": true.tolist(), "js": (-true).tolist(), "cosine": noise.tolist()},
        "intervals": {name: [(-small).tolist(), small.tolist()] for name in ("js", "synergy")},
        "groups": groups,
    }
    _write(store / "when", {"lattice": lattice, **held})
    rows = {one.name: (one, lead) for one, lead in page["_results_lattice"].lattice_rows()}
    assert rows["synergy"][0].rho > 0.85
    assert rows["synergy"][0].p < 0.05
    assert rows["synergy"][1] > 0
    assert rows["λ · synergy − js, rank, λ = 1"][0].rho > 0.85
    assert rows["cosine"][0].p > 0.05
    assert len(page["_results_lattice"].lattice()["partitions"]) == 35


def test_the_page_in_docs_is_what_the_script_writes(page: dict[str, ModuleType]) -> None:
    held = ROOT / "docs" / "results.md"
    if not held.exists():
        pytest.skip("no results page")
    written, kept = page["results"].page(), held.read_text()
    assert NUMBER.sub("#", written) == NUMBER.sub("#", kept)

    def values(text: str) -> list[float]:
        return [float(found.replace(",", "").rstrip(".")) for found in NUMBER.findall(text)]

    # Another library's last digit may differ.
    assert values(written) == pytest.approx(values(kept), rel=1e-3, abs=2e-3)


def test_an_ablation_is_told_by_its_interval(page: dict[str, ModuleType], store: Path) -> None:
    def method(name: str, title: str, low: float | None, high: float | None) -> dict[str, Any]:
        gain = (
            None if low is None or high is None else {"mean": (low + high) / 2, "low": low, "high": high, "better": 1}
        )
        row = {"name": name, "title": title, "mean": 5.0, "sd_over_seeds": 0.1, "plan_advantage": gain, "runs": 3}
        return {**row, "other_serving": {}, "seeds": [0, 1, 2]}

    train = dict.fromkeys(("documents", "max_length", "batch_tokens", "ssl_weight", "align_weight", "kl_weight"), 1)
    value = {
        "domains": ["a", "b"],
        "made_of": {"train": {**train, "rho_shared": 1.0, "rho_domain": 1.0}},
        "methods": [
            method("plan", "the plan", None, None),
            method("no-kl", "the plan without KL", 0.1, 0.3),
            method("no-ssl", "the plan without denoising", -0.3, -0.1),
            method("no-align", "the plan without alignment", -0.1, 0.3),
        ],
    }
    _write(store / "presets", {"ablate": value})
    text: str = page["_results_presets"].presets_page()
    assert "better than the plan without KL (+0.200 [+0.100, +0.300])" in text
    assert "worse than the plan without denoising (-0.200" in text
    assert "not to be told from the plan without alignment (+0.100" in text
