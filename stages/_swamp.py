"""When one part of the loss swamps the others, the user is told; the weights stay as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..errors import ConfigError

__all__ = ["SwampWatch"]


class SwampWatch:
    """Notices when one part of the loss swamps the others, step after step.

    Parameters
    ----------
    share
        Share of Σ |weight · loss| above which a part swamps.
    patience
        Steps in a row before it is said; it is said once a part.
    """

    def __init__(self, share: float = 0.95, patience: int = 20) -> None:
        if not 0.5 <= share < 1 or patience < 1:
            raise ConfigError(f"swamp share={share!r} must lie in [0.5, 1) and patience={patience!r} be at least 1.")
        self.share = share
        self.patience = patience
        self._streak: dict[str, int] = {}
        self._said: set[str] = set()

    def observe(self, values: Mapping[str, float], weights: Mapping[str, float]) -> str | None:
        """Count one step; return a warning the first time that a part has swamped the others for `patience` steps."""
        sizes = {
            name: abs(value * weights.get(name, 1.0)) for name, value in values.items() if weights.get(name, 1.0) > 0
        }
        total = sum(sizes.values())
        if len(sizes) < 2 or not total > 0 or not math.isfinite(total):
            self._streak.clear()
            return None
        largest = max(sizes, key=lambda name: sizes[name])
        swamps = sizes[largest] / total > self.share
        self._streak = {largest: self._streak.get(largest, 0) + 1} if swamps else {}
        if self._streak.get(largest, 0) < self.patience or largest in self._said:
            return None
        self._said.add(largest)
        others: Sequence[str] = [name for name in sizes if name != largest]
        return (
            f"the {largest} loss has made up {sizes[largest] / total:.0%} of the objective for {self.patience} steps, "
            f"so {', '.join(others)} hardly count; raise their weights, lower {largest}'s, "
            "or choose weighting uncertainty, dwa or famo."
        )
