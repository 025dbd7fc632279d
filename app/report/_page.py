"""Put the page together: values in, one HTML file out, nothing in it that a name could break out of."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._files import write_text
from ...errors import InputError
from . import _frame
from ._frame import Frame
from ._outcome import outcome_view
from ._plan import plan_view
from ._provenance import provenance_view
from ._relations import map_view, relations_view
from ._replans import replans_view
from ._summary import summarise
from ._training import training_view

if TYPE_CHECKING:
    from ...metrics.relations import Relations
    from ...partition.plan import Plan
    from ...stages.run import Run

__all__ = ["render", "write_plan_report", "write_report"]

_TEMPLATES = Path(__file__).with_name("templates")
_SCRIPTS = ("core.js", "heatmap.js", "charts.js", "map.js", "main.js")


def write_report(run: Run | str | os.PathLike[str], out: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a run: one HTML file that needs no network and no other file.

    Parameters
    ----------
    run : Run or path
        A run, finished or not; what it does not hold yet is left out.
    out : path, optional
        Where to write; `report.html` in the run folder when absent.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    RunError
        When the folder is no run, or one of its files is damaged.
    """
    if isinstance(run, (str, os.PathLike)):
        from ...stages.run import Run as RunClass

        run = RunClass.load(Path(run))
    folder = Path(run.path)
    target = Path(out) if out is not None else folder / "report.html"
    plan = run.plan

    def held(name: str) -> bool:
        """Whether the run got as far as this file; one that is there but damaged raises when it is read."""
        return (folder / name).exists()

    text = render(
        title=_title(folder),
        relations=run.relations,
        plan=plan,
        evaluation=run.evaluation if held("evaluation.json") else None,
        metrics=run.metrics,
        config=run.config if held("config.yaml") else None,
        environment=run.environment if held("environment.json") else None,
        manifest=run.manifest,
        replans=run.replans,
        is_run=True,
    )
    write_text(target, text)
    return target


def write_plan_report(
    relations: Relations | None, plan: Plan | None, out: str | os.PathLike[str], *, title: str | None = None
) -> Path:
    """Write the report of relations, of a plan, or of both, before anything is trained.

    Raises
    ------
    InputError
        When neither is given.
    """
    if relations is None and plan is None:
        raise InputError("report: there is nothing to show; give relations, a plan or a run.")
    target = Path(out)
    text = render(title=title or target.resolve().parent.name, relations=relations, plan=plan)
    write_text(target, text)
    return target


def _title(folder: Path) -> str:
    """The run's folder; a folder called just "run" says nothing, so its parent goes first."""
    place = folder.resolve()
    return f"{place.parent.name} / {place.name}" if place.name in ("run", "out") and place.parent.name else place.name


def render(
    *,
    title: str,
    relations: Relations | None = None,
    plan: Plan | None = None,
    evaluation: Mapping[str, Any] | None = None,
    metrics: list[dict[str, Any]] | None = None,
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    manifest: Mapping[str, Any] | None = None,
    replans: Sequence[Mapping[str, Any]] = (),
    is_run: bool = False,
) -> str:
    """The page as text; every part but the title may be missing."""
    extra = [str(name) for name in (evaluation or {}).get("before") or {}] if evaluation else []
    frame = Frame.of(relations, plan, extra)
    relation_view = relations_view(relations, frame) if relations is not None and relations.names else None
    plan_values = plan_view(plan, frame, relations) if plan is not None else None
    outcome = outcome_view(evaluation, frame)
    training = training_view(metrics or [], frame)
    drawn = {
        "names": list(frame.names),
        "stages": [list(stage) for stage in frame.stages],
        "relations": {
            "measures": relation_view["measures"],
            "transfer": (relation_view["validation"] or {}).get("transfer"),
        }
        if relation_view
        else None,
        "map": map_view(relations, frame) if relations is not None else None,
        "plan": {key: plan_values[key] for key in ("gain", "pulls", "together", "order", "phase")}
        if plan_values
        else None,
        "training": training,
        "outcome": outcome,
    }
    version = ""
    with suppress(ImportError):
        from ... import __version__ as version
    css = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    script = "\n".join((_TEMPLATES / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    environment_ = _jinja()
    page: str = environment_.get_template("report.html.j2").render(
        title=title,
        made=datetime.now(timezone.utc),
        version=version,
        css=css,
        script=script,
        # Only our own style and script may run, known by their hashes; nothing may be fetched, by anybody.
        policy=f"default-src 'none'; img-src data:; style-src '{_hash(css)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
        data=_embed(drawn),
        frame=frame,
        relations=relation_view,
        map=drawn["map"],
        plan=plan_values,
        replans=replans_view(replans),
        training=training,
        outcome=outcome,
        summary=summarise(frame.names, relation_view, plan_values, outcome, is_run),
        provenance=provenance_view(
            config=config, environment=environment, plan=plan, relations=relations, manifest=manifest
        ),
        is_run=is_run,
    )
    # A lone surrogate in a name has no UTF-8 form; it is shown as a question mark rather than losing the page.
    return page.encode("utf-8", "replace").decode("utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}"


def _embed(value: Any) -> str:
    """JSON that can stand inside a script element: no `<` can end it, no separator can break it, no NaN."""
    text = json.dumps(_clean(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _clean(value: Any) -> Any:
    """Values as JSON has them: NumPy numbers as Python's, NaN and infinity as null."""
    if isinstance(value, Mapping):
        return {str(key): _clean(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(inner) for inner in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    return _frame.finite(value)


def _jinja() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=_frame.number,
        fixed=_frame.fixed,
        signed=_frame.signed,
        percent=_frame.percent,
        plural=_frame.plural,
        joined=_frame.join,
        capitalize_first=lambda text: text[:1].upper() + text[1:],
    )
    return environment
