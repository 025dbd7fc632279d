"""How well a model serves each domain: losses per document, so that before and after can be paired."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._seeding import generator
from .batches import TASK, Item
from .collate import Layout, Micro, collate
from .losses import fused_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .data import TokenStore
    from .heads import Heads
    from .model import Base

__all__ = ["Scores", "features", "macro_f1", "paired_change", "score", "served", "summary"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """What one model gave on one split, document by document.

    Attributes
    ----------
    sums
        Loss of each document, nats, summed over its targets, (n,).
    counts
        Targets of each document: paid tokens, or 1 in classification, (n,).
    classes, predicted
        True and predicted class, (n,); None in language modelling.
    """

    sums: Floats
    counts: Floats
    classes: NDArray[np.int64] | None = None
    predicted: NDArray[np.int64] | None = None

    @property
    def mean(self) -> float:
        """Loss per target."""
        return float(self.sums.sum() / max(self.counts.sum(), 1.0))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, for npz."""
        found = {"sums": self.sums, "counts": self.counts, "classes": self.classes, "predicted": self.predicted}
        return {name: array for name, array in found.items() if array is not None}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Scores:
        """The inverse of :meth:`arrays`."""
        return cls(arrays["sums"], arrays["counts"], arrays.get("classes"), arrays.get("predicted"))


def _batches(store: TokenStore, tokens: int, layout: Layout) -> list[list[Item]]:
    """All pieces in batches of about `tokens` tokens (padding included), like lengths together."""
    order = np.argsort(store.lengths, kind="stable")
    batches: list[list[Item]] = []
    size = 0
    for piece in order.tolist():
        item = Item(0, TASK, store, piece)
        # Sorted by length, so the newest document is the widest: padded rows cost its width each.
        cost = size + item.length if layout == "flat" else item.length * (len(batches[-1]) + 1 if batches else 1)
        if not batches or cost > tokens:
            batches.append([])
            cost = item.length
        batches[-1].append(item)
        size = cost
    return batches


def _record_of(items: Sequence[Item], store: TokenStore) -> NDArray[np.int64]:
    return store.record[np.array([item.piece for item in items], dtype=np.int64)]


def score(
    base: Base,
    store: TokenStore,
    *,
    layout: Layout,
    max_length: int,
    tokens: int,
    serving: AbstractContextManager[Any] | None = None,
    heads: Heads | None = None,
    lm: bool = False,
) -> Scores:
    """Losses of every document of `store` under the model as `serving` sets it.

    Parameters
    ----------
    serving
        A context such as ``bank.serve("law")``; None leaves the model as it is.
    heads
        Classification heads; the domain of the store says whose.
    lm
        Score text as a language model even where the task is classification (never used with heads).
    """
    base.model.eval()
    n = store.records
    sums, counts = np.zeros(n), np.zeros(n)
    classes = np.zeros(n, dtype=np.int64) if heads is not None else None
    predicted = np.zeros(n, dtype=np.int64) if heads is not None else None
    if layout == "packed":
        layout = "padded"
    with torch.no_grad(), serving if serving is not None else nullcontext():
        for items in _batches(store, tokens, layout):
            micro = collate(items, base, 1, layout=layout, max_length=max_length)
            records = _record_of(items, store)
            if heads is not None and classes is not None and predicted is not None:
                loss, best = _class_scores(base, heads, store.domain, micro)
                sums[records], counts[records] = loss, 1.0
                classes[records], predicted[records] = _wanted(micro), best
                continue
            hidden, _ = base.states(micro.input_ids, micro.position_ids, micro.mask, flat=micro.flat)
            if micro.task is None or not len(micro.task):
                continue
            rows = hidden.reshape(-1, hidden.shape[-1]).index_select(0, micro.task.index)
            weight, bias = base.head
            by_piece, paid = fused_cross_entropy(
                rows,
                weight,
                micro.task.labels,
                _piece_of(micro, items),
                len(items),
                bias=bias,
                softcap=base.softcap,
            )
            np.add.at(sums, records, by_piece.double().cpu().numpy())
            np.add.at(counts, records, paid.double().cpu().numpy())
    return Scores(sums, counts, classes, predicted)


def _wanted(micro: Micro) -> NDArray[np.int64]:
    assert micro.class_labels is not None  # made by collate for classification
    wanted: NDArray[np.int64] = micro.class_labels.cpu().numpy()
    return wanted


def _piece_of(micro: Micro, items: Sequence[Item]) -> torch.Tensor:
    """The batch item each target belongs to."""
    assert micro.task is not None
    starts = micro.pool_index[(micro.doc_lengths.cumsum(0) - micro.doc_lengths)]
    # pool_index runs document after document, so a target's document is the last one that begins at or before it.
    order = torch.argsort(starts)
    found = torch.searchsorted(starts[order].contiguous(), micro.task.index.contiguous(), right=True) - 1
    return order[found]


def _class_scores(base: Base, heads: Heads, domain: str, micro: Micro) -> tuple[Floats, NDArray[np.int64]]:
    with heads.route([domain], micro.groups):
        logits = base.model(input_ids=micro.input_ids, attention_mask=micro.mask).logits.float()
    logits = logits[:, : len(heads.labels[domain])]
    assert micro.class_labels is not None
    losses = torch.nn.functional.cross_entropy(logits, micro.class_labels, reduction="none")
    best: NDArray[np.int64] = logits.argmax(1).cpu().numpy()
    return losses.double().cpu().numpy(), best


# -- numbers ----------------------------------------------------------------------------------------------------


def _draws(n: int, draws: int, seed: int) -> NDArray[np.float64]:
    """How often each document occurs in each bootstrap draw, (draws, n)."""
    rng = generator(seed, "evaluate", "bootstrap", n)
    return rng.multinomial(n, np.full(n, 1.0 / n), size=draws).astype(np.float64)


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def summary(scores: Scores, *, draws: int = 1000, seed: int = 0) -> dict[str, float]:
    """Loss with a 95 % bootstrap interval over documents, perplexity or accuracy and macro-F1, and sizes."""
    weights = _draws(len(scores.sums), draws, seed)
    ratio = (weights @ scores.sums) / np.maximum(weights @ scores.counts, 1e-12)
    low, high = _interval(ratio)
    out: dict[str, float] = {"loss": scores.mean, "low": low, "high": high}
    if scores.classes is None or scores.predicted is None:
        out["perplexity"] = math.exp(min(scores.mean, 700.0))
        out["tokens"] = int(scores.counts.sum())
    else:
        right = (scores.classes == scores.predicted).astype(np.float64)
        out["accuracy"] = float(right.mean())
        out["accuracy_low"], out["accuracy_high"] = _interval(weights @ right / len(right))
        out["f1"] = macro_f1(scores.classes, scores.predicted)
        out["tokens"] = int(scores.counts.sum())
    out["documents"] = len(scores.sums)
    return out


def macro_f1(classes: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """Mean over classes of 2·TP / (2·TP + FP + FN); a class that neither occurs nor is predicted does not count."""
    values = []
    for label in np.union1d(classes, predicted):
        hit = float(((classes == label) & (predicted == label)).sum())
        wrong = float((classes != predicted)[(classes == label) | (predicted == label)].sum())
        values.append(2 * hit / (2 * hit + wrong))
    return float(np.mean(values)) if values else 0.0


def paired_change(before: Scores, after: Scores, *, draws: int = 1000, seed: int = 0) -> dict[str, float]:
    """After − before of the mean loss, with a paired 95 % bootstrap interval over documents (and of the accuracy)."""
    weights = _draws(len(before.sums), draws, seed)
    counts = np.maximum(weights @ before.counts, 1e-12)
    low, high = _interval((weights @ (after.sums - before.sums)) / counts)
    out = {"mean": after.mean - before.mean, "low": low, "high": high}
    if before.predicted is not None and after.predicted is not None and after.classes is not None:
        gain = (after.predicted == after.classes).astype(np.float64) - (before.predicted == after.classes)
        out["accuracy"] = float(gain.mean())
        out["accuracy_low"], out["accuracy_high"] = _interval(weights @ gain / len(gain))
    return out


def features(
    base: Base,
    store: TokenStore,
    *,
    layout: Layout,
    max_length: int,
    tokens: int,
    limit: int,
    serving: AbstractContextManager[Any] | None = None,
    heads: Heads | None = None,
) -> Floats:
    """Mean last hidden state of the first `limit` documents' first pieces, (documents, hidden)."""
    base.model.eval()
    firsts = np.flatnonzero(np.concatenate([[True], np.diff(store.record) != 0]))[:limit]
    made = np.zeros((len(firsts), base.hidden_size))
    place = {int(piece): row for row, piece in enumerate(firsts)}
    if layout == "packed":
        layout = "padded"
    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(serving if serving is not None else nullcontext())
        for batch in _batches(store, tokens, layout):
            items = [item for item in batch if item.piece in place]
            if not items:
                continue
            micro = collate(items, base, 1, layout=layout, max_length=max_length)
            if base.task == "classification":
                with heads.route([store.domain], micro.groups) if heads is not None else nullcontext():
                    output = base.model(input_ids=micro.input_ids, attention_mask=micro.mask, output_hidden_states=True)
                hidden = output.hidden_states[-1]
            else:
                hidden, _ = base.states(micro.input_ids, micro.position_ids, micro.mask, flat=micro.flat)
            rows = hidden.reshape(-1, hidden.shape[-1]).index_select(0, micro.pool_index).double()
            pooled = rows.new_zeros(len(items), rows.shape[1]).index_add(0, micro.pool_doc, rows)
            pooled = (pooled / micro.doc_lengths[:, None]).cpu()
            for row, item in enumerate(items):
                made[place[item.piece]] = pooled[row].numpy()
    return made


@contextmanager
def served(bank: Any, domain: str | None) -> Iterator[None]:
    """The model as it serves `domain` (None: shared adapters only); the bare base where there is no bank."""
    if bank is None:
        yield
        return
    known = domain if domain in bank.domains else None
    with bank.serve(known):
        yield
