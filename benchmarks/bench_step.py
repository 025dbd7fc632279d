"""One optimiser step as the product runs it, against plain PEFT and PEFT's `set_adapter` loop at equal tokens.

    python benchmarks/bench_step.py                            # step, activations, terms; fp32, one thread
    python benchmarks/bench_step.py --precision bf16 --sections step

Kinfold's ways are its own `Stepper` on flat rows with fused layers; PEFT's are transformers' model with PEFT's layers.
All see the same number of tokens (documents of one length, so that nobody pads), the same random base, rank, loss (the
fused cross-entropy, for the peers as well) and AdamW. Sections: `step`; `activations` (bytes that autograd keeps of the
body); `terms` (what denoising, alignment and KL add to a step, beside the tokens they bring). `floor` also counts the
step's dense products and times them alone; `resident` shows what keeping freed memory does to a process's peak.

Ways run in turn within each round, a step to warm up before the one that counts, and are compared within the round, in
CPU seconds of the process; the table shows medians. Every run appends one record to benchmarks/records/step.json.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from _common import peak_memory, record, table
from _step_ways import Run, make_model, stepper, stepping
from bench_engine import body_of, finish, forward_loss, lora_config, optimiser_of, ratio
from kinfold.stages import _linear, _lowrank
from kinfold.stages._heap import kept_memory
from kinfold.stages.bank import LoraBank
from kinfold.stages.losses import _chunked
from peft import get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


def turns(ways: dict[str, Run], repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each way's steps, in turn; each turn is a step to warm up and one that counts.

    Kinfold's steps keep freed memory, as they do within a stage; that ends with the turn, and so helps no peer.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(repeats + 1):
        for name, run in ways.items():
            with getattr(run, "within", contextlib.nullcontext)():
                run()
                began = time.process_time()
                run()
                if number:
                    seconds[name].append(time.process_time() - began)
    return seconds


def peft_plain(args: argparse.Namespace, sites: tuple[str, ...], ids: Tensor) -> Run:
    wrapped = get_peft_model(make_model(args), lora_config(args, sites))
    inner = wrapped.base_model.model
    optimiser = optimiser_of([p for p in wrapped.parameters() if p.requires_grad])

    def run() -> None:
        total, count = forward_loss(inner, ids)
        finish(total / count, optimiser)

    return run


def peft_loop(args: argparse.Namespace, sites: tuple[str, ...], ids: Tensor, domains: int) -> Run:
    """A shared adapter and one per domain by `set_adapter`, domain by domain, one optimiser step."""
    config = lora_config(args, sites)
    wrapped = get_peft_model(make_model(args), config, adapter_name="shared")
    for index in range(domains):
        wrapped.add_adapter(f"d{index}", config)
    inner = wrapped.base_model.model
    lora = [p for name, p in wrapped.named_parameters() if "lora_" in name]
    optimiser = optimiser_of(lora)

    def run() -> None:
        for index, part in enumerate(ids.chunk(domains)):
            wrapped.base_model.set_adapter(["shared", f"d{index}"])
            total, count = forward_loss(inner, part)
            (total / (count * domains)).backward()
        for parameter in lora:  # set_adapter turned all but the last domain's off
            parameter.requires_grad_(True)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return run


def sites_of(args: argparse.Namespace) -> tuple[str, ...]:
    bank = LoraBank.attach(make_model(args), ("x",))
    return bank.sites


def ragged(rows: int) -> list[int]:
    """Eight domains with unequal numbers of documents."""
    counts = [max(1, round(rows / 8 * share)) for share in (0.5, 1.5, 1.0, 1.0)] * 2
    counts[-1] += rows - sum(counts)
    return counts


def bench_step(args: argparse.Namespace) -> dict[str, Any]:
    sites = sites_of(args)
    ids = torch.randint(3, args.vocabulary, (args.rows, args.length), generator=torch.Generator().manual_seed(0))
    plain, loop = "PEFT, one adapter", "PEFT loop, shared + 8 domains"
    ways = {
        plain: peft_plain(args, sites, ids),
        loop: peft_loop(args, sites, ids, 8),
        "kinfold, one shared": stepping(stepper(args, [args.rows // 8] * 8, adapters="shared")),
        "kinfold, shared + 2 domains": stepping(stepper(args, [args.rows // 2] * 2)),
        "kinfold, shared + 8 domains": stepping(stepper(args, [args.rows // 8] * 8)),
        "kinfold, shared + 8 ragged": stepping(stepper(args, ragged(args.rows), sampling="proportional")),
    }
    seconds = turns(ways, args.repeats)
    rows = [
        [name, f"{statistics.median(seconds[name]) * 1000:.0f}", f"{ratio(seconds, name, plain):.2f}"] for name in ways
    ]
    print(table(rows, ["way", "ms", "of plain PEFT"]))
    eight, two = "kinfold, shared + 8 domains", "kinfold, shared + 2 domains"
    bars = {
        "8 domains / plain PEFT (bar 1.0)": ratio(seconds, eight, plain),
        "8 domains / set_adapter loop (bar 0.55)": ratio(seconds, eight, loop),
        "8 domains / 2 domains (bar 1.05)": ratio(seconds, eight, two),
        "8 ragged / 2 domains (bar 1.05)": ratio(seconds, "kinfold, shared + 8 ragged", two),
    }
    show(bars)
    return {"milliseconds": {n: [round(s * 1000, 1) for s in values] for n, values in seconds.items()}, "bars": bars}


@contextlib.contextmanager
def counting(model: nn.Module) -> Iterator[dict[int, int]]:
    """Bytes of each storage that autograd keeps, the model's own tensors left out."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # so that no address is given twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def bench_activations(args: argparse.Namespace) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for precision in ("fp32", "bf16"):
        mode = argparse.Namespace(**{**vars(args), "precision": precision})
        ids = torch.randint(3, args.vocabulary, (args.rows, args.length), generator=torch.Generator().manual_seed(0))
        wrapped = get_peft_model(make_model(mode), lora_config(mode, sites_of(mode)))
        with counting(wrapped) as kept:
            body_of(wrapped.base_model.model)(input_ids=ids, use_cache=False)
        sizes = {"PEFT": sum(kept.values()) / 2**20}
        for name, step in (
            ("kinfold, one shared", stepper(mode, [args.rows // 8] * 8, adapters="shared")),
            ("kinfold, shared + 8 domains", stepper(mode, [args.rows // 8] * 8)),
        ):
            _, micro, _ = step.batches(0, frozenset())[0][0]
            with step._routed(micro), counting(step.base.model) as kept:
                step.base.states(micro.input_ids, micro.position_ids, micro.mask, flat=micro.flat)
            sizes[name] = sum(kept.values()) / 2**20
        shares = {f"{name} / PEFT (bar 0.7 in bf16)": value / sizes["PEFT"] for name, value in sizes.items()}
        results[precision] = {"MiB": sizes, "shares": shares}
        print(
            table([[n, f"{v:.1f}", f"{v / sizes['PEFT']:.2f}"] for n, v in sizes.items()], [precision, "MiB", "/ PEFT"])
        )
    return results


def bench_terms(args: argparse.Namespace) -> dict[str, Any]:
    documents = [args.rows // 8] * 8
    extra = {
        "task": {},
        "task + denoising": {"ssl_weight": 0.1},
        "task + alignment": {"align_weight": 0.1},
        "task + KL 1:1": {"kl_weight": 0.1},
        "all": {"ssl_weight": 0.1, "align_weight": 0.1, "kl_weight": 0.1},
    }
    steps = {name: stepper(args, documents, **changes) for name, changes in extra.items()}
    # Tokens that pass forward and backward, and forward alone (KL's own reading of the base), per domain token.
    domain = sum(documents) * args.length
    passes: dict[str, list[float]] = {}
    for name, step in steps.items():
        [(_, micro, alone)], _ = step.batches(0, frozenset())
        passes[name] = [micro.input_ids.numel() / domain, (alone.input_ids.numel() if alone else 0) / domain]
    seconds = turns({name: stepping(step) for name, step in steps.items()}, args.repeats)
    results: dict[str, Any] = {}
    rows = []
    for name in steps:
        share, (both, forward) = ratio(seconds, name, "task"), passes[name]
        # Backward costs twice a forward where weights train, about once where they are frozen.
        expected = both + forward / 2
        results[name] = {"of the task alone": share, "forward and backward": both, "forward alone": forward}
        rows.append([name, f"{share:.2f}", f"{both:.2f}", f"{forward:.2f}", f"{share / expected:.2f}"])
    print(table(rows, ["terms", "time, task = 1", "tokens both ways", "forward alone", "time / (both + forward/2)"]))
    return results


@contextlib.contextmanager
def split_products() -> Iterator[Counter[Any]]:
    """Shapes of the products that go by planes of bf16, which no dispatcher sees, without updates."""
    seen: Counter[Any] = Counter()

    def counted(x: Tensor, weight: Tensor, *, transposed: bool = False, out: Tensor | None = None) -> Tensor:
        if _linear.takes(x, weight):
            seen[tuple(x.shape), tuple(weight.shape), transposed] += 1
        return product(x, weight, transposed=transposed, out=out)

    def layer(x: Tensor, weight: Tensor, *others: Any, transposed: bool, only_thin: bool) -> tuple[Tensor, Tensor]:
        if not only_thin:
            seen[tuple(x.shape), tuple(weight.shape), transposed] += 1
        return linear(x, weight, *others, transposed=transposed, only_thin=only_thin)

    product, linear = _linear.product, _linear.linear
    _chunked.product, _lowrank.linear = counted, layer
    try:
        yield seen
    finally:
        _chunked.product, _lowrank.linear = product, linear


class _Products(TorchDispatchMode):
    """Shapes of the dense products of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[Any] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function._schema.name in ("aten::mm", "aten::addmm_", "aten::addmm"):
            tensors = [a for a in args if isinstance(a, Tensor)][-2:]
            self.seen[tuple((tuple(t.shape), tuple(t.stride()), t.dtype) for t in tensors)] += 1
        return function(*args, **(kwargs or {}))


def bench_floor(args: argparse.Namespace) -> dict[str, Any]:
    """The step's dense products alone, on warm memory, beside the step."""
    results: dict[str, Any] = {}
    for name, changes in (("kinfold, one shared", {"adapters": "shared"}), ("kinfold, shared + 8 domains", {})):
        step = stepper(args, [args.rows // 8] * 8, **changes)
        step(0)
        with _Products() as products, split_products() as split:
            step(0)
        groups: dict[str, list[tuple[Tensor, Tensor, Tensor, int]]] = {"frozen weights": [], "low rank": []}
        flops = dict.fromkeys(groups, 0.0)
        for (one, two), count in products.seen.items():
            left, right = (
                torch.randn(1 + sum((n - 1) * s for n, s in zip(*t[:2], strict=True))).to(t[2]) for t in (one, two)
            )
            a, b = left.as_strided(*one[:2]), right.as_strided(*two[:2])
            kind = "low rank" if min(*a.shape, b.shape[1]) < min(args.hidden, args.length) else "frozen weights"
            groups[kind].append((a, b, torch.mm(a, b), count))
            flops[kind] += 2e-9 * a.shape[0] * a.shape[1] * b.shape[1] * count

        by_planes = []
        for (rows, shape, transposed), count in split.items():
            width = shape[1] if transposed else shape[0]
            x, weight = torch.randn(rows), torch.randn(shape)
            by_planes.append((x, weight, transposed, torch.empty(rows[0], width), count))
            flops["frozen weights"] += 2e-9 * rows[0] * shape[0] * shape[1] * count

        def replay(entries: list[tuple[Tensor, Tensor, Tensor, int]], planes: list[Any]) -> None:
            for a, b, out, count in entries:
                for _ in range(count):
                    torch.mm(a, b, out=out)
            for a, b, transposed, out, count in planes:
                for _ in range(count):
                    _linear.product(a, b, transposed=transposed, out=out)

        # The compiled thin products are not seen.
        groups = {kind: entries for kind, entries in groups.items() if entries or (kind == "frozen weights" and split)}
        ways: dict[str, Run] = {"step": stepping(step)}
        ways |= {
            kind: functools.partial(replay, entries, by_planes if kind == "frozen weights" else [])
            for kind, entries in groups.items()
        }
        seconds = turns(ways, args.repeats)
        results[name] = {
            kind: {"share of the step": ratio(seconds, kind, "step"), "ms": 1000 * statistics.median(values)}
            for kind, values in seconds.items()
        }
        for kind in groups:
            results[name][kind] |= {"GFLOP": flops[kind], "GFLOP/s": flops[kind] / statistics.median(seconds[kind])}
        rows = [[kind, *(f"{v:.3g}" for v in values.values())] for kind, values in results[name].items()]
        print(table(rows, [name, "share of the step", "ms", "GFLOP", "GFLOP/s"]))
    return results


def bench_resident(args: argparse.Namespace) -> dict[str, Any]:
    """What keeping freed memory costs: the most that a process ever held, with it and without, six steps each."""
    results: dict[str, Any] = {}
    for kept in (False, True):
        code = f"import bench_step; bench_step.resident({vars(args)!r}, kept={kept})"
        done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        results["kept" if kept else "handed back"] = json.loads(done.stdout.splitlines()[-1])
    print(
        table([[name, *found.values()] for name, found in results.items()], ["freed memory", "peak, MiB", "ms a step"])
    )
    return results


def resident(settings: dict[str, Any], *, kept: bool) -> None:
    """Print the peak of this process and its time for a step; `bench_resident` runs it in processes of their own."""
    args = argparse.Namespace(**settings)
    torch.set_num_threads(args.threads)
    run = stepping(stepper(args, [args.rows // 8] * 8))
    seconds = []
    with kept_memory(wanted=kept):
        for _ in range(6):
            began = time.process_time()
            run()
            seconds.append(time.process_time() - began)
    print(json.dumps({"peak": round(peak_memory()), "ms": round(1000 * statistics.median(seconds))}))


def show(bars: dict[str, float]) -> None:
    for name, value in bars.items():
        print(f"  {name}: {value:.3f}")


SECTIONS = {
    "step": bench_step,
    "activations": bench_activations,
    "terms": bench_terms,
    "floor": bench_floor,
    "resident": bench_resident,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default="step,activations,terms,floor")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    results = {name: SECTIONS[name](args) for name in args.sections.split(",")}
    record("step", vars(args), results, "torch", "transformers", "peft")


if __name__ == "__main__":
    main()
