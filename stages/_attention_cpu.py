"""Causal attention of documents that lie back to back, on a CPU: each is a view, nothing is gathered or padded.

PyTorch's own kernels compute whole squares of up to 512 keys, and backward in bf16 is slower than in fp32. Where there
are a compiler and AMX, tile registers do it (:mod:`._attention_tiles`), rotary positions included; with AVX-512 alone
the loops of :mod:`._kernels_attention`, but for bf16's forward, which stays PyTorch's.

PyTorch's products in bf16 are compiled anew for each shape they meet (a millisecond each time), so a document's view is
then rounded up to a multiple of 32 tokens: what follows it is behind the causal edge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .._compile import have_compiler
from . import _attention_tiles as tiles

__all__ = ["documents_attention", "rotated_attention"]

_ROUND = 32


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


def _have_kernels() -> bool:
    return have_compiler() and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _compilable(query: Tensor, key: Tensor, value: Tensor, scale: float) -> bool:
    """Whether the compiled loops may run: they take heads of one width, in one precision."""
    alike = query.dtype == key.dtype == value.dtype and query.shape[-1] == value.shape[-1]
    return alike and scale > 0 and _have_kernels()


def _tiled(query: Tensor, key: Tensor, value: Tensor, scale: float) -> bool:
    """Whether they may run in tile registers."""
    return _compilable(query, key, value, scale) and tiles.takes(query)


def _rows(*tensors: Tensor) -> list[Tensor]:
    """(1, heads, N, d) → (N, heads, d), contiguous."""
    return [t[0].transpose(0, 1).contiguous() for t in tensors]


def _forward(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], scale: float) -> tuple[Tensor, Tensor]:
    """From (1, heads, N, d): the outputs (1, N, heads, d), and the log-sums of the weights (1, heads, N)."""
    _, heads, n, dim = query.shape
    groups = heads // key.shape[1]
    if _tiled(query, key, value, scale):
        rows, sums = tiles.forward(_rows(query, key, value), (), lengths, scale)
        return rows[None], sums[None]
    # Heads lie beside each other, as the layer after this wants them.
    out = query.new_empty(1, n, heads, dim)
    total = query.new_empty(1, heads, n, dtype=torch.float64 if query.dtype == torch.float64 else torch.float32)
    if query.device.type == "meta":
        return out, total
    if query.dtype == torch.float32 and _compilable(query, key, value, scale):
        _compiled("forward", [*_rows(query, key, value), out[0], total[0]], lengths, scale)
        return out, total
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    target = out.transpose(1, 2)
    for start, length, width in _spans(lengths, n, rounded=query.dtype == torch.bfloat16):
        q, k, v = (part.narrow(2, start, width) for part in (query, key, value))
        result, log_sum = kernel(q, _grouped(k, groups), _grouped(v, groups), 0.0, True, scale=scale)
        target.narrow(2, start, length).copy_(result[:, :, :length])
        total.narrow(2, start, length).copy_(log_sum[..., :length])
    return out, total


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
    if _tiled(query, key, value, scale):
        held = [*_rows(query, key, value), out[0].contiguous(), total[0].contiguous()]
        return [t.transpose(0, 1)[None] for t in tiles.backward(grad[0].contiguous(), held, (), lengths, scale)]
    result = [torch.empty_like(t.transpose(1, 2).contiguous()).transpose(1, 2) for t in (query, key, value)]
    if query.device.type == "meta":
        return result
    if query.dtype != torch.float64 and _compilable(query, key, value, scale):
        d_query, d_key, d_value = (t[0].transpose(0, 1) for t in result)
        parts = [*_rows(query, key, value), out[0].contiguous(), total[0].contiguous()]
        _compiled("backward", parts, lengths, scale, grad[0].contiguous(), d_query, d_key, d_value)
        return result
    _backward_torch(grad.contiguous(), query, key, value, out, total, lengths, scale, result)
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


def _compiled(name: str, tensors: Sequence[Tensor], lengths: Sequence[int], scale: float, *whole: Tensor) -> None:
    """Run a loop of :mod:`._kernels_attention`; `tensors` are q, k, v (N, heads, d) and what follows them."""
    from . import _kernels_attention as kernels
    from ._fused import arrays, share

    query, key = tensors[0], tensors[1]
    room = kernels.workspace(max(lengths), query.shape[2])
    first, rest = arrays(*tensors), arrays(*whole)

    def run(part: Any) -> None:
        work = np.empty(room, dtype=np.float32)
        getattr(kernels, name)(part, *first[:3], np.float32(scale), *first[3:], work, *rest)

    share(
        run, tiles.tasks_of(tuple(lengths), key.shape[1]), sum(length * length for length in lengths) * query.shape[1]
    )


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
    """As above, from (N, heads, d), with rotary positions applied first, or within where tile registers do it."""

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
        ctx.lengths, ctx.scale = lengths, scale
        ctx.within = _tiled(query, key, value, scale) and tiles.turns(query, cos, sin)
        if ctx.within:
            given = [t.contiguous() for t in (query, key, value)]
            rows, sums = tiles.forward(given, (cos, sin), lengths, scale)
            ctx.save_for_backward(*given, rows, sums, cos, sin)
            return rows[None]
        turned = (rotate(query, cos, sin, 1), rotate(key, cos, sin, 1), value)
        q, k, v = (t[None].transpose(1, 2) for t in turned)
        out, total = _forward(q, k, v, lengths, scale)
        ctx.save_for_backward(*turned, out, total, cos, sin)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, total, cos, sin = ctx.saved_tensors
        if ctx.within:
            held = (query, key, value, out, total)
            found = tiles.backward(grads[0][0].contiguous(), held, (cos, sin), ctx.lengths, ctx.scale)
            return (*found, None, None, None, None)
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
