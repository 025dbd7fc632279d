"""Instances for the partition benchmarks: the public ones at hand and generators of planning-like and random ones."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Instance:
    """One instance: what `kinfold.partition.solve` takes, and the best value known."""

    name: str
    gain: np.ndarray
    arguments: dict[str, Any] = field(default_factory=dict)
    best_known: float | None = None
    proven: bool = False


def read_ccp(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """n, clusters, 'ds', bounds per cluster, 'W', node weights, then i j w lines."""
    words = path.read_text().split()
    n, m = int(words[0]), int(words[1])
    limits = np.array(words[3 : 3 + 2 * m], dtype=float)
    at = 3 + 2 * m + 1
    sizes = np.array(words[at : at + n], dtype=float)
    edges = np.array(words[at + n :], dtype=float).reshape(-1, 3)
    gain = np.zeros((n, n))
    i, j = edges[:, 0].astype(int), edges[:, 1].astype(int)
    gain[i, j] = gain[j, i] = edges[:, 2]
    return gain, {"sizes": sizes, "minimum": limits[::2].tolist(), "budget": limits[1::2].tolist(), "stages": m}


def read_triangle(path: Path) -> np.ndarray:
    """n, then the upper triangle row by row."""
    words = path.read_text().split()
    n = int(words[0])
    gain = np.zeros((n, n))
    gain[np.triu_indices(n, 1)] = np.array(words[1:], dtype=float)
    return gain + gain.T


def least_of_modularity(gain: np.ndarray, printed: str) -> float:
    """The least sum of weights w_ij = 2m a_ij − d_i d_j whose modularity rounds to the printed value.

    A row sums to d_i², since a_ii = 0; modularity is (2 Σ w − Σ d²) / (2m)².
    """
    degrees = np.sqrt(gain.sum(axis=1))
    half = 0.5 * 10.0 ** -len(printed.split(".")[1])
    return float(np.ceil(((float(printed) - half) * degrees.sum() ** 2 + (degrees**2).sum()) / 2))


def public(folder: Path) -> list[Instance]:
    """Every instance of best_known.csv, without its suffix; modularity values turned into sums of weights."""
    out = []
    with (folder / "best_known.csv").open() as stream:
        for row in csv.DictReader(stream):
            path = folder / row["instance"]
            if row["instance"].startswith("ccp/"):
                gain, arguments = read_ccp(path)
                out.append(
                    Instance(row["instance"].removesuffix(".txt"), gain, arguments, float(row["best_known"]), False)
                )
                continue
            gain = read_triangle(path)
            if row["best_known"].startswith("modularity"):
                best = least_of_modularity(gain, row["best_known"].split()[1])
                out.append(Instance(row["instance"].removesuffix(".txt"), gain, {}, best, True))
            else:
                out.append(
                    Instance(
                        row["instance"].removesuffix(".txt"),
                        gain,
                        {},
                        float(row["best_known"]),
                        row["status"] == "proven",
                    )
                )
    return out


def ranks(matrix: np.ndarray) -> np.ndarray:
    """Pairs by rank in 0..1."""
    rows, columns = np.triu_indices(len(matrix), 1)
    order = matrix[rows, columns].argsort().argsort() / max(1, len(rows) - 1)
    out = np.zeros_like(matrix)
    out[rows, columns] = out[columns, rows] = order
    return out


def planning(k: int, seed: int, *, group: int = 7, slack: float = 1.25) -> Instance:
    """Domains as noisy points around centres; gain = rank of cosine − rank of a bounded distance; token budget."""
    rng = np.random.default_rng([k, seed])
    groups = max(2, round(k / group))
    centres = rng.normal(size=(groups, 8))
    points = centres[rng.integers(0, groups, k)] + 0.55 * rng.normal(size=(k, 8))
    square = ((points[:, None] - points[None]) ** 2).sum(-1)
    distance = 1 - np.exp(-square / np.median(square))
    norm = np.sqrt((points**2).sum(1))
    cosine = points @ points.T / np.outer(norm, norm) + 0.1 * np.triu(rng.normal(size=(k, k)), 1)
    cosine = (np.triu(cosine, 1) + np.triu(cosine, 1).T) + np.eye(k)
    gain = ranks(cosine) - ranks(distance)
    sizes = np.round(np.exp(rng.normal(0, 0.5, k)) * 1000)
    budget = max(sizes.max(), np.round(slack * sizes.sum() / groups))
    return Instance(f"planning-{k}-{seed}", gain, {"sizes": sizes, "budget": float(budget)})


def random_weights(k: int, seed: int, *, group: int = 6) -> Instance:
    """Whole gains drawn from −100..100, sizes 1..10, a budget of about `group` domains a stage."""
    rng = np.random.default_rng([k, seed, 7])
    upper = np.triu(rng.integers(-100, 101, (k, k)), 1).astype(float)
    sizes = rng.integers(1, 11, k).astype(float)
    budget = float(max(sizes.max(), np.ceil(1.1 * sizes.mean() * group)))
    return Instance(f"random-{k}-{seed}", upper + upper.T, {"sizes": sizes, "budget": budget})
