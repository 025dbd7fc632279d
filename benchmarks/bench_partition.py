"""Partition benchmarks: public instances beside every peer, proof rates, primal quality, a thousand domains.

    python benchmarks/bench_partition.py public --data ../shared/data/partition --seconds 60
    python benchmarks/bench_partition.py planning --sizes 60 100 --runs 10
    python benchmarks/bench_partition.py random --sizes 28 40 --runs 10
    python benchmarks/bench_partition.py primal --sizes 40 60 80 --runs 20
    python benchmarks/bench_partition.py large --sizes 1000
    python benchmarks/bench_partition.py family --family ranreal --sizes 240 --runs 3 --seconds 10

`public --method heuristic` measures the answer alone, `family` compares short with long runs on generated instances.
Each prints a table and appends a JSON record to benchmarks/records/partition.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from _partition_families import make
from _partition_instances import Instance, planning, public, random_weights
from kinfold.errors import KinfoldError
from kinfold.partition import solve
from kinfold.partition.settings import PEERS


def at(trace: tuple[tuple[float, float, float], ...], seconds: float) -> float:
    """The incumbent after so many seconds."""
    known = [value for when, value, _ in trace if when <= seconds]
    return known[-1] if known else float("-inf")


def percent(value: float, best: float) -> str:
    """How far below the best known value, in per cent of it."""
    return f"{100 * (best - value) / abs(best):.3f}" if np.isfinite(value) else "-"


def bench_public(instances: list[Instance], seconds: float, workers: int, method: str) -> list[dict[str, Any]]:
    """One run an instance; the incumbent at 1 s, 10 s and the end, the certificate, and every peer."""
    head = ["instance", "best known", "1 s", "10 s", "end", "bound gap %", "seconds", "status", *PEERS]
    print(" | ".join(head))
    rows = []
    for one in instances:
        answer = solve(one.gain, **one.arguments, time_limit=seconds, workers=workers, seed=1, method=method)
        best = one.best_known if one.best_known is not None else answer.objective
        peers: dict[str, float | None] = {}
        for name in PEERS:
            try:
                peers[name] = solve(one.gain, **one.arguments, method=name).objective
            except KinfoldError:
                peers[name] = None
        row = {
            "instance": one.name,
            "method": method,
            "best_known": best,
            "at_1s": at(answer.trace, 1.0),
            "at_10s": at(answer.trace, 10.0),
            "objective": answer.objective,
            "gap": answer.gap,
            "seconds": answer.seconds,
            "status": answer.status,
            "peers": peers,
        }
        rows.append(row)
        cells = [
            one.name,
            f"{best:g}",
            percent(row["at_1s"], best),
            percent(row["at_10s"], best),
            percent(answer.objective, best),
            f"{100 * answer.gap:.2f}",
            f"{answer.seconds:.1f}",
            answer.status,
            *("-" if v is None else percent(v, best) for v in peers.values()),
        ]
        print(" | ".join(cells), flush=True)
    return rows


def bench_proofs(make: Any, sizes: list[int], runs: int, seconds: float, workers: int) -> list[dict[str, Any]]:
    """Proof rate and median time of `runs` generated instances a size."""
    rows = []
    print("k | proved | median s | max s | worst gap %")
    for k in sizes:
        times, gaps, proved = [], [], 0
        for run in range(runs):
            one = make(k, run)
            answer = solve(one.gain, **one.arguments, time_limit=seconds, workers=workers)
            times.append(answer.seconds)
            gaps.append(answer.gap)
            proved += answer.status == "optimal"
        row = {"k": k, "runs": runs, "proved": proved, "seconds": times, "gaps": gaps}
        rows.append(row)
        print(f"{k} | {proved}/{runs} | {np.median(times):.1f} | {max(times):.1f} | {100 * max(gaps):.2f}", flush=True)
    return rows


def bench_primal(sizes: list[int], runs: int, workers: int) -> list[dict[str, Any]]:
    """How often one second of the heuristic alone finds the optimum that the exact methods prove."""
    rows = []
    print("k | proved instances | optimum within 1 s")
    for k in sizes:
        hits = total = 0
        for run in range(runs):
            one = planning(k, 1000 + run)
            proof = solve(one.gain, **one.arguments, time_limit=60, workers=workers)
            if proof.status != "optimal":
                continue
            total += 1
            quick = solve(one.gain, **one.arguments, time_limit=1, method="heuristic", workers=workers, seed=run)
            hits += quick.objective >= proof.objective - 1e-9 * abs(proof.objective)
        rows.append({"k": k, "instances": total, "hits": hits})
        print(f"{k} | {total} | {hits}", flush=True)
    return rows


def bench_family(family: str, sizes: list[int], runs: int, seconds: float, workers: int) -> list[dict[str, Any]]:
    """Per cent below the best of one long run (three times `seconds`) after 1 s and at the end, other seeds each."""
    rows = []
    print("instance | best | 1 s | end")
    for n in sizes:
        for run in range(runs):
            one = make(family, n, run)
            long = solve(one.gain, **one.arguments, time_limit=3 * seconds, workers=workers, method="heuristic", seed=9)
            short = solve(one.gain, **one.arguments, time_limit=seconds, workers=workers, method="heuristic", seed=1)
            best = max(long.objective, short.objective)
            row = {"instance": one.name, "best": best, "at_1s": at(short.trace, 1.0), "objective": short.objective}
            rows.append(row)
            print(
                f"{one.name} | {best:g} | {percent(row['at_1s'], best)} | {percent(short.objective, best)}", flush=True
            )
    return rows


def bench_large(sizes: list[int], seconds: float, workers: int) -> list[dict[str, Any]]:
    """Seconds, peak memory and the lead over the best peer."""
    rows = []
    print("k | objective | best cheap peer | seconds | peak MB | certificate")
    for k in sizes:
        one = planning(k, 0, group=12)
        answer = solve(one.gain, **one.arguments, time_limit=seconds, workers=workers)
        peers = {n: solve(one.gain, **one.arguments, method=n).objective for n in ("single_linkage", "average_linkage")}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows.append({"k": k, "objective": answer.objective, "peers": peers, "seconds": answer.seconds, "peak_mb": peak})
        print(
            f"{k} | {answer.objective:.3f} | {max(peers.values()):.3f} | {answer.seconds:.1f} | {peak:.0f} | "
            f"{answer.certificate}",
            flush=True,
        )
    return rows


def main() -> None:
    """Run one benchmark and record it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=["public", "planning", "random", "primal", "large", "family"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/partition"))
    parser.add_argument("--only", nargs="+", default=[""], help="parts of instances' names")
    parser.add_argument("--method", default="auto", help="of solve, for public")
    parser.add_argument("--family", default="rand", help="of the generated instances (_partition_families.py)")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--sizes", type=int, nargs="+", default=[60])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    begin, cpu = time.time(), time.process_time()
    # Load the compiled kernels first: they are compiled once a machine, not once a solve.
    warm = planning(20, 0)
    solve(warm.gain, **warm.arguments, time_limit=5)
    if given.which == "public":
        chosen = [one for one in public(given.data) if any(part in one.name for part in given.only)]
        rows = bench_public(chosen, given.seconds, given.workers, given.method)
    elif given.which == "planning":
        rows = bench_proofs(planning, given.sizes, given.runs, given.seconds, given.workers)
    elif given.which == "random":
        rows = bench_proofs(random_weights, given.sizes, given.runs, given.seconds, given.workers)
    elif given.which == "primal":
        rows = bench_primal(given.sizes, given.runs, given.workers)
    elif given.which == "family":
        rows = bench_family(given.family, given.sizes, given.runs, given.seconds, given.workers)
    else:
        rows = bench_large(given.sizes, given.seconds, given.workers)
    record = {
        "benchmark": f"partition {given.which}",
        "time": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "versions": {name: version(name) for name in ("numpy", "numba", "ortools", "scipy")},
        "workers": given.workers,
        "seconds_limit": given.seconds,
        "wall": time.time() - begin,
        "cpu": time.process_time() - cpu,
        "rows": rows,
    }
    target = Path(__file__).with_name("records") / "partition.jsonl"
    target.parent.mkdir(exist_ok=True)
    with target.open("a") as stream:
        stream.write(json.dumps(record, default=float) + "\n")


if __name__ == "__main__":
    main()
