"""The API's Matplotlib figures as files: `--figures DIR`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._files import atomic_path, slug
from ...errors import InputError

if TYPE_CHECKING:
    from ...metrics.relations import Relations
    from ...partition.plan import Plan
    from ...stages.run import Run

__all__ = ["write_figures"]

_FORMATS = ("png", "svg", "pdf")


def write_figures(
    run: Run | None,
    folder: str | os.PathLike[str],
    relations: Relations | None = None,
    plan: Plan | None = None,
    formats: Sequence[str] = ("png", "svg"),
) -> list[Path]:
    """Write every figure there is data for, each atomically.

    `relations.*` is the overview, `relations-<measure>.*` each measure alone (in plan order where there is a
    plan), `plan.*` the plan, `run.*` the training.

    Parameters
    ----------
    run : Run or None
        Where given, its own plan and relations are drawn as well, unless others are passed.
    folder : path
        Made when missing.
    formats : sequence of {"png", "svg", "pdf"}

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    InputError
        For an unknown format, or when there is nothing to draw.
    """
    unknown = [name for name in formats if name not in _FORMATS]
    if unknown or not formats:
        raise InputError(f"figures: format {''.join(unknown[:1])!r} is not known; use {', '.join(_FORMATS)}.")
    if run is not None:
        plan = plan if plan is not None else run.plan
        relations = relations if relations is not None else run.relations
    if run is None and relations is None and plan is None:
        raise InputError("figures: there is nothing to draw; give relations, a plan or a run.")
    target = Path(folder)
    made: list[Path] = []
    order = [name for stage in plan.stages for name in stage] if plan is not None else None
    if relations is not None:
        known = [name for name in order if name in relations.domains] if order is not None else None
        made += _save(relations.plot(None, known), target / "relations", formats)
        for name in relations.names:
            made += _save(relations.plot(name, known), target / f"relations-{slug(name)}", formats)
    if plan is not None:
        made += _save(plan.plot(), target / "plan", formats)
    if run is not None and (run.metrics or (run.path / "evaluation.json").exists()):
        made += _save(run.plot(), target / "run", formats)
    return made


def _save(figure: Any, stem: Path, formats: Sequence[str]) -> list[Path]:
    import matplotlib as mpl

    made = []
    # A fixed salt and no date: the same numbers give the same bytes. Letters that no installed font has are drawn
    # as boxes; a warning for each of them would bury everything else.
    quiet, settings = warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": "kinfold", "svg.fonttype": "path"})
    with quiet, settings:
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        for name in formats:
            path = stem.with_name(f"{stem.name}.{name}")
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format=name, dpi=140, metadata={"Date": None} if name == "svg" else None)
            # The layout is found once; it is the slow part and the same for every format.
            figure.set_layout_engine("none")
            made.append(path)
    return made
