"""The one differentiable operation of a bank: a frozen linear layer plus grouped low-rank updates.

For rows grouped by domain, with X_g the inputs of group g (n_g × in)::

    Y_g = X_g Wᵀ + b + α · (X_g A_gᵀ) B_g,      A_g = [A_shared; A_g; A_frozen],  B_g likewise (rank × out)

The base product runs once over all rows. The low-rank part is two batched products where groups are equal, and two
products a group where they are ragged; or, ragged in bf16 on a CPU, two products for all groups together with the
columns of other groups' factors masked (`_Beside`), since there a product's arithmetic is almost free, but one of a new
shape is compiled first. Gradients exist for the inputs and the trainable factors only: a frozen weight
needs none, so its inputs are kept once, for the factors, and never in a second precision.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._linear import product

__all__ = ["GroupPlan", "banked_linear", "base_product"]


@dataclass(frozen=True)
class GroupPlan:
    """How the flattened inputs of one call divide, and what is added to each part.

    Attributes
    ----------
    sizes
        Number of flattened rows (tokens) of each present group, in order; all positive.
    alpha
        The common scale of every update.
    shared
        Whether a trainable shared pair of factors comes first.
    domains
        Whether each group brings a pair of its own (then one pair a group follows).
    transposed
        True for a weight of shape (in, out), as GPT-2's ``Conv1D`` has.
    ragged
        Whether sizes differ from call to call, so that nothing should be compiled for their being equal.
    beside
        Whether ragged groups' own factors lie beside each other in one masked product.
    tiled
        Whether the compiled loops of :mod:`._lowrank` do the thin products.
    """

    sizes: tuple[int, ...]
    alpha: float
    shared: bool
    domains: bool
    transposed: bool
    ragged: bool = False
    beside: bool = False
    tiled: bool = False

    @property
    def n_groups(self) -> int:
        """Number of separate products: one when no group brings factors of its own."""
        return len(self.sizes) if self.domains else 1

    @property
    def equal(self) -> bool:
        """Whether all groups are of one size, so that one batched product does."""
        return not self.ragged and (not self.domains or all(size == self.sizes[0] for size in self.sizes))


def _stack(shared: Tensor | None, own: Sequence[Tensor], frozen: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The factors of every group, (groups, total rank, width), in the compute precision.

    Order along the rank: shared, own, frozen; so that what is trained is one leading slice. The factors are cast
    down before any product: casting the inputs up instead is what makes PEFT keep an fp32 copy of each.
    """
    pieces: list[Tensor] = []
    for factor in own or (None,):
        pieces.extend(piece for piece in (shared, factor, frozen) if piece is not None)
    joined = torch.cat(pieces, 0) if len(pieces) > 1 else pieces[0]
    return joined.to(dtype).view(max(1, len(own)), -1, joined.shape[-1])


def base_product(x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
    """The frozen layer: (rows, in) → (rows, out)."""
    if bias is not None and x.dtype != torch.float32:
        return torch.addmm(bias, x, weight if transposed else weight.t())  # rounded once
    y = product(x, weight, transposed=transposed)
    return y if bias is None else y.add_(bias)


def _split(x: Tensor, plan: GroupPlan) -> tuple[Tensor, ...]:
    """The rows of each group, as views."""
    return torch.split(x, list(plan.sizes))


def _down(x: Tensor, factors: Tensor, plan: GroupPlan) -> Tensor:
    """x_g F_gᵀ for every group: (rows, width) and (groups, rank, width) → (rows, rank)."""
    groups, rank, width = factors.shape
    if groups == 1:
        return torch.mm(x, factors[0].t())
    if plan.equal:
        return torch.bmm(x.view(groups, -1, width), factors.transpose(1, 2)).view(-1, rank)
    return torch.cat([torch.mm(part, factors[g].t()) for g, part in enumerate(_split(x, plan))])


def _up_(y: Tensor, h: Tensor, factors: Tensor, plan: GroupPlan) -> Tensor:
    """y_g += α h_g F_g in place: (rows, rank) and (groups, rank, width) into (rows, width)."""
    groups, rank, width = factors.shape
    if groups == 1:
        return y.addmm_(h, factors[0], alpha=plan.alpha)
    if plan.equal:
        y.view(groups, -1, width).baddbmm_(h.view(groups, -1, rank), factors, alpha=plan.alpha)
        return y
    for g, (target, part) in enumerate(zip(_split(y, plan), _split(h, plan), strict=True)):
        target.addmm_(part, factors[g], alpha=plan.alpha)
    return y


def _outer(h: Tensor, x: Tensor, plan: GroupPlan) -> Tensor:
    """α h_gᵀ x_g for every group: (rows, rank) and (rows, width) → (groups, rank, width)."""
    groups, rank, width = plan.n_groups, h.shape[-1], x.shape[-1]
    if groups == 1:
        return (plan.alpha * torch.mm(h.t(), x)).unsqueeze(0)
    if plan.equal:
        left, right = h.view(groups, -1, rank).transpose(1, 2), x.view(groups, -1, width)
        return plan.alpha * torch.bmm(left, right)
    parts = zip(_split(h, plan), _split(x, plan), strict=True)
    return plan.alpha * torch.stack([torch.mm(left.t(), right) for left, right in parts])


def _distribute(grads: Tensor, plan: GroupPlan, like: Sequence[Tensor]) -> list[Tensor]:
    """Hand a stacked gradient (groups, trained rank, width) to the shared factor and to each group's own.

    The shared factor's gradient is summed over groups in its own precision (fp32 for fp32 factors).
    """
    result: list[Tensor] = []
    start = 0
    if plan.shared:
        start = like[0].shape[0]
        result.append(grads[:, :start].sum(0, dtype=like[0].dtype))
    if plan.domains:
        own = grads[:, start:].to(like[-1].dtype)
        result.extend(own.unbind(0))
    return result


@functools.lru_cache(maxsize=8)
def _mask(sizes: tuple[int, ...], rank: int, common: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(rows, groups·rank + common): 1 where a row meets its own group's factors or the common ones, else 0."""
    groups = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    own = groups[:, None] == torch.arange(len(sizes)).repeat_interleave(rank)
    return torch.cat([own, own.new_ones(own.shape[0], common)], 1).to(device, dtype)


class _Beside(torch.autograd.Function):
    """The same operation, with the factors of all groups beside each other: own ones, shared, frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        frozen_a: Tensor | None,
        frozen_b: Tensor | None,
        plan: GroupPlan,
        *tensors: Tensor,
    ) -> Tensor:
        half = len(tensors) // 2
        a, b = (
            _line_up(part, frozen, plan, x.dtype)
            for part, frozen in ((tensors[:half], frozen_a), (tensors[half:], frozen_b))
        )
        mask = _mask_of(tensors, a, plan)
        y = base_product(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), plan.transposed)
        y.addmm_(torch.mm(x, a.t()).mul_(mask), b, alpha=plan.alpha)
        ctx.plan = plan
        ctx.save_for_backward(x, weight, frozen_a, frozen_b, *tensors)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        plan: GroupPlan = ctx.plan
        x, weight, frozen_a, frozen_b, *tensors = ctx.saved_tensors
        half, dtype = len(tensors) // 2, x.dtype
        grad_y = grad_outputs[0].contiguous()
        a, b = (
            _line_up(part, frozen, plan, dtype)
            for part, frozen in ((tensors[:half], frozen_a), (tensors[half:], frozen_b))
        )
        mask = _mask_of(tensors, a, plan)
        grad_h = torch.mm(grad_y, b.t()).mul_(mask)
        grad_x: Tensor | None = None
        if ctx.needs_input_grad[0]:
            grad_x = base_product(grad_y, weight.to(dtype), None, not plan.transposed)
            grad_x.addmm_(grad_h, a, alpha=plan.alpha)
        grads: list[Tensor | None] = [None] * len(tensors)
        if any(ctx.needs_input_grad[6:]):
            trained = sum(t.shape[0] for t in tensors[:half])
            h = torch.mm(x, a[:trained].t()).mul_(mask[:, :trained])
            grads = [
                *_hand_out(torch.mm(grad_h[:, :trained].t(), x), plan, tensors[:half]),
                *_hand_out(torch.mm(h.t(), grad_y), plan, tensors[half:]),
            ]
        return (grad_x, None, None, None, None, None, *grads)


def _line_up(factors: Sequence[Tensor], frozen: Tensor | None, plan: GroupPlan, dtype: torch.dtype) -> Tensor:
    own = factors[1:] if plan.shared else factors
    pieces = [*own, *factors[: int(plan.shared)], *([] if frozen is None else [frozen])]
    return torch.cat(pieces).to(dtype)


def _mask_of(tensors: Sequence[Tensor], a: Tensor, plan: GroupPlan) -> Tensor:
    rank, groups = tensors[-1].shape[0], len(plan.sizes)
    return _mask(plan.sizes, rank, a.shape[0] - groups * rank, a.dtype, a.device)


def _hand_out(grads: Tensor, plan: GroupPlan, like: Sequence[Tensor]) -> list[Tensor]:
    """A stacked gradient (own, then shared) in the order of `like` (shared, then own)."""
    ranks = [like[-1].shape[0]] * len(plan.sizes) + [like[0].shape[0]] * plan.shared
    parts = list(torch.split((grads * plan.alpha).to(like[0].dtype), ranks))
    return [parts[-1], *parts[:-1]] if plan.shared else parts


class _BankedLinear(torch.autograd.Function):
    """See the module's docstring; `tensors` = trained A factors, then trained B factors, in group order."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        frozen_a: Tensor | None,
        frozen_b: Tensor | None,
        plan: GroupPlan,
        *tensors: Tensor,
    ) -> Tensor:
        half = len(tensors) // 2
        inputs = x if dropped is None else dropped
        a = _stack_of(tensors[:half], frozen_a, plan, x.dtype)
        h = _down(inputs, a, plan)
        y = base_product(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), plan.transposed)
        _up_(y, h, _stack_of(tensors[half:], frozen_b, plan, x.dtype), plan)
        ctx.plan = plan
        ctx.has_dropout = dropped is not None
        trained = _trained(tensors[:half], plan)
        # Thin beside the inputs, and a product to make again; what is frozen needs none.
        kept = h if trained == h.shape[1] else h[:, :trained].contiguous()
        ctx.save_for_backward(inputs, kept, weight, frozen_a, frozen_b, *tensors)
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        plan: GroupPlan = ctx.plan
        inputs, h, weight, frozen_a, frozen_b, *tensors = ctx.saved_tensors
        half = len(tensors) // 2
        dtype = inputs.dtype
        grad_y = grad_outputs[0].contiguous()
        need_x, need_dropped = ctx.needs_input_grad[:2]
        need_factors = any(ctx.needs_input_grad[7:])
        a = _stack_of(tensors[:half], frozen_a, plan, dtype)
        grad_h = _down(grad_y, _stack_of(tensors[half:], frozen_b, plan, dtype), plan)
        grad_x: Tensor | None = None
        grad_dropped: Tensor | None = None
        if need_x:
            grad_x = base_product(grad_y, weight.to(dtype), None, not plan.transposed)
            if not ctx.has_dropout:
                _up_(grad_x, grad_h, a, plan)
        if need_dropped and ctx.has_dropout:
            grad_dropped = _up_(torch.zeros_like(inputs), grad_h, a, plan)
        grads: list[Tensor | None] = [None] * len(tensors)
        if need_factors:
            trained = _trained(tensors[:half], plan)
            grads_a = _distribute(_outer(grad_h[:, :trained], inputs, plan), plan, tensors[:half])
            grads_b = _distribute(_outer(h, grad_y, plan), plan, tensors[half:])
            grads = [*grads_a, *grads_b]
        return (grad_x, grad_dropped, None, None, None, None, None, *grads)


def _trained(factors: Sequence[Tensor], plan: GroupPlan) -> int:
    """Total rank of the trained factors that one row meets: the shared ones and its group's."""
    return sum(t.shape[0] for t in factors[: (1 if plan.shared else 0) + (1 if plan.domains else 0)])


def _stack_of(factors: Sequence[Tensor], frozen: Tensor | None, plan: GroupPlan, dtype: torch.dtype) -> Tensor:
    shared = factors[0] if plan.shared else None
    own = factors[1:] if plan.shared else factors
    return _stack(shared, own, frozen, dtype)


def banked_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    plan: GroupPlan,
    a: Sequence[Tensor],
    b: Sequence[Tensor],
    *,
    frozen: tuple[Tensor, Tensor] | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Apply a frozen linear layer with grouped low-rank updates.

    Parameters
    ----------
    x
        Inputs (rows, in), contiguous, rows grouped as `plan.sizes` says, already in the compute precision.
    weight, bias
        The frozen layer: (out, in), or (in, out) with `plan.transposed`; bias (out,) or None.
    plan
        Groups and scale.
    a, b
        Trainable factors: the shared pair first if `plan.shared`, then one a group if `plan.domains`; A's are
        (rank, in) and B's are (rank, out), in any floating precision (they are cast down).
    frozen
        A pair (rank, in), (rank, out) added to every group without gradient.
    dropout
        Share of the low-rank parts' inputs to drop. One mask serves shared and own factors of a layer.

    Returns
    -------
    Tensor
        (rows, out), in the precision of `x`.
    """
    dropped = torch.nn.functional.dropout(x, dropout, training=True) if dropout else None
    frozen_a, frozen_b = frozen if frozen is not None else (None, None)
    if plan.tiled and dropped is None and (a or b):
        from ._lowrank import TiledLinear

        tiled: Tensor = TiledLinear.apply(x, weight, bias, frozen_a, frozen_b, plan, *a, *b)  # type: ignore[no-untyped-call]
        return tiled
    if plan.beside and dropped is None:
        masked: Tensor = _Beside.apply(x, weight, bias, frozen_a, frozen_b, plan, *a, *b)  # type: ignore[no-untyped-call]
        return masked
    result: Tensor = _BankedLinear.apply(x, dropped, weight, bias, frozen_a, frozen_b, plan, *a, *b)  # type: ignore[no-untyped-call]
    return result
