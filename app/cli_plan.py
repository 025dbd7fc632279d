"""The plan command: make, extend, compare and explain plans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError, RelationsError
from ._given import given_plan, given_relations
from .cli_options import Common, command, groups, pairs, setting, stage_range
from .config import Flag
from .session import check_target

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the plan command to `app`."""

    @command(app)
    def plan(
        common: Common,
        relations: Annotated[
            Path | None,
            typer.Argument(
                metavar="RELATIONS",
                help="Folder that kinfold measure wrote (default: relations).",
                show_default=False,
            ),
        ] = None,
        out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The plan's file.")] = Path("plan.json"),
        model: Annotated[
            str | None,
            setting("model", text="for budgets of gpu_memory and adapter_parameters: the base model that is trained"),
        ] = None,
        lam: Annotated[float | None, setting("lam")] = None,
        kappa: Annotated[float | None, setting("kappa")] = None,
        stages: Annotated[
            str | None, setting("stages", metavar="fewest, free, N or A:B", example="free, 3 or 2:5")
        ] = None,
        budget: Annotated[
            list[str] | None,
            setting(
                "budget",
                metavar="NAME=NUMBER",
                example="--budget tokens=2e6 --budget domains=4; also documents, characters and, with --model, "
                "gpu_memory (bytes) and adapter_parameters",
            ),
        ] = None,
        minimum: Annotated[
            list[str] | None, setting("minimum", metavar="NAME=NUMBER", example="--minimum domains=2")
        ] = None,
        must_link: Annotated[
            list[str] | None,
            setting(
                "must_link", metavar="A,B", example="""--must-link law,news (a name with a comma: '"a, b",news')"""
            ),
        ] = None,
        cannot_link: Annotated[
            list[str] | None, setting("cannot_link", metavar="A,B", example="--cannot-link law,code")
        ] = None,
        pin: Annotated[list[str] | None, setting("pin", metavar="NAME=N", example="--pin wiki=1")] = None,
        discrepancy: Annotated[str | None, setting("discrepancy")] = None,
        synergy: Annotated[str | None, setting("synergy")] = None,
        scale: Annotated[str | None, setting("scale")] = None,
        method: Annotated[str | None, setting("method")] = None,
        order: Annotated[str | None, setting("order")] = None,
        time_limit: Annotated[float | None, setting("time_limit")] = None,
        workers: Annotated[int | None, setting("workers")] = None,
        compare_solvers: Annotated[
            bool, typer.Option("--compare-solvers", help="Show every solver's answer beside the plan's.")
        ] = False,
        explain: Annotated[bool, typer.Option("--explain", help="Show why each domain is where it is.")] = False,
        extend: Annotated[
            Path | None,
            typer.Option("--extend", metavar="PLAN", help="Keep this plan's stages and only place the new domains."),
        ] = None,
        diff: Annotated[
            tuple[Path, Path] | None,
            typer.Option("--diff", metavar="PLAN PLAN", help="Compare two plans; plans nothing.", show_default=False),
        ] = None,
        figures: Annotated[
            Path | None, typer.Option("--figures", metavar="DIR", help="Also write the pictures as SVG and PNG.")
        ] = None,
    ) -> None:
        """Group the domains into stages under your budget, with a proof where one can be had.

        Maximises synergy (times lambda) minus discrepancy inside the stages, then orders the stages.

        For example:

          $ kinfold plan relations -o plan.json
          $ kinfold plan relations --budget tokens=2e6 --stages 2:4 --explain
          $ kinfold plan relations --budget gpu_memory=16e9 --model my-model
          $ kinfold plan more-relations --extend plan.json -o longer.json
          $ kinfold plan --diff plan-a.json plan-b.json
        """
        if diff is not None:
            _diff(common, diff)
            return
        from . import api

        check_target(out, folder=False)
        if extend is not None and out.exists() and extend.exists() and out.samefile(extend):
            raise InputError(f"{out}: is the plan to extend and would be replaced; name another file with -o.")
        values = {
            "model": model, "lam": lam, "kappa": kappa, "stages": stage_range(stages),
            "budget": pairs(budget, "--budget"),
            "minimum": pairs(minimum, "--minimum"), "must_link": groups(must_link, "--must-link"),
            "cannot_link": groups(cannot_link, "--cannot-link"), "pin": pairs(pin, "--pin", int),
            "discrepancy": discrepancy, "synergy": synergy, "scale": scale, "method": method, "order": order,
            "time_limit": time_limit, "workers": workers,
        }  # fmt: skip
        extra = [Flag(("plan", "compare"), True, "--compare-solvers")] if compare_solvers else []
        resolved = common.resolve(values, extra)
        config = resolved.config
        source = _source(relations)
        added: tuple[str, ...] = ()
        if extend is not None:
            from ..partition import extend_plan
            from .identity import marked, model_print
            from .resources import sized_by_model, typical_lengths

            # Without settings of its own, an extension keeps those of the plan it extends.
            known = given_relations(source)
            settings = None
            if "plan" in resolved.given:
                settings = sized_by_model(
                    config.plan,
                    typical_lengths(known),
                    model=config.model,
                    train=config.train,
                    progress=common.progress,
                )
            extension = extend_plan(
                given_plan(extend),
                known,
                settings=settings,
                seed=config.seed,
                progress=common.progress,
            )
            made, added = marked(extension.plan, model_print(config.model, common.progress)), extension.added
            made.save(out)
            common.session.show(*extension.lines(), "")
        else:
            made = api.plan(
                source,
                model=config.model,
                train=config.train,
                settings=config.plan,
                out=out,
                seed=config.seed,
                progress=common.progress,
            )
        if figures is not None:
            from .report import write_figures

            write_figures(None, figures, relations=given_relations(source), plan=made)
        if common.session.for_people:
            _show(common, made, compare_solvers, explain)
            common.session.show(f"Wrote {out}. Next: kinfold train {out} --corpora CORPORA --model MODEL -o run")
        common.session.answer({"plan": str(out), "certificate": made.certificate, "added": added, **_summary(made)})


def _source(relations: Path | None) -> Path:
    if relations is not None:
        return relations
    if Path("relations/relations.json").exists():
        return Path("relations")
    raise RelationsError("no relations named and none in ./relations; give the folder that kinfold measure wrote.")


def _summary(plan: Any) -> dict[str, Any]:
    from .config import plain

    matrices = ("gain", "discrepancy", "synergy")
    return {name: value for name, value in plain(plan.to_dict()).items() if name not in matrices}


def _show(common: Common, plan: Any, solvers: bool, explain: bool) -> None:
    from rich.text import Text

    from .progress import clean
    from .report.terminal import plan_table
    from .tables import explain_table, solvers_table

    common.session.show(plan_table(plan))
    if solvers and plan.solvers:
        common.session.show("", solvers_table(plan))
    if explain and plan.explain:
        common.session.show("", explain_table(plan))
    for note in plan.notes:
        common.session.show("", Text(clean(note)))
    for warning in plan.warnings:
        common.progress.warn(warning)


def _diff(common: Common, paths: tuple[Path, Path]) -> None:
    from ..partition import Plan, diff_plans
    from .config import plain

    first, second = (Plan.load(path) for path in paths)
    difference = diff_plans(first, second)
    common.session.show(*difference.lines())
    common.session.answer({"same": difference.same, **plain(difference)})
