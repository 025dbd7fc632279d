"""Attention by document: tile registers, AVX-512 loops and PyTorch's kernels; and a step with and without kept memory.

    python benchmarks/bench_attention.py

Milliseconds a layer of six heads of 64 with rotary positions, forward and backward through autograd as in training, one
thread, CPU time, medians of turns. Before each call as much other memory is written as the nearer caches hold, as a
layer finds it. The positions of the second and third way are rotated in a loop of their own.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from _common import interleaved, record, table
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


def tensors(n: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """q, k, v and the gradient of the outputs, (n, 6, 64), cos and sin, (n, 64)."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(n, 6, 64, generator=generator).to(dtype) for _ in range(4)]
    angles = torch.rand(n, 64, generator=generator) * 6.3
    return [*rows, angles.cos().to(dtype), angles.sin().to(dtype)]


def passes(lengths: tuple[int, ...], dtype: torch.dtype, way: str) -> tuple[Work, Work]:
    """Forward and backward of a layer."""
    q, k, v, upstream, cos, sin = tensors(sum(lengths), dtype)
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


def errors() -> list[dict[str, Any]]:
    """Relative distances of outputs and gradients from float64, ragged documents."""
    lengths, found = BATCHES["8 ragged, 1,555 tokens"], []
    for dtype in (torch.float32, torch.bfloat16):
        given = tensors(sum(lengths), dtype)

        def answers(way: str, *, exact: bool = False, given: list[torch.Tensor] = given) -> list[torch.Tensor]:
            q, k, v, upstream, cos, sin = (t.double() if exact else t for t in given)
            leaves = [t.detach().clone().requires_grad_() for t in (q, k, v)]
            with only(way):
                out = rotated_attention(leaves[0], leaves[1], leaves[2], cos, sin, lengths, 0.125)
                return [out.detach(), *torch.autograd.grad(out, leaves, upstream[None])]

        wanted = answers("PyTorch", exact=True)
        for way in WAYS:
            parts = [float((a.double() - b).norm() / b.norm()) for a, b in zip(answers(way), wanted, strict=True)]
            found.append(
                {"dtype": str(dtype).removeprefix("torch."), "way": way}
                | dict(zip(("output", "d query", "d key", "d value"), parts, strict=True))
            )
    return found


def heap(repeats: int) -> float:
    """CPU time of taking, filling and freeing a step's worth of blocks, kept over handed back.

    Whether glibc hands freed memory back by itself depends on what else lies at the heap's end; here it is told to.
    """
    trim = ctypes.CDLL(None).malloc_trim

    def step() -> None:
        held = [torch.empty(1536, 1024).fill_(1.0) for _ in range(60)]
        del held

    def handed_back() -> None:
        step()
        trim(0)

    ratios = []
    for _ in range(repeats):
        plain = interleaved({"plain": handed_back}, repeats=3)["plain"]
        with kept_memory():
            ratios.append(interleaved({"kept": step}, repeats=3)["kept"] / plain)
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with kept_memory():
        rows = attention(options.repeats)
    share, apart = heap(options.repeats), errors()
    print(table([[f"{v:.1f}" if isinstance(v, float) else v for v in row.values()] for row in rows], list(rows[0])))
    print(table([[f"{v:.1e}" if isinstance(v, float) else v for v in row.values()] for row in apart], list(apart[0])))
    print(f"60 blocks of 6 MiB taken, written and freed: {share:.2f} of the time where memory is kept, not handed back")
    results = {"attention, ms": rows, "from float64": apart, "kept / handed back": share}
    record("attention", vars(options), results, "torch")


if __name__ == "__main__":
    main()
