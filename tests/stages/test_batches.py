"""Batches: every document where it belongs, no document seen by another, nothing changed by how a step is cut."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from kinfold.corpora import load_corpora
from kinfold.errors import ConfigError, CorpusError, ModelError
from kinfold.stages import LoraSpec, TrainSettings
from kinfold.stages.attention import flat_layout
from kinfold.stages.batches import GENERAL, SSL, TASK, Item, Schedule, sampling_shares
from kinfold.stages.collate import collate
from kinfold.stages.data import Encoder, TokenStore
from kinfold.stages.loop import learning_rate
from kinfold.stages.ranks import Ranks
from kinfold.stages.training import Session, Stores, prepared_stage

BASE = TrainSettings(lora=LoraSpec(rank=4), batch_tokens=400, max_length=64, ssl_weight=0, align_weight=0, threads=1)


def store(name: str, lengths: list[int], seed: int = 0) -> TokenStore:
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    pays = np.ones(total, dtype=bool)
    pays[offsets[:-1]] = False
    tokens = rng.integers(10, 300, total).astype(np.int32)
    return TokenStore(name, tokens, pays, offsets, np.arange(len(lengths)))


LENGTHS = st.lists(st.integers(2, 60), min_size=1, max_size=30)


@given(LENGTHS, LENGTHS, st.integers(0, 5), st.booleans(), st.integers(1, 3))
@hypothesis_settings(max_examples=40, deadline=None)
def test_one_epoch_shows_every_document_once(
    first: list[int], second: list[int], seed: int, window: bool, micro: int
) -> None:
    stores = {"a": store("a", first), "b": store("b", second)}
    schedule = Schedule.make(0, stores, replace(BASE, accumulation=micro), seed=seed, window=window)
    seen: dict[str, Counter[int]] = {"a": Counter(), "b": Counter()}
    for number in range(schedule.steps):
        bins = schedule.step(number)
        assert len(bins) == micro
        for items in bins:
            assert [(i.domain, i.kind) for i in items] == sorted((i.domain, i.kind) for i in items)
            for item in items:
                assert item.kind == TASK
                seen[item.store.domain][item.piece] += 1
        assert schedule.tokens(number) == sum(item.length for items in bins for item in items)
    for name, part in stores.items():
        assert [seen[name][piece] for piece in range(len(part))] == [1] * len(part)


@given(LENGTHS, LENGTHS, st.integers(0, 5), st.booleans(), st.sampled_from(["uniform", "temperature"]))
@hypothesis_settings(max_examples=40, deadline=None)
def test_a_stage_sees_the_tokens_it_was_given(
    first: list[int], second: list[int], seed: int, window: bool, sampling: Any
) -> None:
    # A stage of few tokens must not get a whole batch: methods with many stages would train on more text.
    stores = {"a": store("a", first), "b": store("b", second)}
    settings = replace(BASE, sampling=sampling, tokens_per_stage=430)
    schedule = Schedule.make(0, stores, settings, seed=seed, window=window)
    assert schedule.steps <= 2
    # A document is never cut, so each domain may end within one.
    assert schedule.total_tokens + 1 >= 430
    assert schedule.total_tokens < 430 + max(first) + max(second)


def test_shares_follow_the_sampling_rule() -> None:
    tokens = [100, 400, 1600]
    assert sampling_shares(tokens, replace(BASE, sampling="uniform")) == pytest.approx([1 / 3] * 3)
    assert sampling_shares(tokens, replace(BASE, sampling="proportional")) == pytest.approx([1 / 21, 4 / 21, 16 / 21])
    assert sampling_shares(tokens, replace(BASE, sampling="temperature", temperature=2)) == pytest.approx(
        [1 / 7, 2 / 7, 4 / 7]
    )
    assert sampling_shares(tokens, replace(BASE, sampling="alpha", alpha=1.5)) == pytest.approx(
        [1 / 73, 8 / 73, 64 / 73]
    )
    assert sampling_shares(tokens, replace(BASE, sampling="uniform"), [1, 1, 2]) == pytest.approx([0.25, 0.25, 0.5])


def test_general_and_unlabelled_texts_go_round_the_domains_that_still_train() -> None:
    stores = {"a": store("a", [20] * 60), "b": store("b", [20] * 60), "c": store("c", [20] * 60)}
    settings = replace(BASE, kl_weight=1.0, ssl_weight=1.0)
    schedule = Schedule.make(
        0, stores, settings, seed=0, general=[store("g", [20] * 60)], unlabelled=[store("u", [20] * 30)]
    )
    owners = {0: Counter[int](), 1: Counter[int]()}
    tokens: Counter[int] = Counter()
    for number in range(schedule.steps):
        for stopped, counter in ((frozenset[str](), owners[0]), (frozenset({"b"}), owners[1])):
            for items in schedule.step(number, stopped):
                for item in items:
                    assert not (stopped and item.domain == 1)
                    if item.kind == GENERAL:
                        counter[item.domain] += 1
                    if not stopped:
                        tokens[item.kind] += item.length
    assert min(owners[0].values()) > 0.7 * max(owners[0].values())
    assert set(owners[1]) == {0, 2}
    assert tokens[GENERAL] == pytest.approx(tokens[TASK], rel=0.1)
    assert tokens[SSL] == pytest.approx(0.25 * tokens[TASK], rel=0.15)


def test_a_schedule_does_not_depend_on_what_came_before() -> None:
    stores = {"a": store("a", list(range(5, 40))), "b": store("b", list(range(10, 30)))}
    one = Schedule.make(1, stores, BASE, seed=4)
    two = Schedule.make(1, stores, BASE, seed=4)
    last = [[(i.store.domain, i.piece) for i in items] for items in one.step(one.steps - 1)]
    assert last == [[(i.store.domain, i.piece) for i in items] for items in two.step(two.steps - 1)]
    other = Schedule.make(2, stores, BASE, seed=4)
    assert [(i.store.domain, i.piece) for i in one.step(0)[0]] != [(i.store.domain, i.piece) for i in other.step(0)[0]]


@given(st.lists(st.integers(1, 90), min_size=1, max_size=25))
@hypothesis_settings(max_examples=60, deadline=None)
def test_flat_layout_is_a_permutation_there_and_back(lengths: list[int]) -> None:
    layout = flat_layout(lengths)
    values = torch.arange(sum(lengths)) + 1
    gathered = torch.cat([values[places].reshape(-1) for places in layout.buckets])
    assert torch.equal(gathered[layout.inverse], values)
    starts = np.cumsum([0, *lengths[:-1]])
    rows = {int(row[0]): row for places in layout.buckets for row in places}
    for start, length in zip(starts, lengths, strict=True):
        # Padding stands behind a document, where a causal kernel never looks.
        assert torch.equal(rows[int(start)][:length], torch.arange(start, start + length))


@pytest.fixture(scope="module")
def session(toy_corpora: Path, tiny_llama_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    corpora = load_corpora(toy_corpora)
    stages = [("garden", "harbour", "kitchen")]
    return Session.open(stages, corpora, model=tiny_llama_dir, out=tmp_path_factory.mktemp("s"), settings=BASE, seed=0)


@pytest.mark.parametrize("layout", ["flat", "packed", "padded"])
def test_documents_do_not_see_each_other(session: Session, layout: Any) -> None:
    base = session.base
    lengths = [7, 30, 3, 18, 41, 12]
    part = store("x", lengths)
    items = [Item(0 if i < 4 else 1, TASK, part, i) for i in range(6)]
    micro = collate(items, base, 2, layout=layout, max_length=64)
    with torch.no_grad():
        hidden, _ = base.states(micro.input_ids, micro.position_ids, micro.mask, flat=micro.flat)
        flat = hidden.reshape(-1, hidden.shape[-1])
        assert micro.task is not None
        rows = [
            base.states(torch.from_numpy(part.piece(i).astype(np.int64))[None], None, None)[0][0, :-1] for i in range(6)
        ]
    torch.testing.assert_close(flat[micro.task.index], torch.cat(rows), rtol=1e-4, atol=1e-5)
    labels = np.concatenate([part.piece(i)[1:] for i in range(6)])
    assert micro.task.labels.tolist() == labels.tolist()
    assert sum(micro.groups) == (sum(lengths) if layout == "flat" else micro.input_ids.shape[0])
    if layout == "flat":
        assert micro.input_ids.shape == (1, sum(lengths))


def gradients(session: Session, settings: TrainSettings, ranks: Any = None) -> tuple[Any, dict[str, torch.Tensor]]:
    changed = replace_session(session, settings)
    stores = Stores.read(changed)
    with prepared_stage(changed, stores, ranks or Ranks(torch.device("cpu")), 0, frozen=()) as stepper:
        with torch.no_grad():
            generator = torch.Generator().manual_seed(3)
            for name, parameter in stepper.bank.named_parameters():
                if name.endswith("/B"):
                    parameter.normal_(0, 0.05, generator=generator)
        result = stepper(0)
        found = {n: p.grad.clone() for n, p in stepper.bank.named_parameters() if p.grad is not None}
    return result, found


def replace_session(session: Session, settings: TrainSettings) -> Session:
    from dataclasses import replace as change

    layout = settings.layout if settings.layout != "auto" else session.layout
    return change(session, settings=settings, layout=layout)


ALL = replace(BASE, ssl_weight=0.3, align_weight=2.0, kl_weight=0.7, align_queue=0, batch_tokens=700)


@pytest.mark.parametrize("weighting", ["static", "uncertainty", "famo"])
def test_cutting_a_step_into_micro_batches_changes_nothing(session: Session, weighting: Any) -> None:
    """One batch of ragged documents = the same in four parts, all terms on, alignment included."""
    whole, reference = gradients(session, replace(ALL, weighting=weighting))
    parts, mine = gradients(session, replace(ALL, weighting=weighting, accumulation=4))
    assert parts.tokens == whole.tokens
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert parts.parts == pytest.approx(whole.parts, rel=1e-4, abs=1e-7)
    assert parts.per_domain == pytest.approx(whole.per_domain, rel=1e-5)
    assert mine.keys() == reference.keys()
    for name, gradient in reference.items():
        torch.testing.assert_close(mine[name], gradient, rtol=2e-3, atol=2e-6, msg=name)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_every_layout_gives_the_same_gradients(session: Session, layout: Any) -> None:
    # Grouping by length deals documents to other steps: compare one step that holds all of a few.
    few = Stores.read(replace_session(session, replace(ALL, documents=3)))
    total = sum(int(part.lengths.sum()) for part in few.domains.values())
    everything = replace(ALL, documents=3, batch_tokens=total, kl_weight=0.0, ssl_weight=0.0)
    whole, reference = gradients(session, everything)
    other, mine = gradients(session, replace(everything, layout=layout))
    assert other.parts["task"] == pytest.approx(whole.parts["task"], rel=1e-5)
    for name, gradient in reference.items():
        torch.testing.assert_close(mine[name], gradient, rtol=2e-3, atol=2e-5, msg=name)


def test_gradient_checkpointing_changes_nothing(session: Session) -> None:
    whole, reference = gradients(session, ALL)
    again, mine = gradients(session, replace(ALL, gradient_checkpointing=True))
    assert again.loss == pytest.approx(whole.loss, rel=1e-6)
    for name, gradient in reference.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_learning_rates_by_hand() -> None:
    linear = TrainSettings(lr=1.0, schedule="linear", warmup=0.2, min_lr=0.1)
    assert [learning_rate(s, 10, linear) for s in range(3)] == pytest.approx([0.5, 1.0, 1.0])
    assert learning_rate(6, 10, linear) == pytest.approx(0.1 + 0.9 * 0.5)
    cosine = replace(linear, schedule="cosine")
    assert learning_rate(6, 10, cosine) == pytest.approx(0.1 + 0.9 * 0.5)
    assert learning_rate(4, 10, cosine) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi / 4)))
    assert learning_rate(9, 10, replace(linear, schedule="constant")) == 1.0


# -- records to tokens ------------------------------------------------------------------------------------------


def write(folder: Path, lines: list[str]) -> Path:
    folder.mkdir()
    (folder / "one.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "two.jsonl").write_text('{"text": "the old pump", "split": "train"}\n', encoding="utf-8")
    return folder


def test_long_texts_pay_for_every_token_but_the_first_once(session: Session, tmp_path: Path) -> None:
    text = " ".join(["soil water pump ship"] * 60)
    corpora = load_corpora(write(tmp_path / "c", [f'{{"text": "{text}", "split": "train"}}']))
    made = Encoder(session.base, BASE).store(corpora["one"], "train")
    ids = [*session.base.tokenizer(text)["input_ids"], session.base.eos]
    assert max(made.lengths) <= 64
    assert int(made.pays.sum()) == len(ids) - 1
    assert made.tokens[made.pays].tolist() == ids[1:]
    assert made.records == 1


def test_prompts_are_not_paid_for_and_are_cut_first(session: Session, tmp_path: Path) -> None:
    rows = ['{"prompt": "water the basil? ", "completion": "yes, the soil is old", "split": "train"}']
    long = " ".join(["tomato"] * 100)
    rows.append(f'{{"prompt": "{long} ", "completion": "a new pan", "split": "train"}}')
    corpora = load_corpora(write(tmp_path / "c", rows))
    decode = session.base.tokenizer.decode
    made = Encoder(session.base, BASE).store(corpora["one"], "train")
    first, second = (slice(made.offsets[i], made.offsets[i + 1]) for i in range(2))
    assert decode(made.tokens[first][made.pays[first]]) == "yes, the soil is old<eos>"
    assert decode(made.tokens[second][made.pays[second]]) == "a new pan<eos>"
    assert made.lengths[1] == 64
    assert made.truncated == 1
    both = Encoder(session.base, replace(BASE, train_on_prompt=True)).store(corpora["one"], "train")
    assert int(both.pays.sum()) == len(both.tokens) - 2


def test_only_what_the_assistant_says_is_paid_for(session: Session, tmp_path: Path) -> None:
    chat = (
        '{"messages": [{"role": "user", "content": "old rope?"}, {"role": "assistant", "content": "new rope."}, '
        '{"role": "user", "content": "and oil?"}, {"role": "assistant", "content": "two small."}], "split": "train"}'
    )
    corpora = load_corpora(write(tmp_path / "c", [chat]))
    made = Encoder(session.base, replace(BASE, max_length=128)).store(corpora["one"], "train")
    assert session.base.tokenizer.decode(made.tokens[made.pays]) == "new rope.<eos> two small.<eos>"
    bare = session.base.tokenizer.chat_template
    session.base.tokenizer.chat_template = None
    try:
        with pytest.raises(ModelError, match="no chat template"):
            Encoder(session.base, BASE).store(corpora["one"], "train")
    finally:
        session.base.tokenizer.chat_template = bare


def test_an_empty_split_and_a_tiny_batch_are_refused(session: Session, tmp_path: Path) -> None:
    corpora = load_corpora(write(tmp_path / "c", ['{"text": "the old ship", "split": "train"}']))
    with pytest.raises(CorpusError, match="one: its test split holds no usable record"):
        Encoder(session.base, BASE).store(corpora["one"], "test")
    stores = {"a": store("a", [50] * 200), "b": store("b", [3])}
    with pytest.raises(ConfigError, match="batch_tokens=64: leaves b less than a token"):
        Schedule.make(0, stores, replace(BASE, batch_tokens=64), seed=0)
