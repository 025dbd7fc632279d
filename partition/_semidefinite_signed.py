"""The search for violated signed inequalities: signs of −1, 0, 1 change one or two at a time while that deepens them.

Over a partition Σ (b(C) − m)(b(C) − m + 1) over its t stages is b·Xb − (2m − 1) Σ b + m (m − 1) t ≥ 0 (see
``_semidefinite_cuts``). At a point that is no partition the left side can be negative. Steps of two signs matter: a
single item rarely helps, since whole numbers next to each other cost nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._jit import compiled, have_compiler

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["signed_rows"]

_CENTRES = (1, 2)
_IMPROVES = 1e-6
# Starts times items squared: a step of one start looks at all pairs.
_LOOKS = 1_200_000


def signed_rows(point: NDArray[np.float64], stages: float, least: float) -> list[tuple[int, NDArray[np.int8], float]]:
    """Signs of violated inequalities; none where there is no compiler, since the search would take too long.

    Parameters
    ----------
    point : float ndarray of shape (n, n)
        X, symmetric.
    stages : float
        t.
    least : float
        Violation from which an inequality counts.

    Returns
    -------
    list of (m, signs of shape (n,), violation)
        The most violated first.
    """
    if not have_compiler():
        return []
    n = len(point)
    unit = np.ascontiguousarray(point, dtype=np.float64).copy()
    np.fill_diagonal(unit, 1.0)
    nearest = (unit - 2.0 * np.eye(n)).argmax(axis=1)
    starts = np.concatenate([np.eye(n), np.eye(n) - np.eye(n)[nearest]])
    starts = starts[:: -(-len(starts) // max(16, _LOOKS // (n * n)))]
    found: dict[tuple[int, bytes], float] = {}
    for m in _CENTRES:
        signs = starts.copy()
        compiled(_deepen)(unit, float(m), signs)
        heights = ((signs @ unit) * signs).sum(axis=1) - (2 * m - 1) * signs.sum(axis=1) + m * (m - 1) * stages
        for row in np.flatnonzero(heights < -least):
            found[m, signs[row].astype(np.int8).tobytes()] = -float(heights[row])
    order = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return [(m, np.frombuffer(key, dtype=np.int8), excess) for (m, key), excess in order]


def _deepen(unit: NDArray[np.float64], m: float, signs: NDArray[np.float64]) -> None:
    """Descend from every row of `signs`, in place, to where no change of one or two signs helps."""
    n = len(unit)
    up = np.empty(n)
    down = np.empty(n)
    for row in range(len(signs)):
        sign = signs[row]
        inside = np.zeros(n)
        for i in range(n):
            if sign[i] != 0.0:
                inside += sign[i] * unit[i]
        while True:
            best, first, second = -_IMPROVES, -1, -1
            one = two = 0.0
            for i in range(n):
                up[i] = 2.0 * inside[i] + 2.0 - 2.0 * m if sign[i] < 1.0 else np.inf
                down[i] = 2.0 * m - 2.0 * inside[i] if sign[i] > -1.0 else np.inf
                if up[i] < best:
                    best, first, one = up[i], i, 1.0
                if down[i] < best:
                    best, first, one = down[i], i, -1.0
            if first < 0:
                for i in range(n):
                    for j in range(i):
                        near = 2.0 * unit[i, j]
                        same, apart = up[i] + up[j] + near, up[i] + down[j] - near
                        if same < best:
                            best, first, second, one, two = same, i, j, 1.0, 1.0
                        if apart < best:
                            best, first, second, one, two = apart, i, j, 1.0, -1.0
                        same, apart = down[i] + down[j] + near, down[i] + up[j] - near
                        if same < best:
                            best, first, second, one, two = same, i, j, -1.0, -1.0
                        if apart < best:
                            best, first, second, one, two = apart, i, j, -1.0, 1.0
            if first < 0:
                break
            sign[first] += one
            inside += one * unit[first]
            if second >= 0:
                sign[second] += two
                inside += two * unit[second]
