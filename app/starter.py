"""The commented starter configuration, made from the settings themselves so that it can never lag behind them."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Mapping
from typing import Any

from .config import KinfoldConfig, dump_yaml, field_info, plain

__all__ = ["starter"]

_HEAD = """\
# Kinfold configuration. Written by `kinfold init`.
# Every setting is listed with its default. A line that begins with `#` and no space after it is a setting at its
# default: take the `#` away and change the value. Flags on the command line win over this file, --set over both.
# Relative paths are relative to this file.
"""


def starter(*, corpora: str | None = None, model: str | None = None) -> str:
    """The text of a configuration with every setting, its meaning and its default.

    Parameters
    ----------
    corpora, model
        Put in as live values; None leaves an example, commented out.
    """
    lines = [_HEAD]
    values = plain(KinfoldConfig())
    given: dict[str, Any] = {"corpora": {"path": corpora}, "model": model}
    examples: dict[str, Any] = {"corpora": {"path": "my-corpora"}, "model": "my-model"}
    for name in values:
        _write(lines, (name,), values[name], given.get(name), examples.get(name))
    return "\n".join(lines) + "\n"


def _write(lines: list[str], path: tuple[str, ...], value: Any, given: Any, example: Any) -> None:
    indent = "  " * (len(path) - 1)
    info = field_info(path)
    help_lines = textwrap.wrap(str(info.metadata.get("help", "")), 100 - len(indent))
    lines.extend(f"{indent}# {line}" for line in help_lines)
    if _is_section(info):
        lines.append(f"{indent}{path[-1]}:")
        for key, item in value.items():
            _write(lines, (*path, key), item, (given or {}).get(key), (example or {}).get(key))
    elif given is not None:
        lines.append(f"{indent}{_pair(path[-1], given)}")
    else:
        lines.append(f"{indent}#{_pair(path[-1], value if example is None else example)}")
    if len(path) == 1:
        lines.append("")


def _is_section(info: dataclasses.Field[Any]) -> bool:
    factory: Any = info.default_factory
    return isinstance(factory, type) and dataclasses.is_dataclass(factory)


def _pair(key: str, value: Any) -> str:
    """`key: value` on one line."""
    import json

    if isinstance(value, (list, Mapping)):
        # JSON is YAML, and fits a line.
        return f"{key}: {json.dumps(value, ensure_ascii=False)}"
    return dump_yaml({key: value}).replace("\n", " ").strip()
