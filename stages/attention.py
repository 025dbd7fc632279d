"""Attention over documents that lie back to back in one row: no padding anywhere, and no document sees another.

A batch of ragged documents is one row of N tokens, so every linear layer, norm and loss works on real tokens only.
On a CPU, attention runs document by document on views of the row (:mod:`._attention_cpu`). Elsewhere, and with a
sliding window or attention dropout, documents of like length are gathered into buckets, each bucket is one plain causal
call, and the results go back to their places. Where a model cannot take this (it does not hand its keyword arguments
down, or has states besides attention), :func:`supports_flat` finds out by trying, and rows are padded instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ._attention_cpu import documents_attention

if TYPE_CHECKING:
    from .model import Base

__all__ = ["FLAT", "FlatLayout", "enable_flat", "flat_layout", "supports_flat"]

FLAT = "kinfold_flat"
_GROWTH = 1.3  # lengths of one bucket differ by at most this factor: 1.3 wastes about 7 % of the attention alone
_SMALL = 24  # up to this length, a bucket of its own costs more than it saves


@dataclass(frozen=True)
class FlatLayout:
    """Where the documents of a flat row lie.

    Attributes
    ----------
    lengths
        Tokens of each document, in order.
    buckets
        Per bucket the positions of its documents, (documents, longest); a padded place repeats position 0.
    inverse
        Place of each token among the concatenated buckets, (N,).
    """

    lengths: tuple[int, ...]
    buckets: tuple[Tensor, ...]
    inverse: Tensor


def flat_layout(lengths: Sequence[int], device: torch.device | str = "cpu") -> FlatLayout:
    """The layout of documents of these lengths, in this order, back to back."""
    sizes = np.asarray(lengths, dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    inverse = np.empty(int(sizes.sum()), dtype=np.int64)
    order = np.argsort(sizes, kind="stable")
    buckets: list[Tensor] = []
    base, low = 0, 0
    while low < len(order):
        bound = max(_SMALL, int(sizes[order[low]] * _GROWTH))
        high = int(np.searchsorted(sizes[order], bound, side="right"))
        members = order[low:high]
        longest = int(sizes[members[-1]])
        places = starts[members][:, None] + np.arange(longest)
        valid = np.arange(longest) < sizes[members][:, None]
        inverse[places[valid]] = base + np.flatnonzero(valid)
        buckets.append(torch.from_numpy(np.where(valid, places, 0)).to(device))
        base += valid.size
        low = high
    return FlatLayout(tuple(sizes.tolist()), tuple(buckets), torch.from_numpy(inverse).to(device))


def _flat_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    flat: FlatLayout | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: query (1, heads, N, d), key and value (1, kv heads, N, d)."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if flat is None:
        # Padded rows, generation: transformers' own way.
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
        return output, None
    plain = dropout == 0.0 and (sliding_window is None or max(flat.lengths) <= sliding_window)
    if plain and query.device.type in ("cpu", "meta") and query.dtype in (torch.float32, torch.bfloat16, torch.float64):
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return documents_attention(query, key, value, flat.lengths, scale), None
    heads, dim = query.shape[1], value.shape[-1]
    groups = heads // key.shape[1]
    rows = [part[0].transpose(0, 1) for part in (query, key, value)]  # (N, heads, d)
    outputs = []
    for places in flat.buckets:
        shape = places.shape
        q, k, v = (part.index_select(0, places.view(-1)).view(*shape, *part.shape[1:]).transpose(1, 2) for part in rows)
        if groups > 1:
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        mask = _window(shape[1], sliding_window, q.device)
        if q.device.type == "meta":
            out = _Shape.apply(q, k, v)  # type: ignore[no-untyped-call]
        else:
            out = torch.nn.functional.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling, is_causal=mask is None
            )
        outputs.append(out.transpose(1, 2).reshape(-1, heads * dim))
    joined = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    return joined.index_select(0, flat.inverse).view(1, -1, heads, dim), None


class _Shape(torch.autograd.Function):
    """What a fused attention kernel keeps, for memory estimates: the meta device itself would pick the unfused one."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _window(length: int, window: int | None, device: torch.device) -> Tensor | None:
    if window is None or length <= window:
        return None
    place = torch.arange(length, device=device)
    distance = place[:, None] - place[None]
    return (distance >= 0) & (distance < window)


def enable_flat(base: Base) -> bool:
    """Switch a decoder to the flat attention where it gives the model's own answer; True if it does."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    if base.kind != "decoder" or base.task != "lm" or base.model.config._attn_implementation != "sdpa":  # type: ignore[union-attr]
        return False
    AttentionInterface.register(FLAT, _flat_attention)
    AttentionMaskInterface.register(FLAT, sdpa_mask)
    base.model.set_attn_implementation(FLAT)  # type: ignore[operator]
    if supports_flat(base):
        from ._fused import fuse

        fuse(base.model)
        return True
    base.model.set_attn_implementation("sdpa")  # type: ignore[operator]
    return False


def supports_flat(base: Base) -> bool:
    """Whether three documents in one flat row give the hidden states that each gives alone."""
    lengths = (9, 4, 13)
    ids = [torch.arange(7 * i + 3, 7 * i + 3 + n, device=base.device) % base.vocabulary for i, n in enumerate(lengths)]
    with torch.no_grad():
        alone = [base.states(part[None], None, None)[0][0] for part in ids]
        try:
            flat, _ = base.states(
                torch.cat(ids)[None],
                torch.cat([torch.arange(n, device=base.device) for n in lengths])[None],
                torch.ones(1, 1, 1, 1, device=base.device),
                flat=flat_layout(lengths, base.device),
            )
        except (TypeError, ValueError, RuntimeError, IndexError):
            return False
    wanted, got = torch.cat(alone).double(), flat[0].double()
    # bf16 rounds differently in differently shaped products; a leak between documents is far larger than that.
    bound = 1e-4 if flat.dtype == torch.float32 else 5e-2
    return bool((got - wanted).norm() <= bound * wanted.norm())
