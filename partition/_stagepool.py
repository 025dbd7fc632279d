"""The integer step: the best partition made of a given pool of stages.

First the pool's linear programme is tightened with subset-row cuts (of any three items, at most one stage holds two)
and stages whose reduced cost leaves no room for a better plan are thrown out; then CP-SAT chooses among the rest.
Reduced costs are recomputed from rounded duals over the whole pool, so no stage is lost to rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._cpsat import run_cp_sat

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._clock import Clock
    from ._core import Core

__all__ = ["StagePool", "separate"]

_CUTS_A_ROUND = 120
_ROUNDS = 40
_OBJECTIVE_BITS = 40
_CUTOFF_BITS = 24


class StagePool:
    """Stages that could be part of a better plan: bool members (K, n) and whole-number values (K,), κ taken off."""

    def __init__(
        self,
        core: Core,
        members: NDArray[np.bool_],
        values: NDArray[np.int64],
        least: int,
        most: int,
        cuts: list[tuple[int, ...]],
    ) -> None:
        self.core = core
        self.members = members
        self.values = values
        self.least = least
        self.most = most
        self.cuts = list(cuts)
        self.note = ""
        self.open = False

    def choose(
        self, *, least: int, clock: Clock, seed: int, limit: int | None = None
    ) -> tuple[NDArray[np.int64] | None, int, float]:
        """The best partition worth at least `least`: labels or None, its value, and an upper bound.

        None with a bound below `least` proves that the pool holds no such partition. Where more than `limit` stages
        are left after cutting, `open` is set and nothing is chosen.
        """
        start = len(self.members)
        bound = self._tighten(least, clock)
        self.note = f"{len(self.cuts)} cuts leave {len(self.members)} of {start}"
        if bound < least:
            return None, 0, float(least - 1)
        self.open = limit is not None and len(self.members) > limit
        if self.open:
            return None, 0, bound
        return self._integers(least, bound, clock, seed)

    def _tighten(self, least: int, clock: Clock) -> float:
        """Cut and filter until nothing more goes; returns an upper bound on any partition made of the pool."""
        from scipy.optimize import linprog
        from scipy.sparse import csr_matrix, vstack

        bound = np.inf
        unit = float(max(1, np.abs(self.values).max(initial=1)))
        stale = 0
        for _ in range(_ROUNDS):
            if not len(self.members):
                return float(least - 1)
            if clock.left() <= 0 or len(self.members) > 300_000:
                break
            k = len(self.members)
            cover = csr_matrix(self.members.T.astype(np.float64))
            rows = [csr_matrix(np.vstack([np.ones(k), -np.ones(k)]))]
            if self.cuts:
                rows.append(csr_matrix(self._cut_rows(self.members)))
            limit = np.concatenate([[self.most, -self.least], np.ones(len(self.cuts))])
            answer = linprog(
                -self.values / unit,
                A_ub=vstack(rows),
                b_ub=limit,
                A_eq=cover,
                b_eq=np.ones(self.core.n),
                bounds=(0, None),
                method="highs",
                options={} if clock.deterministic else {"time_limit": max(0.1, clock.left())},
            )
            clock.pivots(float(answer.nit), self.core.n + len(self.cuts), k)
            if answer.status == 2:
                # No fractional partition exists at all. HiGHS decides that in floating point; CP-SAT repeats it.
                break
            if answer.status != 0:
                break
            dual = np.rint(-answer.eqlin.marginals * unit)
            side = np.rint(np.maximum(0.0, -answer.ineqlin.marginals * unit))
            reduced = self.values - self.members @ dual - (side[0] - side[1])
            if self.cuts:
                reduced = reduced - self._cut_rows(self.members).T @ side[2:]
            worst = max(0.0, float(reduced.max()))
            now = float(
                float(dual.sum())
                + side[0] * self.most
                - side[1] * self.least
                + float(side[2:].sum())
                + worst * self.most
                + self.core.base
            )
            improved = bound - now
            bound = min(bound, now)
            if now < least:
                return now
            keep = reduced >= least - now - 1.0
            dropped = int((~keep).sum())
            x = answer.x[keep]
            self.members, self.values = self.members[keep], self.values[keep]
            active = x > 1e-6
            fresh = separate(self.members[active], x[active], set(self.cuts), most=_CUTS_A_ROUND, each=12)
            stale = stale + 1 if improved < 0.02 * (now - least) and dropped < 0.03 * k else 0
            if not fresh or stale >= 3:
                break
            # Cuts that are slack only slow the next round down.
            tight = [cut for cut, price in zip(self.cuts, side[2:], strict=True) if price > 0]
            self.cuts = tight + fresh
        return bound

    def _cut_rows(self, members: NDArray[np.bool_]) -> NDArray[np.float64]:
        triples = np.array(self.cuts)
        inside = members[:, triples].sum(axis=2)
        counted: NDArray[np.float64] = (inside >= 2).T.astype(np.float64)
        return counted

    def _integers(
        self, least: int, bound: float, clock: Clock, seed: int
    ) -> tuple[NDArray[np.int64] | None, int, float]:
        from ortools.sat.python import cp_model

        if clock.left() <= 0:
            return None, 0, bound
        model = cp_model.CpModel()
        x = [model.new_bool_var("") for _ in range(len(self.members))]
        for i in range(self.core.n):
            covering = np.flatnonzero(self.members[:, i])
            if not len(covering):
                return None, 0, float(least - 1)
            model.add_exactly_one(x[int(c)] for c in covering)
        for triple in self.cuts:
            model.add_at_most_one(x[int(c)] for c in np.flatnonzero(self.members[:, triple].sum(axis=1) >= 2))
        model.add_linear_constraint(sum(x), self.core.least, min(self.core.most, self.core.n))
        shift = max(0, int(np.abs(self.values).max()).bit_length() - _OBJECTIVE_BITS)
        unit = 1 << shift
        model.maximize(cp_model.LinearExpr.weighted_sum(x, np.rint(self.values / unit).astype(np.int64).tolist()))
        # Only better plans are of interest: ten times faster than a search that may look at others. Rounding takes
        # at most half a unit from each of n stages; the unit is coarse, since OR-Tools 9.15 was seen to call feasible
        # models infeasible whose constraints had coefficients above 2^32.
        coarse = 1 << max(0, int(np.abs(self.values).max()).bit_length() - _CUTOFF_BITS)
        worth = cp_model.LinearExpr.weighted_sum(x, np.rint(self.values / coarse).astype(np.int64).tolist())
        model.add(worth >= (least - self.core.base) // coarse - self.core.n)
        # One worker that keeps to the linear programme: with two, one of them does not, and pools of 1,300 and 1,900
        # stages took 5 and 27 seconds instead of 3 each.
        solver, status = run_cp_sat(model, clock, seed=seed, workers=1, linearization_level=2)
        if status == cp_model.INFEASIBLE:
            return None, 0, float(least - 1)
        if status == cp_model.UNKNOWN:
            return None, 0, bound
        error = 0.0 if shift == 0 else 0.5 * unit * self.core.n
        bound = min(bound, solver.best_objective_bound * unit + self.core.base + error)
        labels = np.zeros(self.core.n, dtype=np.int64)
        for stage, c in enumerate(c for c in range(len(x)) if solver.boolean_value(x[c])):
            labels[self.members[c]] = stage
        value = self.core.value(labels)
        return labels, value, max(bound, float(value))


def separate(
    members: NDArray[np.bool_], weight: NDArray[np.float64], known: set[tuple[int, ...]], *, most: int, each: int
) -> list[tuple[int, ...]]:
    """The most violated subset-row inequalities on three items of a fractional solution, spread over the items.

    Parameters
    ----------
    members : bool ndarray of shape (columns, n); weight : float64 ndarray of shape (columns,), all positive
    known : cuts not to repeat
    most, each : at most so many cuts in all, and of one item
    """
    n = members.shape[1]
    part = members.astype(np.float64)
    pair = (part * weight[:, None]).T @ part
    np.fill_diagonal(pair, 0.0)
    found: list[tuple[float, int, int, int]] = []
    for i in range(n):
        near = np.flatnonzero(pair[i] > 1e-6)
        near = near[near > i]
        if len(near) < 2:
            continue
        rows = members[:, i]
        triple = (part[rows] * weight[rows][:, None])[:, near].T @ part[rows][:, near]
        # A column counts once when it holds two of the items, and once, not three times, when it holds all.
        total = pair[i, near][:, None] + pair[i, near][None, :] + pair[np.ix_(near, near)] - 2 * triple
        for a, b in zip(*np.nonzero(np.triu(total, 1) > 1.0 + 1e-4), strict=True):
            cut = (i, int(near[a]), int(near[b]))
            if cut not in known:
                found.append((float(total[a, b]), *cut))
    found.sort(reverse=True)
    use = np.zeros(n, dtype=np.int64)
    out: list[tuple[int, ...]] = []
    for _, i, j, h in found:
        if max(use[i], use[j], use[h]) < each:
            out.append((i, j, h))
            use[[i, j, h]] += 1
        if len(out) >= most:
            break
    return out
