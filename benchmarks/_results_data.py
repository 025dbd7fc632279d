"""From stored records to numbers: the intervals and correlations that docs/results.md is written from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from _results import STORE
from kinfold.app.compare._statistics import Difference, paired_difference
from kinfold.metrics.registry import MEASURES
from kinfold.metrics.validation import residual
from kinfold.partition.scaling import rank_scale
from numpy.typing import NDArray

BOOTSTRAP = 4000
PERMUTATIONS = 5000
RESAMPLES = 500


def stored(study: str, name: str) -> Any:
    """A kept file of a study, or None."""
    path = STORE / study / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


@cache
def records(study: str) -> Mapping[str, Any]:
    """All run records of a study by key."""
    folder = STORE / study / "records"
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def metric_of(record: Mapping[str, Any]) -> str:
    """What a run is judged by."""
    return "accuracy" if record["task"] == "classification" else "loss"


def row(record: Mapping[str, Any], serving: str, domains: Sequence[str]) -> NDArray[np.float64]:
    """One run's values by domain."""
    return np.array([record[serving][name][metric_of(record)] for name in domains])


@dataclass(frozen=True)
class Lead:
    """How far one thing is ahead of another (above 0: ahead), with its 95 % interval."""

    mean: float
    low: float
    high: float
    better: int = 0
    count: int = 0
    seeds: int = 0


def lead_of(one: NDArray[np.float64], other: NDArray[np.float64], *, higher: bool) -> Lead:
    """How far `one` (seeds, domains) is ahead of `other` (seeds, draws, domains)."""
    sign = -1.0 if higher else 1.0
    found: Difference = paired_difference(sign * other, sign * one, draws=BOOTSTRAP, seed=0)
    assert found.low is not None  # several domains
    assert found.high is not None
    return Lead(found.mean, found.low, found.high, found.better, one.shape[1])


def comparison_leads(value: Mapping[str, Any]) -> dict[str, Lead]:
    """The plan's lead over each rival of a comparison."""
    out = {}
    for method in value["methods"]:
        gain = method.get("plan_advantage")
        # One seed says nothing about others.
        if gain and gain["low"] is not None and len(method["seeds"]) > 1:
            out[method["name"]] = Lead(
                gain["mean"], gain["low"], gain["high"], gain["better"], len(value["domains"]), len(method["seeds"])
            )
    return out


def serving_lead(study: str, value: Mapping[str, Any], method: str) -> Lead | None:
    """How far the last backbone is ahead of each domain's own (snapshot) in a method's runs."""
    found = next((one for one in value["methods"] if one["name"] == method and "mean" in one), None)
    if found is None:
        return None
    runs = [records(study)[key] for key in found["records"]]
    seeds = sorted({run["seed"] for run in runs})
    final = np.array([np.mean([row(r, "final", value["domains"]) for r in runs if r["seed"] == s], 0) for s in seeds])
    own = np.array([np.mean([row(r, "snapshot", value["domains"]) for r in runs if r["seed"] == s], 0) for s in seeds])
    return lead_of(final, own[:, None, :], higher=value["higher_is_better"])


def mean_of(study: str, keys: Sequence[str], name: str, when: str) -> float | None:
    """Mean of `h_score` or `mmd2` before or after, over runs."""
    found = [records(study)[key][name] for key in keys if records(study).get(key, {}).get(name)]
    return float(np.mean([one[when] for one in found])) if found else None


# -- when a plan matters ------------------------------------------------------------------------------------------


def cell_values(cell: Mapping[str, Any], policy: str, serving: str = "final") -> NDArray[np.float64]:
    """Accuracy of a policy in a cell, (seeds, draws, domains)."""
    domains, held = cell["domains"], records("when")
    by_seed: dict[int, list[NDArray[np.float64]]] = {}
    for run in cell["runs"]:
        if run["policy"] == policy:
            found: dict[str, float] = {}
            for key in run["parts"]:
                found |= {name: held[key][serving][name]["accuracy"] for name in held[key][serving]}
            by_seed.setdefault(run["seed"], []).append(np.array([found[name] for name in domains]))
    return np.array([by_seed[seed] for seed in sorted(by_seed)])


def enough(cell: Mapping[str, Any] | None) -> bool:
    """Whether a cell has been run with two seeds at least."""
    return cell is not None and len(cell_values(cell, "joint")) > 1


def policy_lead(cell: Mapping[str, Any], one: str, other: str, serving: str = "final") -> Lead:
    """How far a policy is ahead of another in a cell, draws of the first averaged."""
    a, b = cell_values(cell, one, serving), cell_values(cell, other, serving)
    seeds = min(len(a), len(b))
    return lead_of(a[:seeds].mean(axis=1), b[:seeds], higher=True)


def groups_mixed(groups: Sequence[Sequence[str]], odd: Sequence[str]) -> int:
    """Groups that hold domains of both label conventions."""
    return sum(0 < sum(name in odd for name in group) < len(group) for group in groups)


# -- what predicts transfer ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Correlation:
    """Spearman correlation of a measure with measured transfer over pairs."""

    name: str
    rho: float
    low: float
    high: float
    p: float
    agreement: float | None


def truth_of(value: Mapping[str, Any]) -> tuple[NDArray[np.float64], float]:
    """Measured transfer freed of row and column effects (mean over seeds), and the seeds' agreement over pairs."""
    from scipy.stats import spearmanr

    runs = [np.array(run) for run in value["transfer"]]
    pairs = np.triu_indices(len(runs[0]), 1)
    parts = [residual(run)[pairs] for run in runs]
    return residual(np.mean(runs, axis=0)), float(spearmanr(parts[0], parts[1]).statistic)


def _sign(name: str) -> float:
    info = MEASURES.get(name.split(" (")[0])
    return -1.0 if info is not None and info.kind == "discrepancy" else 1.0


def correlations(value: Mapping[str, Any]) -> list[Correlation]:
    """Every measure of a transfer study, the best first; p by permuting domains (Mantel)."""
    return list(_correlations(json.dumps(value)))


@cache
def _correlations(text: str) -> tuple[Correlation, ...]:
    from scipy.stats import rankdata

    value = json.loads(text)
    truth, _ = truth_of(value)
    k = len(truth)
    pairs = np.triu_indices(k, 1)
    rng = np.random.default_rng(0)
    orders = np.array([rng.permutation(k) for _ in range(PERMUTATIONS)])
    picks = rng.integers(0, k, (RESAMPLES, k))
    wanted = rankdata(truth[pairs])
    wanted = (wanted - wanted.mean()) / wanted.std()
    ranked = np.zeros((k, k))
    ranked[pairs] = wanted
    ranked += ranked.T
    dealt = ranked[orders[:, pairs[0]], orders[:, pairs[1]]]  # (permutations, pairs)
    # Pairs of a domain with its own copy fall out of a resample.
    drawn_pairs = [(pick[pairs[0]], pick[pairs[1]]) for pick in picks]
    drawn_pairs = [(a[a != b], b[a != b]) for a, b in drawn_pairs]
    drawn_truth = [rankdata(truth[a, b]) for a, b in drawn_pairs]
    out = []
    for name, matrix in value["matrices"].items():
        cells = _sign(name) * np.array(matrix)
        cells = (cells + cells.T) / 2
        if np.ptp(cells[pairs]) == 0:
            continue
        own = rankdata(cells[pairs])
        own = (own - own.mean()) / own.std()
        rho = float(own @ wanted) / len(own)
        drawn = []
        for (a, b), y in zip(drawn_pairs, drawn_truth, strict=True):
            x = rankdata(cells[a, b])
            if x.std() > 0 and y.std() > 0:
                drawn.append(float(np.corrcoef(x, y)[0, 1]))
        low, high = np.percentile(drawn, [2.5, 97.5])
        agreement = (value["agreement"].get(name.split(" (")[0]) or {}).get("split_half")
        p = (1 + int((np.abs(dealt @ own) / len(own) >= abs(rho) - 1e-12).sum())) / (1 + PERMUTATIONS)
        out.append(Correlation(name, rho, min(float(low), rho), max(float(high), rho), p, agreement))
    return tuple(sorted(out, key=lambda one: -one.rho))


def correlation_lead(value: Mapping[str, Any], one: str, other: str) -> Lead:
    """How much more a measure correlates with measured transfer than another, over the same resampled domains."""
    from scipy.stats import rankdata, spearmanr

    truth, _ = truth_of(value)
    k = len(truth)
    pairs = np.triu_indices(k, 1)
    cells = []
    for name in (one, other):
        matrix = _sign(name) * np.array(value["matrices"][name])
        cells.append((matrix + matrix.T) / 2)
    rng = np.random.default_rng(0)
    drawn = []
    for pick in rng.integers(0, k, (RESAMPLES, k)):
        a, b = pick[pairs[0]], pick[pairs[1]]
        kept = a != b
        ranks = [rankdata(matrix[a[kept], b[kept]]) for matrix in (truth, *cells)]
        if min(rank.std() for rank in ranks) > 0:
            drawn.append(float(np.corrcoef(ranks[0], ranks[1])[0, 1] - np.corrcoef(ranks[0], ranks[2])[0, 1]))
    first, second = (float(spearmanr(matrix[pairs], truth[pairs]).statistic) for matrix in cells)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Lead(first - second, min(float(low), first - second), max(float(high), first - second))


def lambda_scan(value: Mapping[str, Any], lams: Sequence[float]) -> dict[str, list[float]]:
    """Correlation with transfer of λ·synergy − js, by scale: "rank" (each matrix by its ranks) or "none"."""
    from scipy.stats import spearmanr

    truth, _ = truth_of(value)
    pairs = np.triu_indices(len(truth), 1)
    out: dict[str, list[float]] = {}
    d, s = (np.array(value["matrices"][name]) for name in ("js", "synergy"))
    for scale in ("rank", "none"):
        x, y = (rank_scale(m) if scale == "rank" else m for m in ((d + d.T) / 2, (s + s.T) / 2))
        out[scale] = [float(spearmanr((lam * y - x)[pairs], truth[pairs]).statistic) for lam in lams]
    return out
