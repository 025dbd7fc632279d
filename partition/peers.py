"""What others would do: the paper's single linkage and the usual clusterings, behind one interface.

Each peer only proposes groups; where its groups break a budget or link they are repaired in the same plain way, so
that every objective in the comparison belongs to a plan that could be trained. A peer that cannot be repaired says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._seeding import generator
from ..errors import PlanError
from ._communities import leiden, louvain, spectral
from ._core import Core, make_core
from ._start import fit, merge_best
from .plan import relative_gap
from .problem import Problem, objective_value, violations
from .settings import PEERS
from .solution import Solution, canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PEER_TABLE", "Peer", "compare_solvers", "run_peer"]


REPAIRED = ", repaired"


@dataclass(frozen=True)
class Peer:
    """One row of the table of peers."""

    name: str
    title: str
    reference: str
    propose: Callable[[Core, np.random.Generator], NDArray[np.int64]]


def run_peer(problem: Problem, name: str, *, seed: int = 0, time_limit: float = 10.0) -> Solution:
    """The partition a peer proposes, repaired to the constraints; without a bound, since peers have none.

    Raises
    ------
    PlanError
        When the name is unknown or the proposal cannot be repaired.
    """
    if name not in PEER_TABLE:
        raise PlanError(f"solve: no peer {name!r}; choose one of {', '.join(PEERS)}.")
    begin = time.monotonic()
    # Peers see the weights as they are: that some forbid is our own finding.
    core = make_core(problem, mask=False)
    rng = generator(seed, "peer", name)
    labels = canonical(PEER_TABLE[name].propose(core, rng))
    fitted = fit(core, labels, rng)
    if fitted is None:
        raise PlanError(f"solve: what {name} proposes breaks the constraints and cannot be repaired; use 'auto'.")
    # The groups count, not their numbers.
    repaired = not np.array_equal(fitted[:, None] == fitted, labels[:, None] == labels)
    assignment = core.expand(fitted)
    if not problem.labelled:
        assignment = canonical(assignment)
    faults = violations(problem, assignment)
    if faults:
        raise PlanError(f"solve: what {name} proposes breaks a constraint: {faults[0]}")
    return Solution.make(
        assignment,
        objective_value(problem, assignment),
        float("inf"),
        time.monotonic() - begin,
        method=f"{name}{REPAIRED}" if repaired else name,
        tolerance=core.error,
    )


def compare_solvers(
    problem: Problem, solution: Solution, *, seed: int = 0, names: tuple[str, ...] = PEERS, draws: int = 20
) -> tuple[Mapping[str, Any], ...]:
    """Every peer beside a solution: {name, objective, gap, seconds, stages, feasible, repaired, note}.

    Gaps are to the solution's bound. `repaired` says that the groups a peer proposed broke a budget, link or number of
    stages and were moved until they fit. `random` is the mean of `draws` random feasible plans.
    """
    rows: list[Mapping[str, Any]] = [
        {
            "name": "kinfold",
            "objective": solution.objective,
            "gap": _finite(solution.gap),
            "seconds": solution.seconds,
            "stages": solution.stages,
            "feasible": True,
            "repaired": False,
            "note": solution.certificate,
        }
    ]
    for name in names:
        begin = time.monotonic()
        try:
            found = [run_peer(problem, name, seed=seed + d) for d in range(draws if name == "random" else 1)]
        except PlanError as fault:
            rows.append(
                {
                    "name": name,
                    "objective": None,
                    "gap": None,
                    "seconds": time.monotonic() - begin,
                    "stages": 0,
                    "feasible": False,
                    "repaired": False,
                    "note": str(fault),
                }
            )
            continue
        objective = float(np.mean([one.objective for one in found]))
        rows.append(
            {
                "name": name,
                "objective": objective,
                "gap": _finite(relative_gap(objective, solution.bound)),
                "seconds": (time.monotonic() - begin) / len(found),
                "stages": found[0].stages,
                "feasible": True,
                "repaired": any(one.method.endswith(REPAIRED) for one in found),
                "note": f"mean of {draws} draws" if name == "random" else PEER_TABLE[name].title,
            }
        )
    return tuple(rows)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _linkage(core: Core, *, single: bool) -> NDArray[np.int64]:
    """Agglomerate by single or average linkage on the gain while a merge adds to the objective and is legal."""
    n = core.n
    alive = np.ones(n, dtype=np.bool_)
    labels = np.arange(n)
    total = core.gain.astype(np.float64)
    peak = total.copy()
    np.fill_diagonal(peak, -np.inf)
    count = np.ones(n)
    load = core.sizes.copy()
    clash = core.conflict.copy()
    who = np.arange(n)
    while alive.sum() > max(1, core.least):
        if alive.sum() < 0.8 * len(alive):
            # Merged rows are dead weight: a quadratic scan a merge should see the living only.
            kept = np.flatnonzero(alive)
            living = np.ix_(kept, kept)
            total, peak, clash = total[living], peak[living], clash[living]
            count, load, who, alive = count[kept], load[:, kept], who[kept], alive[kept]
        score = peak if single else total / (count[:, None] * count[None, :])
        allowed = alive[:, None] & alive[None, :] & ~clash
        np.fill_diagonal(allowed, False)
        for r in range(len(core.sizes)):
            allowed &= load[r][:, None] + load[r][None, :] <= core.upper[r, 0]
        must = int(alive.sum()) > core.most
        if not allowed.any():
            break
        masked = np.where(allowed, score, -np.inf)
        a, b = (int(x) for x in np.unravel_index(int(masked.argmax()), masked.shape))
        # Single linkage joins by its best link alone, the paper's rule; average linkage by the mean of all links.
        if not must and masked[a, b] <= (0 if single else -core.kappa / (count[a] * count[b])):
            break
        total[a] += total[b]
        total[:, a] += total[:, b]
        peak[a] = np.maximum(peak[a], peak[b])
        peak[:, a] = peak[a]
        peak[a, a] = -np.inf
        clash[a] |= clash[b]
        clash[:, a] = clash[a]
        count[a] += count[b]
        load[:, a] += load[:, b]
        alive[b] = False
        labels[labels == who[b]] = who[a]
    return labels


def _single(core: Core, rng: np.random.Generator) -> NDArray[np.int64]:
    return _linkage(core, single=True)


def _average(core: Core, rng: np.random.Generator) -> NDArray[np.int64]:
    return _linkage(core, single=False)


def average_linkage(core: Core) -> NDArray[np.int64]:
    """Item labels of average linkage on the gain, within budgets and conflicts."""
    return _linkage(core, single=False)


def _greedy(core: Core, rng: np.random.Generator) -> NDArray[np.int64]:
    """Merge the two stages that add most, while that pays and budgets allow."""
    labels = np.arange(core.n)
    while labels.max() + 1 > max(1, core.least):
        after = merge_best(core, labels)
        if labels.max() + 1 > core.most or core.value(after) > core.value(labels):
            legal = all(
                int(core.sizes[r, after == c].sum()) <= core.upper[r, 0]
                for r in range(len(core.sizes))
                for c in np.unique(after)
            )
            if not legal and labels.max() + 1 <= core.most:
                break
            labels = after
        else:
            break
    return labels


def _random(core: Core, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random feasible partition with a random number of stages."""
    from ._start import feasible_start

    for _ in range(20):
        m = int(rng.integers(core.least, min(core.most, core.n) + 1))
        labels = canonical(rng.integers(0, m, core.n))
        if fit(core, labels, rng) is not None:
            return labels
    start = feasible_start(core, rng)
    return np.arange(core.n) if start is None else start


def _together(core: Core, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.zeros(core.n, dtype=np.int64)


def _apart(core: Core, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.arange(core.n, dtype=np.int64)


PEER_TABLE: Mapping[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("single_linkage", "single linkage (the paper's)", "arXiv 2511.07198", _single),
        Peer("average_linkage", "average linkage", "Sokal & Michener 1958", _average),
        Peer("louvain", "Louvain on positive gains", "Blondel et al. 2008", louvain),
        Peer("leiden", "Leiden moves on the objective", "Traag et al. 2019", leiden),
        Peer("spectral", "spectral clustering", "Ng et al. 2001", spectral),
        Peer("greedy", "greedy merging", "capacity-aware agglomeration", _greedy),
        Peer("random", "random plans", "", _random),
        Peer("all_in_one", "one stage for all", "", _together),
        Peer("one_per_domain", "one stage a domain", "", _apart),
    )
}
