"""Harder corpora for robustness runs: noisy words, wrong labels, unequal domains; test texts stay as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._files import atomic_dir, digest, slug
from ..._seeding import generator
from ...errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from ...corpora import Corpora, Domain, Record

__all__ = ["condition"]

_WORD = re.compile(r"\S+")
_POOL = 20_000
Change = Callable[["Record"], dict[str, Any]]


def condition(
    corpora: Corpora, kind: str, level: float, folder: Path, *, seed: int, documents: int | None = None
) -> Corpora:
    """The corpora with the training records of every planned domain changed.

    Parameters
    ----------
    kind
        "token_noise": each word is replaced with probability `level` by a word of the domain (in what is learned:
        texts, completions, and the contents of chats other than the user's and the system's).
        "label_noise": each label is replaced with probability `level` by another one of the domain, uniformly.
        "imbalance": of domains put in random order, the i-th keeps n · level^(−i/(k−1)) records, n those of the
        smallest domain or `documents`, whichever is less; the records are drawn by content.
    folder
        Where the changed corpora are written; what is there already is used again.
    documents
        The most records of a domain that training takes (`train.documents`): domains that stay above it would be cut
        to the same size again.

    Raises
    ------
    ConfigError
        When labels are to be changed and there are none.
    """
    from ...corpora import Corpora, load_corpora

    planned = corpora.planned
    prints = {domain.name: domain.fingerprint for domain in planned}
    most = documents if kind == "imbalance" else None
    target = folder / f"{kind}-{level:g}-{digest(prints, kind, level, seed, most)[:12]}"
    if not target.is_dir():
        keep = _sizes(planned, level, seed, most) if kind == "imbalance" else {}
        with atomic_dir(target) as temporary:
            for domain in planned:
                _write(temporary / f"{slug(domain.name)}.jsonl", _changed(domain, kind, level, keep, seed))
    entries = {
        domain.name: {"path": (target / f"{slug(domain.name)}.jsonl").absolute(), "weight": domain.weight}
        for domain in planned
    }
    return Corpora((*load_corpora(entries), *corpora.general, *corpora.unlabelled))


def _changed(domain: Domain, kind: str, level: float, keep: dict[str, int], seed: int) -> Iterator[dict[str, Any]]:
    rng = generator(seed, "compare", kind, domain.name)
    if kind == "imbalance":
        for record in domain.sample(keep[domain.name], "train", seed=seed):
            yield _row(record)
    else:
        change = _wrong_words(domain, level, rng) if kind == "token_noise" else _wrong_labels(domain, level, rng)
        for record in domain.records("train"):
            yield change(record)
    for split in ("validation", "test"):
        for record in domain.records(split):
            yield _row(record)


def _row(record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {"split": record.split}
    for name in ("text", "prompt", "completion", "label"):
        if getattr(record, name) is not None:
            row[name] = getattr(record, name)
    if record.messages is not None:
        row["messages"] = [{"role": message.role, "content": message.content} for message in record.messages]
    return row


def _wrong_words(domain: Domain, level: float, rng: np.random.Generator) -> Change:
    pool: list[str] = []
    for text in domain.texts("train"):
        pool += _WORD.findall(text)
        if len(pool) >= _POOL:
            break

    def noisy(text: str) -> str:
        return _WORD.sub(lambda word: pool[int(rng.integers(len(pool)))] if rng.random() < level else word[0], text)

    def change(record: Record) -> dict[str, Any]:
        row = _row(record)
        for name in ("text", "completion"):
            if name in row:
                row[name] = noisy(row[name])
        for message in row.get("messages", ()):
            if message["role"] not in ("user", "system"):
                message["content"] = noisy(message["content"])
        return row

    return change


def _wrong_labels(domain: Domain, level: float, rng: np.random.Generator) -> Change:
    from ...corpora import sort_labels

    labels = sort_labels(record.label for record in domain.records("train") if record.label is not None)
    if len(labels) < 2:
        raise ConfigError(
            f"compare.label_noise: {domain.name} has {len(labels)} label(s), so none can be wrong; leave it out."
        )

    def change(record: Record) -> dict[str, Any]:
        row = _row(record)
        if record.label is not None and rng.random() < level:
            others = [label for label in labels if label != record.label]
            row["label"] = others[int(rng.integers(len(others)))]
        return row

    return change


def _sizes(planned: tuple[Domain, ...], ratio: float, seed: int, most: int | None) -> dict[str, int]:
    least = min(sum(1 for _ in domain.records("train")) for domain in planned)
    least = least if most is None else min(least, most)
    order = generator(seed, "compare", "imbalance").permutation(len(planned))
    last = max(1, len(planned) - 1)
    return {planned[i].name: max(1, round(least * ratio ** (-place / last))) for place, i in enumerate(order)}


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
