"""Attention by document: the compiled loop against PyTorch's kernels; and a step with and without kept memory.

    python benchmarks/bench_attention.py

Milliseconds a layer of six heads of 64, one thread, CPU time, medians of turns.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from _common import interleaved, record, table
from kinfold.stages import _attention_cpu
from kinfold.stages._heap import kept_memory

BATCHES = {
    "8 ragged, 1,555 tokens": (189, 120, 300, 468, 60, 28, 200, 190),
    "24 of 64": (64,) * 24,
    "3 of 512": (512,) * 3,
}


def passes(lengths: tuple[int, ...], dtype: torch.dtype, heads: int, compiled: bool) -> tuple[Callable[[], Any], ...]:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(1, sum(lengths), heads, 64, generator=generator).to(dtype) for _ in range(4)]
    q, k, v = (part.transpose(1, 2) for part in rows[:3])

    def run(function: Callable[..., Any], *args: Any) -> Any:
        before = _attention_cpu.have_compiler
        _attention_cpu.have_compiler = (lambda: True) if compiled else (lambda: False)  # type: ignore[assignment]
        try:
            return function(*args)
        finally:
            _attention_cpu.have_compiler = before

    out, total = run(_attention_cpu._forward, q, k, v, lengths, 0.125)
    return (
        lambda: run(_attention_cpu._forward, q, k, v, lengths, 0.125),
        lambda: run(_attention_cpu._backward, rows[3], q, k, v, out, total, lengths, 0.125),
    )


def attention(repeats: int) -> list[dict[str, Any]]:
    found = []
    for name, lengths in BATCHES.items():
        for dtype in (torch.float32, torch.bfloat16):
            ways = {}
            for compiled in (True, False):
                forward, backward = passes(lengths, dtype, 6, compiled)
                label = "compiled" if compiled else "PyTorch"
                ways |= {f"{label}, forward": forward, f"{label}, backward": backward}
            seconds = interleaved(ways, repeats=repeats)
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
        plain = interleaved({"plain": step}, repeats=3)["plain"]
        with kept_memory():
            ratios.append(interleaved({"kept": step}, repeats=3)["kept"] / plain)
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
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
