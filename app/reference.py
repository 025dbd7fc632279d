"""The reference sections of `docs/cli.md` and `docs/configuration.md`, made from the code they describe.

`python -m kinfold.app.reference docs` writes them between the markers in those files; a test fails while they lag.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

from .._files import write_text
from ..errors import InputError

__all__ = ["commands_reference", "refreshed", "settings_reference"]

_BEGIN, _END = "<!-- reference: begin -->", "<!-- reference: end -->"


def settings_reference() -> str:
    """A Markdown table of every setting, its default and its meaning, one per section."""
    from .config import settings_help

    sections: dict[str, list[str]] = {}
    for path, default, text in settings_help():
        section = path[0] if len(path) > 1 else "top level"
        shown = _shown(default)
        sections.setdefault(section, []).append(f"| `{'.'.join(path)}` | {shown} | {_cell(text)} |")
    parts = [
        f"### {name}\n\n| setting | default | meaning |\n|---|---|---|\n" + "\n".join(rows)
        for name, rows in sections.items()
    ]
    return "\n\n".join(parts)


def commands_reference() -> str:
    """Markdown for every command: what it does, its examples, its arguments and options."""
    import typer

    from .cli import app

    group: Any = typer.main.get_command(app)
    parts = []
    for info in app.registered_commands:
        name = info.name or getattr(info.callback, "__name__", "")
        command = group.commands[name]
        about, _, examples = inspect.cleandoc(info.help or "").replace("\\[", "[").partition("For example:")
        lines = [f"### kinfold {name}", "", about.strip(), "", "```bash"]
        lines += [line.strip().removeprefix("$ ") for line in examples.strip().splitlines()]
        lines += ["```", "", "| option | meaning |", "|---|---|"]
        for parameter in command.params:
            if (parameter.name or "") in ("config", "sets", "seed", "as_json", "quiet", "debug", "help"):
                continue
            names = ", ".join([*parameter.opts, *parameter.secondary_opts])
            shown = f"`{names}`"
            if parameter.param_type_name == "argument":
                shown = f"`{parameter.metavar}`" if parameter.required else f"`[{parameter.metavar}]`"
            lines.append(f"| {shown} | {_cell(str(getattr(parameter, 'help', '') or ''))} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _shown(value: Any) -> str:
    import json

    if isinstance(value, (list, dict)):
        text = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, bool) or value is None:
        text = {None: "null", True: "true", False: "false"}[value]
    else:
        text = str(value)
    return f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("\\[", "[").replace("|", "\\|").replace("<", "&lt;")


def refreshed(text: str, reference: str) -> str:
    """`text` with what stands between the markers replaced by `reference`.

    Raises
    ------
    InputError
        When the markers are missing.
    """
    pattern = re.compile(re.escape(_BEGIN) + ".*?" + re.escape(_END), re.DOTALL)
    if not pattern.search(text):
        raise InputError(f"the document lacks the markers {_BEGIN} and {_END}; add them where the reference belongs.")
    return pattern.sub(lambda _: f"{_BEGIN}\n\n{reference}\n\n{_END}", text)


def main(folder: Path) -> None:
    """Rewrite the reference sections of the documents in `folder`."""
    for name, reference in (("cli.md", commands_reference()), ("configuration.md", settings_reference())):
        path = folder / name
        write_text(path, refreshed(path.read_text(encoding="utf-8"), reference))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
