"""Corrupted inputs for denoising, L_ssl = −E[log P(x | x̃)] (METHOD section 2), on any text, labelled or not.

Encoders (``causal=False``): "token" masks, replaces or keeps some tokens and has them predicted in place (BERT); "span"
masks runs of tokens and has them predicted in place (SpanBERT).

Decoders (``causal=True``): "token" corrupts in the same way, and every true token is predicted from the corrupted ones
before it; "span" cuts runs out, each leaving a mark; after the text come mark and run in turn, and the runs are
predicted (infilling).

Everything is drawn from the seed given, on the CPU, so a resumed run draws the same.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..._seeding import generator
from ...errors import ConfigError
from .head import IGNORE

__all__ = ["Corrupted", "corrupt"]


@dataclass(frozen=True)
class Corrupted:
    """Corrupted rows.

    Attributes
    ----------
    inputs
        Token ids (R, T'); T' = T but for causal span infilling, which may be longer.
    labels
        What to predict at each place (R, T'), −100 where nothing: in place, not shifted. A causal model's state at
        place t is scored against ``labels[:, t + 1]``.
    mask
        Places that hold a token (R, T'), bool.
    """

    inputs: Tensor
    labels: Tensor
    mask: Tensor


def corrupt(
    tokens: Tensor,
    mask: Tensor,
    kind: Literal["token", "span"] = "token",
    rate: float = 0.15,
    seed: int = 0,
    *,
    vocab_size: int,
    mask_id: int | None = None,
    special_ids: Sequence[int] = (),
    causal: bool = False,
    mean_span: float = 3.0,
    pad_id: int = 0,
    max_length: int | None = None,
) -> Corrupted:
    """Corrupt rows of tokens.

    Parameters
    ----------
    tokens
        Token ids (R, T).
    mask
        (R, T), true where a token is real.
    kind
        "token" or "span"; see the table above.
    rate
        Share of the eligible tokens to corrupt, above 0 and below 1; at least one a row that has any.
    seed
        Seed of the draw; give each step its own.
    vocab_size
        Number of token ids, for random replacements.
    mask_id
        The mask token. Without one, "token" replaces at random (10 % of the chosen are kept); "span" needs one (a
        decoder may give its unknown or end token).
    special_ids
        Ids neither corrupted nor drawn as replacements.
    causal
        Whether the model predicts the next token.
    mean_span
        Mean length of a run; lengths are geometric (SpanBERT, Joshi et al. 2020), at most ten.
    pad_id
        Filling of causal span rows.
    max_length
        Longest row that causal span infilling may make; texts are cut at the end to fit.

    Raises
    ------
    ConfigError
        When a value is out of range, or a mask token is missing.
    """
    if tokens.ndim != 2 or mask.shape != tokens.shape:
        raise ConfigError(f"tokens {tuple(tokens.shape)} and mask {tuple(mask.shape)} must both be (rows, length).")
    if not 0 < rate < 1:
        raise ConfigError(f"ssl rate={rate!r} must lie between 0 and 1; 0.15 is usual.")
    if kind not in ("token", "span"):
        raise ConfigError(f"ssl kind={kind!r} must be 'token' or 'span'.")
    if not mean_span >= 1:
        raise ConfigError(f"ssl mean_span={mean_span!r} must be at least 1 token; 3 is usual.")
    if kind == "span" and mask_id is None:
        raise ConfigError(
            "ssl kind='span' needs a mask token; give mask_id (the unknown or end token will do for a decoder)."
        )
    specials = tuple(int(token) for token in (*special_ids, *(() if mask_id is None else (mask_id,))))
    plain = _plain_ids(vocab_size, specials)
    if not plain.size:
        raise ConfigError(
            f"ssl: all {vocab_size} token ids are special, so none can replace another; check special_ids."
        )
    ids = tokens.detach().cpu().numpy().astype(np.int64)
    real = mask.detach().cpu().numpy().astype(bool)
    eligible = real & ~np.isin(ids, np.asarray(special_ids, dtype=np.int64))
    rng = generator(seed, "corrupt", kind)
    chosen = _choose_tokens(eligible, rate, rng) if kind == "token" else _choose_spans(eligible, rate, mean_span, rng)
    if kind == "span" and causal and mask_id is not None:
        inputs, labels, kept = _infill(ids, real, chosen, mask_id, pad_id, max_length)
    else:
        inputs = _replace(ids, chosen, kind, mask_id, plain, rng)
        labels = np.where(real if causal else chosen, ids, IGNORE)
        kept = real
    device = tokens.device
    return Corrupted(
        torch.from_numpy(inputs).to(device, tokens.dtype),
        torch.from_numpy(labels).to(device),
        torch.from_numpy(kept).to(device),
    )


@functools.lru_cache(maxsize=4)
def _plain_ids(vocab_size: int, specials: tuple[int, ...]) -> np.ndarray:
    return np.setdiff1d(np.arange(vocab_size), np.asarray(specials, dtype=np.int64))


def _choose_tokens(eligible: np.ndarray, rate: float, rng: np.random.Generator) -> np.ndarray:
    chosen: np.ndarray = eligible & (rng.random(eligible.shape) < rate)
    scores = np.where(eligible, rng.random(eligible.shape), -1.0)
    for row in np.flatnonzero(eligible.any(1) & ~chosen.any(1)):
        chosen[row, scores[row].argmax()] = True
    return chosen


def _choose_spans(eligible: np.ndarray, rate: float, mean_span: float, rng: np.random.Generator) -> np.ndarray:
    """Runs of eligible tokens until `rate` of them is covered; the last run is cut to fit."""
    chosen = np.zeros_like(eligible)
    for row in range(eligible.shape[0]):
        places = np.flatnonzero(eligible[row])
        goal = max(1, round(rate * places.size)) if places.size else 0
        covered = 0
        while covered < goal:
            length = min(int(rng.geometric(1 / mean_span)), 10, goal - covered)
            start = int(places[rng.integers(places.size)])
            for place in range(start, min(start + length, eligible.shape[1])):
                if not eligible[row, place]:
                    break
                covered += not chosen[row, place]
                chosen[row, place] = True
    return chosen


def _replace(
    ids: np.ndarray, chosen: np.ndarray, kind: str, mask_id: int | None, plain: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """BERT's rule for tokens: 80 % masked, 10 % random, 10 % kept; spans are masked whole."""
    inputs = ids.copy()
    if kind == "span" and mask_id is not None:
        inputs[chosen] = mask_id
        return inputs
    lot = rng.random(ids.shape)
    random_ids = plain[rng.integers(plain.size, size=ids.shape)]
    if mask_id is None:
        swap = chosen & (lot < 0.9)
    else:
        inputs[chosen & (lot < 0.8)] = mask_id
        swap = chosen & (lot >= 0.8) & (lot < 0.9)
    inputs[swap] = random_ids[swap]
    return inputs


def _infill(
    ids: np.ndarray, real: np.ndarray, chosen: np.ndarray, mark: int, pad_id: int, max_length: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Text with each run cut out and marked, then mark and run in turn: ``a [M] d [M] b c`` for ``a (b c) d``."""
    rows: list[tuple[list[int], list[int]]] = []
    for text, is_real, cut in zip(ids, real, chosen, strict=True):
        places = np.flatnonzero(is_real)
        row = _infill_row(text[places], cut[places], mark)
        while max_length is not None and len(row[0]) > max_length and places.size > 1:
            places = places[: max(1, places.size - (len(row[0]) - max_length + 1) // 2)]
            row = _infill_row(text[places], cut[places], mark)
        rows.append(row)
    width = max((len(inputs) for inputs, _ in rows), default=0)
    inputs = np.full((len(rows), width), pad_id, dtype=np.int64)
    labels = np.full((len(rows), width), IGNORE, dtype=np.int64)
    kept = np.zeros((len(rows), width), dtype=bool)
    for index, (row_inputs, row_labels) in enumerate(rows):
        inputs[index, : len(row_inputs)] = row_inputs
        labels[index, : len(row_labels)] = row_labels
        kept[index, : len(row_inputs)] = True
    return inputs, labels, kept


def _infill_row(text: np.ndarray, cut: np.ndarray, mark: int) -> tuple[list[int], list[int]]:
    head: list[int] = []
    tail: list[int] = []
    wanted: list[int] = []
    for place, token in enumerate(text.tolist()):
        if not cut[place]:
            head.append(token)
            continue
        if place == 0 or not cut[place - 1]:
            head.append(mark)
            tail.append(mark)
            wanted.append(IGNORE)
        tail.append(token)
        wanted.append(token)
    return head + tail, [IGNORE] * len(head) + wanted
