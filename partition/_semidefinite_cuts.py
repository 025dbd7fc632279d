"""Linear inequalities that the matrix of every partition satisfies, and the search for violated ones.

X_ij = 1 where i and j share a stage, s the sizes, L and U the limits of a stage, t the number of stages:

* capacity: Σ_j s_j X_ij ≤ U, and ≥ L;
* squared loads: (U − load)(load − L) ≥ 0 summed over stages: Σ_ij s_i s_j X_ij ≤ (L + U) Σ s − t L U. Where t is
  given, the largest sum of squares is known exactly;
* triangle: X_ij + X_jk − X_ik ≤ 1;
* star: X(i, T) − X(T) ≤ 1 for a set T (Grötschel & Wakabayashi, Mathematical Programming 47, 1990, with |S| = 1);
* signed: with b_i of −1, 0 or 1 for each item, b(C) its sum in a stage C and m whole, (b(C) − m)(b(C) − m + 1) ≥ 0,
  since no whole number lies between m − 1 and m; summed over the stages,
  Σ_{i<j} −2 b_i b_j X_ij − m (m − 1) t ≤ Σ b_i² − (2m − 1) Σ b_i. For m = 1 the hypermetric inequalities of
  partitions, triangles and stars among them; larger m counts how few pairs a set can have in t stages;
* pairs and capacity: with P_l = X_ij X_il (all three in one stage), a capacity times X_ij reads
  L X_ij ≤ (s_i + s_j) X_ij + Σ_l s_l P_l ≤ U X_ij (together), and times 1 − X_ij, with the stage of i,
  L (1 − X_ij) ≤ s_i (1 − X_ij) + Σ_l s_l (X_il − P_l) ≤ U (1 − X_ij) (apart). P_l is no variable here, but
  max(0, X_ij + X_il − 1, X_ij + X_jl − 1, X_il + X_jl − 1) ≤ P_l ≤ min(X_ij, X_il, X_jl): for every l the one that
  violates the row most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ._semidefinite_signed import signed_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._core import Core

__all__ = ["Cuts", "separate"]

_VIOLATED = 0.01
_MOST = 1500
_SIGNED = 200
_FIXED = "fixed"
# Rows are brought near the length of a triangle's: L-BFGS needs about a third of the steps then.
_LENGTH = 3.0
_KINDS = ("apart", "together", "apart low", "together low")


@dataclass(frozen=True, eq=False)
class Cuts:
    """Rows a·X + c t ≤ b over pairs i < j, in sparse form.

    Attributes
    ----------
    matrix : csr array of shape (rows, pairs)
    stages : float ndarray of shape (rows,)
        Coefficient of t.
    rhs : float ndarray of shape (rows,)
    keys : tuple
        What a row is, so that none comes twice; ``"fixed"`` rows are never dropped.
    """

    matrix: Any
    stages: NDArray[np.float64]
    rhs: NDArray[np.float64]
    keys: tuple[Any, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_turned", self.matrix.T.tocsr())
        object.__setattr__(self, "_sizes", abs(self._turned))

    _turned: Any = None
    _sizes: Any = None

    def __len__(self) -> int:
        return len(self.rhs)

    def on_pairs(self, multipliers: NDArray[np.float64], *, sizes: bool = False) -> NDArray[np.float64]:
        """Σ of multiplier · coefficient for each pair, or of their sizes."""
        return np.asarray((self._sizes if sizes else self._turned) @ multipliers, dtype=np.float64)

    def on_stages(self, multipliers: NDArray[np.float64], *, sizes: bool = False) -> float:
        """Σ of multiplier · coefficient of t."""
        return float((np.abs(self.stages) if sizes else self.stages) @ multipliers)

    def slack(self, pairs: NDArray[np.float64], t: float) -> NDArray[np.float64]:
        """Rhs minus the left side, for each row."""
        return np.asarray(self.rhs - self.matrix @ pairs - self.stages * t, dtype=np.float64)

    def most_in_an_entry(self) -> int:
        """The largest number of rows that speak about one pair, or about the number of stages."""
        return max(int(np.diff(self._turned.indptr).max(initial=0)), int(np.count_nonzero(self.stages)))

    def kept(self, multipliers: NDArray[np.float64], fresh: Cuts) -> tuple[Cuts, NDArray[np.float64]]:
        """The rows that count for something, with fresh ones, and their multipliers."""
        from scipy.sparse import vstack

        keep = np.array([key[0] == _FIXED for key in self.keys], dtype=np.bool_) | (multipliers > 1e-7)
        keys = tuple(key for key, k in zip(self.keys, keep, strict=True) if k)
        cuts = Cuts(
            vstack([self.matrix[keep], fresh.matrix]).tocsr(),
            np.concatenate([self.stages[keep], fresh.stages]),
            np.concatenate([self.rhs[keep], fresh.rhs]),
            keys + fresh.keys,
        )
        return cuts, np.concatenate([multipliers[keep], np.zeros(len(fresh))])

    @classmethod
    def capacities(cls, core: Core) -> Cuts:
        """Capacities of every item and the squared loads of every resource."""
        book = _Book(core.n)
        n = core.n
        first, second = np.triu_indices(n, 1)
        for r in range(len(core.sizes)):
            size = core.sizes[r].astype(np.float64)
            upper, lower, total = float(core.upper[r, 0]), float(core.lower[r, 0]), float(core.sizes[r].sum())
            if total == 0 or upper <= 0:
                continue
            for i in range(n):
                mates = np.delete(np.arange(n), i)
                if upper < total:
                    book.add((_FIXED, r, i), book.number[i, mates], size[mates] / upper, (upper - size[i]) / upper)
                if lower > size[i]:
                    book.add((_FIXED, r, i), book.number[i, mates], -size[mates] / upper, (size[i] - lower) / upper)
            if lower > 0 and upper < total:
                squares = float(size @ size)
                unit = upper * upper
                coefficient = 2 * size[first] * size[second] / unit
                pairs = np.arange(len(first))
                given = core.least == core.most
                most = _most_squares(total, core.least, lower, upper) if given else (lower + upper) * total
                # Differences of large squares: their rounding is added, so that the row stays true.
                rhs = (most - squares + 1e-15 * (most + squares)) / unit
                book.add((_FIXED, r), pairs, coefficient, rhs, 0.0 if given else lower * upper / unit)
        return book.close()


def _most_squares(total: float, stages: int, lower: float, upper: float) -> float:
    """The largest Σ load² with `stages` loads between the limits that sum to `total`: at most one is at neither."""
    rest = total - stages * lower
    if rest < 0 or upper <= lower:
        return stages * upper * upper
    full = min(stages, int(rest // (upper - lower)))
    last = rest - full * (upper - lower)
    if full == stages:
        return stages * upper * upper
    return full * upper**2 + (lower + last) ** 2 + (stages - full - 1) * lower**2


class _Book:
    """Rows being collected."""

    def __init__(self, n: int, known: frozenset[Any] = frozenset()) -> None:
        first, second = np.triu_indices(n, 1)
        self.number = np.zeros((n, n), dtype=np.int64)
        self.number[first, second] = self.number[second, first] = np.arange(len(first))
        self.pairs = len(first)
        self.known = known
        self.index: list[NDArray[np.int64]] = []
        self.entries: list[NDArray[np.float64]] = []
        self.stages: list[float] = []
        self.rhs: list[float] = []
        self.keys: list[Any] = []

    def add(self, key: Any, index: NDArray[np.int64], entries: NDArray[np.float64], rhs: float, t: float = 0.0) -> None:
        """One row, unless it is there already."""
        if key in self.known:
            return
        length = float(entries @ entries)
        # A power of two, so that nothing is rounded.
        unit = 1.0 if key[0] == _FIXED or length == 0 else 2.0 ** -round(0.5 * float(np.log2(length / _LENGTH)))
        self.keys.append(key)
        self.index.append(index)
        self.entries.append(entries * unit)
        self.rhs.append(rhs * unit)
        self.stages.append(t * unit)

    def close(self) -> Cuts:
        """The rows as one matrix."""
        from scipy.sparse import csr_array

        starts = np.concatenate([[0], np.cumsum([len(i) for i in self.index], dtype=np.int64)])
        index = np.concatenate(self.index) if self.index else np.zeros(0, dtype=np.int64)
        entries = np.concatenate(self.entries) if self.entries else np.zeros(0)
        matrix = csr_array((entries, index, starts), shape=(len(self.index), self.pairs))
        return Cuts(matrix, np.array(self.stages), np.array(self.rhs), tuple(self.keys))


def separate(point: NDArray[np.float64], stages: float, core: Core, known: Cuts) -> Cuts:
    """Violated inequalities of each kind, the most violated first, at X = `point` of shape (n, n) and t = `stages`."""
    book = _Book(core.n, frozenset(known.keys))
    _triangles(point, book)
    for r in range(len(core.sizes)):
        if 0 < core.upper[r, 0] < core.sizes[r].sum():
            limits = float(core.upper[r, 0]), float(core.lower[r, 0])
            _loads(point, core.sizes[r].astype(np.float64), *limits, r, book)
    _stars(point, book)
    _signed(point, stages, book)
    return book.close()


def _triangles(point: NDArray[np.float64], book: _Book) -> None:
    n = len(point)
    found: list[NDArray[np.float64]] = []
    for j in range(n):
        excess = point[:, j, None] + point[j] - point - 1.0
        excess[j] = excess[:, j] = -1.0
        i, k = np.nonzero(np.triu(excess, 1) > _VIOLATED)
        found.append(np.column_stack([excess[i, k], i, np.full(len(i), j), k]))
    rows = np.concatenate(found)
    rows = rows[np.argsort(-rows[:, 0], kind="stable")[:_MOST]]
    signs = np.array([1.0, 1.0, -1.0])
    for i, j, k in rows[:, 1:].astype(np.int64).tolist():
        number = book.number
        book.add(("triangle", i, j, k), np.array([number[i, j], number[j, k], number[i, k]]), signs, 1.0)


def _loads(
    point: NDArray[np.float64], size: NDArray[np.float64], upper: float, lower: float, resource: int, book: _Book
) -> None:
    """Capacity inequalities of pairs: whatever item l adds to the left side is taken at its best."""
    n = len(point)
    itself = np.eye(n, dtype=np.bool_)
    joined = size[:, None] + size > upper
    excess = {kind: np.full((n, n), -np.inf) for kind in _KINDS}
    for i in range(n):
        least, most = _triple(point, i)
        for share in (least, most):
            share[:, i] = 0.0
            share[itself] = 0.0
        alone = 1.0 - point[i]
        load = point[i] @ size - point[i] * size  # without j, and i itself counts in full
        excess["apart"][i] = load - size[i] - most @ size - (upper - size[i]) * alone
        excess["together"][i] = least @ size - (upper - size[i] - size) * point[i]
        if lower > 0:
            excess["apart low"][i] = (lower - size[i]) * alone - (load - size[i] - least @ size)
            excess["together low"][i] = (lower - size[i] - size) * point[i] - most @ size
    for kind, matrix in excess.items():
        np.fill_diagonal(matrix, -np.inf)
        if kind.startswith("together"):
            # Symmetric; and a pair that cannot share a stage is kept apart by its own constraint.
            matrix[np.tril_indices(n)] = -np.inf
            matrix[joined] = -np.inf
        i_all, j_all = np.nonzero(matrix > 0.5 * _VIOLATED * upper)
        order = np.argsort(-matrix[i_all, j_all], kind="stable")[:_MOST]
        for i, j in zip(i_all[order].tolist(), j_all[order].tolist(), strict=True):
            _load_row(kind, point, size, (upper, lower), resource, i, j, book)


def _triple(point: NDArray[np.float64], i: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For all j and l, the least and the most that X_ij X_il can be, given X_ij, X_il and X_jl."""
    ij, il = point[i][:, None], point[i][None, :]
    least = np.maximum(np.maximum(ij + il, np.maximum(ij, il) + point) - 1.0, 0.0)
    most = np.minimum(np.minimum(ij, il), point)
    return least, np.maximum(most, 0.0)


def _load_row(
    kind: str,
    point: NDArray[np.float64],
    size: NDArray[np.float64],
    limits: tuple[float, float],
    resource: int,
    i: int,
    j: int,
    book: _Book,
) -> None:
    """One capacity inequality of the pair (i, j), written out with the choice of every l that is best at the point."""
    upper, lower = limits
    others = np.delete(np.arange(len(point)), [i, j])
    ij, il, jl = point[i, j], point[i, others], point[j, others]
    if kind in ("together", "apart low"):
        options = np.stack([np.zeros(len(others)), il + jl - 1.0, ij + il - 1.0, ij + jl - 1.0])
        choice = options.argmax(axis=0)
        on_il, on_jl, on_ij = np.isin(choice, (1, 2)), np.isin(choice, (1, 3)), np.isin(choice, (2, 3))
        constant = choice > 0
    else:
        options = np.stack([np.full(len(others), ij), il, jl])
        choice = options.argmin(axis=0)
        on_il, on_jl, on_ij = choice == 1, choice == 2, choice == 0
        constant = np.zeros(len(others), dtype=np.bool_)
    s = size[others]
    # The product's bound as a row: coefficients of X_il, X_jl, X_ij and a constant.
    part_il, part_jl, part_ij, part = s * on_il, s * on_jl, float(s @ on_ij), -float(s @ constant)
    if kind == "together":
        row = part_il, part_jl, part_ij - (upper - size[i] - size[j])
        rhs = -part
    elif kind == "together low":
        row = -part_il, -part_jl, lower - size[i] - size[j] - part_ij
        rhs = part
    elif kind == "apart":
        row = s - part_il, -part_jl, upper - size[i] - part_ij
        rhs = upper - size[i] + part
    else:
        row = part_il - s, part_jl, part_ij - (lower - size[i])
        rhs = -(lower - size[i]) - part
    number = book.number
    index = np.concatenate([number[i, others], number[j, others], [number[i, j]]])
    entries = np.concatenate([row[0], row[1], [row[2]]]) / upper
    there = entries != 0
    key = (kind, resource, i, j, choice.astype(np.int8).tobytes())
    book.add(key, index[there], entries[there], rhs / upper)


def _stars(point: NDArray[np.float64], book: _Book) -> None:
    """T grows greedily from every first member; all first members of one centre at once."""
    n = len(point)
    found: dict[tuple[int, tuple[int, ...]], float] = {}
    for i in range(n):
        firsts = np.flatnonzero(point[i] > 0.05)
        firsts = firsts[firsts != i]
        if not len(firsts):
            continue
        member = np.zeros((len(firsts), n), dtype=np.bool_)
        member[np.arange(len(firsts)), firsts] = True
        height = point[i, firsts].copy()
        worth = point[i] - point[firsts]
        worth[:, i] = -np.inf
        worth[member] = -np.inf
        going = np.arange(len(firsts))
        while len(going):
            chosen = worth[going].argmax(axis=1)
            gained = worth[going, chosen]
            grows = gained > 1e-3
            going, chosen, gained = going[grows], chosen[grows], gained[grows]
            height[going] += gained
            member[going, chosen] = True
            worth[going] -= point[chosen]
            worth[going, chosen] = -np.inf
        for row in np.flatnonzero((height > 1.0 + _VIOLATED) & (member.sum(axis=1) > 2)):
            found[i, tuple(np.flatnonzero(member[row]).tolist())] = float(height[row]) - 1.0
    best = sorted(found.items(), key=lambda item: (-item[1], item[0]))[: _MOST * 2 // 3]
    for (i, members), _ in best:
        mates = np.array(members)
        a, b = np.triu_indices(len(mates), 1)
        index = np.concatenate([book.number[i, mates], book.number[mates[a], mates[b]]])
        book.add(("star", i, members), index, np.concatenate([np.ones(len(mates)), -np.ones(len(a))]), 1.0)


def _signed(point: NDArray[np.float64], stages: float, book: _Book) -> None:
    """The most violated signed inequalities; the book leaves out what it knows."""
    for m, signs, _ in signed_rows(point, stages, 2 * _VIOLATED)[:_SIGNED]:
        b = signs.astype(np.float64)
        members = np.flatnonzero(b)
        first, second = np.triu_indices(len(members), 1)
        i, j = members[first], members[second]
        rhs = float(b @ b - (2 * m - 1) * b.sum())
        book.add(("signed", m, signs.tobytes()), book.number[i, j], -2.0 * b[i] * b[j], rhs, -float(m * (m - 1)))
