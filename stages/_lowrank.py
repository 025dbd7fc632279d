"""Grouped low-rank updates of a frozen layer in bf16 or fp32, on CPUs with tile registers (AMX).

The same operation as in :mod:`._bank_ops`. Its thin products are a tenth of a layer's arithmetic, but as PyTorch's
products they cost as much as the layer itself: each group's are small, factors are concatenated and cast at each
call, and a product in bf16 is compiled for every new number of rows. The loops of :mod:`._kernels_lowrank` take all
groups at once (fp32: of :mod:`._kernels_lowrank32`); their cost hardly depends on how many there are.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._compile import have_compiler

if TYPE_CHECKING:
    from ._bank_ops import GroupPlan

__all__ = ["TiledLinear", "have_tiles", "takes"]

_GRAIN = 32  # widths and ranks are multiples of it
_PIECE = 256  # rows of a task, where several threads share them
_ARCH_PRCTL, _REQUEST, _TILE_DATA = 158, 0x1023, 18  # Linux's permission for the tile registers


@cache
def have_tiles() -> bool:
    """Whether the compiled loops run here and give the right answer: a Linux machine with AMX, and numba."""
    if not (have_compiler() and sys.platform == "linux" and platform.machine() == "x86_64"):
        return False
    try:
        import llvmlite.binding as llvm  # type: ignore[import-untyped]

        features = llvm.get_host_cpu_features()
        wanted = ("amx-tile", "amx-bf16", "avx512bf16")
        if not all(features.get(name) for name in wanted):
            return False
        if ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST, _TILE_DATA) != 0:
            return False
        return _trial()
    except Exception:  # whatever a system or a compiler objects to, PyTorch's products are there
        return False


def _trial() -> bool:
    """Two groups of uneven size against plain products."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(45, 64, generator=draw).bfloat16()
    factors = [torch.randn(8, 64, generator=draw) for _ in range(2)]
    h = _down(x, _table([[f] for f in factors]), np.array([8]), 32, (33, 12))
    wanted = torch.cat(
        [part @ f.bfloat16().float().t() for part, f in zip(torch.split(x.float(), [33, 12]), factors, strict=True)]
    )
    y = torch.zeros(45, 64, dtype=torch.bfloat16)
    _up_(y, h, _table([[f] for f in factors]), np.array([8]), 0.5, (33, 12))
    back = torch.cat([part @ f for part, f in zip(torch.split(wanted, [33, 12]), factors, strict=True)]) / 2
    errors = [(h[:, :8].float() - wanted).norm() / wanted.norm(), (y.float() - back).norm() / back.norm()]
    return all(float(error) < 2e-2 for error in errors) and not h[:, 8:].any()


def takes(x: Tensor, width: int) -> bool:
    """Whether a layer from inputs x (..., in) to `width` outputs can run this way."""
    return (
        x.numel() > 0
        and x.dtype in (torch.bfloat16, torch.float32)
        and x.device.type in ("cpu", "meta")  # memory is estimated on the meta device
        and x.shape[-1] % _GRAIN == 0
        and width % _GRAIN == 0
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


def _kernels(x: Tensor) -> Any:
    if x.dtype == torch.float32:
        from . import _kernels_lowrank32 as exact

        return exact
    from . import _kernels_lowrank

    return _kernels_lowrank


def _scratch(kernels: Any, width: int, rank: int) -> NDArray[np.uint8]:
    return np.empty(kernels.room(width, rank), dtype=np.uint8)


def _down(x: Tensor, table: NDArray[np.int64], ranks: NDArray[np.int64], rank: int, sizes: Sequence[int]) -> Tensor:
    """x_g F_gᵀ: (rows, width) → (rows, rank), zeros beyond the factors there are."""
    h = x.new_empty(x.shape[0], rank)
    if x.device.type == "meta":
        return h
    from ._fused import share
    from ._kernels_tiles import TILES

    kernels = _kernels(x)
    width = x.shape[1]

    def run(part: Any) -> None:
        work = _scratch(kernels, width, rank)
        kernels.down(part, x.data_ptr(), width, table, ranks, rank, h.data_ptr(), work, TILES)

    share(run, _segments(sizes), x.numel())
    return h


def _up_(
    y: Tensor, h: Tensor, table: NDArray[np.int64], ranks: NDArray[np.int64], alpha: float, sizes: Sequence[int]
) -> Tensor:
    """y_g += α h_g F_g in place: (rows, rank) into (rows, width)."""
    if y.device.type == "meta":
        return y
    from ._fused import share
    from ._kernels_tiles import TILES

    kernels = _kernels(y)
    rank, width = h.shape[1], y.shape[1]

    def run(part: Any) -> None:
        work = _scratch(kernels, width, rank)
        kernels.up(
            part, h.data_ptr(), rank, table, ranks, np.float32(alpha), width, y.data_ptr(), work, TILES
        )  # fmt: skip

    share(run, _segments(sizes), y.numel())
    return y


def _outer(h: Tensor, x: Tensor, plan: GroupPlan, like: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """The gradients α h_gᵀ x_g of the trained factors: the shared one's, summed over groups, and each group's own."""
    width = x.shape[1]
    grads = [torch.empty_like(like[0])] if plan.shared else []
    own: Sequence[Tensor] = ()
    if plan.domains:
        own = like[0].new_empty(len(sizes), *like[-1].shape).unbind()
    if x.device.type != "meta":
        from ._fused import share
        from ._kernels_tiles import TILES

        kernels = _kernels(x)
        table = _table([[*grads, *([own[g]] if plan.domains else [])] for g in range(len(sizes))])
        ranks = np.array([*(g.shape[0] for g in grads), *([like[-1].shape[0]] if plan.domains else [])], dtype=np.int64)
        ends = np.cumsum(sizes)
        segments = np.stack([np.arange(len(sizes)), ends - sizes, sizes], 1)
        strips = min(torch.get_num_threads(), width // _GRAIN)
        cuts = [_GRAIN * (width // _GRAIN * place // strips) for place in range(strips + 1)]

        def run(columns: Any) -> None:
            work = _scratch(kernels, width, h.shape[1])
            for begin, end in columns:
                kernels.outer(
                    segments, x.data_ptr(), width, begin, end, h.data_ptr(), h.shape[1], np.float32(plan.alpha),
                    table, ranks, plan.shared, work, TILES,
                )  # fmt: skip

        share(run, np.array([cuts[:-1], cuts[1:]]).T, x.numel())
    return [*grads, *own]


class _Stacks:
    """The factors of all groups in the loops' terms: addresses, ranks, and the rank filled up."""

    def __init__(self, factors: Sequence[Tensor], frozen: Tensor | None, plan: GroupPlan) -> None:
        shared = [factors[0]] if plan.shared else []
        own = factors[1:] if plan.shared else factors
        # Held here, so that what the addresses point to stays.
        self.held = [] if frozen is None else [frozen.float()]
        groups = [[*shared, factor, *self.held] for factor in own] if plan.domains else [[*shared, *self.held]]
        self.ranks = np.array([factor.shape[0] for factor in groups[0]], dtype=np.int64)
        self.rank = -(-int(self.ranks.sum()) // _GRAIN) * _GRAIN
        self.table = _table(groups) if factors[0].device.type != "meta" else np.zeros((1, 1), dtype=np.int64)


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
        from ._bank_ops import base_product

        half = len(tensors) // 2
        x = x.contiguous()  # the first token of each row, say, is not; the loops go by addresses
        sizes = _sizes(x, plan)
        a, b = _Stacks(tensors[:half], frozen_a, plan), _Stacks(tensors[half:], frozen_b, plan)
        h = _down(x, a.table, a.ranks, a.rank, sizes)
        y = base_product(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), plan.transposed)
        _up_(y, h, b.table, b.ranks, plan.alpha, sizes)
        ctx.plan = plan
        ctx.save_for_backward(x, h, weight, frozen_a, frozen_b, *tensors)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        from ._bank_ops import base_product

        plan: GroupPlan = ctx.plan
        x, h, weight, frozen_a, frozen_b, *tensors = ctx.saved_tensors
        half, sizes = len(tensors) // 2, _sizes(x, plan)
        grad_y = grad_outputs[0].contiguous()
        a, b = _Stacks(tensors[:half], frozen_a, plan), _Stacks(tensors[half:], frozen_b, plan)
        grad_h = _down(grad_y, b.table, b.ranks, b.rank, sizes)
        grad_x: Tensor | None = None
        if ctx.needs_input_grad[0]:
            grad_x = base_product(grad_y, weight.to(x.dtype), None, not plan.transposed)
            _up_(grad_x, grad_h, a.table, a.ranks, plan.alpha, sizes)
        grads: list[Tensor | None] = [None] * len(tensors)
        if any(ctx.needs_input_grad[6:]):
            grads = [
                *_outer(grad_h, x, plan, tensors[:half], sizes),
                *_outer(h, grad_y, plan, tensors[half:], sizes),
            ]
        return (grad_x, None, None, None, None, None, *grads)


def _sizes(x: Tensor, plan: GroupPlan) -> tuple[int, ...]:
    return plan.sizes if plan.domains else (x.shape[0],)
