"""What is left of a time limit: seconds on the wall, or work that does not depend on machine and load.

A solve that is `deterministic` must stop at the same point everywhere. It therefore never reads a clock: every method
says how much it did (search nodes, simplex pivots, CP-SAT's deterministic time) and the clock turns that into the
seconds a slow core would have taken.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Clock", "forever", "gather", "interruptible"]

# Work a slow core does in a second; only the order of magnitude matters, and that it never changes.
NODES = 400_000.0
PIVOT_ENTRIES = 40_000_000.0


T = TypeVar("T")


class Clock:
    """Counts a limit down.

    Parameters
    ----------
    seconds : float
    deterministic : bool
        Count work instead of time.
    """

    def __init__(self, seconds: float, *, deterministic: bool = False) -> None:
        self.limit = float(seconds)
        self.deterministic = deterministic
        self.begin = time.monotonic()
        self.spent = 0.0

    def left(self) -> float:
        """Seconds left, or seconds' worth of work; below 0 when the limit is passed."""
        if self.deterministic:
            return self.limit - self.spent
        return self.limit - (time.monotonic() - self.begin)

    def part(self, seconds: float) -> Part:
        """A clock that ends after so many seconds of this one, and with it at the latest."""
        return Part(self, seconds)

    def spend(self, seconds: float) -> None:
        """Count work; of no effect on a clock that reads the time."""
        self.spent += max(0.0, seconds)

    def nodes(self, count: float) -> None:
        """Count nodes of a search tree."""
        self.spend(count / NODES)

    def pivots(self, count: float, rows: int, columns: int) -> None:
        """Count simplex pivots on a programme of this shape."""
        self.spend(count * (rows + columns) / PIVOT_ENTRIES)

    def node_limit(self) -> int:
        """Nodes that the work left allows; without end on a clock that reads the time (see :meth:`alarm`)."""
        return max(1, int(self.left() * NODES)) if self.deterministic else 2**60

    @contextmanager
    def alarm(self, stop: NDArray[np.int64]) -> Iterator[None]:
        """While inside, `stop[0]` becomes 1 when the time is up: compiled kernels look at it, not at the clock."""
        stop[0] = 0
        if self.deterministic or not np.isfinite(self.left()):
            yield
            return
        timer = threading.Timer(max(0.0, self.left()), _ring, [stop])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            stop[0] = 0


class Part(Clock):
    """A share of another clock: work done on it counts on both."""

    def __init__(self, whole: Clock, seconds: float) -> None:
        super().__init__(min(seconds, whole.left()), deterministic=whole.deterministic)
        self.whole = whole

    def spend(self, seconds: float) -> None:
        super().spend(seconds)
        self.whole.spend(seconds)


def forever() -> Clock:
    """A clock without a limit."""
    return Clock(float("inf"))


def interruptible(work: Callable[[], T], cancel: Callable[[], object]) -> T:
    """The result of `work`, done in a thread of its own: machine code never looks whether somebody pressed Ctrl-C.

    On an interrupt `cancel` must make `work` return soon; the interrupt goes on once it has.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        return gather([thread.submit(work)], cancel)[0]


def gather(jobs: Sequence[Future[T]], cancel: Callable[[], object]) -> list[T]:
    """The results of `jobs` that run in other threads, cancelled when this one is interrupted."""
    try:
        for job in jobs:
            while not job.done():
                # Signals are handled between waits, whichever thread they were sent to.
                wait([job], timeout=0.2)
    except BaseException:
        while not all(job.done() for job in jobs):
            # More than once: what had not quite begun does not know yet that it is cancelled.
            cancel()
            wait(jobs, timeout=0.1)
        raise
    return [job.result() for job in jobs]


def _ring(stop: NDArray[np.int64]) -> None:
    stop[0] = 1
