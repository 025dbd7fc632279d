"""What a table of measures against measured transfer allows to say, and what it does not.

With a dozen measures and a few dozen pairs the best one is best by luck as often as not. So three things are told
apart, each corrected for the number of measures:

- *Beyond chance*: the domains of the transfer matrix are permuted (Mantel 1967) and the largest correlation of all
  measures is kept; p is the share of permutations whose largest reaches the measured one (Westfall and Young 1993).
- *Interval*: domains are drawn anew, not pairs, for the pairs of one domain hang together; all measures see the same
  draws, and the width holds for all of them at once.
- *Better than the default*: the same draws give the spread of each difference from the default measure; one is better
  only where its difference is beyond the largest that draws of all differences reach in 95 of 100 cases.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .._seeding import generator
from ..errors import InputError
from .registry import MEASURES

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DEFAULTS", "advise", "rank_measures"]

_DRAWS = 500
_LEVEL = 0.05
# What a plan uses where nothing is said: its setting, and the measure.
DEFAULTS = {"discrepancy": ("plan.discrepancy", "js"), "similarity": ("plan.synergy", "synergy")}


def _standard(ranked: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = ranked - ranked.mean(axis=-1, keepdims=True)
    norm = np.sqrt((centred * centred).sum(axis=-1, keepdims=True))
    return np.asarray(np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 0))


def _correlations(
    values: NDArray[np.float64], truth: NDArray[np.float64], pick: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Spearman of each of (m, k, k) with (k, k) over the pairs of the domains `pick`; no domain against its copy."""
    from scipy.stats import rankdata

    first, second = np.triu_indices(len(pick), 1)
    a, b = pick[first], pick[second]
    a, b = a[a != b], b[a != b]
    if len(a) < 3:
        return np.zeros(len(values))
    return np.asarray(_standard(rankdata(values[:, a, b], axis=1)) @ _standard(rankdata(truth[a, b])))


def rank_measures(
    matrices: Mapping[str, NDArray[np.float64]],
    truth: NDArray[np.float64],
    *,
    seed: int = 0,
    draws: int = _DRAWS,
) -> dict[str, dict[str, Any]]:
    """Spearman correlation of each measure with `truth` over pairs; what of it is sure.

    Parameters
    ----------
    matrices : mapping of str to ndarray (k, k)
        By the names of :data:`MEASURES`; p-values and measures that say the same of every pair are left out.
    truth : ndarray (k, k)
        Symmetric; only pairs count.
    seed, draws : int
        Of permutations and of draws of domains.

    Returns
    -------
    dict
        Per measure `rho` (sign turned for discrepancies: positive foretells), `low` and `high` (95 % for all measures
        together), `p` (against chance, corrected for the number of measures), `pairs`, and `better`: the measures of
        the same kind that it is told apart from, to its favour.

    Raises
    ------
    InputError
        Fewer than 3 domains.
    """
    k = len(truth)
    if k < 3:
        raise InputError(f"{k} domains give no rank correlation over pairs; validate on at least 3.")
    upper = np.triu_indices(k, 1)
    names, stack = [], []
    for name, matrix in matrices.items():
        info = MEASURES.get(name)
        if info is None or info.kind == "p-value":
            continue
        value = (-1.0 if info.kind == "discrepancy" else 1.0) * (np.asarray(matrix, np.float64) + matrix.T) / 2
        if np.ptp(value[upper]) > 0 and np.ptp(truth[upper]) > 0:
            names.append(name)
            stack.append(value)
    if not names:
        return {}
    values = np.stack(stack)
    every = np.arange(k)
    rho = _correlations(values, truth, every)
    rng = generator(seed, "rank measures")
    null = np.empty(draws)
    for number in range(draws):
        order = rng.permutation(k)
        null[number] = _correlations(values, truth[np.ix_(order, order)], every).max()
    p = (1.0 + (null[:, None] >= rho[None, :] - 1e-12).sum(axis=0)) / (1.0 + draws)
    drawn = np.stack([_correlations(values, truth, rng.integers(0, k, k)) for _ in range(draws)])
    # Fisher's z: correlations near 1 vary less than those near 0, and an interval must not leave [-1, 1].
    z = np.arctanh(np.clip(drawn, -0.9999, 0.9999))
    around = z - z.mean(axis=0)
    spread = np.maximum(around.std(axis=0), 1e-9)
    reach = float(np.quantile(np.abs(around / spread).max(axis=1), 1.0 - _LEVEL))
    centre = np.arctanh(np.clip(rho, -0.9999, 0.9999))
    low, high = np.tanh(centre - reach * spread), np.tanh(centre + reach * spread)
    if not _can_tell(k):
        low, high = np.full(len(names), -1.0), np.full(len(names), 1.0)
    kinds = [MEASURES[name].kind for name in names]
    out: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(names):
        rivals = np.array([kind == kinds[index] for kind in kinds])
        rivals[index] = False
        out[name] = {
            "rho": float(rho[index]),
            "low": float(min(low[index], rho[index])),
            "high": float(max(high[index], rho[index])),
            "p": float(p[index]),
            "pairs": float(len(upper[0])),
            "better": [names[other] for other in _beaten(rho, drawn, index, np.flatnonzero(rivals))]
            if _can_tell(k)
            else [],
        }
    return out


def _can_tell(k: int) -> bool:
    """Whether `k` domains have enough orders for one of them to be rarer than chance allows."""
    return math.factorial(k) * _LEVEL >= 1


def _beaten(rho: NDArray[np.float64], drawn: NDArray[np.float64], index: int, rivals: NDArray[np.int64]) -> list[int]:
    """Those of `rivals` that measure `index` is told apart from, to its favour.

    For each rival as the one it is set against, the bound holds for all measures that could be chosen in its place, or
    choosing the best of many would find a winner in noise.
    """
    out = []
    for rival in rivals.tolist():
        others = np.append(rivals[rivals != rival], index)
        shift = drawn[:, others] - drawn[:, [rival]]
        around = shift - shift.mean(axis=0)
        spread = np.maximum(around.std(axis=0), 1e-9)
        reach = float(np.quantile((around / spread).max(axis=1), 1.0 - _LEVEL))
        if rho[index] - rho[rival] > reach * spread[-1]:
            out.append(rival)
    return out


def advise(measures: Mapping[str, Mapping[str, Any]]) -> tuple[str | None, str]:
    """The measure to plan with, where one is clearly better than the default, and the advice in a sentence.

    `measures` is what :func:`rank_measures` gives. The name is that of the default discrepancy, or of the measure that
    beats it; None where nothing foretells transfer beyond chance.
    """
    sure = [name for name, row in measures.items() if row["p"] <= _LEVEL]
    pairs = max((float(row.get("pairs", math.inf)) for row in measures.values()), default=math.inf)
    if not sure and pairs <= 3:
        return None, (
            "three domains are too few to tell which measure foretells transfer: any order of them is likely by "
            "chance; validate with five domains or more."
        )
    if not sure:
        least = min((row["p"] for row in measures.values()), default=1.0)
        return None, (
            "no measure foretells the measured transfer on this data beyond chance "
            f"(smallest p {least:.2f}, corrected for {len(measures)} measures); do not expect a plan to matter."
        )
    picked: dict[str, str] = {}
    parts = []
    for kind, (key, default) in DEFAULTS.items():
        own = [name for name in sure if MEASURES[name].kind == kind]
        if not own:
            parts.append(f"for {key} none is beyond chance, the default {default} stays")
            continue
        best = max(own, key=lambda name: float(measures[name]["rho"]))
        score = float(measures[best]["rho"])
        if default not in measures:
            picked[kind] = best
            parts.append(f"for {key} {best} ranks first (ρ {score:.2f}); the default {default} was not measured")
        elif best == default:
            picked[kind] = best
            parts.append(f"for {key} the default {default} ranks first (ρ {score:.2f})")
        elif default in measures[best]["better"]:
            picked[kind] = best
            parts.append(
                f"for {key} use {best} (ρ {score:.2f}), clearly better than the default {default} "
                f"(ρ {measures[default]['rho']:.2f})"
            )
        else:
            picked[kind] = default
            alone = "" if default in sure else ", by itself not beyond chance"
            parts.append(
                f"for {key} keep the default {default} (ρ {measures[default]['rho']:.2f}{alone}): {best} ranks first "
                f"(ρ {score:.2f}), but is not told apart from it"
            )
    name = picked.get("discrepancy") or picked.get("similarity")
    return name, "on this data, " + "; ".join(parts) + "."
