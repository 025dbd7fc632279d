"""A finished or running training run: a folder, read lazily.

Layout of the folder
--------------------
``run.json``          what the run is made of: settings, seed, model, fingerprints, state
``config.yaml``       the resolved configuration
``plan.json``         the plan as it was given
``replans/NN/``       with re-planning: ``replan.json``, ``plan.json`` and the relations measured after stage NN
``adapters/<slug>/``  one PEFT folder per domain on the final backbone
``stages/NN/``        ``stage.json``, ``shared/`` and ``adapters/<slug>/`` (snapshot backbone) of every finished stage
``metrics.jsonl``     one JSON line per step, bit-identical under resume; ``timings.jsonl`` beside it holds the seconds
``evaluation.json``   losses before and after, forgetting matrix, general retention, alignment
``environment.json``  versions and machine
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import name_of, read_json, slug
from ..errors import RunError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..metrics.relations import Relations
    from ..partition.plan import Plan

__all__ = ["RUN_VERSION", "Run", "read_lines"]

RUN_VERSION = 1


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines log; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    with open(path, "rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.endswith(b"\n"):
                break
            try:
                rows.append(json.loads(line))
            except ValueError:
                raise RunError(f"{path}, line {number}: not a JSON object; resume the run to mend its log.") from None
    return rows


@dataclass(frozen=True)
class Run:
    """One run folder. Attributes are read from disk when asked for, so a running run can be watched.

    Parameters
    ----------
    path
        The run folder.
    """

    path: Path

    @classmethod
    def load(cls, path: str | Path) -> Run:
        """Open the run folder at `path`.

        Raises
        ------
        RunError
            If the folder is missing or is no run of a known version.
        """
        path = Path(path)
        if not path.is_dir():
            raise RunError(f"{path}: no such run folder; check the path or train a plan first.")
        if not (path / "run.json").exists():
            raise RunError(f"{path}: not a run folder (run.json is missing); name the folder given to train as output.")
        run = cls(path)
        version = run.manifest.get("version")
        if version != RUN_VERSION:
            raise RunError(
                f"{path}: run format {version!r} is not the {RUN_VERSION} this version reads; update kinfold."
            )
        return run

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run is made of: settings, seed, model, fingerprints, domains, state ("running" or "finished")."""
        manifest = read_json(self.path / "run.json", error=RunError)
        if not isinstance(manifest, dict):
            raise RunError(f"{self.path / 'run.json'}: not a JSON object; train the plan again.")
        return manifest

    @property
    def finished(self) -> bool:
        """Whether training and evaluation came to their end."""
        return self.manifest.get("state") == "finished"

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration (`config.yaml`)."""
        import yaml

        path = self.path / "config.yaml"
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{path}: no such file; the run did not get as far as its configuration.") from None
        except (UnicodeDecodeError, yaml.YAMLError):
            raise RunError(f"{path}: not valid YAML; write the file again.") from None
        return config if isinstance(config, dict) else {}

    @property
    def plan(self) -> Plan:
        """The plan that was trained: the last re-plan's, or the given one where nothing was re-planned."""
        from .replanning import plan_in_use

        return plan_in_use(self.path, self.plan_given)

    @property
    def plan_given(self) -> Plan:
        """The plan as it was given."""
        from ..partition.plan import Plan

        return Plan.load(self.path / "plan.json")

    @property
    def replans(self) -> list[dict[str, Any]]:
        """What was decided after each stage (`replans/NN/replan.json`), oldest first; empty without re-planning.

        Each holds `stage` (from 0, the one trained before), `changed`, `why`, the stages `before` and after it
        (`stages`), and both plans' objectives (`kept`, `best`) under the relations measured then, with the 95 %
        interval (`low`, `high`) of their difference.
        """
        from .replanning import replan_records

        return replan_records(self.path)

    @property
    def relations(self) -> Relations | None:
        """The relations the plan was made from, where they were kept with the run."""
        if not (self.path / "relations.json").exists():
            return None
        from ..metrics.relations import Relations

        return Relations.load(self.path)

    @property
    def domains(self) -> tuple[str, ...]:
        """The trained domains, sorted by name."""
        return tuple(self.manifest["domains"])

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """The trained stages in their order, as the last re-plan settled them."""
        replans = self.replans
        return tuple(tuple(stage) for stage in (replans[-1]["stages"] if replans else self.manifest["stages"]))

    @property
    def evaluation(self) -> dict[str, Any]:
        """The evaluation (`evaluation.json`).

        Raises
        ------
        RunError
            While the run has not been evaluated.
        """
        path = self.path / "evaluation.json"
        if not path.exists():
            raise RunError(f"{self.path}: not evaluated yet; resume its training with --resume, or evaluate the run.")
        evaluation: dict[str, Any] = read_json(path, error=RunError)
        return evaluation

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One dict per optimiser step, in order, with `seconds` and `memory` (peak bytes so far) of the timing log."""
        timings: Mapping[tuple[int, int], Mapping[str, Any]] = {
            (row["stage"], row["step"]): row for row in read_lines(self.path / "timings.jsonl")
        }
        merged = []
        for row in read_lines(self.path / "metrics.jsonl"):
            timing = timings.get((row["stage"], row["step"]), {})
            merged.append({**row, "seconds": timing.get("seconds"), "memory": timing.get("memory")})
        return merged

    @property
    def environment(self) -> dict[str, Any]:
        """Versions and machine of the run (`environment.json`)."""
        environment: dict[str, Any] = read_json(self.path / "environment.json", error=RunError)
        return environment

    @property
    def adapters(self) -> dict[str, Path]:
        """The PEFT folder of each domain on the final backbone."""
        root = self.path / "adapters"
        if not root.is_dir():
            return {}
        return {
            name_of(folder.name): folder
            for folder in sorted(root.iterdir())
            if folder.is_dir() and (folder / "adapter_config.json").exists()
        }

    def adapter(self, domain: str, *, stage: int | None = None) -> Path:
        """The PEFT folder of `domain`: on the final backbone, or the snapshot of stage `stage` (counted from 0)."""
        root = self.path if stage is None else self.path / "stages" / f"{stage:02d}"
        folder = root / "adapters" / slug(domain)
        if not folder.is_dir():
            known = ", ".join(self.domains)
            raise RunError(f"{folder}: no adapter of domain {domain!r}; this run has {known}.")
        return folder

    def plot(self) -> Figure:
        """Loss curves, the change per domain and the forgetting matrix as one Matplotlib figure."""
        from ._plots import plot_run

        return plot_run(self)
