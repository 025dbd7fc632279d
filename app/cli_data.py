"""Commands about what a user brings: init, validate, measure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError, CorpusError, InputError
from .cli_options import Common, command, setting, words
from .config import Flag, KinfoldConfig
from .session import check_target

if TYPE_CHECKING:
    from ..corpora import Corpora

__all__ = ["corpora_of", "register"]

CorporaArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="CORPORA",
        help="Folder with one file or sub-folder per domain, or a YAML manifest.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""

    @command(app)
    def init(
        common: Common,
        file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path("kinfold.yaml"),
        corpora: Annotated[str | None, typer.Option("--corpora", help="Corpora to put into it.")] = None,
        model: Annotated[str | None, typer.Option("--model", help="Base model to put into it.")] = None,
        force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
    ) -> None:
        """Write a starter configuration: every setting with its meaning and default.

        For example:

          $ kinfold init
          $ kinfold init study.yaml --corpora my-corpora --model my-model
        """
        from .._files import write_text
        from .starter import starter

        check_target(file, folder=False, flag="FILE")
        if file.exists() and not force:
            raise InputError(f"{file}: exists already; name another file, or add --force to write over it.")
        write_text(file, starter(corpora=corpora, model=model))
        common.session.show(f"Wrote {file}. Edit it, then: kinfold validate -c {file}")
        common.session.answer({"config": str(file)})

    @command(app)
    def validate(
        common: Common,
        corpora: CorporaArgument = None,
        model: Annotated[str | None, setting("model")] = None,
        plan: Annotated[Path | None, typer.Option("--plan", help="Also check a plan against the corpora.")] = None,
        strict: Annotated[bool | None, setting("strict")] = None,
        limit: Annotated[int | None, setting("limit")] = None,
    ) -> None:
        """Check corpora, configuration, model and plan; train nothing.

        Reads every record once and prints what it found per domain, bad records with file and line. Ends with
        exit code 2 when a record is bad.

        For example:

          $ kinfold validate my-corpora
          $ kinfold validate -c kinfold.yaml --strict
        """
        from .checks import checked

        config = common.resolve({"corpora": corpora, "model": model, "strict": strict, "limit": limit}).config
        if config.corpora.source is None and common.config is None and model is None and plan is None:
            raise ConfigError("nothing to check; name a corpora folder, a plan or a configuration (-c FILE).")
        result = checked(config, plan, common.progress)
        common.session.show(*result.tables())
        common.session.answer(result.as_json())
        if result.bad:
            raise CorpusError(
                f"{result.bad} bad record{'s' * (result.bad > 1)}, named above; mend them, or accept that every other "
                "command skips and counts them."
            )

    @command(app)
    def measure(
        common: Common,
        corpora: CorporaArgument = None,
        out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the relations.")] = Path(
            "relations"
        ),
        model: Annotated[str | None, setting("model")] = None,
        tokenizer: Annotated[str | None, setting("tokenizer")] = None,
        measures: Annotated[str | None, setting("measures", example="js,synergy,mmd2")] = None,
        embedder: Annotated[str | None, setting("embedder")] = None,
        tokens: Annotated[int | None, setting("tokens")] = None,
        samples: Annotated[int | None, setting("samples")] = None,
        draws: Annotated[int | None, setting("draws")] = None,
        permutations: Annotated[int | None, setting("permutations")] = None,
        probe: Annotated[
            bool,
            typer.Option(
                "--validate", help="Also train small probes and rank every measure by how well it predicts transfer."
            ),
        ] = False,
        figures: Annotated[
            Path | None, typer.Option("--figures", metavar="DIR", help="Also write heatmaps as SVG and PNG.")
        ] = None,
        show: Annotated[str, typer.Option("--show", help="The measure shown in the terminal.")] = "js",
        strict: Annotated[bool | None, setting("strict")] = None,
        limit: Annotated[int | None, setting("limit")] = None,
    ) -> None:
        """Measure how the domains relate: divergence, vocabulary, meaning, synergy.

        Writes relations.npz and relations.json: an interval for every pair, and a noise floor where a measure has one.

        For example:

          $ kinfold measure my-corpora -o relations
          $ kinfold measure my-corpora --model my-model --embedder model -o relations
          $ kinfold measure -c kinfold.yaml --set measure.bootstrap=500
        """
        from rich.text import Text

        from . import api
        from .progress import clean
        from .report.terminal import heatmap, relations_table
        from .tables import agreement_table, validation_line, validation_table

        check_target(out, folder=True)
        check_measure(show)
        values = {
            "corpora": corpora, "model": model, "tokenizer": tokenizer, "embedder": embedder, "tokens": tokens,
            "samples": samples, "draws": draws, "permutations": permutations, "strict": strict, "limit": limit,
            "measures": words(measures),
        }  # fmt: skip
        extra = [Flag(("measure", "validate"), "probe", "--validate")] if probe else []
        config = common.resolve(values, extra).config
        relations = api.measure(
            corpora_of(config),
            tokenizer=config.tokenizer,
            model=config.model,
            out=out,
            settings=config.measure,
            seed=config.seed,
            progress=common.progress,
        )
        written = [out / "relations.json", out / "relations.npz"]
        if figures is not None:
            from .report import write_figures

            written += write_figures(None, figures, relations=relations)
        if common.session.for_people:
            shown = show if show in relations.names else relations.names[0]
            if shown != show:
                common.progress.warn(f"--show {show}: was not measured; {shown} is shown instead.")
            common.session.show(heatmap(relations, shown), relations_table(relations))
            for warning in relations.warnings:
                common.progress.warn(warning)
            if relations.agreement:
                common.session.show("", agreement_table(relations))
            if relations.validation:
                advice = relations.validation.get("advice")
                sentence = [Text(f"Advice: {clean(str(advice))}")] if advice else []
                common.session.show("", validation_line(relations), validation_table(relations), *sentence)
            common.session.show(f"Wrote {out}. Next: kinfold plan {out} -o plan.json")
        common.session.answer(
            {
                "relations": str(out),
                "files": [str(path) for path in written],
                "domains": list(relations.domains),
                "measures": list(relations.names),
                "tokens": dict(zip(relations.domains, relations.tokens.tolist(), strict=True)),
                "matrices": {name: relations.matrix(name) for name in relations.names},
                "digest": relations.digest,
                "warnings": list(relations.warnings),
                "agreement": relations.agreement,
                "validation": relations.validation,
                "seed": config.seed,
            }
        )


def check_measure(name: str) -> None:
    """Refuse a measure that does not exist, before hours of measuring.

    Raises
    ------
    ConfigError
        The nearest name is in the message.
    """
    from difflib import get_close_matches

    from ..metrics import MEASURES

    if name not in MEASURES:
        close = get_close_matches(name, MEASURES, n=1)
        remedy = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(MEASURES)}."
        raise ConfigError(f"--show {name}: is not a measure; {remedy}")


def corpora_of(config: KinfoldConfig) -> Corpora:
    """Open the corpora that the configuration names.

    Raises
    ------
    ConfigError
        When it names none.
    """
    from ..corpora import load_corpora

    section = config.corpora
    if section.source is None:
        raise ConfigError("no corpora named; give their folder or manifest, or set corpora.path in the configuration.")
    return load_corpora(
        section.source, strict=section.strict, limit=section.limit, validation=section.validation, test=section.test
    )
