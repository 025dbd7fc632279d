"""Which methods run, in what order and for how long, by size and structure.

An answer first (annealing), then proofs from the cheapest: the triangle relaxation where no budget binds, column
generation where stages are small enough to price, clique CP-SAT for what is left of small problems and for stages
that differ. What time remains goes back to annealing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._seeding import generator
from ._jit import have_compiler
from ._start import feasible_start
from .heuristic import Pool, search
from .solution import canonical

if TYPE_CHECKING:
    from ._solve import Run

__all__ = ["run_portfolio"]

# Beyond these sizes a method has never paid in the benchmarks (docs/partition.md).
CLIQUE_LIMIT = 70
COLUMN_LIMIT = 160
TRIANGLE_LIMIT = 220
_LINKAGE_FROM = 60


def run_portfolio(run: Run, method: str) -> None:
    """Fill `run` with incumbent and bound."""
    core = run.core
    pool = Pool()
    if not _start(run):
        return
    exact = method != "heuristic"
    if exact:
        # A fixed amount of work, so that the same seed starts the proof from the same partitions under any load.
        _anneal(run, pool, _first_share(run), clock=0.5 * run.left())
    else:
        _anneal(run, pool, run.left())
    if not exact or run.proved():
        return
    if method == "clique" or core.labelled:
        if core.n <= 3 * CLIQUE_LIMIT:
            _clique(run, run.left())
    else:
        binding = any(int(core.upper[r, 0]) < int(core.sizes[r].sum()) for r in range(len(core.sizes)))
        if method != "columns" and core.n <= TRIANGLE_LIMIT and (not binding or core.n > COLUMN_LIMIT // 2):
            _triangles(run, (0.3 if not binding else 0.15) * run.left())
        if core.n <= COLUMN_LIMIT and have_compiler() and not run.proved():
            # Without a budget stages are large and hard to price: column generation proves it early or not at all.
            tail = 0.85 if binding else 0.6 if core.n <= CLIQUE_LIMIT else 0.2
            _columns(run, pool, tail * run.left() if method != "columns" else run.left())
        if core.n <= CLIQUE_LIMIT and not run.proved():
            _clique(run, run.left())
    if not run.proved() and run.left() > 0.05 and not run.deterministic:
        _anneal(run, pool, run.left())


def _first_share(run: Run) -> float:
    """Seconds for the first answer: enough for the optimum of most planning problems, little against the limit."""
    n = run.core.n
    wanted = 0.2 + 1e-4 * n * n
    share = 0.25 if n <= COLUMN_LIMIT else 0.8
    if n <= 24:
        wanted = 0.02 if n <= 12 else 0.1
    return min(wanted if n <= COLUMN_LIMIT else np.inf, share * run.limit)


def _start(run: Run) -> bool:
    """A feasible partition in `run`; False when none was found (the run then says whether none exists)."""
    if run.labels is not None:
        return True
    labels = feasible_start(run.core, generator(run.seed, "heuristic", "start"))
    if labels is None:
        from ._clique import feasibility

        labels = feasibility(run.core, seconds=run.left(), seed=run.seed, workers=run.workers)[0]
    if labels is None:
        return False
    run.offer(labels)
    if _LINKAGE_FROM < run.core.n <= min(400, 40 * run.limit) and not run.core.labelled:
        # On large structured problems agglomeration is a better start than packing.
        from ._start import repair
        from .peers import average_linkage

        joined = repair(run.core, canonical(average_linkage(run.core)), generator(run.seed, "heuristic", "linkage"))
        if joined is not None:
            run.offer(joined)
    return True


def _anneal(run: Run, pool: Pool, seconds: float, clock: float | None = None) -> None:
    search(
        run.core,
        seconds=max(0.01, seconds),
        seed=run.seed + len(run.steps),
        workers=run.workers,
        start=run.labels,
        pool=pool,
        on_better=lambda labels, value: run.offer(labels, value),
        enough=lambda value: run.proved(),
        deterministic=run.deterministic,
        clock=clock,
    )
    if "annealing" not in run.steps:
        run.steps.append("annealing")


def _triangles(run: Run, seconds: float) -> None:
    from ._triangles import triangle_bound

    bound, labels = triangle_bound(run.core, seconds=seconds, enough=run.value + 1, report=run.lower)
    if labels is not None:
        run.offer(labels)
    run.lower(bound)
    run.steps.append("triangle bound")


def _columns(run: Run, pool: Pool, seconds: float) -> None:
    from ._columns import generate_columns

    if run.labels is None or seconds <= 0:
        return

    def report(labels: np.ndarray | None, value: int, bound: float) -> None:
        if labels is not None:
            run.offer(labels)
        run.lower(bound)

    answer = generate_columns(
        run.core,
        run.labels,
        partitions=pool.labels,
        seconds=seconds,
        seed=run.seed,
        workers=run.workers,
        report=report,
    )
    run.offer(answer.labels)
    run.lower(answer.bound)
    run.steps.append(answer.note)


def _clique(run: Run, seconds: float) -> None:
    from ._clique import clique

    if seconds <= 0.02:
        return
    labels, bound, status, error = clique(
        run.core,
        seconds=seconds,
        seed=run.seed,
        workers=run.workers,
        hint=run.labels,
        deterministic=run.deterministic,
    )
    if labels is not None:
        run.offer(labels)
    run.lower(bound)
    if status == "optimal":
        # Proved up to the rounding of its coefficients, which the answer reports.
        run.tolerance = max(run.tolerance, run.core.unscale(error))
    run.steps.append("clique CP-SAT")
