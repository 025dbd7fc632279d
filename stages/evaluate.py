"""Evaluation of a run: before, after each stage, on snapshot and final backbones; what was forgotten and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._files import atomic_path, write_json
from .._progress import SILENT, Progress
from .._seeding import derive_seed
from ..errors import RunError
from .artefacts import serving_bank
from .replanning import replan_records
from .scoring import Scores, features, paired_change, score, served, summary

if TYPE_CHECKING:
    from ..corpora import Corpora
    from .bank import LoraBank
    from .collate import Layout
    from .data import Encoder, TokenStore
    from .heads import Heads
    from .model import Base
    from .run import Run
    from .settings import TrainSettings

__all__ = ["Evaluator", "evaluate_run"]

EVALUATION_VERSION = 1
_FEATURES = 200  # documents per domain behind MMD and H-score


class Evaluator:
    """Scores one run's models on one split; what is on disk already is not computed again.

    Parameters
    ----------
    folder
        Where per-document losses are kept (`evaluation/` of the run).
    """

    def __init__(
        self,
        base: Base,
        corpora: Corpora,
        stages: Sequence[Sequence[str]],
        settings: TrainSettings,
        encoder: Encoder,
        heads: Heads | None,
        *,
        layout: Layout,
        seed: int,
        out: Path,
        split: str | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.base, self.settings, self.heads, self.layout = base, settings, heads, layout
        self.stages = tuple(tuple(stage) for stage in stages)
        self.domains = tuple(sorted(name for stage in self.stages for name in stage))
        self.seed, self.out, self.progress = seed, out, progress
        self.split = split or settings.evaluate_split
        self.folder = out / "evaluation"
        self.encoder, self.corpora = encoder, corpora
        self.max_length = encoder.max_length
        limit = settings.eval_documents
        self.stores = {name: encoder.store(corpora[name], self.split, limit=limit) for name in self.domains}
        self.general: TokenStore | None = None
        if corpora.general and base.task == "lm":
            self.general = encoder.store(
                corpora.general[0], _general_split(corpora, self.split), limit=limit, task_free=True
            )

    def follow(self, stages: Sequence[Sequence[str]]) -> None:
        """Go on with these stages, as a re-plan settled them; the domains are the same."""
        self.stages = tuple(tuple(stage) for stage in stages)

    # -- scoring ------------------------------------------------------------------------------------------------

    def _score(self, store: TokenStore, bank: LoraBank | None, domain: str | None) -> Scores:
        return score(
            self.base,
            store,
            layout=self.layout,
            max_length=self.max_length,
            tokens=self.settings.eval_tokens,
            serving=served(bank, domain),
            heads=self.heads if store is not self.general else None,
        )

    def _features(self, bank: LoraBank | None) -> dict[str, NDArray[Any]]:
        return {
            f"features.{i}": features(
                self.base,
                self.stores[name],
                layout=self.layout,
                max_length=self.max_length,
                tokens=self.settings.eval_tokens,
                limit=_FEATURES,
                serving=served(bank, name),
                heads=self.heads,
            )
            for i, name in enumerate(self.domains)
        }

    def _answers(self, bank: LoraBank | None, name: str) -> dict[str, NDArray[Any]]:
        from .generation import answers

        with served(bank, name):
            return answers(
                self.base,
                self.encoder,
                self.corpora[name],
                self.split,
                limit=self.settings.eval_generate,
                new_tokens=self.settings.eval_new_tokens,
            )

    def measure(self, stage: int | None, *, again: bool = False) -> None:
        """Score every domain on the backbone after `stage` (None: the base model), and keep it."""
        path = self._path(stage)
        if path.exists() and not again:
            return
        last = stage == len(self.stages) - 1
        title = "evaluate the base model" if stage is None else f"evaluate after stage {stage + 1}"
        bank = None
        if stage is not None:
            bank = serving_bank(self.base, self.out, self.stages[: stage + 1], self.settings, self.heads)
        arrays: dict[str, NDArray[Any]] = {}
        try:
            with self.progress.task(title, total=len(self.domains), unit="domain") as task:
                for i, name in enumerate(self.domains):
                    scores = self._score(self.stores[name], bank, name)
                    arrays |= {f"{i}.{key}": value for key, value in scores.arrays().items()}
                    if self.general is not None and (last or (stage is None and i == 0)):
                        general = self._score(self.general, bank, name)
                        arrays |= {f"general.{i}.{key}": value for key, value in general.arrays().items()}
                    if self.settings.eval_generate and self.base.task == "lm" and (last or stage is None):
                        arrays |= {f"answers.{i}.{key}": value for key, value in self._answers(bank, name).items()}
                    task.advance()
            if last or stage is None:
                arrays |= self._features(bank)
            asked = self.settings.eval_generate
            if stage is None and asked and not any(key.startswith("answers.") for key in arrays):
                self.progress.warn(
                    f"train.eval_generate={asked}: no record of the {self.split} split has a prompt and an answer to "
                    "compare with, so nothing is generated."
                )
        finally:
            if bank is not None:
                bank.detach()
        with atomic_path(path) as temporary:
            np.savez(temporary, **arrays)  # type: ignore[arg-type]

    def _path(self, stage: int | None) -> Path:
        return self.folder / ("before.npz" if stage is None else f"stage-{stage:02d}.npz")

    def _load(self, stage: int | None) -> dict[str, NDArray[Any]]:
        with np.load(self._path(stage), allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    def _scores(self, arrays: Mapping[str, NDArray[Any]], prefix: str) -> Scores:
        start = f"{prefix}."
        return Scores.from_arrays({k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)})

    # -- evaluation.json ----------------------------------------------------------------------------------------

    def report(self, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Put the kept scores together and write `evaluation.json`."""
        draws, seed = self.settings.bootstrap, derive_seed(self.seed, "evaluation")
        before = self._load(None)
        after = [self._load(t) for t in range(len(self.stages))]
        own_stage = {name: t for t, stage in enumerate(self.stages) for name in stage}
        tables: dict[str, dict[str, Any]] = {"before": {}, "snapshot": {}, "final": {}, "change": {}}
        for i, name in enumerate(self.domains):
            first = self._scores(before, str(i))
            snapshot = self._scores(after[own_stage[name]], str(i))
            final = self._scores(after[-1], str(i))
            for key, scores in (("before", first), ("snapshot", snapshot), ("final", final)):
                tables[key][name] = summary(scores, draws=draws, seed=seed)
            for key, arrays in (("before", before), ("final", after[-1])):
                start = f"answers.{i}."
                judged = {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}
                tables[key][name] |= {metric: float(values.mean()) for metric, values in judged.items()}
                if judged:
                    tables[key][name]["answers"] = len(next(iter(judged.values())))
            tables["change"][name] = {
                "snapshot": paired_change(first, snapshot, draws=draws, seed=seed),
                "final": paired_change(first, final, draws=draws, seed=seed),
            }
        after_stage = [
            {name: self._scores(arrays, str(i)).mean for i, name in enumerate(self.domains)} for arrays in after
        ]
        first_loss = {name: tables["before"][name]["loss"] for name in self.domains}
        evaluation: dict[str, Any] = {
            "version": EVALUATION_VERSION,
            "split": self.split,
            "metric": "loss",
            "task": self.base.task,
            "domains": list(self.domains),
            "stages": [list(stage) for stage in self.stages],
            **tables,
            "after_stage": after_stage,
            "forgetting": transfers(first_loss, after_stage, own_stage, self.domains),
            "general": self._general(before, after[-1], draws, seed),
            "alignment": self._alignment(before, after[-1]),
            "h_score": self._h_score(before, after[-1]),
            **({"replans": replans} if (replans := replan_records(self.out)) else {}),
            **(extra or {}),
        }
        write_json(self.out / "evaluation.json", evaluation)
        return evaluation

    def _general(self, before: Mapping[str, Any], after: Mapping[str, Any], draws: int, seed: int) -> Any:
        if self.general is None:
            return None
        first = self._scores(before, "general.0")
        served_by = [self._scores(after, f"general.{i}") for i in range(len(self.domains))]
        mean = Scores(np.mean([s.sums for s in served_by], axis=0), first.counts)
        return {
            "domain": self.general.domain,
            "split": _general_split(self.corpora, self.split),
            "before": summary(first, draws=draws, seed=seed),
            "after": summary(mean, draws=draws, seed=seed),
            "by_domain": {name: s.mean for name, s in zip(self.domains, served_by, strict=True)},
            "change": paired_change(first, mean, draws=draws, seed=seed),
        }

    def _alignment(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> Any:
        if len(self.domains) < 2:
            return None
        from ..metrics.mmd import default_bandwidths, median_sq_dist, mmd2_matrix

        sizes = [len(before[f"features.{i}"]) for i in range(len(self.domains))]
        if min(sizes) < 2:
            return None
        samples = [[arrays[f"features.{i}"] for i in range(len(self.domains))] for arrays in (before, after)]
        # One kernel for both, or a change of the features' scale alone would look like a change of distance.
        bandwidths = default_bandwidths(median_sq_dist([*samples[0], *samples[1]]))
        matrices = [mmd2_matrix(some, bandwidths) for some in samples]
        return {
            "mmd2_before": matrices[0].tolist(),
            "mmd2_after": matrices[1].tolist(),
            "bandwidths": list(bandwidths),
            "documents": sizes,
        }

    def _h_score(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> Any:
        if self.base.task != "classification":
            return None
        from ..metrics import h_score

        found: dict[str, dict[str, float]] = {"before": {}, "after": {}}
        for i, name in enumerate(self.domains):
            labels = before[f"{i}.classes"][:_FEATURES]
            if len(np.unique(labels)) < 2:
                continue
            for key, arrays in (("before", before), ("after", after)):
                found[key][name] = float(h_score(arrays[f"features.{i}"], labels, shrinkage="ledoit_wolf"))
        if not found["before"]:
            return None
        means = {key: float(np.mean(list(values.values()))) for key, values in found.items()}
        return {**means, "by_domain": found}


def _general_split(corpora: Corpora, split: str) -> str:
    """The split of the general corpus to score: the same, or what it has."""
    for wanted in (split, "test", "validation", "train"):
        if next(iter(corpora.general[0].records(wanted)), None) is not None:
            return wanted
    return split


def transfers(
    before: Mapping[str, float],
    after_stage: Sequence[Mapping[str, float]],
    own_stage: Mapping[str, int],
    domains: Sequence[str],
) -> dict[str, Any]:
    """The forgetting matrix and its two summaries, in nats of loss; positive is better.

    `matrix[t][j]` is the loss of domain j after stage t. Backward transfer is the mean over domains that
    were not trained last of what later stages did for them, L_own − L_last; forward transfer is the mean over
    domains not trained first of what earlier stages did before their turn, L_before − L_{own − 1}
    (Lopez-Paz & Ranzato 2017, signs turned for a loss).
    """
    last = len(after_stage) - 1
    backward = [after_stage[own_stage[d]][d] - after_stage[last][d] for d in domains if own_stage[d] < last]
    forward = [before[d] - after_stage[own_stage[d] - 1][d] for d in domains if own_stage[d] > 0]
    return {
        "matrix": [[row[d] for d in domains] for row in after_stage],
        "backward_transfer": float(np.mean(backward)) if backward else None,
        "forward_transfer": float(np.mean(forward)) if forward else None,
    }


def evaluate_run(
    run: Run | str | Path,
    corpora: Corpora,
    *,
    split: str = "test",
    documents: int | None = None,
    generate: int | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Evaluate a finished run again, on another split or other texts, and write its `evaluation.json`.

    Parameters
    ----------
    run
        The run or its folder.
    corpora
        Must hold every trained domain by name.
    split
        "train", "validation" or "test".
    documents
        Most documents per domain; None keeps the run's own `eval_documents`.
    generate
        Prompts per domain that are answered freely; None keeps the run's own `eval_generate`.

    Raises
    ------
    RunError
        If the run has no finished stages, or the corpora lack one of its domains.
    """
    from .session import open_run

    with open_run(run, corpora, split=split, documents=documents, generate=generate, progress=progress) as evaluator:
        for stage in [None, *range(len(evaluator.stages))]:
            evaluator.measure(stage, again=True)
        return evaluator.report()


def missing_domains(corpora: Corpora, domains: Sequence[str], what: str) -> None:
    """Refuse corpora that lack a domain."""
    lacking = [name for name in domains if name not in corpora]
    if lacking:
        raise RunError(
            f"{what}: the corpora have no domain {', '.join(lacking)}; they hold {', '.join(corpora.names)}: name the "
            "corpora the plan was made for."
        )
