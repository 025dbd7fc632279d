"""Atomic writes, safe names and content hashes: the only way Kinfold touches a disk it writes to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from .errors import InputError

__all__ = [
    "atomic_dir",
    "atomic_path",
    "digest",
    "file_digest",
    "name_of",
    "read_json",
    "slug",
    "user_cache",
    "write_json",
    "write_text",
]

_CHUNK = 1 << 20


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; some file systems refuse to sync a folder, and then there is nothing to do."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it is synced and renamed over `target`.

    A process killed inside the block leaves `target` as it was. The temporary file keeps the target's suffix,
    since some writers choose a format by it.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem[:40]}.", suffix=target.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as fault:
        if fault.filename is None:  # a write names no file when the disk is full
            fault.filename = str(target)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; on success it takes the place of `target`.

    An existing `target` is moved aside first and removed last, so a kill leaves either the old or the new
    folder under a readable name; a reader of `target` sees one of them or, for an instant, none.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:40]}."))
    temporary.chmod(0o777 & ~_umask())
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with open(file, "rb") as stream:
                    os.fsync(stream.fileno())
        old = None
        if target.exists():
            old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name[:40]}.old."))
            target.replace(old)
        temporary.replace(target)
        _sync_folder(target.parent)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 to `target`, atomically."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8", newline="\n")


def write_json(target: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as stable, diffable JSON to `target`, atomically; NaN and infinity are refused."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str], *, error: type[InputError] = InputError) -> Any:
    """Read a JSON file; a missing or broken file raises `error` with the line at fault."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path}: no such file; check the path.") from None
    except (IsADirectoryError, NotADirectoryError):
        raise error(f"{path}: not a file; name the JSON file itself.") from None
    except PermissionError:
        raise error(f"{path}: cannot be read; check its permissions.") from None
    except UnicodeDecodeError as fault:
        raise error(f"{path}: byte {fault.start} is not UTF-8; write the file again.") from None
    except json.JSONDecodeError as fault:
        raise error(f"{path}, line {fault.lineno}: not valid JSON ({fault.msg}); write the file again.") from None


def slug(name: str) -> str:
    """A file name for any user-given name: reversible by :func:`name_of`, safe on every path and shell.

    >>> slug("contracts"), slug("a b/..")
    ('contracts', 'a%20b%2F..')
    """
    text = quote(name, safe="")
    # A leading dot hides a file, a leading dash turns it into an option of the command it is given to.
    first = {".": "%2E", "-": "%2D"}.get(text[:1])
    return first + text[1:] if first else text


def name_of(slugged: str) -> str:
    """The inverse of :func:`slug`.

    >>> name_of(slug("a b/.."))
    'a b/..'
    """
    return unquote(slugged)


def user_cache() -> Path:
    """Where Kinfold keeps what can be made again: KINFOLD_CACHE, else XDG_CACHE_HOME/kinfold, else ~/.cache/kinfold."""
    if named := os.environ.get("KINFOLD_CACHE"):
        return Path(named).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared) / "kinfold"
    return Path("~/.cache").expanduser() / "kinfold"


def digest(*parts: Any) -> str:
    """A 32-digit BLAKE2 hash of JSON-able values, the same on every machine."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def file_digest(path: str | os.PathLike[str]) -> str:
    """A 32-digit BLAKE2 hash of a file's bytes, read in chunks."""
    state = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()
