"""What a run is made of, written down at its start; and the refusal to go on with anything else."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import read_json, write_json, write_text
from ..errors import FingerprintError, RunError
from .run import RUN_VERSION

if TYPE_CHECKING:
    from ..corpora import Corpora
    from ..partition.plan import Plan
    from .settings import TrainSettings

__all__ = ["differences", "environment", "make_manifest", "open_folder", "roles", "write_config"]

# Changing these does not change what is trained.
_FREE = frozenset(
    {
        "settings.checkpoint_every",
        "settings.keep_checkpoints",
        "settings.trackers",
        "settings.bootstrap",
        "settings.trust_remote_code",
        "state",
        "trained",
        "model.name",
        "kinfold",
    }
)


def roles(corpora: Corpora) -> dict[str, dict[str, Any]]:
    """What no fingerprint of texts knows of each domain: as what it is shown, and how much of it."""
    return {
        domain.name: {
            "role": "general" if domain.general else "unlabelled" if domain.unlabelled else "planned",
            "weight": float(domain.weight),
        }
        for domain in corpora
    }


def make_manifest(
    plan: Plan,
    corpora: Corpora,
    settings: TrainSettings,
    *,
    seed: int,
    task: str,
    labels: Mapping[str, tuple[str, ...]] | None,
    layout: str,
    model: Mapping[str, str],
    replan: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The value of `run.json` at the start of a run; `replan` is what re-planning depends on, where it is on."""
    from .. import __version__

    used = {name for stage in plan.stages for name in stage}
    used |= {domain.name for domain in (*corpora.general, *corpora.unlabelled)}
    return {
        "version": RUN_VERSION,
        "kinfold": __version__,
        "state": "running",
        "seed": seed,
        "task": task,
        "domains": sorted(name for stage in plan.stages for name in stage),
        "stages": [list(stage) for stage in plan.stages],
        "labels": None if labels is None else {name: list(values) for name, values in labels.items()},
        "layout": layout,
        "model": dict(model),
        "corpora": {name: print_ for name, print_ in sorted(corpora.fingerprints.items()) if name in used},
        "roles": {name: role for name, role in roles(corpora).items() if name in used},
        "settings": settings.to_dict(),
        **({} if replan is None else {"replan": dict(replan)}),
    }


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Each place where two manifests differ, as `path: old -> new`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new and path not in _FREE:
        yield f"{path}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def check_folder(out: Path, *, resume: bool) -> None:
    """Refuse a folder that cannot take this run; writes nothing.

    Raises
    ------
    RunError
        If there is something in the folder and `resume` is off.
    """
    if out.exists() and not out.is_dir():
        raise RunError(f"{out}: a file, not a folder; name another run folder.")
    if (out / "run.json").exists():
        if not resume:
            raise RunError(f"{out}: holds a run already; give --resume to go on with it, or name another folder.")
        return
    # A run killed before its first file leaves at most hidden temporary files: whatever can be seen is another's.
    foreign = [entry.name for entry in out.iterdir() if not entry.name.startswith(".")] if out.exists() else []
    if foreign:
        raise RunError(f"{out}: not empty and no run ({sorted(foreign)[0]} is there); name another run folder.")


def open_folder(out: Path, manifest: Mapping[str, Any], *, resume: bool) -> bool:
    """Make `out` ready; True where an interrupted run goes on in it.

    Raises
    ------
    RunError
        If there is something in the folder and `resume` is off.
    FingerprintError
        If what is to be resumed was made of other settings, texts, plan or model; the differences are named.
    """
    check_folder(out, resume=resume)
    record = out / "run.json"
    if not record.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_json(record, dict(manifest))
        return False
    old = read_json(record, error=RunError)
    changed = list(differences(old, dict(manifest)))
    if changed:
        raise FingerprintError(
            f"{out}: cannot go on with what differs from its beginning: {'; '.join(changed)}; undo that, or train into "
            "another folder."
        )
    return True


def write_config(out: Path, model: str, seed: int, settings: TrainSettings) -> None:
    """Write the resolved configuration as far as training knows it."""
    import yaml

    values = {"model": model, "seed": seed, "train": settings.to_dict()}
    write_text(out / "config.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def environment(device: str) -> dict[str, Any]:
    """Versions and machine, for the record."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from .. import __version__

    packages: dict[str, str | None] = {}
    for name in ("torch", "transformers", "peft", "accelerate", "tokenizers", "datasets", "safetensors", "numpy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "kinfold": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "packages": packages,
        "byteorder": sys.byteorder,
    }
