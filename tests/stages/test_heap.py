"""Freed memory stays with the process while a stage trains, and goes back to the system afterwards."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from kinfold.stages._heap import _glibc, kept_memory

if _glibc() is None:
    sys.exit(3)
torch.set_num_threads(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(4 << 20) for _ in range(8)]
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

start = resident()
faults()
usual = faults()
with kept_memory():
    faults()
    kept, inside = faults(), resident()
print(usual, kept, inside - start, resident() - start)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_a_second_step_asks_the_system_for_nothing() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
    if done.returncode == 3:
        pytest.skip("another C library")
    assert done.returncode == 0, done.stderr
    usual, kept, inside, after = map(int, done.stdout.split())
    pages = 8 * (16 << 20) // 4096
    if usual < pages // 2:
        pytest.skip("the heap keeps its memory here anyhow: too few faults to tell")
    assert kept < usual / 4  # where the heap begins, one block may be cut anew
    assert inside > pages / 2  # what a step frees is still there
    assert after < pages / 4  # and goes back at the end


def test_tuned_by_the_user_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from kinfold.stages import _heap

    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    assert _heap._glibc.__wrapped__() is None
