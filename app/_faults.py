"""Turn what pydantic found into sentences a user can act on: path, place, what is allowed, and "did you mean"."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin

from ..errors import ConfigError
from ._yaml import KeyPath

__all__ = ["Fault", "all_paths", "dotted", "faults_of", "hints", "members", "raise_faults", "real_path", "type_at"]


@dataclasses.dataclass(frozen=True)
class Fault:
    """One thing wrong: where in the configuration, and the sentence without its place."""

    path: KeyPath
    sentence: str


def dotted(path: KeyPath) -> str:
    """The path as a user writes it.

    >>> dotted(("plan", "stages", 0))
    'plan.stages[0]'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


@cache
def hints(kind: type) -> dict[str, Any]:
    """The resolved annotations of a settings dataclass's fields, in order."""
    resolved = typing.get_type_hints(kind)
    return {field.name: resolved[field.name] for field in dataclasses.fields(kind)}


def members(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(inner for member in get_args(kind) for inner in members(member))
    return (kind,)


def type_at(kind: Any, path: KeyPath) -> Any | None:
    """The annotation at `path` below `kind`, or None where there is none."""
    if not path:
        return kind
    head, rest = path[0], path[1:]
    for member in members(kind):
        found = None
        if dataclasses.is_dataclass(member) and isinstance(member, type):
            below = hints(member).get(str(head))
            found = type_at(below, rest) if below is not None else None
        elif get_origin(member) in (tuple, list) and isinstance(head, int):
            arguments = get_args(member)
            element = (
                arguments[0]
                if len(arguments) < 2 or arguments[-1] is Ellipsis
                else arguments[min(head, len(arguments) - 1)]
            )
            found = type_at(element, rest)
        elif _is_mapping(member) and get_args(member):
            found = type_at(get_args(member)[1], rest)
        if found is not None:
            return found
    return None


def all_paths(kind: type, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every settings path below a settings dataclass, sections included."""
    for name, annotation in hints(kind).items():
        yield (*prefix, name)
        for member in members(annotation):
            if dataclasses.is_dataclass(member) and isinstance(member, type):
                yield from all_paths(member, (*prefix, name))


def _is_mapping(kind: Any) -> bool:
    origin = get_origin(kind) or kind
    return isinstance(origin, type) and issubclass(origin, Mapping)


def describe(kind: Any) -> str:
    """What a value of this annotation looks like, in words.

    >>> describe(int | tuple[int, int] | None)
    'a whole number, a list of 2 (each a whole number) or null'
    """
    parts: list[str] = []
    for member in members(kind):
        part = _describe_one(member)
        if part not in parts:
            parts.append(part)
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _describe_one(kind: Any) -> str:
    simple = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    if kind in simple:
        return simple[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (tuple, list):
        if len(arguments) == 1 or arguments[-1] is Ellipsis:
            return f"a list (each {describe(arguments[0])})"
        return f"a list of {len(arguments)} (each {describe(arguments[0])})"
    if _is_mapping(kind):
        return f"a mapping of names to {describe(arguments[1])}" if arguments else "a mapping"
    if dataclasses.is_dataclass(kind):
        return "a mapping of settings"
    return "any value"


def faults_of(errors: Sequence[Mapping[str, Any]], data: Any, root: type) -> list[Fault]:
    """Sentences for pydantic's `errors()` about `data`, one per path, in the order of the file.

    Parameters
    ----------
    errors
        `ValidationError.errors()`.
    data
        The plain value that was validated.
    root
        The settings dataclass it was validated against.
    """
    found: dict[KeyPath, Fault] = {}
    for error in errors:
        path = real_path(error["loc"], data)
        if path in found:
            continue  # another member of the same union; the sentence already names them all
        if any(len(path) > len(other) and path[: len(other)] == other for other in found):
            continue
        for other in [other for other in found if other[: len(path)] == path]:
            del found[other]
        found[path] = Fault(path, _sentence(error, path, data, root))
    return list(found.values())


def real_path(loc: tuple[str | int, ...], data: Any) -> KeyPath:
    """`loc` without the labels that pydantic inserts for the members of a union."""
    path: list[str | int] = []
    part: Any
    for part in loc:
        if (isinstance(data, Mapping) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        ):
            data = data[part]
        else:
            continue
        path.append(part)
    return tuple(path)


def _value_at(data: Any, path: KeyPath) -> Any:
    for part in path:
        data = data[part]
    return data


def _sentence(error: Mapping[str, Any], path: KeyPath, data: Any, root: type) -> str:
    if error["type"] == "unexpected_keyword_argument":
        return _unknown(path, root)
    if error["type"] == "value_error":
        cause = error.get("ctx", {}).get("error")
        text = str(cause) if cause is not None else str(error["msg"])
        if not path or text.startswith(str(path[0])):
            return text
        if text.startswith(f"{path[-1]}."):  # a nested section that does not know what it is part of
            return f"{dotted(path[:-1])}.{text}"
        return f"{dotted(path)}: {text}"
    if not path:
        return f"the configuration cannot be read: {error['msg']}."
    value = _value_at(data, path)
    shown = _shown(value)
    kind = type_at(root, path)
    if kind is None:
        return f"{dotted(path)}={shown}: {error['msg']}."
    remedy = ""
    allowed = [str(item) for member in members(kind) if get_origin(member) is Literal for item in get_args(member)]
    if isinstance(value, str) and (close := get_close_matches(value, allowed, n=1)):
        remedy = f"; did you mean {close[0]}?"
    elif isinstance(value, str) and bool in members(kind) and value.lower() in ("yes", "no", "on", "off", "y", "n"):
        remedy = f"; write {'true' if value.lower() in ('yes', 'on', 'y') else 'false'}."
    return f"{dotted(path)}={shown}: must be {describe(kind)}{remedy or '.'}"


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unknown(path: KeyPath, root: type) -> str:
    parent, key = path[:-1], str(path[-1])
    kind = type_at(root, parent)
    section = next((m for m in members(kind) if dataclasses.is_dataclass(m) and isinstance(m, type)), root)
    names = list(hints(section))
    where = f" of {dotted(parent)}" if parent else ""
    if close := get_close_matches(key, names, n=1, cutoff=0.6):
        return f"{dotted(path)} is not a setting; did you mean {dotted((*parent, close[0]))}?"
    everywhere = [dotted(other) for other in all_paths(root)]
    same = [other for other in everywhere if other.rsplit(".", 1)[-1] == key]
    if not same:
        leaves = {other.rsplit(".", 1)[-1]: other for other in everywhere}
        same = [leaves[leaf] for leaf in get_close_matches(key, list(leaves), n=1, cutoff=0.75)]
    if same:
        return f"{dotted(path)} is not a setting; did you mean {' or '.join(same[:3])}?"
    listed = f"are {', '.join(names)}" if len(names) <= 10 else "are listed by `kinfold init`"
    return f"{dotted(path)} is not a setting; the settings{where} {listed}."


def raise_faults(sentences: Sequence[str]) -> None:
    """Raise one ConfigError that holds every sentence; do nothing where there is none."""
    if len(sentences) == 1:
        raise ConfigError(sentences[0])
    if sentences:
        raise ConfigError(
            f"{len(sentences)} faults in the configuration:\n" + "\n".join(f"  {text}" for text in sentences)
        )
