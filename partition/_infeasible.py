"""Say which constraints conflict: a set from which none can be dropped, never just "infeasible"."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InfeasibleError, PlanError
from ._clock import Clock
from ._core import make_core
from .problem import stages_in_words

if TYPE_CHECKING:
    from .problem import Problem

__all__ = ["Conflict", "check_obvious", "explain_infeasible", "minimal_conflict"]

_TOLERANCE = 1e-9


def check_obvious(problem: Problem) -> None:
    """Raise at once on conflicts that need no search, with the numbers that prove them.

    Raises
    ------
    InfeasibleError
        When a single domain or linked group exceeds every budget, links contradict each other, or totals do not fit.
    """
    names = problem.names
    low, high = problem.stages
    if low > problem.k:
        raise InfeasibleError(f"plan: {low} stages are asked for but there are {problem.k} domains; ask for fewer.")
    core = make_core(problem)
    if low > core.n:
        raise InfeasibleError(
            f"plan: {low} stages are asked for but must_link leaves {core.n} groups; ask for fewer or drop a must_link."
        )
    for i, j in problem.cannot_link:
        if core.group[i] == core.group[j]:
            raise InfeasibleError(
                f"plan: cannot_link {names[i]}, {names[j]} contradicts must_link, which chains them together; drop one."
            )
    groups = [np.flatnonzero(core.group == g) for g in range(core.n)]
    for resource in problem.resources:
        most = max(
            problem.limits(t)[problem.resources.index(resource)][2] for t in range(high if problem.labelled else 1)
        )
        for group in groups:
            need = float(resource.sizes[group].sum())
            if need > most * (1 + _TOLERANCE):
                who = " + ".join(names[i] for i in group)
                remedy = f"raise the {resource.name} budget to {need:g} or more, or " + (
                    "drop a must_link" if len(group) > 1 else f"shrink {who}"
                )
                raise InfeasibleError(
                    f"plan: {who} takes {need:g} {resource.name} but a stage may hold {most:g}; {remedy}."
                )
        total = float(resource.sizes.sum())
        if problem.labelled:
            room = sum(problem.limits(t)[problem.resources.index(resource)][2] for t in range(high))
            floor = sum(problem.limits(t)[problem.resources.index(resource)][1] for t in range(high))
        else:
            room = high * problem.limits(0)[problem.resources.index(resource)][2]
            floor = low * problem.limits(0)[problem.resources.index(resource)][1]
        if total > room * (1 + _TOLERANCE):
            raise InfeasibleError(
                f"plan: all domains take {total:g} {resource.name} but {high} stages hold {room:g}; "
                "raise the budget or allow more stages."
            )
        if total < floor * (1 - _TOLERANCE):
            raise InfeasibleError(
                f"plan: all domains have {total:g} {resource.name} but {low} stages need {floor:g}; "
                "lower the minimum or ask for fewer stages."
            )


@dataclass(frozen=True)
class Conflict:
    """Constraints that no partition satisfies together.

    Attributes
    ----------
    constraints : tuple of str
    minimal : bool
        Whether it is proved that dropping any one of them leaves a partition.
    """

    constraints: tuple[str, ...]
    minimal: bool


def explain_infeasible(problem: Problem, *, clock: Clock, seed: int = 0) -> PlanError:
    """The error to raise when no partition was found: a conflict, or that none was found in time."""
    conflict = minimal_conflict(problem, clock=clock, seed=seed)
    if conflict is None:
        return PlanError(
            "plan: no feasible partition was found in the time given, nor proved not to exist; raise time_limit or "
            "loosen a constraint."
        )
    helps = (
        "dropping any one of them helps"
        if conflict.minimal
        else "time ran out before it was clear that all of them are needed, so loosen several or raise time_limit"
    )
    return InfeasibleError(
        f"plan: no partition satisfies these constraints together: {'; '.join(conflict.constraints)}; {helps}."
    )


def minimal_conflict(problem: Problem, *, clock: Clock, seed: int = 0) -> Conflict | None:
    """A set of constraints with no partition; None when not even that is decided in time.

    Deletion filter: drop each constraint in turn and keep it out while the rest stays infeasible. A check that runs
    out of its share of time keeps the constraint for now and is made again, with all the time that is left, at the
    end; what then is still open makes the conflict not proved minimal.
    """
    limit = clock.left()
    from ortools.sat.python import cp_model  # noqa: F401 (loading it can take seconds and is no search)

    from ._clique import feasibility

    clock = Clock(limit, deterministic=clock.deterministic)
    atoms = _atoms(problem)

    def infeasible(kept: list[int], seconds: float) -> bool | None:
        part = _with(problem, [atoms[a] for a in kept])
        core = make_core(part)
        if core.least > core.n or np.diag(core.conflict).any():
            return True
        status = feasibility(core, clock=clock.part(max(0.2, seconds)), seed=seed)[2]
        return None if status == "unknown" else status == "infeasible"

    kept = list(range(len(atoms)))
    if not infeasible(kept, 0.5 * clock.left()):
        return None
    share = 0.5 * clock.left() / max(1, len(atoms))
    open_ = []
    for atom in range(len(atoms)):
        verdict = infeasible([a for a in kept if a != atom], share)
        if verdict:
            kept.remove(atom)
        elif verdict is None:
            open_.append(atom)
    minimal = True
    for n, atom in enumerate(open_):
        verdict = infeasible([a for a in kept if a != atom], clock.left() / (len(open_) - n))
        if verdict:
            kept.remove(atom)
        elif verdict is None:
            minimal = False
    return Conflict(tuple(_say(problem, atoms[a]) for a in kept), minimal)


Atom = tuple[str, int, int]


def _atoms(problem: Problem) -> list[Atom]:
    out: list[Atom] = [("cannot", i, j) for i, j in problem.cannot_link]
    out += [("must", i, j) for i, j in problem.must_link]
    for r, resource in enumerate(problem.resources):
        if resource.lower is not None:
            out.append(("minimum", r, 0))
        if resource.upper is not None:
            out.append(("budget", r, 0))
    if not problem.labelled:
        if problem.stages[0] > 1:
            out.append(("least", 0, 0))
        if problem.stages[1] < problem.k:
            out.append(("most", 0, 0))
    return out


def _with(problem: Problem, atoms: list[Atom]) -> Problem:
    """The problem with only these constraints."""
    kept = set(atoms)
    resources = tuple(
        replace(
            resource,
            upper=resource.upper if ("budget", r, 0) in kept else None,
            lower=resource.lower if ("minimum", r, 0) in kept else None,
        )
        for r, resource in enumerate(problem.resources)
    )
    low = problem.stages[0] if problem.labelled or ("least", 0, 0) in kept else 1
    high = problem.stages[1] if problem.labelled or ("most", 0, 0) in kept else max(problem.k, low)
    return replace(
        problem,
        resources=resources,
        stages=(low, high),
        must_link=tuple((i, j) for i, j in problem.must_link if ("must", i, j) in kept),
        cannot_link=tuple((i, j) for i, j in problem.cannot_link if ("cannot", i, j) in kept),
    )


def _say(problem: Problem, atom: Atom) -> str:
    kind, i, j = atom
    if kind in ("must", "cannot"):
        return f"{kind}_link {problem.names[i]}, {problem.names[j]}"
    if kind == "least":
        return f"at least {stages_in_words(problem.stages[0])}"
    if kind == "most":
        return f"at most {stages_in_words(problem.stages[1])}"
    resource = problem.resources[i]
    limit = resource.upper if kind == "budget" else resource.lower
    return f"{kind} of {limit if isinstance(limit, tuple) else f'{limit:g}'} {resource.name} a stage"
