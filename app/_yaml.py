"""Read YAML as people mean it, and remember on which line every value stands.

PyYAML follows YAML 1.1, where ``5e-5`` is text, ``no`` is false, ``010`` is eight and ``1:30`` is ninety. This reader
follows the core schema of YAML 1.2 (section 10.3) instead, reports duplicate keys (PyYAML keeps the last in silence)
and returns a line for each path, so that a fault found later can name its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError

__all__ = ["Document", "KeyPath", "parse_scalar", "read_yaml"]

KeyPath = tuple[str | int, ...]

_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
_TRUE = re.compile(r"(?:true|True|TRUE)\Z")
_FALSE = re.compile(r"(?:false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?[0-9](?:_?[0-9])*\Z")
_BASED = re.compile(r"0(?:x[0-9a-fA-F]+|o[0-7]+)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9](?:_?[0-9])*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)\Z")
_NAN = re.compile(r"\.(?:nan|NaN|NAN)\Z")

_MAX_NODES = 200_000
"""Aliases can make a short file unfold without end; no honest configuration has this many values."""


@dataclass(frozen=True)
class Document:
    """What a YAML file says: its value, the line of each path, and its own faults."""

    value: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)
    faults: tuple[tuple[int, str], ...] = ()
    """(line, sentence) for each fault that is in the writing rather than in the settings, such as a duplicate key."""

    def line(self, path: KeyPath) -> int | None:
        """The 1-based line of `path`, or of the nearest parent that has one."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None


def parse_scalar(text: str) -> Any:
    """A plain YAML 1.2 scalar: null, bool, int, float or the text itself.

    A number with an exponent and no fraction (``1e6``) becomes an int, which fits both int and float settings.

    >>> parse_scalar("5e-5"), parse_scalar("1e6"), parse_scalar("no"), parse_scalar("010"), parse_scalar("~")
    (5e-05, 1000000, 'no', 10, None)
    """
    if _NULL.match(text):
        return None
    if _TRUE.match(text):
        return True
    if _FALSE.match(text):
        return False
    if _INT.match(text):
        return int(text) if len(text) < 4000 else text
    if _BASED.match(text):
        return int(text, 0)
    if _FLOAT.match(text):
        number = float(text)
        if "e" in text.lower() and number.is_integer() and abs(number) < 2**53:
            return int(number)
        return number
    if _INFINITE.match(text):
        return float(text.replace(".", "", 1))
    if _NAN.match(text):
        return float("nan")
    return text


def read_yaml(path: Path) -> Document:
    """Read one YAML document from `path`.

    Raises
    ------
    ConfigError
        When the file cannot be read or is not YAML; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file; `kinfold init {path}` writes one.") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: a folder, not a configuration file; name the YAML file itself.") from None
    except UnicodeDecodeError as fault:
        raise ConfigError(f"{path}: byte {fault.start} is not UTF-8; save the file as UTF-8.") from None
    except OSError as fault:
        raise ConfigError(f"{path}: cannot be read ({fault.strerror}); check the path and its permissions.") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Document:
    """Parse one YAML document; `name` is what error messages call it."""
    import yaml

    try:
        documents = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        place = f", line {mark.line + 1}" if mark else ""
        hint = "; indent with spaces" if "\\t" in str(fault.problem) else "; check indentation, quotes and colons"
        raise ConfigError(f"{name}{place}: not valid YAML ({fault.problem or fault.context}){hint}.") from None
    except yaml.YAMLError as fault:
        raise ConfigError(f"{name}: not valid YAML ({str(fault).splitlines()[0]}); save it as plain UTF-8.") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply; flatten it.") from None
    if len(documents) > 1:
        line = documents[1].start_mark.line + 1
        raise ConfigError(f"{name}, line {line}: a second YAML document begins; keep one document in a file.")
    if not documents or documents[0] is None:
        return Document(value=None)
    walker = _Walker(name)
    value = walker.value(documents[0], ())
    return Document(value=value, lines=walker.lines, faults=tuple(walker.faults))


class _Walker:
    """Turn YAML nodes into plain Python values and note lines and faults on the way."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[KeyPath, int] = {}
        self.faults: list[tuple[int, str]] = []
        self._open: set[int] = set()
        self._count = 0

    def value(self, node: Any, path: KeyPath) -> Any:
        import yaml

        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self._count += 1
        if self._count > _MAX_NODES or id(node) in self._open:
            raise ConfigError(f"{self.name}, line {line}: an alias unfolds without end; write the values out.")
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.ScalarNode):
                return self._scalar(node, line)
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
            return self._mapping(node, path)
        finally:
            self._open.discard(id(node))

    def _scalar(self, node: Any, line: int) -> Any:
        if node.style in ("'", '"', "|", ">"):
            return node.value
        tag = node.tag.removeprefix("tag:yaml.org,2002:")
        if tag.startswith("!") or tag in ("binary", "python"):
            self.faults.append((line, f"the tag {node.tag} is not understood; write a plain value."))
            return None
        return parse_scalar(node.value)

    def _mapping(self, node: Any, path: KeyPath) -> dict[str, Any]:
        import yaml

        result: dict[str, Any] = {}
        seen: dict[str, int] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.faults.append(
                    (line, "a key must be plain text; put the list or mapping on the right of the colon.")
                )
                continue
            key = str(key_node.value)
            if key == "<<" and key_node.style is None:
                for item in self._merged(value_node, path):
                    merged = {**item, **merged}
                continue
            if key in seen:
                dotted = ".".join(str(part) for part in (*path, key))
                self.faults.append((line, f"{dotted} is given twice (first on line {seen[key]}); keep one."))
                continue
            seen[key] = line
            self.lines[(*path, key)] = line
            result[key] = self.value(value_node, (*path, key))
        return {**merged, **result}

    def _merged(self, node: Any, path: KeyPath) -> Iterator[dict[str, Any]]:
        import yaml

        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for item in nodes:
            if isinstance(item, yaml.MappingNode):
                yield self.value(item, path)
            else:
                self.faults.append((item.start_mark.line + 1, "`<<` merges mappings only; name an anchored mapping."))
