"""k = 300 domains measured end to end: CPU-seconds and peak memory, on generated corpora.

python benchmarks/bench_metrics_scale.py [--k 300] [--documents 500]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import peak_memory, record, table
from kinfold.corpora import load_corpora
from kinfold.metrics import MeasureSettings, measure


def write(folder: Path, k: int, documents: int, words: int) -> None:
    """Domains that share a Zipf vocabulary, each with its own tilt; topics in groups of ten."""
    rng = np.random.default_rng(0)
    vocabulary = np.array([f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in map(str, range(500))])
    base = 1.0 / np.arange(1, len(vocabulary) + 1)
    for index in range(k):
        group = np.random.default_rng(index // 10)
        weights = base * np.exp(group.normal(0, 1, len(base)) + rng.normal(0, 0.5, len(base)))
        weights /= weights.sum()
        drawn = rng.choice(vocabulary, size=(documents, words), p=weights)
        lines = (json.dumps({"text": " ".join(row), "split": "train"}) for row in drawn)
        (folder / f"domain{index:03}.jsonl").write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--k", type=int, default=300)
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--words", type=int, default=150)
    parser.add_argument("--permutations", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), options.k, options.documents, options.words)
        start, wall = time.process_time(), time.perf_counter()
        found = measure(
            load_corpora(name), settings=MeasureSettings(samples=options.documents, permutations=options.permutations)
        )
        rows = [[options.k, time.process_time() - start, time.perf_counter() - wall, peak_memory() / 1024]]
        assert all(np.isfinite(found.matrix(key)).all() for key in found.names)
    print(table(rows, ["domains", "CPU-s", "wall s", "peak GB"]))
    print("\n".join(found.warnings[:3]))
    record("metrics_scale", vars(options), rows, "torch", "scikit-learn")


if __name__ == "__main__":
    main()
