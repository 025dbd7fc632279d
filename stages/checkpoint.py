"""Checkpoints and the step log: a kill at any instant leaves a state from which the run goes on bit for bit.

What makes that simple: batches and random numbers are functions of (seed, stage, step), so a checkpoint holds no
sampler and no generator, only tensors, a few numbers and the length of the log at that moment. A log that ran ahead
of its checkpoint is cut back to it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import atomic_dir, file_digest, read_json, write_json, write_text
from ..errors import RunError, TrainingError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["Checkpoint", "StepLog", "clean_leftovers", "disk_errors", "load_optimizer", "optimizer_tensors"]

_TENSORS = "tensors.safetensors"
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}(\.[a-z0-9]+)?")
_STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """The state of one stage after `step` optimiser steps.

    Attributes
    ----------
    stage, step
        Stage number from 0, finished steps of it.
    tensors
        Adapters, heads, optimiser moments, queues: everything that is a tensor, by name.
    numbers
        Everything else, JSON-able.
    log_bytes
        Length of `metrics.jsonl` at that moment.
    """

    stage: int
    step: int
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    log_bytes: int = 0

    def save(self, root: Path, *, keep: int) -> Path:
        """Write it under `root`, whole or not at all, and drop all but the newest `keep` of this stage."""
        from safetensors.torch import save_file

        target = root / f"{self.stage:02d}-{self.step:08d}"
        with disk_errors(target, root), atomic_dir(target) as folder:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
            save_file(tensors, folder / _TENSORS)
            state = {
                "stage": self.stage,
                "step": self.step,
                "log_bytes": self.log_bytes,
                "numbers": dict(self.numbers),
                "digest": file_digest(folder / _TENSORS),
            }
            write_json(folder / _STATE, state)
        for old in _folders(root)[keep:]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    @classmethod
    def load(cls, folder: Path) -> Checkpoint:
        """Read and verify one checkpoint folder.

        Raises
        ------
        RunError
            If a file is missing or its content is not what was written.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        state = read_json(folder / _STATE, error=RunError)
        try:
            if file_digest(folder / _TENSORS) != state["digest"]:
                raise RunError(
                    f"{folder}: the checkpoint is damaged (its digest differs); delete the folder and resume."
                )
            tensors = load_file(folder / _TENSORS)
            return cls(state["stage"], state["step"], tensors, state["numbers"], state["log_bytes"])
        except (OSError, KeyError, TypeError, SafetensorError) as fault:
            raise RunError(
                f"{folder}: the checkpoint cannot be read ({fault}); delete the folder and resume."
            ) from None

    @classmethod
    def newest(cls, root: Path, stage: int) -> Checkpoint | None:
        """The newest readable checkpoint of `stage`, or None; a damaged one is passed over for the one before."""
        for folder in _folders(root):
            if folder.name.startswith(f"{stage:02d}-"):
                with contextlib.suppress(RunError):
                    return cls.load(folder)
        return None

    @staticmethod
    def last_path(root: Path) -> Path | None:
        """The folder of the newest checkpoint, for messages."""
        folders = _folders(root)
        return folders[0] if folders else None


def _folders(root: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    if not root.is_dir():
        return []
    return sorted((f for f in root.iterdir() if f.is_dir() and not f.name.startswith(".")), reverse=True)


def clean_leftovers(root: Path) -> None:
    """Remove the temporary files and folders that a killed process left in a run folder."""
    if not root.is_dir():
        return
    for folder in [root, *(f for f in root.rglob("*") if f.is_dir() and not f.name.startswith("."))]:
        for entry in list(folder.iterdir()) if folder.is_dir() else []:
            # What tempfile names, and nothing else: a user may keep a .git or .gitignore here.
            if _TEMPORARY.fullmatch(entry.name):
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(what: Path, checkpoints: Path) -> Iterator[None]:
    """Turn a full disk into one sentence that names the last good checkpoint."""
    try:
        yield
    except Exception as fault:
        code = _disk_code(fault)
        if code not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        last = Checkpoint.last_path(checkpoints)
        good = f"the last good checkpoint is {last}" if last else "no checkpoint was written yet"
        raise TrainingError(
            f"{what}: cannot be written ({os.strerror(code)}); {good}: free space and train again with --resume."
        ) from fault


def _disk_code(fault: Exception) -> int | None:
    """The system's error number; safetensors has it in its message only."""
    if isinstance(fault, OSError):
        return fault.errno
    found = re.search(r"\(os error (\d+)\)", str(fault)) if type(fault).__name__ == "SafetensorError" else None
    return int(found.group(1)) if found else None


class StepLog:
    """A JSON-lines file that only ever grows, and can be cut back to a known length.

    Parameters
    ----------
    path
        The file; created when missing.
    length
        Bytes to keep; what lies beyond is cut off.
    """

    def __init__(self, path: Path, length: int) -> None:
        self.path = path
        self._stream = open(path, "ab")  # noqa: SIM115 (closed by close)
        if self._stream.tell() < length:
            self._stream.close()
            raise RunError(f"{path}: shorter than its checkpoint says; the log was edited, so start the run anew.")
        self._stream.truncate(length)
        self._stream.seek(0, os.SEEK_END)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one object as one line."""
        self._stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n")

    def flush(self) -> None:
        """Hand lines to the operating system, so that a watcher sees them."""
        self._stream.flush()

    @classmethod
    def up_to(cls, path: Path, stage: int, step: int) -> StepLog:
        """Open the timing log with what lies behind `step` of `stage` cut off; its lengths differ from run to run."""
        from .run import read_lines

        text = "".join(
            json.dumps(row) + "\n" for row in read_lines(path) if (row["stage"], row["step"]) <= (stage, step)
        )
        if path.exists() and path.read_text(encoding="utf-8") != text:
            write_text(path, text)
        return cls(path, len(text))

    def sync(self) -> int:
        """Make all lines durable; the file's length in bytes."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return self._stream.tell()

    def close(self) -> None:
        """Flush and close."""
        self._stream.close()


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """The optimiser's state by parameter name: ``optimizer/<name>/<entry>``; `names` maps id(parameter) to its name."""
    import torch

    tensors: dict[str, Tensor] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for entry, value in optimizer.state.get(parameter, {}).items():
                tensor = value if isinstance(value, torch.Tensor) else torch.tensor(float(value))
                tensors[f"optimizer/{names[id(parameter)]}/{entry}"] = tensor
    return tensors


def load_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[int, str], tensors: Mapping[str, Tensor]) -> None:
    """The inverse of :func:`optimizer_tensors`; a parameter without an entry keeps none, as before its first step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            prefix = f"optimizer/{names[id(parameter)]}/"
            found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            if found:
                # AdamW keeps its step count on the CPU unless it is fused or capturable.
                device = parameter.device
                optimizer.state[parameter] = {
                    key: (value.clone() if key == "step" and not group.get("fused") else value.to(device).clone())
                    for key, value in found.items()
                }
