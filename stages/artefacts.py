"""What a finished stage leaves on disk, and how a model is served from it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import atomic_dir, read_json, slug, write_json
from ..errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

    from .bank import FrozenShared, LoraBank
    from .heads import Heads
    from .model import Base
    from .settings import TrainSettings

__all__ = ["TASK_TYPES", "finished_stages", "load_frozen", "save_stage", "serving_bank", "stage_folder", "stage_record"]

_FACTORS = "factors.safetensors"
TASK_TYPES = {"lm": "CAUSAL_LM", "classification": "SEQ_CLS"}


def stage_folder(out: Path, stage: int) -> Path:
    """The folder of stage number `stage` (from 0)."""
    return out / "stages" / f"{stage:02d}"


def finished_stages(out: Path, count: int) -> int:
    """How many leading stages are complete on disk."""
    done = 0
    while done < count and (stage_folder(out, done) / "stage.json").exists():
        done += 1
    return done


def stage_record(out: Path, stage: int) -> dict[str, Any]:
    """`stage.json` of a finished stage."""
    record: dict[str, Any] = read_json(stage_folder(out, stage) / "stage.json", error=RunError)
    return record


def save_stage(
    out: Path, stage: int, bank: LoraBank, heads: Heads | None, base: Base, record: Mapping[str, Any]
) -> None:
    """Write a finished stage: exact factors, the shared adapter and each domain's snapshot as PEFT, atomically."""
    from safetensors.torch import save_file

    with atomic_dir(stage_folder(out, stage)) as folder:
        tensors = dict(bank.state_dict())
        if heads is not None:
            tensors |= heads.state_dict()
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, folder / _FACTORS)
        if bank.has_shared:
            bank.freeze_shared().save(folder / "shared", base_name=base.name, task_type=TASK_TYPES[base.task])
        for domain in bank.domains:
            export_adapter(bank, domain, folder / "adapters" / slug(domain), base, heads)
        write_json(folder / "stage.json", dict(record))


def export_adapter(
    bank: LoraBank, domain: str, path: Path, base: Base, heads: Heads | None, *, rank: int | None = None
) -> float:
    """One PEFT folder that serves `domain` as the bank does now; the relative error where `rank` compresses it."""
    return bank.to_peft(
        domain,
        path,
        base_name=base.name,
        task_type=TASK_TYPES[base.task],
        heads=heads.export(domain) if heads is not None else None,
        rank=rank,
    )


def load_frozen(out: Path, stages: int) -> tuple[FrozenShared, ...]:
    """The shared adapters of the first `stages` stages, oldest first; none where the run has none."""
    from .bank import FrozenShared

    folders = [stage_folder(out, t) / "shared" for t in range(stages)]
    return tuple(FrozenShared.load(folder) for folder in folders if folder.is_dir())


def stage_tensors(out: Path, stage: int) -> dict[str, Tensor]:
    """The exact factors (and heads) a stage ended with."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = stage_folder(out, stage) / _FACTORS
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError):
        raise RunError(f"{path}: cannot be read; train the run anew, or restore the file.") from None
    return tensors


def serving_bank(
    base: Base, out: Path, stages: Sequence[Sequence[str]], settings: TrainSettings, heads: Heads | None
) -> LoraBank:
    """A bank of all domains of finished `stages` on the backbone after the last of them; heads are loaded too."""
    from .bank import LoraBank

    domains = [name for stage in stages for name in stage]
    own = settings.adapters != "shared"
    tensors: dict[str, Tensor] = {}
    for number in range(len(stages)):
        tensors |= {name: t for name, t in stage_tensors(out, number).items() if not name.startswith("shared/")}
    bank = LoraBank.attach(
        base.model,
        domains,
        settings.lora,
        shared=False,
        domain_adapters=own,
        frozen=load_frozen(out, len(stages)),
    )
    if own:
        bank.load_state_dict({name: t for name, t in tensors.items() if name.startswith("domain/")})
    if heads is not None:
        heads.load_state_dict({name: t for name, t in tensors.items() if name.startswith("head/")})
    return bank
