"""Keeping freed memory within the process while a stage trains, on CPUs with glibc.

Each step frees its activations and asks for as many again. By default glibc hands such blocks back to the system, which
clears every page before the next step may write to it: tens of thousands of page faults a step. The peak stays what it
is; what was freed is handed back at the end of the stage.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from ._linear import drop_scratch

__all__ = ["kept_memory"]

# From malloc.h: the parameters of mallopt.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_KEEP = ((_MMAP_THRESHOLD, 1 << 30), (_TRIM_THRESHOLD, (1 << 31) - 1), (_TOP_PAD, 64 << 20))
# Where glibc's own adjustment ends in a process that frees large blocks, and its default padding.
_USUAL = ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20), (_TOP_PAD, 128 << 10))


@cache
def _glibc() -> Any:
    """The C library, or None where it is another one or the user tunes it."""
    tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(k.startswith("MALLOC_") for k in os.environ)
    if not sys.platform.startswith("linux") or tuned:
        return None
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  # another C library has none
        library.mallopt.argtypes, library.malloc_trim.argtypes = [ctypes.c_int, ctypes.c_int], [ctypes.c_size_t]
    except (OSError, AttributeError):
        return None
    return library


@contextmanager
def kept_memory(*, wanted: bool = True) -> Iterator[None]:
    """Keep freed memory for the next step while inside; nothing where the C library is another one, or not `wanted`."""
    library = _glibc() if wanted else None
    if library is None:
        yield
        return
    for name, value in _KEEP:
        library.mallopt(name, value)
    try:
        yield
    finally:
        drop_scratch()
        for name, value in _USUAL:
            library.mallopt(name, value)
        library.malloc_trim(0)
