"""Take a run to where it is served: adapters, merged models or a vLLM bundle, each checked by loading it back."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .._files import atomic_dir, slug, write_json, write_text
from .._progress import SILENT, Progress
from ..errors import ConfigError, RunError
from .artefacts import TASK_TYPES, export_adapter, finished_stages, serving_bank
from .run import Run
from .settings import TrainSettings

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..corpora import Corpora
    from .heads import Heads
    from .model import Base

__all__ = ["BACKBONES", "FORMS", "Export", "export_run"]

FORMS = ("adapters", "merged", "vllm")
BACKBONES = ("better", "last", "own")
_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True)
class Export:
    """What was written and how well it gives the run back.

    Attributes
    ----------
    out, form
        Where and what.
    paths
        Folder of each domain.
    ranks
        Rank of each written adapter (0 for merged models).
    stages
        How many stages' shared adapters each holds: those up to its own stage, or all.
    errors
        Relative Frobenius error of each update: 0 unless compressed.
    logits
        Largest difference of logits between the run's model and what was loaded back, relative to the largest logit.
    flags
        The command that serves a vLLM bundle; empty otherwise.
    router
        Accuracy of the domain router, where one was made.
    """

    out: str
    form: str
    paths: dict[str, str]
    ranks: dict[str, int]
    stages: dict[str, int]
    errors: dict[str, float]
    logits: dict[str, float]
    flags: str = ""
    router: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def export_run(
    run: Run | str | Path,
    out: str | Path,
    *,
    form: Literal["adapters", "merged", "vllm"] = "adapters",
    domains: Sequence[str] | None = None,
    rank: int | None = None,
    backbone: Literal["better", "last", "own"] = "better",
    corpora: Corpora | None = None,
    progress: Progress = SILENT,
) -> Export:
    """Export a finished run and check that what was written gives its logits back.

    Parameters
    ----------
    run
        The run or its folder.
    out
        A new folder.
    form
        "adapters": one PEFT folder per domain; "merged": full weights per domain; "vllm": adapters with the command
        that serves them.
    domains
        Only these; None exports all.
    rank
        Compress each adapter to this rank by singular values; None keeps the exact concatenation.
    backbone
        Behind which shared adapters a domain is served: "own" ends with the stage that trained it, "last" with the
        run's last, "better" is whichever had the lower loss in the run's evaluation (the last without one).
    corpora
        Where given, a domain router is fitted on them and written beside.
    progress
        Where to report.

    Raises
    ------
    RunError
        If the run is not finished, a domain is unknown, `out` is not empty, or an exact export does not reproduce
        the run's logits.
    ConfigError
        If the form does not exist or does not fit the task.
    """
    opened = run if isinstance(run, Run) else Run.load(run)
    manifest = opened.manifest
    out = Path(out)
    chosen = tuple(domains) if domains is not None else opened.domains
    _check(opened, out, form, chosen, rank, manifest["task"], backbone)
    depths = {name: _depth(opened, name, backbone) for name in chosen}
    settings = TrainSettings.from_dict(manifest["settings"])
    progress.say(f"Loading the base model {manifest['model']['name']}.")
    base, heads = _load(manifest, settings)
    probe = _probe(base)
    paths: dict[str, str] = {}
    errors: dict[str, float] = {}
    logits: dict[str, float] = {}
    ranks: dict[str, int] = {}
    reference: dict[str, Tensor] = {}
    with atomic_dir(out) as folder:
        try:
            for depth in sorted(set(depths.values())):
                bank = serving_bank(base, opened.path, opened.stages[:depth], settings, heads)
                try:
                    for name in (name for name in chosen if depths[name] == depth):
                        reference[name] = _served_logits(base, bank, heads, name, probe)
                        target = _target(folder, form, name)
                        errors[name] = export_adapter(bank, name, target, base, heads, rank=rank)
                        ranks[name] = _rank_of(target)
                finally:
                    bank.detach()
        finally:
            if heads is not None:
                heads.detach()
        with progress.task("load back", total=len(chosen), unit="domain") as task:
            for name in chosen:
                target = _target(folder, form, name)
                width = reference[name].shape[-1]
                got = _load_back(manifest, settings, target, probe, width, merge_into=form == "merged")
                logits[name] = _difference(got, reference[name])
                if rank is None and logits[name] > (1e-4 if settings.precision == "fp32" else 5e-2):
                    raise RunError(
                        f"{name}: the exported model differs from the run's by {logits[name]:.2g} of the largest "
                        "logit; report this with the versions in environment.json."
                    )
                if form == "merged":
                    ranks[name] = 0
                paths[name] = str(out / target.relative_to(folder))
                task.advance()
        router = None
        if corpora is not None and len(chosen) > 1:
            from .router import train_router

            made = train_router(corpora, chosen, seed=manifest["seed"], progress=progress)
            made.save(folder / "router")
            router = dict(made.accuracy)
        flags = _vllm(folder, out, manifest, paths, ranks) if form == "vllm" else ""
        result = Export(str(out), form, paths, ranks, depths, errors, logits, flags, router)
        write_json(folder / "export.json", result.to_dict())
    return result


def _check(
    run: Run, out: Path, form: str, domains: Sequence[str], rank: int | None, task: str, backbone: str = "better"
) -> None:
    if form not in FORMS:
        raise ConfigError(f"export form={form!r}: must be one of {', '.join(FORMS)}.")
    if backbone not in BACKBONES:
        raise ConfigError(f"export backbone={backbone!r}: must be one of {', '.join(BACKBONES)}.")
    if form == "vllm" and task == "classification":
        raise ConfigError("export form='vllm': vLLM serves no trained classification head with an adapter; use merged.")
    if rank is not None and rank < 1:
        raise ConfigError(f"export rank={rank}: must be at least 1; 8 or 16 are usual.")
    if finished_stages(run.path, len(run.stages)) < len(run.stages):
        raise RunError(f"{run.path}: not all stages are trained yet; resume the run first.")
    for name in domains:
        if name not in run.domains:
            raise RunError(f"{run.path}: no domain {name!r}; it has {', '.join(run.domains)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: exists and is not empty; name another folder.")


def _depth(run: Run, name: str, backbone: str) -> int:
    """How many stages' shared adapters `name` is served behind."""
    last = len(run.stages)
    own = next(t for t, stage in enumerate(run.stages) if name in stage) + 1
    if backbone != "better":
        return own if backbone == "own" else last
    evaluation = run.evaluation if (run.path / "evaluation.json").exists() else {}
    here, there = (((evaluation.get(key) or {}).get(name) or {}).get("loss") for key in ("snapshot", "final"))
    return own if here is not None and there is not None and here < there else last


def _load(manifest: dict[str, Any], settings: TrainSettings) -> tuple[Base, Heads | None]:
    from .heads import Heads
    from .model import load_base

    labels = manifest["labels"]
    width = max(len(values) for values in labels.values()) if labels else 2
    base = load_base(manifest["model"]["name"], settings, task=manifest["task"], labels=width, seed=manifest["seed"])
    if base.fingerprint != manifest["model"]["fingerprint"]:
        raise RunError(f"{base.name}: not the base model the run was trained on; restore that model.")
    heads = Heads(base, labels, shared=settings.head == "shared", seed=manifest["seed"]) if labels else None
    return base, heads


def _target(folder: Path, form: str, name: str) -> Path:
    return folder / slug(name) if form == "merged" else folder / "adapters" / slug(name)


def _rank_of(folder: Path) -> int:
    from .._files import read_json

    return int(read_json(folder / "adapter_config.json")["r"])


def _probe(base: Base) -> Tensor:
    """Two rows of token ids that exercise the whole model: ordinary ids, spread over the vocabulary."""
    import torch

    length = min(24, base.limit or 24)
    special = set(base.tokenizer.all_special_ids)
    plain = [i for i in range(min(len(base.tokenizer), base.vocabulary)) if i not in special]
    picked = [plain[(7919 * i) % len(plain)] for i in range(2 * length)]
    return torch.tensor(picked, device=base.device).view(2, length)


def _served_logits(base: Base, bank: Any, heads: Heads | None, name: str, probe: Tensor) -> Tensor:
    import torch

    with torch.no_grad(), bank.serve(name):
        if heads is None:
            logits: Tensor = base.model(input_ids=probe, use_cache=False).logits
            return logits.float().cpu()
        with heads.route([name], [probe.shape[0]]):
            logits = base.model(input_ids=probe, attention_mask=torch.ones_like(probe)).logits
        return logits[:, : len(heads.labels[name])].float().cpu()


def _difference(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6))


def _load_back(
    manifest: dict[str, Any], settings: TrainSettings, folder: Path, probe: Tensor, width: int, *, merge_into: bool
) -> Tensor:
    """Logits of a fresh base with the written adapter in PEFT; merged weights replace the adapter where asked."""
    import peft
    import torch
    import transformers

    from .._hub import hub_options
    from .model import quiet, resolve_device

    auto: Any = transformers.AutoModelForCausalLM
    options: dict[str, Any] = {
        "use_safetensors": True,
        "trust_remote_code": settings.trust_remote_code,
        "dtype": torch.bfloat16 if settings.precision == "bf16" else torch.float32,
    }
    if TASK_TYPES[manifest["task"]] == "SEQ_CLS":
        auto = transformers.AutoModelForSequenceClassification
        options |= {"num_labels": width, "ignore_mismatched_sizes": True}
    with quiet():
        name = manifest["model"]["name"]
        reach = hub_options(name)
        fresh = auto.from_pretrained(name, **options, **reach)
        model: Any = peft.PeftModel.from_pretrained(fresh, folder).eval()
    if merge_into:
        import shutil

        merged = model.merge_and_unload(safe_merge=True)
        shutil.rmtree(folder)
        with quiet():
            merged.save_pretrained(folder)
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **reach)
            tokenizer.save_pretrained(folder)
            model = auto.from_pretrained(folder, **options).eval()
    device: torch.device = resolve_device(settings.device)
    model.to(device)
    with torch.no_grad():
        logits: Tensor = model(input_ids=probe, attention_mask=torch.ones_like(probe)).logits
    return logits.float().cpu()


def _vllm(folder: Path, out: Path, manifest: dict[str, Any], paths: dict[str, str], ranks: dict[str, int]) -> str:
    """The command that serves the bundle, also written as `serve.sh`."""
    highest = max(ranks.values())
    allowed = [r for r in _VLLM_RANKS if r >= highest]
    if not allowed:
        raise ConfigError(
            f"export form='vllm': the adapters have rank {highest}, above vLLM's {_VLLM_RANKS[-1]}; "
            "give a rank to compress to."
        )
    words = ["vllm", "serve", manifest["model"]["name"], "--enable-lora"]
    words += [
        "--max-loras",
        str(min(len(paths), 8)),
        "--max-cpu-loras",
        str(len(paths)),
        "--max-lora-rank",
        str(allowed[0]),
    ]
    words += ["--lora-modules", *(f"{slug(name)}={Path(path).resolve()}" for name, path in paths.items())]
    command = shlex.join(words)
    write_text(
        folder / "serve.sh", f"#!/bin/sh\n# Adapters are named by the model field of a request.\nexec {command}\n"
    )
    return command
