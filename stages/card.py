"""The model card of a run: what was trained on what, and what it gained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._files import slug, write_text

__all__ = ["write_card"]


def _plain(text: str) -> str:
    """A user's text inside Markdown: what could be markup, a table or a link is escaped."""
    escaped = "".join("\\" + c if c in "\\`*_{}[]()<>#+!|~" else c for c in text)
    return " ".join(escaped.split())


def write_card(out: Path, manifest: Mapping[str, Any], evaluation: Mapping[str, Any]) -> None:
    """Write `README.md` into the run folder."""
    settings = manifest["settings"]
    classify = manifest["task"] == "classification"
    stages = manifest.get("trained", manifest["stages"])
    lines = [
        "---",
        f"base_model: {json.dumps(manifest['model']['name'], ensure_ascii=False)}",
        "library_name: peft",
        f"pipeline_tag: {'text-classification' if classify else 'text-generation'}",
        "tags: [lora, kinfold, multi-domain]",
        "---",
        "",
        "# Adapters trained by Kinfold",
        "",
        f"One LoRA adapter per domain on `{manifest['model']['name'].replace('`', '')}`, trained in "
        f"{len(stages)} stage(s). Each folder under `adapters/` is a PEFT adapter that holds the shared "
        "adapters of all stages and the domain's own.",
        "",
        "```python",
        "from peft import PeftModel",
        f"from transformers import {'AutoModelForSequenceClassification' if classify else 'AutoModelForCausalLM'}",
        "",
        f"base = {'AutoModelForSequenceClassification' if classify else 'AutoModelForCausalLM'}.from_pretrained(...)",
        f'model = PeftModel.from_pretrained(base, "adapters/{slug(manifest["domains"][0])}")',
        "```",
        "",
        "## Stages",
        "",
    ]
    for number, stage in enumerate(stages, 1):
        lines.append(f"{number}. {', '.join(_plain(name) for name in stage)}")
    if stages != manifest["stages"]:
        lines += ["", "The stages were planned anew while training; the plan as it was given is in `plan.json`."]
    extra = " accuracy before | after |" if classify else " perplexity before | after |"
    lines += [
        "",
        f"## Results on the {evaluation['split']} split",
        "",
        f"| domain | documents | loss before | after | change (95 % interval) |{extra}",
        "|---|---|---|---|---|---|---|",
    ]
    for name in evaluation["domains"]:
        before, after = evaluation["before"][name], evaluation["final"][name]
        change = evaluation["change"][name]["final"]
        key = "accuracy" if classify else "perplexity"
        lines.append(
            f"| {_plain(name)} | {after['documents']} | {before['loss']:.3f} | {after['loss']:.3f} "
            f"| {change['mean']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f}) "
            f"| {before[key]:.3g} | {after[key]:.3g} |"
        )
    general = evaluation.get("general")
    if general:
        lines += [
            "",
            f"General text ({_plain(general['domain'])}, {general['split']} split): "
            f"loss {general['before']['loss']:.3f} before, "
            f"{general['after']['loss']:.3f} after (mean over the domains' adapters).",
        ]
    lora = settings["lora"]
    lines += [
        "",
        "## Training",
        "",
        f"LoRA rank {lora['rank']}, alpha {lora['alpha']}, adapters: {settings['adapters']}; "
        f"learning rate {settings['lr']}, {settings['schedule']} schedule; "
        f"weights: denoising {settings['ssl_weight']}, alignment {settings['align_weight']}, "
        f"KL {settings['kl_weight']}; seed {manifest['seed']}. "
        "Everything else is in `config.yaml`, `plan.json` and `environment.json`.",
        "",
        "The texts and the base model may restrict how these adapters can be used; Kinfold adds no restriction.",
        "",
    ]
    write_text(out / "README.md", "\n".join(lines))
