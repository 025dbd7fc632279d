"""MMD² of all pairs: against the Gram's own product, against per-pair calls, in bf16 at k = 200, and permutations.

    python benchmarks/bench_metrics_mmd.py [--large]

Per-pair peers: torchdrift's `kernel_mmd` (used where it can be imported; it is no dependency of ours) with a kernel
that adds up the same five bandwidths, and scikit-learn's `rbf_kernel` called once per bandwidth and block.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from _common import interleaved, peak_memory, record, table
from kinfold.metrics._gram import GramPass
from kinfold.metrics.mmd import default_bandwidths, median_sq_dist
from sklearn.metrics.pairwise import rbf_kernel


def samples_of(k: int, n: int, d: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    out = []
    for _ in range(k):
        x = rng.standard_normal((n, d)) + 0.3 * rng.standard_normal(d)
        out.append((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32))
    return out


def per_pair(x, y, sigma2s):
    """One pair by scikit-learn's kernel, as a user of a kernel library would write it."""
    n, m = len(x), len(y)
    total = 0.0
    for sigma2 in sigma2s:
        gamma = 1 / (2 * sigma2)
        xx, yy, xy = rbf_kernel(x, x, gamma), rbf_kernel(y, y, gamma), rbf_kernel(x, y, gamma)
        total += (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1)) - 2 * xy.mean()
    return total / len(sigma2s)


def torchdrift_pair(sigma2s):
    """The statistic of torchdrift for a pair under the same mixture, or None where it is not installed."""
    try:
        import torch
        from torchdrift.detectors.mmd import kernel_mmd
    except ImportError:
        return None
    torch.set_num_threads(1)

    def kernel(dists):
        squares = dists**2
        return sum(torch.exp(squares * (-0.5 / sigma2)) for sigma2 in sigma2s) / len(sigma2s)

    return lambda x, y, n_perm=None: kernel_mmd(torch.from_numpy(x), torch.from_numpy(y), n_perm=n_perm, kernel=kernel)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--large", action="store_true", help="k = 200 in bf16")
    options = parser.parse_args()
    n, d = 500, 384
    if options.large:
        samples = samples_of(200, n, d)
        sigma2s = default_bandwidths(median_sq_dist(samples, points=2048))
        GramPass(samples[:3], sigma2s, precision="bf16").run()
        start, before = time.process_time(), peak_memory()
        found = GramPass(samples, sigma2s, precision="bf16").run().mmd2
        seconds = time.process_time() - start
        exact = GramPass(samples[:20], sigma2s, precision="float64").run().mmd2
        error = float(np.abs(found[:20, :20] - exact).max())
        rows = [["k = 200, bf16 products", seconds, error, peak_memory(), peak_memory() - before]]
        print(table(rows, ["case", "CPU-s", "largest error", "peak MB", "of which the pass"]))
        record("metrics_mmd_large", {"k": 200, "n": n, "d": d}, rows, "torch", "numba")
        return
    k = 50
    samples = samples_of(k, n, d)
    sigma2s = default_bandwidths(median_sq_dist(samples, points=2048))
    gram = GramPass(samples, sigma2s, precision="float32")
    half = GramPass(samples, sigma2s, precision="bf16")

    def product() -> None:
        for i in range(k):
            for j in range(i, k):
                gram.samples[i] @ gram.samples[j].T

    few = samples[:4]
    seconds = interleaved({"product": product, "float32": gram.run, "bf16": half.run}, repeats=3)
    runs = {"scikit-learn": lambda: [per_pair(few[i], few[j], sigma2s) for i in range(4) for j in range(i)]}
    drift = torchdrift_pair(sigma2s)
    if drift is not None:
        runs["torchdrift"] = lambda: [drift(few[i], few[j]) for i in range(4) for j in range(i)]
    one = interleaved(runs, repeats=3)
    pairs = k * (k - 1) / 2
    peers = {name: value / 6 * pairs for name, value in one.items()}
    pair = GramPass(samples[:2], sigma2s, precision="float32")
    permuted = interleaved({"permutations": lambda: pair.run(permutations=1000)}, repeats=3)["permutations"]
    exact = GramPass(samples[:6], sigma2s, precision="float64").run().mmd2
    brute = max(
        abs(exact[i, j] - per_pair(samples[i].astype(float), samples[j].astype(float), sigma2s))
        for i in range(6)
        for j in range(i)
    )
    error32 = float(np.abs(gram.run().mmd2[:6, :6] - exact).max())
    error16 = float(np.abs(half.run().mmd2[:6, :6] - exact).max())
    rows = [
        ["the Gram's product alone, float32", seconds["product"], 1.0, ""],
        ["all pairs, float32", seconds["float32"], seconds["float32"] / seconds["product"], error32],
        ["all pairs, bf16 products", seconds["bf16"], seconds["bf16"] / seconds["product"], error16],
        *(
            [f"{name}, pair by pair (6 pairs, scaled)", value, value / seconds["product"], ""]
            for name, value in peers.items()
        ),
        ["1,000 permutations of one pair, with its Gram", permuted, "", ""],
        ["float64 mode against brute force", "", "", float(brute)],
    ]
    print(table(rows, ["case (k = 50, n = 500, d = 384)", "CPU-s", "times the product", "largest error"]))
    for name, value in peers.items():
        print(f"faster than {name}: {value / seconds['float32']:.1f}x (float32), {value / seconds['bf16']:.1f}x (bf16)")
    record("metrics_mmd", {"k": k, "n": n, "d": d}, rows, "torch", "numba", "scikit-learn")


if __name__ == "__main__":
    main()
