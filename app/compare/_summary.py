"""From the records of runs to the value of compare.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from ._statistics import paired_difference
from ._variants import DRAWN, TITLES, Variant, trained_units

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .settings import CompareSettings

__all__ = ["COMPARISON_VERSION", "summarise"]

COMPARISON_VERSION = 1


def summarise(
    done: Sequence[tuple[Variant, Mapping[str, Any]]],
    failed: Mapping[str, Sequence[str]],
    *,
    settings: CompareSettings,
    plan: Mapping[str, Any],
    made_of: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Everything that the comparison found, as JSON-able values.

    Parameters
    ----------
    done
        Each run and its record.
    failed
        Per method, why runs of it had to stop.
    plan
        The plan, as its own file has it.
    made_of
        Fingerprints and settings, kept as they are.
    """
    first = done[0][1]
    domains = sorted(first["final"])
    classes = first["task"] == "classification"
    metric = "accuracy" if classes else "loss"
    values: dict[str, dict[int, list[NDArray[np.float64]]]] = {}
    for variant, record in done:
        row = np.array([record[settings.serving][name][metric] for name in domains])
        values.setdefault(variant.method, {}).setdefault(variant.seed, []).append(row)
    # A method is paired over the seeds that all of its draws, and the plan, came through.
    whole = {
        method: [s for s in settings.seeds if len(by_seed.get(s, [])) == _draws(method, settings)]
        for method, by_seed in values.items()
    }
    rows = []
    for method in settings.methods:
        records = [record for variant, record in done if variant.method == method]
        seeds = [s for s in whole.get(method, []) if s in whole["plan"]]
        if not records or not seeds:
            rows.append(
                {"name": method, "title": _title(method), "runs": len(records), "failed": list(failed.get(method, ()))}
            )
            continue
        found = np.array([values[method][s] for s in seeds])
        reference = np.array([values["plan"][s][0] for s in seeds])
        # Positive: the plan is better, whichever way the metric points.
        sign = -1.0 if classes else 1.0
        difference = paired_difference(sign * found, sign * reference, draws=settings.bootstrap, seed=seed)
        rows.append(
            {
                "name": method,
                "title": _title(method),
                "stages": _distinct(variant.stages for variant, _ in done if variant.method == method),
                "runs": len(records),
                "records": [record["key"] for record in records],
                "failed": list(failed.get(method, ())),
                "seeds": seeds,
                "mean": float(found.mean()),
                "sd_over_seeds": float(found.mean(axis=(1, 2)).std(ddof=1)) if len(seeds) > 1 else None,
                "by_domain": {name: float(x) for name, x in zip(domains, found.mean(axis=(0, 1)), strict=True)},
                "worst": _worst(records, found, domains, metric, settings.serving),
                "plan_advantage": asdict(difference) if method != "plan" else None,
                "verdict": "reference" if method == "plan" else _verdict(difference.low, difference.high, len(seeds)),
                "other_serving": _other(records, domains, metric, settings.serving),
                "general": _general(records),
                "cost": _cost(records),
                "adapters": trained_units(*_one(done, method)),
                "rank": _one(done, method)[1].lora.rank,
                "values": [
                    {"seed": s, "draw": d, "by_domain": dict(zip(domains, map(float, row), strict=True))}
                    for s in seeds
                    for d, row in enumerate(values[method][s])
                ],
            }
        )
    _mark_twins(rows, done)
    return {
        "version": COMPARISON_VERSION,
        "task": first["task"],
        "split": first["split"],
        "metric": metric,
        "higher_is_better": classes,
        "serving": settings.serving,
        "domains": domains,
        "seeds": list(settings.seeds),
        "before": _before(done, domains, metric),
        "methods": rows,
        "plan": dict(plan),
        "settings": asdict(settings),
        "made_of": dict(made_of),
        "warnings": _warnings(rows, settings, domains),
        "environment": first["environment"],
    }


def _draws(method: str, settings: CompareSettings) -> int:
    return settings.draws if method in DRAWN else 1


def _one(done: Sequence[tuple[Variant, Mapping[str, Any]]], method: str) -> tuple[Any, Any]:
    variant = next(variant for variant, _ in done if variant.method == method)
    return variant.stages, variant.settings


def _title(method: str) -> str:
    return TITLES.get(method, method.replace("-", " ") + " on the same gains")


def _distinct(stages: Any) -> list[list[list[str]]]:
    return [[list(stage) for stage in one] for one in dict.fromkeys(stages)]


def _verdict(low: float | None, high: float | None, seeds: int) -> str:
    if low is None or high is None or seeds < 2:
        return "too few runs to say"
    return "plan better" if low > 0 else "plan worse" if high < 0 else "no difference shown"


def _worst(
    records: Sequence[Mapping[str, Any]], found: NDArray[np.float64], domains: Sequence[str], metric: str, serving: str
) -> dict[str, Any]:
    """The domain that came off worst: least accuracy, or least gain in loss over the base model."""
    if metric == "accuracy":
        score = found.mean(axis=(0, 1))
    else:
        score = np.array(
            [
                np.mean([record["before"][name][metric] - record[serving][name][metric] for record in records])
                for name in domains
            ]
        )
    at = int(score.argmin())
    return {
        "domain": domains[at],
        "value": float(score[at]),
        "of": "accuracy" if metric == "accuracy" else "gain over the base",
    }


def _other(records: Sequence[Mapping[str, Any]], domains: Sequence[str], metric: str, serving: str) -> dict[str, float]:
    """The same mean under the serving that is not judged."""
    name = "snapshot" if serving == "final" else "final"
    return {name: float(np.mean([[record[name][domain][metric] for domain in domains] for record in records]))}


def _general(records: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    found = [record["general"] for record in records if record["general"]]
    return {key: float(np.mean([one[key] for one in found])) for key in ("before", "after")} if found else None


def _cost(records: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Means over the runs; seconds are those of training steps, without loading and evaluation."""
    peaks = [record["peak_memory"] for record in records if record["peak_memory"]]
    return {
        "tokens": float(np.mean([record["tokens"] for record in records])),
        "steps": float(np.mean([record["steps"] for record in records])),
        "seconds": float(np.mean([record["train_seconds"] for record in records])),
        "wall_seconds": float(np.mean([record["wall_seconds"] for record in records])),
        "peak_memory": float(np.max(peaks)) if peaks else None,
        "parameters": float(np.mean([record["parameters"] for record in records])),
    }


def _before(done: Sequence[tuple[Variant, Mapping[str, Any]]], domains: Sequence[str], metric: str) -> dict[str, float]:
    return {name: float(np.mean([record["before"][name][metric] for _, record in done])) for name in domains}


def _mark_twins(rows: Sequence[dict[str, Any]], done: Sequence[tuple[Variant, Mapping[str, Any]]]) -> None:
    """Say which methods were the same runs as the plan's: their difference is 0 because nothing differs."""
    plan = {record["key"] for variant, record in done if variant.method == "plan"}
    for row in rows:
        own = {record["key"] for variant, record in done if variant.method == row["name"]}
        if row["name"] != "plan" and own:
            row["same_runs_as_plan"] = len(own & plan)
            if own == plan:
                row["verdict"] = "same as the plan"


def _warnings(rows: Sequence[Mapping[str, Any]], settings: CompareSettings, domains: Sequence[str]) -> list[str]:
    found = []
    if len(settings.seeds) < 3:
        found.append(
            f"Only {len(settings.seeds)} seed{'s' if len(settings.seeds) > 1 else ''}: the intervals say little about "
            "other seeds; three or more are usual."
        )
    if len(domains) < 5:
        found.append(f"Only {len(domains)} domains: the intervals say little about other domains.")
    for row in rows:
        if row["failed"]:
            found.append(f"{row['name']}: {len(row['failed'])} run(s) had to stop; the first: {row['failed'][0]}")
        if row.get("verdict") == "same as the plan":
            found.append(f"{row['name']}: came to the same stages as the plan, so there is nothing to compare.")
    costs = [row["cost"]["tokens"] for row in rows if "cost" in row]
    if costs and max(costs) > 1.02 * min(costs):
        found.append(
            f"Tokens differ by {max(costs) / min(costs) - 1:.1%} between methods, since documents are never cut at the "
            "end of a step; a larger train.batch_tokens or a smaller train.max_length brings them together."
        )
    return found
