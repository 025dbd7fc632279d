"""Communities of the graph of gains: Louvain, Leiden's moves on the objective itself, and spectral clustering."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._start import fit
from .solution import canonical

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Core

__all__ = ["leiden", "louvain", "spectral"]


def _graph(core: Core) -> Any:
    import networkx as nx

    graph = nx.Graph()
    graph.add_nodes_from(range(core.n))
    rows, columns = np.nonzero(np.triu(core.gain, 1) > 0)
    unit = float(np.abs(core.gain).max(initial=1)) or 1.0
    graph.add_weighted_edges_from(
        (int(i), int(j), float(core.gain[i, j]) / unit) for i, j in zip(rows, columns, strict=True)
    )
    return graph


def louvain(core: Core, rng: np.random.Generator) -> NDArray[np.int64]:
    """Louvain modularity on the positive gains: community search knows no negative weights."""
    import networkx as nx

    groups = nx.community.louvain_communities(_graph(core), weight="weight", seed=int(rng.integers(2**31)))
    return _labels_of(groups, core.n)


def leiden(core: Core, rng: np.random.Generator) -> NDArray[np.int64]:
    """Leiden-style local moving on the objective itself: moves, refinement inside groups, aggregation (CPM-like)."""
    n = core.n
    labels = np.arange(n)
    gain = core.gain.astype(np.float64)
    groups = np.arange(n)
    while True:
        labels = _local_moves(gain, labels, rng, core.kappa)
        fine = _refine(gain, labels, rng, core.kappa)
        m = int(fine.max()) + 1
        if m == len(gain):
            return canonical(labels[groups])
        member = np.zeros((m, len(gain)))
        member[fine, np.arange(len(gain))] = 1
        gain = member @ gain @ member.T
        np.fill_diagonal(gain, 0.0)
        _, first = np.unique(fine, return_index=True)
        labels = canonical(labels[first])
        groups = fine[groups]


def _local_moves(
    gain: NDArray[np.float64], labels: NDArray[np.int64], rng: np.random.Generator, kappa: float
) -> NDArray[np.int64]:
    n = len(gain)
    labels = labels.copy()
    member = np.zeros((n, n))
    member[labels, np.arange(n)] = 1.0
    pull = member @ gain
    count = member.sum(axis=1)
    moved = True
    while moved:
        moved = False
        for i in rng.permutation(n):
            a = labels[i]
            score = np.where(count > 0, pull[:, i], -kappa)
            score[a] -= kappa if count[a] == 1 else 0
            c = int(score.argmax())
            if score[c] > score[a] + 1e-9 * abs(score[a]):
                pull[a] -= gain[i]
                pull[c] += gain[i]
                count[a] -= 1
                count[c] += 1
                labels[i] = c
                moved = True
    return canonical(labels)


def _refine(
    gain: NDArray[np.float64], labels: NDArray[np.int64], rng: np.random.Generator, kappa: float
) -> NDArray[np.int64]:
    """Within each group start from singletons and merge again: groups that hang together badly come apart."""
    out = np.zeros(len(gain), dtype=np.int64)
    offset = 0
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        inner = _local_moves(gain[np.ix_(members, members)], np.arange(len(members)), rng, kappa)
        out[members] = inner + offset
        offset += int(inner.max()) + 1
    return out


def spectral(core: Core, rng: np.random.Generator) -> NDArray[np.int64]:
    """Spectral clustering of the shifted gains; the number of groups with the best objective is kept."""
    if core.n <= 2:
        return np.arange(core.n)
    from sklearn.cluster import SpectralClustering

    gain = core.gain.astype(np.float64)
    # Forbidding weights would flatten every other affinity: clip below at the negative of the largest.
    top = float(np.maximum(gain, 0).max()) or float(np.abs(gain).max()) or 1.0
    affinity = (np.clip(gain, -top, top) / top + 1.0) / 2.0
    np.fill_diagonal(affinity, 1.0)
    low, high = max(2, core.least), min(core.n - 1, core.most)
    if high < low:
        return np.arange(core.n) if core.least > 1 else np.zeros(core.n, dtype=np.int64)
    counts = range(low, high + 1) if high - low < 12 else np.unique(np.geomspace(low, high, 12).astype(int))
    best, found = -np.inf, np.arange(core.n, dtype=np.int64)
    for m in counts:
        model = SpectralClustering(n_clusters=int(m), affinity="precomputed", random_state=int(rng.integers(2**31)))
        labels = np.asarray(model.fit_predict(affinity), dtype=np.int64)
        fitted = fit(core, labels, rng)
        if fitted is not None and core.value(fitted) > best:
            best, found = core.value(fitted), labels
    return found


def _labels_of(groups: Any, n: int) -> NDArray[np.int64]:
    labels = np.zeros(n, dtype=np.int64)
    for c, group in enumerate(groups):
        labels[list(group)] = c
    return canonical(labels)
