from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from kinfold.corpora import load_corpora
from kinfold.metrics import MeasureSettings, measure
from kinfold.metrics.ranks import exchange, one_for_all, place, together

FAST = {"bootstrap": 4, "permutations": 20, "samples": 40, "vocabulary": 400, "lsa_dimensions": 8}

JOB = """
import json, os, shutil, sys
from pathlib import Path
from kinfold.corpora import load_corpora
from kinfold.errors import KinfoldError
from kinfold.metrics import MeasureSettings, collect, measure
import torch.distributed as dist

out, source, model, fast = Path(sys.argv[1]), sys.argv[2], sys.argv[3], json.loads(sys.argv[4])
rank = int(os.environ["RANK"])
found = {}

def run(name, cache, corpora=source, **options):
    try:
        settings = MeasureSettings(**{**fast, **options})
        found[name] = measure(load_corpora(corpora), settings=settings, cache=cache).digest
    except (KinfoldError, OSError) as fault:
        found[name] = str(fault)
    dist.barrier()

run("no cache", None)
run("cold", out / "shared")
run("warm", out / "shared")
own = out / f"own{rank}"  # each rank its own disk: one finds everything, the other nothing
if rank == 0:
    shutil.copytree(out / "shared", own)
run("only the first rank has a cache", own)
if rank == 0:
    shutil.rmtree(own)
run("only the second rank has a cache", own)
mine = sorted((out / "shared" / "tokens").glob("*.npz"))
half = out / f"half{rank}" / "tokens"
half.mkdir(parents=True)
for index, file in enumerate(mine):
    if index % 3 != rank:
        shutil.copy(file, half)
    elif rank:
        (half / file.name).write_bytes(b"damaged")
run("each rank lacks another part", half.parent)
run("pooled states of a model", None, embedder="model", model=model, measures=("cosine", "mmd2"))
other = out / f"other{rank}"
shutil.copytree(source, other)
if rank == 1:
    with (other / "garden.jsonl").open("a") as file:
        file.write(json.dumps({"text": "one document more on this disk"}) + "\\n")
run("other data", None, other)
if rank == 1:
    def broken(*_):
        raise OSError("the disk is gone")
    collect._share = broken
run("a fault on one rank", None)
assert dist.get_world_size() == 2
(out / f"{rank}.json").write_text(json.dumps(found))
dist.destroy_process_group()
"""


def test_one_process_agrees_with_itself():
    assert place() == (0, 1)
    assert exchange("a") == ["a"]
    assert one_for_all(lambda: 3) == together(lambda: 3) == 3


@pytest.mark.slow
def test_two_ranks_get_the_bits_of_one_process_whatever_their_caches_hold(tmp_path, toy_corpora, tiny_llama_dir):
    corpora = load_corpora(toy_corpora)
    alone = measure(corpora, settings=MeasureSettings(**FAST)).digest
    pooled = MeasureSettings(**{**FAST, "embedder": "model", "measures": ("cosine", "mmd2")}, model=str(tiny_llama_dir))
    job = tmp_path / "job.py"
    job.write_text(JOB)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(job)]
    arguments = [str(tmp_path), str(toy_corpora), str(tiny_llama_dir), json.dumps(FAST)]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for name in (
        "no cache",
        "cold",
        "warm",
        "only the first rank has a cache",
        "only the second rank has a cache",
        "each rank lacks another part",
    ):
        assert first[name] == second[name] == alone, name
    assert first["pooled states of a model"] == second["pooled states of a model"]
    assert first["pooled states of a model"] == measure(corpora, settings=pooled).digest
    assert "'garden' is not the same on every process" in first["other data"]
    assert "'garden' is not the same on every process" in second["other data"]
    assert "the disk is gone" in first["a fault on one rank"]
    assert "the disk is gone" in second["a fault on one rank"]
