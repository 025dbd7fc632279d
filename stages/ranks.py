"""The processes of one run, through Accelerate: who am I, sum this, gather that.

Every rank holds the whole model and every domain; it computes its own micro-batches of each step. Sums of losses
and gradients are added over ranks, and the step has already divided by the count of the whole step, so the result
does not depend on the number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from torch import Tensor

from .._files import write_text
from .._progress import SILENT, Progress
from ..errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Ranks", "Trackers", "check_trackers"]


class Ranks:
    """The process group of the run, one process where none was launched."""

    def __init__(self, device: torch.device) -> None:
        self.count, self.index = 1, 0
        self.device = device
        self._state: Any = None
        if torch.distributed.is_available() and (torch.distributed.is_initialized() or _launched()):
            from accelerate import PartialState

            self._state = PartialState(cpu=device.type == "cpu")
            self.count, self.index = self._state.num_processes, self._state.process_index
            if device.type != "cpu":
                self.device = self._state.device

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return self.index == 0

    def mine(self, items: Sequence[Any]) -> list[tuple[int, Any]]:
        """The share of this rank: some of a step's micro-batches, with their numbers."""
        return list(enumerate(items))[self.index :: self.count]

    def sum(self, value: Tensor) -> Tensor:
        """The sum over ranks."""
        if self.count == 1:
            return value
        total = value.detach().clone()
        torch.distributed.all_reduce(total)
        return total

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Add the gradients of all ranks, in one message; a parameter none of them touched keeps None."""
        if self.count == 1:
            return
        touched = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        torch.distributed.all_reduce(touched)
        used = [p for p, flag in zip(parameters, touched.tolist(), strict=True) if flag]
        if not used:
            return
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in used])
        torch.distributed.all_reduce(flat)
        start = 0
        for p in used:
            p.grad = flat[start : start + p.numel()].view_as(p).clone()
            start += p.numel()

    def gather_ragged(self, value: Tensor) -> tuple[Tensor, slice]:
        """All ranks' rows, (sum of rows, ...), in rank order, and where this rank's own lie."""
        if self.count == 1:
            return value, slice(0, value.shape[0])
        sizes = torch.zeros(self.count, dtype=torch.long, device=value.device)
        sizes[self.index] = value.shape[0]
        torch.distributed.all_reduce(sizes)
        counts = [int(n) for n in sizes.tolist()]
        start = sum(counts[: self.index])
        # Summing disjoint slices gathers ragged rows with the one collective that every backend has.
        whole = value.new_zeros((sum(counts), *value.shape[1:]))
        whole[start : start + value.shape[0]] = value.detach()
        torch.distributed.all_reduce(whole)
        return whole, slice(start, start + value.shape[0])

    def wait(self) -> None:
        """Let all ranks come to this point."""
        if self.count > 1:
            torch.distributed.barrier()


def _launched() -> bool:
    import os

    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker whose package is missing.

    Raises
    ------
    ConfigError
        The first one that is not installed.
    """
    if not names:
        return
    from accelerate import tracking

    available = {"tensorboard": tracking.is_tensorboard_available, "wandb": tracking.is_wandb_available}
    for kind in names:
        if not available[kind]():
            raise ConfigError(
                f"train.trackers: {kind} is not installed; install it (pip install 'kinfold[trackers]') or leave it "
                "out."
            )


class Trackers:
    """TensorBoard and W&B through Accelerate's trackers; nothing where none is asked for.

    Opened before anything is trained, so that a missing package or login is no surprise hours later; what goes wrong
    afterwards costs the tracker and a warning, never the run.

    Parameters
    ----------
    names
        "tensorboard", "wandb".
    folder
        Where they write.
    config
        Settings to show beside the curves.
    name
        The run's name; W&B goes on with the run of the same folder after a resume.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        config: dict[str, Any],
        *,
        main: bool,
        name: str = "run",
        progress: Progress = SILENT,
    ) -> None:
        self._progress = progress
        self._trackers: dict[str, Any] = {}
        if not (names and main):
            return
        from accelerate import tracking

        check_trackers(names)
        plain = {k: v for k, v in config.items() if isinstance(v, (int, float, str, bool))}
        for kind in names:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                tracker: Any
                if kind == "tensorboard":
                    tracker = tracking.TensorBoardTracker("tensorboard", logging_dir=str(folder))
                else:
                    tracker = tracking.WandBTracker(
                        "kinfold", name=name, dir=str(folder), id=_identity(folder / "wandb.id"), resume="allow"
                    )
                if hasattr(tracker, "start"):
                    tracker.start()
                tracker.store_init_configuration(plain)
            except Exception as fault:  # no login, no network, a folder it cannot write: theirs to name
                first = " ".join(str(fault).split())[:200]
                raise ConfigError(
                    f"train.trackers: {kind} cannot be started ({first}); mend that, or leave it out."
                ) from fault
            self._trackers[kind] = tracker

    def log(self, values: dict[str, float], step: int) -> None:
        """Pass one step's numbers on."""
        for kind, tracker in list(self._trackers.items()):
            try:
                tracker.log(values, step=step)
            except Exception as fault:  # a broken line to a dashboard must not cost the run
                del self._trackers[kind]
                first = " ".join(str(fault).split())[:200]
                self._progress.warn(f"{kind} is logged to no more ({first}); metrics.jsonl has every step.")

    def close(self) -> None:
        """Flush and close."""
        for kind, tracker in self._trackers.items():
            try:
                tracker.finish()
            except Exception as fault:  # as above
                self._progress.warn(f"{kind} could not be closed ({' '.join(str(fault).split())[:200]}).")
        self._trackers = {}


def _identity(file: Path) -> str:
    """The run's name at W&B, drawn once and kept beside its logs.

    Not made from the path: another run at the same place (every container writes to /out) would go on in this one.
    """
    if not file.exists():
        write_text(file, uuid4().hex[:16] + "\n")
    return file.read_text(encoding="utf-8").strip()
