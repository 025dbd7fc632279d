"""Exact Frobenius norms of low-rank products, and projections onto balls, without ever forming a product.

``‖s·Bᵀ A‖_F² = s² Σ_ij (B Bᵀ)_ij (A Aᵀ)_ij`` for A (rank, in) and B (rank, out): two r×r Gram matrices a pair. Grams
are taken in float64, since the sum cancels where the factors are nearly aligned and opposed.

An adapter's norm is that of its whole update, all layers together: ‖Δθ‖² = Σ_layers ‖s·B A‖_F² (METHOD, Algorithm 1:
‖θ^t − θ^{t−1}‖₂ ≤ ρ). The Euclidean projection of an update onto the ball of radius ρ is its multiple by
min(1, ρ/‖Δθ‖); scaling every B by that factor is exactly this multiple.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import ConfigError

__all__ = ["product_norm", "project_", "update_norm"]


def _sq_norm(a: Tensor, b: Tensor) -> Tensor:
    a64, b64 = a.detach().double(), b.detach().double()
    return ((a64 @ a64.mT) * (b64 @ b64.mT)).sum()


def product_norm(a: Tensor, b: Tensor, scaling: float = 1.0) -> float:
    """Frobenius norm of ``scaling * b.T @ a``.

    Parameters
    ----------
    a, b
        Factors (rank, in) and (rank, out).
    scaling
        Factor in front of the product.

    Returns
    -------
    float
        The norm; at least 0. Cost: rank² (in + out) multiplications.
    """
    return abs(scaling) * math.sqrt(max(0.0, _sq_norm(a, b).item()))


def update_norm(pairs: Iterable[tuple[Tensor, Tensor]], scaling: float = 1.0) -> float:
    """Frobenius norm of an adapter's whole update: the root of the sum of squares over its layers.

    Parameters
    ----------
    pairs
        Factors A (rank, in), B (rank, out) of each layer.
    scaling
        Factor in front of every product.
    """
    squares: dict[torch.device, list[Tensor]] = {}
    for a, b in pairs:
        squares.setdefault(a.device, []).append(_sq_norm(a, b))
    # One transfer a device, not one a layer.
    total = sum(float(torch.stack(parts).sum()) for parts in squares.values())
    return abs(scaling) * math.sqrt(max(0.0, total))


@torch.no_grad()
def project_(pairs: Iterable[tuple[Tensor, Tensor]], rho: float | None, scaling: float = 1.0) -> float:
    """Project an adapter's update onto the ball of radius `rho`, in place; return its norm afterwards.

    Parameters
    ----------
    pairs
        Factors A (rank, in), B (rank, out) of each layer; B is scaled where the norm exceeds `rho`.
    rho
        Radius, or None for no bound.
    scaling
        Factor in front of every product.

    Raises
    ------
    ConfigError
        When `rho` is negative or NaN.
    """
    if rho is not None and not rho >= 0:
        raise ConfigError(f"norm bound rho={rho!r} must be a number of at least 0, or null for none.")
    listed = list(pairs)
    norm = update_norm(listed, scaling)
    if rho is None or norm <= rho:
        return norm
    for _, b in listed:
        b.mul_(rho / norm)
    return float(rho)
