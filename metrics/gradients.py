"""Gradient affinity: to first order, what a step on one domain does to the loss of another.

At the base model (LoRA with B = 0, or after a short warm-up on all domains) let g_i be the gradient of domain i's mean
loss with respect to the LoRA parameters. A step of unit length along −g_i changes the loss of j by −⟨g_i, g_j⟩/‖g_i‖:

    affinity_ij = ⟨g_i, g_j⟩ / ‖g_i‖      (nats per unit step; positive: i helps j)

Each gradient is kept only as a count sketch (Charikar et al. 2002) of fixed size, whose inner products are unbiased, so
memory does not grow with the number of domains times the number of parameters. Norms come from two halves of the
documents, ‖g_i‖² ≈ ⟨g_i¹, g_i²⟩, since the norm of a noisy gradient is mostly noise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._progress import SILENT, Progress
from .._seeding import derive_seed, generator
from ._lora import CausalProbe
from .affinity import Affinity, agreement_of
from .collect import Collection

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .settings import MeasureSettings

__all__ = ["affinity_from_halves", "gradient_affinity", "sketch"]

_WARMUP_LR = 5e-4


def sketch(vector: NDArray[Any], size: int, seed: int) -> NDArray[np.float64]:
    """Count sketch of a flat vector: coordinate c goes, with a random sign, to a random one of `size` cells.

    E⟨sketch x, sketch y⟩ = ⟨x, y⟩ with variance at most (‖x‖²‖y‖² + ⟨x, y⟩²) / size.
    """
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, size, len(vector), dtype=np.int32)
    signs = rng.integers(0, 2, len(vector), dtype=np.int8).astype(np.float64) * 2 - 1
    return np.asarray(np.bincount(cells, weights=signs * np.asarray(vector, np.float64), minlength=size), np.float64)


def affinity_from_halves(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """(k, k) affinity from the gradient (or its sketch) of each half of the documents, both (k, m)."""
    mean = (first + second) / 2
    inner = mean @ mean.T
    own = np.einsum("km,km->k", first, second)
    plain = np.diagonal(inner).copy()
    # A norm that is all noise comes out at or below 0: the plain norm, an upper bound, keeps cells finite and small.
    squared = np.where(own > 1e-3 * plain, own, plain)
    np.fill_diagonal(inner, own)
    norms = np.sqrt(np.where(squared > 0, squared, 1.0))
    return np.asarray(inner / norms[:, None])


def gradient_affinity(
    collection: Collection, settings: MeasureSettings, *, seed: int = 0, progress: Progress = SILENT
) -> Affinity:
    """Measure gradient affinity with the base model of `settings`; see the module's head."""
    import torch

    probe = CausalProbe(str(settings.model), max_length=settings.max_length, device=settings.device)
    probe.fresh(derive_seed(seed, "gradients", "lora") % 2**31)
    texts = [sample.texts[: settings.affinity_documents] for sample in collection.samples]
    rows = [probe.rows(group) for group in texts]
    if settings.gradient_warmup:
        pooled = [row for group in rows for row in group]
        probe.train(
            pooled,
            steps=settings.gradient_warmup,
            batch=8,
            lr=_WARMUP_LR,
            seed=derive_seed(seed, "gradients", "warm-up") % 2**31,
        )
    probe.model.eval()
    k = len(rows)
    halves = np.zeros((2, k, settings.gradient_sketch))
    batch = max(1, settings.batch_size // 4)
    with progress.task("gradients", total=2 * k, unit="halves") as task:
        for i, group in enumerate(texts):
            order = generator(seed, "gradients", collection.samples[i].name).permutation(len(group))
            for side in (0, 1):
                picked = sorted(order[side::2].tolist())
                own = sorted(probe.rows([group[index] for index in picked]), key=len)
                count = sum(len(row) - 1 for row in own)
                probe.model.zero_grad(set_to_none=True)
                for start in range(0, len(own), batch):
                    total, _ = probe._forward(own[start : start + batch])
                    (total.sum() / max(count, 1)).backward()
                for name, parameter in probe.parameters():
                    if parameter.grad is None:
                        continue
                    flat = parameter.grad.detach().to(torch.float32).flatten().cpu().numpy()
                    halves[side, i] += sketch(flat, settings.gradient_sketch, derive_seed(seed, "sketch", name))
                task.advance()
    whole = affinity_from_halves(halves[0], halves[1])
    # Each half's own matrix, for the agreement: plain norms, since a half has no halves.
    parts = []
    for side in (0, 1):
        inner = halves[side] @ halves[side].T
        norms = np.sqrt(np.maximum(np.diagonal(inner), 1e-30))
        parts.append(inner / norms[:, None])
    agreement = agreement_of(parts[0], parts[1], symmetric=False, least=settings.agreement)
    lengths = np.linalg.norm(halves, axis=2)
    cosines = np.einsum("km,km->k", halves[0], halves[1]) / np.maximum(lengths[0] * lengths[1], 1e-30)
    agreement["self_cosine"] = [float(value) for value in cosines]
    if float(np.median(cosines)) < 0.2 and agreement["usable"]:
        agreement["usable"] = False
        agreement["why"] = (
            f"the gradients of two halves of one domain have a median cosine of {float(np.median(cosines)):.2f}: "
            "mostly noise; raise measure.affinity_documents or measure.gradient_warmup"
        )
    return Affinity(whole, agreement)
