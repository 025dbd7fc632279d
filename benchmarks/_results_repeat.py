"""The end of docs/results.md: how to repeat it, what each table cost, and one set made again from nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import _results_data
from _results_data import records, stored
from _results_words import RIVALS, SETS, interval, table
from results_repeat import compared

_HOURS = 2.0
"""What the whole page may cost, on two cores."""


def _minutes(cpu: float) -> str:
    return f"{cpu / 120:,.1f}"


def _script(study: str) -> str:
    kind, _, of = study.partition("-")
    if study == "when":
        return "results_when.py` and `benchmarks/results_lattice.py"
    if kind in ("transfer", "schedule", "partitions"):
        return f"results_{kind}.py {of}"
    if kind == "presets":
        return f"results_presets.py --parts {'labels' if of else 'ablate,grid,robust'}"
    return f"results_sets.py {study}"


def _repeated() -> dict[str, tuple[Mapping[str, Any], dict[str, Any]]]:
    """Sets that were made again, and how far they came from what is stored."""
    out = {}
    for name in SETS:
        again, value = stored("repeat", name), stored(name, "compare")
        if again is not None and value is not None:
            out[name] = again, compared(value, again["again"])
    return out


def _total() -> float:
    """CPU-seconds of every record."""
    found = 0.0
    for study in sorted(path.name for path in _results_data.STORE.iterdir() if path.is_dir()):
        found += sum(record.get("cpu_seconds", 0.0) for record in records(study).values())
        one = stored(study, "transfer")
        found += one["cpu_seconds"] if one is not None else 0.0
    return found


def _verdicts(found: Mapping[str, Any]) -> tuple[int, int]:
    """Rivals whose verdict came again, and rivals that have one."""
    told = [one["verdict"] for one in found["methods"].values() if one["verdict"][0].startswith(("plan ", "no "))]
    return sum(one == other for one, other in told), len(told)


def repeat_line() -> list[str]:
    """The cost in short."""
    total = _total()
    if not total:
        return []
    verdict = "within" if total <= _HOURS * 7200 else "beyond"
    line = (
        f"**Cost**: {total:,.0f} CPU-seconds of training, {total / 120:.0f} minutes of two cores, {verdict} two hours"
    )
    for name, (_, found) in _repeated().items():
        same, count = _verdicts(found)
        line += (
            f"; {name} made again from nothing by its one command came to the same verdict on {same} of {count} rivals"
        )
    return [line + "."]


def _same_machine(again: Mapping[str, Any], value: Mapping[str, Any]) -> str:
    """Whether processor and libraries were the same, which the differences depend on."""
    one, other = (some["made"]["machine"] for some in (again, value))
    same = one["cpu"] == other["cpu"] and one["versions"] == other["versions"]
    return "on the same kind of processor with the same libraries, " if same else "on another processor or libraries, "


def _commits(name: str) -> str:
    """Which versions made the stored runs of a set."""
    found = sorted({record["made"]["commit"].removesuffix("+changes") for record in records(name).values()})
    return f"made at {'commit' if len(found) == 1 else 'commits'} {', '.join(found)}"


def _repeat_part() -> list[str]:
    """One set from raw data, in empty folders."""
    parts = []
    for name, (again, found) in _repeated().items():
        rows = []
        for method, one in found["methods"].items():
            leads = [_lead(gain) for gain in one["lead"]]
            rows.append(
                [
                    "the plan" if method == "plan" else RIVALS.get(method, method),
                    *(f"{mean:.4f}" for mean in one["mean"]),
                    *leads,
                    "same" if one["stages"] else "other",
                ]
            )
        rest = again["cpu_seconds"] - again["training_cpu_seconds"]
        parts += [
            f"**{name} again from nothing** (`benchmarks/results_repeat.py {name}`: `{again['command']}` in empty "
            f"folders, at commit {again['made']['commit']}): {again['trained']} runs, {again['cpu_seconds']:,.0f} "
            f"CPU-seconds in all, {_minutes(again['cpu_seconds'])} minutes of two cores; {rest:,.0f} of them are "
            "texts, base model, measuring and planning, which the table above does not count. Beside the stored runs, "
            f"{_same_machine(again, stored(name, 'compare'))}{_commits(name)}, a domain's value "
            f"in one run differs by {found['mean']:.1e} on average and by {found['largest']:.1e} at most "
            f"({found['runs']} runs).",
            table(["method", "mean, stored", "mean, again", "lead, stored", "lead, again", "stages"], rows),
        ]
    return parts


def _lead(gain: Mapping[str, Any] | None) -> str:
    if not gain or gain["low"] is None:
        return "–"
    return interval(_results_data.Lead(gain["mean"], gain["low"], gain["high"]))


def _parallel() -> str:
    """What several processes bring, where that was run."""
    value = stored("parallel", "parallel")
    if value is None:
        return ""
    one, two = value["seconds"]["1"], value["seconds"]["2"]
    return (
        f" `--jobs` of `kinfold compare` trains several runs at a time: {value['runs']} runs took {one:.0f} s one "
        f"after the other and {two:.0f} s two at a time on {value['cores']} cores (`benchmarks/results_parallel.py`); "
        f"the largest difference in any domain's loss was {value['largest_difference']:.1e}."
    )


def costs() -> str:
    """How to repeat it, and what it cost."""
    rows, machine, changed = [], None, set()
    for study in sorted(path.name for path in _results_data.STORE.iterdir() if path.is_dir()):
        held = records(study)
        cpu = sum(record.get("cpu_seconds", 0.0) for record in held.values())
        made = [record["made"] for record in held.values()]
        one = stored(study, "transfer")
        if one is not None:
            cpu, made = one["cpu_seconds"], [one["made"]]
        if not made:
            continue
        commits = sorted({entry["commit"].removesuffix("+changes") for entry in made})
        changed |= {name for entry in made for name in entry.get("changed", ())}
        rows.append(
            [
                f"`benchmarks/{_script(study)}`",
                str(len(held) or "–"),
                f"{cpu:,.0f}",
                _minutes(cpu),
                ", ".join(commits),
            ]
        )
        machine = made[-1]["machine"]
    if machine is None:
        return ""
    total = _total()
    text = (
        "`python benchmarks/results.py --run` makes every run that has no record, two studies at a time, and writes "
        "this page; each command below makes one table and goes on where it stopped. A run is found again by its "
        "texts, base model, stages, settings and seed, not by the code that made it; the record says which commit and "
        "versions did. CPU-seconds are those of training, one thread a process; minutes are those of two such "
        f"processes on two cores. {machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, torch "
        f"{machine['versions']['torch']}. In all {total:,.0f} CPU-seconds: {total / 120:.0f} minutes of two cores, "
        f"{'within' if total <= _HOURS * 7200 else 'beyond'} the two hours that a page like this may cost."
    )
    text += _parallel()
    if changed:
        text += f" Beyond the commit named, some runs were made with changes in {', '.join(sorted(changed))}."
    rows.append(["**in all**", "", f"{total:,.0f}", _minutes(total), ""])
    head = ["command", "runs", "CPU-seconds", "minutes of two cores", "commit of the package"]
    return "\n\n".join(["## Repeat it", text, table(head, rows), *_repeat_part()])
