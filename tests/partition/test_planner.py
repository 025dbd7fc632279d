"""From relations to a plan file: what it says must be true of it, whoever computes it."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from kinfold.errors import ConfigError, FingerprintError, InfeasibleError, PlanError
from kinfold.metrics.relations import Relations
from kinfold.partition import Plan, PlanSettings, check_fingerprints, diff_plans, extend_plan, make_plan
from kinfold.partition.plan import certificate_of, schema

QUICK = PlanSettings(stages="free", bootstrap=4, phase=2, compare=True, workers=1, time_limit=5)


def test_a_plan_file_round_trips_exactly_and_fits_its_schema(relations, tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    plan = make_plan(relations, settings=replace(QUICK, budget={"tokens": 25000}), seed=3)
    plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again == plan
    assert again.to_dict() == plan.to_dict()
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "plan.json").read_bytes()
    jsonschema.validate(json.loads((tmp_path / "plan.json").read_text()), schema())
    assert plan.verify() == ()


def test_the_stored_objective_is_that_of_the_stages(relations):
    plan = make_plan(relations, settings=replace(QUICK, kappa=0.25, lam=0.8))
    index = {name: i for i, name in enumerate(plan.domains)}
    total = -0.25 * len(plan.stages)
    for stage in plan.stages:
        for a, b in itertools.combinations(stage, 2):
            i, j = index[a], index[b]
            total += 0.8 * plan.synergy[i, j] - plan.discrepancy[i, j]
    assert plan.objective == pytest.approx(total, abs=1e-12)
    assert plan.status == "optimal"
    assert plan.certificate == "proved optimal"
    assert plan.gap == 0


def test_scale_none_reproduces_the_brute_force_optimum_of_the_papers_objective(relations_of, brute_force):
    for seed in range(6):
        relations = relations_of(k=7, seed=seed)
        for lam in (0.3, 0.7, 1.5):
            plan = make_plan(
                relations,
                settings=replace(QUICK, scale="none", lam=lam, kappa=0.05, bootstrap=0, phase=0, compare=False),
            )
            # G = −Σ_t [Σ d − λ Σ s + capacity], the capacity of a stage being kappa.
            paper = -(relations.matrix("js") - lam * relations.matrix("synergy"))
            assert plan.objective == pytest.approx(brute_force(paper, kappa=0.05), abs=1e-9)


def test_permuting_and_renaming_domains_permutes_the_plan(relations_of):
    relations = relations_of(k=9, seed=4)
    order = np.random.default_rng(0).permutation(9)
    shuffled = relations.subset([relations.domains[i] for i in order])
    settings = replace(QUICK, scale="none", lam=0.5, budget={"tokens": 30000}, bootstrap=0, phase=0, compare=False)
    one, other = make_plan(relations, settings=settings), make_plan(shuffled, settings=settings)
    assert one.objective == pytest.approx(other.objective, abs=1e-12)
    assert [set(stage) for stage in one.stages] == [set(stage) for stage in other.stages]


def test_budgets_links_and_pins_hold(relations):
    settings = replace(
        QUICK,
        budget={"tokens": 25000, "domains": 4},
        minimum={"tokens": 2000},
        must_link=(("d00", "d05"),),
        cannot_link=(("d01", "d02", "d03"),),
        pin={"d09": 1, "d04": -1},
    )
    plan = make_plan(relations, settings=settings)
    assert plan.verify() == ()
    assert "d09" in plan.stages[0]
    assert "d04" in plan.stages[-1]
    assert plan.stage_of("d00") == plan.stage_of("d05")
    assert len({plan.stage_of(name) for name in ("d01", "d02", "d03")}) == 3
    for stage in plan.stages:
        assert len(stage) <= 4
        assert 2000 <= sum(plan.sizes["tokens"][name] for name in stage) <= 25000


def test_sizes_of_unmeasured_resources_and_overhead(relations):
    settings = replace(
        QUICK,
        sizes={"gpu_memory": dict.fromkeys(relations.domains, 2.0)},
        budget={"gpu_memory": 10.0},
        overhead={"gpu_memory": 4.0},
    )
    plan = make_plan(relations, settings=settings)
    assert max(len(stage) for stage in plan.stages) <= 3
    assert plan.verify() == ()
    with pytest.raises(ConfigError, match=r"plan\.sizes"):
        make_plan(relations, settings=replace(QUICK, budget={"gpu_memory": 10.0}))


def test_a_conflict_is_named_and_minimal(relations):
    settings = replace(
        QUICK,
        stages=(1, 2),
        cannot_link=(("d00", "d01", "d02"),),
        must_link=(("d03", "d04"),),
        budget={"tokens": 1e9},
    )
    with pytest.raises(InfeasibleError) as caught:
        make_plan(relations, settings=settings)
    message = str(caught.value)
    assert "at most 2 stages" in message
    for pair in ("d00, d01", "d00, d02", "d01, d02"):
        assert f"cannot_link {pair}" in message
    assert "d03" not in message
    assert "budget" not in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": {"tokens": 10}}, "takes .* tokens but a stage may hold 10"),
        ({"stages": 40}, "40 stages are asked for but there are 10 domains"),
        ({"must_link": (("d00", "d01"),), "cannot_link": (("d00", "d01"),)}, "contradicts must_link"),
        ({"budget": {"tokens": 12000}, "stages": 2}, "2 stages hold"),
        ({"minimum": {"tokens": 30000}, "stages": 9}, "9 stages need"),
    ],
)
def test_obvious_conflicts_come_with_their_numbers(relations, changes, words):
    with pytest.raises(InfeasibleError, match=words):
        make_plan(relations, settings=replace(QUICK, **changes))


def test_names_that_do_not_exist_are_refused(relations):
    for changes, words in (
        ({"discrepancy": "nope"}, "no measure 'nope'"),
        ({"must_link": (("d00", "zz"),)}, "no domain 'zz'"),
        ({"pin": {"zz": 1}}, "no domain 'zz'"),
    ):
        with pytest.raises((ConfigError, PlanError), match=words):
            make_plan(relations, settings=replace(QUICK, **changes))


def test_a_plan_written_by_hand_loads_and_an_edited_one_is_judged_again(relations, tmp_path):
    (tmp_path / "hand.json").write_text('{"version": 1, "stages": [["a", "b"], ["c"]]}')
    hand = Plan.load(tmp_path / "hand.json")
    assert hand.domains == ("a", "b", "c")
    assert hand.objective is None
    assert hand.certificate == "no certificate"
    assert hand.verify() == ()
    plan = make_plan(relations, settings=replace(QUICK, budget={"domains": 4}))
    values = plan.to_dict()
    moved = values["stages"][0].pop()
    values["stages"].append([moved])
    edited = Plan.from_dict(values)
    assert "stored objective" in edited.verify()[0]
    mended = edited.revalidated()
    assert mended.verify() == ()
    assert mended.objective < plan.objective
    assert mended.status == "given"
    assert mended.bound == plan.bound
    values["stages"] = [[name for stage in values["stages"] for name in stage]]
    with pytest.raises(PlanError, match="over the budget of 4"):
        Plan.from_dict(values).revalidated()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "JSON object"),
        ('{"version": 2, "stages": [["a"]]}', "version 2"),
        ('{"version": 1, "stages": [["a", "a"]]}', "twice"),
        ('{"version": 1, "stages": [[]]}', "stage 1"),
        ('{"version": 1, "stages": []}', "non-empty"),
        ('{"version": 1, "stages": [["a"]], "domains": ["a", "b"]}', "differ in b"),
        ('{"version": 1, "stages": [["a"]], "gain": [[0, 1]]}', "gain"),
        ('{"version": 1, "stages": [["a"]], "objektive": 1}', "unknown key"),
        ('{"version": 1, "stages": [["a"]], "bound": "x"}', "bound"),
        ('{"version": 1', "line 1"),
    ],
)
def test_a_damaged_plan_is_refused_with_the_reason(tmp_path, text, words):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PlanError, match=words):
        Plan.load(tmp_path / "plan.json")


def test_fingerprints_refuse_other_data(relations):
    plan = make_plan(relations, settings=QUICK)
    check_fingerprints(plan, {"corpora": dict(relations.fingerprints["corpora"]), "tokenizer": "t"})
    changed = {**relations.fingerprints["corpora"], "d03": "other"}
    with pytest.raises(FingerprintError, match="text of domain 'd03' changed"):
        check_fingerprints(plan, {"corpora": changed})
    del changed["d05"]
    with pytest.raises(FingerprintError, match="domain 'd05' is gone"):
        check_fingerprints(plan, {"corpora": changed})
    check_fingerprints(Plan.from_dict({"version": 1, "stages": [["a"]]}), {"corpora": {"a": "x"}})


def test_confidence_is_high_without_noise_and_names_the_fragile_with_it(relations_of):
    sure = make_plan(relations_of(noise=0.0), settings=replace(QUICK, bootstrap=6))
    assert sure.confidence["same_plan"] == 1.0
    assert sure.confidence["fragile"] == []
    together = np.array(sure.confidence["co_assignment"])
    labels = np.array(sure.assignment)
    assert np.array_equal(together, (labels[:, None] == labels[None, :]).astype(float))
    wild = make_plan(relations_of(noise=3.0), settings=replace(QUICK, bootstrap=6))
    assert wild.confidence["same_plan"] < 1.0
    assert min(wild.confidence["stability"].values()) < 0.9
    assert set(wild.confidence["fragile"]) == {n for n, s in wild.confidence["stability"].items() if s < 0.5}


def test_phase_diagram_falls_in_stages_with_lambda_and_budget(relations):
    plan = make_plan(relations, settings=replace(QUICK, phase=4, budget={"tokens": 25000}))
    counts = np.array(plan.phase["n_stages"], dtype=float)
    assert counts.shape == (len(plan.phase["budget"]), len(plan.phase["lam"]))
    at = plan.phase["budget"].index(25000.0), plan.phase["lam"].index(1.0)
    assert counts[at] == len(plan.stages)
    assert plan.phase["agreement"][at[0]][at[1]] == 1.0
    largest = np.array(plan.phase["largest"], dtype=float)
    assert largest[-1, -1] >= largest[0, -1]


def test_trivial_plans_are_called_trivial(relations_of):
    relations = relations_of(k=6)
    apart = make_plan(relations, settings=replace(QUICK, lam=0.0))
    assert len(apart.stages) == 6
    assert any("trivial" in line and "alone" in line for line in apart.warnings)
    joint = make_plan(relations, settings=replace(QUICK, lam=50.0))
    assert len(joint.stages) == 1
    assert any("hardly conflict" in line for line in joint.warnings)
    single = make_plan(relations.subset(["d00"]), settings=QUICK)
    assert single.stages == (("d00",),)
    assert any("one domain" in line for line in single.warnings)


def test_explanations_hold(relations):
    plan = make_plan(relations, settings=replace(QUICK, budget={"tokens": 22000}))
    index = {name: i for i, name in enumerate(plan.domains)}
    for name, why in plan.explain.items():
        own = [plan.gain[index[name], index[m]] for m in plan.stages[why["stage"]] if m != name]
        assert why["gain"] == pytest.approx(sum(own))
        if why["best_other"] is not None:
            other = [plan.gain[index[name], index[m]] for m in plan.stages[why["best_other"]]]
            assert why["best_other_gain"] == pytest.approx(sum(other))
        # In a proved plan nobody would rather be elsewhere unless something binds.
        assert why["margin"] >= -1e-9 or why["binding"]


def test_corollary_and_bound_terms(relations):
    plan = make_plan(relations, settings=replace(QUICK, lam=0.9))
    corollary = plan.theory["corollary"]
    assert corollary["applies"]
    assert corollary["held"] + len(corollary["broken"]) == corollary["premise_pairs"]
    assert corollary["sufficient_held"] == corollary["sufficient_pairs"]
    terms = plan.theory["terms"]
    assert (
        terms["all_in_one"]["discrepancy"]
        >= terms["plan"]["discrepancy"]
        >= terms["one_per_domain"]["discrepancy"]
        == 0
    )


def test_peers_never_beat_a_proved_plan_and_all_are_there(relations):
    plan = make_plan(relations, settings=replace(QUICK, budget={"tokens": 25000}))
    names = [row["name"] for row in plan.solvers]
    assert names[0] == "kinfold"
    assert {"single_linkage", "average_linkage", "louvain", "leiden", "spectral", "random", "all_in_one"} <= set(names)
    for row in plan.solvers:
        if row["feasible"]:
            assert row["objective"] <= plan.objective + 1e-9
            assert row["gap"] >= 0


def test_an_extension_that_cannot_be_speaks_of_what_the_user_gave(relations_of):
    relations = relations_of(9, 3)
    plan = make_plan(relations.subset(relations.domains[:8]), settings=replace(QUICK, stages=4))
    with pytest.raises(InfeasibleError) as raised:
        extend_plan(plan, relations, settings=replace(QUICK, budget={"domains": 1}))
    assert "while the old stay: " in str(raised.value)
    assert str(raised.value).endswith(" or more, or plan anew.")
    assert "must_link" not in str(raised.value), "the links are the extension's own"


def test_diff_and_extend(relations_of):
    relations = relations_of(k=11, seed=2)
    settings = replace(QUICK, budget={"domains": 5})
    small = make_plan(relations.subset(relations.domains[:-2]), settings=settings)
    grown = extend_plan(small, relations, settings=settings)
    assert grown.plan.verify() == ()
    assert grown.added == relations.domains[-2:]
    for old, new in zip(small.stages, grown.plan.stages, strict=False):
        assert set(old) == set(new) - set(grown.added)
    touched = {grown.plan.stage_of(name) for name in grown.added}
    assert set(grown.retrain) == touched
    assert all(line.startswith("+") for line in grown.lines()[: len(grown.added)])
    assert any(line.startswith("Old stages were kept") for line in grown.plan.warnings)
    assert not any("time_limit" in line for line in grown.plan.warnings)
    assert extend_plan(small, relations.subset(relations.domains[:-2])).plan == small
    difference = diff_plans(small, grown.plan)
    assert difference.added == grown.added
    assert difference.moved == {}
    assert not difference.same
    assert diff_plans(small, small).same
    assert diff_plans(small, small).lines() == ("the plans are the same",)
    other = Plan.from_dict({"version": 1, "stages": [list(small.domains)]})
    assert set(diff_plans(small, other).moved) == {
        d for d in small.domains if set(small.stages[small.stage_of(d)]) != set(small.domains)
    }


def test_floor_scale_uses_noise_units_and_composites_mix(relations):
    plan = make_plan(relations, settings=replace(QUICK, scale="floor", lam=0.5))
    unit = 4 * 0.05 / 3.92
    off = ~np.eye(len(plan.domains), dtype=bool)
    assert np.allclose(plan.discrepancy[off], relations.matrix("js")[off] / unit)
    mixed = make_plan(relations, settings=replace(QUICK, discrepancy={"js": 3.0, "synergy": 1.0}))
    assert not np.allclose(mixed.discrepancy, plan.discrepancy)
    bare = Relations(domains=relations.domains, matrices=dict(relations.matrices))
    with pytest.raises(PlanError, match="bootstrap"):
        make_plan(bare, settings=replace(QUICK, scale="floor"))


def test_same_seed_same_plan(relations):
    one, two = (make_plan(relations, settings=QUICK, seed=5) for _ in range(2))
    first, second = one.to_dict(), two.to_dict()
    for values in (first, second):
        values["seconds"] = 0
        for row in values["solvers"]:
            row["seconds"] = 0
    assert first == second


def test_certificates_in_words():
    assert certificate_of("optimal", 0.0) == "proved optimal"
    assert certificate_of("feasible", 0.0123) == "within 1.3 %"  # up: 1.2 would claim too much
    assert certificate_of("feasible", 0.07) == "within 7 %"
    assert certificate_of("feasible", 0.29118) == "within 30 %"
    assert certificate_of("feasible", 3.0) == "no certificate"
    assert certificate_of("given", None) == "no certificate"


@pytest.mark.parametrize(
    "bad",
    [
        {"lam": -1.0},
        {"lam": float("nan")},
        {"scale": "log"},
        {"method": "magic"},
        {"stages": (3, 2)},
        {"budget": {"tokens": 0}},
        {"minimum": {"tokens": 5.0}, "budget": {"tokens": 4.0}},
        {"must_link": (("a",),)},
        {"pin": {"a": 0}},
        {"time_limit": 0},
        {"bootstrap": -1},
        {"workers": 0},
        {"discrepancy": {"js": 0.0}},
    ],
)
def test_settings_that_cannot_be(bad):
    with pytest.raises(ConfigError, match=r"plan\."):
        PlanSettings(**bad)
