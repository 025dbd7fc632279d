"""Tokenizers for counting: a model's own, or a small byte-level BPE trained on the corpora themselves."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .._files import digest
from .._hub import hub_options
from ..errors import ModelError

__all__ = ["fingerprint", "load_tokenizer", "train_tokenizer"]


def load_tokenizer(source: str | os.PathLike[str]) -> Any:
    """The `tokenizers.Tokenizer` of a model folder, a `tokenizer.json`, or a hub id.

    Raises
    ------
    ModelError
        No tokenizer there, or one without a fast (Rust) form.
    """
    from tokenizers import Tokenizer

    path = Path(source)
    file = path / "tokenizer.json" if path.is_dir() else path
    if file.is_file():
        try:
            return Tokenizer.from_file(str(file))
        except Exception as fault:  # the Rust side raises bare Exception
            raise ModelError(f"{file}: not a tokenizer file ({str(fault)[:120]}); name a model folder.") from None
    if path.exists() and not path.is_dir():
        raise ModelError(f"{path}: not a tokenizer; name a model folder, a tokenizer.json or a hub id.")
    options = hub_options(str(source))
    try:
        from transformers import AutoTokenizer

        loaded = AutoTokenizer.from_pretrained(str(source), **options)
    except Exception as fault:  # many kinds: missing files, no network, unknown architecture
        reason = str(fault).strip().splitlines()[0][:160] if str(fault).strip() else type(fault).__name__
        raise ModelError(f"{source}: no tokenizer could be loaded from it ({reason}); check the path or id.") from None
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"{source}: its tokenizer has no fast form; convert it to tokenizer.json first.")
    return backend


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Any:
    """A byte-level BPE of at most `vocabulary` entries; the same texts in the same order give the same tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def fingerprint(tokenizer: Any) -> str:
    """Hash of all that decides which ids a text gets: two tokenizers of equal hash count equally."""
    state = json.loads(tokenizer.to_str())
    for key in ("truncation", "padding", "post_processor", "decoder"):
        state.pop(key, None)
    return digest(state)
