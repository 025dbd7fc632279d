"""The section of docs/results.md on the presets of `kinfold compare`: ablations, both weights, noise and imbalance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from _results_data import Lead, stored
from _results_words import interval, number, table, than

_KINDS = {"token_noise": "words replaced", "label_noise": "labels replaced", "imbalance": "largest to smallest domain"}


def _lead(method: Mapping[str, Any], count: int) -> Lead | None:
    gain = method.get("plan_advantage")
    if not gain or gain["low"] is None or len(method.get("seeds", (0, 0))) < 2:
        return None
    return Lead(gain["mean"], gain["low"], gain["high"], gain["better"], count, len(method.get("seeds", ())))


def _ablations(value: Mapping[str, Any]) -> list[str]:
    count = len(value["domains"])
    rows, said = [], []
    for method in value["methods"]:
        if "mean" not in method:
            continue
        lead = _lead(method, count)
        own = number(method["other_serving"].get("snapshot"), 4)
        shown = [f"{method['mean']:.4f} ± {number(method['sd_over_seeds'], 4)}", own, interval(lead)]
        general = method.get("general") or {}
        rows.append([method["title"], *shown, number(general.get("after"), 4), str(method["runs"])])
        if lead is not None and method["name"].startswith("no-"):
            said.append(than(lead, method["title"]))
    head = ["trained", "mean ± sd over seeds", "own backbone", "the plan's lead", "general text", "runs"]
    text = f"With everything on the plan is {'; '.join(said)}." if said else ""
    return [table(head, rows), text]


def _grid(value: Mapping[str, Any]) -> list[str]:
    grid = value.get("grid")
    if not grid:
        return []
    spread = [x for row in grid["sd_over_seeds"] for x in row if x is not None]
    cells = [
        (x, s, a)
        for row, s in zip(grid["mean"], grid["ssl_weight"], strict=True)
        for x, a in zip(row, grid["align_weight"], strict=True)
        if x is not None
    ]
    best, worst = (pick(cells) for pick in ((max, min) if value["higher_is_better"] else (min, max)))
    return [
        f"**Weights of the extra losses** (λ₁ denoising, λ₂ alignment), {len(value['seeds'])} seeds a square: from "
        f"{best[0]:.4f} (λ₁ = {best[1]:g}, λ₂ = {best[2]:g}) to {worst[0]:.4f} (λ₁ = {worst[1]:g}, λ₂ = {worst[2]:g}), "
        f"where seeds differ by {sum(spread) / len(spread):.4f} (standard deviation).",
        "![Sensitivity to both weights](images/results-sensitivity.svg)",
    ]


def _robust(value: Mapping[str, Any]) -> list[str]:
    rows = []
    count = len(value["domains"])
    conditions = [{"kind": "as they are", "level": None, "methods": value["methods"]}, *value.get("conditions", ())]
    for one in conditions:
        plan = next(m for m in one["methods"] if m["name"] == "plan")
        for method in one["methods"]:
            if "mean" in method:
                label = one["kind"] if one["level"] is None else f"{_KINDS[one['kind']]} {one['level']:g}"
                lead = "–" if method is plan else interval(_lead(method, count))
                rows.append([label, method["name"], f"{method['mean']:.4f}", lead])
    return [
        "**Noise and imbalance** in the training texts:",
        table(["texts", "trained", "mean", "the plan's lead"], rows),
    ]


def presets_page() -> str:
    """What the presets of the command say on a small set."""
    found = {part: stored("presets", part) for part in ("ablate", "grid", "robust")}
    if not any(found.values()):
        return ""
    first = next(value for value in found.values() if value)
    train = first["made_of"]["train"]
    head = (
        f"The presets of `kinfold compare` on {len(first['domains'])} of the demo's domains "
        f"({', '.join(first['domains'])}), in two stages; at most {train['documents']} texts each of "
        f"{train['max_length']} tokens, steps of {train['batch_tokens']}; λ₁ = {train['ssl_weight']:g}, "
        f"λ₂ = {train['align_weight']:g}, KL {train['kl_weight']:g}, bounds {train['rho_shared']:g} and "
        f"{train['rho_domain']:g} where nothing else is said; nats a token, lower is better."
    )
    parts = ["## Ablations, weights, noise", head]
    if found["ablate"]:
        parts += _ablations(found["ablate"])
    if found["grid"]:
        parts += _grid(found["grid"])
    if found["robust"]:
        parts += _robust(found["robust"])
    return "\n\n".join(part for part in parts if part)
