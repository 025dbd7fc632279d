"""One pass over the blocks of the pooled Gram matrix: MMD² of all pairs, permutation nulls and bootstrap draws.

Block (i, j) is formed once, used for everything, and dropped, so memory is one block a thread plus k×k results.
Permutations: relabelling the pooled documents of a pair is an indicator t = (u, v), and every relabelled statistic
follows from tᵀK t and tᵀK1. The same u, v serve all pairs of equal sizes, so the parts within a domain are computed
once a domain and a pair costs one product K_ij [V | W_j], where W are the bootstrap weights of the documents.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .._progress import SILENT, Progress
from .._seeding import generator
from ..errors import InputError
from .divergence import threads

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GramPass", "GramResult", "choose_precision"]

Precision = Literal["float64", "float32", "bf16"]
_SHARED_SIZES = 32


@dataclass(frozen=True)
class GramResult:
    """What one pass yields; all (k, k), replicates (B, k, k).

    `p` are raw permutation p-values (1 + #{null ≥ observed}) / (1 + permutations), 1 on the diagonal; `floor` is the
    95 % quantile of each pair's permutation null. Both are None without permutations.
    """

    mmd2: NDArray[np.float64]
    p: NDArray[np.float64] | None
    floor: NDArray[np.float64] | None
    replicates: NDArray[np.float32] | None


@contextlib.contextmanager
def _bf16_products() -> Iterator[None]:
    """Let torch's float32 products use bf16 inputs with float32 sums (AMX, AVX512-BF16), and put the setting back."""
    import torch

    backend = getattr(torch.backends.mkldnn, "matmul")  # noqa: B009 (the stubs lag behind)
    before = backend.fp32_precision
    backend.fp32_precision = "bf16"
    try:
        yield
    finally:
        backend.fp32_precision = before


def choose_precision(precision: str, samples: Sequence[NDArray[Any]]) -> Precision:
    """Resolve "auto": bf16 products where they save more than importing torch costs, float32 otherwise."""
    if precision not in ("auto", "float64", "float32", "bf16"):
        raise InputError(f"precision={precision!r} is not one of auto, float64, float32, bf16.")
    if precision != "auto":
        return precision  # type: ignore[return-value]
    rows = sum(len(sample) for sample in samples)
    heavy = float(rows) ** 2 * samples[0].shape[1] > 1e12
    return "bf16" if heavy and _has_fast_bf16() else "float32"


def _has_fast_bf16() -> bool:
    try:
        import torch

        return bool(torch.cpu._is_amx_tile_supported())
    except (ImportError, AttributeError):
        return False


class GramPass:
    """All pairs of `samples` under one RBF mixture; see the module's head.

    Parameters
    ----------
    samples : sequence of k arrays (n_i, d)
    bandwidths : sequence of float
        σ² of the mixture. Five of them, each twice the last, take the compiled path (one exponential, four squarings).
    precision, device : str
        See :func:`kinfold.metrics.mmd.mmd2_matrix`.
    """

    def __init__(
        self,
        samples: Sequence[NDArray[Any]],
        bandwidths: Sequence[float],
        *,
        precision: str = "auto",
        device: str = "cpu",
    ) -> None:
        self.precision = choose_precision(precision, samples)
        self.device = device
        self.bandwidths = tuple(sorted(bandwidths))
        dtype: Any = np.float64 if self.precision == "float64" else np.float32
        count = sum(len(sample) for sample in samples)
        # Distances do not change with the origin; a common centre keeps float32 norms small and exact.
        centre = sum((np.asarray(sample, np.float64).sum(axis=0) for sample in samples), np.zeros(1)) / count
        self.samples = [
            np.ascontiguousarray(np.asarray(sample, np.float64) - centre, dtype=dtype) for sample in samples
        ]
        if self.precision == "bf16":
            # Norms must be those of the rounded points, or the distance of a point to itself is not 0.
            self.samples = [_round_bf16(sample) for sample in self.samples]
        self.norms = [np.einsum("nd,nd->n", sample, sample, dtype=np.float64).astype(dtype) for sample in self.samples]
        ratios = np.divide(self.bandwidths[1:], self.bandwidths[:-1])
        self.compiled = self.precision != "float64" and len(self.bandwidths) == 5 and bool(np.allclose(ratios, 2.0))
        self.torch_device = device if device not in ("cpu", "auto") else None

    def block(self, i: int, j: int) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
        """Kernel of sample i against sample j with its row and column sums (float64)."""
        x, y = self.samples[i], self.samples[j]
        if self.torch_device is not None:
            return self._torch_block(i, j)
        gram = self._product(x, y)
        if self.compiled:
            from ._kernels import rbf_block

            rows, columns = np.zeros(len(x)), np.zeros(len(y))
            scale = -np.log2(np.e) / (2.0 * self.bandwidths[-1])
            rbf_block(gram, self.norms[i], self.norms[j], scale, rows, columns)
            if i == j:
                rows += 1.0 - np.diagonal(gram)
                columns += 1.0 - np.diagonal(gram)
                np.fill_diagonal(gram, 1.0)
            return gram, rows, columns
        sq_dists = np.maximum(self.norms[i][:, None] + self.norms[j][None, :] - 2 * gram, 0)
        if i == j:
            np.fill_diagonal(sq_dists, 0)
        kernel = np.zeros_like(sq_dists)
        for sigma2 in self.bandwidths:
            kernel += np.exp(sq_dists * (-0.5 / sigma2))
        kernel /= len(self.bandwidths)
        return kernel, kernel.sum(axis=1, dtype=np.float64), kernel.sum(axis=0, dtype=np.float64)

    def _product(self, x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        if self.precision != "bf16":
            return np.asarray(x @ y.T)
        import torch

        return np.asarray((torch.from_numpy(x) @ torch.from_numpy(y).T).numpy())

    def _torch_block(self, i: int, j: int) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.float64]]:
        import torch

        where = torch.device(self.torch_device or "cpu")
        x, y = torch.from_numpy(self.samples[i]).to(where), torch.from_numpy(self.samples[j]).to(where)
        left, right = torch.from_numpy(self.norms[i]).to(where), torch.from_numpy(self.norms[j]).to(where)
        gram = (
            (x.bfloat16() @ y.bfloat16().T).to(x.dtype) if self.precision == "bf16" and where.type != "cpu" else x @ y.T
        )
        sq_dists = (left[:, None] + right[None, :] - 2 * gram).clamp_(min=0)
        if i == j:
            sq_dists.fill_diagonal_(0)
        if self.compiled:
            power = torch.exp(sq_dists * (-0.5 / self.bandwidths[-1]))
            kernel = power.clone()
            for _ in range(4):
                power = power * power
                kernel += power
        else:
            kernel = sum((torch.exp(sq_dists * (-0.5 / s)) for s in self.bandwidths), torch.zeros_like(sq_dists))
        kernel = kernel / len(self.bandwidths)
        rows = kernel.sum(dim=1, dtype=torch.float64).cpu().numpy()
        columns = kernel.sum(dim=0, dtype=torch.float64).cpu().numpy()
        return kernel.cpu().numpy(), rows, columns

    # ------------------------------------------------------------------ the pass
    def run(
        self,
        *,
        unbiased: bool = True,
        permutations: int = 0,
        weights: Sequence[NDArray[np.float32]] | None = None,
        seed: int = 0,
        progress: Progress = SILENT,
    ) -> GramResult:
        """MMD² of all pairs, and on request raw p-values, null quantiles and bootstrap replicates.

        `weights[i]` (n_i, B) are the multinomial document weights of each bootstrap draw; a document drawn twice is
        not compared with itself.
        """
        k = len(self.samples)
        sizes = [len(sample) for sample in self.samples]
        labels = _Labels(sizes, permutations, seed, self.samples[0].dtype)
        draws = 0 if weights is None else weights[0].shape[1]
        within = np.zeros(k)
        own_draws = np.zeros((k, draws))
        parts: list[dict[tuple[int, int, int], tuple[NDArray[Any], NDArray[Any]]]] = [{} for _ in range(k)]
        mmd2, p, floor = np.zeros((k, k)), np.ones((k, k)), np.zeros((k, k))
        replicates = np.zeros((draws, k, k), np.float32)
        row_sums: list[NDArray[np.float64]] = [np.zeros(0)] * k
        kernels: dict[int, NDArray[Any]] = {}

        def own(i: int) -> None:
            kernel, rows, _ = self.block(i, i)
            n = sizes[i]
            within[i] = (rows.sum() - n) / (n * (n - 1)) if unbiased else rows.sum() / n**2
            row_sums[i] = rows
            if permutations and labels.shared:
                for key in labels.keys_of(i):
                    parts[i][key] = _forms(kernel, rows, labels[key])
            elif permutations:
                kernels[i] = kernel
            if weights is not None:
                w = weights[i].astype(kernel.dtype, copy=False)
                squares = (w.astype(np.float64) ** 2).sum(axis=0)
                total = w.sum(axis=0, dtype=np.float64)
                free = np.maximum(total**2 - squares, 1.0)
                own_draws[i] = (np.einsum("nb,nb->b", w, kernel @ w, dtype=np.float64) - squares) / free

        def pair(ij: tuple[int, int]) -> None:
            i, j = ij
            kernel, rows, columns = self.block(i, j)
            n, m = sizes[i], sizes[j]
            cross = float(rows.sum())
            mmd2[i, j] = within[i] + within[j] - 2.0 * cross / (n * m)
            if permutations:
                first, second = (0, n, m), (1, n, m)
                u, v = labels.pair(n, m)
                if labels.shared:
                    (q_i, r_i), (q_j, r_j) = parts[i][first], parts[j][second]
                else:
                    (q_i, r_i), (q_j, r_j) = _forms(kernels[i], row_sums[i], u), _forms(kernels[j], row_sums[j], v)
                mixed = np.einsum("nb,nb->b", u, kernel @ v, dtype=np.float64)
                quadratic = q_i + q_j + 2.0 * mixed
                linear = r_i + rows @ u + r_j + columns @ v
                total = float(row_sums[i].sum() + row_sums[j].sum() + 2.0 * cross)
                null = _two_sample(quadratic, linear, total, n, m, unbiased)
                slack = 1e-12 if self.precision == "float64" else 1e-7
                p[i, j] = p[j, i] = (1.0 + (null >= mmd2[i, j] - slack).sum()) / (1.0 + permutations)
                floor[i, j] = floor[j, i] = np.quantile(null, 0.95)
            if weights is not None:
                w_i = weights[i].astype(kernel.dtype, copy=False)
                w_j = weights[j].astype(kernel.dtype, copy=False)
                drawn = np.einsum("nb,nb->b", w_i, kernel @ w_j, dtype=np.float64) / (n * m)
                replicates[:, i, j] = replicates[:, j, i] = own_draws[i] + own_draws[j] - 2.0 * drawn
            mmd2[j, i] = mmd2[i, j]

        pairs = [(i, j) for i in range(k) for j in range(i + 1, k)]
        with self._mode(), progress.task("comparing embeddings", total=k + len(pairs), unit="blocks") as task:
            for work, items in ((own, list(range(k))), (pair, pairs)):
                for _ in self._map(work, items):
                    task.advance()
        return GramResult(
            mmd2,
            p if permutations else None,
            floor if permutations else None,
            replicates if weights is not None else None,
        )

    @contextlib.contextmanager
    def _mode(self) -> Iterator[None]:
        if self.precision == "bf16" and self.torch_device is None:
            with _bf16_products():
                yield
            return
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        # Blocks run side by side, one thread each: faster than splitting one small product over threads.
        with threadpool_limits(limits=1, user_api="blas"):
            yield

    def _map(self, work: Any, items: Sequence[Any]) -> Iterator[Any]:
        if self.precision == "bf16" or self.torch_device is not None or threads() == 1:
            yield from map(work, items)
            return
        with ThreadPoolExecutor(threads()) as pool:
            yield from pool.map(work, items)


def _forms(
    kernel: NDArray[Any], rows: NDArray[np.float64], t: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """tᵀKt and tᵀK1 of every relabelling, within one domain."""
    return np.einsum("nb,nb->b", t, kernel @ t, dtype=np.float64), rows @ t


def _two_sample(
    quadratic: NDArray[np.float64], linear: NDArray[np.float64], total: float, n: int, m: int, unbiased: bool
) -> NDArray[np.float64]:
    """MMD² of relabelled samples from tᵀKt, tᵀK1 and 1ᵀK1 (t marks the n documents called the first sample)."""
    inside = quadratic
    between = linear - quadratic
    outside = total - 2.0 * linear + quadratic
    if unbiased:
        return np.asarray((inside - n) / (n * (n - 1)) + (outside - m) / (m * (m - 1)) - 2.0 * between / (n * m))
    return np.asarray(inside / n**2 + outside / m**2 - 2.0 * between / (n * m))


class _Labels:
    """Random relabellings, the same for all pairs of equal sizes: 0/1 of shape (n or m, permutations).

    Few different sizes (the rule: every domain has as many documents as were asked for) are drawn once and kept, and
    each domain's part is computed once. Many are drawn anew for each pair, or they would fill the memory.
    """

    def __init__(self, sizes: Sequence[int], permutations: int, seed: int, dtype: Any) -> None:
        self.sizes = list(sizes)
        self.permutations = permutations
        self.seed = seed
        self.dtype = dtype
        self.store: dict[tuple[int, int, int], NDArray[Any]] = {}
        different = {(n, m) for i, n in enumerate(sizes) for m in sizes[i + 1 :]} if permutations else set()
        self.shared = len(different) <= _SHARED_SIZES
        if self.shared:
            for n, m in sorted(different):
                self.store[0, n, m], self.store[1, n, m] = self._draw(n, m)

    def _draw(self, n: int, m: int) -> tuple[NDArray[Any], NDArray[Any]]:
        rng = generator(self.seed, "permutations", n, m)
        ranks = rng.random((n + m, self.permutations), dtype=np.float32).argpartition(n - 1, axis=0)[:n]
        t = np.zeros((n + m, self.permutations), self.dtype)
        np.put_along_axis(t, ranks, 1, axis=0)
        return np.ascontiguousarray(t[:n]), np.ascontiguousarray(t[n:])

    def pair(self, n: int, m: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Labels of the first and the second sample of a pair of sizes n and m."""
        return (self.store[0, n, m], self.store[1, n, m]) if self.shared else self._draw(n, m)

    def __getitem__(self, key: tuple[int, int, int]) -> NDArray[Any]:
        return self.store[key]

    def keys_of(self, i: int) -> list[tuple[int, int, int]]:
        """Every labelling that domain i takes part in: first towards later domains, second towards earlier ones."""
        first = {(0, self.sizes[i], m) for m in self.sizes[i + 1 :]}
        second = {(1, n, self.sizes[i]) for n in self.sizes[:i]}
        return sorted(first | second)


def _round_bf16(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round float32 to the nearest bf16 (ties to even), kept as float32."""
    raw = x.view(np.uint32)
    rounded = (raw + np.uint32(0x7FFF) + ((raw >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.ascontiguousarray(rounded.view(np.float32))
