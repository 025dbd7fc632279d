"""What the rooms say while they work, shown as bars, as plain lines or not at all; always on standard error.

Everything that comes from a user (domain names, file names) is shown as text: ``[bold]`` is six characters, no style.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from .._progress import SILENT, Progress, Task

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID
    from rich.table import Column
    from rich.text import Text

__all__ = ["BarProgress", "PlainProgress", "clean", "human_time", "make_progress", "warning_line"]


def clean(text: str) -> str:
    r"""`text` without control characters, so that no name can move the cursor or recolour a terminal.

    >>> clean("a\x1b[31mb\n")
    'a\ufffd[31mb '
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else " " if character in "\n\r\t" else "\ufffd" for character in text
    )


def warning_line(message: str) -> Text:
    """`warning: message`, to be wrapped at words where the terminal is narrower."""
    from rich.text import Text

    return Text.assemble(("warning: ", "yellow"), clean(message))


def human_time(seconds: float) -> str:
    """A duration in at most two units.

    >>> human_time(0.21), human_time(61), human_time(7300), human_time(200000)
    ('0.2 s', '1 min 1 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for unit, size, smaller, step in (("min", 60, "s", 1), ("h", 3600, "min", 60), ("d", 86400, "h", 3600)):
        if whole < size * (60 if unit == "min" else 24 if unit == "h" else 10**9):
            rest = whole % size // step
            return f"{whole // size} {unit} {rest} {smaller}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def _amount(value: float, unit: str) -> str:
    """`value` with its unit; rooms name units in the singular or the plural.

    >>> _amount(3, "step"), _amount(1, "step"), _amount(12345, "tokens"), _amount(2.5, "")
    ('3 steps', '1 step', '12.3k tokens', '2.5')
    """
    if unit.isalpha() and not unit.endswith("s") and value != 1:
        unit += "s"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            scaled = value / (1e3 if letter == "k" else size)
            text = f"{scaled:.1f}{letter}" if abs(scaled) < 100 else f"{scaled:.0f}{letter}"
            break
    else:
        text = f"{value:g}" if value != int(value) else str(int(value))
    return f"{text} {unit}".rstrip()


class _PlainTask:
    """One piece of work reported by lines; times come from the owner's clock."""

    def __init__(self, owner: PlainProgress, description: str, total: float | None, unit: str) -> None:
        self.owner, self.description, self.total, self.unit = owner, clean(description), total, unit
        self.completed, self.note = 0.0, ""
        self.started = self.last = owner.clock()
        self.said = False

    def advance(self, amount: float = 1) -> None:
        self.completed += amount
        self._maybe()

    def update(
        self,
        *,
        completed: float | None = None,
        total: float | None = None,
        description: str | None = None,
        note: str = "",
    ) -> None:
        self.completed = self.completed if completed is None else completed
        self.total = self.total if total is None else total
        self.description = self.description if description is None else clean(description)
        self.note = clean(note) or self.note
        self._maybe()

    def _maybe(self) -> None:
        now = self.owner.clock()
        if now - self.last < self.owner.every:
            return
        self.last, self.said = now, True
        parts = [_amount(self.completed, self.unit)]
        if self.total:
            share = min(self.completed / self.total, 1.0)
            parts = [f"{share:4.0%}", f"{_amount(self.completed, '')} of {_amount(self.total, self.unit)}"]
            if share > 0:
                parts.append(f"{human_time((now - self.started) * (1 - share) / share)} left")
        if self.note:
            parts.append(self.note)
        self.owner.line(f"{self.description}: {', '.join(parts)}")

    def close(self, failed: bool) -> None:
        spent = self.owner.clock() - self.started
        if not failed and (self.said or spent >= self.owner.least):
            work = f"{_amount(self.completed, self.unit)} in " if self.completed and self.unit else ""
            note = f", {self.note}" if self.note else ""
            self.owner.line(f"{self.description}: done, {work}{human_time(spent)}{note}")


class PlainProgress:
    """Timestamped lines for logs and pipes: at most one line per task every `every` seconds.

    Parameters
    ----------
    stream : TextIO
        Where lines go.
    every : float
        Seconds between two lines of the same task.
    least : float
        A task shorter than this, in seconds, says nothing.
    clock : callable
        Monotonic seconds; a parameter so that tests need not wait.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        every: float = 10.0,
        least: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stream = stream
        self.every, self.least, self.clock = every, least, clock

    def line(self, text: str) -> None:
        """Write one timestamped line; a closed standard error is no reason to stop the work."""
        stream = sys.stderr if self.stream is None else self.stream
        try:
            print(f"{time.strftime('%H:%M:%S')} {text}", file=stream, flush=True)
        except (OSError, ValueError):
            return

    @contextmanager
    def task(self, description: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """Open a piece of work."""
        task = _PlainTask(self, description, total, unit)
        failed = True
        try:
            yield task
            failed = False
        finally:
            task.close(failed)

    def say(self, message: str) -> None:
        """One line worth keeping."""
        self.line(clean(message))

    def warn(self, message: str) -> None:
        """One line that the user should act on."""
        self.line(f"warning: {clean(message)}")


def _one_line(column: type[Column], width: int | None) -> Column:
    """A column that ends in an ellipsis rather than on a second line."""
    return column(no_wrap=True, overflow="ellipsis", max_width=width)


class _BarTask:
    def __init__(self, bars: RichBars, identifier: TaskID) -> None:
        self.bars, self.identifier = bars, identifier

    def advance(self, amount: float = 1) -> None:
        self.bars.advance(self.identifier, amount)

    def update(
        self,
        *,
        completed: float | None = None,
        total: float | None = None,
        description: str | None = None,
        note: str = "",
    ) -> None:
        fields: dict[str, Any] = {"note": clean(note)} if note else {}
        self.bars.update(
            self.identifier,
            completed=completed,
            total=total,
            description=None if description is None else clean(description),
            **fields,
        )


class BarProgress:
    """Rich bars with time left; finished bars leave one line, so that a run can be read afterwards."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars: RichBars | None = None
        self._open = 0

    def _live(self) -> RichBars:
        if self._bars is None:
            from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, TextColumn
            from rich.progress import Progress as RichBars
            from rich.table import Column
            from rich.text import Text

            class Left(ProgressColumn):
                """Time left while working; the amount done while the total is unknown."""

                def render(self, task: Any) -> Text:
                    if task.finished:
                        return Text(human_time(task.elapsed or 0.0), style="progress.elapsed")
                    if task.total is None:
                        return Text(_amount(task.completed, task.fields["unit"]), style="progress.download")
                    left = task.time_remaining
                    return Text("-" if left is None else f"{human_time(left)} left", style="progress.remaining")

            self._bars = RichBars(
                SpinnerColumn(finished_text="✓" if not self.console.legacy_windows else "+"),
                TextColumn("{task.description}", markup=False, table_column=_one_line(Column, 34)),
                BarColumn(bar_width=16),
                TextColumn("{task.percentage:>3.0f}%", markup=False, style="progress.percentage"),
                Left(),
                TextColumn("{task.fields[note]}", markup=False, style="dim", table_column=_one_line(Column, None)),
                console=self.console,
                transient=True,
                refresh_per_second=8,
            )
            self._bars.start()
        return self._bars

    @contextmanager
    def task(self, description: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """Open a bar."""
        bars = self._live()
        self._open += 1
        identifier = bars.add_task(clean(description), total=total, unit=unit, note="")
        started = time.monotonic()
        failed = True
        try:
            yield _BarTask(bars, identifier)
            failed = False
        finally:
            done = bars.tasks[[task.id for task in bars.tasks].index(identifier)]
            bars.remove_task(identifier)
            self._open -= 1
            spent = time.monotonic() - started
            if not failed and spent >= 1.0:
                self._done(done.description, spent, done.completed, unit, done.fields.get("note", ""))
            if self._open == 0:
                self.close()

    def _done(self, description: str, spent: float, completed: float, unit: str, note: str) -> None:
        from rich.text import Text

        line = Text("✓ ", style="green")
        line.append(description, style="default")
        work = f"{_amount(completed, unit)} in " if completed and unit else ""
        line.append(f"  {work}{human_time(spent)}{'  ' + note if note else ''}", style="dim")
        self.console.print(line)

    def close(self) -> None:
        """Take the bars off the screen."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def say(self, message: str) -> None:
        """One line worth keeping, printed above the bars."""
        from rich.text import Text

        self.console.print(Text(clean(message)))

    def warn(self, message: str) -> None:
        """One line that the user should act on."""
        self.console.print(warning_line(message))


def make_progress(*, quiet: bool = False, stream: TextIO | None = None) -> Progress:
    """Bars on a terminal, lines elsewhere, nothing when `quiet`."""
    if quiet:
        return SILENT
    stream = sys.stderr if stream is None else stream
    if stream is None or not stream.isatty():
        return PlainProgress(stream)
    from rich.console import Console

    return BarProgress(Console(file=stream, highlight=False))
