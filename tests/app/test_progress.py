"""Progress on terminals, in pipes and with --quiet."""

from __future__ import annotations

import io

import pytest
from kinfold._progress import SILENT
from kinfold.app.progress import BarProgress, PlainProgress, clean, human_time, make_progress
from rich.console import Console


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(stream: io.StringIO) -> list[str]:
    return [line.partition(" ")[2] for line in stream.getvalue().splitlines()]


def test_plain_lines_are_rate_limited_and_tell_what_is_left() -> None:
    stream, clock = io.StringIO(), Clock()
    with PlainProgress(stream, every=10, clock=clock).task("counting", total=100, unit="documents") as task:
        for _ in range(100):
            clock.now += 0.5
            task.advance()
    said = lines(stream)
    assert len(said) == 6  # every 10 of 50 seconds, and the end
    assert said[0] == "counting:  20%, 20 of 100 documents, 40 s left"
    assert said[-1] == "counting: done, 100 documents in 50 s"


def test_a_short_task_says_nothing_and_a_failed_one_is_not_done() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = PlainProgress(stream, clock=clock)
    with progress.task("quick"):
        clock.now += 0.5

    def breaks() -> None:
        with progress.task("breaks"):
            clock.now += 100
            raise RuntimeError

    with pytest.raises(RuntimeError):
        breaks()
    assert stream.getvalue() == ""


def test_unknown_total_note_and_new_description() -> None:
    stream, clock = io.StringIO(), Clock()
    with PlainProgress(stream, every=1, clock=clock).task("reading", unit="lines") as task:
        clock.now += 2
        task.update(completed=12345, note="loss 2.1")
        task.update(description="reading more", total=50000)
        clock.now += 2
        task.advance(12655)
    assert lines(stream) == [
        "reading: 12.3k lines, loss 2.1",
        "reading more:  50%, 25.0k of 50.0k lines, 4.0 s left, loss 2.1",
        "reading more: done, 25.0k lines in 4.0 s, loss 2.1",
    ]


def test_a_name_is_text_never_style_or_control() -> None:
    name = "[bold]x[/bold] <img src=x> \x1b[31mred\x07\nnext"
    stream, clock = io.StringIO(), Clock()
    plain = PlainProgress(stream, clock=clock)
    plain.say(name)
    plain.warn(name)
    screen = io.StringIO()
    bars = BarProgress(Console(file=screen, force_terminal=True, width=100, color_system=None, highlight=False))
    with bars.task(name, total=2) as task:
        task.update(note=name, completed=1)
        bars.say(name)
        bars.warn(name)
        bars._bars.refresh()  # type: ignore[union-attr]
    for text in (stream.getvalue(), screen.getvalue()):
        assert "[bold]x[/bold] <img src=x>" in text
        assert "\x1b[31m" not in text
        assert "\x07" not in text
    assert clean("plain text, größe λ") == "plain text, größe λ"


def test_bars_close_when_the_outer_task_ends() -> None:
    bars = BarProgress(Console(file=io.StringIO(), force_terminal=True, width=80))
    with bars.task("outer", total=2) as outer:
        with bars.task("inner"):
            assert bars._bars is not None
        outer.advance()
        assert bars._bars is not None
    assert bars._bars is None


def test_the_kind_follows_the_stream() -> None:
    assert make_progress(quiet=True) is SILENT
    assert isinstance(make_progress(stream=io.StringIO()), PlainProgress)


def test_a_closed_stream_stops_no_work() -> None:
    stream = io.StringIO()
    stream.close()
    PlainProgress(stream).say("still working")


@pytest.mark.parametrize(("seconds", "text"), [(59.6, "1 min"), (3599.7, "1 h"), (86399.9, "1 d"), (0.04, "0.0 s")])
def test_times_round_to_the_next_unit(seconds: float, text: str) -> None:
    assert human_time(seconds) == text
