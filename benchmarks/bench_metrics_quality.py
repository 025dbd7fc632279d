"""Do the token measures tell the truth? Self-divergence against sample size, and ranks under tenfold size imbalance.

python benchmarks/bench_metrics_quality.py
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np
import scipy.sparse as sp
from _common import record, shared_data, table
from kinfold.corpora import load_corpora
from kinfold.metrics import MeasureSettings, halving, tokens
from kinfold.metrics.collect import collect
from scipy.stats import spearmanr

MEASURES = ("js", "js_plugin", "jaccard", "ruzicka")


def pick(sample, rows):
    chosen = sp.csr_array(sample.rows[np.sort(rows)])
    return dataclasses.replace(sample, rows=chosen, tokens=int(chosen.sum()))


def cut(sample, budget, rng):
    """Random documents of a domain up to `budget` tokens."""
    order = rng.permutation(sample.rows.shape[0])
    lengths = np.asarray(sample.rows.sum(axis=1)).ravel()[order]
    return pick(sample, order[: int(np.searchsorted(np.cumsum(lengths), budget)) + 1])


def measured(samples, seed, **options):
    return tokens.token_table(samples, halving.rungs(samples, None)[0], bootstrap=0, seed=seed, **options)


def self_divergence(samples, draws):
    """Two disjoint document samples of one domain, as two domains: what each measure of the pair reads."""
    rows = []
    for budget in (3_000, 10_000, 30_000):
        values, plugin = [], []
        for sample in samples:
            for draw in range(draws):
                rng = np.random.default_rng([draw, budget])
                order = rng.permutation(sample.rows.shape[0])
                lengths = np.asarray(sample.rows.sum(axis=1)).ravel()[order]
                ends = np.cumsum(lengths)
                if ends[-1] < 2.2 * budget:
                    continue
                first = int(np.searchsorted(ends, budget)) + 1
                second = int(np.searchsorted(ends, ends[first - 1] + budget)) + 1
                pair = [pick(sample, order[:first]), pick(sample, order[first:second])]
                pair = [dataclasses.replace(part, name=name) for part, name in zip(pair, "ab", strict=True)]
                found = measured(pair, draw)
                values.append(found.js[0, 1])
                plugin.append(found.js_plugin[0, 1])
        rows.append(
            [
                budget,
                len(values),
                float(np.mean(values)),
                float(np.quantile(np.abs(values), 0.95)),
                float(np.max(np.abs(values))),
                float(np.mean(plugin)),
            ]
        )
    return rows


def imbalance(samples, name, draws):
    """Half of the domains cut to a tenth of the common size; ranks of pairs against the full data."""
    k = len(samples)
    upper = np.triu_indices(k, 1)
    full = measured(samples, 0)
    sizes = np.array([sample.tokens for sample in samples])
    rows = []
    for largest in (int(np.quantile(sizes, 0.5)), 100_000):
        scores = {label: [] for label in (*MEASURES, "js, one halving")}
        for draw in range(draws):
            rng = np.random.default_rng([draw, largest])
            small = set(rng.permutation(k)[: k // 2].tolist())
            cuts = [
                cut(sample, largest / 10 if index in small else largest, rng) for index, sample in enumerate(samples)
            ]
            found = measured(cuts, draw)
            for label in MEASURES:
                scores[label].append(spearmanr(getattr(found, label)[upper], getattr(full, label)[upper]).statistic)
            lowest = halving.rungs(cuts, None)[0][:1]
            single = tokens.token_table(cuts, lowest, bootstrap=0, seed=draw, halvings=1)
            scores["js, one halving"].append(spearmanr(single.js[upper], full.js[upper]).statistic)
        rows.append(
            [
                name,
                f"{largest:,} : {largest // 10:,}",
                *(f"{np.mean(v):.3f} (min {np.min(v):.3f})" for v in scores.values()),
            ]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=4)
    options = parser.parse_args()
    found, ranks = [], []
    for name in ("reviews", "prose"):
        corpora = load_corpora(shared_data() / name)
        samples = collect(corpora, MeasureSettings(samples=2)).samples
        found += [[name, *row] for row in self_divergence(samples, 2)]
        ranks += imbalance(samples, name, options.draws)
    head = [
        "data",
        "tokens a sample",
        "pairs",
        "mean js",
        "95 % of absolute js below",
        "largest absolute js",
        "mean plug-in",
    ]
    print(table(found, head), end="\n\n")
    head = ["data", "sizes in tokens", *MEASURES, "js, lowest rung, one halving"]
    print(table(ranks, head))
    record("metrics_quality", {"draws": options.draws}, {"self": found, "imbalance": ranks}, "tokenizers")


if __name__ == "__main__":
    main()
