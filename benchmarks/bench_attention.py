"""Attention by document: tile registers, AVX-512 loops and PyTorch's kernels; and a step with and without kept memory.

    python benchmarks/bench_attention.py

Milliseconds a layer of six heads of 64 with rotary positions, forward and backward through autograd as in training, one
thread, CPU time, medians of turns. Before each call as much other memory is written as the nearer caches hold, as a
layer finds it. The positions of the second and third way are rotated in a loop of their own.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from _common import record, table
from kinfold.stages import _attention_cpu, _attention_tiles
from kinfold.stages._attention_cpu import rotated_attention
from kinfold.stages._heap import kept_memory

BATCHES = {
    "8 ragged, 1,555 tokens": (189, 120, 300, 468, 60, 28, 200, 190),
    "24 of 64": (64,) * 24,
    "16 of 128": (128,) * 16,
    "3 of 512": (512,) * 3,
}
WAYS = ("tiles", "AVX-512", "PyTorch")
Work = Callable[[], Any]


@contextmanager
def only(way: str) -> Iterator[None]:
    """The ways before this one taken away."""
    takes, compiler = _attention_tiles.takes, _attention_cpu.have_compiler
    if way != "tiles":
        _attention_tiles.takes = lambda query: False
    if way == "PyTorch":
        _attention_cpu.have_compiler = lambda: False  # type: ignore[assignment]
    try:
        yield
    finally:
        _attention_tiles.takes, _attention_cpu.have_compiler = takes, compiler


def passes(lengths: tuple[int, ...], dtype: torch.dtype, way: str) -> tuple[Work, Work]:
    """Forward and backward of a layer."""
    generator, n = torch.Generator().manual_seed(0), sum(lengths)
    q, k, v, upstream = (torch.randn(n, 6, 64, generator=generator).to(dtype) for _ in range(4))
    cos, sin = (torch.rand(n, 64, generator=generator).to(dtype) for _ in range(2))
    leaves = [t.requires_grad_() for t in (q, k, v)]

    def forward() -> torch.Tensor:
        with only(way):
            return rotated_attention(q, k, v, cos, sin, lengths, 0.125)

    held = forward()

    def backward() -> Any:
        with only(way):
            return torch.autograd.grad(held, leaves, upstream[None], retain_graph=True)

    return forward, backward


def in_turns(works: dict[str, Work], repeats: int) -> dict[str, float]:
    """Median CPU-seconds of each, in turns."""
    others = torch.zeros(6_000_000)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            others.add_(1.0)
            start = time.process_time()
            work()
            if turn:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def attention(repeats: int) -> list[dict[str, Any]]:
    found = []
    for name, lengths in BATCHES.items():
        for dtype in (torch.float32, torch.bfloat16):
            works: dict[str, Work] = {}
            for way in WAYS:
                forward, backward = passes(lengths, dtype, way)
                works |= {f"{way}, forward": forward, f"{way}, backward": backward}
            seconds = in_turns(works, repeats)
            found.append(
                {"batch": name, "dtype": str(dtype).removeprefix("torch.")} | {k: 1000 * s for k, s in seconds.items()}
            )
    return found


def heap(repeats: int) -> float:
    """CPU time of taking, filling and freeing a step's worth of blocks, kept over not kept."""

    def step() -> None:
        held = [torch.empty(1536, 1024).fill_(1.0) for _ in range(60)]
        del held

    ratios = []
    for _ in range(repeats):
        plain = in_turns({"plain": step}, 3)["plain"]
        with kept_memory():
            ratios.append(in_turns({"kept": step}, 3)["kept"] / plain)
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with kept_memory():
        rows = attention(options.repeats)
    share = heap(options.repeats)
    print(table([[f"{v:.1f}" if isinstance(v, float) else v for v in row.values()] for row in rows], list(rows[0])))
    print(f"60 blocks of 6 MiB taken, written and freed: {share:.2f} of the time with memory kept")
    record("attention", vars(options), {"attention, ms": rows, "kept / not kept": share}, "torch")


if __name__ == "__main__":
    main()
