from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import kinfold
import pytest

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


_FIRST = """
import numpy as np
from kinfold._compile import compiled_before
from kinfold.stages import _kernels
print(compiled_before("stages"))
x = np.ones(4, np.float32)
_kernels.gate(x, x, x.copy())
print(compiled_before("stages"), compiled_before("metrics"))
"""


def test_the_first_use_of_a_room_is_known(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FIRST],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
    )
    assert done.stdout.split() == ["False", "True", "False"], done.stderr


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


_INTRINSIC = """
from numba.extending import intrinsic

@intrinsic
def more(typing, x):
    def code(context, builder, signature, arguments):
        return builder.add(arguments[0], arguments[0].type({}))
    return x(x), code
"""


@pytest.mark.parametrize("helper", [_HELPER, _INTRINSIC])
def test_a_kernel_is_compiled_anew_when_a_function_from_another_file_changes(helper: str, tmp_path: Path) -> None:
    """numba looks at the kernel's own file only, and would go on with the old code."""
    (tmp_path / "kernel_file.py").write_text(_KERNEL)
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    for number in (1, 2, 1):
        (tmp_path / "helper.py").write_text(helper.format(number))
        done = subprocess.run(
            [sys.executable, "-B", "kernel_file.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.stdout == f"{1 + number}\n", done.stderr


_SUMS = """
import hashlib, json
import numpy as np, torch
from kinfold.stages._attention_cpu import documents_attention
from kinfold.stages._fused import arrays, spread
from kinfold.stages import _kernels, _kernels_rows

rng = np.random.default_rng(0)
digests = {}

def random(*shape):
    return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

def told(name, *values):
    digests[name] = [hashlib.sha256(np.asarray(v.detach()).tobytes()).hexdigest() for v in values]

q, k, v = (random(1, heads, 100, 8).requires_grad_() for heads in (4, 2, 2))
out = documents_attention(q, k, v, (40, 33, 27), 0.35)
out.square().sum().backward()
told("attention", out, q.grad, k.grad, v.grad)
logits, losses, factor = random(40, 333), torch.empty(40), torch.empty(40)
_kernels_rows.cross_entropy(*arrays(logits, torch.arange(40), losses, factor))
told("cross-entropy", logits, losses, factor)
x, weight, out = random(40, 333), random(333), torch.empty(40, 333)
_kernels.norm(*arrays(x, weight), np.float32(1e-6), *arrays(out, factor))
told("norm", out, factor)
print(json.dumps(digests))
"""


@pytest.mark.slow
def test_the_process_that_compiles_gives_the_bits_of_those_that_load(tmp_path: Path) -> None:
    """Else a run that is killed in the first process, and goes on in a second, would not end in the same bytes."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    first, second = (
        subprocess.run([sys.executable, "-c", _SUMS], capture_output=True, text=True, check=True, env=environment)
        for _ in range(2)
    )
    assert json.loads(first.stdout) == json.loads(second.stdout)


def test_no_kernel_calls_a_function_that_is_not_always_put_in() -> None:
    """Of `register_jitable` alone two versions live in the process that compiles, and its sums may be another order."""
    package = Path(str(kinfold.__file__)).parent
    bare = [
        str(file.relative_to(package))
        for room in ("metrics", "partition", "stages", "app", "corpora")
        for file in (package / room).rglob("*.py")
        if re.search(r"register_jitable|overload\((?!\w+, jit_options=always)", file.read_text(encoding="utf-8"))
    ]
    assert bare == [], "use kinfold._compile.inner"
