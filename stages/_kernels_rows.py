"""Softmaxes of rows in one go, for CPUs: attention over the keys seen so far, and losses over a vocabulary.

PyTorch takes a pass over memory for each of maximum, difference, exponential, sum and product. A row fits into the
nearest cache, so these loops read it from memory once. What the loops of :mod:`._kernels` say holds here too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .._compile import inner, kernel
from ._kernels import FASTMATH, exponential, load, lowest, one, store

__all__ = ["cross_entropy", "divergence", "weigh"]

zero = np.float32(0.0)
sign, magnitude = np.int32(31), np.int32(0x7FFFFFFF)


@inner
def ordered(value: Any) -> Any:
    # Bits of a float as an integer that sorts as the float does: a maximum of integers goes many at once, one of
    # floats that might be NaN does not. A positive NaN sorts above all, so it is seen. The inverse of itself.
    bits = np.float32(value).view(np.int32)
    return np.int32(bits ^ np.int32(np.int32(bits >> sign) & magnitude))


@inner
def top_of(row: Any, count: Any, width: Any) -> Any:
    top = np.int32(-(2**31))
    for j in range(width):
        value = ordered(load(row[j]))
        value = value if j < count else np.int32(-(2**31))
        top = max(top, value)
    return np.int32(top ^ np.int32(np.int32(top >> sign) & magnitude)).view(np.float32)


@inner
def weigh(row: Any, count: Any, scale: Any) -> Any:
    """exp(scale · (row − maximum)) in place over the first `count`, 0 behind; the maximum and the sum."""
    # Whole lanes of sixteen, masked: a remainder done one by one would cost as much as the rest.
    width = min(row.size, (count + 15) // 16 * 16)
    top = top_of(row, count, width)
    total = zero
    for j in range(width):
        value = exponential(max((row[j] - top) * scale, lowest))
        value = value if j < count else zero
        row[j] = value
        total += value
    for j in range(width, row.size):
        row[j] = zero
    return top, total


def _cross_entropy(logits: Any, labels: Any, losses: Any, factor: Any) -> None:
    """Rows of logits to what `factor` times is the gradient, in place; losses[i] = −log softmax(row)[label].

    The label's entry becomes e − Σe before it is rounded, so a confident row stays exact in bf16.
    """
    for i in range(len(logits)):
        row, label = logits[i], labels[i]
        width = row.size
        top = top_of(row, row.size, row.size)
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
        top, base_top = top_of(row, row.size, row.size), top_of(other, other.size, other.size)
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


cross_entropy = kernel(_cross_entropy, error_model="numpy", fastmath=FASTMATH)
divergence = kernel(_divergence, error_model="numpy", fastmath=FASTMATH)
