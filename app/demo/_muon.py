"""Muon: momentum whose every matrix is made orthogonal before it is applied.

The base model has time for a few hundred steps only, and there the choice of optimiser outweighs every other setting
(measured in docs/demo.md). PyTorch ships one from 2.9 on; Kinfold also runs on 2.8, and this one treats all matrices of
a shape in one batched product.

References
----------
.. [1] K. Jordan and others, "Muon: An optimizer for hidden layers in neural networks", 2024.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

__all__ = ["Muon", "orthogonalised"]

# Quintic Newton-Schulz coefficients of [1]: singular values end between about 0.7 and 1.2 after five rounds.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalised(matrices: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """U Vᵀ for each matrix U S Vᵀ of a stack, approximately.

    Parameters
    ----------
    matrices : Tensor of shape (n, rows, columns)
        Of any scale; zero matrices stay zero.
    rounds : int
        Newton-Schulz iterations.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = _A * x + torch.baddbmm(_B * gram, gram, gram, alpha=_C) @ x
    result: torch.Tensor = x.mT if tall else x
    return result


class Muon:
    """Steps a set of matrices; everything that is no hidden matrix belongs to another optimiser.

    Parameters
    ----------
    parameters : iterable of two-dimensional Parameters
        Hidden matrices.
    momentum : float
        Decay of the Nesterov momentum.
    weight_decay : float
        Decoupled weight decay, scaled by the rate.
    """

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], *, momentum: float = 0.95, weight_decay: float = 0.05
    ) -> None:
        self._groups: dict[tuple[int, ...], list[torch.nn.Parameter]] = {}
        for parameter in parameters:
            self._groups.setdefault(tuple(parameter.shape), []).append(parameter)
        self._momentum = momentum
        self._decay = weight_decay
        self._buffers = {shape: torch.zeros(len(group), *shape) for shape, group in self._groups.items()}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One step at the rate `lr`; gradients are consumed."""
        for shape, group in self._groups.items():
            gradient = torch.stack([p.grad if p.grad is not None else torch.zeros_like(p) for p in group])
            buffer = self._buffers[shape].lerp_(gradient, 1 - self._momentum)
            update = orthogonalised(gradient.lerp_(buffer, self._momentum))
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            for parameter, direction in zip(group, update, strict=True):
                parameter.mul_(1 - lr * self._decay).add_(direction, alpha=-lr * scale)
                parameter.grad = None
