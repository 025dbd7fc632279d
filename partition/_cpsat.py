"""Run CP-SAT under a clock, so that Ctrl-C reaches it and a deterministic solve reads no time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._clock import interruptible

if TYPE_CHECKING:
    from ._clock import Clock

__all__ = ["run_cp_sat"]


# Beyond this a coefficient is too large for CP-SAT's presolve.
_LARGE = 2**30


def run_cp_sat(
    model: Any, clock: Clock, *, seed: int, workers: int, callback: Any = None, largest: int = 0, **parameters: Any
) -> Any:
    """Solve `model` in what `clock` has left; the CP-SAT solver with its answer, and its status.

    Parameters
    ----------
    largest : int
        Largest coefficient of a constraint. The presolve of OR-Tools 9.15 called feasible models of three stages
        infeasible where coefficients were above 2^32 (tests/partition/test_fewest.py); there it is left out.

    Returns
    -------
    (CpSolver, int)
    """
    from ortools.sat.python import cp_model

    solver = cp_model.CpSolver()
    solver.parameters.random_seed = seed % (2**31)
    solver.parameters.num_workers = workers
    # CP-SAT would swallow the signal and let the caller carry on.
    solver.parameters.catch_sigint_signal = False
    if largest > _LARGE:
        solver.parameters.cp_model_presolve = False
    for name, value in parameters.items():
        setattr(solver.parameters, name, value)
    if clock.deterministic:
        solver.parameters.num_workers = 1
        solver.parameters.max_deterministic_time = max(0.01, clock.left())
    else:
        solver.parameters.max_time_in_seconds = max(0.01, min(clock.left(), 1e9))
    status = interruptible(lambda: solver.solve(model, callback), solver.stop_search)
    if clock.deterministic:
        clock.spend(float(solver.response_proto.deterministic_time))
    return solver, status
