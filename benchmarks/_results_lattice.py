"""All partitions of eight domains: which objective finds a good one, for docs/results.md."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
from _results_data import Correlation, records, stored
from _results_words import number, table
from kinfold.metrics.registry import MEASURES
from kinfold.partition.scaling import rank_scale
from numpy.typing import NDArray

LAMS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
_RESAMPLES = 2000
_PERMUTATIONS = 5000


@cache
def lattice() -> dict[str, Any] | None:
    """Partitions of the lattice, and their outcome by (seed, partition, domain)."""
    value = stored("when", "lattice")
    if value is None:
        return None
    domains = list(value["domains"])
    held = records("when")
    by_seed: dict[int, dict[frozenset[str], Any]] = {}
    for one in value["groups"]:
        by_seed.setdefault(one["seed"], {})[frozenset(one["group"])] = held[one["record"]]
    width = len(value["groups"][0]["group"])
    partitions = [
        (frozenset(group), frozenset(domains) - frozenset(group))
        for group in combinations(domains, width)
        if domains[0] in group
    ]
    whole = [seed for seed, found in sorted(by_seed.items()) if all(g in found for p in partitions for g in p)]
    outcome = np.array(
        [
            [[next(by_seed[s][g]["final"][d]["accuracy"] for g in p if d in g) for d in domains] for p in partitions]
            for s in whole
        ]
    )
    return {"value": value, "domains": domains, "partitions": partitions, "seeds": whole, "outcome": outcome}


def _inside(gain: NDArray[np.float64], members: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Σ of gain within groups, for partitions given by the members of one of two groups."""
    one = members.astype(float)
    return (np.einsum("pi,ij,pj->p", one, gain, one) + np.einsum("pi,ij,pj->p", 1 - one, gain, 1 - one)) / 2


def _gains(value: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """Gains of every λ and scale of JS and synergy, and of each measure alone by ranks."""

    def even(name: str) -> NDArray[np.float64]:
        matrix = np.array(value["matrices"][name])
        matrix = (matrix + matrix.T) / 2
        np.fill_diagonal(matrix, 0.0)
        return matrix

    pairs = np.triu_indices(len(value["domains"]), 1)
    units = {
        name: float(np.median((np.array(high) - np.array(low))[pairs])) / 3.92
        for name, (low, high) in value["intervals"].items()
    }
    out: dict[str, NDArray[np.float64]] = {}
    for scale in ("rank", "floor", "none"):
        d, s = (
            rank_scale(even(n)) if scale == "rank" else even(n) / (units[n] if scale == "floor" else 1.0)
            for n in ("js", "synergy")
        )
        for lam in LAMS:
            out[f"λ · synergy − js, {scale}, λ = {lam:g}"] = lam * s - d
    for name in value["matrices"]:
        info = MEASURES.get(name)
        if info is not None and info.kind != "p-value" and name not in ("js", "discrepancy"):
            out[name] = rank_scale(even(name)) * (-1.0 if info.kind == "discrepancy" else 1.0)
    return out


@cache
def lattice_rows() -> tuple[tuple[Correlation, float], ...]:
    """Each objective: its rank correlation with outcome over all partitions, and its best partition's lead.

    The interval resamples the domains that are tested; p deals the domains of the measure anew (Mantel).
    """
    from scipy.stats import rankdata

    found = lattice()
    if found is None or not found["seeds"]:
        return ()
    domains, outcome = found["domains"], found["outcome"].mean(axis=0)
    members = np.array([[name in p[0] for name in domains] for p in found["partitions"]])
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(domains), (_RESAMPLES, len(domains)))
    orders = np.array([rng.permutation(len(domains)) for _ in range(_PERMUTATIONS)])

    def standard(values: NDArray[np.float64]) -> NDArray[np.float64]:
        ranks = rankdata(values, axis=-1)
        return (ranks - ranks.mean(axis=-1, keepdims=True)) / ranks.std(axis=-1, keepdims=True)

    wanted = standard(outcome.mean(axis=1))
    resampled = standard(np.array([outcome[:, pick].mean(axis=1) for pick in picks]))
    rows = []
    for name, gain in _gains(found["value"]).items():
        scores = _inside(gain, members)
        if np.ptp(scores) < 1e-12:
            continue
        own = standard(scores)
        rho = float(own @ wanted) / len(own)
        low, high = np.percentile(resampled @ own / len(own), [2.5, 97.5])
        dealt = standard(np.array([_inside(gain[np.ix_(o, o)], members) for o in orders]))
        p = (1 + int((np.abs(dealt @ wanted) / len(own) >= abs(rho) - 1e-12).sum())) / (1 + _PERMUTATIONS)
        lead = float(outcome[int(scores.argmax())].mean() - outcome.mean())
        rows.append((Correlation(name, rho, min(float(low), rho), max(float(high), rho), p, None), lead))
    return tuple(sorted(rows, key=lambda one: -one[0].rho))


def lattice_part() -> list[str]:
    """All partitions of eight domains."""
    found, rows = lattice(), lattice_rows()
    if found is None or not rows:
        return []
    outcome = found["outcome"].mean(axis=2)
    spread = outcome.mean(axis=0)
    said = [
        f"**All {len(found['partitions'])} ways to split eight review domains into two groups of four** that share "
        f"nothing, {_seeds(len(found['seeds']))}: accuracy from {spread.min():.3f} to {spread.max():.3f}, standard "
        f"deviation over partitions {spread.std(ddof=1):.3f}."
    ]
    if len(found["seeds"]) > 1:
        from scipy.stats import spearmanr

        agree = float(spearmanr(outcome[0], outcome[1]).statistic)
        said.append(
            f"Two seeds agree on which partition is better at ρ = {agree:+.2f}: "
            + ("there is something to foretell." if agree > 0.3 else "mostly noise, so there is little to foretell.")
        )
    sure = [one for one, _ in rows if one.p < 0.05]
    said.append(
        f"{len(sure)} of {len(rows)} objectives correlate with the outcome at p < 0.05 (one in twenty would by chance)."
    )
    head = ["objective", "Spearman ρ over partitions", "95 % over tested domains", "Mantel p", "its best one's lead"]
    body = [
        [one.name, f"{one.rho:+.2f}", f"{one.low:+.2f} to {one.high:+.2f}", number(one.p, 3), f"{lead:+.3f}"]
        for one, lead in rows
    ]
    return [" ".join(said), table(head, body)]


def _seeds(count: int) -> str:
    return "one seed, so that how much of the spread is noise is not known" if count == 1 else f"{count} seeds"


def lattice_default() -> str:
    """What all partitions say of λ and scale."""
    rows = [(one, lead) for one, lead in lattice_rows() if one.name.startswith("λ")]
    if not rows:
        return ""
    rhos, leads = [one.rho for one, _ in rows], [lead for _, lead in rows]
    sure = sum(one.p < 0.05 for one, _ in rows)
    text = (
        f"**λ and scale in training.** Over all partitions of eight review domains the {len(rows)} settings of λ and "
        f"scale correlate with the outcome by {min(rhos):+.2f} to {max(rhos):+.2f}, {sure} of them at p < 0.05; the "
        f"partition that each prefers leads the mean of all by {min(leads):+.3f} to {max(leads):+.3f}. "
    )
    if not sure or max(leads) - min(leads) < 0.005:
        return text + "Nothing here speaks for another λ or scale than λ = 1 by ranks, nor much for any."
    return text + "Which setting is best is in the table above; one set does not change a default."
