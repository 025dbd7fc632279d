"""Products with frozen weights on CPUs with tile registers, with grouped low-rank updates or without.

See :mod:`._kernels_linear` for how.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._tiles import have_tiles

__all__ = ["GRAIN", "LEAST", "Updates", "drop_scratch", "filled", "linear", "product", "scratch", "takes"]

GRAIN = 32  # widths and ranks are multiples of it
LEAST = 96  # fewer rows are faster without laying weights out


@dataclass(frozen=True)
class Updates:
    """Low-rank updates α (x_g F_gᵀ) U_g of groups of rows.

    Attributes
    ----------
    down, up
        Addresses of each group's F and U, (groups, stacks), as fp32 stacks of `ranks`.
    ranks
        Rank of each stack.
    rank
        Their sum, filled up to a multiple of `GRAIN`.
    alpha
        Factor of all updates.
    sizes
        Rows of each group, in order.
    """

    down: NDArray[np.int64]
    up: NDArray[np.int64]
    ranks: NDArray[np.int64]
    rank: int
    alpha: float
    sizes: tuple[int, ...]


_NOTHING = np.zeros((0, 1), np.int64)
_NONE = Updates(_NOTHING, _NOTHING, np.zeros(0, np.int64), 0, 1.0, ())


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    updates: Updates = _NONE,
    *,
    transposed: bool = False,
    out: Tensor | None = None,
    only_thin: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute y = x Wᵀ + b, or x W where `transposed`, with the updates of each group of rows.

    Parameters
    ----------
    x
        (rows, in), fp32, contiguous.
    weight
        (out, in), or (in, out) where `transposed`, contiguous; both widths multiples of `GRAIN`.
    bias
        (out,) or None.
    out
        Where to write, (rows, out), contiguous; a new tensor if None.
    only_thin
        Leave y out.

    Returns
    -------
    tuple of Tensor
        y, (rows, out), or (rows, 0); and the thin products x_g F_gᵀ, (rows, rank).
    """
    rows = x.shape[0]
    width = 0 if only_thin else weight.shape[1] if transposed else weight.shape[0]
    y = x.new_empty(rows, width) if out is None else out
    h = x.new_empty(rows, updates.rank)
    _run(x, weight, None if bias is None else bias.detach().float(), updates, transposed, y, h)
    return y, h


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
    if takes(x, weight) and (out is None or out.is_contiguous()):
        return linear(x, weight, transposed=transposed, out=out)[0]
    matrix = weight if transposed else weight.t()
    return torch.mm(x, matrix) if out is None else torch.mm(x, matrix, out=out)


def takes(x: Tensor, weight: Tensor) -> bool:
    """Whether a product runs this way."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type in ("cpu", "meta")  # memory is estimated on the meta device
        and x.shape[0] >= LEAST
        and all(width % GRAIN == 0 for width in weight.shape)
        and x.is_contiguous()
        and weight.is_contiguous()
        and not torch.compiler.is_compiling()
        and have_tiles()
    )


def filled(rows: int) -> int:
    """Fill rows of a product in bf16 up, so that few numbers of them occur: on a CPU each is compiled when it is met.

    A multiple of the power of two that is at most a 24th of them, and of 32: some 2 % more at a few hundred.
    """
    grain = max(GRAIN, 1 << max(0, (rows // 24).bit_length() - 1))
    return -(-rows // grain) * grain


def scratch(rows: int, one: int, other: int) -> int:
    """Bytes that products from one width to the other, and back, take beside their results on one thread."""
    if not have_tiles():
        return 0
    from . import _kernels_linear as kernels

    def room(steps: int, width: int) -> int:
        held, wide = kernels.rows_of_pass(rows, steps), kernels.columns_of_pass(rows, width, steps)
        return kernels.room(held, steps, width, wide, 0, 0, 0)

    return max(room(one, other), room(other, one))


_spare: list[Tensor] = []  # scratch of products before: what is used again is still in the caches


def _scratch(pieces: int, size: int) -> Tensor:
    """Bytes (pieces, at least `size`), to be put back among the spare ones."""
    kept = _spare.pop() if _spare else None
    if kept is None or kept.numel() < pieces * size:
        kept = torch.empty(pieces * size, dtype=torch.uint8)
    return kept[: kept.numel() // pieces * pieces].view(pieces, -1)


def drop_scratch() -> None:
    """Give back what products hold on to between calls."""
    _spare.clear()


@dataclass(frozen=True)
class _Work:
    """How a call is cut up; for all but the addresses of its tensors, and so the same for many."""

    tasks: NDArray[np.int64]
    ends: NDArray[np.int64]
    held: int
    wide: int
    parts: int
    slots: int
    size: int


@lru_cache(maxsize=256)
def _cut(sizes: tuple[int, ...], rows: int, steps: int, width: int, rank: int, threads: int) -> _Work:
    """See the loop for what these are."""
    from . import _kernels_linear as kernels

    piece = -(-rows // (threads * GRAIN)) * GRAIN
    tasks = np.array([(top, min(rows, top + piece)) for top in range(0, rows, piece)], dtype=np.int64)
    held, wide = kernels.rows_of_pass(piece, steps), kernels.columns_of_pass(piece, width, steps)
    ends = np.cumsum(sizes, dtype=np.int64)
    parts = -(-piece // GRAIN) + len(ends) if rank else 0
    slots = 0
    if len(ends):
        passes = [(top, min(int(stop), top + held)) for start, stop in tasks for top in range(start, stop, held)]
        first_met, last_met = np.searchsorted(ends, np.array(passes) - [0, 1], side="right").T
        slots = int((last_met - first_met).max()) + 1
    size = kernels.room(held, steps, width, wide, rank, parts, slots)
    return _Work(tasks, ends, held, wide, parts, slots, size)


def _run(x: Tensor, weight: Tensor, bias: Tensor | None, u: Updates, transposed: bool, y: Tensor, h: Tensor) -> None:
    from . import _kernels_linear as kernels
    from ._fused import share
    from ._kernels_tiles import TILES

    (rows, steps), width = x.shape, y.shape[1]
    cut = _cut(u.sizes, rows, steps, width, u.rank, torch.get_num_threads())
    if x.device.type == "meta":
        x.new_empty(len(cut.tasks), cut.size, dtype=torch.uint8)  # for the estimate to count
        return
    room = _scratch(len(cut.tasks), cut.size)
    free = list(room.unbind())
    given = (x.data_ptr(), steps, weight.data_ptr(), transposed, 0 if bias is None else bias.data_ptr(), width)
    low_rank = (u.down, u.up, u.ranks, u.rank, np.float32(u.alpha), y.data_ptr(), h.data_ptr())

    def run(part: Any) -> None:
        work = free.pop().numpy()
        kernels.linear(
            part, cut.ends, *given, *low_rank, cut.held, cut.wide, cut.parts, cut.slots, work, TILES
        )  # fmt: skip

    share(run, cut.tasks, x.numel())
    _spare.append(room.view(-1))
