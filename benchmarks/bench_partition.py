"""Partition benchmarks: public instances beside every peer, proof rates, primal quality, a thousand domains.

    python benchmarks/bench_partition.py peers
    python benchmarks/bench_partition.py heuristic                    (public instances, the answer at 1, 10, 60 s)
    python benchmarks/bench_partition.py auto --seconds 60            (public instances, answer and certificate)
    python benchmarks/bench_partition.py planning --sizes 60 --first 500 --runs 10 --seconds 20
    python benchmarks/bench_partition.py random --sizes 40 --first 500 --runs 10 --seconds 30
    python benchmarks/bench_partition.py primal --sizes 40 60 80 --first 500 --runs 12 --tries 3
    python benchmarks/bench_partition.py large --sizes 1000 --first 500 --seconds 50
    python benchmarks/bench_partition.py family --family ranreal --sizes 240 --runs 3 --seconds 10
    python benchmarks/bench_partition.py certify --family sparse --sizes 82 --first 71 --runs 4 --seconds 60
    python benchmarks/bench_partition.py page                         (the tables of docs/partition.md)

Generated instances have numbers; `--first` says where to begin: numbers that no setting was chosen with in view.
Every run appends a line to benchmarks/records/partition_runs.jsonl and is not made twice (`--again` makes it anew), so
a study may be cut into pieces: `--stop-after 200` begins no run after that many seconds.
"""

from __future__ import annotations

import argparse
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _partition_families import make
from _partition_instances import Instance, planning, public, random_weights
from _partition_records import Book
from kinfold.errors import KinfoldError
from kinfold.partition import Solution, solve
from kinfold.partition.settings import PEERS

# A heuristic run ends where the proven optimum is reached; so these limits are tried in turn.
_LADDER = (2.0, 60.0)


def at(trace: tuple[tuple[float, float, float], ...], seconds: float) -> float | None:
    """The incumbent after so many seconds."""
    known = [value for when, value, _ in trace if when <= seconds]
    return known[-1] if known and np.isfinite(known[-1]) else None


def reached(value: float, best: float) -> bool:
    """Whether an objective is the best one, up to the rounding of its sum."""
    return value >= best - 1e-9 * abs(best)


def outcome(answer: Solution) -> dict[str, Any]:
    """What every study keeps of an answer."""
    return {
        "objective": answer.objective,
        "gap": answer.gap if np.isfinite(answer.gap) else None,
        "certificate": answer.certificate,
        "status": answer.status,
        "method": answer.method,
        "seconds": answer.seconds,
        "at_1s": at(answer.trace, 1.0),
        "at_10s": at(answer.trace, 10.0),
    }


def bench_peers(book: Book, instances: list[Instance]) -> None:
    """The best values known, and what every built-in peer reaches on the public instances."""
    for one in instances:
        book.run("best known", {"case": one.name}, lambda o=one: {"best_known": o.best_known, "proven": o.proven})
        for name in PEERS:
            result = book.run("peers", {"case": one.name, "method": name}, lambda o=one, n=name: _peer(o, n))
            print(one.name, name, result, flush=True)


def _peer(one: Instance, name: str) -> dict[str, Any]:
    try:
        answer = solve(one.gain, **one.arguments, method=name)
    except KinfoldError as fault:
        return {"objective": None, "fault": str(fault)}
    return {"objective": answer.objective, "seconds": answer.seconds, "method": answer.method}


def bench_heuristic(book: Book, instances: list[Instance], workers: int) -> None:
    """The answer alone; a run ends early (after two seconds) where it is a proven optimum."""
    for one in instances:
        for limit in _LADDER if one.proven else _LADDER[-1:]:
            config = {"case": one.name, "seconds": limit, "workers": workers, "seed": 1}
            result = book.run("heuristic", config, lambda o=one, s=limit: _solved(o, s, workers, "heuristic"))
            print(one.name, one.best_known, result, flush=True)
            if result is None or (one.proven and one.best_known and reached(result["objective"], one.best_known)):
                break


def bench_auto(book: Book, instances: list[Instance], seconds: float, workers: int) -> None:
    """Answer and certificate of the default method."""
    for one in instances:
        config = {"case": one.name, "seconds": seconds, "workers": workers, "seed": 1}
        result = book.run("auto", config, lambda o=one: _solved(o, seconds, workers, "auto"))
        print(one.name, one.best_known, result, flush=True)


def _solved(one: Instance, seconds: float, workers: int, method: str) -> dict[str, Any]:
    return outcome(solve(one.gain, **one.arguments, time_limit=seconds, workers=workers, seed=1, method=method))


def bench_proofs(
    book: Book,
    study: str,
    make_one: Callable[..., Instance],
    sizes: list[int],
    numbers: range,
    seconds: float,
    workers: int,
) -> None:
    """Proof and time of generated instances of each size."""
    for k in sizes:
        for run in numbers:
            config = {"k": k, "instance": run, "seconds": seconds, "workers": workers}
            one = make_one(k, run)
            print(k, run, book.run(study, config, lambda o=one: _solved(o, seconds, workers, "auto")), flush=True)


def bench_primal(book: Book, sizes: list[int], numbers: range, tries: int, workers: int) -> None:
    """How often one second of the heuristic alone finds the optimum that the exact methods prove."""
    for run in numbers:
        for k in sizes:
            one = planning(k, 1000 + run)
            for seed in range(tries):
                config = {"k": k, "instance": run, "seed": seed, "workers": workers}
                proof = book.run(
                    "primal proof",
                    {"k": k, "instance": run, "seconds": 60.0, "workers": workers},
                    lambda o=one: _solved(o, 60.0, workers, "auto"),
                )
                if proof is None or proof["status"] != "optimal":
                    break
                quick = book.run("primal", config, lambda o=one, s=seed: _quick(o, s, workers))
                if quick is not None:
                    print(k, run, seed, "found" if reached(quick["objective"], proof["objective"]) else "MISSED")
                    sys.stdout.flush()


def _quick(one: Instance, seed: int, workers: int) -> dict[str, Any]:
    answer = solve(one.gain, **one.arguments, time_limit=1.0, method="heuristic", workers=workers, seed=seed)
    return {"objective": answer.objective, "seconds": answer.seconds}


def bench_certify(book: Book, family: str, sizes: list[int], numbers: range, seconds: float, workers: int) -> None:
    """Answer and certificate of the default method on generated instances of a public family."""
    for n in sizes:
        for run in numbers:
            one = make(family, n, run)
            config = {"family": family, "n": n, "instance": run, "seconds": seconds, "workers": workers}
            print(one.name, book.run("certify", config, lambda o=one: _solved(o, seconds, workers, "auto")), flush=True)


def bench_family(book: Book, family: str, sizes: list[int], numbers: range, seconds: float, workers: int) -> None:
    """The answer after 1 s and at the end, and that of one run three times as long, on generated instances."""
    for n in sizes:
        for run in numbers:
            one = make(family, n, run)
            for limit, seed in ((seconds, 1), (3 * seconds, 9)):
                config = {"family": family, "n": n, "instance": run, "seconds": limit, "workers": workers, "seed": seed}
                work = lambda o=one, s=limit, r=seed: outcome(  # noqa: E731
                    solve(o.gain, **o.arguments, time_limit=s, workers=workers, seed=r, method="heuristic")
                )
                print(one.name, limit, book.run("family", config, work), flush=True)


def bench_large(book: Book, sizes: list[int], number: int, seconds: float, workers: int) -> None:
    """Objective, seconds and peak memory, and the better linkage."""
    for k in sizes:
        config = {"k": k, "instance": number, "seconds": seconds, "workers": workers}
        print(k, book.run("large", config, lambda k=k: _large(k, number, seconds, workers)), flush=True)


def _large(k: int, number: int, seconds: float, workers: int) -> dict[str, Any]:
    one = planning(k, number, group=12)
    answer = solve(one.gain, **one.arguments, time_limit=seconds, workers=workers)
    # Before the peers run: the peak is the planner's and the instance's.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    peers = {n: solve(one.gain, **one.arguments, method=n).objective for n in ("single_linkage", "average_linkage")}
    return {**outcome(answer), "peak_mb": peak, "peers": peers}


def main() -> None:
    """Make one study, or the page from what is recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "which",
        choices=["peers", "heuristic", "auto", "planning", "random", "primal", "large", "family", "certify", "page"],
    )
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared/data/partition")
    parser.add_argument("--only", nargs="+", default=[""], help="parts of instances' names")
    parser.add_argument(
        "--proven", choices=["yes", "no"], help="public instances of proven optimum only, or the others"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[60])
    parser.add_argument("--first", type=int, default=0, help="number of the first generated instance")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tries", type=int, default=1, help="primal: seeds of the heuristic an instance")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--family", default="ranreal")
    parser.add_argument("--again", action="store_true", help="make known runs anew")
    parser.add_argument("--stop-after", type=float, default=float("inf"), help="begin no run after so many seconds")
    given = parser.parse_args()
    if given.which == "page":
        from _partition_page import write

        print(write())
        return
    numbers = range(given.first, given.first + given.runs)
    book = Book(again=given.again, stop_after=given.stop_after)
    if given.which in ("peers", "heuristic", "auto"):
        instances = [
            one
            for one in public(given.data)
            if any(part in one.name for part in given.only)
            and (given.proven is None or one.proven == (given.proven == "yes"))
        ]
        if given.which == "peers":
            bench_peers(book, instances)
        elif given.which == "heuristic":
            bench_heuristic(book, instances, given.workers)
        else:
            bench_auto(book, instances, given.seconds, given.workers)
    elif given.which == "primal":
        bench_primal(book, given.sizes, numbers, given.tries, given.workers)
    elif given.which == "large":
        bench_large(book, given.sizes, given.first, given.seconds, given.workers)
    elif given.which == "family":
        bench_family(book, given.family, given.sizes, numbers, given.seconds, given.workers)
    elif given.which == "certify":
        bench_certify(book, given.family, given.sizes, numbers, given.seconds, given.workers)
    else:
        generator = planning if given.which == "planning" else random_weights
        bench_proofs(book, given.which, generator, given.sizes, numbers, given.seconds, given.workers)
    if book.left_out:
        print(f"{book.left_out} run(s) left out: the time was up; the same command goes on with them.")


if __name__ == "__main__":
    main()
