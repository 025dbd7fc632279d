"""The YAML reader: YAML 1.2 scalars, lines of paths, duplicates; PyYAML's own answers as the reference elsewhere."""

from __future__ import annotations

import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.app._yaml import parse_scalar, parse_yaml, read_yaml
from kinfold.app.config import dump_yaml
from kinfold.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-5", 5e-5),
        ("5E-5", 5e-5),
        ("+1.5e+3", 1500),
        ("1e6", 1_000_000),
        ("2.0", 2.0),
        (".5", 0.5),
        ("010", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("1_000", 1000),
        ("1:30", "1:30"),
        ("no", "no"),
        ("on", "on"),
        ("2020-01-01", "2020-01-01"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("-.inf", -math.inf),
        ("e5", "e5"),
        ("1e", "1e"),
        ("-", "-"),
        (".", "."),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    parsed = parse_scalar(text)
    assert parsed == value
    assert type(parsed) is type(value)


def test_nan_is_a_number() -> None:
    assert math.isnan(parse_scalar(".nan"))


def test_the_trap_that_this_reader_avoids_exists() -> None:
    """If PyYAML ever follows YAML 1.2, this reader can go."""
    assert yaml.safe_load("lr: 5e-5") == {"lr": "5e-5"}
    assert parse_yaml("lr: 5e-5", "x").value == {"lr": 5e-5}


def test_lines_of_paths_and_their_parents() -> None:
    document = parse_yaml("a: 1\nb:\n  c: 2\n  d:\n  - x\n  - y\n", "x")
    assert document.line(("a",)) == 1
    assert document.line(("b", "c")) == 3
    assert document.line(("b", "d", 1)) == 6
    assert document.line(("b", "missing")) == 2
    assert parse_yaml("", "x").line(("a",)) is None


def test_a_duplicate_key_is_a_fault_with_both_lines() -> None:
    document = parse_yaml("plan:\n  lam: 1\n  kappa: 0\n  lam: 2\n", "x")
    ((line, sentence),) = document.faults
    assert line == 4
    assert "plan.lam" in sentence
    assert "line 2" in sentence


def test_merge_keys_and_anchors() -> None:
    document = parse_yaml("base: &b {x: 1, y: 2}\nnext:\n  <<: *b\n  y: 3\n", "x")
    assert document.value["next"] == {"x": 1, "y": 3}
    assert not document.faults


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a: [1", "line"),
        ("a: 1\n---\nb: 2\n", "line 3: a second YAML document"),
        ("a:\n\t- 1", "line 2"),
        ("a: *nowhere", "line 1"),
    ],
)
def test_broken_yaml_names_the_line(text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        parse_yaml(text, "file.yaml")


def test_an_alias_bomb_is_refused() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ConfigError, match="unfolds without end"):
        parse_yaml("\n".join(levels), "x")
    with pytest.raises(ConfigError, match="unfolds without end"):
        parse_yaml("a: &a [*a]", "x")


def test_tags_are_refused_not_run() -> None:
    document = parse_yaml("a: !!python/object/apply:os.system ['true']\nb: !custom x\n", "x")
    assert document.value["a"] == ["true"]
    assert document.value["b"] is None
    assert len(document.faults) == 1


def test_unreadable_files_get_one_sentence(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="a folder"):
        read_yaml(tmp_path)
    bad = tmp_path / "latin.yaml"
    bad.write_bytes(b"model: caf\xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_yaml(bad)
    bom = tmp_path / "bom.yaml"
    bom.write_bytes(b"\xef\xbb\xbfseed: 3\n")
    assert read_yaml(bom).value == {"seed": 3}


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(value=st.dictionaries(st.text(min_size=1, max_size=8), plain_values, max_size=4))
def test_what_is_written_is_read_back(value: dict[str, object]) -> None:
    """`dump_yaml` and the reader are inverse, and a YAML 1.1 reader takes no text for something else."""
    written = dump_yaml(value)
    assert parse_yaml(written, "x").value == value
    assert yaml.safe_load(written) == value
