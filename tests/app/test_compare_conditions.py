"""Harder corpora and the grid: what is changed, what stays, and that it comes again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from compare_cases import PLAN, TRAIN, record, summary
from kinfold.app.compare import CompareSettings, Comparison
from kinfold.app.compare._conditions import condition
from kinfold.app.compare._grid import grid_summary, grid_variants, shortened
from kinfold.app.compare._queue import Job
from kinfold.corpora import Corpora, load_corpora
from kinfold.errors import ConfigError


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


def test_imbalance_is_not_cut_level_again_by_the_most_documents(toy_corpora: Path, tmp_path: Path) -> None:
    corpora = load_corpora(toy_corpora)
    uneven = condition(corpora, "imbalance", 8.0, tmp_path, seed=0, documents=8)
    assert sorted(sum(1 for _ in domain.records("train")) for domain in uneven.planned) == [1, 2, 4, 8]
    whole = condition(corpora, "imbalance", 8.0, tmp_path, seed=0, documents=10**6)
    assert whole.fingerprints == condition(corpora, "imbalance", 8.0, tmp_path / "b", seed=0).fingerprints
    assert whole.fingerprints != uneven.fingerprints


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
    records = {str(n): record(found[n], dict.fromkeys(PLAN.domains, loss)) for n, loss in enumerate(losses)}
    grid = grid_summary(jobs, records, made)
    assert grid["mean"] == [[1.5], [4.0]]
    assert grid["sd_over_seeds"] == [[pytest.approx(np.std([1, 2], ddof=1))], [None]]
    assert grid["runs"] == [[2], [1]]
    assert grid["records"] == [[["0", "1"]], [["2"]]]
    value = summary() | {
        "grid": grid,
        "conditions": [{"kind": "token_noise", "level": 0.1, **shortened(summary())}],
    }
    comparison = Comparison(tmp_path, value)
    assert "| 0.5 | 4.0000 |" in comparison.markdown
    assert "| token noise 0.1 | 3.6500 | 4.1500 (+0.5000" in comparison.markdown
    comparison.save()
    pictures = {path: path.read_bytes() for path in tmp_path.glob("*.*g")}
    comparison.save()
    assert {path: path.read_bytes() for path in pictures} == pictures
    assert {path.name for path in tmp_path.glob("*.svg")} == {"forest.svg", "sensitivity.svg", "robustness.svg"}
