"""Column generation from nothing, and certificates of problems whose numbers are small."""

from __future__ import annotations

import numpy as np
import pytest
from kinfold.partition import _columns, solve
from kinfold.partition._core import make_core
from kinfold.partition._jit import have_compiler
from kinfold.partition.problem import make_problem
from kinfold.partition.solution import Solution

needs_compiler = pytest.mark.skipif(not have_compiler(), reason="needs a compiler")


def whole_gains(n: int, seed: int) -> np.ndarray:
    upper = np.triu(np.random.default_rng(seed).integers(-9, 10, (n, n)), 1).astype(float)
    return upper + upper.T


@needs_compiler
@pytest.mark.parametrize("seed", range(6))
def test_it_needs_no_partition_to_begin_with(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """As after pairs were fixed that no known partition respects; with a pool so small that it must cut."""
    monkeypatch.setattr(_columns, "_POOL", 2)
    monkeypatch.setattr(_columns, "_NODES", 5)
    gain = whole_gains(9, seed)
    best = solve(gain, workers=1)
    core = make_core(make_problem(gain))
    target = core.value(best.assignment)
    low = core.value(np.arange(9)) - 1
    found = _columns.generate_columns(core, low, partitions=[])
    assert found.bound >= target
    if found.labels is not None:
        assert core.value(found.labels) == found.value <= target
    # Told to beat the optimum, it shows that nothing does.
    none = _columns.generate_columns(core, target, partitions=[])
    assert none.labels is None
    assert none.bound >= target


def test_a_small_unit_proves_nothing() -> None:
    """1e-9 is a rounding error beside a hundred and everything beside 1e-11."""
    assert Solution.make(np.zeros(2, dtype=np.int64), 1.9e-12, 1.66e-11, 0.0).status == "feasible"
    assert Solution.make(np.zeros(2, dtype=np.int64), 100.0, 100.0 + 1e-8, 0.0).status == "optimal"
    assert Solution.make(np.zeros(2, dtype=np.int64), 0.0, 0.0, 0.0).status == "optimal"


@pytest.mark.parametrize("unit", [1e-11, 1e-3, 1e11])
def test_the_unit_of_the_gains_changes_no_certificate(unit: float) -> None:
    gain = whole_gains(30, 1) + 0.5
    plain = solve(gain, method="heuristic", time_limit=0.05, seed=2, deterministic=True)
    other = solve(gain * unit, method="heuristic", time_limit=0.05, seed=2, deterministic=True)
    assert plain.status == other.status == "feasible"


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_cost_of_stages_far_above_all_gains_overflows_nothing() -> None:
    """Gains are made finer for the duals; by gains of 0 alone a cost in thousands came to more than 64 bits hold."""
    gain = np.zeros((6, 6))
    gain[0, 1] = gain[1, 0] = 1.0
    answer = solve(
        gain,
        kappa=123456.789,
        must_link=[(0, 1, 2), (3, 4, 5)],
        cannot_link=[(0, 3)],
        method="columns",
        deterministic=True,
    )
    assert answer.stages == 2
    assert answer.objective == pytest.approx(1.0 - 2 * 123456.789)
    assert answer.status == "optimal"
