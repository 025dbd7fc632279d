"""Which methods run, in what order and for how long, by size and structure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from .solve import _Run

__all__ = ["run_portfolio"]

_CLIQUE_LIMIT = 120


def run_portfolio(run: _Run, method: str) -> None:
    """Heuristic first, then proofs while time is left."""
    from .heuristic import search

    core = run.core
    only_heuristic = method == "heuristic"
    share = 1.0 if only_heuristic or core.n > _CLIQUE_LIMIT else 0.2
    start = run.labels
    if start is None:
        from ._start import feasible_start
        from .._seeding import generator

        start = feasible_start(core, generator(run.seed, "heuristic", "start"))
    if start is None:
        from ._clique import feasibility

        start, _, status, _ = feasibility(core, seconds=run.left(), seed=run.seed, workers=run.workers)
        if start is None:
            if status == "infeasible":
                run.bound = -np.inf
            return
    run.offer(start)
    search(
        core,
        seconds=share * run.left(),
        seed=run.seed,
        workers=run.workers,
        start=start,
        on_better=lambda labels, value: run.offer(labels, value),
        enough=lambda value: run.proved(),
        deterministic=run.deterministic,
    )
    run.steps.append("annealing")
    if only_heuristic or run.proved() or core.n > _CLIQUE_LIMIT or run.left() <= 0.05:
        return
    from ._clique import clique

    labels, bound, status, error = clique(
        core,
        seconds=run.left(),
        seed=run.seed,
        workers=run.workers,
        hint=run.labels,
        deterministic=run.deterministic,
    )
    if labels is not None:
        run.offer(labels)
    run.lower(bound)
    if status == "optimal":
        run.tolerance = max(run.tolerance, core.unscale(error))
    run.steps.append("clique CP-SAT")
