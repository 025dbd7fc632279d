"""Which measure to trust on this data: short real trainings, and how each cheap measure ranks beside them.

For every chosen domain i a fresh LoRA of the base model is trained for a few steps and evaluated on held-out documents
of every other domain j. Domains differ in how much they teach and how much they can learn; neither says which pairs
belong together, so the transfer matrix is freed of row and column means before it is compared. Correlations are
Spearman's over pairs, with the sign turned for discrepancies: positive always means "this measure foretells transfer".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._progress import SILENT, Progress
from .._seeding import derive_seed, generator
from ..errors import ConfigError
from .advice import advise, rank_measures
from .affinity import _auc, _ridge
from .collect import Collection
from .embedders import Embedding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .settings import MeasureSettings

__all__ = ["rank_measures", "residual", "validate_measures"]

_HELD_OUT = 0.3
_EVALUATED = 100
# Windows of these that a language model is graded on; grading costs k² passes.
_ROWS = 128
_LEARNT = 0.05  # above chance: three standard errors of a dozen domains' mean on a hundred held-out texts each
_BATCH = 8
_LR = 1e-3


def residual(transfer: NDArray[np.float64]) -> NDArray[np.float64]:
    """Transfer freed of row and column effects (least squares on the off-diagonal cells) and symmetrised, (k, k)."""
    k = len(transfer)
    off = ~np.eye(k, dtype=bool)
    rows, columns = np.where(off)
    design = np.zeros((len(rows), 2 * k))
    design[np.arange(len(rows)), rows] = 1
    design[np.arange(len(rows)), k + columns] = 1
    target = transfer[off]
    fitted = design @ np.linalg.lstsq(design, target, rcond=None)[0]
    out = np.zeros((k, k))
    out[off] = target - fitted
    return np.asarray((out + out.T) / 2)


def validate_measures(
    matrices: Mapping[str, NDArray[np.float64]],
    collection: Collection,
    embedding: Embedding | None,
    settings: MeasureSettings,
    *,
    seed: int = 0,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Train, evaluate, compare; the result goes into :attr:`Relations.validation`.

    Keys: `kind` ("language model", "classifier" or "embedding head"), `domains`, `transfer` (row trained, column
    tested), `unit`, `residual`, `measures` (of :func:`rank_measures`), `best`, `advice`, `reliability`,
    `warnings`.
    """
    names = [sample.name for sample in collection.samples]
    if len(names) < 3:
        raise ConfigError("measure.validate=probe needs at least 3 domains for a rank correlation; leave it out.")
    chosen = np.arange(len(names))
    if len(names) > settings.probe_domains:
        chosen = np.sort(generator(seed, "probe domains").permutation(len(names))[: settings.probe_domains])
    classes = _classes(collection, chosen)
    warnings: list[str] = []
    if settings.model is not None:
        runs = [
            _trained(collection, chosen, classes, settings, derive_seed(seed, "probe", number), progress)
            for number in range(settings.probe_seeds)
        ]
        kind = "classifier" if classes else "language model"
        unit = "AUC" if classes and len(classes) == 2 else ("accuracy" if classes else "share of own gain in loss")
    elif classes and embedding is not None:
        runs = [_heads(collection, embedding, chosen, classes, settings)]
        kind, unit = "embedding head", "AUC" if len(classes) == 2 else "accuracy"
        warnings.append(
            "validated with heads on fixed embeddings: give measure.model for trainings of the model itself."
        )
    else:
        raise ConfigError(
            "measure.validate=probe needs measure.model for text without labels; name the base model's folder or id."
        )
    transfer = np.mean(runs, axis=0)
    truth = residual(transfer)
    reliability: float | None = None
    upper = np.triu_indices(len(chosen), 1)
    if len(runs) > 1:
        from scipy.stats import spearmanr

        reliability = float(spearmanr(residual(runs[0])[upper], residual(runs[1])[upper]).statistic)
        if reliability < 0.5:
            warnings.append(f"two seeds of the validation agree at {reliability:.2f} only; raise measure.probe_steps.")
    picked = {name: matrix[np.ix_(chosen, chosen)] for name, matrix in matrices.items()}
    measures = rank_measures(picked, truth, seed=seed)
    best, advice = advise(measures)
    unlearnt = _unlearnt(transfer, kind, unit, len(classes))
    if unlearnt is not None:
        best, advice = None, unlearnt
    return {
        "kind": kind,
        "unit": unit,
        "domains": [names[index] for index in chosen],
        "transfer": transfer.tolist(),
        "residual": truth.tolist(),
        "measures": measures,
        "best": best,
        "advice": advice,
        "reliability": reliability,
        "warnings": warnings,
    }


def _unlearnt(transfer: NDArray[np.float64], kind: str, unit: str, classes: int) -> str | None:
    """What to say where probes did not even learn what they were trained on: what they transfer is noise then."""
    own = float(np.diagonal(transfer).mean())
    floor = 0.5  # of the domains a language model must have learnt half
    if unit in ("AUC", "accuracy"):
        floor = (0.5 if unit == "AUC" else 1 / classes) + _LEARNT
    if own > floor:
        return None
    return (
        f"the probes hardly learnt their own domains (mean {unit} {own:.2f}), so the transfer measured is noise and "
        "these correlations say nothing; raise measure.probe_steps and measure.probe_documents, "
        + (
            "or name no model: heads on embeddings learn more easily."
            if kind == "classifier"
            else "or name a better model."
        )
    )


def _classes(collection: Collection, chosen: Sequence[int] | NDArray[Any]) -> list[str]:
    """Labels that all chosen domains share; empty for unlabelled text."""
    shared: set[str] | None = None
    for index in chosen:
        own = {label for label in collection.samples[index].labels if label is not None}
        shared = own if shared is None else shared & own
    return sorted(shared) if shared and len(shared) > 1 else []


def _divide(count: int, limit: int) -> tuple[range, range]:
    """Training and held-out documents of a sample that is already in random order."""
    held = min(_EVALUATED, max(4, int(count * _HELD_OUT)))
    held = min(held, count // 2)
    return range(held, min(count, held + limit)), range(held)


def _trained(
    collection: Collection,
    chosen: NDArray[np.int64],
    classes: list[str],
    settings: MeasureSettings,
    seed: int,
    progress: Progress,
) -> NDArray[np.float64]:
    """Transfer (k, k) by LoRA trainings of the base model: loss gained per token, or AUC / accuracy."""
    from ._lora import CausalProbe, ClassProbe

    k = len(chosen)
    samples = [collection.samples[index] for index in chosen]
    out = np.zeros((k, k))
    if classes:
        grader = ClassProbe(
            str(settings.model), max_length=settings.max_length, device=settings.device, classes=len(classes)
        )
        codes = {label: index for index, label in enumerate(classes)}
        train_rows, test_rows = [], []
        for sample in samples:
            use = [i for i, label in enumerate(sample.labels) if label in codes]
            fit, held = _divide(len(use), settings.probe_documents)
            rows = grader.rows([sample.texts[i] for i in use], [codes[str(sample.labels[i])] for i in use])
            train_rows.append([rows[i] for i in fit])
            test_rows.append([rows[i] for i in held])
        with progress.task("validation trainings", total=k, unit="domains") as task:
            for i in range(k):
                grader.fresh(seed % 2**31)
                grader.train(train_rows[i], steps=settings.probe_steps, batch=_BATCH, lr=_LR, seed=seed % 2**31)
                for j in range(k):
                    scores = grader.scores(test_rows[j], 32)
                    y = np.array([label for _, label in test_rows[j]])
                    out[i, j] = _grade(scores, y, len(classes))
                task.advance()
        return out
    probe = CausalProbe(str(settings.model), max_length=settings.max_length, device=settings.device)
    train_text, test_text = [], []
    for sample in samples:
        fit, held = _divide(len(sample.texts), settings.probe_documents)
        train_text.append(probe.rows([sample.texts[i] for i in fit]))
        test_text.append(probe.rows([sample.texts[i] for i in held])[:_ROWS])
    probe.fresh(seed % 2**31)
    probe.model.eval()
    before = [probe.grade(rows, 32) for rows in test_text]
    with progress.task("validation trainings", total=k, unit="domains") as task:
        for i in range(k):
            probe.fresh(seed % 2**31)
            probe.train(train_text[i], steps=settings.probe_steps, batch=_BATCH, lr=_LR, seed=seed % 2**31)
            for j in range(k):
                out[i, j] = before[j] - probe.grade(test_text[j], 32)
            task.advance()
    # A domain that gains much from its own training gains much from any: measure in shares of its own gain.
    own = np.diagonal(out).copy()
    return np.asarray(out / np.where(own > 1e-6, own, 1.0)[None, :])


def _grade(scores: NDArray[np.float64], y: NDArray[np.int64], classes: int) -> float:
    if classes == 2:
        return _auc(scores[:, 1] - scores[:, 0], y == 1)
    return float((scores.argmax(axis=1) == y).mean())


def _heads(
    collection: Collection,
    embedding: Embedding,
    chosen: NDArray[np.int64],
    classes: list[str],
    settings: MeasureSettings,
) -> NDArray[np.float64]:
    """Transfer (k, k) by ridge heads on the embeddings: train documents of row, held-out documents of column."""
    codes = {label: index for index, label in enumerate(classes)}
    data = []
    for index in chosen:
        sample, vectors = collection.samples[index], embedding.vectors[index]
        use = [i for i, label in enumerate(sample.labels) if label in codes]
        y = np.array([codes[str(sample.labels[i])] for i in use])
        fit, held = _divide(len(use), settings.probe_documents)
        x = np.asarray(vectors[use], np.float64)
        data.append((x[fit], y[fit], x[held], y[held]))
    out = np.zeros((len(data), len(data)))
    for i, (x, y, _, _) in enumerate(data):
        weights, offset = _ridge(x, np.eye(len(classes))[y])
        for j, (_, _, other, truth) in enumerate(data):
            out[i, j] = _grade(other @ weights + offset, truth, len(classes))
    return out
