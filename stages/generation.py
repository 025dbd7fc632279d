"""Answers judged as text: exact match, token F1 and ROUGE-L, for records that have a prompt and a reference answer."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ..corpora import Domain
    from .data import Encoder
    from .model import Base

__all__ = ["answers", "exact_match", "rouge_l", "token_f1"]

_BATCH = 8


def _words(text: str) -> list[str]:
    """Words as SQuAD's scorer sees them: lower case, no punctuation, no articles."""
    plain = "".join(" " if unicodedata.category(c).startswith("P") else c for c in text.lower())
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def exact_match(answer: str, reference: str) -> float:
    """1 where the words agree in order, else 0 (Rajpurkar et al. 2016).

    >>> exact_match("The Pump.", "pump"), exact_match("pump oil", "oil pump")
    (1.0, 0.0)
    """
    return float(_words(answer) == _words(reference))


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the bag of words (Rajpurkar et al. 2016); 0..1.

    >>> round(token_f1("old pump", "old oil pump"), 3)
    0.8
    """
    got, wanted = _words(answer), _words(reference)
    if not got or not wanted:
        return float(got == wanted)
    common = sum((Counter(got) & Counter(wanted)).values())
    return 2 * common / (len(got) + len(wanted))


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words (Lin 2004, ROUGE-L with β = 1); 0..1.

    Words are runs of letters and digits, lower case, articles kept, as the `rouge-score` package has them. Cost
    O(n·m) in the numbers of words.

    >>> rouge_l("police killed the gunman", "police kill the gunman")
    0.75
    """
    got, wanted = (re.findall(r"[a-z0-9]+", text.lower()) for text in (answer, reference))
    if not got or not wanted:
        return float(got == wanted)
    row = [0] * (len(wanted) + 1)
    for word in got:
        before = 0
        for j, other in enumerate(wanted, 1):
            above = row[j]
            row[j] = before + 1 if word == other else max(above, row[j - 1])
            before = above
    return 2 * row[-1] / (len(got) + len(wanted))


METRICS = {"exact_match": exact_match, "token_f1": token_f1, "rouge_l": rouge_l}


def answers(
    base: Base, encoder: Encoder, domain: Domain, split: str, *, limit: int, new_tokens: int
) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Greedy answers to `limit` prompts under the adapters in force, scored; empty where there is no prompt.

    Returns
    -------
    dict
        Metric → value per answered record.
    """
    import torch

    pairs: list[tuple[str, str]] = []
    for record in domain.sample(limit, split):
        if record.kind not in ("completion", "chat"):
            continue
        reference = record.completion
        if record.messages is not None:
            last = record.messages[-1]
            reference = last.content if last.role == "assistant" else None
        if reference:
            pairs.append((encoder.prompt_text(record), reference))
    scores: dict[str, list[float]] = {name: [] for name in METRICS}
    room = encoder.max_length if base.limit is None else max(base.limit - new_tokens, 1)
    rendered = encoder.template is not None or bool(base.tokenizer.chat_template)
    for start in range(0, len(pairs), _BATCH):
        part = pairs[start : start + _BATCH]
        prompts = [
            base.tokenizer(prompt, add_special_tokens=not rendered, verbose=False)["input_ids"][-room:]
            for prompt, _ in part
        ]
        width = max(map(len, prompts))
        ids = torch.full((len(part), width), base.pad)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(prompts):
            # Answers continue at the right end, so padding goes to the left.
            ids[row, width - len(tokens) :] = torch.tensor(tokens)
            mask[row, width - len(tokens) :] = 1
        with torch.no_grad():
            made = base.model.generate(  # type: ignore[operator]
                input_ids=ids.to(base.device),
                attention_mask=mask.to(base.device),
                max_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=base.pad,
            )
        texts: Sequence[str] = base.tokenizer.batch_decode(made[:, width:], skip_special_tokens=True)
        for text, (_, reference) in zip(texts, part, strict=True):
            for name, metric in METRICS.items():
                scores[name].append(metric(text, reference))
    return {name: np.array(values) for name, values in scores.items() if values}
