"""From the documents of a micro-batch to tensors: token ids, routing, and which position pays for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._linear import filled
from .attention import FlatLayout, flat_layout
from .batches import GENERAL, SSL, TASK, Item
from .losses import corrupt
from .losses.head import IGNORE

if TYPE_CHECKING:
    from .model import Base
    from .settings import TrainSettings

__all__ = ["Corrupted", "Layout", "Micro", "Targets", "collate", "corrupted_items"]

Layout = Literal["flat", "packed", "padded"]
Corrupted = Mapping[Item, "tuple[NDArray[np.int64], NDArray[np.int64]]"]
"""Of each denoising document its corrupted tokens, and what to predict in place (IGNORE where nothing)."""


@dataclass(frozen=True)
class Targets:
    """Positions that pay, as indices into the flattened (rows·length) states.

    Attributes
    ----------
    index
        Where the prediction is read, (n,).
    labels
        The token it should be, (n,).
    domain
        Index of the domain it belongs to, (n,).
    """

    index: Tensor
    labels: Tensor
    domain: Tensor

    def __len__(self) -> int:
        return int(self.index.shape[0])


@dataclass(frozen=True)
class Micro:
    """One micro-batch.

    Attributes
    ----------
    input_ids, position_ids, mask
        (rows, length); a flat batch has one row, and a dummy mask that is never read.
    flat
        The flat layout, or None where rows are padded or packed.
    groups
        Per domain its tokens (flat) or rows: what the bank is routed by.
    task, ssl, general
        What pays in each term; None where the micro-batch has no such document.
    pool_index, pool_doc, doc_lengths, doc_domain
        Positions of the task documents' tokens, the document each belongs to, their lengths and domains:
        for pooled features.
    class_rows, class_labels
        Classification: the rows of the task documents and their classes.
    tokens
        Real task tokens.
    """

    input_ids: Tensor
    position_ids: Tensor | None
    mask: Tensor | None
    flat: FlatLayout | None
    groups: tuple[int, ...]
    task: Targets | None
    ssl: Targets | None
    general: Targets | None
    pool_index: Tensor
    pool_doc: Tensor
    doc_lengths: Tensor
    doc_domain: Tensor
    class_rows: Tensor | None
    class_labels: Tensor | None
    tokens: int


def _content(item: Item, corrupted: Corrupted | None) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """The tokens a document shows, and what is to be predicted at each of them."""
    if item.kind == SSL and corrupted is not None:
        return corrupted[item]
    begin, end = item.store.offsets[item.piece], item.store.offsets[item.piece + 1]
    tokens = item.store.tokens[begin:end]
    if item.kind == GENERAL:
        return tokens, tokens
    return tokens, np.where(item.store.pays[begin:end], tokens, IGNORE)


def _pack(lengths: NDArray[np.int64], domain: NDArray[np.int64], length: int) -> tuple[list[int], list[int]]:
    """First-fit decreasing within each domain: the row of each document and the place where it begins."""
    row_of, place_of = [0] * len(lengths), [0] * len(lengths)
    free: list[int] = []  # tokens left in each row
    first = 0  # first row of the current domain
    current = -1
    for i in np.lexsort((-lengths, domain)).tolist():
        if domain[i] != current:
            current, first = int(domain[i]), len(free)
        size = int(lengths[i])
        row = next((r for r in range(first, len(free)) if free[r] >= size), -1)
        if row < 0:
            free.append(length)
            row = len(free) - 1
        row_of[i], place_of[i] = row, length - free[row]
        free[row] -= size
    return row_of, place_of


def collate(
    items: Sequence[Item],
    base: Base,
    n_domains: int,
    *,
    layout: Layout,
    max_length: int,
    corrupted: Corrupted | None = None,
) -> Micro:
    """Build the tensors of one micro-batch, whose items are sorted by domain.

    Position p of a causal model predicts token p + 1 of the same document; an encoder predicts its corrupted
    tokens in place.
    """
    tokens, labels = zip(*(_content(item, corrupted) for item in items), strict=True)
    lengths = np.array([len(part) for part in tokens], dtype=np.int64)
    domain = np.array([item.domain for item in items], dtype=np.int64)
    kind = np.array([item.kind for item in items], dtype=np.int64)
    starts, shape, groups = _places(lengths, domain, n_domains, layout, max_length)
    fill = filled(shape[1]) - shape[1] if layout == "flat" and base.embedding.dtype == torch.bfloat16 else 0
    if fill:
        # Padding tokens that pay for nothing and see nobody, a document of their own, go with the last domain: a
        # product in bf16 is compiled for each shape it meets, so the steps of a run should have few.
        shape = (1, shape[1] + fill)
        last = max(index for index, count in enumerate(groups) if count)
        groups = tuple(count + fill * (index == last) for index, count in enumerate(groups))
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = np.repeat(starts, lengths) + within
    doc = np.repeat(np.arange(len(items)), lengths)
    ids = np.full(shape[0] * shape[1], base.pad, dtype=np.int64)
    ids[places] = np.concatenate(tokens)
    wanted = np.concatenate(labels)
    kind_at = kind[doc]

    def targets(which: int) -> Targets | None:
        if not (kind == which).any():
            return None
        shift = 0 if base.kind == "encoder" else 1
        paid = np.flatnonzero((kind_at == which) & (within >= shift) & (wanted != IGNORE))
        return Targets(_long(places[paid] - shift, base), _long(wanted[paid], base), _long(domain[doc[paid]], base))

    task_docs = np.flatnonzero(kind == TASK)
    number_of = np.full(len(items), -1, dtype=np.int64)
    number_of[task_docs] = np.arange(len(task_docs))
    pool = np.flatnonzero(kind_at == TASK)
    classify = base.task == "classification"
    return Micro(
        input_ids=_long(ids, base).view(shape),
        position_ids=_positions(layout, within, places, shape, base),
        mask=_mask(layout, places, shape, base),
        flat=flat_layout([*lengths.tolist(), *([fill] if fill else [])], base.device) if layout == "flat" else None,
        groups=groups,
        task=None if classify else targets(TASK),
        ssl=targets(SSL),
        general=targets(GENERAL),
        pool_index=_long(places[pool], base),
        pool_doc=_long(number_of[doc[pool]], base),
        doc_lengths=torch.from_numpy(lengths[task_docs]).to(base.device),
        doc_domain=_long(domain[task_docs], base),
        class_rows=_long(task_docs, base) if classify else None,
        class_labels=_long(_classes(items), base) if classify else None,
        tokens=int(lengths[task_docs].sum()),
    )


def _long(values: NDArray[np.generic], base: Base) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)).to(base.device)


def _classes(items: Sequence[Item]) -> NDArray[np.int64]:
    chosen = [
        int(item.store.labels[item.piece]) for item in items if item.kind == TASK and item.store.labels is not None
    ]
    return np.array(chosen, dtype=np.int64)


def _places(
    lengths: NDArray[np.int64],
    domain: NDArray[np.int64],
    n_domains: int,
    layout: Layout,
    max_length: int,
) -> tuple[NDArray[np.int64], tuple[int, int], tuple[int, ...]]:
    """Where each document begins in the flattened batch, the batch's shape, and the groups of the bank."""
    if layout == "flat":
        counts = np.bincount(domain, weights=lengths, minlength=n_domains).astype(np.int64)
        return np.cumsum(lengths) - lengths, (1, int(lengths.sum())), tuple(counts.tolist())
    if layout == "packed":
        rows, offsets = _pack(lengths, domain, max_length)
        starts = np.array(rows, dtype=np.int64) * max_length + np.array(offsets, dtype=np.int64)
        owner = dict(zip(rows, domain.tolist(), strict=True))
        counts = np.bincount(list(owner.values()), minlength=n_domains)
        return starts, (len(owner), max_length), tuple(counts.tolist())
    width = int(lengths.max())
    counts = np.bincount(domain, minlength=n_domains)
    return np.arange(len(lengths)) * width, (len(lengths), width), tuple(counts.tolist())


def _positions(
    layout: Layout, within: NDArray[np.int64], places: NDArray[np.int64], shape: tuple[int, int], base: Base
) -> Tensor | None:
    if base.kind == "encoder" or base.task == "classification":
        return None
    if layout == "padded":
        # Plain positions and no mask: the causal kernel skips what lies ahead, and padding lies behind every token.
        return torch.arange(shape[1], device=base.device).expand(shape)
    positions = np.zeros(shape[0] * shape[1], dtype=np.int64)
    positions[places] = within
    return _long(positions, base).view(shape)


def _mask(layout: Layout, places: NDArray[np.int64], shape: tuple[int, int], base: Base) -> Tensor | None:
    if layout == "flat":
        return torch.ones(1, 1, 1, 1, device=base.device)
    if base.kind == "decoder":
        return None
    mask = np.zeros(shape[0] * shape[1], dtype=np.int64)
    mask[places] = 1
    return _long(mask, base).view(shape)


def corrupted_items(
    bins: Sequence[Sequence[Item]], base: Base, settings: TrainSettings, *, seed: int, max_length: int
) -> Corrupted | None:
    """The corrupted documents of a whole step: one draw, whatever the number of micro-batches."""
    items = sorted(
        (item for items in bins for item in items if item.kind == SSL),
        key=lambda item: (item.domain, item.store.domain, item.piece),
    )
    if not items:
        return None
    lengths = [item.length for item in items]
    tokens = np.full((len(items), max(lengths)), base.pad, dtype=np.int64)
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    for row, item in enumerate(items):
        tokens[row, : lengths[row]] = item.store.piece(item.piece)
    mark = base.mask if base.mask is not None else base.tokenizer.unk_token_id
    if mark is None and settings.ssl_kind == "span":
        mark = base.eos
    result = corrupt(
        torch.from_numpy(tokens),
        torch.from_numpy(mask),
        settings.ssl_kind,
        settings.ssl_rate,
        seed,
        vocab_size=min(len(base.tokenizer), base.vocabulary),
        mask_id=mark,
        special_ids=tuple(sorted(set(base.tokenizer.all_special_ids))),
        causal=base.kind == "decoder",
        pad_id=base.pad,
        max_length=max_length,
    )
    inputs, labels, kept = result.inputs.numpy(), result.labels.numpy(), result.mask.numpy()
    return {item: (inputs[row][kept[row]], labels[row][kept[row]]) for row, item in enumerate(items)}
