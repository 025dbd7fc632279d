"""Configuration: precedence, kinds, all faults at once with their places, and writing it back."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.app._faults import all_paths, describe, hints, type_at
from kinfold.app._yaml import parse_yaml
from kinfold.app.config import Flag, KinfoldConfig, dump_yaml, field_info, plain, resolve, settings_help
from kinfold.errors import ConfigError
from kinfold.partition.settings import PlanSettings


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "kinfold.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def faults(tmp_path: Path, text: str, **more: object) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(write(tmp_path, text), **more)  # type: ignore[arg-type]
    lines = str(caught.value).splitlines()
    return lines if len(lines) == 1 else [line.strip() for line in lines[1:]]


def test_nothing_given_is_the_rooms_defaults() -> None:
    assert resolve().config == KinfoldConfig()
    assert resolve().config.plan == PlanSettings()


def test_later_sources_win(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: 1\nplan: {lam: 1.5, kappa: 0.25, time_limit: 3}\n")
    given = [Flag(("plan", "kappa"), 0.5, "--kappa"), Flag(("plan", "time_limit"), 4, "--time-limit")]
    resolved = resolve(path, given, ["plan.time_limit=5"])
    config = resolved.config
    assert (config.seed, config.plan.lam, config.plan.kappa, config.plan.time_limit) == (1, 1.5, 0.5, 5)
    assert resolved.origins["plan", "lam"].endswith("kinfold.yaml, line 2")
    assert resolved.origins["plan", "kappa"] == "--kappa"
    assert resolved.origins["plan", "time_limit"] == "--set plan.time_limit"


def test_the_float_trap_of_yaml_1_1(tmp_path: Path) -> None:
    config = resolve(write(tmp_path, "train:\n  lr: 5e-5\n  tokens_per_stage: 1e6\n"), sets=["train.weight_decay=1e-3"])
    assert config.config.train.lr == 5e-5
    assert config.config.train.tokens_per_stage == 1_000_000
    assert config.config.train.weight_decay == 1e-3


def test_every_fault_is_named_once_with_its_place(tmp_path: Path) -> None:
    text = (
        "sed: 3\n"  # 1 unknown, top level
        "plan:\n"
        "  lamda: 2\n"  # 3 unknown, close
        "  stages: many\n"  # 4 wrong kind in a union
        "  scale: rnk\n"  # 5 not one of the choices
        "train:\n"
        "  lr: -1\n"  # 7 wrong value, right kind
        "  lora: {rank: '8'}\n"  # 8 text for a number, nested
        "  compile: yes\n"  # 9 YAML 1.1 truth
        "  bootstrap: 3\n"
        "  lr: 2\n"  # 11 duplicate
        "measure: {lambda: 1}\n"  # 12 unknown
    )
    found = faults(tmp_path, text, flags=[Flag(("plan", "kappa"), "x", "--kappa")], sets=["train.epochs=0"])
    expected = [
        ("line 1: sed", "did you mean seed?"),
        ("line 3: plan.lamda", "did you mean plan.lam?"),
        ("line 4: plan.stages='many'", "a whole number, a list of 2 (each a whole number) or null"),
        ("line 5: plan.scale='rnk'", "did you mean rank?"),
        ("line 7: train.lr=-1", "above 0"),
        ("line 8: train.lora.rank='8'", "a whole number"),
        ("line 9: train.compile='yes'", "write true"),
        ("line 11: train.lr", "given twice (first on line 7)"),
        ("line 12: measure.lambda", "is not a setting"),
        ("--kappa: plan.kappa='x'", "a number"),
        ("--set train.epochs: train.epochs=0", "above 0"),
    ]
    assert len(found) == len(expected), "\n".join(found)
    for line, (place, remedy) in zip(found, expected, strict=True):
        assert place in line
        assert remedy in line


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("epochs: 3", "did you mean train.epochs?"),
        ("train: {lam: 1}", "did you mean plan.lam?"),
        ("plan: {stages: 1.5}", "plan.stages=1.5: must be one of fewest, free, a whole number"),
        ("plan: {stages: true}", "plan.stages=true"),
        ("seed: 1.0", "seed=1.0: must be a whole number"),
        ("seed: -1", "seed=-1"),
        ("plan: [1]", "must be a mapping of settings"),
        ("- 1", "the top level must be a mapping"),
        ("plan: {must_link: [[a, 3]]}", "plan.must_link[0][1]=3: must be text"),
        ("plan: {budget: {tokens: lots}}", "plan.budget.tokens='lots': must be a number"),
        ("corpora: {path: a, domains: {b: c}}", "keep one of them"),
        ("measure: {embedder: model}", "measure.model"),
        ("train: {max_steps: many}", "a whole number or null"),
        ("train: {lr: .nan}", "train.lr"),
        ("plan: {lam: .inf}", "plan.lam"),
        ('model: "\\ud800"', "cannot be read"),
        ("plan: {pin: {a: 1.5}}", "plan.pin.a=1.5: must be a whole number"),
        ("train: {lora: 3}", "train.lora=3: must be a mapping of settings"),
    ],
)
def test_one_fault_one_sentence(tmp_path: Path, text: str, what: str) -> None:
    (line,) = faults(tmp_path, text)
    assert what in line
    assert line.endswith((".", "?"))


def test_value_faults_of_two_sections_come_together(tmp_path: Path) -> None:
    found = faults(tmp_path, "plan: {lam: -1}\ntrain: {lora: {rank: 0}, lr: 0}\nmeasure: {bootstrap: -1}\nseed: -2\n")
    assert [line.split(": ")[1].split("=")[0] for line in found] == [
        "plan.lam", "train.lora.rank", "train.lr", "measure.bootstrap", "seed",
    ]  # fmt: skip


def test_none_is_taken_for_null_only_where_it_means_that(tmp_path: Path) -> None:
    config = resolve(write(tmp_path, "train: {max_steps: none, grad_clip: None}\nplan: {scale: none}\n")).config
    assert config.train.max_steps is None
    assert config.train.grad_clip is None
    assert config.plan.scale == "none"


def test_empty_sections_are_defaults(tmp_path: Path) -> None:
    assert resolve(write(tmp_path, "plan:\ntrain:\n  lora:\n")).config == KinfoldConfig()
    assert resolve(write(tmp_path, "")).config == KinfoldConfig()


def test_paths_of_a_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    text = "corpora: texts\nmodel: base\ntokenizer: org/on-the-hub\n"
    config = resolve(write(tmp_path, text)).config
    assert config.corpora.path == str(tmp_path / "texts")
    assert config.model == str(tmp_path / "base")
    assert config.tokenizer == "org/on-the-hub"
    inline = "corpora: {domains: {a: x.txt, b: {path: /abs/y.txt}, c: {hub: org/set}}}\n"
    domains = resolve(write(tmp_path, inline)).config.corpora.domains
    assert domains == {"a": str(tmp_path / "x.txt"), "b": {"path": "/abs/y.txt"}, "c": {"hub": "org/set"}}


def test_the_model_is_lent_to_measures_that_need_it(tmp_path: Path) -> None:
    assert resolve(write(tmp_path, "model: m\nmeasure: {embedder: model}\n")).config.measure.model == "m"
    assert resolve(write(tmp_path, "model: m\nmeasure: {samples: 10}\n")).config.measure.model is None


def test_mappings_merge_from_flags_and_are_replaced_by_set(tmp_path: Path) -> None:
    path = write(tmp_path, "plan: {budget: {tokens: 10, domains: 2}}\n")
    flag = Flag(("plan", "budget"), {"tokens": 20.0}, "--budget")
    assert resolve(path, [flag]).config.plan.budget == {"tokens": 20, "domains": 2}
    assert resolve(path, [flag], ["plan.budget={domains: 3}"]).config.plan.budget == {"domains": 3}


@pytest.mark.parametrize("text", ["plan.lam", "=3", "plan..lam=3", ".=1"])
def test_set_wants_a_path_and_a_value(text: str) -> None:
    with pytest.raises(ConfigError, match="must look like section"):
        resolve(sets=[text])


def test_set_reads_lists_and_names_broken_yaml() -> None:
    assert resolve(sets=["train.lora.targets=[q_proj, v_proj]"]).config.train.lora.targets == ("q_proj", "v_proj")
    with pytest.raises(ConfigError, match=r"--set plan\.pin"):
        resolve(sets=["plan.pin={a: "])


def test_a_resolved_configuration_is_read_back_as_itself(tmp_path: Path) -> None:
    links = "plan.must_link=[[a, 'no'], ['1', 'x: y']]"
    config = resolve(sets=["plan.stages=[2, 4]", "plan.budget={tokens: 5e-5}", links, "train.lr=1e-5"]).config
    assert resolve(write(tmp_path, dump_yaml(config))).config == config


@settings(max_examples=60, deadline=None)
@given(
    lam=st.floats(0, 1e6),
    stages=st.none() | st.integers(1, 50) | st.tuples(st.integers(1, 5), st.integers(5, 9)),
    budget=st.dictionaries(st.text(min_size=1, max_size=6), st.floats(0.001, 1e12), max_size=3),
    links=st.lists(st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=3, unique=True), max_size=2),
    pin=st.dictionaries(st.text(min_size=1, max_size=6), st.integers(1, 9), max_size=3),
)
def test_any_valid_plan_survives_yaml(tmp_path_factory, lam, stages, budget, links, pin) -> None:
    made = PlanSettings(
        lam=lam, stages=stages, budget=budget, must_link=tuple(map(tuple, links)), pin=pin
    )  # fmt: skip
    path = tmp_path_factory.mktemp("config") / "c.yaml"
    path.write_text(dump_yaml({"plan": made}), encoding="utf-8")
    assert resolve(path).config.plan == made


def test_every_setting_has_help_and_a_readable_kind() -> None:
    seen = 0
    for path, _default, text in settings_help():
        seen += 1
        assert text, f"{'.'.join(path)} has no help"
        assert describe(type_at(KinfoldConfig, path)) != "any value", path
    assert seen > 60


def test_every_path_reaches_its_field() -> None:
    for path in all_paths(KinfoldConfig):
        assert field_info(path).name == path[-1]
    with pytest.raises(ConfigError, match="not a setting"):
        field_info(("plan", "nope"))


def test_sections_forbid_the_unknown() -> None:
    """Every settings dataclass that the configuration reaches refuses extra keys, not only the top one."""

    def check(kind: type) -> int:
        assert kind.__pydantic_config__ == {"extra": "forbid"}, kind  # type: ignore[attr-defined]
        below = [item for item in hints(kind).values() if isinstance(item, type) and dataclasses.is_dataclass(item)]
        return 1 + sum(check(item) for item in below)

    assert check(KinfoldConfig) >= 6


def test_plain_values_are_yaml_values() -> None:
    values = plain(KinfoldConfig())
    assert parse_yaml(dump_yaml(values), "x").value == values
