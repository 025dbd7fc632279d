"""Training throughput end to end: Kinfold's loop against the Hugging Face Trainer with PEFT and TRL's SFTTrainer.

    OMP_NUM_THREADS=1 python benchmarks/bench_training.py --corpora ../shared/data/prose
    OMP_NUM_THREADS=1 PYTHONPATH=/folder/with/trl python benchmarks/bench_training.py --corpora ...   # with SFTTrainer

Same model, same documents (in tokens, cut alike), same precision, same LoRA shape, batches of about the same number of
tokens, AdamW, no extra loss terms. What counts are real tokens per CPU second of the whole training call, padding
excluded. In bf16 every way has a bf16 base and fp32 adapters. Ways run in turn within each round and are compared
within the round. `--overhead` compares the executor (log, checks, schedule, progress) with a bare loop over the same
steps.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from _training_loops import kinfold_loop, overhead
from _training_peers import base_model, documents_of, hf_trainer, padding, sft_trainer
from kinfold._files import write_json
from kinfold.corpora import load_corpora
from kinfold.stages import LoraSpec, TrainSettings
from kinfold.stages.ranks import Ranks
from kinfold.stages.training import Session, Stores, prepared_stage

RECORDS = Path(__file__).parent / "records" / "training.json"


def measure(ways: dict[str, Callable[[], Any]], tokens: dict[str, int], rounds: int) -> dict[str, list[float]]:
    """Real tokens per CPU second of each way, one list per way."""
    speed: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, run in ways.items():
            began = time.process_time()
            run()
            seconds = time.process_time() - began
            speed[name].append(tokens[name] / seconds)
            print(f"round {number + 1}  {name:36s} {tokens[name] / seconds:8.0f} tokens/CPU-s", flush=True)
    return speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=24, help="per domain")
    parser.add_argument("--domains", type=int, default=8)
    parser.add_argument("--only", help="these domains, by name, separated by commas")
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rows", type=int, default=8, help="documents per batch of the peers")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of the base and its products")
    parser.add_argument("--brief", action="store_true", help="leave out SFTTrainer unpacked and Kinfold's padded rows")
    parser.add_argument("--overhead", action="store_true", help="only the executor's overhead, on a tiny model")
    options = parser.parse_args()
    if options.overhead:
        options.hidden, options.layers, options.vocabulary, options.rank = 64, 1, 512, 4
        options.documents, options.length, options.rows = 30, 64, 1
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    corpora = load_corpora(options.corpora)
    wanted = options.only.split(",") if options.only else None
    names = tuple(d.name for d in corpora.planned if wanted is None or d.name in wanted)[: options.domains]
    with tempfile.TemporaryDirectory() as scratch:
        folder = base_model(Path(scratch) / "base", corpora, options.hidden, options.layers, options.vocabulary)
        plain = TrainSettings(
            task="lm",
            adapters="shared",
            lora=LoraSpec(rank=options.rank, alpha=2 * options.rank),
            documents=options.documents,
            max_length=options.length,
            ssl_weight=0,
            align_weight=0,
            checkpoint_every=None,
            precision=options.precision,
        )
        dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
        first = Session.open([names], corpora, model=folder, out=Path(scratch), settings=plain, seed=0)
        stores = Stores.read(first)
        documents = documents_of(stores)
        lengths = sorted(map(len, documents))
        total = sum(lengths)
        batch = round(options.rows * total / len(documents))
        print(
            f"{len(documents)} documents of {len(names)} domains, {total} tokens, lengths {lengths[0]}..{lengths[-1]}, "
            f"median {lengths[len(lengths) // 2]}; {batch} tokens per batch; {torch.get_num_threads()} thread(s)"
        )
        sessions = {
            "kinfold, one shared LoRA": replace(plain, batch_tokens=batch),
            **(
                {}
                if options.brief
                else {"kinfold, padded rows, one shared LoRA": replace(plain, batch_tokens=batch, layout="padded")}
            ),
            f"kinfold, shared + {len(names)} domain LoRAs": replace(plain, batch_tokens=batch, adapters="both"),
        }
        opened = {
            name: Session.open([names], corpora, model=folder, out=Path(scratch), settings=settings, seed=0)
            for name, settings in sessions.items()
        }
        record: dict[str, Any] = {
            "config": {key: str(value) for key, value in vars(options).items()},
            "versions": {
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "peft": peft.__version__,
            },
            "machine": platform.processor() or platform.machine(),
            "threads": torch.get_num_threads(),
            "documents": len(documents),
            "tokens": total,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        if options.overhead:
            session = opened["kinfold, one shared LoRA"]
            record["overhead"] = overhead(session, Stores.read(session), Path(scratch), options.rounds)
            found = record["overhead"]
            low, high = found["quartiles_ms"]
            print(
                f"executor over bare loop, ms a step: {found['by_difference_ms']:+.2f} by difference (middle half of "
                f"{options.rounds} pairs {low:+.2f} to {high:+.2f}), {found['by_account_ms']:.2f} by account"
            )
        else:
            ways: dict[str, Callable[[], Any]] = {
                "HF Trainer + PEFT": hf_trainer(
                    folder, documents, options.rank, options.rows, grouped=False, dtype=dtype
                ),
                "HF Trainer + PEFT, group by length": hf_trainer(
                    folder, documents, options.rank, options.rows, grouped=True, dtype=dtype
                ),
            }
            try:
                import trl

                record["versions"]["trl"] = trl.__version__
                kinds = [(True, "TRL SFTTrainer, packed")]
                for packed, title in kinds if options.brief else [(False, "TRL SFTTrainer"), *kinds]:
                    ways[title] = sft_trainer(
                        folder,
                        documents,
                        options.rank,
                        options.rows,
                        packed=packed,
                        length=options.length,
                        dtype=dtype,
                    )
            except ImportError:
                print("trl is not importable: its rows are left out (pip install --no-deps --target FOLDER trl)")
            tokens = dict.fromkeys(ways, total)
            for name, session in opened.items():
                own = Stores.read(session)
                ways[name] = kinfold_loop(session, own, Path(scratch))
                with prepared_stage(session, own, Ranks(session.base.device), 0, frozen=()) as stepper:
                    tokens[name] = stepper.schedule.total_tokens
            speed = measure(ways, tokens, options.rounds)
            median = {name: statistics.median(values) for name, values in speed.items()}
            print(f"\n{'way':40s} tokens/CPU-s   over Trainer   over SFT packed")
            for name, value in median.items():
                ratios = []
                for peer in ("HF Trainer + PEFT", "TRL SFTTrainer, packed"):
                    pairs = [a / b for a, b in zip(speed[name], speed.get(peer, []), strict=False)]
                    ratios.append(f"{statistics.median(pairs):.2f}" if pairs else "-")
                print(f"{name:40s} {value:10.0f} {ratios[0]:>14s} {ratios[1]:>16s}")
            record["tokens_per_cpu_second"] = dict(speed)
            places = {"least": 0.0, "lower quarter": 0.25, "median": 0.5, "upper quarter": 0.75, "most": 1.0}
            record["lengths"] = {
                name: lengths[min(int(q * len(lengths)), len(lengths) - 1)] for name, q in places.items()
            }
            record["padding"] = padding(lengths, options.rows)
            print(record["lengths"], record["padding"])
    RECORDS.parent.mkdir(exist_ok=True)
    history = json.loads(RECORDS.read_text()) if RECORDS.exists() else []
    write_json(RECORDS, [*history, record])


if __name__ == "__main__":
    main()
