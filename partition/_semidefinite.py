"""An upper bound from a matrix: X_ij = 1 where i and j share a stage is positive semidefinite, and so is its border.

With t stages, Z = [t 1ᵀ; 1 X] = Σ over stages of (1, membership)(1, membership)ᵀ. Maximise ½⟨gain, X⟩ − κ t over
positive semidefinite Z with diag X = 1, X ≥ 0, X_ij = 0 for pairs in conflict, capacities, and cuts (see
``_semidefinite_cuts``). Linear programmes over pairs see little of capacities on sparse graphs; this one does.

The dual is minimised by L-BFGS-B in the regularised form of Malick & Roupin (Mathematical Programming 140, 2013):
for multipliers y and M(y) what is left of the objective, every partition satisfies

    value ≤ b·y + ⟨M(y), Z⟩ + α/2 (⟨R, Z⟩ + r − ‖Z‖²) ≤ b·y + α/2 r + ‖(M(y) + α/2 R)₊‖² / (2α)

because ‖Z‖² ≤ ⟨R, Z⟩ + r for the matrix of a partition (its X is binary and t lies between its limits). Any
admissible y gives a bound, so the search may stop anywhere; the last line recomputes it with the errors of floating
point on the safe side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ._clock import Clock, forever

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Core

__all__ = ["semidefinite_bound"]

# Regularisation, in units of a large gain: from smooth and loose to sharp and slow.
_START = (0.3, 0.03, 0.003)
_CUTTING = 1e-3
_SHARP = 3e-4
_STEPS = 150
_SHARP_STEPS = 600
_ROUNDS = 200
_MEMORY = 8
# A round that closes less of the gap than this share ends the cutting; so does the clock, since the last, sharp rounds
# take off more in their quarter of the time than further cuts would.
_STALL = 0.001
_SHARP_SHARE = 0.25
# Work of one evaluation on a slow core, in seconds: at least, and per side of the matrix cubed.
_WORK = (3e-4, 1e-8)


class _OutOfTimeError(Exception):
    """The clock ended inside the minimiser."""


def semidefinite_bound(
    core: Core,
    *,
    clock: Clock | None = None,
    value: float = -np.inf,
    report: Callable[[float], None] = lambda bound: None,
    hopeless: Callable[[float], bool] = lambda bound: False,
) -> float:
    """Bound the scaled objective of every partition.

    Parameters
    ----------
    core : Core
        Not `labelled`.
    clock : Clock, optional
    value : float
        Scaled objective of a partition at hand; the search ends once nothing better can exist.
    report : callable
        Hears of every lower bound.
    hopeless : callable
        Asked with the bound so far after every round; True ends the search.

    Returns
    -------
    float
        No partition has a larger scaled objective; inf when the clock left no time for anything.
    """
    from ._semidefinite_cuts import Cuts, separate

    clock = clock or forever()
    if core.n < 3 or core.labelled:
        return np.inf
    model = _Dual(core, Cuts.capacities(core))
    best = np.inf
    whole = clock.left()

    def minimise(alpha: float, steps: int) -> bool:
        nonlocal best
        ended = model.minimise(alpha, steps, clock)
        bound = model.safe(alpha)
        if bound < best:
            best = bound
            report(best)
        return not ended or best < value + 1 or hopeless(best)

    for alpha in _START:
        if minimise(alpha, _STEPS):
            return best
    for _ in range(_ROUNDS):
        before = best
        fresh = separate(model.point, model.stages, core, model.cuts)
        if not len(fresh):
            break
        model.replace(model.cuts.kept(model.multipliers, fresh))
        if minimise(_CUTTING, _STEPS):
            return best
        late = np.isfinite(whole) and clock.left() < _SHARP_SHARE * whole
        if late or before - best < _STALL * (best - value if np.isfinite(value) else abs(best)):
            break
    for _ in range(_ROUNDS):
        before = best
        if minimise(_SHARP, _SHARP_STEPS):
            return best
        fresh = separate(model.point, model.stages, core, model.cuts)
        model.replace(model.cuts.kept(model.multipliers, fresh))
        if before - best < _STALL * (best - value if np.isfinite(value) else abs(best)):
            break
    return best


class _Dual:
    """Multipliers, and the regularised dual function of them.

    The vector of multipliers is: n for diag X = 1 and n for the border (free), 2 for the limits of t, one per pair
    for X ≥ 0 (free where the pair is in conflict), one per cut.
    """

    def __init__(self, core: Core, cuts: Any) -> None:
        n = self.n = core.n
        self.core = core
        self.rows, self.columns = np.triu_indices(n, 1)
        gain = core.gain[self.rows, self.columns].astype(np.float64)
        self.banned = core.conflict[self.rows, self.columns].copy()
        for r in range(len(core.sizes)):
            self.banned |= core.sizes[r][self.rows] + core.sizes[r][self.columns] > core.upper[r, 0]
        gain[self.banned] = 0.0
        size = np.abs(gain[gain != 0])
        self.unit = float(np.quantile(size, 0.9)) if len(size) else 1.0
        self.gain = gain / self.unit
        self.kappa = core.kappa / self.unit
        self.cuts = cuts
        pairs = len(self.rows)
        self.head = np.zeros(2 * n + 2)
        self.positive = np.zeros(pairs)
        self.multipliers = np.zeros(len(cuts))
        self.point = np.zeros((n, n))
        self.stages = 0.0
        self.ended = False

    def replace(self, cuts: tuple[Any, NDArray[np.float64]]) -> None:
        """Go on with other cuts, from their multipliers."""
        self.cuts, self.multipliers = cuts

    def minimise(self, alpha: float, steps: int, clock: Clock) -> bool:
        """Improve the multipliers; False when the clock ended."""
        from scipy.optimize import Bounds, minimize

        free = np.concatenate([np.full(2 * self.n, -np.inf), np.zeros(2), np.where(self.banned, -np.inf, 0.0)])
        lower = np.concatenate([free, np.zeros(len(self.cuts))])
        best = np.inf
        kept = self._vector()

        def evaluate(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            nonlocal best, kept
            if clock.left() <= 0:
                raise _OutOfTimeError
            clock.spend(_WORK[0] + _WORK[1] * (self.n + 1) ** 3)
            height, slope = self._evaluate(x, alpha)
            if height < best:
                best, kept = height, x.copy()
            return height, slope

        in_time = True
        try:
            minimize(
                evaluate,
                kept,
                jac=True,
                method="L-BFGS-B",
                bounds=Bounds(lower, np.inf),
                options={"maxiter": steps, "maxcor": _MEMORY, "maxfun": 3 * steps, "ftol": 1e-10, "gtol": 1e-6},
            )
        except _OutOfTimeError:
            in_time = False
        self._take(kept)
        self._evaluate(kept, alpha)
        return in_time

    def safe(self, alpha: float) -> float:
        """The bound at the present multipliers, with every rounding error counted against it."""
        matrix, constant, weight = self._remainder(self._vector(), alpha)
        eps = float(np.finfo(np.float64).eps)
        # A sum of m terms errs by at most m eps times the sum of their sizes; eigenvalues by n eps times the norm.
        terms = float(self.cuts.most_in_an_entry() + 8)
        sizes = self._sizes(alpha)
        wrong = terms * eps * float(np.linalg.norm(sizes)) + 10 * self.n * eps * float(np.linalg.norm(matrix))
        roots = np.maximum(np.linalg.eigvalsh(matrix) + wrong, 0.0)
        curved = float(roots @ roots) / (2 * alpha)
        bound = constant + curved
        bound += (len(self.multipliers) + 4 * self.n + 8) * eps * (weight + curved)
        return float(self.core.base) + bound * self.unit * (1 + 4 * eps)

    def _vector(self) -> NDArray[np.float64]:
        return np.concatenate([self.head, self.positive, self.multipliers])

    def _take(self, x: NDArray[np.float64]) -> None:
        a, b = 2 * self.n + 2, 2 * self.n + 2 + len(self.positive)
        self.head, self.positive, self.multipliers = x[:a].copy(), x[a:b].copy(), x[b:].copy()

    def _remainder(self, x: NDArray[np.float64], alpha: float) -> tuple[NDArray[np.float64], float, float]:
        """M(y) + α/2 R of shape (n + 1, n + 1), the constant b·y + α/2 r, and the sum of its terms' sizes."""
        n, core = self.n, self.core
        diagonal, border, limits = x[:n], x[n : 2 * n], x[2 * n : 2 * n + 2]
        at = 2 * n + 2 + len(self.positive)
        positive, multipliers = x[2 * n + 2 : at], x[at:]
        matrix = np.empty((n + 1, n + 1))
        inner = matrix[1:, 1:]
        pair = 0.5 * (self.gain + positive - self.cuts.on_pairs(multipliers)) + 0.5 * alpha
        inner[self.rows, self.columns] = pair
        inner[self.columns, self.rows] = pair
        np.fill_diagonal(inner, 0.5 * alpha - diagonal)
        matrix[0, 1:] = matrix[1:, 0] = -0.5 * border
        stages = 0.5 * alpha * (core.least + core.most) - self.kappa
        matrix[0, 0] = stages - limits[0] + limits[1] - self.cuts.on_stages(multipliers)
        parts = (
            float(diagonal.sum()),
            float(border.sum()),
            core.most * float(limits[0]) - core.least * float(limits[1]),
            float(self.cuts.rhs @ multipliers),
            0.5 * alpha * (2 * n - core.least * core.most),
        )
        weight = (
            float(np.abs(diagonal).sum() + np.abs(border).sum() + np.abs(self.cuts.rhs) @ multipliers)
            + core.most * float(limits.sum())
            + abs(parts[4])
        )
        return matrix, sum(parts), weight

    def _sizes(self, alpha: float) -> NDArray[np.float64]:
        """Entry by entry, the sum of the sizes of the terms of the matrix."""
        n = self.n
        out = np.empty((n + 1, n + 1))
        pair = 0.5 * (np.abs(self.gain) + np.abs(self.positive) + self.cuts.on_pairs(self.multipliers, sizes=True))
        inner = out[1:, 1:]
        inner[self.rows, self.columns] = inner[self.columns, self.rows] = pair + 0.5 * alpha
        np.fill_diagonal(inner, 0.5 * alpha + np.abs(self.head[:n]))
        out[0, 1:] = out[1:, 0] = 0.5 * np.abs(self.head[n : 2 * n])
        stages = 0.5 * alpha * (self.core.least + self.core.most) + abs(self.kappa) + self.head[2 * n :].sum()
        out[0, 0] = stages + self.cuts.on_stages(self.multipliers, sizes=True)
        return out

    def _evaluate(self, x: NDArray[np.float64], alpha: float) -> tuple[float, NDArray[np.float64]]:
        matrix, constant, _ = self._remainder(x, alpha)
        roots, vectors = np.linalg.eigh(matrix)
        first = int(np.searchsorted(roots, 0.0))
        roots, vectors = roots[first:], vectors[:, first:]
        whole = (vectors * (roots / alpha)) @ vectors.T
        self.point = whole[1:, 1:]
        pairs = self.point[self.rows, self.columns]
        t = self.stages = float(whole[0, 0])
        slope = np.concatenate(
            [
                1.0 - np.diag(self.point),
                1.0 - whole[0, 1:],
                [self.core.most - t, t - self.core.least],
                pairs,
                self.cuts.slack(pairs, t),
            ]
        )
        return constant + float(roots @ roots) / (2 * alpha), slope
