"""Limits: a deterministic solve reads no clock, others do not overrun, and both can be interrupted."""

from __future__ import annotations

import itertools
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from kinfold.partition import _clock, solve
from kinfold.partition._clock import Clock
from kinfold.partition._core import make_core
from kinfold.partition._jit import have_compiler
from kinfold.partition._pricer import Pricer
from kinfold.partition.problem import make_problem

needs_compiler = pytest.mark.skipif(not have_compiler(), reason="needs a compiler")


def instance(k: int, seed: int) -> tuple[np.ndarray, dict]:
    rng = np.random.default_rng(seed)
    gain = np.triu(rng.integers(-100, 101, (k, k)), 1).astype(float)
    sizes = rng.integers(1, 11, k).astype(float)
    return gain + gain.T, {"sizes": sizes, "budget": float(np.ceil(6.6 * sizes.mean()))}


@needs_compiler
@pytest.mark.parametrize("limit", [0.05, 1.0])
def test_a_deterministic_proof_is_the_same_under_any_clock(monkeypatch: pytest.MonkeyPatch, limit: float) -> None:
    """On a machine whose clock stands still and on one where every look at it costs an hour."""
    gain, arguments = instance(18, 1)
    answers = []
    for step in (0.0, 3600.0):
        ticks = itertools.count()
        monkeypatch.setattr(_clock, "time", SimpleNamespace(monotonic=lambda t=ticks, s=step: next(t) * s))
        answers.append(solve(gain, **arguments, time_limit=limit, seed=3, deterministic=True))
    one, two = answers
    assert np.array_equal(one.assignment, two.assignment)
    assert (one.objective, one.bound, one.status, one.method) == (two.objective, two.bound, two.status, two.method)


def test_work_counts_in_deterministic_mode_only() -> None:
    clock = Clock(10.0, deterministic=True)
    part = clock.part(4.0)
    part.nodes(_clock.NODES)
    assert part.left() == pytest.approx(3.0)
    assert clock.left() == pytest.approx(9.0)
    assert clock.part(100.0).left() == pytest.approx(9.0)
    wall = Clock(1e6)
    wall.spend(5e5)
    assert wall.left() > 9e5


@needs_compiler
def test_the_alarm_ends_a_search_and_leaves_a_true_bound() -> None:
    gain, _ = instance(70, 2)
    core = make_core(make_problem(gain))
    full = Pricer(core).exact(np.zeros(70), 0.0, nodes=50)
    assert not full.complete
    pricer = Pricer(core, Clock(0.2))
    found = pricer.exact(np.zeros(70), 0.0, nodes=2**60)
    assert not found.complete
    best = max(core.gain[np.ix_(m, m)].sum() / 2 for m in found.members)
    assert found.bound >= best
    assert pricer.stop[0] == 0


_INTERRUPTED = """
import signal, threading
import numpy as np
from kinfold.partition import solve

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
gain = np.random.default_rng(4).normal(size=({k}, {k}))
threading.Timer(4.0, signal.raise_signal, [signal.SIGINT]).start()
try:
    solve(gain + gain.T, method="{method}", time_limit=600, workers=1)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    ("method", "k"), [pytest.param("columns", 70, marks=needs_compiler), pytest.param("clique", 60)]
)
def test_ctrl_c_ends_a_search(method: str, k: int) -> None:
    # In a process of its own: what other tests and their libraries did to the signal must not matter.
    command = [sys.executable, "-c", _INTERRUPTED.format(method=method, k=k)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip() == "interrupted", done.stderr


_TOO_EARLY = """
import signal, threading, time
from kinfold.partition._clock import interruptible

class Solver:
    # Forgets a stop that comes before it has begun, as CP-SAT does.
    stopped = began = False
    def run(self):
        time.sleep(0.5)
        self.stopped, self.began = False, True
        end = time.monotonic() + 120
        while not self.stopped and time.monotonic() < end:
            time.sleep(0.01)
        print("stopped" if self.stopped else "ran on")
    def stop(self):
        self.stopped = True

signal.signal(signal.SIGINT, signal.default_int_handler)
solver = Solver()
threading.Timer(0.1, signal.raise_signal, [signal.SIGINT]).start()
try:
    interruptible(solver.run, solver.stop)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_stop_that_comes_too_early_is_repeated() -> None:
    done = subprocess.run([sys.executable, "-c", _TOO_EARLY], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.split("\n")[:-1] == ["stopped", "interrupted"], done.stderr


def test_an_interrupt_ends_a_round_of_annealing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of a long limit last minutes; the kernel looks at `stop`, which only the interrupt rings here."""
    from kinfold.partition import heuristic

    rang = []

    def gather(jobs: object, cancel: object) -> None:
        cancel()
        rang.append(jobs)
        raise KeyboardInterrupt

    monkeypatch.setattr(heuristic, "gather", gather)
    gain = np.random.default_rng(4).normal(size=(30, 30))
    with pytest.raises(KeyboardInterrupt):
        heuristic.search(make_core(make_problem(gain + gain.T)), seconds=1e6, deterministic=True)
    assert len(rang) == 1
