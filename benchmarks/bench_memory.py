"""The memory estimate against the measured peak of real training steps.

    OMP_NUM_THREADS=1 python benchmarks/bench_memory.py --corpora ../shared/data/prose

Each case trains two steps, twice, of a random Llama in a process of its own, optimiser state included. Measured is what
the tensors hold at most, from the allocator's own events, so that scratch inside kernels counts; beside it, how far
the resident memory of the process rose above where it stood before the model was loaded. The estimate is what
`kinfold train --dry-run` prints: made from the configuration on the meta device, for the largest micro-batch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _common import record, table

BASE = {"hidden": 256, "layers": 4, "vocabulary": 8192, "domains": 4}
_STEPS = 2
OFF = {"ssl_weight": 0.0, "align_weight": 0.0, "kl_weight": 0.0}
CASES: dict[str, dict[str, Any]] = {
    "fp32, task alone": {**OFF},
    "bf16, task alone": {**OFF, "precision": "bf16"},
    "fp32, denoising": {**OFF, "ssl_weight": 0.1},
    "fp32, alignment": {**OFF, "align_weight": 0.1},
    "fp32, KL 1:1": {**OFF, "kl_weight": 0.5},
    "bf16, KL 1:1": {**OFF, "kl_weight": 0.5, "precision": "bf16"},
    "fp32, all terms": {"kl_weight": 0.5},
    "bf16, all terms": {"kl_weight": 0.5, "precision": "bf16"},
    "fp32, checkpointing": {**OFF, "gradient_checkpointing": True},
    "bf16, checkpointing, all terms": {"kl_weight": 0.5, "precision": "bf16", "gradient_checkpointing": True},
    "fp32, accumulation 4": {**OFF, "accumulation": 4},
    "fp32, accumulation 4, all terms": {"kl_weight": 0.5, "accumulation": 4},
    "fp32, padded rows": {**OFF, "layout": "padded"},
    "fp32, packed rows": {**OFF, "layout": "packed"},
    "fp32, long documents": {**OFF, "max_length": 1024, "batch_tokens": 4096},
    "fp32, shared adapter alone": {**OFF, "adapters": "shared"},
    "fp32, domain adapters alone": {**OFF, "adapters": "domain"},
    "fp32, dropout": {**OFF, "dropout": 0.1},
    "fp32, vocabulary 32k": {**OFF, "vocabulary": 32768},
    "bf16, vocabulary 32k, all terms": {"kl_weight": 0.5, "precision": "bf16", "vocabulary": 32768},
    "fp32, hidden 512, 8 layers": {**OFF, "hidden": 512, "layers": 8},
    "bf16, hidden 512, 8 layers": {**OFF, "hidden": 512, "layers": 8, "precision": "bf16"},
    "fp32, one domain, rank 64": {**OFF, "domains": 1, "rank": 64},
    "fp32, third stage": {**OFF, "stage": 2},
    "bf16, third stage, all terms": {"kl_weight": 0.5, "precision": "bf16", "stage": 2},
}


def resident() -> int:
    """Resident bytes of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def resident_peak() -> int:
    """Largest resident bytes since the last reset."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def alive() -> int:
    """Bytes of all tensors there are, each storage once."""
    import gc

    import torch

    gc.collect()
    found = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def peak_of(step: Any) -> int:
    """Most bytes held at once by the CPU allocator during `step`, above what was held before."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def measure(case: dict[str, Any], corpora: Path, folder: Path) -> dict[str, Any]:
    """Estimate and peaks of one case, in this process."""
    import torch
    import transformers
    from _training_peers import base_model
    from kinfold.corpora import load_corpora
    from kinfold.stages import LoraSpec, TrainSettings, estimate_memory
    from kinfold.stages.bank import LoraBank
    from kinfold.stages.loop import StageLoop
    from kinfold.stages.memory import largest_shape
    from kinfold.stages.ranks import Ranks, Trackers
    from kinfold.stages.training import Session, Stores, prepared_stage

    transformers.logging.set_verbosity_error()
    case = {**BASE, **case}
    shape = {name: case.pop(name) for name in ("hidden", "layers", "vocabulary", "domains")}
    stage, rank, dropout = case.pop("stage", 0), case.pop("rank", 16), case.pop("dropout", 0.0)
    settings = TrainSettings(
        **{"batch_tokens": 4096, "max_length": 256, "documents": 200, "max_steps": _STEPS, "threads": 1, **case},
        lora=LoraSpec(rank=rank, alpha=32, dropout=dropout),
        checkpoint_every=None,
    )
    texts = load_corpora(corpora)
    names = texts.names
    manifest = {name: {"path": str(texts[name].paths[0])} for name in names[: shape["domains"]]}
    manifest["general"] = {"path": str(texts[names[-1]].paths[0]), "general": True}
    opened = load_corpora(manifest)
    model = folder / f"base-{shape['hidden']}-{shape['layers']}-{shape['vocabulary']}"
    if not model.exists():
        base_model(model, opened, shape["hidden"], shape["layers"], shape["vocabulary"])
    torch.set_num_threads(1)
    before = resident()
    stages = (tuple(domain.name for domain in opened.planned),)
    session = Session.open(stages, opened, model=model, out=folder / "out", settings=settings, seed=0)
    stores = Stores.read(session)
    frozen = []
    for earlier in range(stage):
        bank = LoraBank.attach(
            session.base.model, stages[0], settings.lora, shared=True, domain_adapters=False, seed=earlier
        )
        frozen.append(bank.freeze_shared())
        bank.detach()
        del bank
    ranks = Ranks(session.base.device)
    (folder / "out").mkdir(exist_ok=True)
    with prepared_stage(session, stores, ranks, 0, frozen=frozen) as stepper:
        loop = StageLoop(
            stepper,
            settings,
            ranks,
            stage=0,
            out=folder / "out",
            log_bytes=0,
            validate=lambda name: 0.0,
            trackers=Trackers((), folder, {}, main=False),
            estimate=lambda: "",
        )
        session.base.model.train()
        Path("/proc/self/clear_refs").write_text("5")
        for _ in range(_STEPS):
            loop._step()
        rose = resident_peak() - before
        loop.done = 0  # the same steps again, under the profiler
        peaks = []
        for _ in range(_STEPS):
            loop.optimizer.zero_grad(set_to_none=True)
            held = alive()
            peaks.append(held + peak_of(loop._step))
        shape = largest_shape(session, stores, 0)
    estimate = estimate_memory(model, settings, earlier_stages=stage, layout=session.layout, shape=shape)
    return {"measured": max(peaks), "resident": rose, "estimate": estimate.to_dict(), "layout": session.layout}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--only", help="cases whose name holds this")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(json.loads(options.case), options.corpora, options.folder)))
        return
    rows, results = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, case in CASES.items():
            if options.only and options.only not in name:
                continue
            # Large blocks go back to the system at once, so that resident memory follows what is held.
            environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
            words = [sys.executable, __file__, "--corpora", str(options.corpora), "--folder", scratch]
            done = subprocess.run(
                [*words, "--case", json.dumps(case)], env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr[-2000:]}")
            found = json.loads(done.stdout.splitlines()[-1])
            total = found["estimate"]["total"]
            off = total / found["measured"] - 1
            results[name] = {**found, "error": off}
            rows.append(
                [
                    name,
                    f"{found['measured'] / 2**20:.0f}",
                    f"{total / 2**20:.0f}",
                    f"{off:+.1%}",
                    f"{found['resident'] / 2**20:.0f}",
                ]
            )
            print(rows[-1], flush=True)
    print(table(rows, ["case", "measured peak, MiB", "estimate", "error", "resident, MiB"]))
    worst = max(abs(entry["error"]) for entry in results.values())
    print(f"worst error {worst:.1%}")
    if not options.only:
        print(record("memory", BASE, results, "torch", "transformers"))


if __name__ == "__main__":
    main()
