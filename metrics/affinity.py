"""Affinity: measures that look at the task (labels, separability, gradients), each with its split-half agreement.

Every measure here is computed three times: from one half of the documents, from the other, and from all. The
agreement is the Spearman correlation of the two half-matrices over pairs; a measure that does not agree with itself
cannot agree with anything, and is flagged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._progress import SILENT, Progress
from .._seeding import generator
from .collect import Collection
from .embedders import Embedding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .settings import MeasureSettings

__all__ = ["Affinity", "affinity_measures", "agreement_of", "class_mean_cosine", "probe_transfer", "proxy_a_distance"]

_RIDGE = 1e-1


@dataclass(frozen=True)
class Affinity:
    """One affinity measure: its matrix (None where it cannot be made) and `{"split_half", "usable", "why"}`."""

    value: NDArray[np.float64] | None
    agreement: dict[str, Any]


@dataclass(frozen=True)
class _Labelled:
    """Embeddings (n, d) and class codes (n,) of one domain; codes mean the same class in every domain."""

    x: NDArray[np.float64]
    y: NDArray[np.int64]


def agreement_of(
    first: NDArray[np.float64], second: NDArray[np.float64], *, symmetric: bool, least: float
) -> dict[str, Any]:
    """Spearman correlation of two half-matrices over pairs (all ordered pairs where not symmetric)."""
    from scipy.stats import spearmanr

    k = len(first)
    cells = np.triu_indices(k, 1) if symmetric else np.where(~np.eye(k, dtype=bool))
    if len(cells[0]) < 3:
        return {"split_half": None, "usable": False, "why": "fewer than three pairs, so its agreement cannot be told"}
    a, b = first[cells], second[cells]
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return {"split_half": 0.0, "usable": False, "why": "its cells are all equal in one half of the documents"}
    rho = float(spearmanr(a, b).statistic)
    if rho < least:
        return {
            "split_half": rho,
            "usable": False,
            "why": f"its two halves agree at {rho:.2f}, below measure.agreement={least:g}",
        }
    return {"split_half": rho, "usable": True, "why": ""}


def affinity_measures(
    names: Sequence[str],
    collection: Collection,
    embedding: Embedding | None,
    settings: MeasureSettings,
    *,
    seed: int = 0,
    progress: Progress = SILENT,
) -> dict[str, Affinity]:
    """The affinity measures asked for; one that the data do not allow comes back without a matrix, and says why."""
    out: dict[str, Affinity] = {}
    k = len(collection.samples)
    if k < 2:
        why = {"split_half": None, "usable": False, "why": "one domain has no pair"}
        return {name: Affinity(None, why) for name in names}
    labelled, missing = _labelled(collection, embedding, settings)
    table: dict[str, tuple[Callable[[Any, int], NDArray[np.float64]], bool]] = {
        "class_mean_cosine": (class_mean_cosine, True),
        "probe_transfer": (probe_transfer, False),
    }
    for name in names:
        if name in table:
            if labelled is None:
                out[name] = Affinity(None, {"split_half": None, "usable": False, "why": missing})
                continue
            work, symmetric = table[name]
            out[name] = _halves(work, labelled, symmetric, settings.agreement, seed)
        elif name == "proxy_a_distance" and embedding is not None:
            kept = [np.asarray(x[: settings.affinity_documents], np.float64) for x in embedding.vectors]
            plain = [_Labelled(x, np.zeros(len(x), np.int64)) for x in kept]
            out[name] = _halves(
                lambda data, s: proxy_a_distance([d.x for d in data], s), plain, True, settings.agreement, seed
            )
        elif name == "gradient_affinity":
            from .gradients import gradient_affinity

            out[name] = gradient_affinity(collection, settings, seed=seed, progress=progress)
    return out


def _labelled(
    collection: Collection, embedding: Embedding | None, settings: MeasureSettings
) -> tuple[list[_Labelled] | None, str]:
    """Embeddings with class codes, or None and the reason."""
    if embedding is None:
        return None, "no embeddings were made"
    shared: set[str] | None = None
    for sample in collection.samples:
        own = {label for label in sample.labels if label is not None}
        shared = own if shared is None else shared & own
    if not shared or len(shared) < 2:
        return None, "the domains do not share two labels, which it compares"
    order = sorted(shared)
    codes = {label: index for index, label in enumerate(order)}
    out = []
    for sample, vectors in zip(collection.samples, embedding.vectors, strict=True):
        rows = [i for i, label in enumerate(sample.labels) if label in codes][: settings.affinity_documents]
        y = np.array([codes[str(sample.labels[i])] for i in rows], np.int64)
        if (np.bincount(y, minlength=len(order)) < 4).any():
            return None, f"domain {sample.name!r} has fewer than four sampled documents of a class"
        out.append(_Labelled(np.asarray(vectors[rows], np.float64), y))
    return out, ""


def _halves(
    work: Callable[[Any, int], NDArray[np.float64]],
    data: Sequence[_Labelled],
    symmetric: bool,
    least: float,
    seed: int,
) -> Affinity:
    """The measure on all documents, and on two halves that keep the class shares."""
    parts: tuple[list[_Labelled], list[_Labelled]] = ([], [])
    for index, domain in enumerate(data):
        rng = generator(seed, "affinity halves", index)
        side = np.zeros(len(domain.y), np.int64)
        for code in np.unique(domain.y):
            rows = rng.permutation(np.flatnonzero(domain.y == code))
            side[rows[1::2]] = 1
        for number in (0, 1):
            parts[number].append(_Labelled(domain.x[side == number], domain.y[side == number]))
    whole = work(data, seed)
    first, second = work(parts[0], seed), work(parts[1], seed)
    return Affinity(whole, agreement_of(first, second, symmetric=symmetric, least=least))


def _differences(domain: _Labelled, classes: int) -> tuple[NDArray[np.float64], float]:
    """Class means minus their mean, (classes · d,), and the unbiased squared norm of that vector."""
    means, noise = [], []
    for code in range(classes):
        x = domain.x[domain.y == code]
        mean = x.mean(axis=0)
        means.append(mean)
        # Variance of the mean: what the squared norm is too large by.
        noise.append(((x - mean) ** 2).sum() / max(len(x) - 1, 1) / len(x))
    table = np.stack(means)
    centred = table - table.mean(axis=0)
    bias = float(np.sum(noise)) * (classes - 1) / classes
    return centred.ravel(), float((centred * centred).sum()) - bias


def class_mean_cosine(data: Sequence[Any], seed: int = 0) -> NDArray[np.float64]:
    """Cosine of the class-mean differences of two domains, with unbiased norms; (k, k), symmetric, −1..1.

    For two classes the vector is half the difference of the class means: whether "positive" points the same way in
    both domains. For more classes the centred class means are stacked. `data` items hold `x` (n, d) and `y` (n,).
    """
    classes = int(max(domain.y.max() for domain in data)) + 1
    found = [_differences(domain, classes) for domain in data]
    vectors = np.stack([vector for vector, _ in found])
    norms = np.array([norm for _, norm in found])
    alive = norms > 0
    scale = np.where(alive, 1.0 / np.sqrt(np.where(alive, norms, 1.0)), 0.0)
    out = np.clip((vectors @ vectors.T) * scale[:, None] * scale[None, :], -1.0, 1.0)
    np.fill_diagonal(out, 1.0)
    return np.asarray(out)


def _ridge(x: NDArray[np.float64], targets: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ridge regression with a penalty in units of the mean feature variance; weights (d, c) and offsets (c,)."""
    centre, level = x.mean(axis=0), targets.mean(axis=0)
    a = x - centre
    gram = a.T @ a
    penalty = _RIDGE * np.trace(gram) / gram.shape[0] + 1e-9
    weights = np.linalg.solve(gram + penalty * np.eye(gram.shape[0]), a.T @ (targets - level))
    return weights, level - centre @ weights


def _auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    from scipy.stats import rankdata

    n, m = int(positive.sum()), int((~positive).sum())
    if n == 0 or m == 0:
        return 0.5
    return float((rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * m))


def probe_transfer(data: Sequence[Any], seed: int = 0) -> NDArray[np.float64]:
    """A linear probe (ridge) trained on row, tested on column: AUC for two classes, accuracy for more; (k, k).

    Asymmetric. The diagonal is cross-validated in two folds, so no document is tested by a probe that saw it.
    """
    classes = int(max(domain.y.max() for domain in data)) + 1
    k = len(data)
    out = np.zeros((k, k))

    def grade(scores: NDArray[np.float64], y: NDArray[np.int64]) -> float:
        if classes == 2:
            return _auc(scores[:, 1] - scores[:, 0], y == 1)
        return float((scores.argmax(axis=1) == y).mean())

    for i, domain in enumerate(data):
        targets = np.eye(classes)[domain.y]
        weights, offset = _ridge(domain.x, targets)
        for j, other in enumerate(data):
            if i != j:
                out[i, j] = grade(other.x @ weights + offset, other.y)
        fold = np.arange(len(domain.y)) % 2
        fold[np.argsort(domain.y, kind="stable")] = np.arange(len(domain.y)) % 2
        own = []
        for side in (0, 1):
            weights, offset = _ridge(domain.x[fold != side], targets[fold != side])
            own.append(grade(domain.x[fold == side] @ weights + offset, domain.y[fold == side]))
        out[i, i] = float(np.mean(own))
    return out


def proxy_a_distance(samples: Sequence[NDArray[Any]], seed: int = 0) -> NDArray[np.float64]:
    """Proxy A-distance 2 (1 − 2 ε) of all pairs, (k, k); ε: cross-validated error of a linear classifier of the domain.

    Symmetric; near 0 where no classifier tells the domains apart (it may dip below), 2 where one always does.
    Ben-David et al. (2007), Analysis of representations for domain adaptation. The classifier is ridge regression on
    ±1 with two folds; normal equations of each fold are added up from per-domain parts, so a pair costs one solve.
    """
    k, d = len(samples), samples[0].shape[1]
    centre = np.mean([np.asarray(x, np.float64).mean(axis=0) for x in samples], axis=0)
    folds: list[list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]] = []
    for index, sample in enumerate(samples):
        x = np.asarray(sample, np.float64) - centre
        order = generator(seed, "proxy a", index).permutation(len(x))
        parts = [np.concatenate([x[order[side::2]], np.ones((len(order[side::2]), 1))], axis=1) for side in (0, 1)]
        folds.append([(part, part.T @ part / max(len(part), 1), part.mean(axis=0)) for part in parts])
    out = np.zeros((k, k))
    eye = np.eye(d + 1)
    eye[-1, -1] = 0.0  # the offset is not penalised
    for i in range(k):
        for j in range(i + 1, k):
            errors = []
            for side in (0, 1):
                # Both domains weigh the same, so a larger one is not guessed by default.
                _, gram_i, mean_i = folds[i][side]
                _, gram_j, mean_j = folds[j][side]
                gram = gram_i + gram_j
                penalty = _RIDGE * 1e-2 * np.trace(gram[:-1, :-1]) / d + 1e-9
                weights = np.linalg.solve(gram + penalty * eye, mean_i - mean_j)
                wrong_i = float((folds[i][1 - side][0] @ weights <= 0).mean())
                wrong_j = float((folds[j][1 - side][0] @ weights > 0).mean())
                errors.append((wrong_i + wrong_j) / 2)
            out[i, j] = out[j, i] = 2.0 * (1.0 - 2.0 * float(np.mean(errors)))
    return out
