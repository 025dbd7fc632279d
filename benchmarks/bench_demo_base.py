"""The demo's base model: which optimiser and size reach the lowest loss in the time there is.

Every row trains on the same harvested general text for the same number of tokens and is judged on held-out general
text, in bits a byte (so that rows are comparable), and by its CPU-seconds. AdamW takes Muon's place under the same
schedule, at the best of the rates given. `--step` only times one optimiser step of Muon, ours and PyTorch's; with
`ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2` in the environment it shows a CPU without bf16 units.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from _common import interleaved, record, table
from kinfold.app.demo import BaseSettings, _muon, harvest
from kinfold.app.demo.pretrain import pretrain, train_tokenizer
from kinfold.corpora import load_corpora

OURS = _muon.Muon


class _Torch:
    """PyTorch's Muon behind the face of ours."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], *, weight_decay: float) -> None:
        self.inner = torch.optim.Muon(list(parameters), weight_decay=weight_decay, adjust_lr_fn="original")

    def step(self, lr: float) -> None:
        self.inner.param_groups[0]["lr"] = lr
        self.inner.step()
        self.inner.zero_grad()


class _Adam:
    """AdamW behind the same face."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], *, weight_decay: float) -> None:
        self.inner = torch.optim.AdamW(list(parameters), weight_decay=weight_decay, betas=(0.9, 0.95), fused=True)

    def step(self, lr: float) -> None:
        self.inner.param_groups[0]["lr"] = lr
        self.inner.step()
        self.inner.zero_grad()


def _step() -> dict[str, float]:
    def muon(kind: Any) -> Any:
        shapes = [(192, 192)] * 16 + [(512, 192)] * 8 + [(192, 512)] * 4
        parameters = [torch.nn.Parameter(torch.randn(shape) * 0.02) for shape in shapes]
        optimiser = kind(parameters, weight_decay=0.05)

        def run() -> None:
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            optimiser.step(0.02)

        return run

    return interleaved({"ours, fp32": muon(OURS), "torch.optim.Muon, bf16": muon(_Torch)}, repeats=5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=BaseSettings().steps)
    parser.add_argument("--step", action="store_true", help="only time one optimiser step")
    parser.add_argument("--only", nargs="*", help="names of the rows to run")
    options = parser.parse_args()
    config = {"isa": os.environ.get("ATEN_CPU_CAPABILITY", "native"), **vars(options)}
    if options.step:
        seconds = _step()
        print(table([[name, value] for name, value in seconds.items()], ["optimiser step", "CPU-seconds"]))
        record("demo_base", config, seconds, "torch")
        return
    folder = harvest(Path(tempfile.mkdtemp()) / "corpora")
    (general,) = load_corpora(folder).general
    texts, held_out = list(general.texts("train")), list(general.texts("validation"))
    chosen = replace(BaseSettings(), steps=options.steps)
    runs: dict[str, tuple[Any, BaseSettings]] = {
        "muon": (OURS, chosen),
        "adamw 4e-3": (_Adam, replace(chosen, lr=4e-3, embedding_lr=4e-3)),
        "adamw 1e-2": (_Adam, replace(chosen, lr=1e-2, embedding_lr=1e-2)),
        "muon, embedding 1e-2": (OURS, replace(chosen, embedding_lr=1e-2)),
        "muon, width 128": (OURS, replace(chosen, hidden=128, intermediate=352, heads=2)),
        "muon, vocabulary 2048": (OURS, replace(chosen, vocabulary=2048)),
    }
    rows = []
    for name, (kind, settings) in runs.items():
        if options.only and name not in options.only:
            continue
        tokenizer = train_tokenizer(texts, settings.vocabulary)
        _muon.Muon = kind
        start = time.process_time()
        _, made = pretrain(tokenizer, texts, held_out, settings=settings)
        _muon.Muon = OURS
        seconds = time.process_time() - start
        rows.append([name, made["parameters"], made["tokens"], made["loss"], made["bits_per_byte"], seconds])
        print(table(rows[-1:], ["run", "parameters", "tokens", "loss", "bits a byte", "CPU-seconds"]), flush=True)
    head = ["run", "parameters", "tokens", "loss", "bits a byte", "CPU-seconds"]
    print(table(rows, head))
    record("demo_base", config, [dict(zip(head, row, strict=True)) for row in rows], "torch")


if __name__ == "__main__":
    main()
