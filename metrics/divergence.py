"""Token measures from count vectors: Jensen–Shannon divergence, its corrected form, Jaccard and Ruzicka overlap.

With p and q the two token distributions and m their mean, JS(p, q) = H(m) − ½ H(p) − ½ H(q) (Lin 1991, eq. 4.1).
Where only one of p, q is positive a token adds exactly half its mass, so in bits

    JS(p, q) = 1 − ½ Σ_v [ (p+q) log2(p+q) − p log2 p − q log2 q ]

and only tokens that both domains use count in the sum: `pair_table` drops the others before its blocked loop.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import InputError, InputTypeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "CorrectedJS",
    "PairTable",
    "corrected_js",
    "jaccard",
    "js_divergence",
    "js_matrix",
    "pair_table",
    "ruzicka",
    "synergy",
    "threads",
]

_CHUNK = 1024
_SLAB = 16_384


def _counts(name: str, value: ArrayLike) -> NDArray[np.float64]:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputTypeError(f"{name}: not an array of numbers; pass token counts of shape (V,).") from None
    if array.ndim != 1 or array.size == 0:
        raise InputError(f"{name}: shape {array.shape} is not (V,); pass one count vector.")
    if not np.isfinite(array).all() or (array < 0).any():
        raise InputError(f"{name}: counts must be finite and at least 0; check entry {_first_bad(array)}.")
    if not array.sum() > 0:
        raise InputError(f"{name}: every count is 0, so there is no distribution; give a domain with text.")
    return array


def _first_bad(array: NDArray[np.float64]) -> int:
    return int(np.argmax(~np.isfinite(array) | (array < 0)))


def _pair(a: ArrayLike, b: ArrayLike, names: tuple[str, str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = _counts(names[0], a), _counts(names[1], b)
    if x.shape != y.shape:
        raise InputError(
            f"{names[0]} has {x.size} entries and {names[1]} {y.size}: different vocabularies; "
            "count both with the same tokenizer."
        )
    return x, y


def _xlogx(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """X log2 x, with 0 at 0."""
    return x * np.log2(np.where(x > 0, x, 1.0))


def js_of(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """JS in bits of two distributions (V,), unchecked."""
    shared = (p > 0) & (q > 0)
    x, y = p[shared], q[shared]
    return float(np.clip(1.0 - 0.5 * (_xlogx(x + y) - (_xlogx(x) + _xlogx(y))).sum(), 0.0, 1.0))


def js_divergence(p_counts: ArrayLike, q_counts: ArrayLike, base: float = 2) -> float:
    """Jensen–Shannon divergence of two token distributions, plug-in.

    JS = H((p+q)/2) − (H(p) + H(q))/2. A divergence (the square of a metric), symmetric, 0..1 in base 2 (bits).
    Biased upward: two samples of one source are not at 0 (see :func:`corrected_js`). Cost O(V).

    Parameters
    ----------
    p_counts, q_counts : array_like of shape (V,)
        Non-negative counts (or weights) over the same vocabulary.
    base : float
        Unit: 2 for bits, e for nats.

    Returns
    -------
    float

    Raises
    ------
    InputError
        Empty, negative or non-finite counts, or vectors of different length.

    Examples
    --------
    >>> js_divergence([1, 1, 0, 0], [0, 0, 1, 1]), js_divergence([1, 2], [2, 4])
    (1.0, 0.0)

    References
    ----------
    Lin (1991), Divergence measures based on the Shannon entropy, doi:10.1109/18.61115, eq. 4.1.
    """
    if not (base > 0 and base != 1 and np.isfinite(base)):
        raise InputError(f"base={base!r} must be positive and not 1; 2 gives bits.")
    p, q = _pair(p_counts, q_counts, ("p_counts", "q_counts"))
    return js_of(p / p.sum(), q / q.sum()) / float(np.log2(base))


def jaccard(a_counts: ArrayLike, b_counts: ArrayLike) -> float:
    """Share of the joint vocabulary that both use: |A ∩ B| / |A ∪ B|; symmetric, 0..1.

    Grows with sample size: compare only counts of equal token budgets (:func:`kinfold.metrics.measure` rarefies).

    >>> jaccard([3, 1, 0], [1, 0, 2])
    0.3333333333333333
    """
    a, b = _pair(a_counts, b_counts, ("a_counts", "b_counts"))
    x, y = a > 0, b > 0
    return float((x & y).sum() / (x | y).sum())


def ruzicka(a_counts: ArrayLike, b_counts: ArrayLike) -> float:
    """Weighted Jaccard of two token distributions: Σ min(p, q) / Σ max(p, q); symmetric, 0..1.

    Computed on relative frequencies, so a longer text is not another text.

    >>> ruzicka([1, 1], [2, 2]), ruzicka([1, 0], [0, 1])
    (1.0, 0.0)
    """
    a, b = _pair(a_counts, b_counts, ("a_counts", "b_counts"))
    p, q = a / a.sum(), b / b.sum()
    return float(np.minimum(p, q).sum() / np.maximum(p, q).sum())


def synergy(jaccard: ArrayLike, cosine: ArrayLike) -> Any:
    """The paper's synergy s = ½ (Jaccard + cosine), for numbers or matrices; −½..1 (arXiv 2511.07198).

    >>> synergy(0.5, 1.0)
    0.75
    """
    a, b = np.asarray(jaccard, np.float64), np.asarray(cosine, np.float64)
    if a.shape != b.shape:
        raise InputError(f"jaccard has shape {a.shape} and cosine {b.shape}; pass both for the same domains.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("synergy: a value is not finite; check the domains' texts.")
    out = 0.5 * (a + b)
    return float(out) if out.ndim == 0 else out


class CorrectedJS(NamedTuple):
    """Corrected divergence, the mean of the four cross-half divergences, and the mean split-half floor; bits."""

    value: float
    cross: float
    floor: float


def corrected_js(halves_a: Sequence[ArrayLike], halves_b: Sequence[ArrayLike]) -> CorrectedJS:
    """Jensen–Shannon divergence freed of most of its sampling bias.

    Each domain comes as two halves, split *by document*, of equal token counts. With c the mean JS of the four
    cross pairs and f the mean of the two floors JS(a₁, a₂), JS(b₁, b₂)::

        value = (c − f) / (1 − f)

    0 in expectation for two samples of one source, 1 for disjoint vocabularies; may be slightly negative, which
    is noise and is kept. Two identical halves on both sides leave the plug-in value. Where a floor is 1 (halves
    that share no token) nothing can be corrected and the value is 0 with cross and floor as measured.

    Parameters
    ----------
    halves_a, halves_b : pair of array_like of shape (V,)

    Returns
    -------
    CorrectedJS
        ``(value, cross, floor)``.
    """
    if len(halves_a) != 2 or len(halves_b) != 2:
        raise InputError("corrected_js takes two count vectors per domain: the halves of its documents.")
    a = [_counts(f"halves_a[{n}]", half) for n, half in enumerate(halves_a)]
    b = [_counts(f"halves_b[{n}]", half) for n, half in enumerate(halves_b)]
    if len({half.shape for half in (*a, *b)}) != 1:
        raise InputError("corrected_js: the halves have different lengths; count all with the same tokenizer.")
    p, q = [half / half.sum() for half in a], [half / half.sum() for half in b]
    cross = float(np.mean([js_of(x, y) for x in p for y in q]))
    floor = 0.5 * (js_of(p[0], p[1]) + js_of(q[0], q[1]))
    return CorrectedJS(correct(cross, floor), cross, floor)


def correct(cross: Any, floor: Any) -> Any:
    """(cross − floor) / (1 − floor), elementwise; 0 where the floor is 1."""
    room = 1.0 - np.asarray(floor, np.float64)
    safe = np.where(room > 1e-12, room, 1.0)
    out = np.where(room > 1e-12, (np.asarray(cross, np.float64) - floor) / safe, 0.0)
    return float(out) if out.ndim == 0 else out


@dataclass(frozen=True)
class PairTable:
    """For each row of one table with each row of another: JS in bits, Ruzicka and Jaccard overlap."""

    js: NDArray[np.float64]
    ruzicka: NDArray[np.float64]
    jaccard: NDArray[np.float64]


def threads() -> int:
    """Threads for our own loops: the cores this process may use, unless OMP_NUM_THREADS says less."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(wanted))) if wanted.isdigit() else max(1, cores)


class _Counts:
    """A table of counts (k, V), sparse or dense: sums, tokens used, and shares of chosen columns.

    A dense table is read row by row as it is: turning 25 million cells into a sparse table costs more than the sums.
    """

    def __init__(self, table: Any) -> None:
        import scipy.sparse as sp

        self.sparse = sp.issparse(table)
        if self.sparse:
            self.table: Any = sp.csc_array(table)
            self.used: NDArray[Any] = np.diff(self.table.indptr)
            self.sizes: NDArray[Any] = np.bincount(
                self.table.indices, weights=self.table.data > 0, minlength=self.table.shape[0]
            )
        else:
            self.table = np.asarray(table)
            self.used = np.zeros(self.table.shape[1], np.int64)
            self.sizes = np.zeros(len(self.table))
            for number, row in enumerate(self.table):
                there = row > 0
                self.used += there
                self.sizes[number] = there.sum()
        self.totals = np.asarray(self.table.sum(axis=1), dtype=np.float64).ravel()

    def shares(self, keep: NDArray[np.int64]) -> NDArray[np.float32]:
        """Each row as shares of its total, the columns `keep` of it; float32, contiguous."""
        if self.sparse:
            return np.ascontiguousarray(self.table[:, keep].toarray() / self.totals[:, None], dtype=np.float32)
        out = np.empty((len(self.table), len(keep)), np.float32)
        for row, counts, total in zip(out, self.table, self.totals, strict=True):
            row[:] = (counts if len(keep) == len(counts) else counts[keep]) / total
        return out


def pair_table(first: ArrayLike | Any, second: ArrayLike | Any | None = None) -> PairTable:
    """JS, Ruzicka and Jaccard of every row of `first` with every row of `second`; error against SciPy ≤ 2e-6.

    Parameters
    ----------
    first : array or scipy sparse array of shape (a, V)
        Counts; every row must have a positive sum.
    second : array or scipy sparse array of shape (b, V), optional
        Default: `first`, and then only half of the work is done.

    Returns
    -------
    PairTable
        Arrays of shape (a, b). With one table the diagonal is exact: 0 bits, overlap 1.

    Notes
    -----
    O(a b V') with V' the tokens that both tables use; O((a + b) V') memory in float32. Sums are cut at fixed columns,
    so the result does not depend on the number of threads.
    """
    from ._kernels import pair_sums

    tables = [_Counts(table) for table in ([first] if second is None else [first, second])]
    for table in tables:
        if not (table.totals > 0).all():
            raise InputError(f"row {int(np.argmin(table.totals))} has no token; give every domain some text.")
    used = [table.used for table in tables]
    keep = np.flatnonzero(used[0] > 1 if second is None else (used[0] > 0) & (used[1] > 0))
    sizes = [table.sizes for table in tables]
    dense = [table.shares(keep) for table in tables]
    own = [np.array([_xlogx(row.astype(np.float64)).sum() for row in m]) for m in dense]
    p, q = dense[0], dense[-1]
    slabs = [(left, min(left + _SLAB, len(keep))) for left in range(0, len(keep), _SLAB)]

    def work(slab: tuple[int, int]) -> NDArray[np.float64]:
        out = np.zeros((3, len(p), len(q)))
        pair_sums(p, q, second is None, slab[0], slab[1], _CHUNK, out[0], out[1], out[2])
        return out

    summed = np.zeros((3, len(p), len(q)))
    with ThreadPoolExecutor(threads()) as pool:
        for part in pool.map(work, slabs):
            summed += part
    if second is None:
        summed = summed + summed.transpose(0, 2, 1)
    entropy, least, both = summed[0], summed[1], summed[2]
    js: NDArray[np.float64] = np.clip(1.0 - 0.5 * (entropy - own[0][:, None] - own[-1][None, :]), 0.0, 1.0)
    overlap = least / (2.0 - least)
    share = both / (sizes[0][:, None] + sizes[-1][None, :] - both)
    if second is None:
        np.fill_diagonal(js, 0.0)
        np.fill_diagonal(overlap, 1.0)
        np.fill_diagonal(share, 1.0)
    return PairTable(js, overlap, share)


def js_matrix(counts: ArrayLike | Any) -> NDArray[np.float64]:
    """Plug-in Jensen–Shannon divergences (bits) of all pairs of count rows, (k, V) → (k, k); dense or sparse."""
    import scipy.sparse as sp

    table: Any = counts if sp.issparse(counts) else np.asarray(counts, np.float64)
    if table.ndim != 2 or 0 in table.shape:
        raise InputError(f"counts: shape {table.shape} is not (k, V); pass one row of counts per domain.")
    cells = np.asarray(table.data if sp.issparse(table) else table)
    if not np.isfinite(cells).all() or (cells < 0).any():
        raise InputError("counts must be finite and at least 0; check the rows.")
    return pair_table(table).js
