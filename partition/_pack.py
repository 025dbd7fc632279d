"""The problem as the annealing kernel wants it: small whole numbers in 32-bit floats, in blocks of equal width."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Core

__all__ = ["Packed", "pack"]

# Whole numbers up to here are exact in 32-bit floats, and so are their sums.
_EXACT = 2.0**24
_WIDTH = 64
_DRAWS = 65_536


@dataclass(frozen=True, eq=False)
class Packed:
    """Arrays for :func:`kinfold.partition._anneal.anneal`, which documents them; `unit` is a typical gain.

    Packed gains are `shrink` times those of the core; below 1 they are rounded, and what the kernel finds deserves
    a last descent in whole numbers (:func:`kinfold.partition._polish.polish`).
    """

    core: Core
    gain: NDArray[np.float32]
    conflict: NDArray[np.uint8]
    weight: NDArray[np.float32]
    sizes: NDArray[np.int64]
    upper: NDArray[np.int64]
    lower: NDArray[np.int64]
    ceiling: NDArray[np.float32]
    ground: NDArray[np.float32]
    masked: bool
    kappa: float
    unit: float
    shrink: float
    noise: NDArray[np.float32]

    @property
    def exact(self) -> bool:
        """Whether the packed gains are those of the core."""
        return self.shrink == 1.0

    @property
    def trades(self) -> bool:
        """Whether a budget or a mask can block a move, so that two items may still trade places."""
        return len(self.sizes) > 0 or self.masked

    @property
    def lead(self) -> int:
        """The tightest resource of which items need different amounts, so that one may trade for two; else −1."""
        tightness = [
            float(size.sum()) / max(1.0, float(most.max())) if size.min() < size.max() else -1.0
            for size, most in zip(self.core.sizes, self.upper, strict=True)
        ]
        return int(np.argmax(tightness)) if max(tightness, default=-1.0) > 1.0 else -1


def pack(core: Core) -> Packed:
    """Round gains and sizes to what 32-bit floats add without error, and lay them out in blocks."""
    n = core.n
    width = min(_WIDTH, 16 * -(-n // 16))
    blocks = -(-n // width)
    padded = blocks * width
    gain = core.gain.astype(np.float64)
    gain[core.conflict] = 0.0
    deepest = float(np.abs(gain).sum(axis=1).max(initial=0.0))
    reach = float(np.maximum(gain, 0.0).sum(axis=1).max(initial=0.0)) + abs(core.kappa)
    most = int(core.conflict.sum(axis=1).max(initial=0))
    # A conflicting pair weighs more than all that an item could gain elsewhere, and even a row of them stays exact.
    span = max(1.0, deepest + abs(core.kappa) + most * 1.05 * reach)
    shrink = min(1.0, (_EXACT - 4.0 * (n + most)) / span)
    whole = np.rint(gain * shrink)
    whole[core.conflict] = -np.ceil(1.05 * reach * shrink + 1.0)
    # Item n is nobody, who stands in where a step has no second or third item.
    laid = np.zeros((n + 1, blocks, width), dtype=np.float32)
    laid.reshape(n + 1, padded)[:n, :n] = whole
    conflict = np.zeros((n + 1, padded), dtype=np.uint8)
    conflict[:n, :n] = core.conflict
    sizes = np.zeros((len(core.sizes), n + 1), dtype=np.int64)
    sizes[:, :n] = core.sizes
    if core.labelled:
        upper, lower = core.upper, core.lower
    else:
        ones = np.ones(core.most, dtype=np.int64)
        upper, lower = core.upper[:, :1] * ones, core.lower[:, :1] * ones
    resources = len(core.sizes)
    weight = np.full((resources, padded), 2.0 * _EXACT, dtype=np.float32)
    ceiling, ground = np.zeros(upper.shape, dtype=np.float32), np.zeros(upper.shape, dtype=np.float32)
    for r in range(resources):
        total = float(core.sizes[r].sum())
        ratio = min(1.0, _EXACT / 4.0 / max(1.0, total))
        weight[r, :n] = np.floor(core.sizes[r] * ratio)
        # Rounded sums err by less than a unit an item, always on the side of letting a step through.
        ceiling[r] = np.minimum(np.floor(upper[r] * ratio) + (2.0 if ratio < 1.0 else 0.0), _EXACT)
        ground[r] = np.floor(lower[r] * ratio) - (n + 2.0 if ratio < 1.0 else 0.0)
    pairs = np.abs(whole[np.triu_indices(n, 1)][~core.conflict[np.triu_indices(n, 1)]])
    return Packed(
        core=core,
        gain=laid,
        conflict=conflict,
        weight=weight.reshape(resources, blocks, width),
        sizes=sizes,
        upper=np.ascontiguousarray(upper),
        lower=np.ascontiguousarray(lower),
        ceiling=ceiling,
        ground=ground,
        masked=bool(core.conflict.any()),
        kappa=float(np.rint(core.kappa * shrink)),
        unit=float(np.sqrt(np.mean(pairs**2))) or 1.0 if len(pairs) else 1.0,
        shrink=shrink,
        noise=_noise(),
    )


@cache
def _noise() -> NDArray[np.float32]:
    """A shuffled table of the quantiles of the Gumbel distribution: the maximum of x + T·noise is a heat-bath draw."""
    ranks = (np.random.default_rng(20_251_122).permutation(_DRAWS) + 0.5) / _DRAWS
    return (-np.log(-np.log(ranks))).astype(np.float32)
