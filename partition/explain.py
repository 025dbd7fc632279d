"""Why each domain is where it is: what it adds there, what its best other stage would give, and what holds it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .problem import SIZE_TOLERANCE, Problem, stages_in_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["explain_assignment"]


def explain_assignment(problem: Problem, labels: NDArray[np.int64]) -> dict[str, Mapping[str, Any]]:
    """For every domain, its gain where it is, its best other stage, the margin, and what binds.

    Parameters
    ----------
    problem : Problem
    labels : int64 ndarray of shape (k,)
        Stage indices from 0, in training order.

    Returns
    -------
    dict
        {domain: {stage, gain, best_other, best_other_gain, margin, binding, best_mate, worst_mate}}. `best_other`
        is a stage index, or `None` for a stage of its own; gains count kappa. `margin` = gain − best_other_gain:
        negative where a constraint in `binding` keeps the domain from the stage it would rather join.
    """
    count = int(labels.max()) + 1
    member = labels[None, :] == np.arange(count)[:, None]
    pull = member.astype(np.float64) @ problem.gain
    out: dict[str, Mapping[str, Any]] = {}
    for i, name in enumerate(problem.names):
        own = int(labels[i])
        alone = bool(member[own].sum() == 1)
        # Leaving a stage of one closes it and saves kappa; opening one costs it.
        here = float(pull[own, i]) - (problem.kappa if alone else 0.0)
        options: list[tuple[float, int | None]] = [(float(pull[t, i]), t) for t in range(count) if t != own]
        if not alone:
            options.append((-problem.kappa, None))
        best = max(options, key=lambda option: option[0], default=None)
        mates = [j for j in np.flatnonzero(member[own]) if j != i]
        out[name] = {
            "stage": own,
            "gain": here,
            "best_other": None if best is None else best[1],
            "best_other_gain": None if best is None else best[0],
            "margin": None if best is None else here - best[0],
            "binding": [] if best is None else _binding(problem, labels, i, best[1]),
            "best_mate": problem.names[max(mates, key=lambda j: problem.gain[i, j])] if mates else None,
            "worst_mate": problem.names[min(mates, key=lambda j: problem.gain[i, j])] if mates else None,
        }
    return out


def _binding(problem: Problem, labels: NDArray[np.int64], i: int, target: int | None) -> list[str]:
    """The constraints that moving domain i alone to stage `target` (None: a new one) would break."""
    names = problem.names
    out = [f"must_link {names[a if b == i else b]}" for a, b in problem.must_link if i in (a, b)]
    count = int(labels.max()) + 1
    after = labels.copy()
    after[i] = count if target is None else target
    used = len(np.unique(after))
    if used < problem.stages[0]:
        out.append(f"at least {stages_in_words(problem.stages[0])}")
    if used > problem.stages[1]:
        out.append(f"at most {stages_in_words(problem.stages[1])}")
    for a, b in problem.cannot_link:
        other = b if a == i else a if b == i else None
        if other is not None and after[other] == after[i]:
            out.append(f"cannot_link {names[other]}")
    for stage, side in ((int(after[i]), "budget"), (int(labels[i]), "minimum")):
        members = after == stage
        if not members.any():
            continue
        for resource, least, most in problem.limits(min(stage, count - 1) if problem.labelled else 0):
            load = float(resource.sizes[members].sum())
            if side == "budget" and load > most * (1 + SIZE_TOLERANCE):
                out.append(f"{resource.name} budget")
            if load < least * (1 - SIZE_TOLERANCE):
                out.append(f"{resource.name} minimum")
    return out
