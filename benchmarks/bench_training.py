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
import random
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
from kinfold._files import write_json
from kinfold.corpora import Corpora, load_corpora
from kinfold.stages import LoraSpec, TrainSettings
from kinfold.stages._heap import kept_memory
from kinfold.stages.loop import StageLoop
from kinfold.stages.ranks import Ranks, Trackers
from kinfold.stages.training import Session, Stores, prepared_stage

RECORDS = Path(__file__).parent / "records" / "training.json"


def base_model(folder: Path, corpora: Corpora, hidden: int, layers: int, vocabulary: int) -> Path:
    """A random Llama with a byte-level BPE trained on the corpora."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<bos>", "<eos>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for domain in corpora.planned[:8] for text in domain.texts("train", limit=300)]
    tokenizer.train_from_iterator(texts, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", mask_token="<mask>"
    )
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 32 * 32,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def documents_of(stores: Stores) -> list[list[int]]:
    return [store.piece(i).tolist() for store in stores.domains.values() for i in range(len(store))]


def peft_model(folder: Path, rank: int, dtype: torch.dtype) -> Any:
    """The base in the given precision; PEFT keeps its adapters in fp32, as Kinfold does."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return peft.get_peft_model(model, config)


def _arguments(kind: Any, folder: Path, rows: int, **extra: Any) -> Any:
    return kind(
        output_dir=str(folder / "hf"),
        per_device_train_batch_size=rows,
        num_train_epochs=1,
        learning_rate=2e-4,
        report_to=[],
        save_strategy="no",
        logging_steps=50,
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **extra,
    )


def hf_trainer(
    folder: Path, documents: list[list[int]], rank: int, rows: int, *, grouped: bool, dtype: torch.dtype
) -> Callable[[], None]:
    import datasets

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    data = datasets.Dataset.from_dict({"input_ids": documents})
    names = {"train_sampling_strategy": "group_by_length"} if grouped else {}
    trainer = transformers.Trainer(
        model=peft_model(folder, rank, dtype),
        args=_arguments(transformers.TrainingArguments, folder, rows, bf16=dtype == torch.bfloat16, **names),
        train_dataset=data,
        data_collator=transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False),
        callbacks=None,
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return lambda: trainer.train()


def sft_trainer(
    folder: Path, documents: list[list[int]], rank: int, rows: int, *, packed: bool, length: int, dtype: torch.dtype
) -> Any:
    import datasets
    import trl

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    data = datasets.Dataset.from_dict({"input_ids": documents})
    mean = sum(map(len, documents)) / len(documents)
    arguments = _arguments(
        trl.SFTConfig,
        folder,
        max(1, round(rows * mean / length)) if packed else rows,
        packing=packed,
        max_length=length,
        gradient_checkpointing=False,
        bf16=dtype == torch.bfloat16,
    )
    trainer = trl.SFTTrainer(
        model=peft_model(folder, rank, dtype), args=arguments, train_dataset=data, processing_class=tokenizer
    )
    trainer.remove_callback(transformers.PrinterCallback)
    return lambda: trainer.train()


def stage_loop(session: Session, stepper: Any, out: Path) -> StageLoop:
    folder = Path(tempfile.mkdtemp(dir=out))
    return StageLoop(
        stepper,
        session.settings,
        Ranks(session.base.device),
        stage=0,
        out=folder,
        log_bytes=0,
        validate=lambda domain: 0.0,
        trackers=Trackers((), folder, {}, main=True),
        estimate=lambda: "",
    )


def kinfold_loop(session: Session, stores: Stores, out: Path) -> Callable[[], int]:
    ranks = Ranks(session.base.device)

    def run() -> int:
        with prepared_stage(session, stores, ranks, 0, frozen=()) as stepper:
            return stage_loop(session, stepper, out).run().tokens

    return run


def bare_loop(session: Session, stores: Stores) -> Callable[[], int]:
    ranks = Ranks(session.base.device)

    def run() -> int:
        tokens = 0
        with prepared_stage(session, stores, ranks, 0, frozen=()) as stepper, kept_memory():
            optimizer = torch.optim.AdamW(stepper.bank.parameters(), lr=2e-4, fused=True)
            stepper.base.model.train()
            for number in range(stepper.schedule.steps):
                optimizer.zero_grad(set_to_none=True)
                tokens += stepper(number).tokens
                torch.nn.utils.clip_grad_norm_(stepper.bank.parameters(), 1.0)
                optimizer.step()
        return tokens

    return run


def padding(lengths: list[int], rows: int) -> dict[str, float]:
    """Share of padding in the peers' batches: of random documents (mean over orders), and of neighbours by length."""

    def share(order: list[int]) -> float:
        batches = [order[i : i + rows] for i in range(0, len(order), rows)]
        return 1 - sum(order) / sum(max(batch) * len(batch) for batch in batches)

    draw = random.Random(0)
    shuffled = [share(draw.sample(lengths, len(lengths))) for _ in range(200)]
    return {"random batches": statistics.mean(shuffled), "sorted by length": share(sorted(lengths))}


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


class _Timed:
    """Something called, with the CPU seconds spent inside."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.seconds = inner, 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        began = time.process_time()
        try:
            return self.inner(*args, **kwargs)
        finally:
            self.seconds += time.process_time() - began

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def overhead(session: Session, stores: Stores, out: Path, rounds: int) -> dict[str, Any]:
    """Milliseconds per step that the executor adds to a bare loop over the same steps, found in two ways.

    By difference: a bare loop and the executor in turns, whole runs. By account: CPU seconds of the executor's run less
    those inside the gradient computation, clipping and the optimiser.
    """
    from kinfold.stages import loop as module

    differences, accounted = [], []
    steps = 0
    for _ in range(rounds + 1):
        times = []
        for run in (bare_loop(session, stores), kinfold_loop(session, stores, out)):
            began = time.process_time()
            run()
            times.append(time.process_time() - began)
        with prepared_stage(session, stores, Ranks(session.base.device), 0, frozen=()) as stepper:
            steps = stepper.schedule.steps
            loop = stage_loop(session, stepper, out)
            loop.stepper = inside = _Timed(loop.stepper)  # type: ignore[assignment]
            loop.optimizer.step = update = _Timed(loop.optimizer.step)  # type: ignore[assignment, method-assign]
            loop.optimizer.zero_grad = clear = _Timed(loop.optimizer.zero_grad)  # type: ignore[assignment, method-assign]
            clip = _Timed(module.nn.utils.clip_grad_norm_)
            module.nn.utils.clip_grad_norm_ = clip  # type: ignore[assignment]
            try:
                began = time.process_time()
                loop.run()
                whole = time.process_time() - began
            finally:
                module.nn.utils.clip_grad_norm_ = clip.inner
        rest = whole - inside.seconds - update.seconds - clear.seconds - clip.seconds
        differences.append((times[1] - times[0]) / steps * 1000)
        accounted.append(rest / steps * 1000)
    differences, accounted = differences[1:], accounted[1:]  # the first round warms up
    low, _, high = statistics.quantiles(differences, n=4)
    return {
        "steps": steps,
        "by_difference_ms": statistics.median(differences),
        "quartiles_ms": [low, high],
        "by_account_ms": statistics.median(accounted),
        "all_differences_ms": sorted(differences),
        "all_accounted_ms": sorted(accounted),
    }


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
