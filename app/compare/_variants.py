"""What each method trains: stages, settings and seed of every run, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..._files import digest
from ..._seeding import generator
from ...errors import ConfigError, PlanError

if TYPE_CHECKING:
    from ...metrics import Relations
    from ...partition import Plan, PlanSettings
    from ...stages import TrainSettings
    from .settings import CompareSettings

__all__ = ["DRAWN", "TITLES", "Variant", "trained_units", "variants"]

Stages = tuple[tuple[str, ...], ...]

DRAWN = ("random", "no-order")
"""Methods whose stages are drawn anew for each seed and draw."""

TITLES: Mapping[str, str] = {
    "plan": "the plan",
    "joint": "one stage for all domains",
    "independent": "a domain adapter each, nothing shared",
    "one-per-domain": "one stage per domain, shared adapters stay",
    "random": "random groups of the plan's sizes, random order",
    "single-linkage": "single linkage on the same gains",
    "discrepancy-only": "planned with λ = 0, in as many stages as the plan",
    "no-ssl": "the plan without the denoising loss",
    "no-align": "the plan without the alignment loss",
    "no-kl": "the plan without the KL term",
    "no-shared": "the plan without shared adapters",
    "no-domain": "the plan without domain adapters",
    "no-order": "the plan's stages in random order",
    "no-bounds": "the plan without norm bounds",
}


@dataclass(frozen=True)
class Variant:
    """One run to make: a method, one of its draws, and a training seed."""

    method: str
    draw: int
    seed: int
    stages: Stages
    settings: TrainSettings

    def key(self, fingerprints: Mapping[str, Any]) -> str:
        """Identifies what would be trained, so that equal runs are trained once and finished ones are found again."""
        values = self.settings.to_dict()
        for free in ("checkpoint_every", "keep_checkpoints", "trackers", "bootstrap", "trust_remote_code"):
            values.pop(free, None)
        return digest([list(stage) for stage in self.stages], values, self.seed, dict(fingerprints))


def variants(
    plan: Plan,
    relations: Relations | None,
    *,
    settings: CompareSettings,
    train: TrainSettings,
    plan_settings: PlanSettings,
    seed: int,
) -> list[Variant]:
    """Every run of the comparison, the plan's first.

    Raises
    ------
    ConfigError
        When an ablation takes out what is not there.
    PlanError
        When a peer's groups cannot be repaired to the budgets.
    """
    found: list[Variant] = []
    base = _settled(plan.stages)
    for method in settings.methods:
        drawn = method in DRAWN
        draws = settings.draws if drawn else 1
        own = _train_settings(method, train)
        fixed = None if drawn else _stages(method, plan, relations, plan_settings, seed)
        for training_seed in settings.seeds:
            for draw in range(draws):
                if fixed is not None:
                    stages = fixed
                elif method == "random":
                    stages = _random(plan, training_seed, draw, seed)
                else:
                    stages = _shuffled(base, training_seed, draw, seed)
                final = own if settings.equal == "tokens" else _same_count(own, stages, train, base)
                found.append(Variant(method, draw, training_seed, stages, final))
    return found


def trained_units(stages: Sequence[Sequence[str]], settings: TrainSettings) -> int:
    """How many adapters are trained in all: each holds the same factors, so parameters are rank times this."""
    domains = sum(len(stage) for stage in stages)
    return (len(stages) if settings.adapters != "domain" else 0) + (domains if settings.adapters != "shared" else 0)


def _settled(stages: Sequence[Sequence[str]]) -> Stages:
    return tuple(tuple(sorted(stage)) for stage in stages)


def _train_settings(method: str, train: TrainSettings) -> TrainSettings:
    if method in ("independent", "no-shared"):
        if method == "no-shared" and train.adapters == "domain":
            raise ConfigError("compare.ablate: shared adapters are off already; remove 'shared' or set train.adapters.")
        # Independent means nothing shared: neither the adapter nor, with labels, the head.
        head = "domain" if method == "independent" else train.head
        return replace(train, adapters="domain", head=head, rho_shared=None)
    if method == "no-domain":
        if train.adapters == "shared":
            raise ConfigError("compare.ablate: domain adapters are off already; remove 'domain' or set train.adapters.")
        return replace(train, adapters="shared", rho_domain=None)
    for term in ("ssl", "align", "kl"):
        if method == f"no-{term}":
            name = f"{term}_weight"
            if getattr(train, name) == 0:
                raise ConfigError(f"compare.ablate: train.{name} is 0 already; remove {term!r} or set a weight.")
            return replace(train, **{name: 0.0})  # type: ignore[arg-type]
    if method == "no-bounds":
        if train.rho_shared is None and train.rho_domain is None:
            raise ConfigError("compare.ablate: no norm bound is set; remove 'bounds' or set train.rho_shared.")
        return replace(train, rho_shared=None, rho_domain=None)
    return train


def _stages(method: str, plan: Plan, relations: Relations | None, settings: PlanSettings, seed: int) -> Stages:
    names = tuple(sorted(plan.domains))
    if method == "plan" or method.startswith("no-"):
        return _settled(plan.stages)
    if method == "joint":
        return (names,)
    if method in ("independent", "one-per-domain"):
        # In the plan's order, so that the order is not what is compared.
        return tuple((name,) for stage in _settled(plan.stages) for name in stage)
    if relations is None:
        raise PlanError(f"compare: {method!r} is planned from relations, and there are none; give them.")
    from ...partition import make_plan

    quick = replace(settings, bootstrap=0, phase=0, compare=False)
    if method == "discrepancy-only":
        # With λ = 0 nothing draws domains together; without a number of stages every domain would be alone.
        quick = replace(quick, lam=0.0, stages=len(plan.stages))
    else:
        quick = replace(quick, method=method.replace("-", "_"))  # type: ignore[arg-type]
    return _settled(make_plan(relations, settings=quick, seed=seed).stages)


def _random(plan: Plan, training_seed: int, draw: int, seed: int) -> Stages:
    """A partition with the plan's numbers of domains, drawn until it keeps the plan's budgets (at most 2,000 times)."""
    rng = generator(seed, "compare", "random", training_seed, draw)
    names = sorted(plan.domains)
    sizes = [len(stage) for stage in plan.stages]
    for _ in range(2000):
        order = [names[i] for i in rng.permutation(len(names))]
        widths = [sizes[i] for i in rng.permutation(len(sizes))]
        stages, at = [], 0
        for width in widths:
            stages.append(order[at : at + width])
            at += width
        if _within(stages, plan):
            return _settled(stages)
    raise PlanError("compare: no random partition of the plan's stage sizes keeps its budgets; leave out 'random'.")


def _within(stages: Sequence[Sequence[str]], plan: Plan) -> bool:
    for resource, most in plan.budget.items():
        sizes = plan.sizes.get(resource)
        if sizes and any(sum(sizes[name] for name in stage) > most * (1 + 1e-9) for stage in stages):
            return False
    return True


def _shuffled(stages: Stages, training_seed: int, draw: int, seed: int) -> Stages:
    order = generator(seed, "compare", "order", training_seed, draw).permutation(len(stages))
    return tuple(stages[i] for i in order)


def _same_count(own: TrainSettings, stages: Stages, train: TrainSettings, base: Stages) -> TrainSettings:
    """The rank that brings the number of trained parameters nearest to the plan's; the scale of updates stays."""
    rank = max(1, round(train.lora.rank * trained_units(base, train) / trained_units(stages, own)))
    if rank == own.lora.rank:
        return own
    power = 0.5 if own.lora.rslora else 1.0
    alpha = own.lora.alpha * (rank / own.lora.rank) ** power
    return replace(own, lora=replace(own.lora, rank=rank, alpha=alpha))
