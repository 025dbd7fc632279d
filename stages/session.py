"""What stays the same over a run's stages: base model, texts, task, layout; opened for training or for evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .._compile import compiled_before, have_compiler
from .._progress import SILENT, Progress
from ..errors import ConfigError, RunError
from .artefacts import finished_stages
from .manifest import make_manifest
from .run import Run
from .settings import TrainSettings

if TYPE_CHECKING:
    from ..corpora import Corpora
    from ..partition.plan import Plan
    from .data import Encoder
    from .evaluate import Evaluator
    from .heads import Heads
    from .model import Base

__all__ = ["Session", "open_run", "threads"]


@dataclass(frozen=True)
class Session:
    """Everything that stays the same over a run's stages."""

    base: Base
    corpora: Corpora
    stages: tuple[tuple[str, ...], ...]
    settings: TrainSettings
    encoder: Encoder
    heads: Heads | None
    layout: Literal["flat", "packed", "padded"]
    seed: int
    out: Path
    labels: dict[str, tuple[str, ...]] | None
    progress: Progress

    @classmethod
    def open(
        cls,
        stages: Sequence[Sequence[str]],
        corpora: Corpora,
        *,
        model: str | Path,
        out: Path,
        settings: TrainSettings,
        seed: int,
        task: str | None = None,
        labels: Mapping[str, Sequence[str]] | None = None,
        progress: Progress = SILENT,
    ) -> Session:
        """Load the base model and decide task, labels and layout."""
        from ._bank_sites import find_sites
        from .attention import enable_flat
        from .data import Encoder, label_sets, resolve_task
        from .heads import Heads
        from .model import load_base

        domains = tuple(name for stage in stages for name in stage)
        found: dict[str, tuple[str, ...]] | None = None
        kind = task or resolve_task(corpora, domains, settings.task)
        if kind == "classification":
            shared = settings.head == "shared"
            found = (
                {name: tuple(values) for name, values in labels.items()}
                if labels is not None
                else label_sets(corpora, domains, shared=shared)
            )
            _check_classification(settings)
        progress.say(f"Loading the base model {model}.")
        width = max(len(values) for values in found.values()) if found else 2
        base = load_base(
            model, settings, task="classification" if kind == "classification" else "lm", labels=width, seed=seed
        )
        if settings.compile and base.device.type == "cpu":
            raise ConfigError(
                "train.compile: not on a CPU, where a compiled backbone would need padded rows and lose the fused "
                "layers and the attention by document; set it to false."
            )
        find_sites(base.model, settings.lora.targets)  # a target that matches nothing is said before any work
        if base.limit is not None and settings.max_length > base.limit:
            progress.say(
                f"{base.name} takes at most {base.limit} tokens: that, and not train.max_length={settings.max_length}, "
                "is the longest sequence."
            )
        if base.device.type == "cpu" and have_compiler() and not compiled_before("stages"):
            progress.say("First training here: kernels are compiled for this processor, and kept for the next.")
        layout: Literal["flat", "packed", "padded"] = "padded"
        if base.task == "lm":
            if settings.layout in ("auto", "flat") and not settings.compile and enable_flat(base):
                layout = "flat"
            elif settings.layout == "flat":
                raise ConfigError(
                    "train.layout='flat': the attention of this model cannot take it; use auto or padded."
                )
            elif settings.layout == "packed":
                layout = "packed"
        heads = Heads(base, found, shared=settings.head == "shared", seed=seed) if found is not None else None
        encoder = Encoder(base, settings, found)
        return cls(
            base, corpora, tuple(map(tuple, stages)), settings, encoder, heads, layout, seed, Path(out), found, progress
        )

    def evaluator(self, split: str | None = None) -> Evaluator:
        """The evaluator of this run."""
        from .evaluate import Evaluator

        return Evaluator(
            self.base,
            self.corpora,
            self.stages,
            self.settings,
            self.encoder,
            self.heads,
            layout=self.layout,
            seed=self.seed,
            out=self.out,
            split=split,
            progress=self.progress,
        )

    def following(self, plan: Plan) -> Session:
        """The same run with the stages of another plan of the same domains."""
        return replace(self, stages=tuple(map(tuple, plan.stages)))

    def manifest(self, plan: Plan, replan: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The value of `run.json`."""
        model = {"name": self.base.name, "fingerprint": self.base.fingerprint}
        return make_manifest(
            plan,
            self.corpora,
            self.settings,
            seed=self.seed,
            task=self.base.task,
            labels=self.labels,
            layout=self.layout,
            model=model,
            replan=replan,
        )


def _check_classification(settings: TrainSettings) -> None:
    if settings.kl_weight > 0:
        raise ConfigError(
            "train.kl_weight: KL compares next-token distributions, which a classifier has none of; set it to 0."
        )
    if settings.compile:
        raise ConfigError("train.compile: only language models are compiled here; set it to false.")
    if settings.layout in ("flat", "packed"):
        raise ConfigError(f"train.layout={settings.layout!r}: classification needs a row per text; use auto or padded.")


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run with `count` CPU threads; None leaves their number alone."""
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def open_run(
    run: Run | str | Path,
    corpora: Corpora,
    *,
    split: str | None = None,
    documents: int | None = None,
    generate: int | None = None,
    progress: Progress = SILENT,
) -> Iterator[Evaluator]:
    """The evaluator of a finished run, with its base model loaded."""
    from .evaluate import missing_domains

    opened = run if isinstance(run, Run) else Run.load(run)
    manifest = opened.manifest
    stages = opened.stages
    if finished_stages(opened.path, len(stages)) < len(stages):
        raise RunError(f"{opened.path}: not all stages are trained yet; resume the run first.")
    missing_domains(corpora, manifest["domains"], str(opened.path))
    settings = TrainSettings.from_dict(manifest["settings"])
    if documents is not None:
        settings = replace(settings, eval_documents=documents)
    if generate is not None:
        settings = replace(settings, eval_generate=generate)
    with threads(settings.threads):
        session = Session.open(
            stages,
            corpora,
            model=manifest["model"]["name"],
            out=opened.path,
            settings=settings,
            seed=manifest["seed"],
            task=manifest["task"],
            labels=manifest["labels"],
            progress=progress,
        )
        if session.base.fingerprint != manifest["model"]["fingerprint"]:
            raise RunError(
                f"{opened.path}: the base model {manifest['model']['name']} is not the one it was trained on; "
                "restore that model."
            )
        yield session.evaluator(split)
