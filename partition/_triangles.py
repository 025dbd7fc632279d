"""An upper bound from pairs: y_ij in [0, 1], triangle inequalities and capacities added while they are violated.

max Σ w_ij y_ij with y_ij + y_ik − y_jk ≤ 1, s_i + Σ_j s_j y_ij ≤ U and ≥ L. Solved by OR-Tools' GLOP, warm-started as
rows arrive. The bound is recomputed from rounded, non-negative duals (rhs · dual + Σ max(0, reduced gain)), so it is
safe whatever the linear programme's rounding, and any round may be the last.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Core

__all__ = ["triangle_bound"]

_EPSILON = 1e-6


def triangle_bound(
    core: Core,
    *,
    seconds: float,
    enough: float = -np.inf,
    report: Callable[[float], None] = lambda bound: None,
) -> tuple[float, NDArray[np.int64] | None]:
    """The bound on the scaled objective, and item labels when the relaxation came out whole and feasible.

    Parameters
    ----------
    core : Core
        Not `labelled`. A cost per stage enters at its least: the least number of stages.
    seconds : float
    enough : float
        Stop once the bound is below this.
    """
    from ortools.linear_solver import pywraplp

    deadline = time.monotonic() + seconds
    n = core.n
    if n < 2:
        return float(core.base - core.kappa), np.zeros(n, dtype=np.int64)
    unit = float(max(1, np.abs(core.gain).max(initial=1)))
    rows, columns = np.triu_indices(n, 1)
    number = np.zeros((n, n), dtype=np.int64)
    number[rows, columns] = number[columns, rows] = np.arange(len(rows))
    weight = core.gain[rows, columns].astype(np.float64)
    banned = core.conflict[rows, columns].copy()
    for r in range(len(core.sizes)):
        banned |= core.sizes[r][rows] + core.sizes[r][columns] > core.upper[r, 0]
    # Each stage costs κ; at least `least` of them are used, at most `most` when κ is negative.
    fixed = float(core.base) - min(core.kappa * core.least, core.kappa * core.most)
    solver = pywraplp.Solver.CreateSolver("GLOP")
    infinity = solver.infinity()
    y = [solver.NumVar(0.0, 0.0 if b else 1.0, "") for b in banned]
    objective = solver.Objective()
    objective.SetMaximization()
    for v, w in zip(y, weight, strict=True):
        objective.SetCoefficient(v, float(w) / unit)
    constraints: list[Any] = []
    # Rows as (indices, coefficients, rhs) of ≤ constraints, to recompute the bound from.
    book: list[tuple[NDArray[np.int64], NDArray[np.float64], float]] = []

    def add(index: NDArray[np.int64], coefficient: NDArray[np.float64], rhs: float) -> None:
        row = solver.Constraint(-infinity, rhs)
        for i, c in zip(index.tolist(), coefficient.tolist(), strict=True):
            row.SetCoefficient(y[i], c)
        constraints.append(row)
        book.append((index, coefficient, rhs))

    for r in range(len(core.sizes)):
        size = core.sizes[r].astype(np.float64)
        for i in range(n):
            others = np.flatnonzero(np.arange(n) != i)
            if core.upper[r, 0] < core.sizes[r].sum():
                add(number[i, others], size[others], float(core.upper[r, 0] - core.sizes[r, i]))
            if core.lower[r, 0] > core.sizes[r, i]:
                add(number[i, others], -size[others], float(core.sizes[r, i] - core.lower[r, 0]))
    best = np.inf
    seen: set[tuple[int, int, int]] = set()
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return best, None
        solver.SetTimeLimit(max(1, int(1000 * left)))
        if solver.Solve() != solver.OPTIMAL:
            return best, None
        bound = fixed + _safe(weight, banned, book, np.array([row.dual_value() for row in constraints]) * unit)
        if bound < best:
            best = bound
            report(best)
        if best < enough:
            return best, None
        point = np.zeros((n, n))
        values = np.array([v.solution_value() for v in y])
        point[rows, columns] = point[columns, rows] = values
        fresh = _violated(point, seen, 6 * n)
        if not fresh:
            labels = _whole(point)
            if labels is not None and not core.feasible(labels):
                labels = None
            return best, labels
        for i, j, k in fresh:
            add(np.array([number[i, j], number[i, k], number[j, k]]), np.array([1.0, 1.0, -1.0]), 1.0)


def _safe(
    weight: NDArray[np.float64],
    banned: NDArray[np.bool_],
    book: list[tuple[NDArray[np.int64], NDArray[np.float64], float]],
    dual: NDArray[np.float64],
) -> float:
    """Lagrangian bound at rounded non-negative duals; in whole numbers, so nothing is lost."""
    price = np.rint(np.maximum(dual, 0.0)) if len(dual) else np.zeros(0)
    reduced = weight.copy()
    total = 0.0
    for p, (index, coefficient, rhs) in zip(price.tolist(), book, strict=True):
        if p > 0:
            reduced[index] -= p * coefficient
            total += p * rhs
    return total + float(np.maximum(reduced[~banned], 0.0).sum())


def _violated(point: NDArray[np.float64], seen: set[tuple[int, int, int]], most: int) -> list[tuple[int, int, int]]:
    """The most violated y_ij + y_ik − y_jk ≤ 1, spread over the centres i."""
    n = len(point)
    found: list[tuple[float, int, int, int]] = []
    each = max(4, 3 * most // n)
    for i in range(n):
        excess = point[i][:, None] + point[i][None, :] - point - 1.0
        excess[np.tril_indices(n)] = 0.0
        excess[i] = excess[:, i] = 0.0
        flat = excess.ravel()
        if flat.max() <= _EPSILON:
            continue
        top = np.argpartition(-flat, min(each, flat.size - 1))[:each]
        found += [(float(flat[at]), i, int(at // n), int(at % n)) for at in top if flat[at] > _EPSILON]
    found.sort(reverse=True)
    out = []
    for _, i, j, k in found:
        if (i, j, k) not in seen:
            seen.add((i, j, k))
            out.append((i, j, k))
            if len(out) >= most:
                break
    return out


def _whole(point: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """Labels when every pair is together or apart, else None."""
    if np.abs(point - np.rint(point)).max() > 1e-5:
        return None
    labels = np.arange(len(point), dtype=np.int64)
    for i in range(len(point)):
        for j in np.flatnonzero(point[i, i + 1 :] > 0.5) + i + 1:
            labels[j] = labels[i]
    return labels
