"""One command's surroundings: where its answer goes, what its errors become, and what third parties may print.

The answer goes to standard output (a table, or exactly one JSON object with ``--json``); everything else goes to
standard error. Nothing in here knows a command.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from .._progress import Progress
from ..errors import InputError, KinfoldError
from .progress import clean, make_progress

__all__ = [
    "EXIT_INTERRUPTED",
    "Failure",
    "Session",
    "check_target",
    "running",
    "say_error",
    "swallow_pipe",
    "terminated_as_interrupt",
    "write_json_line",
]

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
EXIT_PIPE = 141
ISSUES = "the project's issue tracker"

_NOISY = (
    "transformers",
    "datasets",
    "huggingface_hub",
    "peft",
    "accelerate",
    "sentence_transformers",
    "torch",
    "numba",
)
_QUIET_ENVIRONMENT = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "DATASETS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}


class Failure(Exception):
    """A command that ended early; carries the exit code the process should end with."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class _Terminated(KeyboardInterrupt):
    """SIGTERM, raised as an exception so that temporary files are taken away."""


class Session:
    """What a command gets: progress to report to, `show` for people and `answer` for machines.

    Parameters
    ----------
    as_json, quiet, debug
        The flags of the same names.
    out, progress
        Where the answer goes, and what rooms report to.
    """

    def __init__(self, *, as_json: bool, quiet: bool, debug: bool, out: TextIO, progress: Progress) -> None:
        self.as_json, self.quiet, self.debug = as_json, quiet, debug
        self.out, self.progress = out, progress
        self.resume: Callable[[], str] | None = None
        """Set by commands that can go on after an interruption: the command line that does."""
        self._answer: Mapping[str, Any] | None = None

    @staticmethod
    def same_command(*extra: str) -> str:
        """The command line as it was typed, with `extra` words that it lacks; safe to paste into a shell."""
        typed = sys.argv[1:]
        return shlex.join(["kinfold", *typed, *(word for word in extra if word not in typed)])

    @property
    def for_people(self) -> bool:
        """Whether anybody reads tables: neither --json nor --quiet."""
        return not (self.as_json or self.quiet)

    def show(self, *renderables: Any) -> None:
        """Print Rich renderables or plain text for people; texts are never read as markup.

        A string stays one line, so that a command or path in it can be copied; a Rich text is wrapped at words, but
        on terminals only: in a file a sentence is a line.
        """
        if not self.for_people:
            return
        from rich.text import Text

        console = self.console()
        for item in renderables:
            whole = isinstance(item, str) or (isinstance(item, Text) and not console.is_terminal)
            console.print(item, markup=False, highlight=False, soft_wrap=whole)

    def console(self) -> Any:
        """A Rich console on standard output: 80 columns unless the terminal is wider, plain unless it is one."""
        from rich.console import Console

        width = None if self.out.isatty() else max(80, int(os.environ.get("COLUMNS", "80") or 80))
        return Console(file=self.out, width=width, highlight=False, emoji=False)

    def answer(self, value: Mapping[str, Any]) -> None:
        """Set the command's JSON object; it is printed once, at the end, and only with --json."""
        self._answer = value

    @property
    def answered(self) -> Mapping[str, Any]:
        """What was set so far; empty before."""
        return self._answer or {}

    def finish(self) -> None:
        """Print the JSON object."""
        if self.as_json:
            write_json_line(self.out, self.answered)


def write_json_line(out: TextIO, value: Any) -> None:
    """One JSON object on one line; values JSON has no word for become null."""
    print(json.dumps(_jsonable(value), ensure_ascii=False, allow_nan=False), file=out, flush=True)


def _jsonable(value: Any) -> Any:
    import math

    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_jsonable(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if hasattr(value, "tolist"):
        return _jsonable(value.tolist())
    return str(value)


@contextlib.contextmanager
def running(*, as_json: bool = False, quiet: bool = False, debug: bool = False) -> Iterator[Session]:
    """Run a command's body; every way it can end becomes an exit code, and one sentence where something is wrong.

    Raises
    ------
    Failure
        When the body failed; everything that is to be said has been said.
    """
    out = sys.stdout
    session = Session(as_json=as_json, quiet=quiet, debug=debug, out=out, progress=make_progress(quiet=quiet))
    redirect: contextlib.AbstractContextManager[Any] = (
        contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    )
    try:
        with quieted(debug), redirect, _logged_to(session.progress):
            yield session
        session.finish()
        out.flush()
    except (Failure, SystemExit):
        raise
    except KinfoldError as fault:
        _fail(session, str(fault), type(fault).__name__, fault.exit_code)
    except KeyboardInterrupt as fault:
        code = EXIT_TERMINATED if isinstance(fault, _Terminated) else EXIT_INTERRUPTED
        how = f"; continue with: {session.resume()}" if session.resume else "; nothing half-written was left"
        _fail(session, f"interrupted{how}", "Interrupted", code)
    except BrokenPipeError:
        swallow_pipe()
        raise Failure(EXIT_PIPE) from None
    except OSError as fault:
        _fail(session, *_os_sentence(fault))
    except MemoryError:
        _fail(session, "out of memory; give smaller batches, fewer samples or fewer workers.", "MemoryError", 1)
    except Exception as fault:
        if type(fault).__name__ == "Exit" and hasattr(fault, "exit_code"):
            raise  # typer's own way to stop
        _fail(session, _unexpected(fault, debug), type(fault).__name__, 1)


def _fail(session: Session, message: str, kind: str, code: int) -> None:
    """Say what is wrong on standard error (and as JSON on standard output), then end."""
    close = getattr(session.progress, "close", None)
    if close is not None:
        close()
    if session.debug:
        traceback.print_exc(file=sys.stderr)
    say_error(message)
    if session.as_json:
        with contextlib.suppress(OSError):
            error = {"type": kind, "message": message, "exit_code": code}
            write_json_line(session.out, {**session.answered, "error": error})
    raise Failure(code) from None


def say_error(message: str) -> None:
    """`kinfold: error: message` on standard error; lines stay lines, control characters do not."""
    text = "\n".join(clean(line) for line in message.splitlines())
    head = "kinfold: error:"
    if sys.stderr is not None and sys.stderr.isatty() and not os.environ.get("NO_COLOR"):
        head = f"\x1b[31m{head}\x1b[0m"
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"{head} {text}", file=sys.stderr, flush=True)


def _unexpected(fault: BaseException, debug: bool) -> str:
    first = str(fault).strip().splitlines()[0] if str(fault).strip() else "no message"
    if "OutOfMemory" in type(fault).__name__ or "out of memory" in first.lower():
        return f"the device ran out of memory ({first}); lower train.batch_tokens or train.max_length."
    hint = "" if debug else "run again with --debug for the traceback, and "
    return (
        f"unexpected {type(fault).__name__}: {first}\n"
        f"This is a fault in Kinfold, not in your input: {hint}please report it on {ISSUES}."
    )


def _os_sentence(fault: OSError) -> tuple[str, str, int]:
    """(message, kind, exit code) of an error of the file system."""
    name = fault.filename if fault.filename is not None else "output"
    why = fault.strerror or str(fault) or type(fault).__name__
    if fault.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{name}: {why}; free some space and run again.", "OSError", 1
    if isinstance(fault, (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError, FileExistsError)):
        return f"{name}: {why}; check the path and its permissions.", type(fault).__name__, 2
    if fault.errno in (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP):
        return f"{name}: {why}; choose another path.", "OSError", 2
    return f"{name}: {why}.", "OSError", 1


def swallow_pipe() -> None:
    """Let Python's last flush of standard output go nowhere, as the reader has gone."""
    with contextlib.suppress(OSError, AttributeError, io.UnsupportedOperation, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _ToProgress(logging.Handler):
    """Hands the rooms' own warnings to the progress display, so that they neither break bars nor get lost."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.WARNING)
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self.progress.warn(record.getMessage())


@contextlib.contextmanager
def _logged_to(progress: Progress) -> Iterator[None]:
    logger, handler = logging.getLogger("kinfold"), _ToProgress(progress)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextlib.contextmanager
def quieted(debug: bool) -> Iterator[None]:
    """Keep third-party bars, notices and warnings off the screen; --debug lets them through.

    The environment is set before those libraries are imported and put back afterwards.
    """
    if debug:
        yield
        return
    before = {name: os.environ.get(name) for name in _QUIET_ENVIRONMENT}
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    for name, value in _QUIET_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old


@contextlib.contextmanager
def terminated_as_interrupt() -> Iterator[None]:
    """Turn SIGTERM into an exception while a command runs, so that it leaves no temporary files."""

    def stop(number: int, frame: Any) -> None:
        raise _Terminated

    try:
        old = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: nothing to install
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)


def check_target(path: Path, *, folder: bool, flag: str = "-o") -> Path:
    """Refuse, before any work is done, an output path that cannot be written. Creates nothing.

    Raises
    ------
    InputError
        When `path` is of the wrong kind, or cannot be created where it is.
    """
    try:
        if path.exists() and folder != path.is_dir():
            kind, other = ("a file", "a folder") if folder else ("a folder", "a file")
            raise InputError(f"{path}: is {kind}; name {other} with {flag}.")
        parent = path if path.is_dir() else path.absolute().parent
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir():
            raise InputError(f"{path}: {parent} is a file, not a folder; choose another path with {flag}.")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(f"{path}: {parent} cannot be written; choose another path with {flag}.")
    except OSError as fault:
        raise InputError(f"{path}: {fault.strerror}; choose another path with {flag}.") from None
    return path
