"""Which base model this is: a digest of its configuration and of every byte of its weights.

Weights are hashed once and remembered by path, size and time of change in the user's cache, so that a run of a large
model does not read it twice. Hub ids are looked for in the hub's cache first, and the hub itself is asked only if it
answers: its own client would try for half a minute.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .._files import digest, file_digest, read_json, user_cache, write_json
from .._hub import hub_options, snapshot
from ..errors import ModelError

__all__ = ["local_folder", "model_fingerprint", "weights_digest"]

_SETTLED = 2.0  # seconds: a file changed more recently may change again within one tick of its clock
_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def local_folder(name: str | Path) -> Path | None:
    """The folder `name` stands for, or None for a hub id.

    Raises
    ------
    ModelError
        If `name` is written as a path and there is no such folder.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    text = str(name)
    if isinstance(name, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1 or path.exists():
        raise ModelError(f"{name}: no such model folder; name a folder with config.json, weights and tokenizer.")
    return None


def model_fingerprint(name: str | Path) -> str:
    """A digest of a model's configuration and weights, every byte of them; the same wherever the folder lies.

    Raises
    ------
    ModelError
        If the folder or the hub's model is not there.
    """
    path = local_folder(name)
    if path is None:
        options = hub_options(name)
        path = snapshot(str(name))
        if not options and (path is None or not any(path.glob("*.safetensors"))):
            from huggingface_hub import snapshot_download

            try:
                path = Path(snapshot_download(str(name), allow_patterns=_WANTED))
            except Exception as fault:  # no such model, no right to it, a broken line
                first = " ".join(str(fault).split())[:200]
                raise ModelError(f"{name}: cannot be fetched from the hub ({first}); check the id.") from None
        if path is None:
            raise ModelError(f"{name}: not in the hub's cache; connect to the network once, or give a model folder.")
    config = read_json(path / "config.json", error=ModelError)
    if isinstance(config, Mapping):
        config = {key: value for key, value in config.items() if key not in ("_name_or_path", "transformers_version")}
    files = sorted(path.glob("*.safetensors"))
    with ThreadPoolExecutor(max_workers=max(1, min(4, os.cpu_count() or 1, len(files) or 1))) as pool:
        digests = list(pool.map(weights_digest, files))  # hashing lets other threads run
    return digest(
        json.dumps(config, sort_keys=True), [[file.name, found] for file, found in zip(files, digests, strict=True)]
    )


def weights_digest(file: Path) -> str:
    """The BLAKE2 digest of a file's bytes, remembered while its size and time of change stay the same.

    A change that keeps both to the nanosecond goes unseen until the memory (`fingerprints/` in the user's cache) is
    deleted.
    """
    real = file.resolve()
    facts = real.stat()
    mark = [facts.st_size, facts.st_mtime_ns, facts.st_ino]
    note = user_cache() / "fingerprints" / f"{digest(str(real))}.json"
    with contextlib.suppress(Exception):  # a damaged note is as good as none
        kept = json.loads(note.read_text(encoding="utf-8"))
        if kept["mark"] == mark:
            return str(kept["digest"])
    found = file_digest(real)
    if time.time() - facts.st_mtime > _SETTLED:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
            write_json(note, {"path": str(real), "mark": mark, "digest": found})
    return found
