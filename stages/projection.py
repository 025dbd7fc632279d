"""Exact Frobenius norms of low-rank products, and projections onto balls, without ever forming a product.

``‖s·Bᵀ A‖_F² = s² Σ_ij (B Bᵀ)_ij (A Aᵀ)_ij`` for A (rank, in) and B (rank, out): two r×r Gram matrices a pair. Grams
are taken in float64, since the sum cancels where the factors are nearly aligned and opposed.

An adapter's norm is that of its whole update, all layers together: ‖Δθ‖² = Σ_layers ‖s·B A‖_F² (METHOD, Algorithm 1:
‖θ^t − θ^{t−1}‖₂ ≤ ρ). The Euclidean projection of an update onto the ball of radius ρ is its multiple by
min(1, ρ/‖Δθ‖); scaling every B by that factor is exactly this multiple.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..errors import ConfigError

__all__ = ["product_norm", "project_", "project_all_", "update_norm", "update_norms"]

# Numbers turned to float64 at once: on a CPU what stays in its cache, elsewhere few launches.
_BATCH = {"cpu": 1 << 18}
_BATCH_OTHER = 1 << 24


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
    return update_norms([[(a, b)]], scaling)[0]


def update_norm(pairs: Iterable[tuple[Tensor, Tensor]], scaling: float = 1.0) -> float:
    """Frobenius norm of an adapter's whole update: the root of the sum of squares over its layers.

    Parameters
    ----------
    pairs
        Factors A (rank, in), B (rank, out) of each layer.
    scaling
        Factor in front of every product.
    """
    return update_norms([list(pairs)], scaling)[0]


def update_norms(adapters: Sequence[Sequence[tuple[Tensor, Tensor]]], scaling: float = 1.0) -> list[float]:
    """:func:`update_norm` of several adapters: layers of one shape go through one batched product.

    A training step asks for this with hundreds of small factors, where the number of calls is the cost.
    """
    if not any(adapters):
        return [0.0] * len(adapters)
    alike: dict[tuple[torch.Size, torch.Size, torch.device], list[tuple[int, Tensor, Tensor]]] = {}
    for index, pairs in enumerate(adapters):
        for a, b in pairs:
            alike.setdefault((a.shape, b.shape, a.device), []).append((index, a.detach(), b.detach()))
    sums = torch.zeros(len(adapters), dtype=torch.float64)
    for (a_shape, b_shape, device), items in alike.items():
        on_device = torch.zeros(len(adapters), dtype=torch.float64, device=device)
        size = max(1, _BATCH.get(device.type, _BATCH_OTHER) // max(1, a_shape.numel() + b_shape.numel()))
        for start in range(0, len(items), size):
            part = items[start : start + size]
            a64 = torch.stack([a for _, a, _ in part]).double()
            b64 = torch.stack([b for _, _, b in part]).double()
            squares = ((a64 @ a64.mT) * (b64 @ b64.mT)).sum((1, 2))
            on_device.index_add_(0, torch.tensor([index for index, _, _ in part], device=device), squares)
        sums += on_device.cpu()
    return [abs(scaling) * math.sqrt(max(0.0, square)) for square in sums.tolist()]


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
    return project_all_([list(pairs)], [rho], scaling)[0]


@torch.no_grad()
def project_all_(
    adapters: Sequence[Sequence[tuple[Tensor, Tensor]]], radii: Sequence[float | None], scaling: float = 1.0
) -> list[float]:
    """:func:`project_` of several adapters, each onto its own ball."""
    for rho in radii:
        if rho is not None and not rho >= 0:
            raise ConfigError(f"norm bound rho={rho!r} must be a number of at least 0, or null for none.")
    norms = update_norms(adapters, scaling)
    for index, (pairs, rho, norm) in enumerate(zip(adapters, radii, norms, strict=True)):
        if rho is not None and norm > rho:
            torch._foreach_mul_([b.detach() for _, b in pairs], rho / norm)
            norms[index] = float(rho)
    return norms
