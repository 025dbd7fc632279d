"""A conflict that was not shown to be minimal must not be called so."""

from __future__ import annotations

import pytest
from kinfold.errors import InfeasibleError
from kinfold.partition import _clique
from kinfold.partition._clock import Clock
from kinfold.partition._infeasible import explain_infeasible, minimal_conflict
from kinfold.partition.problem import make_problem

# Three that must be apart in two stages; the fourth constraint has nothing to do with it.
PROBLEM = make_problem(
    [[0.0] * 5 for _ in range(5)], stages=(1, 2), cannot_link=[(0, 1), (0, 2), (1, 2)], must_link=[(3, 4)]
)


def test_every_constraint_named_is_needed_and_that_is_said() -> None:
    conflict = minimal_conflict(PROBLEM, clock=Clock(10))
    assert conflict is not None
    assert conflict.minimal
    assert set(conflict.constraints) == {
        "cannot_link 0, 1",
        "cannot_link 0, 2",
        "cannot_link 1, 2",
        "at most 2 stages",
    }
    assert "dropping any one of them helps" in str(explain_infeasible(PROBLEM, clock=Clock(10)))


@pytest.mark.parametrize("patience", [1, 10**6])
def test_a_check_that_ran_out_of_time_is_made_again_or_owned_up_to(
    monkeypatch: pytest.MonkeyPatch, patience: int
) -> None:
    """Every question about dropping the must_link comes back unknown, once or for ever."""
    real = _clique.feasibility
    asked = 0

    def tired(core: object, **options: object) -> object:
        nonlocal asked
        answer = real(core, **options)  # type: ignore[arg-type]
        if core.n == 5 and asked < patience:  # type: ignore[attr-defined]
            asked += 1
            return None, float("inf"), "unknown", 0.0
        return answer

    monkeypatch.setattr(_clique, "feasibility", tired)
    conflict = minimal_conflict(PROBLEM, clock=Clock(10))
    assert conflict is not None
    if patience == 1:
        assert conflict.minimal
        assert "must_link 3, 4" not in conflict.constraints
    else:
        assert not conflict.minimal
        fault = explain_infeasible(PROBLEM, clock=Clock(10))
        assert isinstance(fault, InfeasibleError)
        assert "dropping any one" not in str(fault)
        assert "before it was clear" in str(fault)
