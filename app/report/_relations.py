"""The relations section and the map of domains, as values the page draws from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...metrics._plots import as_distances, dendrogram_order, under_floor
from ._frame import Frame, entry, finite, number, pack, pack_marks

if TYPE_CHECKING:
    from ...metrics.relations import Relations

__all__ = ["leading", "map_view", "relations_view"]

# Shown first, in this order; what a plan is made of comes before variants of the same thing.
_FIRST = (
    "js", "jaccard", "cosine_centred", "synergy", "discrepancy", "mmd2", "cosine", "ruzicka", "synergy_centred",
    "class_mean_cosine", "probe_transfer", "proxy_a_distance", "gradient_affinity", "js_plugin", "mmd2_p",
)  # fmt: skip

# What a value says, for readers who do not know the measure.
_SAYS = {
    "js": "How differently two domains use words: Jensen–Shannon divergence of their token counts, with the "
    "bias of small samples taken off. 0 = the same text statistically, 1 = not one token in common.",
    "js_plugin": "The same divergence without the correction: too high for small domains. Here for comparison.",
    "jaccard": "The share of distinct tokens that two domains have in common, at equal sample sizes. "
    "1 = the same vocabulary.",
    "ruzicka": "Vocabulary overlap weighted by how often tokens occur. 1 = the same counts.",
    "cosine": "Angle between the mean embeddings of two domains, corrected for sample noise. Raw means crowd near 1.",
    "cosine_centred": "Angle between mean embeddings after subtracting the mean of all domains: positive = "
    "same side of the middle, negative = opposite sides.",
    "mmd2": "Squared maximum mean discrepancy of document embeddings, unbiased: about 0 (or just below) when two "
    "domains cannot be told apart by meaning, larger when they can.",
    "mmd2_p": "Probability of an MMD² at least this large if the two domains were one, corrected for the number "
    "of pairs.",
    "synergy": "Half vocabulary overlap, half cosine of mean embeddings: what a pair is expected to gain from "
    "training together.",
    "synergy_centred": "Synergy with the centred cosine, which spreads pairs further apart.",
    "discrepancy": "A weighted mean of the discrepancy measures, as chosen in the settings.",
    "class_mean_cosine": "Whether the labels point the same way in both domains: cosine of the differences of "
    "class means.",
    "probe_transfer": "How well a linear classifier trained on the row's domain works on the column's.",
    "proxy_a_distance": "How easily a classifier tells two domains apart: 0 = cannot, 2 = always.",
    "gradient_affinity": "Whether a training step on the row's domain also lowers the loss of the column's, to "
    "first order.",
}  # fmt: skip

# Beyond this many packed cells the page drops intervals of the lesser measures, then the measures themselves.
_CELL_BUDGET = 1_100_000


def _ranked(relations: Relations) -> list[str]:
    rank = {name: i for i, name in enumerate(_FIRST)}
    return sorted(relations.names, key=lambda name: (rank.get(name, len(rank)), name))


def leading(relations: Relations, kind: str) -> str | None:
    """The first measure of `kind` ("discrepancy" or "similarity"), the one sentences are made from."""
    for name in _ranked(relations):
        if relations.info(name).kind == kind and name != "mmd2_p":
            return name
    return None


def relations_view(relations: Relations, frame: Frame) -> dict[str, Any]:
    """Every measure with values, intervals, floors, noise marks, its dendrogram order and its telling pairs."""
    names = _ranked(relations)
    cells_of_one = frame.k * (frame.k + 1) // 2
    # Two shares are the plan's, for its gains and its co-assignment.
    budget = _CELL_BUDGET // max(cells_of_one, 1) - 2
    dropped = names[max(1, budget) :]
    names = names[: max(1, budget)]
    budget -= len(names)
    measures, bare = [], 0
    for name in names:
        info = relations.info(name)
        symmetric = bool(info.symmetric)
        value = frame.expand(relations.matrix(name), relations.domains)
        if value is None:
            continue
        view: dict[str, Any] = {
            "id": name,
            "title": info.title,
            "unit": info.unit or "",
            "kind": info.kind,
            "symmetric": symmetric,
            "says": _SAYS.get(name, ""),
            "trust": _trust(relations, name),
            "reference": info.reference or "",
            "value": pack(value, symmetric=symmetric),
            "order": [frame.names.index(relations.domains[i]) for i in dendrogram_order(as_distances(relations, name))]
            + [i for i, domain in enumerate(frame.names) if domain not in relations.domains],
        }
        # Without a bootstrap `interval` answers with the estimate itself, which would look like certainty.
        interval = relations.interval(name) if name in relations.low and name in relations.high else None
        noise = under_floor(relations, name) if relations.floor(name) is not None else None
        extras = (2 if interval is not None else 0) + (1 if noise is not None else 0)
        if extras and budget >= extras:
            budget -= extras
            if interval is not None:
                for key, part in zip(("low", "high"), interval, strict=True):
                    full = frame.expand(part, relations.domains)
                    if full is not None:
                        view[key] = pack(full, symmetric=symmetric)
            floor = frame.expand(relations.floor(name), relations.domains) if noise is not None else None
            if floor is not None:
                view["floor"] = pack(floor, symmetric=symmetric)
        elif extras:
            bare += 1
        if noise is not None:
            marks = frame.expand(noise.astype(np.float64), relations.domains)
            if marks is not None:
                off = np.triu(np.ones_like(marks, dtype=bool), 1) if symmetric else ~np.eye(frame.k, dtype=bool)
                closest = _extremes(value, symmetric, info.kind)["alike"]
                view["closest_is_noise"] = bool(closest) and bool(marks[int(closest[0][0]), int(closest[0][1])] > 0)
                view["noisy"] = int(np.nansum(marks[off] > 0))
                view["pairs"] = int(np.isfinite(value[off]).sum())
                view["noise"] = pack_marks(marks > 0, symmetric=symmetric)
        view["extremes"] = _extremes(value, symmetric, info.kind)
        measures.append(view)
    return {
        "measures": measures,
        "dropped": dropped,
        "bare": bare,
        "sizes": _sizes(relations, frame),
        "warnings": list(relations.warnings),
        "validation": _validation(relations, frame),
    }


def _trust(relations: Relations, name: str) -> str:
    """What two halves of the data say about a measure, in a sentence; empty for measures without that check."""
    found = (getattr(relations, "agreement", None) or {}).get(name)
    if not found:
        return ""
    text = f"Two halves of the data agree on it at {number(found.get('split_half'), 2)} (1 = fully)."
    return text if found.get("usable", True) else f"{text} That is too little: do not rely on it."


def _extremes(value: NDArray[np.float64], symmetric: bool, kind: str, count: int = 5) -> dict[str, list[list[float]]]:
    """The closest and the farthest pairs, each as [row, column, value]."""
    k = len(value)
    rows, columns = np.triu_indices(k, 1) if symmetric else np.nonzero(~np.eye(k, dtype=bool))
    flat = value[rows, columns]
    good = np.flatnonzero(np.isfinite(flat))
    ranked = good[np.argsort(flat[good], kind="stable")]
    count = min(count, len(ranked) // 2) if len(ranked) > 1 else len(ranked)
    low = [[int(rows[i]), int(columns[i]), float(flat[i])] for i in ranked[:count]]
    high = [[int(rows[i]), int(columns[i]), float(flat[i])] for i in ranked[::-1][:count]]
    # A large p-value says that a pair could be one domain, so it ranks like a similarity.
    return {"alike": high, "apart": low} if kind != "discrepancy" else {"alike": low, "apart": high}


def _sizes(relations: Relations, frame: Frame) -> list[dict[str, Any]]:
    rows = []
    for i, name in enumerate(relations.domains):
        at = frame.names.index(name)
        rows.append(
            {
                "name": name,
                "stage": frame.stage_of[at],
                **{
                    key: int(np.asarray(values)[i])
                    for key in ("documents", "tokens", "characters")
                    if (values := getattr(relations, key, None)) is not None
                },
            }
        )
    return sorted(rows, key=lambda row: (-int(row.get("tokens", 0)), row["name"]))


def _validation(relations: Relations, frame: Frame) -> dict[str, Any] | None:
    """How well each measure foretells transfer that was measured by short trainings, the best first."""
    value = relations.validation
    measures = entry(value, "measures")
    if not value or not isinstance(measures, Mapping):
        return None
    rows = [
        {
            "name": _title(relations, name),
            "rho": finite(entry(cell, "rho")),
            "low": finite(entry(cell, "low")),
            "high": finite(entry(cell, "high")),
            "p": finite(entry(cell, "p")),
            "better": [_title(relations, other) for other in entry(cell, "better") or ()],
        }
        for name, cell in measures.items()
    ]
    rows = [row for row in rows if row["rho"] is not None]
    domains = [str(name) for name in value.get("domains") or ()]
    transfer = None
    if domains and all(name in frame.names for name in domains):
        transfer = frame.expand(value.get("transfer"), domains)
    return {
        "rows": sorted(rows, key=lambda row: -float(row["rho"] or 0.0)),
        "kind": str(value.get("kind") or ""),
        "unit": str(value.get("unit") or ""),
        "advice": str(value.get("advice") or ""),
        "reliability": finite(value.get("reliability")),
        "transfer": pack(transfer) if transfer is not None else None,
    }


def _title(relations: Relations, name: Any) -> str:
    return relations.info(name).title if name in relations.names else str(name)


def map_view(relations: Relations, frame: Frame) -> dict[str, Any] | None:
    """Domains as points whose distances follow the leading discrepancy, with the strongest synergies as edges."""
    measure = leading(relations, "discrepancy")
    if measure is None or len(relations.domains) < 3:
        return None
    full = frame.expand(relations.matrix(measure), relations.domains)
    if full is None:
        return None
    present = [frame.names.index(name) for name in relations.domains]
    distances = (full + full.T)[np.ix_(present, present)] / 2
    if not np.isfinite(distances[~np.eye(len(present), dtype=bool)]).all():
        return None
    # The square root of JS is a metric; MMD² is a squared distance: both embed better after the root.
    rooted = measure.startswith(("js", "mmd2", "discrepancy"))
    distances = np.clip(distances, 0.0, None)
    if rooted:
        distances = np.sqrt(distances)
    np.fill_diagonal(distances, 0.0)
    # A round costs k²; with many domains the picture is rough anyway, and its stress says so.
    points, stress = smacof(distances, rounds=min(400, 40_000 // len(present)))
    edges: list[list[float]] = []
    together = leading(relations, "similarity")
    for name in ("synergy_centred", "synergy"):
        if name in relations.names:
            together = name
    if together is not None:
        strength = frame.expand(relations.matrix(together), relations.domains)
        if strength is not None:
            edges = _edges(strength, present)
    info = relations.info(measure)
    return {
        "measure": info.title,
        "rooted": rooted,
        "synergy": relations.info(together).title if together else None,
        "points": [[int(at), float(x), float(y)] for at, (x, y) in zip(present, points, strict=True)],
        "edges": edges,
        "stress": stress,
        "fidelity": "good" if stress < 0.1 else "fair" if stress < 0.2 else "rough",
        "stress_text": f"{stress:.2f}",
    }


def _edges(strength: NDArray[np.float64], present: list[int]) -> list[list[float]]:
    """The two strongest partners of every domain: [from, to, strength in 0..1 of the edges drawn]."""
    chosen: dict[tuple[int, int], float] = {}
    at = np.array(present)
    for i in present:
        row = np.where(at == i, np.nan, strength[i, at])
        ranked = np.argsort(np.where(np.isfinite(row), -row, np.inf), kind="stable")[:2]
        for place in ranked[np.isfinite(row[ranked])]:
            j = int(at[place])
            chosen[(min(i, j), max(i, j))] = float(row[place])
    if not chosen:
        return []
    low, high = min(chosen.values()), max(chosen.values())
    span = (high - low) or 1.0
    return [[i, j, (value - low) / span, value] for (i, j), value in sorted(chosen.items())]


def smacof(distances: NDArray[np.float64], rounds: int = 400) -> tuple[NDArray[np.float64], float]:
    """Two-dimensional metric scaling by majorisation, from the classical solution; no randomness.

    Parameters
    ----------
    distances : ndarray of shape (k, k)
        Symmetric, not negative, zero diagonal.

    Returns
    -------
    points : ndarray of shape (k, 2)
        Centred, turned so that the widest direction is horizontal.
    stress : float
        Kruskal's stress-1: below 0.1 the picture can be trusted, above 0.2 only roughly.

    References
    ----------
    Borg and Groenen, Modern Multidimensional Scaling, 2005, chapters 8 and 12.
    """
    k = len(distances)
    centre = np.eye(k) - 1.0 / k
    values, vectors = np.linalg.eigh(-0.5 * centre @ (distances**2) @ centre)
    points = vectors[:, [-1, -2]] * np.sqrt(np.clip(values[[-1, -2]], 1e-12, None))
    previous = np.inf
    for _ in range(rounds):
        seen = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
        stress = float(((seen - distances) ** 2).sum())
        if previous - stress <= 1e-9 * max(previous if np.isfinite(previous) else 1.0, 1e-300):
            break
        previous = stress
        ratio = np.divide(distances, seen, out=np.zeros_like(seen), where=seen > 1e-12)
        guttman = -ratio
        guttman[np.diag_indices(k)] = ratio.sum(axis=1)
        points = guttman @ points / k
    points = points - points.mean(axis=0)
    _, axes = np.linalg.eigh(points.T @ points)
    points = points @ axes[:, ::-1]
    # Eigenvectors come with either sign: the first domain goes to the left and up, on every machine.
    points = points * np.where(points[np.abs(points).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    seen = np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
    total = float((distances**2).sum())
    return points, float(np.sqrt(((seen - distances) ** 2).sum() / total)) if total else 0.0
