"""Which report fits what was given: that of a run, or of relations and a plan before any training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import RunError
from .._given import PathLike, given_plan, given_relations, given_run
from ._figures import write_figures
from ._page import write_plan_report, write_report

if TYPE_CHECKING:
    from ...metrics import Relations
    from ...partition import Plan
    from ...stages import Run

__all__ = ["write_fitting_report"]


def write_fitting_report(
    run: Run | PathLike, out: PathLike | None, *, plan: Plan | PathLike | None, figures: PathLike | None
) -> Path:
    """What :func:`kinfold.report` does; its docstring holds."""
    from ...stages import Run

    if isinstance(run, Run) or (Path(run) / "run.json").exists():
        opened = given_run(run)
        page = write_report(opened, None if out is None else Path(out))
        if figures is not None:
            write_figures(opened, Path(figures))
        return page
    folder = Path(os.fspath(run))
    if (folder / "compare.json").exists():
        raise RunError(f"{folder}: a comparison has its report already: {folder / 'compare.md'}, beside its pictures.")
    if not (folder / "relations.json").exists():
        raise RunError(f"{folder}: holds neither a run (run.json) nor relations (relations.json); check the path.")
    relations = given_relations(folder)
    made = _plan_of(relations, folder, plan)
    page = write_plan_report(relations, made, folder / "report.html" if out is None else Path(out))
    if figures is not None:
        write_figures(None, Path(figures), relations=relations, plan=made)
    return page


def _plan_of(relations: Relations, folder: Path, plan: Plan | PathLike | None) -> Plan | None:
    """The plan that was given, else a `plan.json` in or beside `folder` that was made from these relations."""
    if plan is not None:
        return given_plan(plan)
    for path in (folder / "plan.json", folder.absolute().parent / "plan.json"):
        if path.exists():
            made = given_plan(path)
            if made.fingerprints.get("relations") == relations.digest:
                return made
    return None
