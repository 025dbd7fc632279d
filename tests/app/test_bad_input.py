"""Bad input end to end: each case ends with exit code 2, one sentence that names the place, and nothing written."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kinfold.app.cli import app
from typer.testing import CliRunner

GOOD = '{"text": "the quick brown fox"}\n{"text": "jumps over the lazy dog"}\n' * 20
OTHER = '{"text": "pack my box with"}\n{"text": "five dozen liquor jugs"}\n' * 20


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"})


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def refused(folder: Path, *words: str, says: tuple[str, ...], faults: int = 1) -> None:
    """Run, and check code, sentence and that nothing was written; once more with --json."""
    before = tree(folder)
    result = run(*words)
    assert result.exit_code == 2, (result.exit_code, result.output)
    assert tree(folder) == before
    assert result.stdout == ""
    complaint = result.stderr[result.stderr.index("kinfold: error: ") :].strip()
    assert len(complaint.splitlines()) == faults, complaint
    assert complaint.endswith((".", "?")), complaint
    for part in says:
        assert part in complaint, complaint
    answer = json.loads(run(*words, "--json").stdout)
    assert answer["error"]["exit_code"] == 2
    assert answer["error"]["message"] in complaint
    assert tree(folder) == before


def corpora(folder: Path, **files: str | bytes) -> Path:
    root = folder / "corpora"
    root.mkdir()
    for name, text in files.items():
        (root / name.replace("__", ".")).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def empty_folder(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return corpora(folder), ("corpora",)


def empty_file(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return corpora(folder, a__jsonl=GOOD, b__jsonl=""), ("b",)


def one_domain(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return corpora(folder, only__jsonl=GOOD), ("one domain", "only")


def one_domain_beside_general(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return corpora(folder, only__jsonl=GOOD, general__jsonl=OTHER), ("one domain", "only")


def dangling_link(folder: Path) -> tuple[Path, tuple[str, ...]]:
    root = corpora(folder, a__jsonl=GOOD)
    (root / "b.jsonl").symlink_to(folder / "nowhere.jsonl")
    return root, ("b.jsonl",)


def damaged_archive(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return corpora(folder, a__jsonl=GOOD, b__jsonl__gz=gzip.compress(OTHER.encode())[:-20]), ("b.jsonl.gz",)


def invalid_utf8(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return corpora(folder, a__jsonl=GOOD, b__jsonl=b'{"text": "caf\xe9"}\n'), ("b.jsonl", "UTF-8")


def no_objects(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return corpora(folder, a__jsonl=GOOD, b__jsonl="[1, 2]\n3\n"), ("b.jsonl:1", "object")


def no_text_field(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return corpora(folder, a__jsonl=GOOD, b__jsonl='{"page": "x"}\n{"page": "y"}\n'), ("b.jsonl", "text")


def same_name_twice(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return corpora(folder, a__jsonl=GOOD, b__jsonl=OTHER, A__txt="text\n"), ("a", "A")


def missing(folder: Path) -> tuple[Path, tuple[str, ...]]:
    return folder / "nowhere", ("nowhere", "no such")


CASES = [
    empty_folder, empty_file, one_domain, one_domain_beside_general, dangling_link, damaged_archive, invalid_utf8,
    no_objects, no_text_field, same_name_twice, missing,
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_corpora_that_cannot_be_measured(tmp_path: Path, case: Callable[[Path], tuple[Path, tuple[str, ...]]]) -> None:
    source, says = case(tmp_path)
    refused(tmp_path, "measure", str(source), "-o", str(tmp_path / "relations"), says=says)


@pytest.mark.parametrize(("line", "what"), [("[1, 2]", "object"), ('{"page": "x"}', "text"), ('{"text": ', "JSON")])
def test_one_bad_record_is_fatal_when_strict(tmp_path: Path, line: str, what: str) -> None:
    source = corpora(tmp_path, a__jsonl=GOOD, b__jsonl=OTHER + line + "\n" + OTHER)
    refused(tmp_path, "measure", str(source), "--strict", "-o", str(tmp_path / "r"), says=("b.jsonl:41", what))


@pytest.mark.parametrize("name", ["../up", "a/b", "..", "", "a\\b", "bell\u0007"])
def test_names_of_domains(tmp_path: Path, name: str) -> None:
    source = corpora(tmp_path, a__jsonl=GOOD, b__jsonl=OTHER)
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(json.dumps({"good": "corpora/a.jsonl", name: "corpora/b.jsonl"}))
    refused(tmp_path, "measure", str(manifest), "-o", str(tmp_path / "r"), says=("name",))
    config = tmp_path / "kinfold.yaml"
    inline = {"corpora": {"domains": {"good": str(source / "a.jsonl"), name: str(source / "b.jsonl")}}}
    config.write_text(json.dumps(inline))
    refused(tmp_path, "measure", "-c", str(config), "-o", str(tmp_path / "r"), says=("name",))


def test_a_name_twice_in_a_manifest(tmp_path: Path) -> None:
    corpora(tmp_path, a__jsonl=GOOD, b__jsonl=OTHER)
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text("law: corpora/a.jsonl\nnews: corpora/b.jsonl\nlaw: corpora/b.jsonl\n")
    refused(tmp_path, "measure", str(manifest), "-o", str(tmp_path / "r"), says=("law", "manifest.yaml"))


@pytest.mark.parametrize("command", ["measure", "plan", "train", "validate", "demo"])
def test_an_unknown_key_in_the_configuration(tmp_path: Path, command: str) -> None:
    config = tmp_path / "kinfold.yaml"
    config.write_text("plan:\n  lamda: 2\n")
    refused(
        tmp_path, command, "-c", str(config), *([] if command == "validate" else ["-o", str(tmp_path / "out")]),
        says=("kinfold.yaml, line 2", "did you mean plan.lam?"),
    )  # fmt: skip


def test_several_faults_come_at_once(tmp_path: Path) -> None:
    config = tmp_path / "kinfold.yaml"
    config.write_text("plan:\n  lamda: 2\ntrain: {lr: fast}\n")
    refused(tmp_path, "plan", "-c", str(config), says=("2 faults", "plan.lamda", "train.lr"), faults=3)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, toy_corpora: Path) -> Path:
    """Relations of the toy corpora, made by the command."""
    folder = tmp_path_factory.mktemp("measured")
    result = run(
        "measure", str(toy_corpora), "-o", str(folder / "relations"), "--bootstrap", "5", "--permutations", "9"
    )
    assert result.exit_code == 0, result.output
    return folder / "relations"


def test_a_budget_below_the_largest_domain(tmp_path: Path, measured: Path) -> None:
    answer = json.loads((measured / "relations.json").read_text(encoding="utf-8"))
    largest = answer["domains"][0]
    refused(tmp_path, "plan", str(measured), "--budget", "tokens=3", "-o", str(tmp_path / "p.json"), says=("tokens",))
    refused(
        tmp_path, "plan", str(measured), "--must-link", f"{largest},nowhere", "-o", str(tmp_path / "p.json"),
        says=("nowhere",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--pin", "engine=first"), "for example --pin wiki=1"),
        (("--pin", "engine=99"), "99 stages"),
        (("--budget", "gpu_memory=16GB"), "--budget gpu_memory=16e9"),
        (("--budget", "gpu_memory=16e9"), "give --model"),
        (("--budget", "token=5"), "plan.budget.token"),
        (("--stages", "5:2"), "--stages"),
        (("--stages", "40"), "40 stages"),
        (("--must-link", "engine"), "two or more domains"),
        (("--must-link", "engine,garden", "--cannot-link", "garden,engine"), "cannot_link"),
        (("--lambda", "nan"), "--lambda"),
        (("--discrepancy", "jss"), "jss"),
        (("--method", "best"), "one of auto"),
        (("--set", "foo"), "section.key=value"),
    ],
)
def test_settings_of_a_plan(tmp_path: Path, measured: Path, words: tuple[str, ...], says: str) -> None:
    refused(tmp_path, "plan", str(measured), *words, "-o", str(tmp_path / "p.json"), says=(says,))


def test_relations_that_are_not_there_or_damaged(tmp_path: Path, measured: Path) -> None:
    refused(tmp_path, "plan", str(tmp_path / "nowhere"), "-o", str(tmp_path / "p.json"), says=("nowhere",))
    broken = tmp_path / "broken"
    shutil.copytree(measured, broken)
    (broken / "relations.npz").write_bytes((broken / "relations.npz").read_bytes()[:100])
    refused(tmp_path, "plan", str(broken), "-o", str(tmp_path / "p.json"), says=("broken",))


def test_a_model_without_a_tokenizer(tmp_path: Path, toy_corpora: Path, tiny_llama_dir: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(tiny_llama_dir / name, model / name)
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"version": 1, "stages": [["engine", "harbour"], ["garden", "kitchen"]]}))
    out = ("-o", str(tmp_path / "out"))
    both = ("--corpora", str(toy_corpora), "--model", str(model))
    refused(tmp_path, "measure", str(toy_corpora), "--model", str(model), *out, says=("model", "tokenizer"))
    refused(tmp_path, "train", str(plan), *both, *out, says=("model", "tokenizer"))
    refused(tmp_path, "validate", "--model", str(model), says=("model", "tokenizer"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "JSON"),
        ('{"version": 1, "stages": []}', "stages"),
        ('{"version": 1, "stages": [["engine"], ["engine", "garden"]]}', "engine"),
        ('{"version": 1, "stages": [["engine", "mars"]]}', "mars"),
        ('{"version": 9, "stages": [["engine"]]}', "version"),
    ],
)
def test_plans_that_cannot_be_trained(
    tmp_path: Path, toy_corpora: Path, tiny_llama_dir: Path, text: str, says: str
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(text)
    refused(
        tmp_path, "train", str(plan), "--corpora", str(toy_corpora), "--model", str(tiny_llama_dir),
        "-o", str(tmp_path / "out"), says=("plan", says),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "some/deep/folder"])
def test_a_model_folder_that_is_not_there(tmp_path: Path, toy_corpora: Path, name: str) -> None:
    """Said at once: what is written as a path is never asked of a hub."""
    words = ("measure", str(toy_corpora), "--model", name, "-o", str(tmp_path / "r"))
    refused(tmp_path, *words, says=(name, "no such model folder"))


def test_outputs_that_cannot_be_written(tmp_path: Path, toy_corpora: Path, measured: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    refused(tmp_path, "measure", str(toy_corpora), "-o", str(file), says=("file", "-o"))
    refused(tmp_path, "plan", str(measured), "-o", str(tmp_path), says=("folder", "-o"))
    plan = tmp_path / "plan.json"
    plan.write_text('{"version": 1, "stages": [["engine"], ["garden"]]}')
    words = ("plan", str(measured), "--extend", str(plan), "-o", str(plan))
    refused(tmp_path, *words, says=("plan to extend", "another file with -o"))
    refused(tmp_path, "init", str(file), says=("exists already", "--force"))
    assert file.read_text() == "mine"


def test_a_folder_of_something_else_is_refused_before_the_model_is_read(
    tmp_path: Path, toy_corpora: Path, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kinfold.stages.training as training

    monkeypatch.setattr(training.Session, "open", lambda *_, **__: pytest.fail("the model was read"))
    plan = tmp_path / "plan.json"
    plan.write_text('{"version": 1, "stages": [["engine", "garden"], ["harbour", "kitchen"]]}')
    words = ("train", str(plan), "--corpora", str(toy_corpora), "--model", str(tiny_llama_dir), "-o", str(tmp_path))
    refused(tmp_path, *words, says=("not empty and no run", "plan.json"))
    (tmp_path / "run.json").write_text("{}")
    refused(tmp_path, *words, says=("holds a run already", "--resume"))


def test_resuming_what_is_not_there_is_said(
    tmp_path: Path, toy_corpora: Path, tiny_llama_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kinfold.stages.training as training
    from kinfold.errors import ModelError

    def stop(*_: object, **__: object) -> None:
        raise ModelError("far enough.")

    monkeypatch.setattr(training.Session, "open", stop)
    plan = tmp_path / "plan.json"
    plan.write_text('{"version": 1, "stages": [["engine", "garden"], ["harbour", "kitchen"]]}')
    words = ("train", str(plan), "--corpora", str(toy_corpora), "--model", str(tiny_llama_dir))
    said = run(*words, "-o", str(tmp_path / "new"), "--resume").stderr
    assert "holds no run to go on with; training begins anew" in said
    assert "far enough" in said
    assert "begins anew" not in run(*words, "-o", str(tmp_path / "new")).stderr


def test_a_measure_that_does_not_exist_is_refused_before_measuring(tmp_path: Path, toy_corpora: Path) -> None:
    words = ("measure", str(toy_corpora), "-o", str(tmp_path / "r"), "--show")
    refused(tmp_path, *words, "jacard", says=("--show jacard", "did you mean jaccard?"))


def test_what_is_missing_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_corpora: Path) -> None:
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, "measure", says=("no corpora named",))
    refused(tmp_path, "plan", says=("kinfold measure",))
    refused(tmp_path, "plan", str(toy_corpora), says=("holds no relations", "kinfold measure CORPORA -o"))
    refused(tmp_path, "plan", "nowhere", says=("nowhere: no such folder", "kinfold measure CORPORA -o nowhere"))
    refused(tmp_path, "train", says=("no plan named",))
    (tmp_path / "plan.json").write_text('{"version": 1, "stages": [["engine"], ["garden"]]}')
    refused(tmp_path, "train", "--corpora", str(toy_corpora), says=("no base model",))
    refused(tmp_path, "report", str(tmp_path), says=("neither a run",))
    (tmp_path / "compare.json").write_text("{}")
    refused(tmp_path, "report", str(tmp_path), says=("compare.md",))
    refused(tmp_path, "evaluate", str(tmp_path / "nowhere"), says=("nowhere",))
