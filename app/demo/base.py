"""The demo's base model, made once and kept in the user's cache."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from ..._files import atomic_dir, digest, file_digest, read_json, user_cache, write_json
from ..._progress import SILENT, Progress
from ...errors import InputError
from .settings import BaseSettings

__all__ = ["base_model", "cache_folder"]

_FORMAT = 1  # raised when the recipe changes, so that no old model is taken for a new one
_RECORD = "base.json"


def cache_folder(given: Path | None = None) -> Path:
    """Where base models are kept: `given`, else the user's cache folder."""
    return user_cache() if given is None else Path(given)


def base_model(
    cache: Path,
    texts: Sequence[str],
    held_out: Sequence[str],
    *,
    settings: BaseSettings | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Path:
    """A small pretrained Llama with its tokenizer: from the cache, or trained now.

    The folder's name is a hash of the texts, the settings, the seed and the library versions. Two processes that want
    the same model train it once: the second waits. The folder appears in one rename, so a kill leaves nothing half.

    Parameters
    ----------
    cache : Path
        Folder of base models; created if need be.
    texts, held_out : sequence of str
        What it is trained on, and what its recorded loss is measured on.
    settings : BaseSettings, optional
        Size and schedule.
    seed : int
        Seed of the weights and of the order of the text.
    progress : Progress
        Where to report.

    Returns
    -------
    Path
        A folder that `transformers` loads; `base.json` in it holds the held-out loss.

    Raises
    ------
    InputError
        If the cache cannot be written.
    TrainingError
        If the loss diverges.
    """
    settings = settings or BaseSettings()
    folder = Path(cache) / f"base-{_key(texts, held_out, settings, seed)[:16]}"
    if _whole(folder):
        progress.say(f"Base model found in {folder}.")
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_name(f".{folder.name}.lock"), "ab") as lock, _held(lock, progress):
            if not _whole(folder):
                _make(folder, texts, held_out, settings, seed, progress)
    except OSError as fault:
        raise InputError(
            f"{cache}: the base model cannot be kept here ({fault.strerror}); name another folder with KINFOLD_CACHE."
        ) from fault
    return folder


def _key(texts: Sequence[str], held_out: Sequence[str], settings: BaseSettings, seed: int) -> str:
    from importlib.metadata import version

    versions = {name: version(name) for name in ("tokenizers", "torch", "transformers")}
    return digest(_FORMAT, asdict(settings), seed, versions, list(texts), list(held_out))


def _whole(folder: Path) -> bool:
    """Whether `folder` holds a model whose weights are those that were written."""
    try:
        record = read_json(folder / _RECORD)
        return bool(record["weights"] == file_digest(folder / "model.safetensors"))
    except (InputError, OSError, KeyError, TypeError):
        return False


@contextlib.contextmanager
def _held(lock: IO[bytes], progress: Progress) -> Iterator[None]:
    """Hold an exclusive lock; it is released when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows: both processes train, and the renames keep either result whole
        yield
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        progress.say("Another process is making the same base model; waiting for it.")
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Keep transformers' own progress bar out of the user's terminal; its switch is put back."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _make(
    folder: Path, texts: Sequence[str], held_out: Sequence[str], settings: BaseSettings, seed: int, progress: Progress
) -> None:
    from .pretrain import pretrain, train_tokenizer

    tokenizer = train_tokenizer(texts, settings.vocabulary)
    model, record = pretrain(tokenizer, texts, held_out, settings=settings, seed=seed, progress=progress)
    with atomic_dir(folder) as place, _no_bars():
        model.save_pretrained(place)
        tokenizer.save_pretrained(place)
        made: dict[str, Any] = {**record, "weights": file_digest(place / "model.safetensors"), "seed": seed}
        write_json(place / _RECORD, {**made, "settings": asdict(settings), "format": _FORMAT})
    progress.say(
        f"Base model: {record['parameters'] / 1e6:.1f} M parameters, {record['tokens'] / 1e3:.0f} k tokens seen, "
        f"held-out loss {record['loss']:.3f} ({record['bits_per_byte']:.2f} bits a byte)."
    )
