"""The command line. Thin: parse, call, print.

Commands live beside this file, by subject: `cli_data` (init, validate, measure), `cli_plan` (plan), `cli_train` (train,
evaluate, export), `cli_compare` and `cli_look` (report, demo).
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .. import __version__
from . import cli_compare, cli_data, cli_look, cli_plan, cli_train
from .session import say_error, write_json_line

__all__ = ["app", "main"]

app = typer.Typer(
    name="kinfold",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli_look.register_demo(app)
cli_data.register(app)
cli_plan.register(app)
cli_train.register(app)
cli_compare.register(app)
cli_look.register(app)


def _version(asked: bool) -> None:
    if asked:
        print(f"kinfold {__version__}")
        raise typer.Exit


@app.callback()
def kinfold(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Measure how text domains relate, prove which to fine-tune together, train them stage by stage.

    Start with `kinfold demo` (no download, a few minutes), or with your own folder of one file per domain:

      $ kinfold measure my-corpora --model my-model -o relations
      $ kinfold plan relations -o plan.json
      $ kinfold train plan.json --corpora my-corpora --model my-model -o run
      $ kinfold report run
    """


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 (our fault or training's), 2 (yours), 130 (interrupted)."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        result = app(words, prog_name="kinfold", standalone_mode=False)
    except BrokenPipeError:
        from .session import EXIT_PIPE, swallow_pipe

        swallow_pipe()
        return EXIT_PIPE
    except KeyboardInterrupt:
        say_error("interrupted.")
        return 130
    except Exception as fault:
        code = getattr(fault, "exit_code", None)
        format_message = getattr(fault, "format_message", None)
        if code is None or format_message is None:
            raise
        message = " ".join(str(format_message()).split())
        if type(fault).__name__ != "NoArgsIsHelpError":
            say_error(f"{message} (see kinfold {_command_of(words)}--help)")
        else:
            print(message)
        if "--json" in words:
            write_json_line(sys.stdout, {"error": {"type": "UsageError", "message": message, "exit_code": code}})
        return int(code)
    return result if isinstance(result, int) else 0


def _command_of(words: list[str]) -> str:
    known = {info.name or getattr(info.callback, "__name__", "") for info in app.registered_commands}
    return next((f"{word} " for word in words if word in known), "")


if __name__ == "__main__":
    sys.exit(main())
