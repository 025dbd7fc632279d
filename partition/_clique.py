"""CP-SAT over pair variables: y_ij = 1 when i and j share a stage. No stage index, so no symmetry to break.

Where the number of stages is bounded, or stages differ, representatives or an assignment are added.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ._cpsat import run_cp_sat

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._clock import Clock
    from ._core import Core

__all__ = ["CliqueResult", "clique", "feasibility"]

# CP-SAT's linear relaxation works in doubles: objective coefficients are kept this small.
_OBJECTIVE_BITS = 31

# Labels, safe upper bound, status, and the part of the bound that only covers rounded coefficients.
CliqueResult = tuple["NDArray[np.int64] | None", float, str, float]


def clique(
    core: Core,
    *,
    clock: Clock,
    seed: int = 0,
    workers: int = 1,
    hint: NDArray[np.int64] | None = None,
    on_solution: Callable[[float, float], None] | None = None,
) -> CliqueResult:
    """Maximise by CP-SAT.

    Returns
    -------
    labels, bound, status, error
        Item labels or None; an upper bound on the scaled objective, safe against rounding of the coefficients;
        "optimal", "feasible", "infeasible" or "unknown"; how much of the bound only covers that rounding.
    """
    from ortools.sat.python import cp_model

    n = core.n
    if np.diag(core.conflict).any():
        return None, -np.inf, "infeasible", 0.0
    model = cp_model.CpModel()
    if core.labelled:
        together, where = _assignment(model, core)
    else:
        together, where = _pairs(model, core), None
    stage_terms = _stage_count(model, core, together, where)
    shift = max(0, int(np.abs(core.gain).max(initial=0)).bit_length() - _OBJECTIVE_BITS)
    unit = 1 << shift
    coefficients = np.rint(core.gain / unit).astype(np.int64)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n) if (i, j) in together]
    model.maximize(
        sum(int(coefficients[i, j]) * together[i, j] for i, j in pairs)
        - round(core.kappa / unit) * (stage_terms if stage_terms is not None else 0)
    )
    if hint is not None:
        _hint(model, core, together, where, hint)
    callback = _Callback(on_solution, unit, core.base) if on_solution is not None else None
    solver, status = run_cp_sat(model, clock, seed=seed, workers=workers, callback=callback, largest=_largest(core))
    if status == cp_model.INFEASIBLE:
        return None, -np.inf, "infeasible", 0.0
    # Rounding a coefficient errs by half a unit; a partition has at most all pairs and all stages.
    error = 0.0 if shift == 0 else 0.5 * unit * (n * (n - 1) // 2 + core.most)
    bound = solver.best_objective_bound * unit + core.base + error
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        # Stopped before it had a bound of its own: what it then reports (0, say) bounds nothing.
        return None, np.inf, "unknown", error
    labels = np.arange(n, dtype=np.int64)
    if where is not None:
        for i in range(n):
            labels[i] = next(t for t in range(core.most) if solver.boolean_value(where[i, t]))
    else:
        for (i, j), literal in together.items():
            if solver.boolean_value(literal):
                labels[j] = min(labels[j], labels[i])
    return labels, bound, "optimal" if status == cp_model.OPTIMAL else "feasible", 2 * error


def feasibility(core: Core, *, clock: Clock, seed: int = 0, workers: int = 1) -> CliqueResult:
    """Any feasible partition: the assignment form with as many stages as are allowed; status as in :func:`clique`."""
    from ortools.sat.python import cp_model

    if np.diag(core.conflict).any():
        return None, -np.inf, "infeasible", 0.0
    model = cp_model.CpModel()
    n, m = core.n, core.most
    x = {(i, t): model.new_bool_var(f"x[{i},{t}]") for i in range(n) for t in range(m)}
    used = [model.new_bool_var(f"used[{t}]") for t in range(m)]
    for i in range(n):
        model.add_exactly_one(x[i, t] for t in range(m))
    for t in range(m):
        model.add_max_equality(used[t], [x[i, t] for i in range(n)])
        column = t if core.labelled else 0
        for r in range(len(core.sizes)):
            total = sum(int(core.sizes[r, i]) * x[i, t] for i in range(n))
            model.add(total <= int(core.upper[r, column]))
            if core.lower[r, column] > 0:
                model.add(total >= int(core.lower[r, column])).only_enforce_if(used[t])
        if not core.labelled and t:
            model.add_implication(used[t], used[t - 1])
    for i, j in zip(*np.nonzero(np.triu(core.conflict, 1)), strict=True):
        for t in range(m):
            model.add_at_most_one(x[int(i), t], x[int(j), t])
    model.add(sum(used) >= core.least)
    solver, status = run_cp_sat(model, clock, seed=seed, workers=workers, largest=_largest(core))
    if status == cp_model.INFEASIBLE:
        return None, -np.inf, "infeasible", 0.0
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return None, np.inf, "unknown", 0.0
    labels = np.array([next(t for t in range(m) if solver.boolean_value(x[i, t])) for i in range(n)], dtype=np.int64)
    return labels, np.inf, "feasible", 0.0


def _largest(core: Core) -> int:
    """The largest coefficient of a capacity."""
    return int(core.sizes.max(initial=0))


def _pairs(model: Any, core: Core) -> dict[tuple[int, int], Any]:
    """Pair literals with transitivity, and the capacity of i's stage: s_i + Σ_j s_j y_ij within limits."""
    n = core.n
    banned = core.conflict.copy()
    for r in range(len(core.sizes)):
        banned |= core.sizes[r][:, None] + core.sizes[r][None, :] > core.upper[r, 0]
    y = {(i, j): model.new_bool_var(f"y[{i},{j}]") for i in range(n) for j in range(i + 1, n) if not banned[i, j]}

    def literal(i: int, j: int) -> Any:
        return y.get((i, j) if i < j else (j, i))

    for i in range(n):
        for j in range(i + 1, n):
            for k in range(j + 1, n):
                a, b, c = literal(i, j), literal(j, k), literal(i, k)
                for p, q, r in ((a, b, c), (b, c, a), (a, c, b)):
                    if p is None or q is None:
                        continue
                    if r is None:
                        model.add_at_most_one(p, q)
                    else:
                        model.add_bool_or(p.negated(), q.negated(), r)
    for r in range(len(core.sizes)):
        least, most = int(core.lower[r, 0]), int(core.upper[r, 0])
        total = int(core.sizes[r].sum())
        for i in range(n):
            mates = [(int(core.sizes[r, j]), literal(i, j)) for j in range(n) if j != i]
            load = int(core.sizes[r, i]) + sum(size * lit for size, lit in mates if lit is not None and size)
            if most < total or core.sizes[r, i] > most:
                model.add(load <= most)
            if least > 0:
                model.add(load >= least)
    return y


def _assignment(model: Any, core: Core) -> tuple[dict[tuple[int, int], Any], dict[tuple[int, int], Any]]:
    """Stages that differ: x_it puts i into stage t, and y_ij follows."""
    n, m = core.n, core.most
    x = {(i, t): model.new_bool_var(f"x[{i},{t}]") for i in range(n) for t in range(m)}
    for i in range(n):
        model.add_exactly_one(x[i, t] for t in range(m))
    for t in range(m):
        for r in range(len(core.sizes)):
            load = sum(int(core.sizes[r, i]) * x[i, t] for i in range(n))
            model.add_linear_constraint(load, int(core.lower[r, t]), int(core.upper[r, t]))
    y: dict[tuple[int, int], Any] = {}
    for i in range(n):
        for j in range(i + 1, n):
            if core.conflict[i, j]:
                for t in range(m):
                    model.add_at_most_one(x[i, t], x[j, t])
                continue
            y[i, j] = model.new_bool_var(f"y[{i},{j}]")
            for t in range(m):
                model.add_bool_or(x[i, t].negated(), x[j, t].negated(), y[i, j])
                model.add_bool_or(x[i, t].negated(), y[i, j].negated(), x[j, t])
                model.add_bool_or(x[j, t].negated(), y[i, j].negated(), x[i, t])
    return y, x


def _stage_count(
    model: Any, core: Core, together: dict[tuple[int, int], Any], where: dict[tuple[int, int], Any] | None
) -> Any:
    """The number of stages as a linear expression, bounded; None when nothing depends on it."""
    n = core.n
    if where is not None:
        for t in range(core.most):
            model.add_bool_or(where[i, t] for i in range(n))
        return core.most
    if core.least <= 1 and core.most >= n and core.kappa == 0:
        return None
    # An item leads its stage when no earlier item shares it; the number of leaders is the number of stages.
    leaders = []
    for j in range(n):
        lead = model.new_bool_var(f"lead[{j}]")
        earlier = [together[i, j] for i in range(j) if (i, j) in together]
        for literal in earlier:
            model.add_implication(literal, lead.negated())
        model.add_bool_or(*earlier, lead)
        leaders.append(lead)
    count = sum(leaders)
    model.add_linear_constraint(count, core.least, core.most)
    return count


def _hint(
    model: Any,
    core: Core,
    together: dict[tuple[int, int], Any],
    where: dict[tuple[int, int], Any] | None,
    labels: NDArray[np.int64],
) -> None:
    for (i, j), literal in together.items():
        model.add_hint(literal, bool(labels[i] == labels[j]))
    if where is not None:
        for (i, t), literal in where.items():
            model.add_hint(literal, bool(labels[i] == t))


def _Callback(report: Callable[[float, float], None], unit: int, base: int) -> Any:
    """A CP-SAT callback that passes incumbent and bound on; its base class is only importable late."""
    from ortools.sat.python import cp_model

    class Reporter(cp_model.CpSolverSolutionCallback):
        def on_solution_callback(self) -> None:
            report(self.objective_value * unit + base, self.best_objective_bound * unit + base)

    return Reporter()
