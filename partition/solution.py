"""What a solver answers: an assignment with its objective, bound, gap and status, never an empty list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .plan import certificate_of, relative_gap

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Solution", "canonical"]


@dataclass(frozen=True, eq=False)
class Solution:
    """A partition and what is proved about it.

    Attributes
    ----------
    assignment : int64 ndarray of shape (k,)
        Stage of each domain: numbered by first appearance, or by the limits' order where stages have their own.
    objective : float
        Σ of gain inside stages − kappa · stages, in double precision.
    bound : float
        Proved upper bound on the objective of any feasible partition (inf when there is none).
    gap : float
        (bound − objective)/|objective|.
    status : str
        "optimal": the bound meets the objective within `tolerance`; "feasible" otherwise.
    seconds : float
        Wall-clock time.
    method : str
        What found and what proved it, for example "annealing + columns".
    tolerance : float
        Largest error of the integers that the exact methods compute with; 0 when the gains are whole or decimal.
    trace : tuple of (seconds, incumbent, bound)
        How the answer came about.
    """

    assignment: NDArray[np.int64]
    objective: float
    bound: float
    gap: float
    status: str
    seconds: float
    method: str = ""
    tolerance: float = 0.0
    trace: tuple[tuple[float, float, float], ...] = field(default=(), repr=False)

    @property
    def certificate(self) -> str:
        """What is proved, in words: "proved optimal", "within 1.2 %" or "no certificate"."""
        return certificate_of(self.status, self.gap)

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(np.unique(self.assignment))

    @classmethod
    def make(
        cls,
        assignment: NDArray[np.int64],
        objective: float,
        bound: float,
        seconds: float,
        *,
        method: str = "",
        tolerance: float = 0.0,
        trace: tuple[tuple[float, float, float], ...] = (),
    ) -> Solution:
        """Derive gap and status; a bound within rounding of the objective is the objective."""
        slack = tolerance + 1e-9 * abs(objective)
        proved = bound <= objective + slack
        if proved:
            bound = objective
        gap = relative_gap(objective, bound) if np.isfinite(bound) else float("inf")
        status = "optimal" if proved else "feasible"
        return cls(assignment, objective, bound, gap, status, seconds, method, tolerance, trace)


def canonical(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the groups by first appearance.

    >>> canonical(np.array([7, 2, 7, 0])).tolist()
    [0, 1, 0, 2]
    """
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse.reshape(labels.shape)]
