"""Kill a training run at random moments and resume it, again and again; the result must equal an unbroken run's bytes.

    OMP_NUM_THREADS=1 python benchmarks/bench_resume.py --corpora ../shared/data/prose --kills 20

Every kill is a SIGKILL of the training process at a moment drawn over what is left of its way. Compared are all files
of the run but logs of times, versions and per-document arrays: adapters, factors of every stage, the step log, the
evaluation. Prints one line per kill and appends a record.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from pathlib import Path

import torch
import transformers
from _training_peers import base_model
from kinfold._files import write_json
from kinfold.corpora import load_corpora
from kinfold.partition.plan import Plan
from kinfold.stages import LoraSpec, TrainSettings, train

RECORDS = Path(__file__).parent / "records" / "resume.json"
SKIPPED = {"timings.jsonl", "environment.json"}


def digests(run: Path) -> dict[str, str]:
    return {
        str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(run.rglob("*"))
        if file.is_file() and file.name not in SKIPPED and file.suffix != ".npz"
    }


def work(corpora: Path, model: Path, out: Path, steps: int, dropout: float) -> None:
    loaded = load_corpora(corpora)
    names = [domain.name for domain in loaded.planned][:4]
    plan = Plan(stages=((names[0], names[1]), (names[2], names[3])), domains=tuple(sorted(names)))
    settings = TrainSettings(
        task="lm",
        lora=LoraSpec(rank=8, dropout=dropout),
        max_steps=steps,
        batch_tokens=1024,
        documents=60,
        eval_documents=10,
        checkpoint_every=3,
        weighting="uncertainty",
        bootstrap=50,
        threads=1,
    )
    train(plan, loaded, model=model, out=out, settings=settings, seed=11, resume=True)


def logged(out: Path) -> int:
    """Steps in the log of a run."""
    log = out / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def hit(child: multiprocessing.process.BaseProcess, out: Path, rng: random.Random, steps: int) -> int | None:
    """Kill a run somewhere in the rest of its way; None if it was done before.

    Which step to wait for is drawn, and how long to wait beyond it: up to the time that the last one took, or a second
    for what lies before and after the steps. So kills fall everywhere, however slow the machine is.
    """
    goal = rng.randint(logged(out), 2 * steps)
    seen, since, pace = logged(out), time.monotonic(), 1.0
    while logged(out) < goal:
        if child.exitcode is not None:
            return None
        if logged(out) > seen:
            seen, since, pace = logged(out), time.monotonic(), time.monotonic() - since
        time.sleep(0.002)
    child.join(rng.uniform(0.0, pace))
    if not child.is_alive() or child.pid is None:
        return None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    return logged(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20, help="per stage")
    parser.add_argument("--dropout", type=float, default=0.0, help="above 0, PyTorch's products are used")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    fork = multiprocessing.get_context("fork")
    rng = random.Random(options.seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = base_model(folder / "base", load_corpora(options.corpora), 128, 2, 2048)

        def start(out: Path) -> multiprocessing.process.BaseProcess:
            child = fork.Process(target=work, args=(options.corpora, model, out, options.steps, options.dropout))
            child.start()
            return child

        began = time.monotonic()
        child = start(folder / "whole")
        child.join()
        whole = time.monotonic() - began
        if child.exitcode:
            raise SystemExit("the unbroken run failed")
        reference = digests(folder / "whole")
        print(f"unbroken run: {whole:.1f} s, {len(reference)} files compared")
        kills: list[int] = []
        runs = 0
        different: list[str] = []
        while len(kills) < options.kills:
            runs += 1
            out = folder / f"killed-{runs}"
            finished = False
            while not finished:
                child = start(out)
                if len(kills) < options.kills and (moment := hit(child, out, rng, options.steps)) is not None:
                    kills.append(moment)
                    print(f"kill {len(kills):2d} of run {runs} after {moment} steps", flush=True)
                    continue
                child.join()
                if child.exitcode:
                    raise SystemExit(f"run {runs} failed by itself with exit code {child.exitcode}")
                finished = True
            found = digests(out)
            different += [name for name in {*found, *reference} if found.get(name) != reference.get(name)]
            print(f"run {runs}: {different or 'identical'}", flush=True)
    print(f"{len(kills)} kills over {runs} runs: {'bit-identical' if not different else 'DIFFERENT'}")
    record = {
        "kills": len(kills),
        "steps_logged_at_each_kill": kills,
        "runs": runs,
        "identical": not different,
        "files": len(reference),
        "seconds_unbroken": round(whole, 2),
        "seed": options.seed,
        "dropout": options.dropout,
        "torch": torch.__version__,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    RECORDS.parent.mkdir(exist_ok=True)
    history = json.loads(RECORDS.read_text()) if RECORDS.exists() else []
    write_json(RECORDS, [*history, record])
    if different:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
