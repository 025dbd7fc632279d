"""Machine-code kernels, kept in the user's cache and never beside the source.

A kernel file inside an installed package is unknown to pip: it would survive an uninstall and leave a folder `kinfold`
behind, which Python then takes for a namespace package and imports instead of an editable install.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar

from ._files import user_cache

__all__ = ["compiled_before", "have_compiler", "inner", "kernel"]

_F = TypeVar("_F", bound=Callable[..., Any])


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


def compiled_before(room: str) -> bool:
    """Whether kernels of this room lie in the cache, of this version or another: else the first use takes a while."""
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or user_cache() / "kernels")
    return any(folder.rglob(f"{room}_*/*.nbi"))


def kernel(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`function` compiled by numba on its first call, without the GIL; `options` as of `numba.njit`.

    The compiled code is cached in `NUMBA_CACHE_DIR`, else in Kinfold's cache folder; where neither can be written, each
    process compiles anew. numba compiles again when the function's own file has changed; a folder for each state of the
    other files, of which functions are compiled in, sees to the rest.
    """
    import numba
    from numba.core import config as numba_config

    config: Any = numba_config  # its settings are set at run time, where no checker sees them
    given = config.CACHE_DIR
    folder = str(Path(given or user_cache() / "kernels", *_state_of_helpers(function)))
    try:
        # numba asks for its folder while it decorates, and only then.
        config.CACHE_DIR = folder
        compiled: Callable[..., Any] = numba.njit(cache=_writable(folder), nogil=True, **options)(function)
    finally:
        config.CACHE_DIR = given
    return compiled


def inner(function: _F) -> _F:
    """A function that kernels call: compiled, and always put in by LLVM. As it is where there is no compiler.

    Never numba's bare `register_jitable`: where LLVM does not put such a function in, the process that compiles calls
    it by its name, finds the function as it was compiled for itself, and not the copy that was optimised along with the
    kernel, which is all that a process has that loads the kernel from the cache. Sums then differ in the last bit.
    """
    if not have_compiler():
        return function
    from numba.extending import register_jitable

    made: _F = register_jitable(forceinline=True)(function)
    return made


def _state_of_helpers(function: Callable[..., Any]) -> tuple[str, ...]:
    """One name for the contents of all other files with functions that `function` calls by name; none without such."""
    own = function.__code__.co_filename
    files: set[str] = set()
    seen: set[Any] = set()
    left: list[Any] = [function]
    while left:
        one = left.pop()
        seen.add(one)
        files.add(one.__code__.co_filename)
        called = (one.__globals__.get(name) for name in one.__code__.co_names)
        # numba wraps an intrinsic, whose definition is as much part of the machine code.
        plain = (getattr(f, "_defn", f) for f in called)
        left += [f for f in plain if isinstance(f, FunctionType) and f not in seen]
    digest = hashlib.sha256()
    for file in sorted(files - {own}):
        digest.update(Path(file).read_bytes())
    return (digest.hexdigest()[:16],) if files - {own} else ()


def _writable(folder: str) -> bool:
    import tempfile

    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
