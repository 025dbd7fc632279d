"""Compile a kernel on first call, from a disk cache where one can be written."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from .._compile import have_compiler, inner, kernel

__all__ = ["compiled", "have_compiler", "inner"]


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as a machine-code kernel that releases the GIL."""
    return kernel(function)
