"""The compare command, which says whether a plan is worth it on the corpora at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from .cli_data import CorporaArgument, corpora_of
from .cli_options import Common, command, numbers, setting, words
from .progress import clean
from .session import check_target

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the compare command to `app`."""

    @command(app)
    def compare(
        common: Common,
        corpora: CorporaArgument = None,
        model: Annotated[str | None, setting("model")] = None,
        out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the results.")] = Path(
            "comparison"
        ),
        relations: Annotated[
            Path | None, typer.Option("--relations", metavar="DIR", help="Relations to use; measured where not given.")
        ] = None,
        plan: Annotated[
            Path | None, typer.Option("--plan", metavar="FILE", help="The plan to judge; made where not given.")
        ] = None,
        methods: Annotated[str | None, setting("methods", metavar="A,B", example="joint,random,louvain")] = None,
        seeds: Annotated[str | None, setting("seeds", metavar="N,N", example="0,1,2")] = None,
        rounds: Annotated[int | None, setting("rounds")] = None,
        ablate: Annotated[str | None, setting("ablate", metavar="A,B", example="ssl,align")] = None,
        grid_ssl: Annotated[str | None, setting("grid_ssl", metavar="N,N", example="0,0.1,1")] = None,
        grid_align: Annotated[str | None, setting("grid_align", metavar="N,N", example="0,0.1,1")] = None,
        token_noise: Annotated[str | None, setting("token_noise", metavar="N,N", example="0.1,0.3")] = None,
        label_noise: Annotated[str | None, setting("label_noise", metavar="N,N", example="0.2")] = None,
        imbalance: Annotated[str | None, setting("imbalance", metavar="N,N", example="3,10")] = None,
        equal: Annotated[str | None, setting("equal")] = None,
        serving: Annotated[str | None, setting("serving")] = None,
        jobs: Annotated[int | None, setting("jobs")] = None,
        keep_runs: Annotated[bool | None, setting("keep_runs")] = None,
        epochs: Annotated[float | None, setting("epochs")] = None,
        documents: Annotated[int | None, setting("documents")] = None,
        lr: Annotated[float | None, setting("lr")] = None,
        limit: Annotated[int | None, setting("limit")] = None,
    ) -> None:
        """Train the plan beside its rivals at equal tokens, several seeds, with paired intervals.

        Run it again in the same folder to go on after an interruption: what is there is not trained again.

        For example:

          $ kinfold compare my-corpora --model my-model -o comparison
          $ kinfold compare -c kinfold.yaml --methods joint,random --seeds 0,1
          $ kinfold compare -c kinfold.yaml --ablate ssl,align -o ablations
        """
        check_target(out, folder=True)
        values = {
            "corpora": corpora, "model": model, "methods": words(methods), "seeds": numbers(seeds, "--seeds", int),
            "rounds": rounds, "ablate": words(ablate), "equal": equal, "serving": serving, "jobs": jobs,
            "keep_runs": keep_runs, "epochs": epochs, "documents": documents,
            "lr": lr, "limit": limit, "grid_ssl": numbers(grid_ssl, "--grid-ssl", float),
            "grid_align": numbers(grid_align, "--grid-align", float),
            "token_noise": numbers(token_noise, "--token-noise", float),
            "label_noise": numbers(label_noise, "--label-noise", float),
            "imbalance": numbers(imbalance, "--imbalance", float),
        }  # fmt: skip
        config = common.resolve(values).config
        if config.model is None:
            raise ConfigError("no base model named; give --model with a folder or hub id, or set it in the settings.")
        from rich.text import Text

        from . import api
        from .compare import comparison_table

        common.session.resume = common.session.same_command
        result = api.compare(
            corpora_of(config),
            model=config.model,
            out=out,
            relations=relations,
            plan=plan,
            settings=config.compare,
            train=config.train,
            plan_settings=config.plan,
            measure_settings=config.measure,
            seed=config.seed,
            progress=common.progress,
        )
        if common.session.for_people:
            common.session.show(comparison_table(result), *(Text(clean(line)) for line in result.lines))
            common.session.show(f"Wrote {out}. Read {out / 'compare.md'}.")
        common.session.answer({"comparison": str(out), **result.to_dict()})
