"""What decides the memory of one micro-batch: of a real one, or of a typical one before there are texts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .collate import Layout, Micro
    from .settings import TrainSettings

__all__ = ["BatchShape"]

_MEAN_RUN = 3.0  # tokens that denoising cuts out at a time


@dataclass(frozen=True)
class BatchShape:
    """What decides the memory of one micro-batch.

    Attributes
    ----------
    documents
        Length of each document, in the order of the batch.
    rows, length
        Shape of the token ids: one row of all tokens where the layout is flat.
    groups
        Per domain its tokens (flat) or rows.
    paid, general
        Tokens that pay for the task and denoising terms, and for KL.
    """

    documents: tuple[int, ...]
    rows: int
    length: int
    groups: tuple[int, ...]
    paid: int
    general: int

    @classmethod
    def of(cls, micro: Micro, documents: Sequence[int]) -> BatchShape:
        """The shape of a real micro-batch."""
        rows, length = micro.input_ids.shape
        paid = sum(len(part) for part in (micro.task, micro.ssl) if part is not None)
        general = len(micro.general) if micro.general is not None else 0
        return cls(tuple(documents), rows, length, micro.groups, paid, general)

    @classmethod
    def typical(
        cls,
        settings: TrainSettings,
        *,
        domains: int,
        layout: Layout,
        lengths: Sequence[int] | None = None,
        tokens: int | None = None,
        max_length: int,
        decoder: bool = True,
    ) -> BatchShape:
        """A micro-batch of documents of these lengths in turn (None: of `max_length`), divided evenly."""
        own = settings.batch_tokens / settings.accumulation
        ssl = own * settings.ssl_share if settings.ssl_weight > 0 else 0.0
        general = own * settings.kl_share if settings.kl_weight > 0 else 0.0
        restored = ssl * settings.ssl_rate
        if decoder and settings.ssl_kind == "token":
            restored = ssl  # each true token is predicted from the corrupted ones before it
        elif decoder:
            ssl += 2 * restored / _MEAN_RUN  # two marks for each run that is cut out
        if tokens is None:
            tokens = max(1, round(own + ssl + general))
        scale = tokens / (own + ssl + general)
        documents = _documents(tokens, lengths, max_length)
        paid = round(scale * (own + restored))
        if layout == "flat":
            groups = tuple(len(part) for part in _even(tokens, domains))
            return cls(documents, 1, tokens, groups, paid, round(scale * general))
        if layout == "packed":
            rows, length = -(-tokens // max_length), max_length
        else:
            rows, length = len(documents), max(documents)
        return cls(documents, rows, length, tuple(len(p) for p in _even(rows, domains)), paid, round(scale * general))


def _documents(tokens: int, lengths: Sequence[int] | None, max_length: int) -> tuple[int, ...]:
    """Document lengths that fill `tokens`."""
    cycle = [min(n, max_length) for n in lengths] if lengths else [max_length]
    made: list[int] = []
    left = tokens
    while left > 0:
        made.append(min(cycle[len(made) % len(cycle)], left))
        left -= made[-1]
    return tuple(made)


def _even(count: int, parts: int) -> list[range]:
    edges = [count * i // parts for i in range(parts + 1)]
    return [range(a, b) for a, b in itertools.pairwise(edges)]
