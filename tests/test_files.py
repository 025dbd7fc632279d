"""Names of files made from names of domains: reversible, and harmless to paths, shells and commands."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kinfold._files import atomic_path, name_of, slug


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40))
def test_a_slug_leads_back_to_its_name_and_needs_no_quoting(name: str) -> None:
    made = slug(name)
    assert name_of(made) == name
    assert re.fullmatch(r"[\w%.~-]+", made, re.ASCII)


@pytest.mark.parametrize("name", ["-rf", "--domain", ".hidden", "..", "../x", "-"])
def test_no_slug_is_hidden_an_option_or_a_way_out(name: str) -> None:
    assert slug(name)[0] == "%"
    assert "/" not in slug(name)
    assert name_of(slug(name)) == name


def test_a_disk_that_fills_up_is_named_by_the_file_that_did_not_fit(tmp_path: Path) -> None:
    """A stream's own error says only what happened."""
    with pytest.raises(OSError, match="No space") as raised, atomic_path(tmp_path / "relations.npz"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert raised.value.filename == str(tmp_path / "relations.npz")
    assert not list(tmp_path.iterdir())
