"""The results page: its words follow from the numbers, and what lies in docs/ is what the script writes."""

from __future__ import annotations

import copy
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")


@pytest.fixture(scope="module")
def page() -> Iterator[dict[str, ModuleType]]:
    """The modules of the script, imported as it imports them."""
    names = ("_results_words", "_results_data", "_results_pages", "_results_partitions", "_results_more", "results")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
        for name in ("_common", "_results", *names):
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
