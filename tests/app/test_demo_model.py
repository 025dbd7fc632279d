"""The demo's base model: tokenizer, optimiser, pretraining and its cache."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.app.demo import BaseSettings, base_model, cache_folder
from kinfold.app.demo._muon import Muon, orthogonalised
from kinfold.app.demo.pretrain import mean_loss, packed, pretrain, schedule, train_tokenizer
from kinfold.errors import ConfigError, InputError, TrainingError

TINY = BaseSettings(vocabulary=400, hidden=32, intermediate=64, layers=2, heads=2, context=32, rows=4, steps=40)


def _texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    # Each word is followed by the next one or the one after: there is something to learn beyond frequencies.
    texts = []
    for _ in range(count):
        at, row = int(rng.integers(10)), []
        for _ in range(30):
            row.append(words[at])
            at = (at + int(rng.integers(1, 3))) % 10
        texts.append(" ".join(row))
    return texts


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return _texts(150)


@settings(deadline=None, max_examples=60)
@given(st.text(max_size=80))
def test_any_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = _TOKENIZER.setdefault("it", train_tokenizer(_texts(30), 400))
    text = text.replace("<|end|>", "").replace("<|pad|>", "")
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


_TOKENIZER: dict[str, object] = {}


def test_rows_tile_the_stream(texts: list[str]) -> None:
    tokenizer = train_tokenizer(texts, 400)
    rows = packed(tokenizer, texts, 16)
    stream = [token for text in texts for token in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]
    assert rows.shape == ((len(stream) - 1) // 16, 17)
    for number in (0, 1, len(rows) - 1):
        assert rows[number].tolist() == stream[16 * number : 16 * number + 17]


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 24, 10), (2, 10, 24)])
def test_orthogonalised_keeps_the_singular_vectors_and_evens_the_values(shape: tuple[int, int, int]) -> None:
    stack = torch.from_numpy(np.random.default_rng(1).normal(size=shape)).float() * 1e-3
    done = orthogonalised(stack)
    for before, after in zip(stack.double(), done.double(), strict=True):
        u, _, vt = torch.linalg.svd(before, full_matrices=False)
        core = u.T @ after @ vt.T
        assert torch.allclose(core, torch.diag(torch.diagonal(core)), atol=1e-3)
        assert float(torch.diagonal(core).min()) > 0.3
        assert float(torch.diagonal(core).max()) < 1.3
    assert torch.equal(orthogonalised(torch.zeros(shape)), torch.zeros(shape))


def test_muon_agrees_with_pytorchs_own() -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch before 2.9 has no Muon to compare with")
    rng = np.random.default_rng(2)

    def matrices() -> list[torch.nn.Parameter]:
        fresh = np.random.default_rng(3)
        return [torch.nn.Parameter(torch.from_numpy(fresh.normal(size=s)).float()) for s in [(6, 6), (6, 6), (12, 5)]]

    ours, theirs = matrices(), matrices()
    start = [p.detach().clone() for p in ours]
    mine = Muon(ours, momentum=0.9, weight_decay=0.1)
    peer = torch.optim.Muon(theirs, lr=0.05, momentum=0.9, weight_decay=0.1, adjust_lr_fn="original")
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.from_numpy(rng.normal(size=tuple(a.shape))).float()
            b.grad = a.grad.clone()
        mine.step(0.05)
        peer.step()
    for a, b, first in zip(ours, theirs, start, strict=True):
        moved = float((a - first).detach().norm())
        assert moved > 0.1
        assert float((a - b).detach().norm()) / moved < 0.05  # theirs works in bf16


def test_schedule_rises_then_falls_to_a_twentieth() -> None:
    shares = [schedule(step, 100, 0.1) for step in range(100)]
    assert shares[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert all(a >= b for a, b in itertools.pairwise(shares[9:]))
    assert shares[-1] == pytest.approx(0.05, abs=0.01)


def test_pretraining_learns_more_than_word_frequencies(texts: list[str]) -> None:
    held_out = _texts(30, seed=9)
    tokenizer = train_tokenizer(texts, TINY.vocabulary)
    _, record = pretrain(tokenizer, texts, held_out, settings=replace(TINY, steps=120))
    tokens = packed(tokenizer, held_out, TINY.context)[:, 1:].ravel()
    _, counts = np.unique(tokens, return_counts=True)
    entropy = float(-(counts / counts.sum() * np.log(counts / counts.sum())).sum())
    assert record["loss"] < 0.75 * entropy
    assert record["perplexity"] == pytest.approx(math.exp(record["loss"]))
    size = sum(len(text.encode()) + 1 for text in held_out)
    assert record["bits_per_byte"] == pytest.approx(record["loss"] / math.log(2) * tokens.size / size)


def test_the_same_seed_gives_the_same_bits_and_leaves_torchs_generator_alone(texts: list[str]) -> None:
    tokenizer = train_tokenizer(texts, TINY.vocabulary)
    before = torch.random.get_rng_state()
    first, one = pretrain(tokenizer, texts, texts[:20], settings=TINY, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    second, two = pretrain(tokenizer, texts, texts[:20], settings=TINY, seed=3)
    other, three = pretrain(tokenizer, texts, texts[:20], settings=TINY, seed=4)
    assert one == two
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert three["loss"] != one["loss"]
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_mean_loss_is_transformers_own(texts: list[str]) -> None:
    tokenizer = train_tokenizer(texts, TINY.vocabulary)
    model, record = pretrain(tokenizer, texts, texts[:20], settings=TINY)
    rows = torch.from_numpy(packed(tokenizer, texts[:20], TINY.context).copy())
    with torch.inference_mode():
        expected = float(model(input_ids=rows, labels=rows).loss)
    assert mean_loss(model, rows.numpy(), batch=7) == pytest.approx(expected, rel=1e-5)
    assert record["loss"] == pytest.approx(expected, rel=1e-5)


def test_a_diverging_loss_stops_with_a_sentence(texts: list[str]) -> None:
    tokenizer = train_tokenizer(texts, TINY.vocabulary)
    with pytest.raises(TrainingError, match="the loss is"):
        pretrain(tokenizer, texts, texts, settings=replace(TINY, embedding_lr=1e30))


def test_text_shorter_than_a_row_is_refused() -> None:
    tokenizer = train_tokenizer(["word"], 300)
    with pytest.raises(TrainingError, match="shorter than one row"):
        pretrain(tokenizer, ["word"], ["word"], settings=replace(TINY, vocabulary=300))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"steps": 0}, "base.steps"), ({"heads": 3}, "base.heads"), ({"lr": 0.0}, "lr"), ({"vocabulary": 100}, "vocab")],
)
def test_settings_cannot_exist_wrong(change: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        replace(TINY, **change)


def test_cached_by_content_settings_and_seed(texts: list[str], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    first = base_model(tmp_path, texts, texts[:9], settings=TINY)
    weights = first / "model.safetensors"
    stamp = weights.stat().st_mtime_ns
    assert base_model(tmp_path, texts, texts[:9], settings=TINY) == first
    assert weights.stat().st_mtime_ns == stamp, "the cached model was trained again"
    others = {
        base_model(tmp_path, texts[:-1], texts[:9], settings=TINY),
        base_model(tmp_path, texts, texts[:9], settings=replace(TINY, steps=39)),
        base_model(tmp_path, texts, texts[:9], settings=TINY, seed=1),
    }
    assert len(others | {first}) == 4
    model = AutoModelForCausalLM.from_pretrained(first)
    tokenizer = AutoTokenizer.from_pretrained(first)
    rows = torch.from_numpy(packed(train_tokenizer(texts, TINY.vocabulary), texts[:9], TINY.context).copy())
    assert tokenizer("three four")["input_ids"] == train_tokenizer(texts, TINY.vocabulary)("three four")["input_ids"]
    import json

    recorded = json.loads((first / "base.json").read_text())
    assert mean_loss(model, rows.numpy()) == pytest.approx(recorded["loss"], rel=1e-5)


def test_a_damaged_model_is_made_again(texts: list[str], tmp_path: Path) -> None:
    folder = base_model(tmp_path, texts, texts[:9], settings=TINY)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8] + b"\0" * 8)
    assert base_model(tmp_path, texts, texts[:9], settings=TINY) == folder
    assert weights.read_bytes() == whole


def test_two_processes_train_it_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from kinfold.app.demo import base_model, BaseSettings;"
        "from kinfold._progress import SilentProgress;"
        "P = type('P', (SilentProgress,), {'say': lambda self, message: print(message)});"
        "s = BaseSettings(vocabulary=400, hidden=32, intermediate=64, layers=2, heads=2, context=32, rows=4, steps=60);"
        "texts = ['one two three four five six seven eight nine ten ' * 12] * 40;"
        "print(base_model(Path(sys.argv[1]), texts, texts[:3], settings=s, progress=P()))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=240)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert said[0].splitlines()[-1] == said[1].splitlines()[-1]
    assert sum("k tokens seen" in text for text in said) == 1, said
    assert len(list((tmp_path / "cache").glob("base-*"))) == 1


def test_a_cache_that_cannot_be_written_is_one_sentence(texts: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="KINFOLD_CACHE"):
        base_model(tmp_path / "file", texts, texts[:9], settings=TINY)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KINFOLD_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / "home" / ".cache" / "kinfold"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "kinfold"
    monkeypatch.setenv("KINFOLD_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert cache_folder(tmp_path / "given") == tmp_path / "given"
