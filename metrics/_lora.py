"""A base model with a fresh LoRA, token batches and losses: what gradient affinity and the validation probe share.

This is a measuring instrument, not the trainer of `stages`: one adapter, a few steps, nothing saved.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .._hub import hub_options
from ..errors import ModelError

__all__ = ["CausalProbe", "ClassProbe", "Probe", "quiet"]

_RANK = 8


def _reason(fault: BaseException) -> str:
    text = str(fault).strip()
    return text.splitlines()[0][:160] if text else type(fault).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers while a model loads: rooms report through the progress protocol."""
    from transformers.utils import logging

    bars: Any = logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


class Probe:
    """A frozen base model and its LoRA; subclasses say what the loss is.

    Parameters
    ----------
    source : str
        Model folder or hub id.
    max_length : int
        Tokens per row; longer documents give several rows.
    device : str
    """

    task: str = ""

    def __init__(self, source: str, *, max_length: int, device: str, classes: int = 0) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import torch

        self._options = hub_options(source)
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        try:
            from transformers import AutoTokenizer

            self.tokenizer = AutoTokenizer.from_pretrained(source, **self._options)
            with quiet():
                base = self._base(source, classes)
        except Exception as fault:  # missing files, no network, another architecture
            raise ModelError(
                f"measure.model={source!r} could not be loaded for {self.task} ({_reason(fault)}); check it."
            ) from None
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.unk_token
        self.pad = int(self.tokenizer.pad_token_id or 0)
        if getattr(base.config, "pad_token_id", None) is None:
            base.config.pad_token_id = self.pad
        limit = getattr(base.config, "max_position_embeddings", None) or max_length
        self.max_length = max(8, min(max_length, int(limit) - 4))
        self.base = base.to(self.device)
        self.model: Any = None

    def _base(self, source: str, classes: int) -> Any:
        raise NotImplementedError

    def loss(self, batch: Sequence[Any]) -> Any:
        """Mean loss of a batch of items, a scalar tensor."""
        raise NotImplementedError

    def fresh(self, seed: int) -> None:
        """A new LoRA (rank 8, every linear layer, B = 0) over the untouched base model."""
        import torch
        from peft import LoraConfig, get_peft_model

        if self.model is not None:
            self.base = self.model.unload()
        self._reset_head()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = LoraConfig(
                r=_RANK, lora_alpha=2 * _RANK, lora_dropout=0.0, target_modules="all-linear", **self._peft()
            )
            self.model = get_peft_model(self.base, config)

    def _peft(self) -> dict[str, Any]:
        return {}

    def _reset_head(self) -> None:
        """Classification heads go back to where they began."""

    def parameters(self) -> list[tuple[str, Any]]:
        """Trainable parameters, sorted by name."""
        return sorted((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def train(self, items: Sequence[Any], *, steps: int, batch: int, lr: float, seed: int) -> None:
        """AdamW with a linear decay; batches drawn without replacement, epoch by epoch."""
        import torch

        optimiser = torch.optim.AdamW([p for _, p in self.parameters()], lr=lr, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: max(0.0, 1 - step / steps))
        self.model.train()
        for _, group in zip(range(steps), _epochs(items, batch, seed), strict=False):
            self.loss(group).backward()
            torch.nn.utils.clip_grad_norm_([p for _, p in self.parameters()], 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad(set_to_none=True)
        self.model.eval()


def _epochs(items: Sequence[Any], batch: int, seed: int) -> Iterator[list[Any]]:
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(items))
        for start in range(0, len(order), batch):
            yield [items[index] for index in order[start : start + batch]]


class CausalProbe(Probe):
    """Next-token loss; an item is a row of token ids."""

    task = "causal language modelling"

    def _base(self, source: str, classes: int) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, use_safetensors=True, **self._options)

    def _peft(self) -> dict[str, Any]:
        return {"task_type": "CAUSAL_LM"}

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """Token rows of the texts: every window of a long document, none shorter than two tokens."""
        out = []
        for text in texts:
            ids = list(self.tokenizer(text, verbose=False)["input_ids"])
            for start in range(0, len(ids), self.max_length):
                row = ids[start : start + self.max_length]
                if len(row) > 1:
                    out.append(row)
        return out

    def _forward(self, batch: Sequence[list[int]]) -> tuple[Any, Any]:
        """Per-row sums of the loss, and counts of predicted tokens."""
        import torch

        longest = max(map(len, batch))
        ids = torch.full((len(batch), longest), self.pad, dtype=torch.long)
        mask = torch.zeros((len(batch), longest), dtype=torch.long)
        for row, item in enumerate(batch):
            ids[row, : len(item)] = torch.tensor(item)
            mask[row, : len(item)] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        labels = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
        losses = torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), reduction="none", ignore_index=-100
        ).view(labels.shape)
        return losses.sum(dim=1), (labels != -100).sum(dim=1)

    def loss(self, batch: Sequence[Any]) -> Any:
        """Mean over the predicted tokens of the batch."""
        total, count = self._forward(batch)
        return total.sum() / count.sum()

    def grade(self, rows: Sequence[list[int]], batch: int) -> float:
        """Mean loss per token of `rows`, nats (lower is better)."""
        import torch

        total = count = 0.0
        ordered = sorted(rows, key=len)
        with torch.inference_mode():
            for start in range(0, len(ordered), batch):
                losses, counts = self._forward(ordered[start : start + batch])
                total += float(losses.sum())
                count += float(counts.sum())
        return total / max(count, 1.0)


class ClassProbe(Probe):
    """Sequence classification; an item is (token ids, class)."""

    task = "classification"

    def _base(self, source: str, classes: int) -> Any:
        import torch
        from transformers import AutoModelForSequenceClassification

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            base = AutoModelForSequenceClassification.from_pretrained(
                source, num_labels=classes, dtype=torch.float32, use_safetensors=True, **self._options
            )
        heads = ("classifier", "score", "classification_head")
        self._head = {n: p.detach().clone() for n, p in base.named_parameters() if n.split(".")[0] in heads}
        self._head_names = sorted({name.split(".")[0] for name in self._head})
        return base

    def _peft(self) -> dict[str, Any]:
        return {"task_type": "SEQ_CLS", "modules_to_save": self._head_names}

    def _reset_head(self) -> None:
        import torch

        with torch.no_grad():
            for name, parameter in self.base.named_parameters():
                if name in self._head:
                    parameter.copy_(self._head[name])

    def rows(self, texts: Sequence[str], labels: Sequence[int]) -> list[tuple[list[int], int]]:
        """(token ids, class) of each text; the probe reads the first `max_length` tokens, as a classifier would."""
        out = []
        for text, label in zip(texts, labels, strict=True):
            found = self.tokenizer(text, truncation=True, max_length=self.max_length, verbose=False)
            out.append((list(found["input_ids"]), int(label)))
        return out

    def _logits(self, batch: Sequence[tuple[list[int], int]]) -> Any:
        import torch

        longest = max(len(ids) for ids, _ in batch)
        tokens = torch.full((len(batch), longest), self.pad, dtype=torch.long)
        mask = torch.zeros((len(batch), longest), dtype=torch.long)
        for row, (ids, _) in enumerate(batch):
            tokens[row, : len(ids)] = torch.tensor(ids)
            mask[row, : len(ids)] = 1
        return self.model(input_ids=tokens.to(self.device), attention_mask=mask.to(self.device)).logits.float()

    def loss(self, batch: Sequence[Any]) -> Any:
        """Mean cross-entropy of the batch."""
        import torch

        labels = torch.tensor([label for _, label in batch], device=self.device)
        return torch.nn.functional.cross_entropy(self._logits(batch), labels)

    def scores(self, rows: Sequence[tuple[list[int], int]], batch: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Logits (n, classes) in the order of `rows`."""
        import torch

        order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
        out: list[Any] = [None] * len(rows)
        with torch.inference_mode():
            for start in range(0, len(order), batch):
                group = order[start : start + batch]
                logits = self._logits([rows[index] for index in group]).cpu().numpy()
                for index, row in zip(group, logits, strict=True):
                    out[index] = row
        return np.asarray(out, np.float64)
