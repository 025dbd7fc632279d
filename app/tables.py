"""Tables for the terminal that the report does not share: solvers side by side, reasons per domain, a dry run.

They fit 80 columns, and show every name as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .progress import clean, human_time

__all__ = [
    "ANSWERS",
    "accuracy_table",
    "agreement_table",
    "answers_table",
    "dry_run_views",
    "explain_table",
    "export_table",
    "features_line",
    "human_bytes",
    "solvers_table",
    "validation_line",
    "validation_table",
]


def human_bytes(number: float) -> str:
    """Bytes in binary units.

    >>> human_bytes(512), human_bytes(3 * 2**30)
    ('512 B', '3.0 GiB')
    """
    for size, letter in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if abs(number) >= size:
            return f"{number / size:.1f} {letter}"
    return f"{int(number)} B"


def _table(*columns: tuple[str, str]) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in columns:
        wide = justify == "left"
        table.add_column(name, justify=justify, no_wrap=not wide, overflow="fold" if wide else "ellipsis")  # type: ignore[arg-type]
    return table


def _name(name: str) -> Any:
    """A domain's name as text, its middle left out where it is long."""
    from rich.text import Text

    from ..metrics._plots import short

    return Text(short(clean(name), 24))


def _number(value: Any, digits: int = 3) -> str:
    # Adding 0 after rounding takes the sign from a zero.
    return "-" if value is None else f"{round(float(value), digits) + 0.0:.{digits}f}"


def solvers_table(plan: Any) -> Any:
    """Every solver's objective, the best first, what it falls short of the plan's, and whose groups were repaired.

    Short in units of the objective, as in the report: a share means nothing where an objective may be 0.
    """
    from rich.text import Text

    table = _table(
        ("solver", "left"),
        ("objective", "right"),
        ("falls short", "right"),
        ("stages", "right"),
        ("time", "right"),
        ("", "left"),
    )
    rows = [row for row in plan.solvers if row.get("objective") is not None]
    for row in sorted(rows, key=lambda row: -float(row["objective"])):
        short = None if plan.objective is None else float(plan.objective) - float(row["objective"])
        stages = row.get("stages")
        count = len(stages) if isinstance(stages, (list, tuple)) else stages
        seconds = row.get("seconds")
        table.add_row(
            _solver(row),
            _number(row["objective"]),
            "-" if short is None else _number(short) if abs(short) > 1e-9 else "0",
            "-" if count is None else str(count),
            "-" if seconds is None else human_time(float(seconds)),
            Text("repaired" if row.get("repaired") else "", style="dim"),
        )
    failed = [row for row in plan.solvers if row.get("objective") is None]
    for row in failed:
        table.add_row(_solver(row, "dim"), "no plan", "-", "-", "-", "")
    return table


def _solver(row: Mapping[str, Any], style: str = "") -> Any:
    from rich.text import Text

    return Text(clean(str(row["name"])).replace("_", " "), style=style)


def explain_table(plan: Any) -> Any:
    """For each domain its stage, what it gains there, and what its best other stage would give."""
    from rich.text import Text

    table = _table(
        ("domain", "left"),
        ("stage", "right"),
        ("gain", "right"),
        ("best other", "right"),
        ("margin", "right"),
        ("why", "left"),
    )
    for stage in plan.stages:
        for name in stage:
            why = plan.explain.get(name, {})
            other = "alone" if why.get("best_other") is None else _stage(why["best_other"])
            gain = _number(why.get("best_other_gain"))
            binding = why.get("binding")
            reason = ", ".join(map(str, binding)) if isinstance(binding, (list, tuple)) else str(binding or "")
            table.add_row(
                _name(name),
                _stage(why.get("stage")),
                _number(why.get("gain")),
                f"{other}: {gain}" if why else "-",
                _number(why.get("margin")),
                Text(clean(reason)),
            )
    return table


def _stage(value: Any) -> str:
    return "-" if value is None else f"{int(value) + 1}" if isinstance(value, int) else clean(str(value))


def accuracy_table(evaluation: Mapping[str, Any]) -> Any | None:
    """Accuracy and macro-F1 per domain before and after; None where nothing was classified.

    The change of the accuracy has a paired interval.
    """
    if not any("accuracy" in row for row in evaluation["final"].values()):
        return None
    with_f1 = any("f1" in row for row in evaluation["final"].values())
    table = _table(
        ("accuracy", "left"),
        ("before", "right"),
        ("after", "right"),
        ("change", "right"),
        ("95 % interval", "right"),
        *((("macro-F1", "right"),) if with_f1 else ()),
    )
    for name in evaluation["domains"]:
        before, final, change = (evaluation[key][name] for key in ("before", "final", "change"))
        change = change["final"]
        low, high = change.get("accuracy_low"), change.get("accuracy_high")
        table.add_row(
            _name(name),
            f"{before['accuracy']:.1%}",
            f"{final['accuracy']:.1%}",
            f"{100 * change['accuracy']:+.1f}",
            "-" if low is None or high is None else f"{100 * low:+.1f} to {100 * high:+.1f}",
            *((_before_after(before, final, "f1"),) if with_f1 else ()),
        )
    return table


def answers_table(evaluation: Mapping[str, Any]) -> Any | None:
    """Freely generated answers judged against the references, before and after; None where none were generated."""
    rows = [name for name in evaluation["domains"] if evaluation["final"].get(name, {}).get("answers")]
    if not rows:
        return None
    table = _table(("answers", "left"), ("prompts", "right"), *((title, "right") for title in ANSWERS.values()))
    for name in rows:
        before, final = evaluation["before"][name], evaluation["final"][name]
        table.add_row(_name(name), str(final["answers"]), *(_before_after(before, final, key) for key in ANSWERS))
    return table


ANSWERS = {"exact_match": "exact match", "token_f1": "token F1", "rouge_l": "ROUGE-L"}


def _before_after(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> str:
    pair = (before.get(key), after.get(key))
    return " → ".join("-" if value is None else f"{float(value):.1%}" for value in pair)


def features_line(evaluation: Mapping[str, Any]) -> str | None:
    """The H-score before and after in one sentence; None where nothing was classified."""
    found = evaluation.get("h_score")
    if not found:
        return None
    before, after = float(found["before"]), float(found["after"])
    return f"H-score, how well features separate the labels: {before:.3f} before, {after:.3f} after"


def validation_line(relations: Any) -> str:
    """What was trained to measure transfer, and on how many of the domains."""
    found = relations.validation
    return (
        f"Transfer measured by training: {found['kind']}, {len(found['domains'])} of {len(relations.domains)} domains, "
        f"in {found['unit']}"
    )


def validation_table(relations: Any) -> Any:
    """How well each measure ranked the transfer measured by short trainings, the best first."""
    from rich.text import Text

    table = _table(
        ("measure", "left"),
        ("rank corr.", "right"),
        ("95 % interval", "right"),
        ("p", "right"),
        ("better than", "left"),
    )
    found = relations.validation["measures"]
    for name, row in sorted(found.items(), key=lambda item: -float(item[1]["rho"] or 0.0)):
        low, high, chance = row.get("low"), row.get("high"), row.get("p")
        table.add_row(
            Text(clean(name)),
            _number(row["rho"], 2),
            "-" if low is None or high is None else f"{float(low):.2f} to {float(high):.2f}",
            "-" if chance is None else f"{float(chance):.2g}" if chance < 0.1 else f"{float(chance):.2f}",
            Text(clean(", ".join(map(str, row.get("better") or ())) or "-")),
        )
    return table


def agreement_table(relations: Any) -> Any:
    """Measures of the task with the agreement of their two halves; those that disagree with themselves are flagged."""
    from rich.text import Text

    table = _table(("affinity measure", "left"), ("halves agree", "right"), ("usable", "left"))
    for name, row in sorted(relations.agreement.items()):
        verdict = Text("yes") if row["usable"] else Text("no", style="red")
        table.add_row(Text(clean(name)), _number(row["split_half"], 2), verdict)
    return table


def dry_run_views(dry: Any) -> list[Any]:
    """What a training would do: stages, tokens, steps, time, memory and a few samples as the model will see them."""
    from rich.console import Group
    from rich.text import Text

    table = _table(
        ("stage", "right"),
        ("domains", "left"),
        ("tokens", "right"),
        ("steps", "right"),
        ("time", "right"),
        ("memory", "right"),
    )
    for number, stage in enumerate(dry.stages, 1):
        table.add_row(
            str(number),
            Text(clean(", ".join(stage["domains"]))),
            f"{stage['tokens']:,}",
            f"{stage['steps']:,}",
            human_time(float(stage["seconds"])),
            human_bytes(float(stage["memory"])),
        )
    parts = ", ".join(
        f"{name} {human_bytes(dry.memory[name])}"
        for name in ("weights", "adapters", "frozen", "activations")
        if dry.memory.get(name)
    )
    total = human_bytes(dry.memory["total"])
    views: list[Any] = [
        f"{clean(dry.model)}: {dry.task}, layout {dry.layout}",
        table,
        f"{dry.tokens:,} tokens, {dry.steps:,} steps, about {human_time(dry.seconds)} and evaluation on top",
        f"memory at the peak: {total}",
        f"  {parts}",
    ]
    if dry.samples:
        views += ["", Text.assemble("Samples; what is ", ("paid for", "underline"), " stands in ⟦ ⟧:")]
        views.append(Group(*(_sample(sample) for sample in dry.samples)))  # wrapped in files as well, like a table
    return views


def _sample(sample: Any) -> Any:
    """One document's beginning; runs of tokens that are targets are bracketed, so that it reads without colour."""
    from rich.text import Text

    text = Text(f"{clean(sample.domain)} ({sample.kind})  ", style="bold", end="\n")
    inside = False
    for piece, paid in zip(sample.shown, sample.paid, strict=True):
        if paid != inside:
            text.append("⟦" if paid else "⟧", style="dim")
            inside = paid
        text.append(clean(piece), style="underline" if paid else "not bold")
    if inside:
        text.append("⟧", style="dim")
    return text


def export_table(export: Any) -> Any:
    """Exported domains with rank, backbone, the error of the update and the distance of the logits from the run's."""
    table = _table(
        ("domain", "left"),
        ("rank", "right"),
        ("backbone", "right"),
        ("update error", "right"),
        ("logits", "right"),
    )
    for name in sorted(export.paths):
        table.add_row(
            _name(name),
            str(export.ranks.get(name) or "-"),  # merged weights have none
            f"stage {export.stages[name]}",
            _small(export.errors.get(name)),
            _small(export.logits.get(name)),
        )
    return table


def _small(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}" if value else "0"
