"""The table of measures: one row each, with what a reader, the planner and the plots need to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["AFFINITY", "DEFAULT_MEASURES", "MEASURES", "MeasureInfo"]


@dataclass(frozen=True)
class MeasureInfo:
    """What one measure is.

    Attributes
    ----------
    name, title, unit : str
        Key in :attr:`Relations.matrices`, words for a heading, and unit of a cell.
    kind : {"discrepancy", "similarity", "p-value"}
        Whether larger means further apart, closer together, or neither.
    symmetric : bool
        Whether cell (i, j) equals cell (j, i); an asymmetric one reads "from i to j".
    range : (float, float)
        Range of the quantity; an unbiased estimate may leave it by its noise.
    reference : str
        Where the definition comes from.
    affinity : bool
        Looks at the task (labels or gradients), carries a split-half agreement, measured only on request.
    composable : bool
        May be a part of the composite discrepancy.
    """

    name: str
    title: str
    unit: str
    kind: Literal["discrepancy", "similarity", "p-value"]
    symmetric: bool
    range: tuple[float, float]
    reference: str
    affinity: bool = False
    composable: bool = False


_INF = float("inf")
_ROWS = (
    MeasureInfo(
        "js",
        "Token divergence (JS, corrected)",
        "bits",
        "discrepancy",
        True,
        (0.0, 1.0),
        "Lin 1991; split-half correction, docs/metrics.md",
        composable=True,
    ),
    MeasureInfo(
        "js_plugin",
        "Token divergence (JS, plug-in)",
        "bits",
        "discrepancy",
        True,
        (0.0, 1.0),
        "Lin 1991",
        composable=True,
    ),
    MeasureInfo(
        "jaccard",
        "Vocabulary overlap (Jaccard)",
        "share",
        "similarity",
        True,
        (0.0, 1.0),
        "Jaccard 1912",
        composable=True,
    ),
    MeasureInfo(
        "ruzicka",
        "Weighted overlap (Ruzicka)",
        "share",
        "similarity",
        True,
        (0.0, 1.0),
        "Ruzicka 1958",
        composable=True,
    ),
    MeasureInfo(
        "cosine",
        "Cosine of mean embeddings",
        "cosine",
        "similarity",
        True,
        (-1.0, 1.0),
        "arXiv 2511.07198; unbiased norms, docs/metrics.md",
        composable=True,
    ),
    MeasureInfo(
        "cosine_centred",
        "Cosine of centred mean embeddings",
        "cosine",
        "similarity",
        True,
        (-1.0, 1.0),
        "docs/metrics.md",
        composable=True,
    ),
    MeasureInfo(
        "mmd2",
        "Embedding MMD²",
        "kernel units",
        "discrepancy",
        True,
        (0.0, 2.0),
        "Gretton et al. 2012, eq. 3",
        composable=True,
    ),
    MeasureInfo(
        "mmd2_p", "MMD² permutation p, adjusted", "probability", "p-value", True, (0.0, 1.0), "Phipson and Smyth 2010"
    ),
    MeasureInfo(
        "synergy", "Synergy", "score", "similarity", True, (-0.5, 1.0), "arXiv 2511.07198: ½ (Jaccard + cosine)"
    ),
    MeasureInfo(
        "synergy_centred", "Synergy, centred", "score", "similarity", True, (-0.5, 1.0), "½ (Jaccard + centred cosine)"
    ),
    MeasureInfo(
        "discrepancy",
        "Composite discrepancy",
        "mean rank",
        "discrepancy",
        True,
        (0.0, 1.0),
        "weighted ranks, docs/metrics.md",
    ),
    MeasureInfo(
        "class_mean_cosine",
        "Cosine of class-mean differences",
        "cosine",
        "similarity",
        True,
        (-1.0, 1.0),
        "docs/metrics.md",
        affinity=True,
    ),
    MeasureInfo(
        "probe_transfer",
        "Linear probe trained on row, tested on column",
        "AUC or accuracy",
        "similarity",
        False,
        (0.0, 1.0),
        "Alain and Bengio 2017",
        affinity=True,
    ),
    MeasureInfo(
        "proxy_a_distance",
        "Proxy A-distance",
        "2 (1 − 2 error)",
        "discrepancy",
        True,
        (-2.0, 2.0),
        "Ben-David et al. 2007",
        affinity=True,
        composable=True,
    ),
    MeasureInfo(
        "gradient_affinity",
        "First-order effect of a step on row upon column",
        "nats per unit step",
        "similarity",
        False,
        (-_INF, _INF),
        "Fifty et al. 2021; GradEx 2024",
        affinity=True,
    ),
)

MEASURES: dict[str, MeasureInfo] = {row.name: row for row in _ROWS}
AFFINITY: tuple[str, ...] = tuple(row.name for row in _ROWS if row.affinity)
DEFAULT_MEASURES: tuple[str, ...] = tuple(row.name for row in _ROWS if not row.affinity)
