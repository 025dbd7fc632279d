"""Compile a kernel on first call, from a disk cache where one can be written; know where no compiler is usable."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any

from .._compile import kernel

__all__ = ["compiled", "have_compiler"]


@cache
def have_compiler() -> bool:
    """Whether numba imports and is not switched off by `NUMBA_DISABLE_JIT` or `KINFOLD_NO_COMPILER`."""
    if os.environ.get("KINFOLD_NO_COMPILER") or os.environ.get("NUMBA_DISABLE_JIT", "0") not in {"", "0"}:
        return False
    try:
        import numba  # noqa: F401
    except Exception:  # a broken llvmlite raises more than ImportError
        return False
    return True


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as a machine-code kernel that releases the GIL."""
    return kernel(function)
