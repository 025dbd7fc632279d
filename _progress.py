"""What a room says while it works: a protocol, and a silent implementation.

Rooms report through this; `app` shows it as Rich bars, as plain lines or not at all. No room prints.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["SILENT", "Progress", "SilentProgress", "Task"]


class Task(Protocol):
    """One bar."""

    def advance(self, amount: float = 1) -> None:
        """Add finished work, in the task's unit."""

    def update(
        self,
        *,
        completed: float | None = None,
        total: float | None = None,
        description: str | None = None,
        note: str = "",
    ) -> None:
        """Set any of the bar's parts; `note` is a short free text such as `loss 2.31`."""


class Progress(Protocol):
    """Where rooms report to."""

    def task(self, description: str, total: float | None = None, unit: str = "") -> AbstractContextManager[Task]:
        """Open a bar; `total` is None while the amount of work is unknown."""

    def say(self, message: str) -> None:
        """One line worth keeping."""

    def warn(self, message: str) -> None:
        """One line that the user should act on."""


class _SilentTask:
    def advance(self, amount: float = 1) -> None:
        pass

    def update(self, **parts: object) -> None:
        pass


class SilentProgress:
    """Reports nothing: the default of every public function."""

    @contextmanager
    def task(self, description: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """A bar that shows nothing."""
        yield _SilentTask()

    def say(self, message: str) -> None:
        """Say nothing."""

    def warn(self, message: str) -> None:
        """Say nothing."""


SILENT: Progress = SilentProgress()
