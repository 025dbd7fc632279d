"""Which methods run, in what order and for how long, by size and structure.

An answer first (annealing), then proofs from the cheapest: the triangle relaxation where no budget binds, column
generation where stages are small enough to price, clique CP-SAT for what is left of small problems and for stages
that differ, and the semidefinite relaxation for a certificate where budgets bind and stages are too large to price.
What time remains goes back to annealing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._seeding import generator
from ._jit import have_compiler
from ._start import feasible_start
from .heuristic import Pool, search
from .solution import canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Core
    from ._solve import Run
    from ._triangles import TriangleResult

__all__ = ["needs", "run_portfolio"]

# Beyond these sizes a method has never paid in the benchmarks (docs/partition.md).
CLIQUE_LIMIT = 70
COLUMN_LIMIT = 160
TRIANGLE_LIMIT = 220
SEMIDEFINITE_LIMIT = 400
_LINKAGE_FROM = 60
# Nodes after which the pricing of large stages waits until the bound from matrices has had its turn: planning problems
# of 100 need no more than the first search has, and where stages are large no number is enough.
_PATIENCE = 1
# Matrices that are still behind the bound at hand after this share of their time leave the rest of it to others.
_TRIAL = 0.25


def needs(core: Core, method: str) -> tuple[str, ...]:
    """What :func:`run_portfolio` may call upon, by the names of :mod:`._warm`: ready before the clock starts."""
    if method == "heuristic":
        return ("annealing",)
    if method == "clique" or core.labelled:
        return ("annealing", "integers") if core.n <= 3 * CLIQUE_LIMIT else ("annealing",)
    if _binding(core) and method != "columns" and core.n > COLUMN_LIMIT:
        return ("annealing", "matrices") if core.n <= SEMIDEFINITE_LIMIT else ("annealing",)
    if core.n > TRIANGLE_LIMIT:
        return ("annealing",)
    columns = ("columns", "integers") if have_compiler() else ("integers",)
    last = () if method == "columns" else ("matrices",) if _binding(core) else ("triangles",)
    return ("annealing", *columns, *last)


def run_portfolio(run: Run, method: str) -> None:
    """Fill `run` with incumbent and bound."""
    core = run.core
    pool = Pool()
    if not _start(run):
        return
    exact = method != "heuristic"
    if exact:
        # A fixed amount of work, so that the same seed starts the proof from the same partitions under any load.
        first = _first_share(run)
        _anneal(run, pool, first, clock=max(first, 0.5 * run.left()))
    else:
        _anneal(run, pool, run.left())
    if not exact or run.proved():
        return
    if method == "clique" or core.labelled:
        if core.n <= 3 * CLIQUE_LIMIT:
            _clique(run, run.left())
    else:
        _prove(run, pool, method)
    if not run.proved() and run.left() > 0.05 and not run.deterministic:
        _anneal(run, pool, run.left())


def _prove(run: Run, pool: Pool, method: str) -> None:
    """Triangles where no budget binds, then stages; then CP-SAT, or matrices where budgets bind."""
    core = run.core
    binding = _binding(core)
    small = _Rest(core, np.arange(core.n), pool.labels)
    hard = False
    if method != "columns" and core.n <= TRIANGLE_LIMIT and not binding:
        found = _triangles(run, 0.4 * run.left())
        if run.proved():
            return
        rest = _reduced(core, found, pool)
        if rest is None:
            run.none_better()
            return
        small = rest
    if small.core.n <= COLUMN_LIMIT and have_compiler():
        # Without a budget stages are large and hard to price: column generation proves it early or not at all.
        tail = 0.85 if binding else 0.6 if small.core.n <= CLIQUE_LIMIT else 0.2
        alone = method == "columns" or not binding or small.core.n <= CLIQUE_LIMIT
        hard = _columns(run, small, run.left() if method == "columns" else tail * run.left(), patient=alone)
    if small.core.n <= CLIQUE_LIMIT and not run.proved():
        _clique(run, run.left(), small)
    elif method != "columns" and binding and core.n <= SEMIDEFINITE_LIMIT and not run.proved():
        # Stages too large to price: matrices, pairs and capacities at least give a certified gap.
        _matrices(run, run.left())
        if hard and not run.proved():
            _columns(run, small, run.left(), patient=True)


def _binding(core: Core) -> bool:
    """Whether a budget keeps all items from sharing one stage."""
    return any(int(core.upper[r, 0]) < int(core.sizes[r].sum()) for r in range(len(core.sizes)))


@dataclass(frozen=True)
class _Rest:
    """What is left to decide: a core, the item of it that each item of the whole went into, feasible partitions."""

    core: Core
    item: NDArray[np.int64]
    partitions: list[NDArray[np.int64]]


def _reduced(core: Core, found: TriangleResult, pool: Pool) -> _Rest | None:
    """What the fixed pairs leave; None when they leave nothing, so that no partition beats the incumbent."""
    from ._triangles import contracted

    smaller = contracted(core, found)
    if smaller is None:
        return None
    inner, item = smaller
    first = np.unique(item, return_index=True)[1]
    fitting = [
        labels[first]
        for labels in pool.labels
        if np.array_equal(labels[first][item], labels) and inner.feasible(labels[first])
    ]
    return _Rest(inner, item, fitting)


def _first_share(run: Run) -> float:
    """Seconds for the first answer: enough for the optimum of most planning problems, little against the limit."""
    n = run.core.n
    wanted = 0.2 + 1e-4 * n * n
    # Where no proof has a chance all of the time belongs to the answer, or most where a certificate can be had.
    limit = SEMIDEFINITE_LIMIT if _binding(run.core) and not run.core.labelled else TRIANGLE_LIMIT
    share = 0.25 if n <= COLUMN_LIMIT else 0.75 if n <= limit else 1.0
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

        labels = feasibility(run.core, clock=run.clock, seed=run.seed, workers=run.workers)[0]
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
    run.clock.spend(max(0.01, seconds))
    if "annealing" not in run.steps:
        run.steps.append("annealing")


def _triangles(run: Run, seconds: float) -> TriangleResult:
    from ._triangles import triangle_bound

    found = triangle_bound(run.core, clock=run.clock.part(seconds), incumbent=run.labels, report=run.lower)
    if found.labels is not None:
        run.offer(found.labels)
    # The bound is for partitions better than the one at hand.
    run.lower(max(found.bound, float(run.value)))
    run.steps.append("triangle bound")
    return found


def _matrices(run: Run, seconds: float) -> None:
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    from ._semidefinite import semidefinite_bound

    if seconds <= 0:
        return
    part, known = run.clock.part(seconds), run.bound

    def hopeless(bound: float) -> bool:
        return part.left() < (1.0 - _TRIAL) * seconds and bound > known

    # Matrices of this size are factored faster by one thread than by two; and one thread gives the same bits anywhere.
    with threadpool_limits(limits=1, user_api="blas"):
        bound = semidefinite_bound(run.core, clock=part, value=float(run.value), report=run.lower, hopeless=hopeless)
    run.lower(max(bound, float(run.value)))
    run.steps.append("semidefinite bound")


def _columns(run: Run, rest: _Rest, seconds: float, *, patient: bool) -> bool:
    """Column generation; whether it gave up because a pricing was hard, which it only does where not `patient`."""
    from ._columns import generate_columns

    if run.labels is None or seconds <= 0:
        return False

    def report(labels: NDArray[np.int64] | None, value: int, bound: float) -> None:
        if labels is not None:
            run.offer(labels[rest.item])
        run.lower(max(bound, float(run.value)))

    answer = generate_columns(
        rest.core,
        run.value,
        partitions=rest.partitions,
        clock=run.clock.part(seconds),
        seed=run.seed,
        workers=run.workers,
        report=report,
        patience=2**60 if patient else _PATIENCE,
    )
    if answer.labels is not None:
        run.offer(answer.labels[rest.item])
    run.lower(max(answer.bound, float(run.value)))
    if answer.note not in run.steps:
        run.steps.append(answer.note)
    return answer.note.endswith("pricing stopped")


def _clique(run: Run, seconds: float, rest: _Rest | None = None) -> None:
    from ._clique import clique

    if seconds <= 0.02:
        return
    core = run.core if rest is None else rest.core
    labels, bound, status, error = clique(
        core,
        clock=run.clock.part(seconds),
        seed=run.seed,
        workers=run.workers,
        hint=run.labels if core is run.core else None,
    )
    if labels is not None:
        run.offer(labels if rest is None else labels[rest.item])
    if status == "infeasible":
        # Of the whole this contradicts the partition at hand; of a rest, nothing is left that could be better.
        if core is not run.core:
            run.none_better()
    elif run.labels is not None:
        run.lower(max(bound, float(run.value)))
    if status == "optimal":
        # Proved up to the rounding of its coefficients, which the answer reports.
        run.tolerance = max(run.tolerance, run.core.unscale(error))
    run.steps.append("clique CP-SAT")
