"""Losses over a vocabulary, and the backward pass of attention, row by row in one go, for CPUs.

PyTorch takes a pass over memory for each of maximum, difference, exponential, sum and product. A row fits into the
nearest cache, so these loops read it from memory once. What the loops of :mod:`._kernels` say holds here too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import register_jitable

from .._compile import kernel
from ._kernels import FASTMATH, exponential, load, lowest, one, store

__all__ = ["attend_back", "cross_entropy", "divergence", "dots"]

zero = np.float32(0.0)
sign, magnitude = np.int32(31), np.int32(0x7FFFFFFF)


@register_jitable
def ordered(value: Any) -> Any:
    # Bits of a float as an integer that sorts as the float does: a maximum of integers goes many at once, one of
    # floats that might be NaN does not. A positive NaN sorts above all, so it is seen. The inverse of itself.
    bits = np.float32(value).view(np.int32)
    return np.int32(bits ^ np.int32(np.int32(bits >> sign) & magnitude))


@register_jitable
def top_of(row: Any) -> Any:
    top = np.int32(-(2**31))
    for j in range(row.size):
        top = max(top, ordered(load(row[j])))
    return np.int32(top ^ np.int32(np.int32(top >> sign) & magnitude)).view(np.float32)


def _cross_entropy(logits: Any, labels: Any, losses: Any, factor: Any) -> None:
    """Rows of logits to what `factor` times is the gradient, in place; losses[i] = −log softmax(row)[label].

    The label's entry becomes e − Σe before it is rounded, so a confident row stays exact in bf16.
    """
    for i in range(len(logits)):
        row, label = logits[i], labels[i]
        width = row.size
        top = top_of(row)
        at_label = load(row[label])
        total = zero
        for j in range(width):
            value = exponential(max(load(row[j]) - top, lowest))
            row[j] = store(value, row[j])
            total += value
        losses[i] = np.log(total) + top - at_label
        factor[i] = one / total
        row[label] = store(exponential(max(at_label - top, lowest)) - total, row[label])


def _divergence(logits: Any, base: Any, reverse: Any, losses: Any, factor: Any) -> None:
    """Rows of logits to what `factor` times is the gradient of KL(p‖p0) (`reverse`) or KL(p0‖p), in place.

    Σ p (d − c) with d the differences of logits and c that of their log-sum-exps: the two entropies nearly cancel.
    """
    width = logits.shape[1]
    mine, theirs, apart = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    for i in range(len(logits)):
        row, other = logits[i], base[i]
        top, base_top = top_of(row), top_of(other)
        total, base_total, pull, base_pull = zero, zero, zero, zero
        for j in range(width):
            z, q = load(row[j]), load(other[j])
            e, f, d = exponential(max(z - top, lowest)), exponential(max(q - base_top, lowest)), z - q
            mine[j], theirs[j], apart[j] = e, f, d
            total += e
            base_total += f
            pull += e * d
            base_pull += f * d
        # In double: the logarithms are large beside a small divergence, and there are two a row.
        constant = np.float64(top) - np.float64(base_top) + np.log(np.float64(total) / np.float64(base_total))
        factor[i] = one / total
        if reverse:
            mean = pull / total
            losses[i] = mean - constant
            for j in range(width):
                row[j] = store(mine[j] * (apart[j] - mean), row[j])
        else:
            losses[i] = constant - base_pull / base_total
            share = total / base_total
            for j in range(width):
                row[j] = store(mine[j] - theirs[j] * share, row[j])


def _attend_back(
    scores: Any, grads: Any, seen: Any, scale: Any, total: Any, pull: Any, weights: Any, out: Any
) -> None:
    """Of a block of queries: weights from scores (rows, keys), and the scores' gradients from the weights' `grads`.

    Row i sees the first seen[i] keys; total[i] is its log-sum-exp, pull[i] its rowsum(dO ∘ O).
    """
    for i in range(len(scores)):
        count, shift, back = seen[i], total[i], pull[i]
        for j in range(scores.shape[1]):
            value = exponential(min(max(scores[i, j] * scale - shift, lowest), -lowest))
            value = value if j < count else zero
            weights[i, j] = store(value, weights[i, j])
            out[i, j] = store(value * (grads[i, j] - back) * scale if j < count else zero, out[i, j])


def _dots(a: Any, b: Any, out: Any) -> None:
    """Dot products over the last dimension of (tokens, heads, d)."""
    for t in range(a.shape[0]):
        for h in range(a.shape[1]):
            total = zero
            for j in range(a.shape[2]):
                total += load(a[t, h, j]) * load(b[t, h, j])
            out[t, h] = total


cross_entropy = kernel(_cross_entropy, error_model="numpy", fastmath=FASTMATH)
divergence = kernel(_divergence, error_model="numpy", fastmath=FASTMATH)
attend_back = kernel(_attend_back, error_model="numpy", fastmath=FASTMATH)
dots = kernel(_dots, error_model="numpy", fastmath=FASTMATH)
