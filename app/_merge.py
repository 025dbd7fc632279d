"""Lay the sources of a configuration over one another, and remember where each value came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ._yaml import Document, KeyPath, parse_yaml

__all__ = ["Lines", "clear", "expand", "merge", "nest", "parse_set", "relative"]


class Lines:
    """The origin of values in a file: looked up per path."""

    def __init__(self, name: str, document: Document) -> None:
        self.name, self.document = name, document

    def at(self, path: KeyPath) -> str:
        """The file and line of `path`."""
        line = self.document.line(path)
        return self.name if line is None else f"{self.name}, line {line}"


def expand(value: Any) -> Any:
    """Accept `corpora: folder` for `corpora: {path: folder}`."""
    if isinstance(value, dict) and isinstance(value.get("corpora"), str):
        return {**value, "corpora": {"path": value["corpora"]}}
    return value


def relative(value: dict[str, Any], folder: Path) -> None:
    """Make the paths of a file relative to the file. A hub id stays as it is unless such a folder exists."""
    corpora = value.get("corpora")
    if isinstance(corpora, dict):
        if isinstance(corpora.get("path"), str):
            corpora["path"] = str(folder / Path(corpora["path"]).expanduser())
        domains = corpora.get("domains")
        if isinstance(domains, dict):
            for name, entry in domains.items():
                if isinstance(entry, str):
                    domains[name] = str(folder / Path(entry).expanduser())
                elif isinstance(entry, dict) and isinstance(entry.get("path"), str):
                    entry["path"] = str(folder / Path(entry["path"]).expanduser())
    for key in ("model", "tokenizer"):
        if isinstance(value.get(key), str) and value[key] and (folder / Path(value[key]).expanduser()).exists():
            value[key] = str(folder / Path(value[key]).expanduser())


def nest(path: Sequence[str], value: Any) -> dict[str, Any]:
    """`value` below the keys of `path`."""
    for part in reversed(path):
        value = {part: value}
    return dict(value)


def merge(
    into: dict[str, Any], value: Mapping[str, Any], path: KeyPath, origins: dict[KeyPath, str], origin: str | Lines
) -> None:
    """Lay `value` over `into`; mappings merge key by key, everything else replaces."""
    for key, item in value.items():
        here = (*path, key)
        origins[here] = origin if isinstance(origin, str) else origin.at(here)
        if isinstance(item, dict) and isinstance(into.get(key), dict):
            merge(into[key], item, here, origins, origin)
        elif isinstance(item, dict):
            into[key] = {}
            merge(into[key], item, here, origins, origin)
        else:
            into[key] = item
            if isinstance(item, list) and isinstance(origin, Lines):
                for index in range(len(item)):
                    origins[(*here, index)] = origin.at((*here, index))


def parse_set(text: str) -> tuple[tuple[str, ...], Any]:
    """The path and value of `--set a.b=c`."""
    key, equals, written = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise ConfigError(f"--set {text}: must look like section.key=value, for example --set plan.lam=0.5.")
    document = parse_yaml(written, f"--set {key}")
    if document.faults:
        raise ConfigError(f"--set {key}: {document.faults[0][1]}")
    return path, document.value


def clear(data: dict[str, Any], path: Sequence[str]) -> None:
    """--set replaces a whole value: a mapping given there is not merged with one from the file."""
    for part in path[:-1]:
        below = data.get(part)
        if not isinstance(below, dict):
            return
        data = below
    data.pop(path[-1], None)
