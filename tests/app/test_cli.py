"""The command line without training: help, usage errors, init, validate, and the commands that help and README show."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import kinfold
import pytest
import typer
from kinfold.app.cli import app, main
from kinfold.app.cli_options import FLAGS, groups, pairs, plain_help, stage_range
from kinfold.app.config import KinfoldConfig, dump_yaml, field_info, resolve, settings_help
from kinfold.app.reference import commands_reference, refreshed, settings_reference
from kinfold.app.starter import starter
from kinfold.errors import ConfigError
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
GROUP: Any = typer.main.get_command(app)
COMMANDS = sorted(GROUP.commands)
HEAVY = ("torch", "transformers", "ortools", "pydantic", "numpy", "sklearn", "scipy", "numba", "datasets", "matplotlib")


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"})


def parse(line: str) -> None:
    """Parse a command line as the shell and Typer would, without running it; a wrong flag raises."""
    words = shlex.split(line, comments=True)
    assert words[0] == "kinfold", line
    if len(words) == 1 or words[1].startswith("-"):
        GROUP.make_context("kinfold", words[1:] or ["--version"], resilient_parsing=True)
        return
    GROUP.commands[words[1]].make_context(words[1], words[2:])


def test_every_command_of_the_contract_is_there() -> None:
    wanted = {"demo", "init", "validate", "measure", "plan", "train", "evaluate", "compare", "report"}
    assert wanted <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns_and_its_examples_parse(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 80
    examples = [line.strip()[2:] for line in result.output.splitlines() if line.strip().startswith("$ kinfold ")]
    assert examples, "no example in the help"
    for line in examples:
        assert line.split()[1] == command
        parse(line)
    for flag in ("--json", "--quiet", "--seed", "--config", "--set", "--debug"):
        assert flag in result.output


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from kinfold.app.cli import main; code = main(['--help']); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[] 0"
    assert "measure" in done.stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    names = (*HEAVY, "typer", "rich", "yaml")
    code = f"import sys, kinfold; kinfold.__all__; print([name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["nonsense"], "nonsense"),
        (["plan", "--lamda", "2"], "--lamda"),
        (["report"], "RUN"),
        (["plan", "--time-limit", "soon"], "--time-limit"),
        (["measure", "--json", "--bogus"], "--bogus"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(words: list[str], what: str, capsys) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert err.startswith("kinfold: error: ")
    assert err.count("\n") == 1
    assert what in err
    if "--json" in words:
        assert json.loads(out)["error"]["exit_code"] == 2
    else:
        assert out == ""


def test_version_and_help_end_well(capsys) -> None:
    import kinfold

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kinfold {kinfold.__version__}\n"
    assert main(["--help"]) == 0


def test_every_setting_flag_reaches_a_setting_and_shows_its_help() -> None:
    for name, (path, flag) in FLAGS.items():
        info = field_info(path.split("."))
        assert info.metadata.get("help"), name
        assert flag.startswith("--")


def test_brackets_in_help_are_shown(capsys) -> None:
    from rich.text import Text

    text = "a share in [0, 1), [bold] and [a-z]"
    assert Text.from_markup(plain_help(text)).plain == text


def test_words_for_lists_and_ranges() -> None:
    assert pairs(["tokens=2e6", "a=b=3"], "--budget") == {"tokens": 2e6, "a=b": 3.0}
    assert groups(["a,b", " c , d ,e"], "--must-link") == [["a", "b"], ["c", "d", "e"]]
    assert groups([], "--must-link") is None
    assert [stage_range(text) for text in ("3", "2:5", "2-5", "2..5", None)] == [3, [2, 5], [2, 5], [2, 5], None]
    for bad in (lambda: pairs(["tokens"], "--b"), lambda: pairs(["=1"], "--b"), lambda: pairs(["a=x"], "--b"),
                lambda: groups(["a"], "--m"), lambda: stage_range("few")):  # fmt: skip
        with pytest.raises(ConfigError, match="must"):
            bad()


def test_init_writes_what_validate_accepts(tmp_path: Path, toy_corpora: Path, tiny_llama_dir: Path) -> None:
    path = tmp_path / "k.yaml"
    first = run("init", str(path), "--corpora", str(toy_corpora), "--model", str(tiny_llama_dir))
    assert first.exit_code == 0, first.output
    checked = run("validate", "-c", str(path), "--json")
    assert checked.exit_code == 0, checked.output
    answer = json.loads(checked.stdout)
    assert answer["ok"]
    assert {domain["name"] for domain in answer["corpora"]["domains"]} == {
        "engine", "garden", "general", "harbour", "kitchen",
    }  # fmt: skip
    assert answer["model"]["architecture"] == "LlamaForCausalLM"
    again = run("init", str(path))
    assert again.exit_code == 2
    assert "exists already" in again.stderr
    assert run("init", str(path), "--force").exit_code == 0


def test_the_starter_is_the_defaults_and_lists_every_setting(tmp_path: Path) -> None:
    text = starter()
    path = tmp_path / "k.yaml"
    path.write_text(text, encoding="utf-8")
    assert resolve(path).config == KinfoldConfig()
    # Every line that is a switched-off setting, switched on, is still the defaults (but for the two examples).
    path.write_text(re.sub(r"(?m)^( *)#(?=\w+:)", r"\1", text), encoding="utf-8")
    live = resolve(path).config
    assert live.corpora.path == str(tmp_path / "my-corpora")
    assert live.model == "my-model"
    assert dump_yaml(live.measure) == dump_yaml(KinfoldConfig().measure)
    assert live.plan == KinfoldConfig().plan
    assert live.train == KinfoldConfig().train
    for setting, _default, _help in settings_help():
        assert re.search(rf"(?m)^ *#?{setting[-1]}:", text), setting


def test_starter_quotes_what_yaml_could_misread(tmp_path: Path) -> None:
    path = tmp_path / "k.yaml"
    path.write_text(starter(corpora="/data/a: b #1", model="1e6"), encoding="utf-8")
    config = resolve(path).config
    assert config.corpora.path == "/data/a: b #1"
    assert config.model == "1e6"


def test_validate_shows_bad_records_and_fails(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "[bold]a.jsonl").write_text('{"text": "one"}\n[1]\n{"text": "two"}\n' * 5, encoding="utf-8")
    (folder / "b.txt").write_text("alpha\n\nbeta\n\ngamma\n", encoding="utf-8")
    result = run("validate", str(folder))
    assert result.exit_code == 2
    assert "[bold]a" in result.stdout
    assert "a.jsonl:2" in result.stdout
    assert "5 bad records" in result.stderr
    as_json = run("validate", str(folder), "--json")
    answer = json.loads(as_json.stdout)
    assert answer["ok"] is False
    assert answer["error"]["exit_code"] == 2
    assert answer["corpora"]["domains"][0]["bad"] == 5
    assert run("validate", str(folder), "--quiet").stdout == ""


def test_validate_checks_a_plan_against_the_corpora(tmp_path: Path, toy_corpora: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"version": 1, "stages": [["engine", "harbour"], ["garden", "kitchen"]]}))
    good = run("validate", str(toy_corpora), "--plan", str(plan), "--json")
    assert good.exit_code == 0, good.output
    assert json.loads(good.stdout)["plan"]["stages"] == [["engine", "harbour"], ["garden", "kitchen"]]
    plan.write_text(json.dumps({"version": 1, "stages": [["engine", "elsewhere"]]}))
    bad = run("validate", str(toy_corpora), "--plan", str(plan))
    assert bad.exit_code == 2
    assert "elsewhere" in bad.stderr


def test_evaluate_asks_for_what_was_said_and_leaves_the_rest_to_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_corpora: Path
) -> None:
    from kinfold.app import api
    from kinfold.stages import Run

    asked: list[dict[str, Any]] = []

    class Asked(Exception):
        pass

    def evaluate(run: object, corpora: object, **options: Any) -> None:
        asked.append(options)
        raise Asked

    monkeypatch.setattr(Run, "load", classmethod(lambda cls, path: path))
    monkeypatch.setattr(api, "evaluate", evaluate)
    for words in ([], ["--generate", "7", "--split", "validation"], ["--set", "train.eval_documents=9"]):
        run("evaluate", str(tmp_path), "--corpora", str(toy_corpora), *words)
    found = [(options["split"], options["documents"], options["generate"]) for options in asked]
    assert found == [("test", None, None), ("validation", None, 7), ("test", 9, None)]


def test_a_broken_pipe_is_quiet(toy_corpora: Path) -> None:
    script = f"{shlex.quote(sys.executable)} -m kinfold.app.cli validate {shlex.quote(str(toy_corpora))} --json | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def shell_lines(text: str) -> list[str]:
    """Every `kinfold ...` line of a document's shell blocks, continuation lines joined."""
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, flags=re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    parts = [part.strip() for line in joined.splitlines() for part in re.split(r"&&|\|", line)]
    return [part.removeprefix("$ ") for part in parts if part.removeprefix("$ ").startswith("kinfold")]


@pytest.mark.parametrize("name", ["README.md", "docs/cli.md", "docs/configuration.md"])
def test_commands_in_documents_parse(name: str) -> None:
    lines = shell_lines((ROOT / name).read_text(encoding="utf-8"))
    assert len(lines) >= 4
    for line in lines:
        parse(line)


def test_yaml_in_documents_resolves(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/configuration.md").read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block, encoding="utf-8")
        resolve(path)


@pytest.mark.parametrize("name", ["cli.md", "configuration.md"])
def test_reference_sections_are_fresh(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    made = commands_reference() if name == "cli.md" else settings_reference()
    assert refreshed(text, made) == text, "run: python -m kinfold.app.reference docs"


def test_relative_links_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    assert len(links) > 8
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_readme_python_uses_names_that_exist() -> None:
    import kinfold

    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names = {name for block in blocks for name in re.findall(r"kinfold\.(\w+)", block)}
    assert names >= {"measure", "plan", "train", "report"}
    for block in blocks:
        compile(block, "README.md", "exec")
    for name in names:
        assert callable(getattr(kinfold, name))


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "kinfold", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["kinfold", kinfold.__version__]


def test_validate_does_not_flood_the_screen_with_files_it_ignores(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(f"text {name} {n}" for n in range(30)))
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "one.txt").write_text("text\n")
    for n in range(40):
        (tmp_path / "c" / f"{n}.conf").write_text("x")
    shown = run("validate", str(tmp_path))
    lines = [line for line in shown.stdout.splitlines() if line.startswith("ignored: ")]
    assert len(lines) == 11
    assert lines[-1] == "ignored: 30 more (--json lists all)"
    assert len(json.loads(run("validate", str(tmp_path), "--json").stdout)["corpora"]["ignored"]) == 40
