"""Tables of the terminal: what they say, and that they fit eighty columns."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from kinfold.app.tables import (
    accuracy_table,
    answers_table,
    explain_table,
    export_table,
    features_line,
    solvers_table,
    validation_table,
)
from rich.console import Console


def lines(table: Any) -> list[str]:
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def test_validation_shows_chance_and_what_a_measure_beats() -> None:
    measures = {
        "js_plugin": {"rho": -0.8, "low": -0.9, "high": 0.2, "p": 1.0, "better": []},
        "js": {"rho": 0.71, "low": 0.4, "high": 0.9, "p": 0.0021, "better": ["js_plugin", "mmd2"]},
        "mmd2": {"rho": 0.1, "low": None, "high": None},
    }
    header, *rows = lines(validation_table(SimpleNamespace(validation={"measures": measures})))
    assert header.split() == ["measure", "rank", "corr.", "95", "%", "interval", "p", "better", "than"]
    assert [row.split()[0] for row in rows] == ["js", "mmd2", "js_plugin"]  # a wrong sign is no merit
    assert rows[0].split() == ["js", "0.71", "0.40", "to", "0.90", "0.0021", "js_plugin,", "mmd2"]
    assert rows[1].split() == ["mmd2", "0.10", "-", "-", "-"]  # relations written before these were kept
    assert rows[2].split()[-2:] == ["1.00", "-"]
    assert max(map(len, rows)) <= 80


def test_solvers_show_what_they_fall_short_of_and_who_was_repaired() -> None:
    rows = (
        {"name": "kinfold", "objective": 9.0, "gap": 0.0, "seconds": 0.2, "stages": 4, "repaired": False},
        {"name": "all_in_one", "objective": 4.5, "gap": 0.5, "seconds": 0.2, "stages": 4, "repaired": True},
        {"name": "leiden", "objective": None, "gap": None, "seconds": 0.2, "stages": 0, "repaired": False},
    )
    header, first, second, third = lines(solvers_table(SimpleNamespace(solvers=rows, objective=9.0)))
    assert header.split() == ["solver", "objective", "falls", "short", "stages", "time"]
    assert first.split() == ["kinfold", "9.000", "0", "4", "0.2", "s"]
    assert second.split() == ["all", "in", "one", "4.500", "4.500", "4", "0.2", "s", "repaired"]
    assert third.split()[:3] == ["leiden", "no", "plan"]


def test_an_export_of_long_names_is_one_line_a_domain() -> None:
    names = ("a" * 120, "law")
    export = SimpleNamespace(
        paths={name: f"exported/adapters/{name}" for name in names},
        ranks={"law": 24, names[0]: 0},
        stages=dict.fromkeys(names, 2),
        errors=dict.fromkeys(names, 0.0),
        logits=dict.fromkeys(names, 5e-7),
    )
    header, long, law = lines(export_table(export))
    assert header.split() == ["domain", "rank", "backbone", "update", "error", "logits"]
    assert max(map(len, (header, long, law))) <= 80
    assert long.split()[1] == "-"  # merged weights have no rank
    assert law.split() == ["law", "24", "stage", "2", "0", "5.0e-07"]


def test_a_gain_of_nothing_has_no_sign() -> None:
    why = {"stage": 0, "gain": -1e-12, "best_other": None, "best_other_gain": -0.0, "margin": -0.0004, "binding": []}
    plan = SimpleNamespace(stages=(("law",),), explain={"law": why})
    _, row = lines(explain_table(plan))
    assert row.split() == ["law", "1", "0.000", "alone:", "0.000", "0.000"]


def test_what_was_classified_and_what_was_answered_is_shown() -> None:
    judged = {"exact_match": 0.1, "token_f1": 0.25, "rouge_l": 0.5, "answers": 8}
    change = {"final": {"accuracy": 0.05, "accuracy_low": 0.01, "accuracy_high": 0.09}}
    evaluation = {
        "domains": ["law", "news"],
        "before": {"law": {"accuracy": 0.75, "f1": 0.7}, "news": {**judged, "exact_match": 0.0}},
        "final": {"law": {"accuracy": 0.8, "f1": 0.789}, "news": judged},
        "change": {"law": change},
        "h_score": {"before": 0.1234, "after": 0.5},
    }
    _, law = lines(accuracy_table({**evaluation, "domains": ["law"]}))
    assert law.split() == ["law", "75.0%", "80.0%", "+5.0", "+1.0", "to", "+9.0", "70.0%", "→", "78.9%"]
    header, news = lines(answers_table(evaluation))
    assert header.split()[:3] == ["answers", "prompts", "exact"]
    assert news.split() == ["news", "8", "0.0%", "→", "10.0%", "25.0%", "→", "25.0%", "50.0%", "→", "50.0%"]
    assert features_line(evaluation) == "H-score, how well features separate the labels: 0.123 before, 0.500 after"
    nothing = {"domains": ["law"], "final": {"law": {}}, "h_score": None}
    assert accuracy_table(nothing) is None
    assert answers_table(nothing) is None
    assert features_line(nothing) is None
