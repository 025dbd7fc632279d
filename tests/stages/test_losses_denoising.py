"""Corruption: what changes, what is asked for, and that nothing else does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.errors import ConfigError
from kinfold.stages.losses import corrupt

VOCABULARY, MASK, PAD = 50, 1, 0
SPECIAL = (0, 2, 3)


def batch(rows: int, length: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, VOCABULARY, (rows, length), generator=generator)
    tokens[:, 0] = 2
    mask = torch.arange(length) < torch.randint(2, length + 1, (rows, 1), generator=generator)
    return tokens.masked_fill(~mask, PAD), mask


@given(
    rows=st.integers(1, 5),
    length=st.integers(4, 40),
    seed=st.integers(0, 99),
    kind=st.sampled_from(["token", "span"]),
    causal=st.booleans(),
    rate=st.sampled_from([0.1, 0.15, 0.5]),
)
@settings(deadline=None, max_examples=60)
def test_only_what_is_asked_for_changes(
    rows: int, length: int, seed: int, kind: str, causal: bool, rate: float
) -> None:
    tokens, mask = batch(rows, length, seed)
    before = tokens.clone()
    out = corrupt(
        tokens, mask, kind, rate, seed, vocab_size=VOCABULARY, mask_id=MASK, special_ids=SPECIAL, causal=causal
    )  # type: ignore[arg-type]
    assert tokens.equal(before)
    assert out.inputs.shape == out.labels.shape == out.mask.shape
    if kind == "span" and causal:
        return
    assert out.mask.equal(mask)
    asked = out.labels != -100
    assert out.labels[asked].equal(tokens[asked])
    changed = out.inputs != tokens
    assert not (changed & ~mask).any()
    assert not changed[:, 0].any(), "a special token was corrupted"
    assert not torch.isin(out.inputs[changed], torch.tensor(SPECIAL)).any()
    if causal:
        assert asked.equal(mask)
    else:
        assert not (changed & ~asked).any()
        assert asked.any(1).equal(mask[:, 1:].any(1))


@given(length=st.integers(4, 40), seed=st.integers(0, 99), rate=st.sampled_from([0.15, 0.4]))
@settings(deadline=None, max_examples=60)
def test_infilling_can_be_undone(length: int, seed: int, rate: float) -> None:
    """Putting each run back in the place of its mark gives the text, and exactly the runs are asked for."""
    tokens, mask = batch(2, length, seed)
    out = corrupt(
        tokens, mask, "span", rate, seed, vocab_size=VOCABULARY, mask_id=MASK, special_ids=SPECIAL, causal=True
    )
    for row in range(2):
        inputs = out.inputs[row][out.mask[row]].tolist()
        labels = out.labels[row][out.mask[row]].tolist()
        marks = inputs.count(MASK) // 2
        assert inputs.count(MASK) == 2 * marks
        assert marks
        split = [place for place, token in enumerate(inputs) if token == MASK][marks]
        head, tail = inputs[:split], inputs[split:]
        runs: list[list[int]] = []
        for token in tail:
            if token == MASK:
                runs.append([])
            else:
                runs[-1].append(token)
        restored = []
        for token in head:
            restored += runs.pop(0) if token == MASK else [token]
        assert restored == tokens[row][mask[row]].tolist()
        assert labels == [-100] * split + [-100 if token == MASK else token for token in tail]


def test_infilling_fits_the_longest_row_allowed() -> None:
    tokens, mask = batch(6, 40, 1)
    out = corrupt(tokens, mask, "span", 0.4, 0, vocab_size=VOCABULARY, mask_id=MASK, causal=True, max_length=30)
    assert out.inputs.shape[1] <= 30
    assert (out.labels != -100).any(1).any()


def test_rates_and_berts_rule() -> None:
    tokens = torch.randint(4, VOCABULARY, (50, 400), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    out = corrupt(tokens, mask, "token", 0.2, 7, vocab_size=VOCABULARY, mask_id=MASK, special_ids=SPECIAL)
    asked = out.labels != -100
    assert asked.float().mean().item() == pytest.approx(0.2, abs=0.01)
    masked = (out.inputs == MASK) & asked
    kept = (out.inputs == tokens) & asked
    assert (masked.sum() / asked.sum()).item() == pytest.approx(0.8, abs=0.02)
    # 10 % stay, and a random token is the true one once in 46.
    assert (kept.sum() / asked.sum()).item() == pytest.approx(0.1 + 0.1 / 46, abs=0.02)
    spans = corrupt(tokens, mask, "span", 0.2, 7, vocab_size=VOCABULARY, mask_id=MASK, mean_span=3)
    chosen = spans.labels != -100
    assert chosen.float().mean().item() == pytest.approx(0.2, abs=0.001)
    starts = chosen[:, 1:] & ~chosen[:, :-1]
    # Geometric runs of mean 3, cut at ten and sometimes touching.
    assert 2.2 < (chosen.sum() / (starts.sum() + chosen[:, 0].sum())).item() < 4


def test_without_a_mask_token_replacements_are_random() -> None:
    tokens, mask = batch(20, 40, 3)
    out = corrupt(tokens, mask, "token", 0.5, 0, vocab_size=VOCABULARY, special_ids=SPECIAL)
    changed = out.inputs != tokens
    assert changed.any()
    assert len(out.inputs[changed].unique()) > 10


def test_the_seed_decides() -> None:
    tokens, mask = batch(4, 30, 0)
    one, two, three = (
        corrupt(tokens, mask, "token", 0.3, seed, vocab_size=VOCABULARY, mask_id=MASK) for seed in (1, 1, 2)
    )
    assert one.inputs.equal(two.inputs)
    assert not one.inputs.equal(three.inputs)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rate": 0.0}, "rate"),
        ({"rate": 1.0}, "rate"),
        ({"kind": "word"}, "kind"),
        ({"kind": "span", "mask_id": None}, "mask token"),
        ({"mean_span": 0.5}, "mean_span"),
        ({"mask": torch.ones(1, 2)}, "both be"),
        ({"special_ids": range(VOCABULARY)}, "special"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_input_is_named(change: dict[str, object], match: str) -> None:
    tokens, mask = batch(2, 8, 0)
    arguments: dict[str, object] = {"tokens": tokens, "mask": mask, "vocab_size": VOCABULARY, "mask_id": MASK, **change}
    with pytest.raises(ConfigError, match=match):
        corrupt(**arguments)  # type: ignore[arg-type]
