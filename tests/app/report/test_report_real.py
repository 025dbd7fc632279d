"""The report of a real run: measured, planned, trained and evaluated here, with one domain's name an attack."""

from __future__ import annotations

import json

import kinfold
import pytest
from kinfold.app.report.terminal import heatmap, outcome_table, plan_table, relations_table
from kinfold.stages import Run


@pytest.fixture(scope="module")
def real_run(tmp_path_factory, toy_corpora, tiny_llama_dir, hostile_name) -> Run:
    paths = {path.stem: {"path": str(path)} for path in sorted(toy_corpora.glob("*.jsonl"))}
    paths[hostile_name] = paths.pop("engine")
    paths["general"]["general"] = True
    corpora = kinfold.load_corpora(paths)
    relations = kinfold.measure(corpora, model=tiny_llama_dir, bootstrap=12, permutations=20, samples=40)
    plan = kinfold.plan(relations, budget={"domains": 2}, bootstrap=10, phase=2)
    out = tmp_path_factory.mktemp("real") / "run"
    return kinfold.train(
        plan,
        corpora,
        model=tiny_llama_dir,
        out=out,
        relations=relations,
        epochs=1.0,
        tokens_per_stage=1500,
        batch_tokens=300,
        max_length=64,
        eval_documents=6,
        bootstrap=100,
    )


@pytest.mark.slow
def test_its_page_opens_shows_all_and_says_what_happened(browser, real_run, hostile_name) -> None:
    page = kinfold.report(real_run)
    assert page == real_run.path / "report.html"
    for width, dark in ((1280, False), (390, True)):
        browser.open(page, width=width, dark=dark)
        assert browser.problems() == []
        assert browser.requests() == []
        for name in ("summary", "relations", "map", "plan", "training", "outcome", "provenance"):
            assert browser.js(f"document.getElementById('{name}').getBoundingClientRect().height") > 40
        assert browser.js("document.querySelectorAll('img').length") == 0
        assert browser.js("document.documentElement.scrollWidth <= innerWidth")
    figures = set(browser.js("[...document.querySelectorAll('[data-figure]')].map((f) => f.dataset.figure)"))
    # Everything the issue lists is there for a full run.
    assert figures >= {
        "relations",
        "map",
        "gain",
        "together",
        "phase",
        "affinity",
        "chart-loss",
        "chart-domains",
        "chart-weights",
        "chart-speed",
        "chart-memory",
        "forest",
        "forgetting",
        "mmd-before",
        "mmd-after",
    }
    text = browser.js("document.body.innerText")
    assert hostile_name in text
    evaluation = real_run.evaluation
    for name in real_run.domains:
        assert f"{evaluation['before'][name]['loss']:.3f}" in text
        assert f"{evaluation['final'][name]['loss']:.3f}" in text
    assert f"{evaluation['general']['after']['loss']:.3f}" in text
    better = sum(cell["final"]["high"] < 0 for cell in evaluation["change"].values())
    assert f"{better} / 4" in text


@pytest.mark.slow
def test_hover_and_order_on_the_real_heatmap(browser, real_run) -> None:
    from kinfold.app.report import write_report

    browser.open(write_report(real_run))
    names = sorted(real_run.domains, key=lambda name: (name.casefold(), name))
    browser.click('[data-figure="relations"] [data-value=alphabetical]')
    browser.js("document.querySelector('[data-figure=\"relations\"] .hm-hit').focus()")
    browser.press("ArrowRight")  # the first press enters at row 1, column 2
    said = browser.js("document.querySelector('[data-figure=\"relations\"] .readout').textContent")
    relations = real_run.relations
    i, j = relations.domains.index(names[0]), relations.domains.index(names[1])
    assert names[0] in said
    assert names[1] in said
    assert f"{relations.matrix('js')[i, j]:.3f}".replace("-", "−") in said


@pytest.mark.slow
def test_figures_and_terminal_of_the_real_run(real_run, tmp_path) -> None:
    from rich.cells import cell_len
    from rich.console import Console

    for name, figure in (
        ("run", real_run.plot()),
        ("plan", real_run.plan.plot()),
        ("js", real_run.relations.plot("js")),
    ):
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    console = Console(width=80, color_system=None)
    views = (
        heatmap(real_run.relations),
        relations_table(real_run.relations),
        plan_table(real_run.plan),
        outcome_table(real_run.evaluation),
    )
    with console.capture() as capture:
        console.print(*views)
    assert max(cell_len(line) for line in capture.get().splitlines()) <= 80


@pytest.mark.slow
def test_the_page_follows_a_changed_evaluation(real_run, tmp_path) -> None:
    """The words come from the numbers: with every interval around zero the page must stop claiming a gain."""
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(real_run.path, copy)
    evaluation = json.loads((copy / "evaluation.json").read_text())
    for cell in evaluation["change"].values():
        cell["final"] = {"mean": -0.5, "low": -1.0, "high": 0.1}
    (copy / "evaluation.json").write_text(json.dumps(evaluation))
    text = kinfold.report(copy).read_text(encoding="utf-8")
    assert "there is no gain to report" in text
    assert "Training lowered" not in text
