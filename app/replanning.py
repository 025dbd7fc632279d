"""What `train --replan` asks between stages: measure on the adapted model, plan the rest, keep it where it is better.

The rooms stay apart: stages knows when to ask, metrics how to measure, partition how to plan; only here do they meet.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._progress import SILENT, Progress
from ..errors import ConfigError, ModelError

if TYPE_CHECKING:
    from ..corpora import Corpora
    from ..metrics import MeasureSettings, Relations
    from ..partition import Plan, PlanSettings
    from ..partition.replanning import Replan
    from ..stages import ReplanRequest
    from .config import KinfoldConfig

__all__ = ["ModelReplanner", "make_replanner"]

# What changes with the model; token measures read the text alone, gradients are those of the bare base.
_FEATURES = frozenset({"cosine", "cosine_centred", "mmd2", "class_mean_cosine", "probe_transfer", "proxy_a_distance"})
_SYNERGIES = {"synergy": "cosine", "synergy_centred": "cosine_centred"}
_FEWEST_DRAWS = 20
_FREE = frozenset({"model", "num_proc", "batch_size", "device", "workers"})


@dataclass(frozen=True)
class ModelReplanner:
    """Measures the plan's domains with the adapted model as embedder and plans what is left.

    Attributes
    ----------
    corpora
        The run's texts.
    measure
        As the relations of the given plan were measured, but for the embedder. Documents and seed are the same, so
        that what differs is the model.
    tokenizer
        Of the token measures; None trains one on the corpora, as before.
    tokenizer_identity
        Its fingerprint.
    plan
        Objective and constraints of the given plan.
    seed, plan_seed
        Of measuring and of planning.
    """

    corpora: Corpora
    measure: MeasureSettings
    tokenizer: str | None
    tokenizer_identity: str
    plan: PlanSettings
    seed: int
    plan_seed: int

    @property
    def identity(self) -> dict[str, Any]:
        """Settings and seeds, as they go into the run's record."""
        from .config import plain

        # A model that was moved is the same model, and speed decides no number.
        return {
            "measure": {key: value for key, value in plain(self.measure).items() if key not in _FREE},
            "tokenizer": self.tokenizer_identity,
            "plan": {key: value for key, value in plain(self.plan).items() if key not in _FREE},
            "seed": self.seed,
            "plan_seed": self.plan_seed,
        }

    def __call__(self, request: ReplanRequest) -> tuple[Replan, Relations]:
        """Relations on the adapted model's features, and the plan to go on with."""
        from ..metrics import measure
        from ..metrics.embedders import StateEmbedder
        from ..partition import replan

        embedder = StateEmbedder(request.model, request.tokenizer, self.measure, request.fingerprint)
        relations = measure(
            self.corpora,
            tokenizer=self.tokenizer,
            settings=self.measure,
            seed=self.seed,
            embedder=embedder,
            progress=request.progress,
        )
        if set(relations.domains) != set(request.plan.domains):
            relations = relations.subset(sorted(request.plan.domains))
        answer = replan(
            request.plan,
            relations,
            done=request.done,
            settings=self.plan,
            seed=self.plan_seed,
            progress=request.progress,
        )
        return answer, relations


def make_replanner(
    plan: Plan,
    corpora: Corpora,
    *,
    model: str,
    relations: Relations | None = None,
    config: KinfoldConfig | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> ModelReplanner:
    """The replanner of a run: it measures as `relations` were measured and plans as `plan` was planned.

    Where there are no relations, `config.measure` says how to measure; where the plan carries no settings (one written
    by hand), `config.plan` says what to maximise and under which constraints.

    Raises
    ------
    ConfigError
        If the plan is made from measures that no training can change, or there would be no bootstrap draws to tell
        change from noise.
    """
    from ..metrics import MeasureSettings
    from ..metrics.tokenizing import fingerprint, load_tokenizer
    from ..partition import PlanSettings
    from ..partition.changes import settings_of

    if plan.settings:
        goal = settings_of(plan)
    else:
        goal = config.plan if config is not None else PlanSettings()
    if relations is not None:
        measured, measured_seed = _measured(relations), relations.seed
        tokenizer, identity = _tokenizer_of(relations, model)
    else:
        measured, measured_seed = config.measure if config is not None else MeasureSettings(), seed
        tokenizer = (config.tokenizer if config is not None else None) or model
        identity = fingerprint(load_tokenizer(tokenizer))
    wanted = _read_by(goal)
    measures = tuple(name for name in measured.measures if name in wanted or name != "gradient_affinity")
    missing = tuple(sorted(wanted - set(measures)))
    if measured.embedder != "model":
        progress.warn(
            f"Re-plans read the model's own states, but the plan was made with the embedder {measured.embedder}: part "
            "of what changes comes from that; measure with --embedder model to compare like with like."
        )
    measured = dataclasses.replace(
        measured, measures=(*measures, *missing), validate="none", embedder="model", model=model
    )
    _check(goal, measured)
    return ModelReplanner(corpora, measured, tokenizer, identity, goal, measured_seed, plan.seed)


def _tokenizer_of(relations: Relations, model: str) -> tuple[str | None, str]:
    """The tokenizer of the relations (None: trained on the corpora) and its fingerprint; it may be the model's own.

    Raises
    ------
    ConfigError
        If neither the folder they name nor the model has it any more.
    """
    from ..metrics.tokenizing import fingerprint, load_tokenizer

    named, wanted = str(relations.settings.get("tokenizer", "auto")), str(relations.fingerprints.get("tokenizer"))
    if named == "auto":
        return None, "auto"
    for source in (named, model):
        with contextlib.suppress(ModelError):
            if fingerprint(load_tokenizer(source)) == wanted:
                return source, wanted
    raise ConfigError(
        f"train.replan: the tokenizer that the relations were measured with ({named}) is not there any more, or "
        "changed; measure and plan again."
    )


def _measured(relations: Relations) -> MeasureSettings:
    """The settings relations were measured with."""
    from ..metrics import MeasureSettings

    known = {item.name for item in dataclasses.fields(MeasureSettings)}
    values: Mapping[str, Any] = {key: value for key, value in relations.settings.items() if key in known}
    return MeasureSettings(**values)


def _read_by(settings: PlanSettings) -> set[str]:
    found: set[str] = set()
    for choice in (settings.discrepancy, settings.synergy):
        found |= {choice} if isinstance(choice, str) else {name for name, weight in choice.items() if weight > 0}
    return found


def _check(goal: PlanSettings, measured: MeasureSettings) -> None:
    used = _read_by(goal)
    parts = {_SYNERGIES.get(name, name) for name in used}
    if "discrepancy" in used:
        parts |= {name for name, weight in measured.discrepancy.items() if weight > 0}
    if not parts & _FEATURES:
        raise ConfigError(
            f"train.replan: the plan is made from {' and '.join(sorted(used))}, which look at the text alone and stay "
            "as they are whatever is trained; plan with synergy, cosine_centred or mmd2 (--synergy, --discrepancy), or "
            "leave train.replan off."
        )
    if measured.bootstrap < _FEWEST_DRAWS:
        raise ConfigError(
            f"train.replan: measure.bootstrap={measured.bootstrap} leaves too few draws to tell change from noise; "
            f"measure with at least {_FEWEST_DRAWS}, or leave train.replan off."
        )
