"""Commands that show: demo and report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_options import Common, command
from .session import check_target

__all__ = ["register", "register_demo"]


def register_demo(app: typer.Typer) -> None:
    """Add the demo to `app`; it comes first in the help."""

    @command(app)
    def demo(
        common: Common,
        out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for everything it makes.")] = Path(
            "kinfold-demo"
        ),
        small: Annotated[bool, typer.Option("--small", help="A shorter demo: under a minute, a weaker model.")] = False,
        cache: Annotated[
            Path | None,
            typer.Option(
                "--cache", metavar="DIR", help="Where the base model is kept between demos.", show_default=False
            ),
        ] = None,
    ) -> None:
        """See everything once, on text that is already on this machine: no download, a few minutes.

        Harvests eight or more domains and a general corpus from installed packages, pretrains a small base model
        (kept for the next time), then measures, plans, trains, evaluates and reports.

        For example:

          $ kinfold demo
          $ kinfold demo --small -o /tmp/look --seed 1
        """
        check_target(out, folder=True)
        config = common.resolve({}).config
        from .demo import DemoSettings, run_demo

        common.session.resume = common.session.same_command

        result = run_demo(
            out,
            seed=config.seed,
            settings=DemoSettings.small() if small else DemoSettings(),
            cache=cache,
            progress=common.progress,
        )
        common.session.show(*result.lines)
        common.session.answer(result.as_json())


def register(app: typer.Typer) -> None:
    """Add the other commands of this file to `app`."""

    @command(app)
    def report(
        common: Common,
        run: Annotated[
            Path, typer.Argument(metavar="RUN", help="Run folder; or, before training, a folder of relations.")
        ],
        out: Annotated[
            Path | None,
            typer.Option("--out", "-o", metavar="FILE", help="The page (default: report.html in the folder)."),
        ] = None,
        plan: Annotated[
            Path | None, typer.Option("--plan", metavar="FILE", help="With relations: the plan made from them.")
        ] = None,
        figures: Annotated[
            Path | None, typer.Option("--figures", metavar="DIR", help="Also write the pictures as SVG and PNG.")
        ] = None,
    ) -> None:
        """Write the report: one HTML page that needs no network.

        For example:

          $ kinfold report run
          $ kinfold report run --figures pictures
          $ kinfold report relations --plan plan.json -o before.html
        """
        from . import api

        if out is not None:
            check_target(out, folder=False)
        if figures is not None:
            check_target(figures, folder=True, flag="--figures")
        page = api.report(run, out, plan=plan, figures=figures)
        common.session.show(f"Wrote {page}")
        pictures = sorted(str(path) for path in figures.iterdir()) if figures is not None else []
        common.session.answer({"report": str(page), "figures": pictures})
