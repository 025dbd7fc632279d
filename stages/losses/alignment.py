"""Alignment of domains: the squared maximum mean discrepancy between their pooled features, as a loss.

For domains i ≠ j with features x ∈ D_i, y ∈ D_j (Gretton et al. 2012, eq. 3; METHOD section 2)::

    MMD²(i, j) = Σ_{a≠b} k(x_a, x_b) / (n_i (n_i − 1)) + Σ_{a≠b} k(y_a, y_b) / (n_j (n_j − 1))
                 − 2 Σ_{a,b} k(x_a, y_b) / (n_i n_j)

the unbiased estimate, which may be negative and is never clamped (a clamp would cut the gradient where domains
agree).
k is the mean of five Gaussian kernels, exp(−‖x−y‖²/(2σ²)) with σ² = {¼, ½, 1, 2, 4}·m, m the median squared distance of
all pairs, detached: one exponential and four squarings. Sums run in fp32 or better; distances never go through a root.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...errors import ConfigError
from .parts import LossPart

__all__ = ["FeatureQueue", "alignment_mmd2"]

_MULTIPLES = (4.0, 2.0, 1.0, 0.5, 0.25)


class FeatureQueue:
    """The latest features of each domain, detached, so that a small batch is still compared with many.

    Parameters
    ----------
    n_domains
        Number of domains.
    capacity
        Features kept for each domain.
    """

    def __init__(self, n_domains: int, capacity: int = 64) -> None:
        if n_domains < 1 or capacity < 1:
            raise ConfigError(
                f"a feature queue needs at least one domain and one place, not {n_domains} and {capacity}."
            )
        self.n_domains = n_domains
        self.capacity = capacity
        self._kept: list[Tensor | None] = [None] * n_domains

    @torch.no_grad()
    def push(self, features: Tensor, domain_index: Tensor) -> None:
        """Remember features (n, d) of domains (n,), oldest out first; call it after the loss of the step."""
        features = features.detach().to(torch.promote_types(features.dtype, torch.float32))
        for domain in range(self.n_domains):
            new = features[domain_index.to(features.device) == domain]
            if not new.shape[0]:
                continue
            old = self._kept[domain]
            joined = new if old is None else torch.cat([old.to(new), new])
            self._kept[domain] = joined[-self.capacity :].clone()

    def contents(self) -> tuple[Tensor, Tensor] | None:
        """All features kept (m, d) and their domains (m,), or None while empty."""
        present = [(index, kept) for index, kept in enumerate(self._kept) if kept is not None]
        if not present:
            return None
        domains = [torch.full((kept.shape[0],), index, device=kept.device) for index, kept in present]
        return torch.cat([kept for _, kept in present]), torch.cat(domains)

    def state_dict(self) -> dict[str, Tensor]:
        """Features by domain index, for checkpoints."""
        return {str(index): kept for index, kept in enumerate(self._kept) if kept is not None}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put features back as :meth:`state_dict` gave them."""
        for key in state:
            if not key.isdigit() or int(key) >= self.n_domains:
                raise ConfigError(
                    f"feature queue: {key!r} is not one of {self.n_domains} domains; "
                    "the state belongs to another stage."
                )
        self._kept = [state[str(index)].clone() if str(index) in state else None for index in range(self.n_domains)]


def alignment_mmd2(
    features: Tensor,
    domain_index: Tensor,
    n_domains: int,
    queue: FeatureQueue | None = None,
    linear: bool = False,
    *,
    unbiased: bool = True,
    bandwidth: float | None = None,
) -> LossPart:
    """Sum of MMD² over the pairs of domains present, and the number of those pairs.

    Parameters
    ----------
    features
        Pooled features (n, d), one a document; gradients flow to them.
    domain_index
        Domain of each (n,), 0..n_domains-1.
    n_domains
        Number of domains of the stage.
    queue
        Earlier features to be compared with as constants; not changed here (push after the step).
    linear
        Use k(x, y) = x·y: with ``unbiased=False`` this is ‖mean x − mean y‖² to the letter.
    unbiased
        Leave the diagonal out (the default); False keeps it and divides by n².
    bandwidth
        The median squared distance m to use; None takes that of the features at hand.

    Returns
    -------
    LossPart
        `total` the sum over pairs, `count` the number of pairs. Domains with too few features (two, or one when
        biased) take part in no pair; with fewer than two domains left, total and count are 0.

    Raises
    ------
    ConfigError
        When shapes do not fit.
    """
    if features.ndim != 2 or domain_index.shape != features.shape[:1]:
        raise ConfigError(
            f"features {tuple(features.shape)} and domain_index {tuple(domain_index.shape)} do not fit; "
            "they must be (n, d) and (n,)."
        )
    x = features.to(torch.promote_types(features.dtype, torch.float32))
    domains = domain_index.to(x.device)
    kept = queue.contents() if queue is not None else None
    if kept is not None:
        x = torch.cat([x, kept[0].to(x)])
        domains = torch.cat([domains, kept[1].to(domains)])
    with torch.autocast(x.device.type, enabled=False):
        total, pairs = _sum_over_pairs(x, domains, n_domains, linear, unbiased, bandwidth)
    return LossPart(total, pairs)


def _sum_over_pairs(
    x: Tensor, domains: Tensor, n_domains: int, linear: bool, unbiased: bool, bandwidth: float | None
) -> tuple[Tensor, float]:
    counts = torch.bincount(domains, minlength=n_domains)
    least = 2 if unbiased else 1
    usable = torch.nonzero(counts >= least).squeeze(1)
    k = int(usable.numel())
    if k < 2:
        return x.sum() * 0.0, 0
    place = torch.full((n_domains,), -1, dtype=torch.long, device=x.device)
    place[usable] = torch.arange(k, device=x.device)
    inside = place[domains] >= 0
    x, group = x[inside], place[domains[inside]]
    kernel = _linear(x) if linear else _gaussians(x, bandwidth)
    member = torch.nn.functional.one_hot(group, k).to(x.dtype)  # (n, k)
    sizes = member.sum(0)
    blocks = member.T @ kernel @ member  # (k, k) sums of kernel values
    within = blocks.diagonal()
    if unbiased:
        within = (within - member.T @ kernel.diagonal()) / (sizes * (sizes - 1))
    else:
        within = within / sizes.square()
    across = blocks / (sizes[:, None] * sizes[None, :])
    # Σ_{i<j} (w_i + w_j − 2 c_ij)
    total = (k - 1) * within.sum() - (across.sum() - across.diagonal().sum())
    return total, k * (k - 1) / 2


def _linear(x: Tensor) -> Tensor:
    # MMD² is blind to a common shift; taking it off first keeps digits.
    x = x - x.detach().mean(0)
    return x @ x.T


def _gaussians(x: Tensor, bandwidth: float | None) -> Tensor:
    x = x - x.detach().mean(0)
    squares = x.square().sum(1)
    sq_dists = (squares[:, None] + squares[None, :] - 2 * x @ x.T).clamp_min(0)
    n = x.shape[0]
    if bandwidth is None:
        apart = ~torch.eye(n, dtype=torch.bool, device=x.device)
        median = sq_dists.detach()[apart].median()
        # All features alike: any width gives a kernel of ones.
        median = torch.where(median > 0, median, torch.ones_like(median))
    else:
        median = torch.as_tensor(bandwidth, dtype=x.dtype, device=x.device)
    power = torch.exp(-sq_dists / (2 * _MULTIPLES[0] * median))
    total = power
    for _ in _MULTIPLES[1:]:
        power = power.square()
        total = total + power
    return total / len(_MULTIPLES)
