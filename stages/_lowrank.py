"""Grouped low-rank updates of a frozen layer in bf16 or fp32, on CPUs with tile registers (AMX).

The same operation as in :mod:`._bank_ops`. Its thin products are a tenth of a layer's arithmetic, but as PyTorch's
products they cost as much as the layer itself: each group's are small, factors are concatenated and cast at each
call, and a product in bf16 is compiled for every new number of rows. Here they are compiled loops that take all groups
at once, so their cost hardly depends on how many there are: in bf16 those of :mod:`._kernels_lowrank` beside PyTorch's
product with the frozen weight, in fp32 those of :mod:`._kernels_linear`, which do that product as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._linear import GRAIN, LEAST, Updates, linear
from ._tiles import have_tiles

if TYPE_CHECKING:
    from ._bank_ops import GroupPlan

__all__ = ["TiledLinear", "takes"]

_PIECE = 256  # rows of a task, where several threads share them


def takes(x: Tensor, width: int) -> bool:
    """Whether a layer from inputs x (..., in) to `width` outputs can run this way."""
    return (
        x.numel() > 0
        and x.dtype in (torch.bfloat16, torch.float32)
        and x.device.type in ("cpu", "meta")  # memory is estimated on the meta device
        and x.shape[-1] % GRAIN == 0
        and width % GRAIN == 0
        and (x.dtype == torch.bfloat16 or x.numel() // x.shape[-1] >= LEAST)
        and not torch.compiler.is_compiling()
        and have_tiles()
    )


def _table(stacks: Sequence[Sequence[Tensor]]) -> NDArray[np.int64]:
    return np.array([[stack.data_ptr() for stack in group] for group in stacks], dtype=np.int64)


def _segments(sizes: Sequence[int]) -> NDArray[np.int64]:
    """(group, first row, rows) of each piece of work; whole groups where one thread does all."""
    piece = _PIECE if torch.get_num_threads() > 1 else max(sizes)
    found, begin = [], 0
    for group, size in enumerate(sizes):
        found += [(group, begin + start, min(piece, size - start)) for start in range(0, size, piece)]
        begin += size
    return np.array(found, dtype=np.int64)


def _down(x: Tensor, table: NDArray[np.int64], ranks: NDArray[np.int64], rank: int, sizes: Sequence[int]) -> Tensor:
    """x_g F_gᵀ: (rows, width) → (rows, rank), zeros beyond the factors there are."""
    h = x.new_empty(x.shape[0], rank)
    if x.device.type == "meta":
        return h
    from . import _kernels_lowrank as kernels
    from ._fused import share
    from ._kernels_tiles import TILES

    width = x.shape[1]

    def run(part: Any) -> None:
        work = np.empty(kernels.room(width, rank), dtype=np.uint8)
        kernels.down(part, x.data_ptr(), width, table, ranks, rank, h.data_ptr(), work, TILES)

    share(run, _segments(sizes), x.numel())
    return h


def _up_(
    y: Tensor, h: Tensor, table: NDArray[np.int64], ranks: NDArray[np.int64], alpha: float, sizes: Sequence[int]
) -> Tensor:
    """y_g += α h_g F_g in place: (rows, rank) into (rows, width)."""
    if y.device.type == "meta":
        return y
    from . import _kernels_lowrank as kernels
    from ._fused import share
    from ._kernels_tiles import TILES

    rank, width = h.shape[1], y.shape[1]

    def run(part: Any) -> None:
        work = np.empty(kernels.room(width, rank), dtype=np.uint8)
        kernels.up(
            part, h.data_ptr(), rank, table, ranks, np.float32(alpha), width, y.data_ptr(), work, TILES
        )  # fmt: skip

    share(run, _segments(sizes), y.numel())
    return y


@lru_cache(maxsize=256)
def _strips(sizes: tuple[int, ...], width: int, threads: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(group, first row, rows) of the groups, and (first column, last) of each piece of work."""
    ends = np.cumsum(sizes)
    strips = min(threads, width // GRAIN)
    cuts = [GRAIN * (width // GRAIN * place // strips) for place in range(strips + 1)]
    return np.stack([np.arange(len(sizes)), ends - sizes, sizes], 1), np.array([cuts[:-1], cuts[1:]]).T


def _outer(h: Tensor, x: Tensor, plan: GroupPlan, like: Sequence[Tensor], sizes: tuple[int, ...]) -> list[Tensor]:
    """The gradients α h_gᵀ x_g of the trained factors: the shared one's, summed over groups, and each group's own."""
    width = x.shape[1]
    grads = [torch.empty_like(like[0])] if plan.shared else []
    own = like[0].new_empty(len(sizes) if plan.domains else 0, *like[-1].shape)
    if x.device.type != "meta":
        from . import _kernels_lowrank, _kernels_lowrank32
        from ._fused import share
        from ._kernels_tiles import TILES

        kernels: Any = _kernels_lowrank32 if x.dtype == torch.float32 else _kernels_lowrank
        segments, strips = _strips(sizes, width, torch.get_num_threads())
        each = own.data_ptr() + own.stride(0) * own.element_size() * np.arange(len(sizes))
        stacks = [np.full(len(sizes), grad.data_ptr()) for grad in grads] + ([each] if plan.domains else [])
        table = np.stack(stacks, 1)
        ranks = np.array([like[0].shape[0], like[-1].shape[0]][-len(stacks) :], dtype=np.int64)

        def run(columns: Any) -> None:
            work = np.empty(kernels.room(width, h.shape[1]), dtype=np.uint8)
            for begin, end in columns:
                kernels.outer(
                    segments, x.data_ptr(), width, begin, end, h.data_ptr(), h.shape[1], np.float32(plan.alpha),
                    table, ranks, plan.shared, work, TILES,
                )  # fmt: skip

        share(run, strips, x.numel())
    return [*grads, *own.unbind()]


class _Stacks:
    """The factors of all groups in the loops' terms: addresses, ranks, and the rank filled up."""

    def __init__(self, factors: Sequence[Tensor], frozen: Tensor | None, plan: GroupPlan) -> None:
        shared = [factors[0]] if plan.shared else []
        own = factors[1:] if plan.shared else factors
        # Held here, so that what the addresses point to stays.
        self.held = [] if frozen is None else [frozen.float()]
        groups = [[*shared, factor, *self.held] for factor in own] if plan.domains else [[*shared, *self.held]]
        self.ranks = np.array([factor.shape[0] for factor in groups[0]], dtype=np.int64)
        self.rank = -(-int(self.ranks.sum()) // GRAIN) * GRAIN
        self.table = _table(groups) if factors[0].device.type != "meta" else np.zeros((1, 1), dtype=np.int64)


def _layer(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    down: _Stacks,
    up: _Stacks,
    plan: GroupPlan,
    *,
    transposed: bool,
    only_thin: bool = False,
) -> tuple[Tensor | None, Tensor]:
    """The frozen layer and its updates α (x_g Fᵀ) U, unless `only_thin`; and the thin products x_g Fᵀ."""
    from ._bank_ops import base_product

    weight, sizes = weight.to(x.dtype), _sizes(x, plan)
    if x.dtype == torch.float32:
        updates = Updates(down.table, up.table, down.ranks, down.rank, plan.alpha, sizes)
        return linear(x, weight.contiguous(), bias, updates, transposed=transposed, only_thin=only_thin)
    h = _down(x, down.table, down.ranks, down.rank, sizes)
    if only_thin:
        return None, h
    y = base_product(x, weight, None if bias is None else bias.to(x.dtype), transposed)
    return _up_(y, h, up.table, up.ranks, plan.alpha, sizes), h


class TiledLinear(torch.autograd.Function):
    """A frozen layer and its grouped updates; arguments as of the other ways in :mod:`._bank_ops`."""

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
        x = x.contiguous()  # the first token of each row, say, is not; the loops go by addresses
        a, b = _Stacks(tensors[:half], frozen_a, plan), _Stacks(tensors[half:], frozen_b, plan)
        y, h = _layer(x, weight, bias, a, b, plan, transposed=plan.transposed)
        ctx.plan = plan
        ctx.save_for_backward(x, h, weight, frozen_a, frozen_b, *tensors)
        return y  # type: ignore[return-value]  # asked for

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        plan: GroupPlan = ctx.plan
        x, h, weight, frozen_a, frozen_b, *tensors = ctx.saved_tensors
        half, sizes, wanted = len(tensors) // 2, _sizes(x, plan), ctx.needs_input_grad[0]
        grad_y = grad_outputs[0].contiguous()
        a, b = _Stacks(tensors[:half], frozen_a, plan), _Stacks(tensors[half:], frozen_b, plan)
        grad_x, grad_h = _layer(
            grad_y, weight, None, b, a, plan, transposed=not plan.transposed, only_thin=not wanted
        )  # fmt: skip
        grads: list[Tensor | None] = [None] * len(tensors)
        if any(ctx.needs_input_grad[6:]):
            grads = [
                *_outer(grad_h, x, plan, tensors[:half], sizes),
                *_outer(h, grad_y, plan, tensors[half:], sizes),
            ]
        return (grad_x if wanted else None, None, None, None, None, None, *grads)


def _sizes(x: Tensor, plan: GroupPlan) -> tuple[int, ...]:
    return plan.sizes if plan.domains else (x.shape[0],)
