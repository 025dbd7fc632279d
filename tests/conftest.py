"""Fixtures shared by all rooms: local data, toy corpora, and tiny models built in code (nothing is downloaded)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Set before any library can read them: no network, one thread, no tokenizer forks, no cache in the user's home.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

REPOSITORY = Path(__file__).resolve().parents[1]


def _words(text: str) -> list[str]:
    return text.split()


# Words that all domains share, and words of their own. "garden" and "kitchen" overlap by half, "harbour" and
# "engine" likewise, the two pairs hardly at all: a planner has something to find.
_COMMON = _words("the a of and to in is it was on with for as by at from that this one two new old small large")
_OWN = {
    "garden": _words("soil seed leaf root water plant flower herb basil tomato pepper bean onion summer basket"),
    "kitchen": _words("pan oven salt butter flour water taste herb basil tomato pepper bean onion plate basket"),
    "harbour": _words("ship rope tide crane cargo captain sailor pump valve steel bolt oil pressure deck anchor"),
    "engine": _words("piston gear torque spark fuel crank cylinder pump valve steel bolt oil pressure rotor belt"),
}
_GENERAL = _words(
    "people day year time house city story music letter school friend world country paper question answer"
)
DOMAINS = tuple(sorted(_OWN))
DOCUMENTS = 60


def _document(rng: np.random.Generator, own: list[str], sentences: int) -> str:
    lines = []
    for _ in range(sentences):
        length = int(rng.integers(6, 14))
        # Zipf-like weights within each list, so that token distributions look like text's.
        pick = [
            str(rng.choice(words, p=_zipf(len(words))))
            for words in (own if rng.random() < 0.5 else _COMMON for _ in range(length))
        ]
        lines.append(" ".join(pick).capitalize() + ".")
    return " ".join(lines)


def _zipf(size: int) -> np.ndarray:
    weights = 1.0 / np.arange(2, size + 2)
    return weights / weights.sum()


def _texts(name: str, words: list[str], documents: int) -> list[str]:
    rng = np.random.default_rng([len(name), *name.encode()])
    return [_document(rng, words, int(rng.integers(2, 6))) for _ in range(documents)]


def _write_jsonl(path: Path, records: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of test data beside the repository; the test is skipped where it is missing."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the test data beside the repository (../shared/data) is not here")
    return folder


@pytest.fixture(scope="session")
def toy_corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four text domains (60 documents each, no splits) and `general.jsonl`. Do not write into it."""
    folder = tmp_path_factory.mktemp("toy_corpora")
    for name in DOMAINS:
        _write_jsonl(folder / f"{name}.jsonl", [{"text": text} for text in _texts(name, _OWN[name], DOCUMENTS)])
    _write_jsonl(folder / "general.jsonl", [{"text": text} for text in _texts("general", _GENERAL, DOCUMENTS)])
    return folder


@pytest.fixture(scope="session")
def toy_labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three labelled domains (text, label 0/1, split): the label follows from words that all share."""
    folder = tmp_path_factory.mktemp("toy_labelled")
    for name in DOMAINS[:3]:
        rng = np.random.default_rng([7, *name.encode()])
        records: list[dict[str, object]] = []
        for index, text in enumerate(_texts(name, _OWN[name], DOCUMENTS)):
            label = int(rng.integers(2))
            word = rng.choice(["good", "great", "fine"] if label else ["bad", "poor", "awful"])
            split = ("train", "train", "train", "validation", "test")[index % 5]
            records.append({"text": f"{word} {text} {word}", "label": label, "split": split})
        _write_jsonl(folder / f"{name}.jsonl", records)
    return folder


def _byte_level_bpe(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<bos>", "<eos>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", mask_token="<mask>"
    )


def _training_texts() -> list[str]:
    return [text for name in DOMAINS for text in _texts(name, _OWN[name], 20)] + _texts("general", _GENERAL, 20)


@pytest.fixture(scope="session")
def tiny_llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved LlamaForCausalLM (random, hidden 32, 2 layers, 320 tokens) with tokenizer and chat template."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny_llama")
    tokenizer = _byte_level_bpe(_training_texts(), 320)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}{{ eos_token }}"
        "{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    tokenizer.model_max_length = 128
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bert_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved BertForSequenceClassification (random weights, hidden 32, 2 layers, 2 labels) with its tokenizer."""
    import torch
    from tokenizers import processors
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("tiny_bert")
    tokenizer = _byte_level_bpe(_training_texts(), 320)
    # BERT reads its first token as the sentence: bos and eos stand in for [CLS] and [SEP].
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>",
        pair="<bos> $A <eos> $B:1 <eos>:1",
        special_tokens=[("<bos>", tokenizer.bos_token_id), ("<eos>", tokenizer.eos_token_id)],
    )
    tokenizer.model_max_length = 128
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _restore_global_state() -> Iterator[None]:
    """Put back what a test changed of the process: torch's and NumPy's global generators, threads, the environment.

    torch is looked up, never imported: tests of the rooms that do without it stay fast.
    """
    import sys

    environment = dict(os.environ)
    numpy_state = np.random.get_state()  # noqa: NPY002 (the global generator is what must be put back)
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_rng_state"):
        torch.set_num_threads(1)
        state = torch.get_rng_state()
        deterministic = torch.are_deterministic_algorithms_enabled()
        dtype = torch.get_default_dtype()
    else:
        torch = None
    yield
    if torch is not None:
        torch.set_rng_state(state)
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(deterministic)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(True)
    np.random.set_state(numpy_state)  # noqa: NPY002
    if dict(os.environ) != environment:
        os.environ.clear()
        os.environ.update(environment)


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """A hub that is asked and never answers, and whose cache is empty; the list holds what was asked."""
    import huggingface_hub.utils
    from huggingface_hub import constants
    from kinfold import _hub

    asked: list[str] = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            asked.append(url)
            raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub.utils, "get_session", Session)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    _hub.forget()
    yield asked
    _hub.forget()
