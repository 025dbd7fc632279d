from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import kinfold

_USE = """
import numpy as np
from kinfold.metrics._kernels import pair_sums
from kinfold.partition._jit import compiled
from kinfold.partition._price import price
print(pair_sums.stats.cache_path)
print(compiled(price).stats.cache_path)
"""


def _paths(**environment: str) -> list[Path]:
    done = subprocess.run(
        [sys.executable, "-c", _USE], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return [Path(line) for line in done.stdout.split()]


def test_kernels_are_kept_in_the_users_cache_and_never_in_the_package(tmp_path: Path) -> None:
    """A file in an installed package that pip does not know of outlives it, and its folder hides the next install."""
    package = Path(str(kinfold.__file__)).parent
    for path in _paths(KINFOLD_CACHE=str(tmp_path), NUMBA_CACHE_DIR=""):
        assert tmp_path in path.parents
        assert package not in path.parents


def test_a_folder_the_user_named_for_numba_is_used(tmp_path: Path) -> None:
    assert all(tmp_path / "mine" in path.parents for path in _paths(NUMBA_CACHE_DIR=str(tmp_path / "mine")))


def test_numbas_own_setting_is_left_alone() -> None:
    from numba.core import config

    before = config.CACHE_DIR
    from kinfold._compile import kernel

    assert kernel(lambda x: x + 1)(1) == 2
    assert before == config.CACHE_DIR


_KERNEL = """
from kinfold._compile import kernel
from helper import more

def step(x):
    return more(x)

print(kernel(step)(1))
"""
_HELPER = """
from numba.extending import register_jitable

@register_jitable
def more(x):
    return x + {}
"""


def test_a_kernel_is_compiled_anew_when_a_function_from_another_file_changes(tmp_path: Path) -> None:
    """numba looks at the kernel's own file only, and would go on with the old code."""
    (tmp_path / "kernel_file.py").write_text(_KERNEL)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    for number in (1, 2, 1):
        (tmp_path / "helper.py").write_text(_HELPER.format(number))
        done = subprocess.run(
            [sys.executable, "-B", "kernel_file.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.stdout == f"{1 + number}\n", done.stderr
