"""The chunk loop under :mod:`.head`: one autograd function, and one small class a loss.

On a CPU with a compiler a loss reads each row of logits once (:mod:`.._kernels_rows`), in the precision its product
left it in; PyTorch takes a pass over all rows for each of maximum, difference, exponential and sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..._compile import have_compiler
from .._fused import arrays, spread
from .._linear import filled, product
from .._linear import scratch as beside

__all__ = ["CrossEntropyRows", "KLRows", "run", "scratch_bytes"]

_SCRATCH = {"cpu": 96 << 20}
_SCRATCH_OTHER = 512 << 20


class _Rows(Protocol):
    """A loss of single rows, given their logits."""

    buffers: int  # (chunk, V) scratch tensors that `step` needs, the logits' own included

    def step(self, logits: Tensor, start: int, stop: int, scratch: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Losses of rows start..stop, and a factor f each: f · logits (changed in place) is the gradient."""
        ...

    def compiled(self, logits: Tensor, start: int, stop: int, base: Tensor | None, out: Tensor) -> None:
        """The same in machine code: losses and factors into `out` (2, rows); `base` is scratch like the logits."""
        ...


def _mm(a: Tensor, b: Tensor) -> Tensor:
    """A @ b; in bf16 on a CPU with rows filled up, since there a product is compiled for each shape it meets."""
    rows = a.shape[0]
    if a.dtype != torch.bfloat16 or a.device.type != "cpu" or rows == filled(rows):
        return torch.mm(a, b)
    return torch.mm(torch.nn.functional.pad(a, (0, 0, 0, filled(rows) - rows)), b)[:rows]


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None, out: Tensor) -> Tensor:
    """Capped logits of a chunk (c, H) into `out` (c, V), in the accumulation precision."""
    if hidden.dtype == out.dtype:
        torch.mm(hidden, weight.t(), out=out)
    else:
        out.copy_(_mm(hidden, weight.t()))
    if bias is not None:
        out.add_(bias)
    if softcap is not None:
        out.div_(softcap).tanh_().mul_(softcap)
    return out


class CrossEntropyRows:
    """−log softmax(z)[label]."""

    buffers = 1

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def step(self, logits: Tensor, start: int, stop: int, scratch: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The gradient is softmax − one-hot; the label's entry is subtracted before the head's product.

        Doing so keeps confident rows exact in bf16, where 1 − p would round away.
        """
        label = self.labels[start:stop, None]
        top = logits.amax(1, keepdim=True)
        at_label = logits.gather(1, label)
        total = logits.sub_(top).exp_().sum(1, keepdim=True)
        losses = total.log().add_(top).sub_(at_label)
        logits.scatter_add_(1, label, -total)
        return losses.squeeze(1), total.reciprocal_()

    def compiled(self, logits: Tensor, start: int, stop: int, base: Tensor | None, out: Tensor) -> None:
        """As :meth:`step`."""
        from .. import _kernels_rows as kernels

        table, labels, losses, factor = arrays(logits, self.labels[start:stop], *out.unbind())
        spread(kernels.cross_entropy, table, labels, losses, factor)


class KLRows:
    """KL(p_θ‖p_0) or KL(p_0‖p_θ) of the softmaxes of two hidden states."""

    buffers = 3

    def __init__(
        self, base: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor, softcap: float | None, *, reverse: bool
    ) -> None:
        self.base = base
        self.weight = weight
        self.bias = None if bias is None else bias.detach()
        self.rows = rows
        self.softcap = softcap
        self.reverse = reverse

    def step(self, logits: Tensor, start: int, stop: int, scratch: list[Tensor]) -> tuple[Tensor, Tensor]:
        """With d = z − q the difference of logits: Σ p (d − c), c that of their log-sum-exps.

        Differences first, since the two entropies nearly cancel; two exponentials an entry, and no pass to normalise.
        """
        z, (q, t) = logits, scratch
        _logits(self.base[self.rows[start:stop]].to(self.weight.dtype), self.weight, self.bias, self.softcap, q)
        if self.reverse:
            top, total = _exponentials(z, t)  # t = p_θ · total
            z.sub_(q)
            base_top, base_total = _exponentials(q, q)
            constant = top.add_(total.log()).sub_(base_top).sub_(base_total.log_())
            mean = _row_dot(t, z) / total
            z.sub_(mean).mul_(t)
            return mean.sub_(constant).squeeze(1), total.reciprocal_()
        base_top, base_total = _exponentials(q, t)  # t = p_0 · base_total
        q.sub_(z)
        top, total = _exponentials(z, z)
        constant = base_top.add_(base_total.log()).sub_(top).sub_(total.log())
        losses = (_row_dot(t, q) / base_total).sub_(constant)
        z.addcmul_(t, total / base_total, value=-1)
        return losses.squeeze(1), total.reciprocal_()

    def compiled(self, logits: Tensor, start: int, stop: int, base: Tensor | None, out: Tensor) -> None:
        """As :meth:`step`."""
        from .. import _kernels_rows as kernels

        assert base is not None
        _product(self.base.to(self.weight.dtype), self.rows[start:stop], self.weight, self.bias, base)
        table, other, losses, factor = arrays(logits, base[: stop - start], *out.unbind())
        spread(kernels.divergence, table, other, np.bool_(self.reverse), losses, factor, whole=(2,))


def _exponentials(z: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """exp(z − max) by row into `out` (which may be z); the maxima and the sums, (c, 1) each."""
    top = z.amax(1, keepdim=True)
    torch.sub(z, top, out=out)
    return top, out.exp_().sum(1, keepdim=True)


def _row_dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a.unsqueeze(1), b.unsqueeze(2)).view(-1, 1)


def _chunk_rows(n: int, vocabulary: int, buffers: int, itemsize: int, device: torch.device) -> int:
    scratch = _SCRATCH.get(device.type, _SCRATCH_OTHER)
    rows = scratch // (buffers * vocabulary * itemsize)
    return max(1, min(n, max(rows, 16)))


def _compiled_chunk(n: int, vocabulary: int, buffers: int, itemsize: int, device: torch.device) -> int:
    """Rows at once: more than 512 make no product faster and only leave the caches."""
    return min(_chunk_rows(n, vocabulary, buffers, itemsize, device), 512)


def scratch_bytes(
    n: int, vocabulary: int, width: int, buffers: int, itemsize: int, device: torch.device, *, capped: bool = False
) -> int:
    """Bytes of the largest chunk of a loss with so many `buffers` over n rows, for memory estimates.

    `capped` logits never go through the compiled loops, and are held twice.
    """
    if not n:
        return 0
    if device.type == "cpu" and not capped and have_compiler():
        kept = (buffers + 1) // 2
        chunk = _compiled_chunk(n, vocabulary, kept, itemsize, device)
        more = beside(chunk, vocabulary, width) if itemsize == 4 else 0
        return chunk * (kept * vocabulary + 2 * width) * itemsize + more
    chunk = _chunk_rows(n, vocabulary, buffers, 4, device)
    # In half precision, the product of a chunk (and later its gradient) is there beside its fp32 buffer.
    return chunk * vocabulary * (4 * (buffers + capped) + (itemsize if itemsize < 4 else 0)) + chunk * width * itemsize


def _filled(rows: int, hidden: Tensor) -> int:
    """Rows of a product: in bf16 on a CPU one is compiled for each shape it meets, so these are rounded up."""
    return filled(rows) if hidden.dtype == torch.bfloat16 else rows


def _product(hidden: Tensor, rows: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Logits of these rows into the first of `out` (filled-up rows, V); what is filled up is another row's."""
    taken = hidden.index_select(0, rows)
    if taken.shape[0] < out.shape[0]:
        taken = torch.cat([taken, hidden[:1].expand(out.shape[0] - taken.shape[0], -1)])
    if bias is None:
        product(taken, weight, out=out)
    else:
        torch.addmm(bias.to(taken.dtype), taken, weight.t(), out=out)


def _machine_code(hidden: Tensor, softcap: float | None) -> bool:
    kinds = (torch.float32, torch.bfloat16)
    return hidden.device.type == "cpu" and hidden.dtype in kinds and softcap is None and have_compiler()


def _compiled_rows(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, kind: _Rows, rows: Tensor, chunk: int | None, losses: Tensor
) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Fill `losses`; yield start, stop, the factors of these rows and what they multiply, (filled-up rows, V)."""
    n, vocabulary, kept = rows.shape[0], weight.shape[0], (kind.buffers + 1) // 2
    size = chunk or _compiled_chunk(n, vocabulary, kept, hidden.element_size(), hidden.device)
    held = hidden.new_empty(kept, _filled(min(size, n), hidden), vocabulary)
    for start in range(0, n, size):
        stop = min(n, start + size)
        logits, *base = (buffer[: _filled(stop - start, hidden)] for buffer in held)
        _product(hidden, rows[start:stop], weight, bias, logits)
        out = losses.new_empty(2, stop - start)
        kind.compiled(logits[: stop - start], start, stop, base[0] if base else None, out)
        losses[start:stop] = out[0]
        yield start, stop, out[1][:, None], logits


class _Fused(torch.autograd.Function):
    """Of :func:`run`, which documents `asked`: the loss, rows, domains, their number, soft cap and chunk."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, asked: tuple[Any, ...]
    ) -> tuple[Tensor, Tensor]:
        kind, rows, domains, n_domains, softcap, chunk = asked
        acc = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        grads = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        losses = hidden.new_empty(rows.shape[0], dtype=acc)
        if _machine_code(hidden, softcap):
            for start, stop, factor, table in _compiled_rows(hidden, weight, bias, kind, rows, chunk, losses):
                if grads is not None:
                    grads[rows[start:stop]] = product(table, weight, transposed=True)[: stop - start].mul_(factor)
        else:
            for start, stop, logits, scratch in _chunks(hidden, weight, kind, rows, chunk, acc):
                _logits(hidden[rows[start:stop]], weight, bias, softcap, logits)
                capped = logits.clone() if softcap is not None and grads is not None else None
                losses[start:stop], factor = kind.step(logits, start, stop, scratch)
                if grads is not None:
                    if capped is not None and softcap is not None:
                        _uncap_(logits, capped, softcap)
                    part = _mm(logits.to(weight.dtype), weight)
                    grads[rows[start:stop]] = part.mul_(factor).to(hidden.dtype)
        sums = torch.zeros(n_domains, dtype=torch.float64, device=hidden.device).index_add_(0, domains, losses.double())
        counts = torch.bincount(domains, minlength=n_domains)
        ctx.mark_non_differentiable(counts)
        # The hidden states are needed again only by a head that is trained.
        trained_head = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        ctx.save_for_backward(grads, rows, domains, hidden if trained_head else None, weight, bias)
        ctx.kind, ctx.softcap, ctx.chunk, ctx.acc = kind, softcap, chunk, acc
        return sums.to(acc), counts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grads, rows, domains, hidden, weight, bias = ctx.saved_tensors
        of_row = grad_outputs[0][domains]
        grad_hidden: Tensor | None = None
        if grads is not None:
            scale = grads.new_zeros(grads.shape[0]).index_copy_(0, rows, of_row.to(grads.dtype))
            grad_hidden = grads * scale[:, None]
        grad_weight = grad_bias = None
        if ctx.needs_input_grad[1] or (bias is not None and ctx.needs_input_grad[2]):
            grad_weight, grad_bias = _head_gradient(ctx, hidden, weight, bias, rows, of_row)
        return (
            grad_hidden,
            grad_weight if ctx.needs_input_grad[1] else None,
            grad_bias if ctx.needs_input_grad[2] else None,
            None,
        )


def _uncap_(grad: Tensor, capped: Tensor, softcap: float) -> None:
    """Through z ↦ cap·tanh(z/cap): multiply by 1 − (capped/cap)²."""
    grad.mul_(capped.div_(softcap).square_().neg_().add_(1))


def _chunks(hidden: Tensor, weight: Tensor, kind: _Rows, rows: Tensor, chunk: int | None, acc: torch.dtype) -> Any:
    """Yield start, stop, a logits buffer and scratch buffers; memory is taken once and used again."""
    n, vocabulary = rows.shape[0], weight.shape[0]
    if not n:
        return
    size = chunk or _chunk_rows(n, vocabulary, kind.buffers, torch.finfo(acc).bits // 8, hidden.device)
    size = min(size, n)
    buffers = [hidden.new_empty(size, vocabulary, dtype=acc) for _ in range(kind.buffers)]
    for start in range(0, n, size):
        stop = min(n, start + size)
        logits, *scratch = (buffer[: stop - start] for buffer in buffers)
        yield start, stop, logits, scratch


def _head_gradient(
    ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor, of_row: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The head's own gradient: logits are made again, now that each row's weight is known."""
    grad_weight = torch.zeros_like(weight, dtype=ctx.acc)
    grad_bias = None if bias is None else torch.zeros_like(bias, dtype=ctx.acc)
    for start, stop, logits, scratch in _chunks(hidden, weight, ctx.kind, rows, ctx.chunk, ctx.acc):
        part = hidden[rows[start:stop]]
        _logits(part, weight, bias, ctx.softcap, logits)
        capped = logits.clone() if ctx.softcap is not None else None
        _, factor = ctx.kind.step(logits, start, stop, scratch)
        if capped is not None:
            _uncap_(logits, capped, ctx.softcap)
        logits.mul_(factor * of_row[start:stop, None].to(ctx.acc))
        grad_weight.add_(torch.mm(logits.to(part.dtype).t(), part))
        if grad_bias is not None:
            grad_bias.add_(logits.sum(0))
    return grad_weight.to(weight.dtype), None if grad_bias is None or bias is None else grad_bias.to(bias.dtype)


def run(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    kind: _Rows,
    rows: Tensor,
    domains: Tensor,
    n_domains: int,
    softcap: float | None,
    chunk: int | None,
) -> tuple[Tensor, Tensor]:
    """Sums and counts by domain of a row loss; inputs are already checked.

    Products run in the hidden states' precision (autocast's under autocast), everything else in fp32 (fp64 for fp64).
    """
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    weight = weight.to(hidden.dtype)
    if isinstance(kind, KLRows):
        kind.weight = kind.weight.to(hidden.dtype)
    with torch.autocast(device, enabled=False):
        result: tuple[Tensor, Tensor] = _Fused.apply(  # type: ignore[no-untyped-call]
            hidden, weight, bias, (kind, rows, domains, n_domains, softcap, chunk)
        )
    return result
