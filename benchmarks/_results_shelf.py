"""Which stored runs and answers are those that a study asks for: told by what was asked, not by who answered.

A run is its texts, its base model, its stages, its settings and its seed; an answer (a comparison, a cell, a matrix) is
what a script was told to do on its texts. Commits, versions and the package's own fingerprints are noted beside them
and decide nothing, so that a later version finds what an earlier one trained. Settings that the earlier version did not
know count as their defaults.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from _results import STORE, Base, keep, stamp, work_folder
from kinfold._files import digest, write_json
from kinfold.app.compare._variants import Variant
from kinfold.errors import KinfoldError
from kinfold.stages import TrainSettings

_NAMING = ("records", "parts", "record")
"""Under these names a stored answer holds names of runs."""


def key_of(record: Mapping[str, Any], model: str) -> str | None:
    """What today's package would call the run of a record, given its name for the base model; None: it could not."""
    try:
        settings = TrainSettings.from_dict(record["settings"])
        stages = tuple(tuple(stage) for stage in record["stages"])
        prints = {"corpora": record["corpora"], "roles": record["roles"], "model": model}
    except (KinfoldError, KeyError, TypeError):
        return None
    key = Variant("", 0, record["seed"], stages, settings).key(prints)
    return digest(record["way"], key) if record.get("way") else key


def same(stored: Any, asked: Any, default: Any = None) -> bool:
    """Whether an earlier version was asked the same; what it did not know must stand at its default now."""
    if isinstance(stored, Mapping) and isinstance(asked, Mapping):
        defaults = default if isinstance(default, Mapping) else {}
        return set(stored) <= set(asked) and all(
            same(stored[name], asked[name], defaults.get(name)) if name in stored else asked[name] == defaults.get(name)
            for name in asked
        )
    return bool(stored == asked)


def plain(value: Any) -> Any:
    """The value as JSON has it."""
    return json.loads(json.dumps(value))


def runs_named(value: Any, *, here: bool = False) -> Iterator[str]:
    """Every run that a stored answer names."""
    if isinstance(value, str):
        if here:
            yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name != "asked":
                yield from runs_named(inner, here=name in _NAMING)
    elif isinstance(value, list):
        for inner in value:
            yield from runs_named(inner, here=here)


def settled(study: str, name: str, asked: Mapping[str, Any], *, beside: Collection[str] = ()) -> bool:
    """Whether the store holds the answer to what is asked, and every run that it names."""
    path = STORE / study / f"{name}.json"
    if not path.exists():
        return False
    value = json.loads(path.read_text())
    defaults = plain({"train": TrainSettings().to_dict(), "plan": _plan_defaults(), "equal": "tokens"})
    if "asked" not in value or not same(value["asked"], plain(asked), defaults):
        return False
    folders = [STORE / one / "records" for one in (study, *beside)]
    if all(any((folder / f"{key}.json").exists() for folder in folders) for key in runs_named(value)):
        print(f"{study}, {name}: recorded already", flush=True)
        return True
    return False


def _plan_defaults() -> dict[str, Any]:
    from dataclasses import asdict

    from kinfold.partition import PlanSettings

    return asdict(PlanSettings())


def _laid_out(path: Path, value: Mapping[str, Any]) -> None:
    """Write a copy of what the store holds: hundreds of them, so without waiting for the disk after each."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(value), encoding="utf-8")
    beside.replace(path)


class Shelf:
    """A study's records: what the store holds laid out as today's package looks for it, and new runs taken in.

    Parameters
    ----------
    study
        Its name in the store.
    base
        The base model that is trained.
    beside
        Studies whose runs serve this one as well.
    """

    def __init__(self, study: str, base: Base, *, beside: Collection[str] = ()) -> None:
        self.study, self.base = study, base
        self.work = work_folder() / study
        (self.work / "records").mkdir(parents=True, exist_ok=True)
        # Today's name of a run: the name under which the store holds it.
        self.held: dict[str, str] = {}
        identity = base.identity
        for one in (study, *beside):
            for file in sorted((STORE / one / "records").glob("*.json")):
                record = json.loads(file.read_text())
                key = key_of(record, base.fingerprint) if record.get("base") == identity else None
                if key is not None and key not in self.held:
                    self.held[key] = file.stem
                    _laid_out(self.work / "records" / f"{key}.json", {**record, "key": key})

    def note(self, key: str, **more: Any) -> None:
        """Write more into the record of a run that was just made."""
        path = self.work / "records" / f"{key}.json"
        write_json(path, {**json.loads(path.read_text()), **more})

    def take_in(self) -> None:
        """Copy runs that are new into the store, stamped."""
        target = STORE / self.study / "records"
        for file in sorted((self.work / "records").glob("*.json")):
            if file.stem in self.held or (target / file.name).exists():
                continue
            record = json.loads(file.read_text())
            # What another version left in the folder is not what today's package made.
            if key_of(record, self.base.fingerprint) == file.stem:
                target.mkdir(parents=True, exist_ok=True)
                write_json(target / file.name, {**record, "base": self.base.identity, "made": stamp()})

    def keep(self, name: str, value: Mapping[str, Any]) -> Path:
        """Take in new runs and write an answer, which names runs as the store does."""
        self.take_in()
        return keep(self.study, name, {**self._renamed(plain(value)), "made": stamp()})

    def _renamed(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.held.get(value, value)
        if isinstance(value, dict):
            return {name: self._renamed(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [self._renamed(inner) for inner in value]
        return value
