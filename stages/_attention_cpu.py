"""Causal attention of documents that lie back to back, on a CPU: each is a view, nothing is gathered or padded.

Forward and, in fp32, backward are PyTorch's fused kernels. Its backward in bf16 takes longer than in fp32, so it is done
here: queries by blocks, each against the keys up to its own end, so that what lies ahead is hardly computed. Scores and
the gradients of the weights are fp32 products, the weights are made again in one pass over a block
(:mod:`._kernels_rows`) and rounded for the remaining three products.

A product in bf16 is compiled anew for each shape it meets (a millisecond each time), so a document's view is rounded up
to a multiple of 32 tokens: what follows it is masked, or behind the causal edge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._compile import have_compiler

__all__ = ["documents_attention", "rotated_attention"]

_ROUND = 32
_BLOCK = 128  # queries of a block


def _spans(lengths: Sequence[int], total: int, *, rounded: bool) -> Iterator[tuple[int, int, int]]:
    """Of each document its beginning, its tokens, and the tokens of its view."""
    start = 0
    for length in lengths:
        width = -(-length // _ROUND) * _ROUND if rounded else length
        yield start, length, width if start + width <= total else length
        start += length


def _grouped(tensor: Tensor, groups: int) -> Tensor:
    """Every key head as often as query heads share it."""
    return tensor if groups == 1 else tensor.repeat_interleave(groups, 1)


def _fold(tensor: Tensor, groups: int) -> Tensor:
    """The sum over the query heads that share a key head: (1, heads, n, d) → (1, heads / groups, n, d)."""
    return tensor if groups == 1 else torch.unflatten(tensor, 1, (-1, groups)).sum(2)


def _forward(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], scale: float) -> tuple[Tensor, Tensor]:
    """From (1, heads, N, d): the outputs (1, N, heads, d), and the log-sums of the weights (1, heads, N)."""
    _, heads, n, dim = query.shape
    groups = heads // key.shape[1]
    # Heads lie beside each other, as the layer after this wants them.
    out = query.new_empty(1, n, heads, dim)
    total = query.new_empty(1, heads, n, dtype=torch.float64 if query.dtype == torch.float64 else torch.float32)
    if query.device.type == "meta":
        return out, total
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    target = out.transpose(1, 2)
    for start, length, width in _spans(lengths, n, rounded=query.dtype == torch.bfloat16):
        q, k, v = (part.narrow(2, start, width) for part in (query, key, value))
        result, log_sum = kernel(q, _grouped(k, groups), _grouped(v, groups), 0.0, True, scale=scale)
        target.narrow(2, start, length).copy_(result[:, :, :length])
        total.narrow(2, start, length).copy_(log_sum[..., :length])
    return out, total


class _Scratch:
    """Memory for one block's tables, taken once and used by every block: fresh memory costs more than the arithmetic."""

    def __init__(self, query: Tensor, lengths: Sequence[int]) -> None:
        self.heads = query.shape[1]
        longest = -(-max(lengths) // _ROUND) * _ROUND
        self.size = self.heads * min(_BLOCK, longest) * longest
        self.held: dict[int, Tensor] = {}

    def __call__(self, place: int, dtype: torch.dtype, rows: int, keys: int) -> Tensor:
        """Number `place`, as (heads, rows, keys)."""
        if place not in self.held:
            self.held[place] = torch.empty(self.size, dtype=dtype)
        return self.held[place][: self.heads * rows * keys].view(self.heads, rows, keys)


@lru_cache(maxsize=256)
def _seen(first: int, rows: int, length: int, heads: int) -> Any:
    """Keys that each query of a block sees, for every head; 0 for the next document's."""
    place = np.arange(first, first + rows, dtype=np.int32)
    return np.tile(np.where(place < length, place + 1, 0).astype(np.int32), heads)


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    total: Tensor,
    lengths: Sequence[int],
    scale: float,
) -> list[Tensor]:
    """Gradients of query, key and value, (1, heads, N, d) with heads beside each other in memory."""
    result = [torch.empty_like(t.transpose(1, 2).contiguous()).transpose(1, 2) for t in (query, key, value)]
    if query.device.type == "meta":
        return result
    blocks = query.dtype == torch.bfloat16 and have_compiler()
    run = _backward_blocks if blocks else _backward_torch
    run(grad.contiguous(), query, key, value, out, total, lengths, scale, result)
    return result


def _backward_torch(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    total: Tensor,
    lengths: Sequence[int],
    scale: float,
    result: Sequence[Tensor],
) -> None:
    groups = query.shape[1] // key.shape[1]
    grad, out = grad.transpose(1, 2), out.transpose(1, 2)
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    for start, length, _ in _spans(lengths, query.shape[2], rounded=False):
        q, k, v, g, o, sums = (t.narrow(2, start, length) for t in (query, key, value, grad, out, total))
        parts = kernel(g, q, _grouped(k, groups), _grouped(v, groups), o, sums, 0.0, True, scale=scale)
        for place, (target, part) in enumerate(zip(result, parts, strict=True)):
            target.narrow(2, start, length).copy_(_fold(part, groups if place else 1))


def _backward_blocks(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    total: Tensor,
    lengths: Sequence[int],
    scale: float,
    result: Sequence[Tensor],
) -> None:
    """With P the weights: dV = Pᵀ·dO, dS = P ∘ (dO·Vᵀ − rowsum(dO ∘ O)), dQ = dS·K, dK = dSᵀ·Q, block by block."""
    from . import _kernels_rows as kernels
    from ._fused import arrays, spread

    _, heads, n, dim = query.shape
    groups = heads // key.shape[1]
    pull = torch.empty(n, heads)
    spread(kernels.dots, *arrays(grad[0], out[0], pull))
    narrow = (grad[0].transpose(0, 1), query[0], key[0], value[0])
    wide = [t.float() for t in narrow]
    factor = np.float32(scale)
    scratch = _Scratch(query, lengths)
    for start, length, width in _spans(lengths, n, rounded=True):
        g, q, k, v = (t.narrow(1, start, width) for t in narrow)
        wide_g, wide_q, wide_k, wide_v = (t.narrow(1, start, width) for t in wide)
        k, wide_k, wide_v = (_grouped(t[None], groups)[0] for t in (k, wide_k, wide_v))
        dk, dv = q.new_zeros(2, heads, width, dim, dtype=torch.float32).unbind(0)
        for first in range(0, width, _BLOCK):
            rows = min(_BLOCK, width - first)
            stop, last = first + rows, min(first + rows, length)
            scores, grads = (scratch(place, torch.float32, rows, stop) for place in (0, 1))
            torch.bmm(wide_q[:, first:stop], wide_k[:, :stop].transpose(1, 2), out=scores)
            torch.bmm(wide_g[:, first:stop], wide_v[:, :stop].transpose(1, 2), out=grads)
            own = slice(start + first, start + stop)
            numbers = arrays(
                scores.view(-1, stop),
                grads.view(-1, stop),
                total[0, :, own].reshape(-1),
                pull[own].t().reshape(-1),
            )
            seen = _seen(first, rows, length, heads)
            values = (numbers[0], numbers[1], seen, factor, numbers[2], numbers[3])
            weights, slopes = (scratch(place, q.dtype, rows, stop) for place in (2, 3))
            flat = arrays(weights.view(-1, stop), slopes.view(-1, stop))
            spread(kernels.attend_back, *values, *flat, whole=(3,))
            part = torch.bmm(slopes, k[:, :stop])
            result[0][0, :, start + first : start + last].copy_(part[:, : last - first])
            dv[:, :stop].add_(torch.bmm(weights.transpose(1, 2), g[:, first:stop]))
            dk[:, :stop].add_(torch.bmm(slopes.transpose(1, 2), q[:, first:stop]))
        for target, whole in ((result[1], dk), (result[2], dv)):
            target.narrow(2, start, length).copy_(_fold(whole[None], groups)[:, :, :length])


class _Documents(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float) -> Tensor:
        out, total = _forward(query, key, value, lengths, scale)
        ctx.save_for_backward(query, key, value, out, total)
        ctx.lengths, ctx.scale = lengths, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, total = ctx.saved_tensors
        dq, dk, dv = _backward(grads[0], query, key, value, out, total, ctx.lengths, ctx.scale)
        return dq, dk, dv, None, None


class _Rotated(torch.autograd.Function):
    """As above, from (N, heads, d), with rotary positions applied first."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cos: Tensor,
        sin: Tensor,
        lengths: tuple[int, ...],
        scale: float,
    ) -> Tensor:
        turned = (rotate(query, cos, sin, 1), rotate(key, cos, sin, 1), value)
        q, k, v = (t[None].transpose(1, 2) for t in turned)
        out, total = _forward(q, k, v, lengths, scale)
        ctx.save_for_backward(*turned, out, total, cos, sin)
        ctx.lengths, ctx.scale = lengths, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, total, cos, sin = ctx.saved_tensors
        q, k, v = (t[None].transpose(1, 2) for t in (query, key, value))
        found = _backward(grads[0], q, k, v, out, total, ctx.lengths, ctx.scale)
        dq, dk, dv = (t[0].transpose(0, 1) for t in found)
        return (rotate(dq, cos, sin, -1), rotate(dk, cos, sin, -1), dv, None, None, None, None)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    """Rotary positions of x (N, heads, d) by cos, sin (N, d); `sign` −1 is the transposed rotation, for gradients."""
    from ._fused import arrays, spread

    out = torch.empty_like(x)
    if x.device.type != "meta":
        from . import _kernels

        values = arrays(x.contiguous(), cos.contiguous(), sin.contiguous())
        spread(_kernels.rotate, *values, np.float32(sign), *arrays(out), whole=(3,))
    return out


def documents_attention(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float) -> Tensor:
    """Causal attention within each document.

    Parameters
    ----------
    query, key, value
        (1, heads, N, d) and twice (1, key heads, N, d), fp32, bf16 or fp64, on the CPU.
    lengths
        Tokens of each document, in order; they add up to N.
    scale
        Factor of the scores.

    Returns
    -------
    Tensor
        (1, N, heads, d), contiguous.
    """
    result: Tensor = _Documents.apply(query, key, value, lengths, scale)  # type: ignore[no-untyped-call]
    return result


def rotated_attention(
    query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, lengths: tuple[int, ...], scale: float
) -> Tensor:
    """As :func:`documents_attention`, from (N, heads, d) and after rotary positions, cos and sin (N, d)."""
    result: Tensor = _Rotated.apply(query, key, value, cos, sin, lengths, scale)  # type: ignore[no-untyped-call]
    return result
