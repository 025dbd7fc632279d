"""Compile a kernel on first call, from a disk cache where one can be written."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from .._compile import have_compiler, kernel

__all__ = ["compiled", "have_compiler", "inner"]


_F = TypeVar("_F", bound=Callable[..., Any])


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` as a machine-code kernel that releases the GIL."""
    return kernel(function)


def inner(function: _F) -> _F:
    """A function that kernels call: compiled, and put in by LLVM. As it is where there is no compiler."""
    if not have_compiler():
        return function
    from numba.extending import register_jitable

    made: _F = register_jitable(forceinline=True)(function)
    return made
