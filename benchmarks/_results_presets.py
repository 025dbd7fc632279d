"""The section of docs/results.md on the presets of `kinfold compare`: ablations, both weights, noise and imbalance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from _results_data import Lead, lead_of, records, row, stored
from _results_words import RIVALS, interval, number, table, than
from kinfold.stages import TrainSettings

_KINDS = {
    "token_noise": "share of words replaced",
    "label_noise": "share of labels replaced",
    "imbalance": "largest to smallest domain",
}


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


def _squares(value: Mapping[str, Any]) -> list[tuple[float, float, float, list[str]]]:
    """Mean, λ₁, λ₂ and runs of every square, the best first."""
    grid = value["grid"]
    cells = [
        (grid["mean"][i][j], x, y, grid["records"][i][j])
        for i, x in enumerate(grid["ssl_weight"])
        for j, y in enumerate(grid["align_weight"])
        if grid["mean"][i][j] is not None
    ]
    return sorted(cells, key=lambda cell: cell[0], reverse=value["higher_is_better"])


def _square_lead(value: Mapping[str, Any], one: Sequence[str], other: Sequence[str]) -> Lead | None:
    """How far a square's runs are ahead of another's, paired by seed and domain."""
    held = records("presets")
    first, second = ({held[key]["seed"]: held[key] for key in keys} for keys in (one, other))
    seeds = sorted(set(first) & set(second))
    if len(seeds) < 2:
        return None
    a, b = (np.array([row(some[seed], "final", value["domains"]) for seed in seeds]) for some in (first, second))
    return lead_of(a, b[:, None, :], higher=value["higher_is_better"])


def _against_none(value: Mapping[str, Any]) -> dict[tuple[float, float], Lead]:
    """The lead of every square over the one without both losses."""
    squares = _squares(value)
    without = next((keys for _, x, y, keys in squares if x == y == 0), None)
    if without is None:
        return {}
    leads = {(x, y): _square_lead(value, keys, without) for _, x, y, keys in squares if (x, y) != (0, 0)}
    return {weights: lead for weights, lead in leads.items() if lead is not None}


def _grid_said(value: Mapping[str, Any]) -> str:
    """How many squares are told from the one without both losses."""
    leads = _against_none(value)
    ahead, behind = (
        [f"λ₁ = {x:g}, λ₂ = {y:g} ({interval(lead)})" for (x, y), lead in leads.items() if sure(lead)]
        for sure in (lambda lead: lead.low > 0, lambda lead: lead.high < 0)
    )
    said = [f"{words} at {', '.join(some)}" for words, some in (("ahead", ahead), ("behind", behind)) if some]
    unsure = len(leads) - len(ahead) - len(behind)
    said += [f"not to be told apart at {unsure} of {len(leads)} pairs of weights"] if unsure else []
    return "; ".join(said)


def _grid(value: Mapping[str, Any]) -> list[str]:
    grid = value.get("grid")
    if not grid:
        return []
    spread = [x for line in grid["sd_over_seeds"] for x in line if x is not None]
    squares = _squares(value)
    best, worst = squares[0], squares[-1]
    leads = _against_none(value)
    rows = []
    for x in grid["ssl_weight"]:
        cells = {y: mean for mean, own, y, _ in squares if own == x}
        rows.append(
            [f"λ₁ = {x:g}"]
            + [
                f"{number(cells.get(y), 4)}" + (f" ({interval(leads[x, y])})" if (x, y) in leads else "")
                for y in grid["align_weight"]
            ]
        )
    return [
        f"**Weights of the extra losses** (λ₁ denoising, λ₂ alignment), {len(value['seeds'])} seeds a square, in "
        "brackets the lead over the square without both: from "
        f"{best[0]:.4f} (λ₁ = {best[1]:g}, λ₂ = {best[2]:g}) to {worst[0]:.4f} (λ₁ = {worst[1]:g}, λ₂ = {worst[2]:g}), "
        f"where seeds differ by {sum(spread) / len(spread):.4f} (standard deviation). Beside training without both: "
        f"{_grid_said(value)}.",
        table(["", *(f"λ₂ = {y:g}" for y in grid["align_weight"])], rows),
        "![Sensitivity to both weights](images/results-sensitivity.svg)",
    ]


def weights_default() -> str:
    """What the grid says of the weights' defaults, with what the losses cost."""
    value = stored("presets", "grid")
    if value is None or not value.get("grid"):
        return ""
    usual = TrainSettings()
    squares = {(x, y): keys for _, x, y, keys in _squares(value)}
    if (usual.ssl_weight, usual.align_weight) not in squares or (0.0, 0.0) not in squares:
        return ""
    lead = _against_none(value)[usual.ssl_weight, usual.align_weight]
    text = (
        f"**λ₁ and λ₂.** At their defaults ({usual.ssl_weight:g} and {usual.align_weight:g}) training is "
        f"{than(lead, 'training without both losses')}. Over the grid: {_grid_said(value)}. "
    )
    if lead.high < 0:
        return text + "By this evidence they should be 0."
    if lead.low > 0:
        return text + "They stay."
    return text + (
        "One small set does not turn off what the papers have on; what the two losses cost is in "
        "[training](training.md)."
    )


def _conditions(value: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The texts as they are and each harder form, with their methods."""
    clean = {"kind": "as they are", "level": None, "methods": value["methods"]}
    return [
        (one["kind"] if one["level"] is None else f"{_KINDS[one['kind']]}: {one['level']:g}", one)
        for one in (clean, *value.get("conditions", ()))
    ]


def _robust(value: Mapping[str, Any], words: str) -> list[str]:
    rows, said = [], []
    count = len(value["domains"])
    for label, one in _conditions(value):
        plan = next(method for method in one["methods"] if method["name"] == "plan")
        for method in one["methods"]:
            if "mean" in method:
                lead = None if method is plan else _lead(method, count)
                shown = "–" if method is plan else interval(lead)
                spread = number(method.get("sd_over_seeds"), 4)
                rows.append([label, RIVALS.get(method["name"], "the plan"), f"{method['mean']:.4f} ± {spread}", shown])
                if lead is not None:
                    said.append((label, than(lead, RIVALS[method["name"]])))
    labels = dict.fromkeys(label for label, _ in said)
    text = "; ".join(f"{label}: {' and '.join(words for own, words in said if own == label)}" for label in labels)
    head = ["training texts", "trained", "mean ± sd over seeds", "the plan's lead"]
    return [words, table(head, rows), f"The plan is, with texts {text}."]


def presets_lines() -> list[str]:
    """The section in short."""
    out = []
    value = stored("presets", "ablate")
    if value is not None:
        leads = {
            method["title"].replace("the plan's stages", "with its stages").removeprefix("the plan "): lead
            for method in value["methods"]
            if method["name"].startswith("no-") and (lead := _lead(method, len(value["domains"])))
        }
        if leads:
            out.append(
                f"**Taken out of the plan's training, one at a time** (six demo domains), it is {_without(leads)}."
            )
    value = stored("presets", "grid")
    if value is not None and value.get("grid"):
        out.append(
            f"**Weights of the extra losses** (λ₁ and λ₂ up to 1), beside training without both: {_grid_said(value)}."
        )
    turned, kept = [], 0
    for study, part in (("presets", "robust"), ("presets-labels", "labels")):
        value = stored(study, part)
        if value is None:
            continue
        clean = {m["name"]: _lead(m, len(value["domains"])) for m in value["methods"]}
        for label, one in _conditions(value)[1:]:
            for method in one["methods"]:
                lead, before = _lead(method, len(value["domains"])), clean.get(method["name"])
                if lead is not None and before is not None:
                    if _verdict(lead) != _verdict(before):
                        turned.append(f"{RIVALS[method['name']]}, {label}: {interval(before)} became {interval(lead)}")
                    else:
                        kept += 1
    if kept or turned:
        changed = f"; changed: {'; '.join(turned)}" if turned else ""
        out.append(
            "**Noise in words or labels, unequal domains**: the verdict on the plan beside one stage and beside random "
            f"groups stayed what it was without in {kept} of {kept + len(turned)} cases{changed}."
        )
    return out


def _verdict(lead: Lead) -> int:
    return 1 if lead.low > 0 else -1 if lead.high < 0 else 0


def _without(leads: Mapping[str, Lead]) -> str:
    """`worse without x (...), better without y (...), else not to be told apart`."""
    said = [f"worse {name} ({interval(lead)})" for name, lead in leads.items() if lead.low > 0]
    said += [f"better {name} ({interval(lead)})" for name, lead in leads.items() if lead.high < 0]
    unsure = [name for name, lead in leads.items() if _verdict(lead) == 0]
    said += [f"not to be told apart {', '.join(unsure)}"] if unsure else []
    return "; ".join(said)


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
    value = found["robust"]
    if value:
        train = value["made_of"]["train"]
        parts += _robust(
            value,
            f"**Noise in words, unequal domains**: the same domains, at most {train['documents']} texts each, the "
            f"task's loss and alignment at {train['align_weight']:g}; nats a token. Words are replaced by others of "
            "their domain; of unequal domains each keeps less than the one before it.",
        )
    value = stored("presets-labels", "labels")
    if value:
        train = value["made_of"]["train"]
        parts += _robust(
            value,
            f"**Wrong labels**: {len(value['domains'])} review domains in two stages planned by text, the encoder of "
            f"the other sections, at most {train['documents']} texts each, an adapter per domain beside the shared "
            "one; accuracy. A label is replaced by the other one in training texts alone.",
        )
    return "\n\n".join(part for part in parts if part)
