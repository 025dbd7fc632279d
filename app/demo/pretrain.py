"""Pretraining of the demo's base model: a tokenizer and a small Llama, from scratch, on the CPU in under two minutes.

Nothing here is special to the demo's text: :func:`train_tokenizer` and :func:`pretrain` take plain strings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..._progress import SILENT, Progress
from ..._seeding import derive_seed, generator
from ...errors import TrainingError
from .settings import BaseSettings

if TYPE_CHECKING:
    import numpy as np
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["packed", "pretrain", "schedule", "train_tokenizer"]

_END = "<|end|>"
_PAD = "<|pad|>"


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `vocabulary` tokens; any text can be encoded, and decodes to itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[_END, _PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=_END, bos_token=_END, pad_token=_PAD, clean_up_tokenization_spaces=False
    )


def packed(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], context: int) -> np.ndarray:
    """All texts, each followed by the end token, cut into rows: int64 of shape (rows, context + 1).

    A row's last token is the next row's first, so that every token but the very first is predicted once.
    """
    import numpy as np

    end = tokenizer.eos_token_id
    encodings = tokenizer.backend_tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    stream = np.fromiter((token for row in encodings for token in (*row.ids, end)), dtype=np.int64)
    rows = (len(stream) - 1) // context
    if rows < 1:
        return np.empty((0, context + 1), dtype=np.int64)
    return np.lib.stride_tricks.sliding_window_view(stream, context + 1)[: rows * context : context]


def schedule(step: int, steps: int, warmup: float) -> float:
    """The share of the peak rate at step 0 .. steps - 1: a linear rise, then half a cosine down to a twentieth.

    >>> [round(schedule(s, 10, 0.2), 2) for s in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.52, 0.09]
    """
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    turn = (step - rise) / max(1, steps - rise)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * turn))


def new_model(settings: BaseSettings, end: int, pad: int, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights drawn from `seed`; torch's global generator is left as it was."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=4 * settings.context,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=pad,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "demo", "base"))
        return LlamaForCausalLM(config)


def mean_loss(model: LlamaForCausalLM, rows: np.ndarray, batch: int = 16) -> float:
    """Mean negative log-likelihood of the rows' tokens, in nats a token."""
    import torch

    model.eval()  # type: ignore[no-untyped-call]
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            tokens = torch.from_numpy(rows[start : start + batch].copy())
            total += float(_loss(model, tokens, reduction="sum"))
    return float(total / max(1, len(rows) * (rows.shape[1] - 1)))


def _loss(model: Any, tokens: Any, reduction: str = "mean") -> Any:
    import torch

    # The bare model and one matrix product: transformers' own loss copies the logits three times.
    hidden = model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
    logits = model.lm_head(hidden).flatten(0, 1)
    return torch.nn.functional.cross_entropy(logits.float(), tokens[:, 1:].flatten(), reduction=reduction)


def pretrain(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    held_out: Sequence[str],
    *,
    settings: BaseSettings,
    seed: int = 0,
    progress: Progress = SILENT,
) -> tuple[LlamaForCausalLM, dict[str, Any]]:
    """Train a small Llama on `texts` for a fixed number of steps; the same seed gives the same weights on one machine.

    Returns
    -------
    model : LlamaForCausalLM
        In evaluation mode.
    record : dict
        Parameters, tokens seen, and loss (nats a token), perplexity and bits a byte on `held_out`.

    Raises
    ------
    TrainingError
        If the loss stops being a number.
    """
    import torch

    from ._muon import Muon

    rows = packed(tokenizer, texts, settings.context)
    model = new_model(settings, tokenizer.eos_token_id, tokenizer.pad_token_id, seed)
    model.train()
    hidden = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if all(p is not q for q in hidden)]
    muon = Muon(hidden, weight_decay=settings.weight_decay)
    adam = torch.optim.AdamW(others, lr=settings.embedding_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    order = _row_order(len(rows), settings.rows * settings.steps, seed)
    smooth = None
    with progress.task("Pretraining the base model", total=settings.steps, unit="steps") as task:
        for step in range(settings.steps):
            share = schedule(step, settings.steps, settings.warmup)
            chosen = order[step * settings.rows : (step + 1) * settings.rows]
            loss = _loss(model, torch.from_numpy(rows[chosen]))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
            adam.param_groups[0]["lr"] = settings.embedding_lr * share
            adam.step()
            muon.step(settings.lr * share)
            adam.zero_grad(set_to_none=True)
            value = loss.item()
            if not math.isfinite(value):
                raise TrainingError(f"base model, step {step + 1}: the loss is {value}; lower base.lr={settings.lr}.")
            smooth = value if smooth is None else 0.95 * smooth + 0.05 * value
            task.update(completed=step + 1, note=f"loss {smooth:.2f}")
    test = packed(tokenizer, held_out, settings.context)
    loss_nats = mean_loss(model, test)
    size = sum(len(text.encode("utf-8")) + 1 for text in held_out)
    tokens = len(test) * settings.context
    record = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": settings.steps * settings.rows * settings.context,
        "epochs": settings.steps * settings.rows / max(1, len(rows)),
        "loss": loss_nats,
        "perplexity": math.exp(min(loss_nats, 50.0)),
        "bits_per_byte": loss_nats / math.log(2) * tokens / size,
        "held_out_tokens": tokens,
    }
    model.eval()  # type: ignore[no-untyped-call]
    return model, record


def _row_order(rows: int, wanted: int, seed: int) -> np.ndarray:
    """Row numbers for the whole run: every epoch is another permutation of all rows."""
    import numpy as np

    if rows < 1:
        raise TrainingError("base model: the general text is shorter than one row of base.context; harvest more.")
    epochs = [generator(seed, "demo", "order", epoch).permutation(rows) for epoch in range(-(-wanted // rows))]
    return np.concatenate(epochs)[:wanted]
