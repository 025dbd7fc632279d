from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.errors import ModelError
from kinfold.metrics.counting import _CONTRACTIONS, _GPT2, _O200K, TokenCounter, chunk_pattern
from kinfold.metrics.tokenizing import fingerprint, load_tokenizer, train_tokenizer
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

# Everything that has tripped a pre-tokenizer: all white space of Unicode, separators that Python alone calls white
# space, newlines after punctuation, combining marks, scripts without spaces, digits, contractions.
NASTY = (
    " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000\u180e\u200b"
    "aAzZ019'’!?.,;:/()[]{}-_\u0301\u0308é́ßſKΩ漢字かな한글ไทย🙂👩‍👩‍👧½²Ⅷ\u037e"
)
PIECES = ["'s", "'LL", "n't", "  ", "\n\n", ".\n", "! \n", " \n \n", "\r\n", "12345", " the", "foo/\n/bar", "<|end|>"]
TEXTS = st.lists(st.one_of(st.sampled_from(list(NASTY)), st.sampled_from(PIECES)), max_size=40).map("".join)
PROPERTY = settings(deadline=None, max_examples=60)

_LLAMA3 = (
    rf"{_CONTRACTIONS[0]}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _train(pre, normalizer=None, added=()):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    corpus = ["the cat's hat, 12345!\n\nAnd  then\tthe end.\r\n", NASTY, *PIECES, "naïve façade " * 3] * 3
    tokenizer.train_from_iterator(
        corpus,
        trainers.BpeTrainer(vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    tokenizer.add_tokens([AddedToken(content, special=True) for content in added])
    return tokenizer


def _split(pattern):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


TOKENIZERS = {
    "gpt2": _train(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "gpt2 with prefix space": _train(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "gpt2 with added tokens": _train(pre_tokenizers.ByteLevel(add_prefix_space=False), added=("<|end|>", "  ", "!")),
    "gpt2 as split": _train(_split(_GPT2)),
    "llama 3": _train(_split(_LLAMA3), added=("<|end|>",)),
    "qwen with nfc": _train(_split(_LLAMA3.replace("{1,3}", "")), normalizers.NFC(), added=("K", "é")),
    "o200k": _train(_split(_O200K)),
    "digits first": _train(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    ),
}


def _slow(tokenizer, texts, size):
    """One text at a time, special tokens off: the definition."""
    out = np.zeros((len(texts), size), np.int64)
    for row, text in enumerate(texts):
        for token in tokenizer.encode(text, add_special_tokens=False).ids:
            out[row, token] += 1
    return out


@pytest.mark.parametrize("name", list(TOKENIZERS))
@PROPERTY
@given(st.lists(TEXTS, min_size=1, max_size=6))
def test_counting_unique_chunks_is_exact_to_the_last_bit(name, texts):
    tokenizer = TOKENIZERS[name]
    counter = TokenCounter(tokenizer)
    assert counter.fast
    counter._checked = 10**6  # the self-check must not be what saves us
    expected = _slow(tokenizer, texts, counter.size)
    total, documents, characters = counter.count(texts)
    np.testing.assert_array_equal(total, expected.sum(axis=0))
    assert (documents, characters) == (len(texts), sum(map(len, texts)))
    np.testing.assert_array_equal(counter.documents(texts).toarray(), expected)
    assert counter.fast


def test_the_fast_road_is_taken_only_where_it_is_understood():
    def state(tokenizer, **changes):
        return {**json.loads(tokenizer.to_str()), **changes}

    base = TOKENIZERS["gpt2"]
    assert chunk_pattern(state(base)) is not None
    assert chunk_pattern(state(base, normalizer={"type": "NFKC"})) is None
    assert chunk_pattern(state(base, normalizer={"type": "Lowercase"})) is None
    assert chunk_pattern(state(base, pre_tokenizer=None)) is None
    assert chunk_pattern(state(base, pre_tokenizer={"type": "Metaspace"})) is None
    assert chunk_pattern(state(base, model={"type": "Unigram"})) is None
    unknown = {"type": "Split", "pattern": {"Regex": r"\S+ \S+"}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    sequence = {"type": "Sequence", "pretokenizers": [unknown, byte_level]}
    assert chunk_pattern(state(base, pre_tokenizer=sequence)) is None
    spread = {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, {**byte_level, "add_prefix_space": True}]}
    assert chunk_pattern(state(base, pre_tokenizer=spread)) is None


def test_other_tokenizers_count_the_plain_way():
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2, "c": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    counter = TokenCounter(tokenizer)
    assert not counter.fast
    texts = ["ab c", "c c", "zzz"]
    np.testing.assert_array_equal(counter.documents(texts).toarray(), _slow(tokenizer, texts, counter.size))
    np.testing.assert_array_equal(counter.count(texts)[0], _slow(tokenizer, texts, counter.size).sum(axis=0))


def test_a_tokenizer_that_breaks_its_promise_is_caught(caplog):
    counter = TokenCounter(TOKENIZERS["gpt2"])
    counter._find = lambda text: [text[:-1]]  # as if the chunks were wrong
    texts = ["the end. the end."] * 3
    with caplog.at_level(logging.WARNING, logger="kinfold.metrics"):
        total = counter.count(texts)[0]
    assert not counter.fast
    assert "counting every text in full" in caplog.text
    np.testing.assert_array_equal(total, _slow(TOKENIZERS["gpt2"], texts, counter.size).sum(axis=0))


def test_many_unique_chunks_are_flushed_without_loss(monkeypatch):
    monkeypatch.setattr("kinfold.metrics.counting._UNIQUE", 50)
    texts = [f"word{i} and word{i % 7}\n" * 3 for i in range(300)]
    counter = TokenCounter(TOKENIZERS["gpt2"])
    np.testing.assert_array_equal(
        counter.count(texts, batch=20)[0], _slow(TOKENIZERS["gpt2"], texts, counter.size).sum(axis=0)
    )


def test_truncation_padding_and_dropout_do_not_reach_the_counts():
    tokenizer = Tokenizer.from_str(TOKENIZERS["gpt2"].to_str())
    plain = TokenCounter(tokenizer).count(["the cat " * 50])[0]
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    tokenizer.model.dropout = 0.5
    np.testing.assert_array_equal(TokenCounter(tokenizer).count(["the cat " * 50])[0], plain)


def test_training_and_fingerprints_are_reproducible():
    texts = ["the cat sat on the mat " * 5, "ein Satz mit Wörtern " * 4]
    first, second = train_tokenizer(texts, 300), train_tokenizer(texts, 300)
    assert fingerprint(first) == fingerprint(second)
    assert fingerprint(first) != fingerprint(train_tokenizer([*texts, "zebra zebra zebra"], 300))
    before = fingerprint(first)
    first.enable_padding(length=8)
    assert fingerprint(first) == before
    assert first.get_vocab_size() <= 300


def test_loading_names_what_is_wrong(tmp_path, tiny_llama_dir):
    assert load_tokenizer(tiny_llama_dir).get_vocab_size() > 0
    assert load_tokenizer(tiny_llama_dir / "tokenizer.json").get_vocab_size() > 0
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="not a tokenizer file"):
        load_tokenizer(tmp_path)
    with pytest.raises(ModelError, match="no such file or folder"):
        load_tokenizer(tmp_path / "nowhere")
