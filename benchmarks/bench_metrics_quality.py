"""Do the token measures tell the truth? Self-divergence against sample size, and ranks under tenfold size imbalance.

python benchmarks/bench_metrics_quality.py [--floors]
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
from kinfold.metrics.divergence import correct
from scipy.stats import binomtest, spearmanr, t

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
    for budget in (3_000, 10_000, 20_000, 40_000):
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
        size = np.abs(values)
        within = int((size <= 0.01).sum())
        low, high = binomtest(within, len(values)).proportion_ci()
        rows.append(
            [
                budget,
                len(values),
                float(np.mean(values)),
                float(np.sqrt(np.mean(np.square(values)))),
                float(np.quantile(size, 0.95)),
                float(size.max()),
                f"{within / len(values):.2f} ({low:.2f} to {high:.2f})",
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
        scores = {label: [] for label in (*MEASURES, "halves")}
        for draw in range(draws):
            rng = np.random.default_rng([draw, largest])
            small = set(rng.permutation(k)[: k // 2].tolist())
            cuts = [
                cut(sample, largest / 10 if index in small else largest, rng) for index, sample in enumerate(samples)
            ]
            found = measured(cuts, draw)
            for label in MEASURES:
                scores[label].append(spearmanr(getattr(found, label)[upper], getattr(full, label)[upper]).statistic)
            # The plainer estimate: halves of the lowest rung for every pair.
            own = np.diagonal(found.js_plugin)
            halves = correct(found.js_plugin, (own[:, None] + own[None, :]) / 2)
            scores["halves"].append(spearmanr(halves[upper], full.js[upper]).statistic)
        rows.append([name, f"{largest:,} : {largest // 10:,}", *(_interval(v) for v in scores.values())])
    return rows


def _interval(values):
    """Mean over draws, its 95 % interval, and the smallest."""
    half = float(t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{np.mean(values):.3f} ± {half:.3f} (min {np.min(values):.3f})"


def falls(samples, name):
    """f(2x)/f(x) of each domain, and how it falls with the next doubling: what halving.steps takes for granted."""
    budgets = [1250, 2500, 5000, 10_000, 20_000]
    floors = np.full((len(samples), len(budgets)), np.nan)
    for index, sample in enumerate(samples):
        for place, budget in enumerate(budgets):
            if halving.room(sample) < budget:
                continue
            parts = [halving.halve(sample, budget, 0, number) for number in range(16)]
            sums = [halving.Stack([getattr(part, side) for part in parts]).sums() for side in ("first", "second")]
            floors[index, place] = halving.own_js(*sums).mean()
    step = floors[:, 1:] / floors[:, :-1]
    fall = step[:, 1:] / step[:, :-1]
    return [
        [name, budgets[place], float(np.nanmean(fall[:, place])), float(np.nanstd(fall[:, place], ddof=1))]
        for place in range(fall.shape[1])
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--floors", action="store_true", help="how floors fall with the budget, and nothing else")
    options = parser.parse_args()
    data = {
        name: collect(load_corpora(shared_data() / name), MeasureSettings(samples=2)).samples
        for name in ("reviews", "prose")
    }
    if options.floors:
        rows = [row for name, samples in data.items() for row in falls(samples, name)]
        print(table(rows, ["data", "from tokens", "fall of the step with one doubling", "deviation over domains"]))
        record("metrics_floors", {"halvings": 16}, rows, "tokenizers")
        return
    found, ranks = [], []
    for name, samples in data.items():
        found += [[name, *row] for row in self_divergence(samples, max(1, options.draws // 2))]
        ranks += imbalance(samples, name, options.draws)
    head = ["data", "tokens a sample", "pairs", "mean js", "root mean square", "95 % of absolute js below", "largest"]
    print(table(found, [*head, "share within .01", "mean plug-in"]), end="\n\n")
    print(table(ranks, ["data", "sizes in tokens", *MEASURES, "js from halves, lowest rung"]))
    record("metrics_quality", {"draws": options.draws}, {"self": found, "imbalance": ranks}, "tokenizers")


if __name__ == "__main__":
    main()
