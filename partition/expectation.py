"""Does it matter who shares a stage? The plan's lead over random groups, beside the lead that noise alone would give.

A planner always finds something: the best partition of pure noise beats random partitions too. The bootstrap draws of
the relations say how large that noise is. If the plan's lead is no larger than what a search finds in the draws'
deviations from their mean, the measurements give no reason to prefer its groups to any others of the same sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .._seeding import generator
from .fewest import fewest_stages

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..metrics.relations import Relations
    from .problem import Problem
    from .settings import PlanSettings

__all__ = ["Expectation", "contradicting", "expectation", "keep_apart", "label_warning", "lead"]

# Class-mean cosines of domains with one label convention lay above +0.3 on real reviews, those of opposite conventions
# below -0.3 (docs/results.md); unrelated tasks lie about 0.
_OPPOSITE = -0.2
_LEAST_DRAWS = 3
_MOST_DRAWS = 30
_STARTS = 480  # over the number of domains
_ROUNDS = 100
# Beyond so many domains fewer draws do: sums over more pairs vary less, and the search takes k squared steps. All of it
# is half a second at 120 domains and at 500.
_SMALL, _FEW_DRAWS = 120, 8


@dataclass(frozen=True)
class Expectation:
    """The plan's lead and that of noise, in standard deviations of the measures over pairs.

    Attributes
    ----------
    advantage
        Gain inside the plan's stages less its mean over random groups of the same sizes.
    reachable
        The largest such lead that a search finds in the measurements, whatever the constraints.
    noise, spread
        Mean and standard deviation, over bootstrap draws, of the lead that a search finds in noise alone.
    draws
        Bootstrap draws used.
    """

    advantage: float
    reachable: float
    noise: float
    spread: float
    draws: int

    @property
    def matters(self) -> bool:
        """Whether the lead lies beyond the noise's mean by more than two of its standard deviations."""
        return self.advantage > self.noise + 2.0 * self.spread

    @property
    def warning(self) -> str | None:
        """What to tell the user where these groups are expected to make no difference, or are kept from making one."""
        if self.matters:
            return None
        if self.reachable > self.noise + 2.0 * self.spread:
            return (
                f"The plan's lead over random groups of the same sizes ({self.advantage:.2f}, in standard deviations "
                f"over pairs) is no more than resampling noise gives ({self.noise:.2f} ± {self.spread:.2f}), though "
                f"other groups of these sizes reach {self.reachable:.2f}: constraints, or lam and the scale, keep the "
                "plan from using the differences measured."
            )
        return (
            "These domains hardly conflict: the plan's lead over random groups of the same sizes "
            f"({self.advantage:.2f}, in standard deviations over pairs) is no more than a search finds in resampling "
            f"noise alone ({self.noise:.2f} ± {self.spread:.2f}); any grouping within budget will do."
        )


def expectation(
    labels: NDArray[np.int64], relations: Relations, settings: PlanSettings, *, seed: int = 0
) -> Expectation | None:
    """Compare the plan's lead with that of noise; None where nothing can be said.

    That is so for a plan that is one stage, or one domain a stage (there is nobody to exchange), and without at least
    three bootstrap draws of every measure that the settings name.

    Parameters
    ----------
    labels : ndarray of shape (k,)
        Stage of each domain.
    relations, settings
        What was planned from. Every measure is taken in units of its standard deviation over pairs, whatever
        `settings.scale`: ranks would blow noise up to full size.
    seed
        Of the starts of the search.
    """
    k = len(labels)
    draws = _MOST_DRAWS if k <= _SMALL else _FEW_DRAWS
    rows, columns = np.triu_indices(k, 1)
    within = int((labels[rows] == labels[columns]).sum())
    if within in (0, len(rows)):
        return None
    gain, noise = np.zeros((k, k)), None
    for choice, factor, kind in (
        (settings.discrepancy, -1.0, "discrepancy"),
        (settings.synergy, settings.lam, "similarity"),
    ):
        if factor == 0:
            continue
        weights = {choice: 1.0} if isinstance(choice, str) else {name: w for name, w in choice.items() if w > 0}
        for name, weight in weights.items():
            replicates = np.asarray(relations.replicates.get(name, ()), dtype=np.float64)[:draws]
            if len(replicates) < _LEAST_DRAWS:
                return None
            value = np.asarray(relations.matrix(name), dtype=np.float64)
            value = (value + value.T) / 2
            unit = float(value[rows, columns].std())
            sign = factor * weight / sum(weights.values())
            sign *= (1.0 if relations.info(name).kind == kind else -1.0) / (unit or 1.0)
            gain += sign * value
            # Resampling shifts some measures as a whole; what is left after their mean is the noise. The factor makes
            # up for the mean being taken from the same draws.
            deviation = (replicates - replicates.mean(axis=0)) * np.sqrt(len(replicates) / (len(replicates) - 1))
            part = sign * (deviation + deviation.transpose(0, 2, 1)) / 2
            noise = part if noise is None else noise[: len(part)] + part[: len(noise)]
    assert noise is not None  # the discrepancy always counts
    found = [_best(one, labels, generator(seed, "expectation", number)) for number, one in enumerate(noise)]
    own = lead(gain, labels)
    reachable = max(own, _best(gain, labels, generator(seed, "expectation", "measured")))
    return Expectation(own, reachable, float(np.mean(found)), float(np.std(found, ddof=1)), len(found))


def contradicting(relations: Relations) -> list[tuple[int, int]]:
    """Pairs of domains in which the same labels mean opposite things, where that is measured and agrees with itself."""
    name = "class_mean_cosine"
    if name not in relations.names or not relations.agreement.get(name, {}).get("usable", False):
        return []
    cosine = np.asarray(relations.matrix(name), dtype=np.float64)
    return [(int(i), int(j)) for i, j in np.argwhere(np.triu(cosine < _OPPOSITE, 1))]


def keep_apart(problem: Problem, relations: Relations) -> Problem:
    """The problem in the fewest stages that also keep domains of contradicting labels apart.

    One stage for all was beaten where labels contradict, and there alone (docs/results.md). Where must-links or budgets
    leave no such partition the problem stays as it is, and the plan warns of the pairs that share a stage.
    """
    pairs = contradicting(relations)
    if not pairs:
        return problem
    apart = replace(problem, stages=(problem.stages[0], problem.k), cannot_link=(*problem.cannot_link, *pairs))
    count = fewest_stages(apart)
    return problem if count is None else replace(apart, stages=(count, count))


def label_warning(labels: NDArray[np.int64], relations: Relations) -> str | None:
    """What the labels say of the plan, where `class_mean_cosine` was measured and its two halves agree.

    Either the domains that share a stage though the same labels mean opposite things in them, which no measure of the
    text sees; or that they are kept apart; or that labels agree in every pair, under which condition groups made no
    difference in training.
    """
    name = "class_mean_cosine"
    known = name in relations.names and bool(relations.agreement.get(name, {}).get("usable", False))
    if not known or len(labels) < 2:
        return None
    cosine = np.asarray(relations.matrix(name), dtype=np.float64)
    rows, columns = np.triu_indices(len(labels), 1)
    values = cosine[rows, columns]
    if values.min() >= _OPPOSITE:
        return (
            f"Labels agree between all domains (least class-mean cosine {values.min():.2f}): these domains hardly "
            "conflict; any grouping within budget will do."
        )
    inside = np.flatnonzero((labels[rows] == labels[columns]) & (values < _OPPOSITE))
    if not len(inside):
        worst = int(values.argmin())
        first, second = relations.domains[rows[worst]], relations.domains[columns[worst]]
        return (
            f"Labels contradict in {int((values < _OPPOSITE).sum())} pair(s), most of all {first} and {second} "
            f"(class-mean cosine {values[worst]:.2f}); none shares a stage. Serve each domain from its own stage's "
            "backbone: on the last one the gain was lost (docs/results.md)."
        )
    worst = int(inside[values[inside].argmin()])
    first, second = relations.domains[rows[worst]], relations.domains[columns[worst]]
    return (
        f"Labels contradict in {len(inside)} pair(s) that share a stage, most of all {first} and {second} "
        f"(class-mean cosine {values[worst]:.2f}): the same label means opposite things there, which no measure of the "
        "text sees; plan by class_mean_cosine (plan.synergy and plan.discrepancy), or name the pairs in "
        "plan.cannot_link."
    )


def lead(gain: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Σ of `gain` over pairs inside groups, less its mean over all ways to deal the domains into such groups."""
    rows, columns = np.triu_indices(len(labels), 1)
    values = gain[rows, columns]
    together = labels[rows] == labels[columns]
    return float(values[together].sum() - together.sum() * values.mean())


def _best(gain: NDArray[np.float64], labels: NDArray[np.int64], rng: np.random.Generator) -> float:
    """The largest lead that exchanges of two domains reach from a few random starts."""
    starts = int(np.clip(_STARTS // len(labels), 1, 12))
    return max(lead(gain, _exchanged(gain, rng.permutation(labels))) for _ in range(starts))


def _exchanged(gain: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Exchange each domain in turn with the one that gains most by it, until a round of them gains nothing."""
    value = gain.copy()
    np.fill_diagonal(value, 0.0)
    labels = labels.copy()
    everyone = np.arange(len(labels))
    for _ in range(_ROUNDS):
        before = labels.copy()
        ties = value @ np.eye(int(labels.max()) + 1)[labels]  # (k, stages): what each domain gains in each stage
        own = ties[everyone, labels]
        for i in everyone:
            a = labels[i]
            change = ties[i, labels] + ties[:, a] - own - own[i] - 2.0 * value[i]
            change[labels == a] = 0.0
            j = int(change.argmax())
            if change[j] <= 1e-9 * abs(own[i]):
                continue
            shift = value[i] - value[j]
            ties[:, a] -= shift
            ties[:, labels[j]] += shift
            labels[i], labels[j] = labels[j], a
            own = ties[everyone, labels]
        if (labels == before).all():
            break
    return labels
