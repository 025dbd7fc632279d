"""YAML manifests: what each domain's entry says, and on which line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CorpusError
from ._names import did_you_mean

__all__ = ["KEYS", "Entry", "entries_of", "read_manifest"]

KEYS = (
    "path",
    "hub",
    "subset",
    "revision",
    "text",
    "label",
    "prompt",
    "completion",
    "messages",
    "split",
    "weight",
    "general",
    "unlabelled",
    "documents",
    "validation",
    "test",
    "limit",
)


@dataclass(frozen=True)
class Entry:
    """One domain as it was written: its name, its keys, and where each stands."""

    name: Any
    values: Mapping[str, Any]
    where: Mapping[str | None, str]

    def at(self, key: str | None = None) -> str:
        """What a message about `key`, or about the whole entry, begins with."""
        return self.where.get(key) or self.where[None]


def _entry(name: Any, value: Any, place: str, where: Mapping[str | None, str]) -> Entry:
    if isinstance(value, (str, Path, list, tuple)):
        value = {"path": value}
    if not isinstance(value, Mapping):
        raise CorpusError(
            f"{place}: the entry of {name!r} is {value!r}; give a path or a mapping such as {{path: news.jsonl}}."
        )
    for key in value:
        if key not in KEYS:
            raise CorpusError(
                f"{where.get(key, place)}: unknown key {key!r} of {name!r}; {did_you_mean(str(key), KEYS)}"
            )
    return Entry(name, value, {None: place, **where})


def entries_of(source: Mapping[Any, Any]) -> list[Entry]:
    """The entries of a mapping given from Python.

    Raises
    ------
    CorpusError
        When an entry is not well formed.
    """
    return [_entry(name, value, f"corpora[{name!r}]", {}) for name, value in source.items()]


def read_manifest(path: Path) -> list[Entry]:
    """The entries of a YAML file.

    Raises
    ------
    CorpusError
        When it cannot be read, is not well formed, or names a key twice; with the line.
    """
    import yaml

    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = fault.object[: fault.start].count(b"\n") + 1
        raise CorpusError(f"{path}, line {line}: not UTF-8; save the manifest as UTF-8.") from None
    except OSError as fault:
        raise CorpusError(f"{path}: cannot be read ({fault.strerror or fault}); check the file.") from None
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise CorpusError(f"{path}: is empty; write one entry per domain, `name: {{path: file}}`.")
        if not isinstance(root, yaml.MappingNode):
            raise CorpusError(f"{path}: is not a mapping; write one entry per domain, `name: {{path: file}}`.")
        _refuse_twice(root, path, set())
        entries = []
        for key, value in root.value:
            place = f"{path}, line {key.start_mark.line + 1}"
            where: dict[str | None, str] = {}
            if isinstance(value, yaml.MappingNode):
                where = {part.value: f"{path}, line {part.start_mark.line + 1}" for part, _ in value.value}
            name = loader.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise CorpusError(
                    f"{place}: YAML reads the domain name {key.value!r} as {name!r}, not as text; put it in quotes."
                )
            entries.append(_entry(name, loader.construct_object(value, deep=True), place, where))
        return entries
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        spot = f", line {mark.line + 1}" if mark else ""
        problem = getattr(fault, "problem", None) or getattr(fault, "reason", None) or "a fault"
        raise CorpusError(f"{path}{spot}: not valid YAML ({problem}); mend the line.") from None
    except RecursionError:
        raise CorpusError(f"{path}: is nested too deeply; write one entry per domain.") from None
    finally:
        loader.dispose()


def _refuse_twice(node: Any, path: Path, seen: set[int]) -> None:
    """YAML lets a later key replace an earlier one in silence; that would drop a domain."""
    if id(node) in seen:
        return
    seen.add(id(node))
    children = []
    if isinstance(node.value, list):
        names: dict[str, int] = {}
        for item in node.value:
            if isinstance(item, tuple):
                key, value = item
                if isinstance(key.value, str):
                    line = key.start_mark.line + 1
                    if key.value in names and key.value != "<<":
                        raise CorpusError(
                            f"{path}, line {line}: {key.value!r} is named twice, first on line {names[key.value]}; "
                            "rename or remove one."
                        )
                    names[key.value] = line
                children.append(value)
            else:
                children.append(item)
    for child in children:
        _refuse_twice(child, path, seen)
