"""Products with frozen weights in fp32, on CPUs with tile registers: see :mod:`._kernels_split`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._lowrank import have_tiles

__all__ = ["product", "scratch"]

_GRAIN, _LEAST = 32, 96  # widths are multiples of the first; fewer rows than the second are faster without packing


def _takes(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type in ("cpu", "meta")  # memory is estimated on the meta device
        and x.shape[0] >= _LEAST
        and all(width % _GRAIN == 0 for width in weight.shape)
        and x.is_contiguous()
        and weight.is_contiguous()
        and not torch.compiler.is_compiling()
        and have_tiles()
    )


def product(x: Tensor, weight: Tensor, *, transposed: bool = False, out: Tensor | None = None) -> Tensor:
    """Multiply x Wᵀ, or x W where `transposed`, as exactly as a product in the precision of `x` is.

    In fp32 this holds for numbers between 1e-33 and 3e38 and for zero: smaller ones lose digits, as the tile registers
    know no subnormal numbers, and where fp32 would be infinite the result is not a number.

    Parameters
    ----------
    x
        (rows, in).
    weight
        (out, in), or (in, out) where `transposed`; nothing is recorded for a backward pass.
    out
        Where to write, (rows, out), contiguous; a new tensor if None.
    """
    matrix = weight if transposed else weight.t()
    if not _takes(x, weight) or not (out is None or out.is_contiguous()):
        return torch.mm(x, matrix) if out is None else torch.mm(x, matrix, out=out)
    rows, steps = x.shape
    width = matrix.shape[1]
    if out is None:
        out = x.new_empty(rows, width)
    _run(x, weight, out, rows, steps, width, transposed)
    return out


def scratch(rows: int, steps: int) -> int:
    """Bytes that a product of so many rows and steps takes beside its result on one thread."""
    if not have_tiles():
        return 0
    from . import _kernels_split as kernels

    return kernels.room(min(rows, kernels.ROWS), steps)


def _run(x: Tensor, weight: Tensor, out: Tensor, rows: int, steps: int, width: int, transposed: bool) -> None:
    from . import _kernels_split as kernels
    from ._fused import share
    from ._kernels_tiles import TILES

    threads = torch.get_num_threads()
    piece = min(kernels.ROWS, -(-rows // (threads * _GRAIN)) * _GRAIN)
    tasks = np.array([(top, min(rows, top + piece), 0, width) for top in range(0, rows, piece)], dtype=np.int64)
    # A tensor, so that an estimate counts it; one a thread.
    room = x.new_empty(min(threads, len(tasks)), kernels.room(min(piece, rows), steps), dtype=torch.uint8)
    if x.device.type == "meta":
        return
    free = list(room.unbind())

    def run(part: Any) -> None:
        work = free.pop().numpy()
        kernels.product(part, x.data_ptr(), steps, weight.data_ptr(), transposed, width, out.data_ptr(), work, TILES)

    share(run, tasks, x.numel())
