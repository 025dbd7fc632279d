"""A loss as a sum and a count."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["LossPart"]


@dataclass(frozen=True)
class LossPart:
    """A loss not yet divided: the step divides the summed totals by the summed counts once.

    Attributes
    ----------
    total
        Sum of the loss over its units (tokens, sequences or pairs of domains); scalar, differentiable.
    count
        Number of units; 0 where there were none (then `total` is 0).
    per_domain
        Sums by domain (n_domains,), or None where the loss has none.
    per_domain_count
        Units by domain (n_domains,), or None.
    """

    total: Tensor
    count: float
    per_domain: Tensor | None = None
    per_domain_count: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """Total over count; 0 where there is nothing to average."""
        return self.total / max(self.count, 1)
