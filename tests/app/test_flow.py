"""The whole flow through the command line and through Python, on toy corpora and a tiny model built in code."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import kinfold
import pytest
from kinfold.app._given import given_plan
from kinfold.app.cli import app
from kinfold.app.config import resolve
from kinfold.app.tables import accuracy_table, dry_run_views, explain_table, solvers_table
from kinfold.errors import ConfigError, InputTypeError, RunError, TrainingError
from kinfold.metrics import Relations
from kinfold.partition import Plan
from kinfold.stages import DryRun
from kinfold.stages.dry import Sample
from typer.testing import CliRunner

NAMES = ("engine", "garden", "harbour", "kitchen")
QUICK = ("--bootstrap", "5", "--permutations", "9")


def run(*words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"})
    assert result.exit_code == code, result.output
    return result


def answer(*words: str) -> dict[str, Any]:
    return json.loads(run(*words, "--json").stdout)


@pytest.fixture(scope="module")
def flow(tmp_path_factory: pytest.TempPathFactory, toy_corpora: Path, tiny_llama_dir: Path) -> Path:
    """A folder in which `measure`, `plan` and `train` were run, one after the other."""
    folder = tmp_path_factory.mktemp("flow")
    relations, plan, config = (str(folder / name) for name in ("relations", "plan.json", "kinfold.yaml"))
    run("measure", str(toy_corpora), "--model", str(tiny_llama_dir), "-o", relations, *QUICK)
    run("plan", relations, "--stages", "2", "-o", plan, "--set", "plan.bootstrap=5")
    train = {"batch_tokens": 1024, "lr": 0.003}
    Path(config).write_text(json.dumps({"corpora": str(toy_corpora), "model": str(tiny_llama_dir), "train": train}))
    run("train", plan, "-c", config, "-o", str(folder / "run"), "--seed", "3")
    return folder


def test_what_each_step_leaves(flow: Path) -> None:
    assert {path.name for path in (flow / "relations").iterdir()} == {"relations.npz", "relations.json"}
    found = {path.name for path in (flow / "run").iterdir()}
    assert found >= {
        "config.yaml", "plan.json", "relations.npz", "relations.json", "adapters", "stages", "metrics.jsonl",
        "evaluation.json", "environment.json", "README.md", "run.json",
    }  # fmt: skip
    assert {path.name for path in (flow / "run" / "adapters").iterdir()} == set(NAMES)
    assert not list(flow.rglob(".*")), "temporary files were left"


def test_the_run_keeps_the_configuration_that_made_it(flow: Path, toy_corpora: Path) -> None:
    config = resolve(flow / "run" / "config.yaml").config
    assert config.seed == 3
    assert config.train.lr == 0.003
    assert config.corpora.path == str(toy_corpora)


def test_relations_are_found_beside_the_plan_and_kept(flow: Path) -> None:
    kept = Relations.load(flow / "run")
    assert kept.digest == Plan.load(flow / "plan.json").fingerprints["relations"]


def test_evaluate_reads_the_corpora_of_the_run(flow: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    got = answer("evaluate", str(flow / "run"), "--split", "validation")
    assert got["evaluation"]["split"] == "validation"
    assert set(got["evaluation"]["final"]) == set(NAMES)
    back = answer("evaluate", str(flow / "run"))
    assert back["evaluation"]["split"] == "test"


def test_report_of_a_run_and_of_relations(flow: Path, tmp_path: Path) -> None:
    page = answer("report", str(flow / "run"), "-o", str(tmp_path / "r.html"), "--figures", str(tmp_path / "figures"))
    assert Path(page["report"]).read_text(encoding="utf-8").startswith("<!")
    assert {Path(path).suffix for path in page["figures"]} == {".svg", ".png"}
    before = answer("report", str(flow / "relations"), "-o", str(tmp_path / "before.html"))
    assert Path(before["report"]).exists()


def test_training_again_needs_resume_and_changes_nothing(flow: Path) -> None:
    before = (flow / "run" / "metrics.jsonl").read_bytes()
    words = ("train", str(flow / "plan.json"), "-c", str(flow / "kinfold.yaml"), "-o", str(flow / "run"), "--seed", "3")
    assert "--resume" in run(*words, code=2).stderr
    got = answer(*words, "--resume")
    assert set(got["adapters"]) == set(NAMES)
    assert (flow / "run" / "metrics.jsonl").read_bytes() == before


def test_a_dry_run_writes_nothing_and_fits_80_columns(flow: Path, tmp_path: Path) -> None:
    out = tmp_path / "never"
    words = ("train", str(flow / "plan.json"), "-c", str(flow / "kinfold.yaml"), "-o", str(out), "--dry-run")
    shown = run(*words)
    assert "memory at the peak" in shown.stdout
    assert max(map(len, shown.stdout.splitlines()[1:])) <= 80  # the first line names the model's folder
    got = answer(*words)
    assert got["dry_run"]
    assert sorted(name for stage in got["stages"] for name in stage["domains"]) == sorted(NAMES)
    assert got["steps"] > 0
    assert got["samples"]
    assert not out.exists()


def test_export_gives_the_logits_back(flow: Path, tmp_path: Path) -> None:
    got = answer("export", str(flow / "run"), "-o", str(tmp_path / "x"), "--domain", "engine")
    assert list(got["paths"]) == ["engine"]
    assert got["logits"]["engine"] < 1e-4
    assert (tmp_path / "x" / "adapters" / "engine" / "adapter_model.safetensors").exists()


def test_plans_are_compared_and_extended(flow: Path, tmp_path: Path) -> None:
    plan = json.loads((flow / "plan.json").read_text(encoding="utf-8"))
    smaller = tmp_path / "smaller.json"
    smaller.write_text(json.dumps({"version": 1, "stages": [["garden", "kitchen"], ["engine"]]}))
    assert answer("plan", "--diff", str(flow / "plan.json"), str(flow / "plan.json"))["same"]
    difference = answer("plan", "--diff", str(smaller), str(flow / "plan.json"))
    assert difference["added"] == ["harbour"]
    extended = answer("plan", str(flow / "relations"), "--extend", str(smaller), "-o", str(tmp_path / "more.json"))
    assert extended["added"] == ["harbour"]
    assert any({"garden", "kitchen"} <= set(stage) for stage in extended["stages"])
    assert sorted(name for stage in plan["stages"] for name in stage) == sorted(NAMES)


def test_the_plan_is_shown_with_its_certificate(flow: Path, tmp_path: Path) -> None:
    words = ("plan", str(flow / "relations"), "-o", str(tmp_path / "p.json"), "--set", "plan.bootstrap=5")
    shown = run(*words, "--explain", "--compare-solvers")
    assert "proved optimal" in shown.stdout
    assert "single linkage" in shown.stdout
    tables = [line for line in shown.stdout.splitlines()[:-1] if not line.startswith("As few stages")]
    assert max(map(len, tables)) <= 80
    assert len(tables) < len(shown.stdout.splitlines()[:-1])  # a sentence is a line where nobody's terminal wraps it
    assert run(*words, "--quiet").stdout == ""


def test_same_seed_same_answer(flow: Path, tmp_path: Path, toy_corpora: Path, tiny_llama_dir: Path) -> None:
    first = json.loads((flow / "relations" / "relations.json").read_text(encoding="utf-8"))
    again = answer("measure", str(toy_corpora), "--model", str(tiny_llama_dir), "-o", str(tmp_path / "r"), *QUICK)
    assert again["digest"] == Relations.load(flow / "relations").digest
    assert again["domains"] == first["domains"]


def test_the_python_api_on_the_same_files(flow: Path, toy_corpora: Path) -> None:
    plan = kinfold.plan(flow / "relations", stages=2, bootstrap=5)
    assert plan.stages == Plan.load(flow / "plan.json").stages
    corpora = kinfold.load_corpora(toy_corpora, limit=20)
    assert set(corpora.names) >= set(NAMES)
    assert kinfold.report(flow / "run").name == "report.html"


def test_an_edited_plan_loses_its_proof(flow: Path, tmp_path: Path, toy_corpora: Path) -> None:
    values = json.loads((flow / "plan.json").read_text(encoding="utf-8"))
    proved = given_plan(flow / "plan.json")
    assert proved.certificate == "proved optimal"
    (a, *rest), (b, *others) = values["stages"]
    values["stages"] = [[b, *rest], [a, *others]]
    edited = tmp_path / "edited.json"
    edited.write_text(json.dumps(values))
    plan = given_plan(edited)
    assert plan.stages == ((b, *rest), (a, *others))
    assert plan.certificate != "proved optimal"
    assert plan.objective is not None
    assert proved.objective is not None
    assert plan.objective < proved.objective
    assert not plan.verify()
    checked = answer("validate", "--plan", str(edited))
    assert checked["plan"]["edited"]
    assert not answer("validate", "--plan", str(flow / "plan.json"))["plan"]["edited"]
    # The toy corpora hold general text, too, which no plan speaks of.
    beside = answer("validate", str(toy_corpora), "--plan", str(flow / "plan.json"))
    assert any(domain["role"] == "general" for domain in beside["corpora"]["domains"])
    assert len(beside["plan"]["stages"]) == len(json.loads((flow / "plan.json").read_text())["stages"])


def test_the_python_api_refuses_politely(flow: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"plan\.lamda is not a setting; did you mean lam\?"):
        kinfold.plan(flow / "relations", lamda=2)
    with pytest.raises(InputTypeError, match="relations=3"):
        kinfold.plan(3)  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match="settings="):
        kinfold.plan(flow / "relations", settings=3)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="neither a run"):
        kinfold.report(tmp_path)
    with pytest.raises(InputTypeError, match="corpora="):
        kinfold.measure(3)  # type: ignore[arg-type]


def test_a_full_disk_is_told_by_the_training_it_stopped(
    flow: Path, tmp_path: Path, toy_corpora: Path, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept beside a stopped run cannot be written either then, and must not hide where training stood."""

    def stopped(*words: Any, out: Path, **options: Any) -> Any:
        out.mkdir()
        (out / "run.json").write_text("{}")
        raise TrainingError(f"{out}: cannot be written (No space left on device); the last good checkpoint is ...")

    def full(*words: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kinfold.stages, "train", stopped)
    monkeypatch.setattr(Relations, "save", full)
    with pytest.raises(TrainingError, match="the last good checkpoint is"):
        kinfold.train(flow / "plan.json", toy_corpora, model=tiny_llama_dir, out=tmp_path / "run")


def test_affinity_shows_whether_it_agrees_with_itself(tmp_path: Path, toy_labelled: Path) -> None:
    words = (
        "measure",
        str(toy_labelled),
        "-o",
        str(tmp_path / "r"),
        "--measures",
        "js,synergy,class_mean_cosine",
        *QUICK,
    )
    shown = run(*words)
    relations = Relations.load(tmp_path / "r")
    agreement = relations.agreement["class_mean_cosine"]
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("class_mean_cosine")]
    assert line.split()[1:] == [f"{agreement['split_half']:.2f}", "yes" if agreement["usable"] else "no"]


def test_a_skipped_record_is_named_by_every_command_that_reads(tmp_path: Path, toy_corpora: Path) -> None:
    folder = tmp_path / "corpora"
    shutil.copytree(toy_corpora, folder)
    with open(folder / "engine.jsonl", "a", encoding="utf-8") as stream:
        stream.write("[1]\n")
    result = run("measure", str(folder), "-o", str(tmp_path / "r"), "--measures", "js", *QUICK)
    (line,) = [line for line in result.stderr.splitlines() if "warning: engine:" in line]
    assert "1 of 61 records" in line
    assert "engine.jsonl:61" in line
    quiet = run("measure", str(folder), "-o", str(tmp_path / "r"), "--measures", "js", *QUICK, "--quiet")
    assert quiet.stderr == ""


def test_accuracy_is_shown_where_labels_are_learnt() -> None:
    from rich.console import Console

    part = {"accuracy": 0.25, "loss": 1.0}
    change = {"mean": -0.1, "accuracy": 0.5, "accuracy_low": -0.1, "accuracy_high": 0.9}
    evaluation = {
        "domains": ["[b]a"], "before": {"[b]a": part}, "final": {"[b]a": {**part, "accuracy": 0.75}},
        "change": {"[b]a": {"final": change}},
    }  # fmt: skip
    console = Console(width=80, force_terminal=False)
    with console.capture() as captured:
        console.print(accuracy_table(evaluation))
    assert captured.get().splitlines()[1].split() == ["[b]a", "25.0%", "75.0%", "+50.0", "-10.0", "to", "+90.0"]
    assert accuracy_table({"final": {"a": {"loss": 1.0}}}) is None


def test_names_in_tables_are_text() -> None:
    from io import StringIO

    from rich.console import Console

    name = "[bold]x[/bold] \x1b[31m"
    explain = {"stage": 0, "gain": 0.5, "best_other": 1, "best_other_gain": 0.1, "margin": 0.4, "binding": None}
    plan = Plan(
        stages=((name,), ("b",)),
        domains=(name, "b"),
        solvers=({"name": name, "objective": 1.0, "seconds": 0.5, "stages": 2}, {"name": "none", "objective": None}),
        explain={name: explain},
    )
    stage = {"domains": [name], "steps": 1, "tokens": 2, "shares": {}, "seconds": 1.0, "memory": 3}
    sample = Sample(domain=name, kind="task", shown=("[red]a", " b"), paid=(False, True))
    dry = DryRun("lm", "flat", name, (stage,), 2, 1, 1.0, {"total": 3, "weights": 3}, (sample,))
    stream = StringIO()
    console = Console(file=stream, width=80, force_terminal=False)
    for item in (solvers_table(plan), explain_table(plan), *dry_run_views(dry)):
        console.print(item, markup=False)
    text = stream.getvalue()
    assert text.count("[bold]x[/bold]") == 5
    assert "[red]a⟦ b⟧" in text
    assert "\x1b" not in text
