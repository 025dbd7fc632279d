"""Causal attention by document in tile registers: what :mod:`._kernels_attention_tiles` does, on tensors.

In bf16 and fp32, on CPUs with AMX (:func:`._tiles.have_tiles`). Rows are (tokens, heads, width), any width; rotary
positions are applied while rows are packed, and taken back as gradients are written, where both halves of a row are
whole vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._tiles import have_tiles

__all__ = ["backward", "forward", "takes", "tasks_of", "turns"]

_HALF = 16  # numbers of half a row that are rotated at a time


def takes(query: Tensor) -> bool:
    """Whether this precision runs this way here, and gives the right answer."""
    return query.dtype in (torch.bfloat16, torch.float32) and have_tiles() and _agrees(query.dtype)


@cache
def _agrees(dtype: torch.dtype) -> bool:
    """A trial of two small documents, rotated and with a width that is not whole, against plain products."""
    bound = 2e-2 if dtype == torch.bfloat16 else 1e-5
    try:
        return all(error < bound for width in (64, 24) for error in _errors(dtype, width, (3, 37)))
    except Exception:  # whatever a compiler objects to, the other ways are there
        return False


def _errors(dtype: torch.dtype, width: int, lengths: tuple[int, ...]) -> list[float]:
    draw = torch.Generator().manual_seed(0)
    n, scale = sum(lengths), width**-0.5
    query, grad, key, value = (torch.randn(n, h, width, generator=draw).to(dtype) for h in (2, 2, 1, 1))
    turned = width % (2 * _HALF) == 0
    angles = [torch.rand(n, width, generator=draw).to(dtype) for _ in range(2)] if turned else []
    out, total = forward((query, key, value), angles, lengths, scale)
    found = [out, *backward(grad, (query, key, value, out, total), angles, lengths, scale)]
    q, k, v, g = (t.double() for t in (query, key, value, grad))
    half = width // 2
    if turned:
        c, s = (t.double()[:, None] for t in angles)
        q, k = (x * c + torch.cat([-x[..., half:], x[..., :half]], -1) * s for x in (q, k))
    place = torch.arange(n)
    document = torch.repeat_interleave(torch.tensor(lengths))
    seen = (document[:, None] == document) & (place[:, None] >= place)
    weights = (torch.einsum("ihd,jd->hij", q, k[:, 0]) * scale).masked_fill(~seen, float("-inf")).softmax(-1)
    change = torch.einsum("ihd,jd->hij", g, v[:, 0])
    slopes = weights * (change - (weights * change).sum(-1, keepdim=True)) * scale
    wanted = [torch.einsum("hij,jd->ihd", weights, v[:, 0]), torch.einsum("hij,jd->ihd", slopes, k[:, 0])]
    wanted += [torch.einsum("hij,ihd->jd", part, x)[:, None] for part, x in ((slopes, q), (weights, g))]
    if turned:
        for index in (1, 2):
            x = wanted[index]
            wanted[index] = x * c + torch.cat([(x * s)[..., half:], -(x * s)[..., :half]], -1)
    return [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True)]


def turns(query: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether rotary positions (N, d) of this precision can be applied on the way."""
    return query.dtype == cos.dtype == sin.dtype and query.shape[-1] % (2 * _HALF) == 0


@lru_cache(maxsize=4)  # a step's layers ask for the same
def tasks_of(lengths: tuple[int, ...], key_heads: int) -> NDArray[np.int64]:
    """(first token, tokens, key head) of each piece of work, (documents · key heads, 3)."""
    starts = np.cumsum([0, *lengths[:-1]])
    # The longest first, dealt out in turn, so that threads end together.
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return np.array([(starts[i], lengths[i], head) for i in order for head in range(key_heads)], dtype=np.int64)


def _run(name: str, rows: Sequence[Tensor], turn: Sequence[Tensor], lengths: Sequence[int], scale: float,
         *others: Tensor) -> None:  # fmt: skip
    """`rows` are q, k and v, `turn` cos and sin or nothing, `others` what the loop takes after its scale."""
    query, key = rows[0], rows[1]
    heads, planes = key.shape[1], 1 if query.dtype == torch.bfloat16 else 3
    longest, width = max(lengths), query.shape[-1]
    if query.device.type == "meta":
        # The scratch of all threads, for memory estimates.
        threads = min(torch.get_num_threads(), len(lengths) * heads)
        query.new_empty(threads * _room(name, longest, width, planes), dtype=torch.uint8)
        return
    from . import _kernels_attention_tiles as kernels
    from ._fused import arrays, share
    from ._kernels_tiles import TILES

    angles = [t.contiguous() for t in turn] if turn else [query.new_empty(0, width)] * 2
    first, second = arrays(*rows, *angles), arrays(*others)

    def run(part: Any) -> None:
        work = torch.empty(_room(name, longest, width, planes), dtype=torch.uint8).numpy()
        getattr(kernels, name)(part, *first, np.float32(scale), planes, work, TILES, *second)

    share(run, tasks_of(tuple(lengths), heads), sum(length * length for length in lengths) * query.shape[1])


def _room(name: str, longest: int, width: int, planes: int) -> int:
    from . import _kernels_attention_tiles as kernels

    size: int = (kernels.forward_room if name == "forward" else kernels.backward_room)(longest, width, planes)
    return size


def forward(
    rows: Sequence[Tensor], turn: Sequence[Tensor], lengths: Sequence[int], scale: float
) -> tuple[Tensor, Tensor]:
    """From query, key and value (N, heads, d): the outputs (N, heads, d), the log-sums of the weights (heads, N).

    `turn` is cos and sin (N, d), or nothing. All tensors are contiguous, here and below.
    """
    query = rows[0]
    out = torch.empty_like(query)
    total = query.new_empty(query.shape[1], query.shape[0], dtype=torch.float32)
    _run("forward", rows, turn, lengths, scale, out, total)
    return out, total


def backward(
    grad: Tensor, held: Sequence[Tensor], turn: Sequence[Tensor], lengths: Sequence[int], scale: float
) -> list[Tensor]:
    """Gradients of query, key and value before their rotation; `held` are these, the outputs and the log-sums."""
    *rows, out, total = held
    result = [torch.empty_like(t) for t in rows]
    _run("backward", rows, turn, lengths, scale, out, total, grad, *result)
    return result
