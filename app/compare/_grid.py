"""Sensitivity to the weights of the two extra losses, and what is kept of a robustness condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ._variants import Variant

if TYPE_CHECKING:
    from ...partition import Plan
    from ...stages import TrainSettings
    from ._queue import Job
    from .settings import CompareSettings

__all__ = ["grid_summary", "grid_variants", "shortened"]


def _axes(settings: CompareSettings, train: TrainSettings) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The weights along both axes; an axis that was not asked for has the one weight of the training settings."""
    return settings.grid_ssl or (train.ssl_weight,), settings.grid_align or (train.align_weight,)


def grid_variants(plan: Plan, *, settings: CompareSettings, train: TrainSettings) -> list[Variant]:
    """The plan's runs on every square of the grid; none where no grid was asked for."""
    if not (settings.grid_ssl or settings.grid_align):
        return []
    stages = tuple(tuple(sorted(stage)) for stage in plan.stages)
    ssl, align = _axes(settings, train)
    return [
        Variant(f"ssl {x:g}, align {y:g}", 0, seed, stages, replace(train, ssl_weight=x, align_weight=y))
        for x in ssl
        for y in align
        for seed in settings.seeds
    ]


def grid_summary(
    jobs: Sequence[Job], records: Mapping[str, Mapping[str, Any]], settings: CompareSettings
) -> dict[str, Any]:
    """Mean and spread over seeds of the judged metric on every square; None where all runs of a square stopped."""
    ssl = sorted({job.variant.settings.ssl_weight for job in jobs})
    align = sorted({job.variant.settings.align_weight for job in jobs})
    found: dict[tuple[float, float], list[float]] = {}
    names: dict[tuple[float, float], list[str]] = {}
    for job in jobs:
        record = records.get(job.key)
        if record is not None:
            names.setdefault((job.variant.settings.ssl_weight, job.variant.settings.align_weight), []).append(job.key)
            metric = "accuracy" if record["task"] == "classification" else "loss"
            mean = float(np.mean([row[metric] for row in record[settings.serving].values()]))
            found.setdefault((job.variant.settings.ssl_weight, job.variant.settings.align_weight), []).append(mean)

    def table(measure: Any) -> list[list[float | None]]:
        return [[measure(found[x, y]) if (x, y) in found else None for y in align] for x in ssl]

    return {
        "ssl_weight": ssl,
        "align_weight": align,
        "mean": table(lambda values: float(np.mean(values))),
        "sd_over_seeds": table(lambda values: float(np.std(values, ddof=1)) if len(values) > 1 else None),
        "runs": table(len),
        "records": [[names.get((x, y), []) for y in align] for x in ssl],
    }


def shortened(value: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a summary that a condition keeps; its runs are in the records."""
    kept = ("name", "runs", "mean", "sd_over_seeds", "plan_advantage", "verdict", "failed", "seeds", "records")
    return {
        "methods": [{key: row[key] for key in kept if key in row} for row in value["methods"]],
        "warnings": value["warnings"],
    }
