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


def hit(child: multiprocessing.process.BaseProcess, out: Path, rng: random.Random, steps: int, whole: float) -> bool:
    """Kill a run of so many steps somewhere in the rest of its way; False if it was done before.

    Drawn are a step to wait for, and a time beyond it: up to what the last step took, or up to the `whole` of an
    unbroken run where no step is waited for. So kills fall everywhere, however slow the machine is.
    """
    done = logged(out)
    goal = rng.randint(done, steps)
    pace, since, seen = whole if goal == done else 0.2, 0.0, done
    while seen < goal:
        if child.exitcode is not None:
            return False
        now = logged(out)
        if now > seen:
            pace, since = time.monotonic() - since if since else pace, time.monotonic()
        seen = now
        time.sleep(0.002)
    child.join(rng.uniform(0.0, pace))
    if not child.is_alive() or child.pid is None:
        return False
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    return True


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
            finished, most = False, len(kills) + 3
            while not finished:
                child = start(out)
                if len(kills) < min(options.kills, most) and hit(child, out, rng, 2 * options.steps, whole):
                    kills.append(logged(out))
                    print(f"kill {len(kills):2d} of run {runs}, {kills[-1]} steps logged", flush=True)
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
