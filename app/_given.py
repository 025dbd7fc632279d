"""What users may hand to the public functions: a value, or the path it was written to; settings, or some fields."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ConfigError, InputTypeError, RelationsError

if TYPE_CHECKING:
    from ..corpora import Corpora
    from ..metrics import Relations
    from ..partition import Plan
    from ..stages import Run

__all__ = [
    "PathLike",
    "find_relations",
    "given_corpora",
    "given_plan",
    "given_relations",
    "given_run",
    "given_settings",
    "where_it_stopped",
]

PathLike = str | os.PathLike[str]
S = TypeVar("S")


def find_relations(plan: PathLike) -> Path | None:
    """The folder of the relations that the plan at `plan` was made from, if it lies beside it.

    Searched are the plan's folder, `relations` in it, and its other direct sub-folders; a folder counts only when
    the relations' digest is the one that the plan carries.
    """
    from ..metrics import Relations
    from ..partition import Plan

    path = Path(plan)
    wanted = Plan.load(path).fingerprints.get("relations")
    if wanted is None:
        return None
    here = path.absolute().parent
    found = [here, here / "relations", *(item.parent for item in sorted(here.glob("*/relations.json")))]
    for folder in dict.fromkeys(found):
        if (folder / "relations.json").exists():
            try:
                if Relations.load(folder).digest == wanted:
                    return folder
            except RelationsError:
                continue  # a damaged neighbour is not the plan's
    return None


def where_it_stopped(out: Path, count: int) -> str | None:
    """The stage in which a run of `count` stages goes on, in one sentence; None where nothing is left to train."""
    from ..stages.artefacts import finished_stages

    done = finished_stages(out, count) if (out / "run.json").exists() else count
    return None if done == count else f"{out}: goes on in stage {done + 1} of {count}."


def given_corpora(value: Any) -> Corpora:
    """Corpora, or those that a path or mapping names."""
    from ..corpora import Corpora

    if isinstance(value, Corpora):
        return value
    if isinstance(value, (str, os.PathLike, Mapping)):
        from ..corpora import load_corpora

        return load_corpora(value)
    raise InputTypeError(f"corpora={value!r}: must be what load_corpora returns, a path or a mapping.")


def given_relations(value: Any) -> Relations:
    """Relations, or those in a folder."""
    from ..metrics import Relations

    if isinstance(value, Relations):
        return value
    if isinstance(value, (str, os.PathLike)):
        path = Path(value)
        folder = path.parent if path.name == "relations.json" else path
        if not (path.is_file() or (folder / "relations.json").exists()):
            what = "holds no relations" if folder.is_dir() else "no such folder"
            raise RelationsError(f"{folder}: {what}; `kinfold measure CORPORA -o {folder}` writes them.")
        return Relations.load(path)
    raise InputTypeError(f"relations={value!r}: must be what measure returns, or the folder it wrote.")


def given_run(value: Any) -> Run:
    """A run, or the one in a folder."""
    from ..stages import Run

    if isinstance(value, Run):
        return value
    if isinstance(value, (str, os.PathLike)):
        return Run.load(Path(value))
    raise InputTypeError(f"run={value!r}: must be what train returns, or its folder.")


def given_plan(value: Any) -> Plan:
    """A plan, or the plan in a file.

    A file whose stages were edited by hand keeps neither its objective nor its proof: both are worked out again.

    Raises
    ------
    PlanError
        When there is no such plan, or an edit broke one of its constraints.
    """
    from ..partition import Plan

    if isinstance(value, Plan):
        return value
    if isinstance(value, (str, os.PathLike)):
        return Plan.load(Path(value)).revalidated()
    raise InputTypeError(f"plan={value!r}: must be what kinfold.plan returns, or its file.")


def given_settings(kind: type[S], given: S | Mapping[str, Any] | None, overrides: Mapping[str, Any], section: str) -> S:
    """`kind` from what was given; single fields given by name win."""
    if given is not None and not isinstance(given, (kind, Mapping)):
        raise InputTypeError(f"settings={given!r}: must be {kind.__name__} or a mapping of its fields.")
    values = dict(given) if isinstance(given, Mapping) else {}
    values.update(overrides)
    names = [item.name for item in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            close = get_close_matches(name, names, n=1)
            remedy = f"did you mean {close[0]}?" if close else f"known are {', '.join(names)}."
            raise ConfigError(f"{section}.{name} is not a setting; {remedy}")
    if isinstance(given, kind):
        return dataclasses.replace(given, **values) if values else given  # type: ignore[type-var]
    return kind(**values)
