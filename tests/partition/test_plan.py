"""A plan file that was changed after it was made must not go on claiming what was proved for another."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from kinfold.errors import PlanError
from kinfold.metrics.relations import Relations
from kinfold.partition import Plan, PlanSettings, make_plan
from kinfold.partition.plan import certificate_of

SETTINGS = PlanSettings(stages="free", bootstrap=0, phase=0, compare=False, budget={"domains": 4})


@pytest.fixture
def saved(relations: Relations, tmp_path: Path) -> tuple[Plan, Path]:
    plan = make_plan(relations, settings=SETTINGS)
    plan.save(tmp_path / "plan.json")
    return plan, tmp_path / "plan.json"


def change(path: Path, edit: Callable[[dict], None]) -> Plan:
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))
    return Plan.load(path)


def test_an_untouched_file_keeps_its_certificate(saved: tuple[Plan, Path]) -> None:
    plan, path = saved
    again = Plan.load(path)
    assert again == plan
    assert again.certificate == "proved optimal"
    assert again.revalidated() == again
    # Reformatting is not a change.
    path.write_text(json.dumps(json.loads(path.read_text()), indent=7))
    assert Plan.load(path).certificate == "proved optimal"


def test_moved_domains_lose_the_certificate_on_load_and_keep_the_bound(saved: tuple[Plan, Path]) -> None:
    plan, path = saved

    def split(values: dict) -> None:
        values["stages"].append([values["stages"][0].pop()])

    edited = change(path, split)
    assert edited.certificate == "no certificate"
    assert edited.status == "given"
    assert edited.gap is None
    assert any("changed after it was made" in line for line in edited.warnings)
    mended = edited.revalidated()
    assert mended.bound == plan.bound
    assert mended.objective < plan.objective
    assert mended.gap == pytest.approx((mended.bound - mended.objective) / abs(mended.objective))
    assert mended.certificate == certificate_of("given", mended.gap) != "proved optimal"
    assert not any("changed after it was made" in line for line in mended.warnings)


@pytest.mark.parametrize(
    "edit",
    [
        lambda values: values["budget"].update(domains=9),
        lambda values: values["settings"].update(kappa=-1.0),
        lambda values: values["settings"].update(stages=[1, 2]),
        lambda values: values["sizes"]["domains"].update(d00=0.5),
        lambda values: values.update(bound=values["bound"] - 1.0),
        lambda values: [row.__setitem__(0, row[0] + (n > 0)) for n, row in enumerate(values["gain"])],
    ],
    ids=["budget", "kappa", "stages", "size", "bound", "gain"],
)
def test_a_bound_is_not_a_bound_for_another_problem(saved: tuple[Plan, Path], edit: Callable[[dict], None]) -> None:
    _, path = saved
    edited = change(path, edit)
    assert edited.certificate == "no certificate"
    assert edited.bound is None
    try:
        mended = edited.revalidated()
    except PlanError:
        return
    assert mended.bound is None
    assert mended.certificate == "no certificate"


def test_a_budget_loosened_in_memory_drops_the_bound(saved: tuple[Plan, Path]) -> None:
    plan, _ = saved
    loose = replace(plan, budget={"domains": 10.0})
    assert loose.certificate == "no certificate"
    assert loose.revalidated().bound is None


def test_a_claim_without_a_seal_is_not_believed(saved: tuple[Plan, Path]) -> None:
    _, path = saved
    edited = change(path, lambda values: values.pop("seal"))
    assert edited.certificate == "no certificate"
    assert any("carries no seal" in line for line in edited.warnings)
    assert not any("changed after" in line for line in edited.warnings)
    assert edited.bound is None


def test_another_order_keeps_the_proof_and_drops_what_spoke_of_the_order(saved: tuple[Plan, Path]) -> None:
    plan, path = saved
    edited = change(path, lambda values: values["stages"].reverse())
    assert edited.certificate == "proved optimal"
    mended = edited.revalidated()
    assert mended.certificate == "proved optimal"
    assert mended.stages == tuple(reversed(plan.stages))
    assert mended.order is None
    assert mended.explain == {}


def test_the_comparison_says_which_peers_were_repaired(relations: Relations) -> None:
    rows = {
        row["name"]: row
        for row in make_plan(relations, settings=replace(SETTINGS, compare=True, budget={"domains": 2})).solvers
    }
    assert rows["all_in_one"]["repaired"]
    assert not rows["one_per_domain"]["repaired"]
    assert not rows["kinfold"]["repaired"]
