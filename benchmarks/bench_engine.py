"""The fused losses against plain formulas, and what the KL term costs; the step itself is in bench_step.py.

    python benchmarks/bench_engine.py                       # both sections on this machine's CPU, one thread
    python benchmarks/bench_engine.py --device cuda --hidden 2048 --layers 16 --sections losses

Sections: `losses` (cross-entropy and KL at a large vocabulary: time and peak memory), `kl` (what the KL term costs
beside a second forward with logits).

Ways are run in turn within each round and compared within the round; the table shows medians of the rounds' ratios.
On a CPU, time is the process's own CPU time, so that other processes disturb less; on an accelerator it is wall time
between synchronisations. Every run appends one record to benchmarks/records/engine.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
import torch.nn.functional as F
import transformers
from kinfold.stages.bank import LoraBank, LoraSpec
from kinfold.stages.losses import fused_cross_entropy, fused_kl
from peft import LoraConfig
from torch import Tensor, nn

RECORDS = Path(__file__).parent / "records" / "engine.json"
Run = Callable[[], Any]


def clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def rounds(ways: dict[str, Run], repeats: int, device: str) -> dict[str, list[float]]:
    """Seconds of each way, run in turn; one round to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats + 1):
        for name, run in ways.items():
            start = clock(device)
            run()
            if number:
                seconds[name].append(clock(device) - start)
            else:
                clock(device)
    return seconds


def ratio(seconds: dict[str, list[float]], one: str, other: str) -> float:
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def body_of(model: nn.Module) -> nn.Module:
    return model.base_model


def make_model(args: argparse.Namespace) -> nn.Module:
    torch.manual_seed(0)
    width = args.hidden
    heads = max(1, width // 64)
    common: dict[str, Any] = {
        "vocab_size": args.vocabulary,
        "hidden_size": width,
        "intermediate_size": int(width * 2.75) if args.model == "llama" else 4 * width,
        "num_hidden_layers": args.layers,
        "num_attention_heads": heads,
        "max_position_embeddings": max(512, args.length),
    }
    if args.model == "llama":
        model: nn.Module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**common))
    else:
        config = transformers.BertConfig(**common, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        model = transformers.BertForMaskedLM(config)
    return model.to(args.device, torch.bfloat16 if args.dtype == "bf16" else torch.float32).train()


def precision(args: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    if args.dtype == "autocast":
        return torch.autocast(args.device, torch.bfloat16)
    return contextlib.nullcontext()


def forward_loss(model: nn.Module, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and count of the loss of one batch: the same for every way, so that only adapters differ."""
    hidden = body_of(model)(input_ids=ids).last_hidden_state
    head = model.get_output_embeddings().weight
    width = hidden.shape[-1]
    sums, counts = fused_cross_entropy(hidden[:, :-1].reshape(-1, width), head, ids[:, 1:].reshape(-1))
    return sums.sum(), counts.sum()


def optimiser_of(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-4, fused=True)


def finish(loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
    loss.backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def lora_config(args: argparse.Namespace, sites: tuple[str, ...]) -> LoraConfig:
    return LoraConfig(r=args.rank, lora_alpha=args.rank, lora_dropout=0.0, target_modules=list(sites))


def spread(total: int, domains: int, *, ragged: bool) -> list[int]:
    if not ragged:
        return [total // domains] * domains
    rows = [max(1, round(total / domains * share)) for share in (0.5, 1.5, 1.0, 1.0)] * (domains // 4)
    rows[-1] += total - sum(rows)
    return rows


def peak_of(run: Run, device: str) -> float:
    """MiB above what was there before."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before_kib = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark (Linux)
    run()
    return (_status("VmHWM") - before_kib) / 1024


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}")


def bench_losses(args: argparse.Namespace) -> dict[str, Any]:
    n, width, vocabulary = args.loss_rows, args.loss_hidden, args.loss_vocabulary
    dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    generator = torch.Generator().manual_seed(0)
    weight = (0.05 * torch.randn(vocabulary, width, generator=generator)).to(args.device, dtype)
    hidden = torch.randn(n, width, generator=generator).to(args.device, dtype).requires_grad_()
    base = (hidden.detach().float() + 0.1 * torch.randn(n, width, generator=generator).to(args.device)).to(dtype)
    labels = torch.randint(0, vocabulary, (n,), generator=generator).to(args.device)

    def naive_ce() -> None:
        F.cross_entropy((hidden @ weight.T).float(), labels).backward()

    def naive_kl(reverse: bool) -> None:
        log_p = F.log_softmax((hidden @ weight.T).float(), -1)
        with torch.no_grad():
            log_0 = F.log_softmax((base @ weight.T).float(), -1)
        first, second = (log_p, log_0) if reverse else (log_0, log_p)
        F.kl_div(second, first, log_target=True, reduction="batchmean").backward()

    def fused(loss: Callable[[], tuple[Tensor, Tensor]]) -> None:
        sums, counts = loss()
        (sums.sum() / counts.sum()).backward()

    pairs: dict[str, tuple[Run, Run]] = {
        "cross-entropy": (naive_ce, lambda: fused(lambda: fused_cross_entropy(hidden, weight, labels))),
        "KL(p||p0)": (lambda: naive_kl(True), lambda: fused(lambda: fused_kl(hidden, base, weight, "reverse"))),
        "KL(p0||p)": (lambda: naive_kl(False), lambda: fused(lambda: fused_kl(hidden, base, weight, "forward"))),
    }
    results: dict[str, Any] = {}
    print(f"\nlosses, {n} rows, hidden {width}, vocabulary {vocabulary}, {dtype}")
    print(
        f"{'loss':14} {'naive MB':>9} {'fused MB':>9} {'naive/fused':>12} "
        f"{'naive s':>8} {'fused s':>8} {'fused/naive':>12}"
    )
    for name, (plain, ours) in pairs.items():
        if args.losses and name not in args.losses.split(","):
            continue
        seconds = rounds({"naive": plain, "fused": ours}, max(2, args.repeats // 3), args.device)
        peaks = []
        for run in (plain, ours):
            hidden.grad = None
            peaks.append(peak_of(run, args.device))
        hidden.grad = None
        median = {key: statistics.median(values) for key, values in seconds.items()}
        share = ratio(seconds, "fused", "naive")
        print(
            f"{name:14} {peaks[0]:9.0f} {peaks[1]:9.0f} {peaks[0] / peaks[1]:12.1f} "
            f"{median['naive']:8.2f} {median['fused']:8.2f} {share:12.3f}"
        )
        results[name] = {
            "naive_mb": peaks[0],
            "fused_mb": peaks[1],
            "memory, naive / fused (bar 9)": peaks[0] / peaks[1],
            "time, fused / naive (bar 1.05)": share,
            "seconds": median,
        }
    return results


def bench_kl(args: argparse.Namespace) -> dict[str, Any]:
    """The KL term from cached hidden states of the base, and with a base forward, beside a second full forward."""
    model = make_model(args)
    bank = LoraBank.attach(model, ("a", "b"), LoraSpec(rank=args.rank, alpha=args.rank))
    ids = torch.randint(0, args.vocabulary, (args.rows, args.length), device=args.device)
    head = model.get_output_embeddings().weight
    with bank.route(spread(args.rows, 2, ragged=False)), precision(args), torch.no_grad():
        hidden = body_of(model)(input_ids=ids).last_hidden_state.flatten(0, 1)
    with bank.disabled(), precision(args), torch.no_grad():
        cached = body_of(model)(input_ids=ids).last_hidden_state.flatten(0, 1)
    hidden.requires_grad_()

    def second_forward() -> None:
        with bank.disabled(), precision(args), torch.no_grad():
            model(input_ids=ids).logits.float()

    def with_cache() -> None:
        with precision(args):
            fused_kl(hidden, cached, head)[0].sum().backward()

    def without_cache() -> None:
        with precision(args):
            with bank.disabled(), torch.no_grad():
                again = body_of(model)(input_ids=ids).last_hidden_state.flatten(0, 1)
            fused_kl(hidden, again, head)[0].sum().backward()

    def head_alone() -> None:
        with precision(args):
            fused_cross_entropy(hidden, head, ids.flatten())[0].sum().backward()

    ways = {
        "second forward with logits": second_forward,
        "KL, base hidden states cached": with_cache,
        "KL with a base forward": without_cache,
        "cross-entropy of the same rows": head_alone,
    }
    seconds = rounds(ways, args.repeats, args.device)
    print(f"\nKL term, {args.rows} x {args.length} tokens, vocabulary {args.vocabulary}, {args.dtype}")
    for name in ways:
        print(f"{name:34} {statistics.median(seconds[name]):9.4f}")
    reference = seconds["second forward with logits"]
    extra = statistics.median(
        (a - b) / c
        for a, b, c in zip(
            seconds["KL, base hidden states cached"], seconds["cross-entropy of the same rows"], reference, strict=True
        )
    )
    bars = {
        "KL with cached states / second forward with logits (bar 0.7)": ratio(
            seconds, "KL, base hidden states cached", "second forward with logits"
        ),
        "its extra over cross-entropy / second forward": extra,
    }
    show(bars)
    return {"seconds": {name: statistics.median(values) for name, values in seconds.items()}, "bars": bars}


def show(bars: dict[str, float]) -> None:
    for name, value in bars.items():
        print(f"  {name}: {value:.3f}")


SECTIONS = {"losses": bench_losses, "kl": bench_kl}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default="losses,kl")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", choices=["llama", "bert"], default="llama")
    parser.add_argument("--dtype", choices=["fp32", "bf16", "autocast"], default="fp32")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--loss-rows", type=int, default=1024)
    parser.add_argument("--loss-hidden", type=int, default=512)
    parser.add_argument("--loss-vocabulary", type=int, default=152_000)
    parser.add_argument("--losses", help="only these, by name: cross-entropy, KL(p||p0), KL(p0||p)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    record: dict[str, Any] = {
        "benchmark": "engine",
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "config": vars(args),
        "machine": torch.cuda.get_device_name()
        if args.device == "cuda"
        else platform.processor() or platform.machine(),
        "versions": {"torch": torch.__version__, "peft": peft.__version__, "transformers": transformers.__version__},
    }
    RECORDS.parent.mkdir(exist_ok=True)
    for name in args.sections.split(","):
        record[name] = SECTIONS[name](args)
        # After each section, so that a run cut short leaves what it has.
        records = json.loads(RECORDS.read_text()) if RECORDS.exists() else []
        others = [other for other in records if (other["date"], other["config"]) != (record["date"], record["config"])]
        RECORDS.write_text(json.dumps([*others, record], indent=1) + "\n")


if __name__ == "__main__":
    main()
