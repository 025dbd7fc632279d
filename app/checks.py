"""What `kinfold validate` looks at: every record of the corpora, the model's folder, and whether a plan fits them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._hub import hub_options
from .._progress import Progress
from ..errors import CorpusError, ModelError
from ._given import find_relations, given_plan, given_relations
from .config import KinfoldConfig
from .identity import other_model
from .progress import clean, warning_line

__all__ = ["Checked", "checked"]

_LISTED = 10


@dataclass
class Checked:
    """What was found. Faults that stop the work are raised instead."""

    summary: Any = None
    model: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None
    warnings: list[str] = field(default_factory=list)

    def tables(self) -> list[Any]:
        """Rich renderables for the terminal."""
        parts: list[Any] = []
        if self.summary is not None:
            parts.append(corpora_table(self.summary))
            for domain in self.summary.domains:
                parts += [f"  {clean(text)}" for text in domain.problems]
            ignored = self.summary.ignored
            parts += [f"ignored: {clean(text)}" for text in ignored[:_LISTED]]
            if len(ignored) > _LISTED:
                parts.append(f"ignored: {len(ignored) - _LISTED} more (--json lists all)")
        if self.model is not None:
            parts.append(
                f"model {self.model['path']}: {self.model['architecture']}, vocabulary {self.model['vocabulary']}"
            )
        if self.plan is not None:
            fits = ", fits the corpora" if self.summary is not None else ""
            parts.append(f"plan {self.plan['path']}: {len(self.plan['stages'])} stages{fits}")
            if self.plan["edited"]:
                parts.append(f"the plan was edited by hand: its proof is gone, {self.plan['certificate']} remains")
        # A warning that only repeats a record listed above says nothing new.
        listed = [text for domain in self.summary.domains for text in domain.problems] if self.summary else []
        new = [text for text in self.warnings if not any(text.endswith(problem) for problem in listed)]
        parts += [warning_line(text) for text in new]
        if not self.bad:
            parts.append("Everything can be used." if not self.warnings else "Usable, with the warnings above.")
        return parts

    @property
    def bad(self) -> int:
        """Number of bad records."""
        return 0 if self.summary is None else int(self.summary.bad)

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        return {
            "ok": not self.bad,
            "corpora": None if self.summary is None else self.summary.to_dict(),
            "model": self.model,
            "plan": self.plan,
            "warnings": self.warnings,
        }


def checked(config: KinfoldConfig, plan: Path | None, progress: Progress) -> Checked:
    """Check what the configuration names.

    Raises
    ------
    KinfoldError
        When something cannot be used at all.
    """
    result = Checked()
    if config.corpora.source is not None:
        from ..corpora.corpora import require_domains
        from .cli_data import corpora_of

        corpora: Any = corpora_of(config)
        require_domains(corpora)
        result.summary = corpora.scan(progress)
        result.warnings += list(result.summary.warnings)
        empty = [domain.name for domain in result.summary.domains if not sum(domain.documents.values())]
        if empty:
            raise CorpusError(f"{empty[0]}: holds no record that can be read; fix the file or leave the domain out.")
        if plan is not None:
            result.plan = _check_plan(plan, corpora)
    elif plan is not None:
        result.plan = _check_plan(plan, None)
    if config.model is not None:
        result.model = check_model(config.model)
        if plan is not None:
            made, beside = given_plan(plan), find_relations(plan)
            relations = None if beside is None else given_relations(beside)
            result.warnings += other_model(made, relations, config.model, progress)
    return result


def check_model(model: str) -> dict[str, Any]:
    """Read a model's configuration and tokenizer, not its weights.

    Raises
    ------
    ModelError
        When one of them is missing or broken.
    """
    path = Path(model)
    if path.is_dir():
        for name, what in (("config.json", "a model"), ("tokenizer_config.json", "a tokenizer")):
            if not (path / name).exists() and not (name.startswith("tok") and (path / "tokenizer.json").exists()):
                raise ModelError(f"{model}: the folder holds no {name}; save {what} there with save_pretrained.")
        if not list(path.glob("*.safetensors")) and not (path / "model.safetensors.index.json").exists():
            raise ModelError(f"{model}: holds no .safetensors weights; save the model with save_pretrained.")
    options = hub_options(model)
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(model, **options)
        tokenizer = AutoTokenizer.from_pretrained(model, **options)
    except Exception as fault:  # transformers raises many kinds for a model that cannot be read
        first = str(fault).strip().splitlines()[0] if str(fault).strip() else type(fault).__name__
        raise ModelError(
            f"{model}: cannot be opened ({first}); name a local model folder or a reachable hub id."
        ) from None
    return {
        "path": model,
        "architecture": (getattr(config, "architectures", None) or [config.model_type])[0],
        "vocabulary": len(tokenizer),
    }


def _check_plan(path: Path, corpora: Any) -> dict[str, Any]:
    from ..errors import PlanError
    from ..partition import Plan

    plan = given_plan(path)
    edited = plan != Plan.load(path)
    if corpora is not None:
        from ..partition import check_fingerprints

        known = {domain.name for domain in corpora.planned}
        missing = sorted(set(plan.domains) - known)
        if missing:
            raise PlanError(f"{path}: plans {missing[0]!r}, which the corpora lack; plan again or add the domain.")
        # Of general and unlabelled domains a plan says nothing.
        prints = {name: value for name, value in corpora.fingerprints.items() if name in known}
        check_fingerprints(plan, {"corpora": prints})
    return {
        "path": str(path),
        "stages": [list(stage) for stage in plan.stages],
        "certificate": plan.certificate,
        "edited": edited,
    }


def corpora_table(summary: Any) -> Any:
    """Domains with their documents per split, characters and bad records."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("domain", overflow="ellipsis", no_wrap=True, max_width=24)
    for name in ("kind", "train", "valid.", "test", "chars", "labels", "bad"):
        table.add_column(name, justify="left" if name == "kind" else "right", no_wrap=True)
    for domain in summary.domains:
        kind = "/".join(domain.kinds) or "-"
        kind = kind if domain.role == "planned" else f"{kind} ({domain.role})"
        table.add_row(
            Text(clean(domain.name)),
            Text(kind),
            *(f"{domain.documents[split]:,}" for split in ("train", "validation", "test")),
            _short(sum(domain.characters.values())),
            str(len(domain.labels)) if domain.labels else "-",
            Text(str(domain.bad), style="red" if domain.bad else ""),
        )
    return table


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return str(int(number))
