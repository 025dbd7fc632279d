"""From relations to a plan: scale, solve, order, compare, explain, and say how sure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .._progress import SILENT, Progress
from .._seeding import derive_seed, generator
from ..errors import ConfigError
from ._seal import seal_of
from ._solve import solve_problem
from .advice import advice
from .confidence import bootstrap_confidence, phase_diagram
from .expectation import keep_apart
from .explain import explain_assignment
from .fewest import fewest_stages, in_fewest
from .order import best_order, order_score, stage_matrices
from .peers import compare_solvers
from .plan import Plan
from .problem import Problem, make_problem
from .scaling import Scaled, gain_of, scaled
from .settings import PlanSettings
from .solution import Solution
from .theory import bound_terms, corollary_check

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..metrics.relations import Relations

__all__ = ["build_problem", "make_plan", "plan_from_labels"]

_MEASURED = ("tokens", "documents", "characters")


def make_plan(
    relations: Relations,
    *,
    settings: PlanSettings | None = None,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Plan:
    """Plan which domains share a stage, in what order, with proof, rivals, confidence and reasons.

    Parameters
    ----------
    relations : Relations
        As measured; the measures that the settings name must be among them.
    settings : PlanSettings, optional
    seed : int
        Same relations, settings and seed give the same plan.
    progress : Progress

    Raises
    ------
    PlanError
        When a measure, domain or resource that the settings name is not there.
    InfeasibleError
        When no partition satisfies the constraints; names a minimal set in conflict.
    """
    settings = settings or PlanSettings()
    begin = time.monotonic()
    parts = scaled(relations, settings)
    problem, sizes = build_problem(relations, settings, parts)
    if settings.stages == "fewest":
        problem = keep_apart(problem, relations)
    solution = solve_problem(
        problem,
        time_limit=settings.time_limit,
        seed=derive_seed(seed, "plan"),
        method=settings.method,
        workers=settings.workers,
        progress=progress,
    )
    return plan_from_labels(
        relations, settings, parts, problem, sizes, solution, seed=seed, begin=begin, progress=progress
    )


def build_problem(
    relations: Relations, settings: PlanSettings, parts: Scaled
) -> tuple[Problem, dict[str, dict[str, float]]]:
    """The planning problem that settings and relations pose, and the sizes it counts, by resource and domain."""
    names = relations.domains
    index = {name: i for i, name in enumerate(names)}
    sizes = _sizes(relations, settings)
    limits: dict[str, dict[str, float]] = {"budget": {}, "minimum": {}}
    for kind, given in (("budget", settings.budget), ("minimum", settings.minimum)):
        for resource, value in given.items():
            room = float(value) - float(settings.overhead.get(resource, 0.0))
            if kind == "budget" and room <= 0:
                raise ConfigError(
                    f"plan.budget.{resource}: {value:g} is used up by plan.overhead.{resource}; raise the budget."
                )
            limits[kind][resource] = max(0.0, room)
    pinned_must, pinned_cannot, least = _pins(settings, index)
    low, high = 1, len(names)
    if isinstance(settings.stages, int):
        low, high = settings.stages, settings.stages
    elif isinstance(settings.stages, (tuple, list)):
        low, high = settings.stages
    if least > high:
        raise ConfigError(f"plan.pin: needs {least} stages but plan.stages allows {high}; change either.")
    fewest = settings.stages == "fewest"
    problem = make_problem(
        gain_of(parts, settings.lam),
        sizes={name: [by_domain[d] for d in names] for name, by_domain in sizes.items()},
        budget=limits["budget"],
        minimum=limits["minimum"],
        stages=(low if fewest else max(low, least), max(high, low)),
        must_link=[*_groups(settings.must_link, index, "must_link"), *pinned_must],
        cannot_link=[*_groups(settings.cannot_link, index, "cannot_link"), *pinned_cannot],
        kappa=settings.kappa,
        names=names,
    )
    if not fewest:
        return problem, sizes
    if least > 1:
        _check_positions(settings, problem, least)
    return in_fewest(replace(problem, stages=(least, high))), sizes


def _check_positions(settings: PlanSettings, problem: Problem, least: int) -> None:
    """Refuse a pin to a position that as few stages as the constraints allow do not reach.

    Stages that nothing else asks for would be made before it, and more stages were never better.
    """
    count = fewest_stages(problem)
    if count is None or least <= count:
        return
    last = max(settings.pin.values())
    name = next(domain for domain, position in settings.pin.items() if position == last)
    raise ConfigError(
        f"plan.pin.{name}: position {last} asks for {least} stages where the constraints need {count}, and "
        f"plan.stages = fewest makes no more; pin it within those (1 is trained first, -1 last), or set plan.stages = "
        f"{least}."
    )


def plan_from_labels(
    relations: Relations,
    settings: PlanSettings,
    parts: Scaled,
    problem: Problem,
    sizes: Mapping[str, Mapping[str, float]],
    solution: Solution,
    *,
    seed: int,
    begin: float,
    order: tuple[int, ...] | None = None,
    progress: Progress = SILENT,
) -> Plan:
    """Order the groups of a solution and gather everything that a plan says about itself.

    `order`, a permutation of the groups, overrides the search for one.
    """
    names = relations.domains
    labels, ordering = _ordered(relations, settings, parts, problem, solution.assignment, seed, order)
    stages = tuple(tuple(names[i] for i in np.flatnonzero(labels == t)) for t in range(int(labels.max()) + 1))
    confidence = (
        bootstrap_confidence(problem, labels, relations, settings, parts, seed=seed, progress=progress)
        if settings.bootstrap > 0
        else None
    )
    phase = phase_diagram(problem, labels, parts, settings, seed=seed, progress=progress)
    solvers = compare_solvers(problem, solution, seed=seed) if settings.compare else ()
    finite = bool(np.isfinite(solution.bound))
    made = Plan(
        stages=stages,
        domains=names,
        objective=solution.objective,
        bound=solution.bound if finite else None,
        gap=solution.gap if finite and np.isfinite(solution.gap) else None,
        status=solution.status,
        gain=problem.gain,
        discrepancy=_locked(parts.discrepancy),
        synergy=_locked(parts.synergy),
        sizes=sizes,
        budget=dict(settings.budget),
        settings={**_resolved(settings), "method_used": solution.method, "tolerance": solution.tolerance},
        seed=seed,
        fingerprints={**_json(relations.fingerprints), "relations": relations.digest},
        solvers=solvers,
        order=ordering,
        confidence=confidence,
        phase=phase,
        explain=explain_assignment(problem, labels),
        theory=_theory(relations, settings, problem, labels, solution),
        warnings=advice(relations, settings, problem, labels, solution, confidence),
        seconds=time.monotonic() - begin,
    )
    return replace(made, seal=seal_of(made))


def _sizes(relations: Relations, settings: PlanSettings) -> dict[str, dict[str, float]]:
    names = relations.domains
    out: dict[str, dict[str, float]] = {
        kind: {name: float(value) for name, value in zip(names, getattr(relations, kind), strict=True)}
        for kind in _MEASURED
    }
    out["domains"] = dict.fromkeys(names, 1.0)
    for resource, given in settings.sizes.items():
        if isinstance(given, Mapping):
            missing = sorted(set(names) - set(given))
            if missing:
                raise ConfigError(f"plan.sizes.{resource}: no size for {', '.join(missing)}; add it.")
            out[resource] = {name: float(given[name]) for name in names}
        else:
            out[resource] = dict.fromkeys(names, float(given))
    for resource in {*settings.budget, *settings.minimum}:
        if resource not in out:
            raise ConfigError(
                f"plan.budget.{resource}: nothing says what a domain takes of it; give plan.sizes.{resource} or "
                f"use one of "
                f"{', '.join(out)}."
            )
    used = {*settings.budget, *settings.minimum, *settings.sizes, "tokens", "domains"}
    return {resource: by_domain for resource, by_domain in out.items() if resource in used}


def _groups(groups: Any, index: Mapping[str, int], where: str) -> list[list[int]]:
    out = []
    for group in groups:
        unknown = [name for name in group if name not in index]
        if unknown:
            raise ConfigError(f"plan.{where}: no domain {unknown[0]!r}; the domains are {', '.join(index)}.")
        out.append([index[name] for name in group])
    return out


def _pin_keys(settings: PlanSettings) -> dict[str, int]:
    """Pins with "last" resolved to a number where the number of stages is fixed."""
    fixed = settings.stages if isinstance(settings.stages, int) else None
    return {name: fixed if p == -1 and fixed is not None else p for name, p in settings.pin.items()}


def _pins(settings: PlanSettings, index: Mapping[str, int]) -> tuple[list[list[int]], list[list[int]], int]:
    """Pins as links (one position, one stage; two positions, two stages) and the least number of stages."""
    keys = _pin_keys(settings)
    unknown = [name for name in keys if name not in index]
    if unknown:
        raise ConfigError(f"plan.pin: no domain {unknown[0]!r}; the domains are {', '.join(index)}.")
    by_position: dict[int, list[int]] = {}
    for name, position in keys.items():
        by_position.setdefault(position, []).append(index[name])
    must = [group for group in by_position.values() if len(group) > 1]
    heads = [group[0] for _, group in sorted(by_position.items())]
    cannot = [[a, b] for n, a in enumerate(heads) for b in heads[n + 1 :]]
    least = max([1, *(position + (-1 in by_position) for position in by_position if position > 0)])
    return must, cannot, least


def _ordered(
    relations: Relations,
    settings: PlanSettings,
    parts: Scaled,
    problem: Problem,
    assignment: NDArray[np.int64],
    seed: int,
    order: tuple[int, ...] | None,
) -> tuple[NDArray[np.int64], dict[str, Any]]:
    """Labels in training order, and what the plan records about the order."""
    names = relations.domains
    count = int(assignment.max()) + 1
    groups = [np.flatnonzero(assignment == t).tolist() for t in range(count)]
    transfer, source = _transfer(relations, settings, parts)
    weight = np.asarray(relations.tokens, dtype=np.float64)
    if weight.sum() <= 0:
        weight = np.ones(len(names))
    forward, forgetting = stage_matrices(groups, transfer, parts.discrepancy, weight)
    cost = settings.forgetting * forgetting
    pin = {
        int(assignment[names.index(name)]): position - 1 if position > 0 else count - 1
        for name, position in _pin_keys(settings).items()
    }
    best = best_order(forward, cost, pin=pin, seed=seed)
    rng = generator(seed, "order", "random")
    shuffles = [_keep_pins(rng.permutation(count).tolist(), pin) for _ in range(20)]
    reverse = _keep_pins(list(reversed(best.order)), pin)
    given = _keep_pins(list(range(count)), pin)
    chosen = {"optimal": list(best.order), "reverse": reverse, "random": shuffles[0], "given": given}[settings.order]
    exact = best.exact
    if order is not None:
        chosen, exact = list(order), False
    rank = np.empty(count, dtype=np.int64)
    rank[chosen] = np.arange(count)
    index = np.array(chosen)
    return rank[assignment], {
        "method": settings.order if order is None else "given",
        "exact": bool(exact and settings.order == "optimal" and order is None),
        "score": order_score(chosen, forward, cost),
        "best_score": best.score,
        "affinity": forward[np.ix_(index, index)].tolist(),
        "forgetting": forgetting[np.ix_(index, index)].tolist(),
        "transfer_measure": source,
        "rivals": {
            "reverse": order_score(reverse, forward, cost),
            "random": float(np.mean([order_score(one, forward, cost) for one in shuffles])),
            "given": order_score(given, forward, cost),
        },
    }


def _transfer(relations: Relations, settings: PlanSettings, parts: Scaled) -> tuple[NDArray[np.float64], str]:
    """A measured direction of transfer where there is one that agrees with itself; the synergy otherwise."""
    for name in relations.names:
        info = relations.info(name)
        usable = bool(relations.agreement.get(name, {}).get("usable", False))
        if info.affinity and not info.symmetric and info.kind == "similarity" and usable:
            values = np.array(relations.matrix(name), dtype=np.float64)
            off = ~np.eye(len(values), dtype=np.bool_)
            order = values[off].argsort(kind="stable").argsort(kind="stable")
            ranks = np.zeros_like(values)
            ranks[off] = order / max(1, len(order) - 1)
            return ranks, name
    source = settings.synergy if isinstance(settings.synergy, str) else "+".join(settings.synergy)
    return parts.synergy, source


def _keep_pins(order: list[int], pin: Mapping[int, int]) -> list[int]:
    at = {position: stage for stage, position in pin.items()}
    rest = iter([t for t in order if t not in pin])
    return [at[p] if p in at else next(rest) for p in range(len(order))]


def _theory(
    relations: Relations, settings: PlanSettings, problem: Problem, labels: NDArray[np.int64], solution: Solution
) -> dict[str, Any]:
    """Bound terms of the plan and its rivals in the measures' own units, and the corollary."""
    from dataclasses import replace as change

    raw = scaled(relations, change(settings, scale="none"))
    amount = np.asarray(relations.documents, dtype=np.float64)
    k = problem.k
    rivals = {"plan": labels, "all_in_one": np.zeros(k, dtype=np.int64), "one_per_domain": np.arange(k)}
    constrained = bool(
        problem.resources or problem.must_link or problem.cannot_link or problem.stages != (1, k) or problem.kappa
    )
    return {
        "terms": {name: bound_terms(one, raw.discrepancy, raw.synergy, amount) for name, one in rivals.items()},
        "corollary": corollary_check(
            labels, problem.gain, problem.names, proved=solution.status == "optimal", constrained=constrained
        ),
    }


def _resolved(settings: PlanSettings) -> dict[str, Any]:
    out: dict[str, Any] = _json(asdict(settings))
    return out


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(inner) for inner in value]
    return value


def _locked(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix.setflags(write=False)
    return matrix
