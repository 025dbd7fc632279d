"""How long a model's fingerprint takes: every byte of a weights file hashed once, then remembered.

python benchmarks/bench_fingerprint.py --gigabytes 1
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from _common import record
from kinfold.stages.fingerprint import weights_digest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KINFOLD_CACHE"] = str(Path(folder) / "cache")
        file = Path(folder) / "model.safetensors"
        block = np.random.default_rng(0).bytes(1 << 24)
        with file.open("wb") as stream:
            for _ in range(round(options.gigabytes * (1 << 30) / len(block))):
                stream.write(block)
        os.utime(file, (time.time() - 60, time.time() - 60))  # settled: a file changed just now is not remembered
        times = []
        for _ in range(2):
            began = time.process_time()
            weights_digest(file)
            times.append(time.process_time() - began)
    found = {"first CPU seconds": times[0], "again": times[1], "GB per CPU second": options.gigabytes / times[0]}
    print(", ".join(f"{name} {value:.4g}" for name, value in found.items()))
    record("fingerprint", vars(options), found)


if __name__ == "__main__":
    main()
