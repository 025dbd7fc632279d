"""Where the demo's text lies: files that came with Python and with Kinfold's own dependencies.

Only the standard library and the distributions that Kinfold itself requires are read, never what else a user has
installed: the harvest is then the same for the same versions, and nobody's own text ends in a model. Python files
are parsed with :mod:`ast` and never imported, which is safe and takes a second or two instead of a minute.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import importlib.metadata
import inspect
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

__all__ = [
    "Piece",
    "descriptions",
    "docstrings",
    "headers",
    "licences",
    "readmes",
    "required_distributions",
    "standard_code",
    "standard_docstrings",
    "topics",
]

_MAX_FILE = 2_000_000  # bytes; larger text files here are generated tables
_SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "_vendor", "conftest", "idlelib", "lib2to3", "node_modules", "site-packages", "dist-packages"}
    | {"pydoc_data", "test", "testing", "tests", "turtledemo", "encodings", "ensurepip", "unittest"}
)
_LICENCE = re.compile(r"(licen[cs]e|copying|notice)", re.IGNORECASE)
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text and the file (or topic) it was read from; `origin` decides which split it falls into."""

    text: str
    origin: str


def scattered(name: str) -> str:
    """A sort key that mixes names evenly and is the same on every machine."""
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required_distributions(root: str = "kinfold") -> dict[str, importlib.metadata.Distribution]:
    """The installed distributions that `root` requires, directly or not, by normalised name; extras do not count."""
    found: dict[str, importlib.metadata.Distribution] = {}
    todo = [root]
    while todo:
        name = _normal(todo.pop())
        if name in found:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a marker ruled it out on this machine
        found[name] = distribution
        for requirement in distribution.requires or ():
            matched = _REQUIREMENT.match(requirement)
            if matched and "extra ==" not in requirement.replace("extra==", "extra =="):
                todo.append(matched.group(1))
    return dict(sorted(found.items()))


def package_folder(name: str) -> Path | None:
    """The folder of an installed top-level package, found without importing it; None where there is none.

    The working folder is not searched: a folder of the user's called `torch` is not the package.
    """
    here = Path.cwd()
    places = [place for place in sys.path if place and Path(place) != here]
    spec = importlib.machinery.PathFinder.find_spec(name, places)
    for location in (spec.submodule_search_locations if spec else None) or ():
        if Path(location).is_dir():
            return Path(location)
    return None


def _standard_library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _files(folder: Path, suffix: str) -> list[tuple[str, Path]]:
    """All files below `folder` that end in `suffix`, tests and vendored copies left out, in a scattered order."""
    rows = []
    root = os.fspath(folder)
    for place, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS]
        # Plain strings: ten thousand headers would otherwise become thirty thousand Path objects.
        below = folder.name + place[len(root) :].replace(os.sep, "/")
        rows += [
            (f"{below}/{name}", Path(place, name))
            for name in names
            if name.endswith(suffix) and not name.startswith("test_")
        ]
    return sorted(rows, key=lambda row: (scattered(row[0]), row[0]))


def _read(path: Path) -> str | None:
    """The text of a file; None for what is too large, unreadable or not UTF-8."""
    try:
        if path.stat().st_size > _MAX_FILE:
            return None
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _parse(source: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's invalid escapes are not the user's business
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError):
            return None


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Every statement below `body`; expressions are not entered, which makes this five times as fast as `ast.walk`."""
    for statement in body:
        yield statement
        for inner in ("body", "orelse", "finalbody"):
            yield from _statements(getattr(statement, inner, []))
        for handler in getattr(statement, "handlers", ()):
            yield from _statements(handler.body)


def _module_docstrings(source: str) -> Iterator[str]:
    tree = _parse(source)
    if tree is None:
        return
    for node in [tree, *_statements(tree.body)]:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _attaches_docstring(node.value):
            # C functions get theirs from `add_docstr(torch.abs, r"...")` or `add_newdoc(place, name, "...")`.
            for argument in node.value.args[1:]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str) and "\n" in argument.value:
                    yield inspect.cleandoc(argument.value)


def _attaches_docstring(node: ast.Call) -> bool:
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    return name in {"add_docstr", "add_newdoc", "_add_docstr"}


def _docstrings_below(folder: Path) -> Iterator[Piece]:
    for name, path in _files(folder, ".py"):
        source = _read(path)
        if source:
            for text in _module_docstrings(source):
                yield Piece(text, name)


def docstrings(package: str) -> Callable[[], Iterator[Piece]]:
    """A reader of every docstring of an installed package."""

    def read() -> Iterator[Piece]:
        folder = package_folder(package)
        if folder is not None:
            yield from _docstrings_below(folder)

    return read


def standard_docstrings() -> Iterator[Piece]:
    """Every docstring of the standard library."""
    yield from _docstrings_below(_standard_library())


def standard_code() -> Iterator[Piece]:
    """Functions and classes of the standard library as source code, docstrings cut out.

    The docstrings belong to the general corpus; left in here, a test text of one would be training text of the other.
    """
    for name, path in _files(_standard_library(), ".py"):
        source = _read(path)
        tree = _parse(source) if source else None
        if source is None or tree is None:
            continue
        lines = source.splitlines()
        cut: set[int] = set()
        for node in _statements(tree.body):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
                first = node.body[0]
                if len(node.body) > 1:  # a body of a docstring alone would not be Python without it
                    cut.update(range(first.lineno - 1, first.end_lineno or first.lineno))
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                start = min([node.lineno, *(mark.lineno for mark in node.decorator_list)]) - 1
                kept = [lines[i] for i in range(start, node.end_lineno or start) if i not in cut]
                if max(map(len, kept), default=0) <= 160:  # longer lines are tables
                    yield Piece("\n".join(kept), name)


def topics() -> Iterator[Piece]:
    """The Python language reference, as `help()` shows it (`pydoc_data.topics`)."""
    source = _read(_standard_library() / "pydoc_data" / "topics.py")
    tree = _parse(source) if source else None
    for node in tree.body if tree is not None else ():
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            for key, value in zip(node.value.keys, node.value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str) and isinstance(value, ast.Constant):
                    yield Piece(str(value.value), f"topics/{key.value}")


def headers(package: str, *folders: str) -> Callable[[], Iterator[Piece]]:
    """A reader of the C and C++ headers that an installed package ships, from `folders` below it."""

    def read() -> Iterator[Piece]:
        root = package_folder(package)
        for below in [root / folder for folder in folders] if root is not None else []:
            for name, path in _files(below, ".h"):
                text = _read(path)
                if text:
                    yield Piece(text, f"{package}/{name}")

    return read


def _installed_files(distribution: importlib.metadata.Distribution) -> list[str]:
    """The files of a distribution, relative; straight from its RECORD, which is ten times as fast as `.files`."""
    text = distribution.read_text("RECORD")
    if text is None:
        return [PurePath(file).as_posix() for file in distribution.files or ()]
    return [line.split(",")[0].strip('"') for line in text.splitlines() if line]


def licences() -> Iterator[Piece]:
    """The licence and notice files of the required distributions, and Python's own."""
    rows: list[tuple[str, Path]] = []
    for name, distribution in required_distributions().items():
        rows.extend(
            (f"{name}/{file}", Path(str(distribution.locate_file(file))))
            for file in _installed_files(distribution)
            if _LICENCE.search(file.rpartition("/")[2]) and PurePath(file).suffix.lower() in {"", ".txt", ".md", ".rst"}
        )
    rows.append(("python/LICENSE.txt", _standard_library() / "LICENSE.txt"))
    for name, path in sorted(rows, key=lambda row: (scattered(row[0]), row[0])):
        text = _read(path) if path.is_file() else None
        if text:
            yield Piece(text, name)


def readmes() -> Iterator[Piece]:
    """The descriptions (READMEs) of the required distributions, the first 24,000 characters of each.

    Some go on with ten years of changes.
    """
    found = required_distributions()
    for name in sorted(found, key=scattered):
        if name == "kinfold":
            continue  # its README changes with every commit, and the base model would with it
        metadata = found[name].metadata
        text = metadata.get("Description") or metadata.get_payload()  # type: ignore[attr-defined]
        if isinstance(text, str) and text.strip():
            yield Piece(text[:24_000], f"readme/{name}")


def descriptions() -> Iterator[Piece]:
    """The data set descriptions that scikit-learn ships."""
    folder = package_folder("sklearn")
    if folder is not None:
        for name, path in _files(folder / "datasets" / "descr", ".rst"):
            text = _read(path)
            if text:
                yield Piece(text, f"descr/{name}")
