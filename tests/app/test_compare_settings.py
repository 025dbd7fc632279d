"""What a comparison can be told: methods, seeds and levels are checked before anything runs."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from kinfold.app.compare import CompareSettings
from kinfold.errors import ConfigError


def test_methods_are_settled_and_the_plan_comes_first() -> None:
    made = CompareSettings(methods=("Single_Linkage", "joint", "all in one"), ablate=("ssl",), seeds=(3,))
    assert made.methods == ("plan", "single-linkage", "joint", "no-ssl")
    assert replace(made, seeds=(1,)).methods == made.methods
    assert CompareSettings(methods="joint, random").methods == ("plan", "joint", "random")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"methods": ("jiont",)}, "compare.methods: 'jiont' is not known"),
        ({"methods": ()}, "names nothing beside the plan"),
        ({"ablate": ("lora",)}, "compare.ablate: 'lora' is not known"),
        ({"seeds": ()}, "compare.seeds"),
        ({"seeds": (0, 0)}, "names a seed twice"),
        ({"seeds": (-1,)}, "compare.seeds"),
        ({"draws": 0}, "compare.draws=0"),
        ({"jobs": True}, "compare.jobs=True"),
        ({"equal": "time"}, "compare.equal='time'"),
        ({"serving": "last"}, "compare.serving='last'"),
    ],
)
def test_settings_cannot_exist_wrong(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        CompareSettings(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grid_ssl": (-0.1,)}, "compare.grid_ssl=-0.1: must be a number from 0"),
        ({"token_noise": (0.0,)}, "compare.token_noise=0.0: must be a number above 0 up to 1"),
        ({"label_noise": (1.5,)}, "compare.label_noise=1.5"),
        ({"imbalance": (1.0,)}, "compare.imbalance=1.0: must be a number above 1"),
        ({"imbalance": ("ten",)}, "compare.imbalance='ten'"),
    ],
)
def test_levels_are_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        CompareSettings(**values)
