"""What every way of ending a command looks like from outside."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
from pathlib import Path

import pytest
from kinfold.app.session import Failure, check_target, quieted, running, terminated_as_interrupt
from kinfold.errors import InputError, TrainingError


def outcome(capsys: pytest.CaptureFixture[str], fault: BaseException, **flags: bool) -> tuple[int, str, str]:
    def body() -> None:
        with running(**flags) as session:
            session.answer({"kept": 1})
            raise fault

    with pytest.raises(Failure) as caught:
        body()
    out, err = capsys.readouterr()
    return caught.value.exit_code, out, err


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (InputError("law.jsonl, line 3: not an object; mend it."), 2, "kinfold: error: law.jsonl, line 3"),
        (TrainingError("loss is NaN."), 1, "loss is NaN"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "out of memory"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "/x: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 1, "free some space"),
        (KeyError("oops"), 1, "--debug"),
    ],
)
def test_faults_become_a_sentence_and_a_code(capsys, fault: BaseException, code: int, said: str) -> None:
    got, out, err = outcome(capsys, fault)
    assert got == code
    assert out == ""
    assert said in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(capsys) -> None:
    _, _, err = outcome(capsys, KeyError("oops"), debug=True)
    assert "Traceback" in err
    assert "run again with --debug" not in err


def test_json_errors_are_one_object_that_keeps_what_was_found(capsys) -> None:
    _, out, err = outcome(capsys, InputError("no."), as_json=True)
    assert json.loads(out) == {"kept": 1, "error": {"type": "InputError", "message": "no.", "exit_code": 2}}
    assert "no." in err


def test_json_is_the_only_thing_on_standard_output(capsys) -> None:
    with running(as_json=True) as session:
        sys.stdout.write("a library that prints")
        session.show("a table")
        session.answer({"x": float("nan"), "p": Path("a"), "t": (1, 2)})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"x": None, "p": "a", "t": [1, 2]}
    assert out.count("\n") == 1
    assert "a library that prints" in err


def test_quiet_prints_nothing(capsys) -> None:
    with running(quiet=True) as session:
        session.show("a table")
        session.progress.say("hello")
        session.progress.warn("hello")
        session.answer({"x": 1})
    assert capsys.readouterr() == ("", "")


def test_shown_text_is_not_markup(capsys) -> None:
    with running() as session:
        session.show("[bold]x[/bold] [link=http://x]y[/link] :smile:")
    assert capsys.readouterr().out == "[bold]x[/bold] [link=http://x]y[/link] :smile:\n"


def test_control_characters_in_errors_are_taken_out(capsys) -> None:
    _, _, err = outcome(capsys, InputError("domain \x1b[2J\x07 is bad."))
    assert "\x1b" not in err
    assert "\x07" not in err


def test_an_interruption_says_how_to_go_on(capsys) -> None:
    def body() -> None:
        with running() as session:
            session.resume = lambda: "kinfold train plan.json --resume"
            raise KeyboardInterrupt

    with pytest.raises(Failure):
        body()
    assert "continue with: kinfold train plan.json --resume" in capsys.readouterr().err


def test_sigterm_unwinds_like_an_interruption(capsys) -> None:
    cleaned = []

    def body() -> None:
        with terminated_as_interrupt(), running():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                for _ in range(1000):
                    pass
            finally:
                cleaned.append(True)

    with pytest.raises(Failure) as caught:
        body()
    assert caught.value.exit_code == 143
    assert cleaned
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_noise_settings_are_put_back(monkeypatch) -> None:
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    monkeypatch.delenv("HF_HUB_DISABLE_PROGRESS_BARS", raising=False)
    with quieted(debug=False):
        assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"  # the user's own choice stays
        assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"
    assert "HF_HUB_DISABLE_PROGRESS_BARS" not in os.environ


def test_targets_are_refused_before_any_work(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    assert check_target(tmp_path / "new" / "deep", folder=True) == tmp_path / "new" / "deep"
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="is a file"):
        check_target(file, folder=True)
    with pytest.raises(InputError, match="is a folder"):
        check_target(tmp_path, folder=False)
    with pytest.raises(InputError, match="not a folder"):
        check_target(file / "below", folder=True)


def test_a_reader_that_goes_away_is_no_error(monkeypatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(Failure) as caught, running(as_json=True) as session:
        session.answer({"x": 1})
    assert caught.value.exit_code == 141


def test_a_run_that_goes_on_says_where(tmp_path: Path) -> None:
    from kinfold.app._given import where_it_stopped

    assert where_it_stopped(tmp_path, 2) is None  # no run: training begins anew, which it says itself
    (tmp_path / "run.json").write_text("{}")
    assert where_it_stopped(tmp_path, 2) == f"{tmp_path}: goes on in stage 1 of 2."
    for stage in ("00", "01"):
        assert where_it_stopped(tmp_path, 2) is not None
        (tmp_path / "stages" / stage).mkdir(parents=True)
        (tmp_path / "stages" / stage / "stage.json").write_text("{}")
    assert where_it_stopped(tmp_path, 2) is None
