"""Commands about training: train, evaluate, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigError, PlanError, RunError
from .cli_data import corpora_of
from .cli_options import Common, command, setting
from .session import check_target

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this file to `app`."""

    @command(app)
    def train(
        common: Common,
        plan: Annotated[
            Path | None,
            typer.Argument(
                metavar="PLAN", help="File that kinfold plan wrote (default: plan.json).", show_default=False
            ),
        ] = None,
        corpora: Annotated[Path | None, setting("corpora")] = None,
        model: Annotated[str | None, setting("model")] = None,
        out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Run folder.")] = Path("run"),
        resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Print stages, steps, memory, time and samples; train nothing.")
        ] = False,
        relations: Annotated[
            Path | None,
            typer.Option("--relations", metavar="DIR", help="Relations to keep with the run; found beside the plan."),
        ] = None,
        allow_changed: Annotated[
            bool, typer.Option("--allow-changed", help="Train although the corpora are not those of the plan.")
        ] = False,
        task: Annotated[str | None, setting("task")] = None,
        adapters: Annotated[str | None, setting("adapters")] = None,
        rank: Annotated[int | None, setting("rank")] = None,
        epochs: Annotated[float | None, setting("epochs")] = None,
        max_steps: Annotated[int | None, setting("max_steps")] = None,
        tokens_per_stage: Annotated[int | None, setting("tokens_per_stage")] = None,
        batch_tokens: Annotated[int | None, setting("batch_tokens")] = None,
        max_length: Annotated[int | None, setting("max_length")] = None,
        lr: Annotated[float | None, setting("lr")] = None,
        ssl_weight: Annotated[float | None, setting("ssl_weight")] = None,
        align_weight: Annotated[float | None, setting("align_weight")] = None,
        kl_weight: Annotated[float | None, setting("kl_weight")] = None,
        replan: Annotated[bool | None, setting("replan")] = None,
        precision: Annotated[str | None, setting("precision")] = None,
        device: Annotated[str | None, setting("device")] = None,
        checkpoint_every: Annotated[int | None, setting("checkpoint_every")] = None,
        strict: Annotated[bool | None, setting("strict")] = None,
        limit: Annotated[int | None, setting("limit")] = None,
    ) -> None:
        """Train a plan stage by stage with LoRA and evaluate it before and after.

        For example:

          $ kinfold train plan.json --corpora my-corpora --model my-model -o run
          $ kinfold train plan.json -c kinfold.yaml -o run --dry-run
          $ kinfold train plan.json -c kinfold.yaml -o run --resume
          $ kinfold train plan.json --corpora my-corpora --model my-model -o run --replan
        """
        from ..stages import DryRun
        from . import api

        check_target(out, folder=True)
        values = {
            "corpora": corpora, "model": model, "task": task, "adapters": adapters, "rank": rank, "epochs": epochs,
            "max_steps": max_steps, "tokens_per_stage": tokens_per_stage, "batch_tokens": batch_tokens,
            "max_length": max_length, "lr": lr, "ssl_weight": ssl_weight, "align_weight": align_weight,
            "kl_weight": kl_weight, "replan": replan, "precision": precision, "device": device,
            "checkpoint_every": checkpoint_every, "strict": strict, "limit": limit,
        }  # fmt: skip
        config = common.resolve(values).config
        path = _plan(plan)
        if config.model is None:
            raise ConfigError(
                "no base model named; give --model with a folder or hub id, or set model in the configuration."
            )
        opened = corpora_of(config)
        if not dry_run:
            common.session.resume = lambda: common.session.same_command(
                *(["--resume"] if (out / "run.json").exists() else [])
            )
        result = api.train(
            path,
            opened,
            model=config.model,
            out=out,
            relations=relations,
            settings=config.train,
            config=config,
            seed=config.seed,
            resume=resume,
            dry_run=dry_run,
            allow_changed=allow_changed,
            progress=common.progress,
        )
        if isinstance(result, DryRun):
            from .tables import dry_run_views

            common.session.show(*dry_run_views(result))
            if config.train.replan:
                common.session.show("Stages after the first are planned anew as training goes on (train.replan).")
            common.session.answer({"dry_run": True, **result.to_dict()})
            return
        _show_run(common, result)
        common.session.show(f"Wrote {out}. Next: kinfold report {out}")

    @command(app)
    def evaluate(
        common: Common,
        run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder that kinfold train wrote.")],
        corpora: Annotated[Path | None, setting("corpora")] = None,
        split: Annotated[str | None, setting("split")] = None,
        documents: Annotated[int | None, setting("eval_documents", default="the run's own")] = None,
        generate: Annotated[int | None, setting("eval_generate", default="the run's own")] = None,
        strict: Annotated[bool | None, setting("strict")] = None,
        limit: Annotated[int | None, setting("limit")] = None,
    ) -> None:
        """Evaluate a trained run again, on another split or on other texts.

        Rewrites the run's evaluation.json. Without --corpora, the corpora that the run was trained on are read.

        For example:

          $ kinfold evaluate run --split validation
          $ kinfold evaluate run --generate 20
          $ kinfold evaluate run --corpora my-corpora --json
        """
        from ..stages import Run
        from . import api

        opened = Run.load(run)
        values = {
            "corpora": corpora, "split": split, "eval_documents": documents, "eval_generate": generate,
            "strict": strict, "limit": limit,
        }  # fmt: skip
        resolved = common.resolve(values)
        config = resolved.config
        texts = _texts(common, opened, values)
        asked = resolved.given.get("train", {})  # what is not said stays as the run was trained
        api.evaluate(
            opened,
            texts,
            split=config.train.evaluate_split,
            documents=config.train.eval_documents if "eval_documents" in asked else None,
            generate=config.train.eval_generate if "eval_generate" in asked else None,
            progress=common.progress,
        )
        _show_run(common, opened)
        common.session.show(f"Wrote {run / 'evaluation.json'}. Next: kinfold report {run}")

    @command(app)
    def export(
        common: Common,
        run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder that kinfold train wrote.")],
        out: Annotated[
            Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for the export; new or empty.")
        ] = Path("export"),
        form: Annotated[
            str, typer.Option("--as", metavar="FORM", help="adapters (PEFT), merged (full weights) or vllm (a bundle).")
        ] = "adapters",
        domains: Annotated[list[str] | None, typer.Option("--domain", help="Only this domain; repeatable.")] = None,
        rank: Annotated[int | None, typer.Option("--rank", help="Compress each adapter to this rank by SVD.")] = None,
        backbone: Annotated[
            str,
            typer.Option(
                "--backbone",
                help="Serve a domain behind the shared adapters up to its own stage, the last one, or whichever "
                "scored better in the run's evaluation (own, last, better).",
            ),
        ] = "better",
        router: Annotated[
            bool, typer.Option("--router", help="Also fit a router that sends a text to its domain's adapter.")
        ] = False,
        corpora: Annotated[Path | None, setting("corpora")] = None,
    ) -> None:
        """Export trained adapters for serving, and check that they give the run's logits back.

        For example:

          $ kinfold export run -o adapters
          $ kinfold export run -o merged --as merged --domain law
          $ kinfold export run -o last --backbone last
          $ kinfold export run -o serving --as vllm --rank 16 --router
        """
        from ..stages import Run, export_run
        from .tables import export_table

        check_target(out, folder=True)
        opened = Run.load(run)
        texts = _texts(common, opened, {"corpora": corpora}) if router else None
        form_: Any = form
        backbone_: Any = backbone
        result = export_run(
            opened,
            out,
            form=form_,
            domains=domains,
            rank=rank,
            backbone=backbone_,
            corpora=texts,
            progress=common.progress,
        )
        common.session.show(export_table(result))
        lossy = max(result.errors.values(), default=0.0)
        if lossy > 0.1:
            common.progress.warn(
                f"At rank {rank} up to {lossy:.0%} of an adapter's update is lost; raise --rank, or leave it out for "
                "exact adapters."
            )
        if result.flags:
            common.session.show(
                f"Serve with: vllm serve {result.flags}" if "vllm" not in result.flags else result.flags
            )
        if result.router is not None:
            right = result.router
            common.session.show(
                f"Router: {right['value']:.1%} of {right['documents']} {right['split']} texts sent to their own domain "
                f"({right['low']:.1%} to {right['high']:.1%})"
            )
        folders = {Path(path).parent for path in result.paths.values()}
        where = f": a folder for each domain in {folders.pop()}" if len(folders) == 1 else ""
        common.session.show(f"Wrote {out}{where}")
        common.session.answer(result.to_dict())


def _plan(path: Path | None) -> Path:
    if path is not None:
        return path
    if Path("plan.json").exists():
        return Path("plan.json")
    raise PlanError("no plan named and no plan.json here; give the file that kinfold plan wrote.")


def _texts(common: Common, run: Any, values: dict[str, Any]) -> Any:
    """The corpora that were named, else those that the run was trained on."""
    config = common.resolve(values).config
    return corpora_of(config) if config.corpora.source is not None else _corpora_of_run(run)


def _corpora_of_run(run: Any) -> Any:
    """Open the corpora named in the run's own configuration."""
    from .config import resolve

    try:
        config = resolve(run.path / "config.yaml").config
    except ConfigError:
        raise RunError(f"{run.path}: its config.yaml names no corpora; give them with --corpora.") from None
    if config.corpora.source is None:
        raise RunError(f"{run.path}: its config.yaml names no corpora; give them with --corpora.")
    return corpora_of(config)


def _show_run(common: Common, run: Any) -> None:
    evaluation = run.evaluation
    if common.session.for_people:
        from .report.terminal import outcome_table
        from .tables import accuracy_table, answers_table, features_line

        common.session.show(outcome_table(evaluation))
        for part in (accuracy_table(evaluation), answers_table(evaluation), features_line(evaluation)):
            if part is not None:
                common.session.show("", part)
        for record in run.replans:
            common.session.show(f"Re-planned after stage {record['stage'] + 1}: {record['why']}.")
    common.session.answer(
        {
            "run": str(run.path),
            "stages": [list(stage) for stage in run.stages],
            "replans": run.replans,
            "adapters": {name: str(path) for name, path in run.adapters.items()},
            "evaluation": evaluation,
        }
    )
