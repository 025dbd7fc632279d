"""Causal attention of documents that lie back to back, on a CPU: each is a view, nothing is gathered or padded.

The forward is PyTorch's fused kernel. Its backward kernel for bf16 is slow on CPUs (five times what the same products
take as plain matrix products on a machine with AMX), so bf16 goes back through plain products: the weights are made
again in fp32 from the scores and the kept log-sum-exp, as the fused kernel does, and rounded for the last three.

A product in bf16 is compiled anew for each shape it meets (a millisecond each time), so a document's view is rounded up
to a multiple of 32 tokens: what follows it is masked, or behind the causal edge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    plain = query.dtype == torch.bfloat16
    groups = query.shape[1] // key.shape[1]
    grad, out = grad.transpose(1, 2), out.transpose(1, 2)
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    for start, length, width in _spans(lengths, query.shape[2], rounded=plain):
        small = plain and query.shape[1] * width * width <= _LARGEST
        # PyTorch's kernel cannot leave out the queries of the next document that a rounded width takes in.
        taken = width if small else length
        q, k, v, g, o, sums = (t.narrow(2, start, taken) for t in (query, key, value, grad, out, total))
        k, v = _grouped(k, groups), _grouped(v, groups)
        if small:
            parts = _plain(g[0], q[0], k[0], v[0], o[0], sums[0], length, scale)
        else:
            parts = kernel(g, q, k, v, o, sums, 0.0, True, scale=scale)
        for place, (target, part) in enumerate(zip(result, parts, strict=True)):
            target.narrow(2, start, length).copy_(_fold(part, groups if place else 1)[:, :, :length])
    return result


def _plain(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, total: Tensor, length: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """With P and dO·Vᵀ in fp32: dS = P ∘ (dO·Vᵀ − rowsum(dO ∘ O)); queries from `length` on are another document's."""
    n = q.shape[1]
    wide = grad.float()
    bias = _ahead(n) - total[..., None]
    if length < n:
        bias[:, length:] = float("-inf")
    weights = torch.baddbmm(bias, q.float(), k.float().transpose(1, 2), alpha=scale).exp_()
    delta = (wide * out.float()).sum(-1, keepdim=True)
    scores = torch.bmm(wide, v.float().transpose(1, 2)).sub_(delta).mul_(weights).mul_(scale).to(q.dtype)
    dv = torch.bmm(weights.to(q.dtype).transpose(1, 2), grad)
    return torch.bmm(scores, k)[None], torch.bmm(scores.transpose(1, 2), q)[None], dv[None]


# Weights of one document, heads x n x n, that the plain products may hold in fp32, three times over: 128 MB each.
# Longer texts go through PyTorch's kernel, which is slower in bf16 and holds none.
_LARGEST = 2**25
_edge: list[Tensor] = []


def _ahead(n: int) -> Tensor:
    """(n, n) fp32: −∞ where a key lies ahead of its query, 0 elsewhere. Made once, for the longest text so far."""
    if not _edge or _edge[0].shape[0] < n:
        _edge[:] = [torch.full((n, n), float("-inf")).triu_(1)]
    return _edge[0][:n, :n]


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
        import numpy as np

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
