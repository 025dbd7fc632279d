"""Kernels are compiled before the clock of a solve starts, those that it will need, and with a word to the user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from kinfold._progress import SilentProgress
from kinfold.partition import _warm, solve
from kinfold.partition._anneal import anneal
from kinfold.partition._climb import improve
from kinfold.partition._core import make_core
from kinfold.partition._jit import compiled, have_compiler
from kinfold.partition._price import price
from kinfold.partition._shares import balance
from kinfold.partition._triangles import _scan
from kinfold.partition.problem import make_problem

pytestmark = pytest.mark.skipif(not have_compiler(), reason="needs a compiler")

_TWICE = """
import json
import numpy as np
from kinfold._progress import SilentProgress
from kinfold.partition import solve

rng = np.random.default_rng(5)
gain = np.triu(rng.integers(-100, 101, (20, 20)), 1).astype(float)
sizes = rng.integers(1, 11, 20).astype(float)
said = []
class Progress(SilentProgress):
    def say(self, message): said.append(message)
answers = [solve(gain + gain.T, sizes=sizes, budget=30.0, time_limit=3.0, workers=1, progress=Progress()) for _ in "12"]
print(json.dumps([[a.status, a.objective, a.bound] for a in answers] + [said]))
"""


def test_a_first_call_proves_what_a_second_call_proves(tmp_path: Path) -> None:
    """In a fresh cache everything is compiled, which takes several times the limit given to the solve."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", _TWICE], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second, said = json.loads(done.stdout)
    assert second[0] == "optimal"
    assert first == second
    assert len(said) == 1
    assert "kernels" in said[0]


class _Heard(SilentProgress):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.spoken = threading.Event()

    def say(self, message: str) -> None:
        self.lines.append(message)
        self.spoken.set()


def test_only_slow_preparations_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    heard, core = _Heard(), make_core(make_problem(np.ones((30, 30))))
    monkeypatch.setitem(_warm._READY, "annealing", lambda: heard.spoken.wait(60))
    _warm.get_ready(core, "heuristic", heard, patience=0.0)
    assert len(heard.lines) == 1
    monkeypatch.setitem(_warm._READY, "annealing", lambda: None)
    _warm.get_ready(core, "heuristic", heard, patience=600.0)
    assert len(heard.lines) == 1


@pytest.mark.parametrize(
    ("method", "k", "expected"),
    [
        ("heuristic", 30, {"annealing"}),
        ("auto", 30, {"annealing", "columns", "triangles", "integers"}),
        ("columns", 30, {"annealing", "columns", "integers"}),
        ("clique", 30, {"annealing", "integers"}),
        ("auto", 300, {"annealing"}),
    ],
)
def test_only_what_the_method_needs_is_made_ready(
    monkeypatch: pytest.MonkeyPatch, method: str, k: int, expected: set[str]
) -> None:
    called: set[str] = set()
    monkeypatch.setattr(_warm, "_READY", {need: lambda need=need: called.add(need) for need in _warm._READY})
    solve(np.ones((k, k)), method=method, time_limit=0.05, workers=1)
    assert called == expected


def test_small_problems_and_peers_load_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_warm, "_READY", {})
    solve(np.ones((9, 9)))
    solve(np.ones((30, 30)), method="average_linkage")


def test_the_toy_compiles_for_the_types_of_real_problems() -> None:
    """Else a kernel would be compiled again, within the limit, when it meets its first real problem."""
    for ready in _warm._READY.values():
        ready()
    rng = np.random.default_rng(3)
    gain = np.triu(rng.integers(-100, 101, (24, 24)), 1).astype(float)
    gain += gain.T
    sizes = rng.integers(1, 11, 24).astype(float)
    kernels = [compiled(kernel) for kernel in (anneal, price, balance, improve, _scan)]
    before = [len(kernel.signatures) for kernel in kernels]
    assert min(before) > 0
    solve(gain, workers=1, time_limit=1.0)
    solve(gain, sizes=sizes, budget=40.0, workers=1, time_limit=1.0)
    solve(
        gain, sizes={"a": sizes, "b": sizes[::-1]}, budget={"a": 40.0, "b": 50.0}, kappa=3.0, workers=1, time_limit=1.0
    )
    solve(gain, cannot_link=[(0, 1), (2, 5)], workers=1, time_limit=0.5, deterministic=True)
    solve(gain, sizes=sizes, budget=[60.0] * 4, minimum=[5.0] * 4, stages=4, workers=1, time_limit=0.5)
    assert [len(kernel.signatures) for kernel in kernels] == before
