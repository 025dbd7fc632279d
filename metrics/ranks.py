"""Several processes under torchrun: who this one is, and the few places where all must agree.

Ranks may see different caches, and a file may fail on one of them only. A rank that then takes another road than the
others leaves them waiting in a collective for ever. So every decision that a collective hangs on is made together:
by rank 0 for all (`one_for_all`), or from what each rank found (`exchange`); and a fault on one rank is raised on all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import KinfoldError

__all__ = ["exchange", "one_for_all", "place", "together"]

_T = TypeVar("_T")


def place() -> tuple[int, int]:
    """(rank, number of ranks): (0, 1) unless this process runs under torchrun, or torch.distributed is already up."""
    started = "torch" in sys.modules and sys.modules["torch"].distributed.is_available()
    if started and sys.modules["torch"].distributed.is_initialized():
        group = sys.modules["torch"].distributed
        return int(group.get_rank()), int(group.get_world_size())
    if int(os.environ.get("WORLD_SIZE", "1") or 1) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ:
        from accelerate import PartialState

        state = PartialState()
        return int(state.process_index), int(state.num_processes)
    return 0, 1


def exchange(value: _T) -> list[_T]:
    """What every rank passed, in the order of ranks; collective."""
    if place()[1] == 1:
        return [value]
    import torch.distributed as dist

    out: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(out, value)
    return out


def together(work: Callable[[], _T]) -> _T:
    """Do `work` on every rank; where it fails on one, all raise."""
    rank, count = place()
    if count == 1:
        return work()
    result: Any = None
    fault: Exception | None = None
    try:
        result = work()
    except Exception as error:
        fault = error
    faults = exchange(_portable(fault))
    if fault is not None:
        raise fault
    for other, found in enumerate(faults):
        if found is not None and other != rank:
            raise found
    return result  # type: ignore[no-any-return]


def one_for_all(work: Callable[[], _T]) -> _T:
    """Do `work` on rank 0 only and give its result, or its fault, to all; collective."""
    rank, count = place()
    if count == 1:
        return work()
    import torch.distributed as dist

    parcel: list[Any] = [None, None]
    own: Exception | None = None
    if rank == 0:
        try:
            parcel[0] = work()
        except Exception as error:
            own = error
            parcel[1] = _portable(error)
    dist.broadcast_object_list(parcel, src=0)
    if own is not None:
        raise own
    if parcel[1] is not None:
        raise parcel[1]
    return parcel[0]  # type: ignore[no-any-return]


def _portable(fault: Exception | None) -> Exception | None:
    """The fault in a form that travels: our own errors as they are, others as their words."""
    if fault is None or (isinstance(fault, KinfoldError) and len(fault.args) <= 1):
        return fault
    return KinfoldError(f"another process of this run failed ({type(fault).__name__}: {fault}); see its own message.")
