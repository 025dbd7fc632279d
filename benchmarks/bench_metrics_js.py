"""Jensen–Shannon divergence of all pairs at k = 200, V = 128k: CPU-seconds, error against SciPy, ratio to SciPy.

python benchmarks/bench_metrics_js.py
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from _common import interleaved, peak_memory, record, table
from kinfold.metrics import js_matrix
from scipy.spatial.distance import jensenshannon


def counts_of(k: int, vocabulary: int, seed: int, *, dense: bool) -> np.ndarray:
    """Zipf-like counts, a domain's own ranks half shuffled; `dense` leaves no zero, the worst case."""
    rng = np.random.default_rng(seed)
    base = 1.0 / np.arange(1, vocabulary + 1)
    rows = np.zeros((k, vocabulary))
    for row in rows:
        weights = base * np.exp(rng.normal(0, 1.5, vocabulary))
        row[:] = weights if dense else rng.poisson(weights / weights.sum() * 400_000)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--k", type=int, default=200)
    parser.add_argument("--vocabulary", type=int, default=128_000)
    options = parser.parse_args()
    js_matrix(np.ones((3, 50)))  # compile
    rows = []
    for name, dense in (("every token in every domain", True), ("400k tokens a domain", False)):
        counts = counts_of(options.k, options.vocabulary, 0, dense=dense)
        start = time.process_time()
        found = js_matrix(counts)
        seconds = time.process_time() - start
        rng = np.random.default_rng(1)
        pairs = [tuple(rng.choice(options.k, 2, replace=False)) for _ in range(60)]
        error = max(abs(found[i, j] - jensenshannon(counts[i], counts[j], base=2) ** 2) for i, j in pairs)
        few = counts[:8]
        ratio = interleaved(
            {
                "scipy": lambda f=few: [
                    jensenshannon(f[i], f[j], base=2) for i in range(len(f)) for j in range(i + 1, len(f))
                ],
                "ours": lambda f=few: js_matrix(f),
            },
            repeats=3,
        )
        rows.append([name, seconds, float(error), ratio["scipy"] / ratio["ours"], peak_memory()])
        del counts
    print(table(rows, ["counts", "CPU-s", "largest error", "faster than SciPy (k = 8)", "peak MB"]))
    record("metrics_js", {"k": options.k, "vocabulary": options.vocabulary}, rows, "numba")


if __name__ == "__main__":
    main()
