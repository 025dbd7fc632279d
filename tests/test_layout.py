"""The walls of the house: imports run one way, faces are light, the wheel holds one package, names do not collide."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import kinfold
import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
# A room may import itself and what stands before it.
ROOMS = ("corpora", "metrics", "partition", "stages", "app")
NOT_PACKAGES = ("tests", "benchmarks", "notebooks", "docs", "build", "dist")
# Heavy at import; no face may pull them in.
HEAVY = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "ortools",
    "pydantic",
    "pandas",
    "scipy",
    "sklearn",
    "numba",
    "networkx",
    "matplotlib",
    "pyarrow",
    "sentence_transformers",
)


def _modules() -> list[Path]:
    found = sorted(ROOT.glob("*.py"))
    for room in ROOMS:
        found += sorted((ROOT / room).rglob("*.py"))
    return found


def _imports(path: Path) -> list[tuple[int, str]]:
    """Line and target of every import of the package, as a path from the root: `metrics.relations`, `errors`, ``."""
    inside = path.relative_to(ROOT).parent.parts
    return _targets(ast.parse(path.read_text(encoding="utf-8"), str(path)), inside)


def _targets(tree: ast.AST, inside: tuple[str, ...]) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name[8:]) for alias in node.names if alias.name.startswith("kinfold.")]
            found += [(node.lineno, "") for alias in node.names if alias.name == "kinfold"]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = inside[: len(inside) - node.level + 1]
                assert len(inside) >= node.level - 1, f"line {node.lineno}: reaches above the package"
                module = [*base, *(node.module.split(".") if node.module else [])]
            elif node.module == "kinfold" or (node.module or "").startswith("kinfold."):
                module = (node.module or "").split(".")[1:]
            else:
                continue
            if module:
                found.append((node.lineno, ".".join(module)))
            else:
                found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module":
            # import_module(".app.api", __name__): relative to the package of the file.
            name = str(node.args[0].value) if node.args and isinstance(node.args[0], ast.Constant) else ""
            level = len(name) - len(name.lstrip("."))
            if level:
                found.append((node.lineno, ".".join([*inside[: len(inside) - level + 1], name[level:]])))
    return found


def _backward(room: str, target: str) -> bool:
    """Whether a module of `room` ("" for the root) may not import `target`."""
    goal = target.partition(".")[0]
    if goal not in ROOMS:
        return False
    if room not in ROOMS:
        return True
    return ROOMS.index(goal) > ROOMS.index(room)


def test_imports_run_one_way() -> None:
    wrong = []
    for path in _modules():
        parts = path.relative_to(ROOT).parts
        room = parts[0] if len(parts) > 1 else ""
        for line, target in _imports(path):
            if parts in {("__init__.py",), ("__main__.py",)} and target.partition(".")[0] == "app":
                continue  # the root's two faces, import and python -m, show what app makes
            if _backward(room, target):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {target}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "inside", "targets"),
    [
        ("from ..metrics.relations import Relations", ("corpora",), ["metrics.relations"]),
        ("from ...stages import train", ("app", "report"), ["stages"]),
        ("from .. import stages", ("metrics",), ["stages"]),
        ("from . import x", ("metrics",), ["metrics"]),
        ("import kinfold.app.cli", ("metrics",), ["app.cli"]),
        ("from kinfold.app import cli", ("metrics",), ["app"]),
        ("from kinfold import app", ("metrics",), ["app"]),
        ("def f():\n    from ..app.api import x", ("stages",), ["app.api"]),
        ("import_module('..app.api', __package__)", ("stages",), ["app.api"]),
        ("import numpy\nfrom os import path", ("stages",), []),
    ],
)
def test_the_walk_sees_every_way_of_importing(source: str, inside: tuple[str, ...], targets: list[str]) -> None:
    assert [target for _, target in _targets(ast.parse(source), inside)] == targets


def test_what_runs_back_is_known() -> None:
    assert _backward("corpora", "metrics.relations")
    assert _backward("stages", "app")
    assert _backward("", "corpora")
    assert not _backward("stages", "partition.plan")
    assert not _backward("metrics", "errors")
    assert not _backward("app", "stages")


def test_stages_needs_no_solver_and_partition_no_torch() -> None:
    wrong = []
    for room, barred in (("stages", ("ortools",)), ("partition", ("torch", "transformers", "peft", "accelerate"))):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module or ""]
                wrong += [f"{path.name}:{node.lineno} {name}" for name in names if name.partition(".")[0] in barred]
    assert not wrong, "\n".join(wrong)


def _packages() -> set[str]:
    found = {"kinfold"}
    for init in ROOT.rglob("__init__.py"):
        parts = init.parent.relative_to(ROOT).parts
        if parts and parts[0] not in NOT_PACKAGES and not any(part.startswith(".") for part in parts):
            found.add(".".join(("kinfold", *parts)))
    return found


def _settings() -> dict[str, object]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"])


def test_every_package_is_listed_and_every_listed_one_exists() -> None:
    assert set(_settings()["packages"]) == _packages()  # type: ignore[call-overload]


def test_every_folder_with_modules_is_a_package() -> None:
    bare = {
        path.parent.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    }
    assert not bare


def test_every_data_file_is_listed() -> None:
    listed: set[Path] = set()
    for package, patterns in _settings()["package-data"].items():  # type: ignore[attr-defined]
        folder = ROOT.joinpath(*package.split(".")[1:])
        for pattern in patterns:
            matched = set(folder.glob(pattern))
            assert matched, f"{package}: nothing matches {pattern!r}"
            listed |= matched
    loose = {
        path
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and path.suffix != ".py" and path.parent.name != "__pycache__" and path.name[0] != "."
    }
    assert not loose - listed


def _run(code: str, cwd: Path, **more: str) -> str:
    """Run `code` in a fresh interpreter, without this process's path tricks."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSTARTUP")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment | more, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "face",
    [
        "kinfold",
        *(f"kinfold.{room}" for room in ROOMS),
        *(f"kinfold.{room}.settings" for room in ROOMS if room != "app"),
        "kinfold.app.cli",
    ],
)
def test_faces_and_settings_import_nothing_heavy(face: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(face) is None:
        pytest.skip(f"{face} does not exist")
    heavy = tuple(name for name in HEAVY if not (face == "kinfold.app.cli" and name == "pydantic"))
    loaded = _run(f"import sys, {face}; print(*sorted(set({heavy!r}) & set(sys.modules)))", tmp_path)
    assert loaded.split() == []


def test_names_in_all_exist() -> None:
    for face in ("kinfold", *(f"kinfold.{room}" for room in ROOMS if room != "app")):
        module = importlib.import_module(face)
        assert module.__all__ == sorted(module.__all__, key=_ruff_order), face
        for name in module.__all__:
            assert getattr(module, name) is not None, f"{face}.{name}"
        with pytest.raises(AttributeError):
            module.no_such_name  # noqa: B018


def _ruff_order(name: str) -> tuple[int, str]:
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_a_users_own_modules_do_not_disturb(tmp_path: Path) -> None:
    for name in (*ROOMS, "errors", "_files", "_progress", "_seeding"):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('the user\\'s own {name}.py was imported')\n")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n')
    code = (
        "import kinfold, kinfold.corpora, kinfold.metrics, kinfold.partition, kinfold.stages, kinfold.app\n"
        "from kinfold.corpora import load_corpora\n"
        "print(load_corpora({'a': 'a.jsonl'}).names, kinfold.__version__)\n"
    )
    assert _run(code, tmp_path).strip() == f"('a',) {kinfold.__version__}"
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_no_generic_name_is_installed() -> None:
    code = f"import importlib.util as u; print([name for name in {ROOMS!r} if u.find_spec(name)])"
    assert _run(code, Path("/")).strip() == "[]"


def test_the_wheel_holds_kinfold_alone(tmp_path: Path) -> None:
    """Built from a copy by the build backend itself, in its own process: neither pip nor a network is needed."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed, so no wheel can be built")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "__init__.py", "py.typed"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    for path in ROOT.glob("*.py"):
        shutil.copy(path, copy / path.name)
    for folder in (*ROOMS, "tests", "benchmarks"):
        if (ROOT / folder).is_dir():
            shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "records", ".*"))
    code = (
        "from setuptools import build_meta; import sys, os; out = sys.stdout; sys.stdout = sys.stderr; "
        "name = build_meta.build_wheel('dist'); print(name, file=out)"
    )
    wheel = copy / "dist" / _run(code, copy).strip().splitlines()[-1]
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"kinfold"}
    expected = {"kinfold/" + path.relative_to(ROOT).as_posix() for path in _modules()}
    assert {name for name in names if name.endswith(".py")} == expected
    assert "kinfold/py.typed" in names
    for package, patterns in _settings()["package-data"].items():  # type: ignore[attr-defined]
        folder = ROOT.joinpath(*package.split(".")[1:])
        for pattern in patterns:
            assert {"kinfold/" + path.relative_to(ROOT).as_posix() for path in folder.glob(pattern)} <= set(names)
