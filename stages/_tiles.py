"""Whether this machine has tile registers (AMX) that compiled loops may use."""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import cache

from .._compile import have_compiler

__all__ = ["have_tiles", "offered", "trial"]

_ARCH_PRCTL, _REQUEST, _TILE_DATA = 158, 0x1023, 18  # Linux's permission for the tile registers


@cache
def have_tiles() -> bool:
    """Whether the compiled loops run here and give the right answer: a Linux machine with AMX, and numba."""
    try:
        return offered() and trial()
    except Exception:  # whatever a system or a compiler objects to, PyTorch's products are there
        return False


def offered() -> bool:
    """Whether this machine has tile registers, and lets this process use them."""
    if not (have_compiler() and sys.platform == "linux" and platform.machine() == "x86_64"):
        return False
    import llvmlite.binding as llvm  # type: ignore[import-untyped]

    features = llvm.get_host_cpu_features()
    if not all(features.get(name) for name in ("amx-tile", "amx-bf16", "avx512bf16")):
        return False
    permitted: bool = ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST, _TILE_DATA) == 0
    return permitted


def trial() -> bool:
    """Two groups of uneven size against plain products, in both precisions."""
    import torch

    from ._bank_ops import GroupPlan
    from ._lowrank import TiledLinear

    draw = torch.Generator().manual_seed(0)
    x, weight, a, b, more_a, more_b = (torch.randn(rows, 64, generator=draw) for rows in (45, 64, 8, 8, 8, 8))
    plan = GroupPlan((33, 12), 0.5, shared=False, domains=True, transposed=False)
    thin = torch.cat(
        [part @ f.t() @ u for part, f, u in zip(torch.split(x, [33, 12]), (a, more_a), (b, more_b), strict=True)]
    )
    wanted = x @ weight.t() + thin / 2
    for dtype, most in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        y = TiledLinear.apply(x.to(dtype), weight.to(dtype), None, None, None, plan, a, more_a, b, more_b)  # type: ignore[no-untyped-call]
        if not float((y.float() - wanted).norm() / wanted.norm()) < most:
            return False
    return True
