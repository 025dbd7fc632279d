"""What docs/results.md says of partitions: whether those that the planner prefers train better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np
from _results_data import Lead, lead_of, records, row, stored
from _results_lattice import lattice_part
from _results_words import interval, listed, lost, standing, table, than, won
from numpy.typing import NDArray

PARTITION_SETS = ("prose", "demo", "reviews-text", "reviews")
_LEAST = 6
Runs = Mapping[tuple[int, int], Mapping[str, Any]]
WORDS = {
    "plan": "the plan",
    "fewest": "the plan in as few stages as the budget allows",
    "contrary": "the least liked groups of the plan's sizes",
    "reversed": "the plan's stages in reverse order",
    "random": "random groups of the plan's sizes",
    "random, as few": "random groups in as few stages",
    "by gradients": "groups of those sizes that gradient affinity likes best",
    "by transfer": "groups of those sizes that the measured transfer itself likes best",
    "halves": "two random stages",
    "joint": "one stage for all",
}


def objective(value: Mapping[str, Any], stages: Sequence[Sequence[str]]) -> float:
    """What the plan of a comparison maximises, of other stages."""
    at = {name: i for i, name in enumerate(value["plan"]["domains"])}
    gain = value["plan"]["gain"]
    return float(sum(gain[at[a]][at[b]] for stage in stages for a, b in combinations(stage, 2)))


def _values(runs: Runs, domains: Sequence[str], serving: str) -> tuple[list[int], NDArray[np.float64]]:
    """Seeds, and values by (seed, draw, domain) over the draws that every seed has."""
    seeds = sorted({seed for seed, _ in runs})
    draws = min(sum(1 for at in runs if at[0] == seed) for seed in seeds)
    found = [[runs[key] for key in sorted(runs) if key[0] == seed][:draws] for seed in seeds]
    return seeds, np.array([[row(run, serving, domains) for run in some] for some in found])


def _merged(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One record of groups that were trained apart: each domain's values from its own group's run."""
    first = parts[0]
    return {
        "task": first["task"],
        "seed": first["seed"],
        "stages": [stage for part in parts for stage in part["stages"]],
        **{serving: {k: v for part in parts for k, v in part[serving].items()} for serving in ("final", "snapshot")},
    }


@cache
def _policies(name: str) -> dict[tuple[bool, str], dict[tuple[int, int], Mapping[str, Any]]]:
    """Runs of a set by (trained apart, policy) and (seed, draw)."""
    value = stored(name, "compare")
    study = stored(f"partitions-{name}", "partitions")
    out: dict[tuple[bool, str], dict[tuple[int, int], Mapping[str, Any]]] = {}
    if value is None or study is None:
        return out
    for method in value["methods"]:
        if method["name"] in ("plan", "joint", "random") and "records" in method:
            runs = out.setdefault((False, method["name"]), {})
            for key in method["records"]:
                run = records(name)[key]
                runs[run["seed"], sum(1 for at in runs if at[0] == run["seed"])] = run
    held = {**records(name), **records(f"partitions-{name}")}
    for one in study["runs"]:
        if one["part"] != "grid":
            apart = one["part"] == "apart"
            runs = out.setdefault((apart, one["policy"]), {})
            runs[one["seed"], one["draw"]] = _merged([held[key] for key in one["parts"]])
    return out


def lead_over(name: str, one: str, other: str, serving: str = "final", *, apart: bool = False) -> Lead | None:
    """How far a policy is ahead of another on a set, paired by seed and domain; None with fewer than two seeds."""
    value, found = stored(name, "compare"), _policies(name)
    if (apart, one) not in found or (apart, other) not in found:
        return None
    own, rival = found[apart, one], found[apart, other]
    seeds = {seed for seed, _ in own} & {seed for seed, _ in rival}
    if len(seeds) < 2:
        return None
    own, rival = ({key: run for key, run in runs.items() if key[0] in seeds} for runs in (own, rival))
    domains, higher = value["domains"], value["higher_is_better"]
    return lead_of(_values(own, domains, serving)[1].mean(axis=1), _values(rival, domains, serving)[1], higher=higher)


def over_random(name: str, serving: str) -> tuple[float, float, float, int] | None:
    """Rank correlation, over random partitions of the plan's sizes, of the objective with the lead over one stage.

    The interval is Bonett and Wright's for Spearman's coefficient; partitions were drawn independently of one another.
    """
    from scipy.stats import spearmanr

    value, found = stored(name, "compare"), _policies(name)
    runs, joint = found.get((False, "random"), {}), found.get((False, "joint"), {})
    pairs = [(run, joint[seed, 0]) for (seed, _), run in runs.items() if (seed, 0) in joint]
    if len(pairs) < _LEAST:
        return None
    sign = 1.0 if value["higher_is_better"] else -1.0
    domains = value["domains"]
    outcome = [sign * float((row(a, serving, domains) - row(b, "final", domains)).mean()) for a, b in pairs]
    rho = float(spearmanr([objective(value, run["stages"]) for run, _ in pairs], outcome).statistic)
    half = 1.96 * math.sqrt((1 + rho**2 / 2) / (len(pairs) - 3))
    return rho, math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half), len(pairs)


def _set_part(name: str) -> list[str]:
    value, found = stored(name, "compare"), _policies(name)
    if not any(policy == "contrary" for _, policy in found):
        return []
    rows = []
    domains = value["domains"]
    for apart in (False, True):
        for policy, words in WORDS.items():
            runs = found.get((apart, policy))
            if not runs:
                continue
            scores = [objective(value, run["stages"]) for run in runs.values()]
            means = [f"{_values(runs, domains, serving)[1].mean():.4f}" for serving in ("final", "snapshot")]
            leads = [
                interval(
                    None if policy.startswith("random") else lead_over(name, policy, "random", serving, apart=apart)
                )
                for serving in ("final", "snapshot")
            ]
            if apart or policy == "joint":
                # One stage, or groups that nothing follows: the last backbone is the only one.
                means[1] = leads[1] = "–"
            rows.append(
                [
                    "nothing" if apart else "stages go on",
                    words,
                    ", ".join(str(n) for n in sorted({len(run["stages"]) for run in runs.values()})),
                    f"{np.mean(scores):+.2f}",
                    *means,
                    *leads,
                    str(len(runs)),
                ]
            )
    head = ["carried over", "groups", "stages", "planned objective", "last backbone", "own backbone"]
    head += ["last: lead over random", "own: lead over random", "runs"]
    said = []
    for serving, where in (("final", "last backbone"), ("snapshot", "own backbone")):
        rho = over_random(name, serving)
        if rho is not None:
            said.append(
                f"Over {rho[3]} random partitions the objective's rank correlation with the outcome on the {where} is "
                f"{rho[0]:+.2f} [{rho[1]:+.2f}, {rho[2]:+.2f}]."
            )
    for serving, where in (("final", "last backbone"), ("snapshot", "own backbone")):
        lead = lead_over(name, "contrary", "plan", serving)
        if lead is not None:
            said.append(f"On the {where} the least liked groups are {than(lead, 'the plan')}.")
    lead = lead_over(name, "reversed", "plan")
    if lead is not None:
        said.append(f"The plan's stages in reverse order are {than(lead, 'the plan')}.")
    for rival in ("plan", "random", "joint"):
        lead = lead_over(name, "fewest", rival)
        if lead is not None:
            said.append(f"Planned in as few stages as the budget allows it is {than(lead, WORDS[rival])}.")
    lead = lead_over(name, "fewest", "random, as few")
    if lead is not None:
        said.append(f"Among partitions into as few stages the planned one is {than(lead, 'random groups')}.")
    for rival, words in (("random", "random ones"), ("contrary", "the least liked ones")):
        lead = lead_over(name, "plan", rival, apart=True)
        if lead is not None:
            said.append(f"With nothing carried over the plan's groups are {than(lead, words)}.")
    for policy, words in (("by gradients", "gradient affinity"), ("by transfer", "measured transfer")):
        leads = [lead_over(name, policy, rival, apart=True) for rival in ("random", "plan")]
        if leads[0] is not None and leads[1] is not None:
            said.append(
                f"Groups by {words} are {than(leads[0], 'random ones')} and {than(leads[1], 'the plan')}, likewise "
                "with nothing carried over."
            )
    lead = lead_over(name, "halves", "joint")
    if lead is not None:
        said.append(f"Two random stages are {than(lead, 'one stage for all')}.")
    return [f"**{name}**", table(head, rows), " ".join(said)]


# -- the plan at every λ and scale --------------------------------------------------------------------------------


def grid_part(name: str) -> list[str]:
    """Every setting of λ and scale by the outcome of the groups that it comes to."""
    value, study = stored(name, "compare"), stored(f"partitions-{name}", "partitions")
    if value is None or study is None or "grid" not in study:
        return []
    held = {**records(name), **records(f"partitions-{name}")}
    runs: dict[str, dict[int, Any]] = {}
    for one in study["runs"]:
        if one["part"] == "grid":
            runs.setdefault(one["policy"], {})[one["seed"]] = held[one["parts"][0]]
    default = next(n for n, cell in enumerate(study["grid"]) if ["rank", 1.0] in cell["settings"])
    base = runs.get(f"grid {default}", {})
    rows = []
    domains, higher = value["domains"], value["higher_is_better"]
    for number_, cell in sorted(enumerate(study["grid"]), key=lambda at: len(at[1]["stages"])):
        own = runs.get(f"grid {number_}", {})
        seeds = sorted(set(own) & set(base))
        asked = "; ".join(f"{scale} {lam:g}" for scale, lam in cell["settings"])
        sizes = " ".join(str(len(stage)) for stage in cell["stages"])
        if not seeds:
            rows.append([asked, sizes, "–", "–", "–"])
            continue
        a, b = (np.array([row(some[s], "final", domains) for s in seeds]) for some in (own, base))
        c = np.array([row(own[s], "snapshot", domains) for s in seeds])
        lead = None if number_ == default or len(seeds) < 2 else lead_of(a, b[:, None, :], higher=higher)
        rows.append([asked, sizes, f"{a.mean():.4f}", f"{c.mean():.4f}", interval(lead)])
    head = ["scale and λ", "sizes of the stages", "last backbone", "own backbone", "lead over the default"]
    return [f"**{name}**, the plan at every λ and scale (a dash: not trained):", table(head, rows)]


def leads_over(one: str, other: str, serving: str = "final", *, apart: bool = False) -> dict[str, Lead]:
    """The leads of a policy over another on every set that has both."""
    found = {name: lead_over(name, one, other, serving, apart=apart) for name in PARTITION_SETS}
    return {name: lead for name, lead in found.items() if lead is not None}


def partition_lines() -> list[str]:
    """The section in short."""
    out = []
    fewest = leads_over("fewest", "plan")
    if fewest:
        line = (
            "**How many stages**: planned in as few as the budget allows it is, beside the plan with as many as the "
            f"objective likes, {standing(fewest)}; beside one stage for all {standing(leads_over('fewest', 'joint'))}"
        )
        few = leads_over("fewest", "random, as few")
        out.append(line + (f"; beside random groups in as few stages {standing(few)}." if few else "."))
    contrary = leads_over("contrary", "plan")
    if contrary:
        said = "" if lost(contrary) else ": a higher objective did not train better"
        out.append(
            "**Who shares a stage**: the groups of the plan's sizes that the objective likes least are, beside the "
            f"plan, {standing(contrary)}{said}."
        )
    apart = leads_over("plan", "random", apart=True)
    if apart:
        out.append(
            "**Groups that share nothing** (each trained from the base model, so that staging plays no part): the "
            f"plan's are, beside random ones, {standing(apart)}."
            + "".join(
                f" Groups by {words}: {standing(found)}."
                for policy, words in (("by gradients", "gradient affinity"), ("by transfer", "measured transfer"))
                if (found := leads_over(policy, "random", apart=True))
            )
        )
    return out


def ceiling_said() -> str:
    """What even the measured transfer, taken as the planner's measure, gains over random groups that share nothing."""
    leads = leads_over("by transfer", "random", apart=True)
    if not leads:
        return ""
    text = (
        "Groups picked by the transfer that was measured itself, each trained from the base model, are beside random "
        f"groups {standing(leads)}"
    )
    if not won(leads):
        return f"{text}: where the transfer itself shows no gain, no measure that foretells it will. "
    return f"{text}: there is something that a better measure could gain. "


def objective_default() -> str:
    """Who shares a stage, where there are several."""
    pairs = {serving: leads_over("contrary", "plan", serving) for serving in ("final", "snapshot")}
    leads = pairs["final"]
    if not leads:
        return ""
    ahead = seeds = 0
    for name in leads:
        value, found = stored(name, "compare"), _policies(name)
        sign = 1.0 if value["higher_is_better"] else -1.0
        for key, run in found[False, "contrary"].items():
            if key in found[False, "plan"]:
                other = found[False, "plan"][key]
                seeds += 1
                ahead += (
                    sign * float((row(run, "final", value["domains"]) - row(other, "final", value["domains"])).mean())
                    > 0
                )
    text = (
        "**Who shares a stage.** The least liked groups of the plan's sizes, beside the plan, on the last backbone: "
        f"{listed(leads)}; on each domain's own: {listed(pairs['snapshot'])}. "
        f"They are ahead in {ahead} of {seeds} runs. "
    )
    rhos = {name: rho for name in PARTITION_SETS if (rho := over_random(name, "final"))}
    if rhos:
        shown = "; ".join(f"{name} {rho[0]:+.2f} [{rho[1]:+.2f}, {rho[2]:+.2f}]" for name, rho in rhos.items())
        text += f"Rank correlation of the objective with the outcome over random partitions: {shown}. "
    text += ceiling_said()
    if not lost(leads):
        worse = f", and on {', '.join(won(leads))} it trained worse beyond doubt" if won(leads) else ""
        text += f"So on none of these sets did a higher objective train better{worse}. "
        fewest = leads_over("fewest", "plan")
        if fewest and len(won(fewest)) == len(fewest):
            text += (
                f"How many stages there are did matter: in as few as the budget allows the plan gains "
                f"{listed(fewest)}. What we think: left free, the objective puts outlying domains into stages of "
                "their own, and each later stage takes back some of what earlier ones gained. "
            )
        return (
            text
            + "The objective stays as the papers have it; `plan.stages = fewest` leaves it who shares, not how many."
        )
    if won(leads) or lost(leads):
        return text + "The sets do not agree, so the objective stays as the papers have it."
    return text + "No difference is shown, so the objective stays as the papers have it."


def partitions_page() -> str:
    """The section on whether a higher objective means a better outcome."""
    parts = [part for name in PARTITION_SETS for part in _set_part(name)]
    parts += [part for name in PARTITION_SETS for part in grid_part(name)]
    parts += lattice_part()
    if not parts:
        return ""
    head = (
        "The planner maximises Σ (λ · synergy − discrepancy) over pairs that share a stage. Here other partitions are "
        "trained as the plan is, at the same tokens: random ones, and the one of the plan's sizes that this objective "
        "likes least. *Stages go on*: each stage begins from the last, as `kinfold train` does. *Nothing* carried "
        "over: every group is trained from the base model, so that only who shares a group counts. Outcomes are "
        "paired by seed; the correlation over random partitions is of the lead over one stage for all."
    )
    return "\n\n".join(["## Does a higher planned objective train better?", head, *parts])
