"""One call for every planning problem: the heuristic for an answer now, a portfolio of exact methods for the proof."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._progress import SILENT, Progress, Task
from ..errors import InfeasibleError, PlanError
from ._clock import Clock
from ._core import Core, make_core
from .problem import Problem, make_problem, objective_value, violations
from .settings import METHODS, PEERS
from .solution import Solution, canonical

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = ["solve", "solve_problem"]

# Three to the power of n steps in NumPy: a tenth of a second at 12.
SUBSET_LIMIT = 12


def solve(
    gain: ArrayLike,
    *,
    sizes: ArrayLike | Mapping[str, ArrayLike] | None = None,
    budget: Any = None,
    minimum: Any = None,
    stages: int | tuple[int, int] | None = None,
    time_limit: float = 10.0,
    seed: int = 0,
    method: str = "auto",
    must_link: Sequence[Sequence[int]] = (),
    cannot_link: Sequence[Sequence[int]] = (),
    kappa: float = 0.0,
    workers: int | None = None,
    deterministic: bool = False,
    names: Sequence[str] | None = None,
    progress: Progress = SILENT,
) -> Solution:
    """Group k domains into stages: maximise Σ gain inside stages − kappa · stages under budgets and links.

    Parameters
    ----------
    gain : array_like of shape (k, k)
        Symmetric: what a pair adds when together. The diagonal is ignored.
    sizes : array_like of shape (k,) or mapping of such
        What each domain takes of a resource (or of several, by name).
    budget, minimum : number, sequence, or mapping of either
        Most and least of the resource in a stage; a sequence gives one number per stage, fixes their number and
        makes `assignment` the stage's index. Without `sizes` they count domains.
    stages : int, (int, int) or None
        Exactly, between, or as many as pay.
    time_limit : float
        Seconds.
    seed : int
        Same seed, same answer (see `deterministic` for what the clock may change).
    method : str
        "auto", "exact", "heuristic", "dp", "clique", "columns", or the name of a peer.
    must_link, cannot_link : sequence of index groups
    kappa : float
        Cost of a stage.
    workers : int, optional
        Threads; all cores by default.
    deterministic : bool
        Limit work (search nodes, pivots, moves) instead of time and use one thread, so that machine and load change
        nothing; `time_limit` is then what a slow core needs, and the wall may differ from it severalfold.
    names : sequence of str, optional
        Of the domains, for messages.
    progress : Progress
        Receives incumbent and bound.

    Returns
    -------
    Solution

    Raises
    ------
    PlanError
        When an argument does not fit, or no feasible partition was found in time.
    InfeasibleError
        When no partition satisfies the constraints; names a minimal set in conflict.

    Examples
    --------
    >>> answer = solve([[0, 2, -1], [2, 0, -1], [-1, -1, 0]])
    >>> answer.assignment.tolist(), answer.objective, answer.status
    ([0, 0, 1], 2.0, 'optimal')
    """
    problem = make_problem(
        gain,
        sizes=sizes,
        budget=budget,
        minimum=minimum,
        stages=stages,
        must_link=must_link,
        cannot_link=cannot_link,
        kappa=kappa,
        names=names,
    )
    return solve_problem(
        problem,
        time_limit=time_limit,
        seed=seed,
        method=method,
        workers=workers,
        deterministic=deterministic,
        progress=progress,
    )


def solve_problem(
    problem: Problem,
    *,
    time_limit: float = 10.0,
    seed: int = 0,
    method: str = "auto",
    workers: int | None = None,
    deterministic: bool = False,
    start: NDArray[np.int64] | None = None,
    progress: Progress = SILENT,
) -> Solution:
    """Solve a checked problem; `start` is a partition to begin from. See :func:`solve`."""
    if method not in METHODS:
        raise PlanError(f"solve: method {method!r} is unknown; choose one of {', '.join(METHODS)}.")
    if not np.isfinite(time_limit) or time_limit <= 0:
        raise PlanError(f"solve: time_limit is {time_limit!r}; it must be a number of seconds above 0.")
    if method in PEERS:
        from .peers import run_peer

        return run_peer(problem, method, seed=seed, time_limit=time_limit)
    if workers is None:
        workers = 1 if deterministic else os.cpu_count() or 1
    core = make_core(problem)
    if not _small(core, method):
        from ._warm import get_ready

        get_ready(core, method, progress)
    with progress.task(f"planning {problem.k} domains", unit="steps") as task:
        run = Run(problem, core, time_limit, seed, workers, deterministic, task)
        run.solve(method, start)
        answer = run.answer()
        task.update(note=answer.certificate)
    return answer


def _small(core: Core, method: str) -> bool:
    """Whether dynamic programming over subsets does it all."""
    return method == "dp" or (method in ("auto", "exact") and core.n <= SUBSET_LIMIT)


class Run:
    """One solve: the incumbent, the bound, the clock."""

    def __init__(
        self,
        problem: Problem,
        core: Core,
        time_limit: float,
        seed: int,
        workers: int,
        deterministic: bool,
        task: Task,
    ) -> None:
        self.problem = problem
        self.core = core
        self.begin = time.monotonic()
        self.limit = time_limit
        self.clock = Clock(time_limit, deterministic=deterministic)
        self.seed = seed
        self.workers = workers
        self.deterministic = deterministic
        self.task = task
        self.labels: NDArray[np.int64] | None = None
        self.value = 0
        self.bound = float(self.core.trivial_bound())
        self.tolerance = self.core.error
        self.steps: list[str] = []
        self.trace: list[tuple[float, float, float]] = []

    def left(self) -> float:
        """Seconds left; with `deterministic`, seconds' worth of work."""
        return self.clock.left()

    def offer(self, labels: NDArray[np.int64], value: int | None = None) -> None:
        """Keep feasible labels when better."""
        value = self.core.value(labels) if value is None else value
        if (self.labels is None or value > self.value) and self.core.feasible(labels):
            self.labels, self.value = labels.copy(), value
            self._note()

    def lower(self, bound: float) -> None:
        """Keep a smaller upper bound; one below a partition at hand is false and vouches for nothing."""
        if self.labels is not None and bound < self.value - 0.5:
            self.steps.append("contradictory bound discarded")
            return
        if bound < self.bound:
            self.bound = bound
            self._note()

    def none_better(self) -> None:
        """Record a proof that no partition beats the one at hand."""
        if self.labels is not None:
            self.lower(float(self.value))

    def _note(self) -> None:
        value = self.core.unscale(self.value) if self.labels is not None else float("-inf")
        bound = self.core.unscale(self.bound)
        self.trace.append((time.monotonic() - self.begin, value, bound))
        self.task.update(note=f"objective {value:.6g}, at most {bound:.6g}")

    def proved(self) -> bool:
        """Whether the bound leaves no room for a better whole-number objective."""
        slack = self.tolerance * self.core.scale if self.tolerance > self.core.error else 0.0
        return self.labels is not None and self.bound < self.value + 1 + slack

    def solve(self, method: str, start: NDArray[np.int64] | None) -> None:
        """Run the portfolio."""
        from ._infeasible import check_obvious, explain_infeasible

        check_obvious(self.problem)
        if start is not None:
            index = np.unique(self.core.group, return_index=True)[1]
            self.offer(np.asarray(start, dtype=np.int64)[index])
        if _small(self.core, method):
            self._subsets()
        else:
            from .portfolio import run_portfolio

            run_portfolio(self, method)
        if self.labels is None:
            raise explain_infeasible(
                self.problem,
                clock=Clock(max(2.0, self.left()), deterministic=self.deterministic),
                seed=self.seed,
            )

    def _subsets(self) -> None:
        from ._subsets import subset_optimum

        if self.core.n > 16:
            raise PlanError(
                f"solve: method 'dp' takes 3^n steps and there are {self.core.n} domains; use 'exact' above 16."
            )
        labels, value = subset_optimum(self.core)
        if labels is not None:
            self.offer(labels, value)
            self.lower(value)
        self.steps.append("subset dynamic programming")

    def answer(self) -> Solution:
        """The solution in the user's units, judged by the solver-independent checker."""
        if self.labels is None:
            raise InfeasibleError("solve: no feasible partition; loosen a constraint.")
        assignment = self.core.expand(self.labels)
        if not self.problem.labelled:
            assignment = canonical(assignment)
        objective = objective_value(self.problem, assignment)
        faults = violations(self.problem, assignment)
        if faults:
            raise PlanError(f"solve: internal check failed, {faults[0]} Please report this problem.")
        bound = objective if self.proved() else self.core.unscale(self.bound) + self.core.error
        return Solution.make(
            assignment,
            objective,
            max(bound, objective),
            time.monotonic() - self.begin,
            method=" + ".join(self.steps),
            tolerance=self.tolerance,
            trace=tuple(self.trace),
        )
