"""The first sections of docs/results.md: the answer in short, the three sets, and why one stage is hard to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from _results_data import (
    Lead,
    comparison_leads,
    lead_of,
    mean_of,
    records,
    row,
    serving_lead,
    stored,
    truth_of,
)
from _results_words import RIVALS, SETS, against, interval, number, table, than

VARIANTS = {
    "span": "one learning-rate schedule over all stages",
    "steps": "smaller batches, so that each adapter gets as many steps as in one stage",
    "both": "both",
    "one": "one stage for all with batches as small",
}


def _method_row(name: str, value: Mapping[str, Any], method: Mapping[str, Any]) -> list[str]:
    keys, classes = method["records"], value["higher_is_better"]
    cells = [
        method["name"],
        ", ".join(map(str, sorted({len(stages) for stages in method["stages"]}))),
        f"{method['mean']:.4f} ± {number(method['sd_over_seeds'], 4)}",
        interval(comparison_leads(value).get(method["name"])),
        number(method["other_serving"].get("snapshot"), 4),
        f"{method['worst']['domain']} {method['worst']['value']:.3f}",
    ]
    if classes:
        cells += [
            " → ".join(number(mean_of(name, keys, one, when)) for when in ("before", "after"))
            for one in ("h_score", "mmd2")
        ]
    seconds = np.mean([records(name)[key].get("cpu_seconds", float("nan")) for key in keys])
    cells += [f"{method['cost']['tokens']:,.0f}", f"{method['cost']['parameters']:,.0f}", f"{seconds:.0f}"]
    return [*cells, f"{method['cost']['peak_memory'] / 1e9:.1f}", str(method["runs"])]


def set_page(name: str) -> str:
    """One of the three sets."""
    value = stored(name, "compare")
    if value is None:
        return ""
    leads, classes = comparison_leads(value), value["higher_is_better"]
    train = value["made_of"]["train"]
    head = ["method", "stages", "mean ± sd over seeds", "the plan's lead", "own backbone", "worst domain"]
    head += ["H-score, before → after", "MMD², before → after"] if classes else []
    head += ["tokens", "trained parameters", "CPU-seconds a run", "peak memory, GB", "runs"]
    before = float(np.mean(list(value["before"].values())))
    most = value["plan"]["budget"].get("domains", 0)
    setting = [
        f"{len(value['domains'])} domains, at most {train['documents']} training texts each, of at most "
        f"{train['max_length']} tokens; {train['epochs']:g} pass(es); steps of "
        f"{train['batch_tokens']} tokens; peak rate "
        f"{train['lr']:g}; adapters "
        f"`{train['adapters']}`{', head `' + train['head'] + '`' if classes else ''}; at most "
        f"{train['eval_documents']} test texts a domain; seeds {', '.join(map(str, value['seeds']))}.",
        f"At most {most:g} domains share a stage of the plan. Untrained, the model stands at {before:.4f}; "
        f"{'higher' if classes else 'lower'} is better.",
        "*Own backbone*: the mean where each domain is served from the stage that trained it; all "
        "else is the last one.",
    ]
    if classes:
        blocks = len({target.split(".")[2] for target in train["lora"]["targets"] if target.startswith("encoder.")})
        setting.append(
            f"Adapters sit in the encoder's last {'block' if blocks == 1 else f'{blocks} blocks'} and its pooler; what "
            "lies below is computed once for each text. MMD² is the mean over pairs of domains, in "
            "one kernel for before "
            "and after that each run sets anew."
        )
    others = [
        against(value, rival, leads[rival])
        for rival in ("single-linkage", "discrepancy-only", "one-per-domain")
        if rival in leads
    ]
    others += [
        f"{RIVALS[method['name']].capitalize()} came to the plan's own stages, so it was not trained twice."
        for method in value["methods"]
        if method.get("verdict") == "same as the plan"
    ]
    ran = {method["name"] for method in value["methods"]}
    missing = [RIVALS[rival] for rival in RIVALS if rival not in ran]
    parts = [
        f"## {SETS[name]}",
        " ".join(setting),
        table(head, [_method_row(name, value, method) for method in value["methods"] if "mean" in method]),
        f"![The plan's lead over each rival](images/results-{name}.svg)",
        " ".join(against(value, rival, leads[rival]) for rival in ("joint", "independent", "random") if rival in leads),
        " ".join(others),
        _equal_parameters(name),
        _meaning(name, value, leads),
        f"Not run on this set, which stands beside the three: {', '.join(missing)}." if missing else "",
        _expected(value.get("expectation")),
        _beside_the_papers(value) if name == "reviews" else "",
    ]
    return "\n\n".join(part for part in parts if part)


def _equal_parameters(name: str) -> str:
    """The second accounting: ranks fitted to the plan's number of trained parameters."""
    value = stored(f"{name}-equal", "compare")
    if value is None:
        return ""
    leads = comparison_leads(value)
    said = [
        f"{than(leads[method['name']], RIVALS[method['name']])} at rank {method['rank']} "
        f"({method['cost']['parameters']:,.0f} parameters)"
        for method in value["methods"]
        if method["name"] in leads
    ]
    plan = next(method for method in value["methods"] if method["name"] == "plan")
    return (
        f"With ranks fitted so that rivals train as many parameters as the plan ({plan['cost']['parameters']:,.0f} at "
        f"rank {plan['rank']}) the plan is {'; '.join(said)}."
    )


def _agreeing(name: str) -> float:
    """How well two seeds of a set's measured transfer agree, where that is more than half."""
    study = stored(f"transfer-{name}", "transfer")
    found = 0.0 if study is None else truth_of(study)[1]
    return found if found > 0.5 else 0.0


def _meaning(name: str, value: Mapping[str, Any], leads: Mapping[str, Any]) -> str:
    """What we think the verdicts mean: only readings that the numbers of this set allow."""
    said = []
    joint, random, serving = leads.get("joint"), leads.get("random"), serving_lead(name, value, "plan")
    if joint is not None and joint.high < 0:
        said.append(
            "every stage begins with new adapters and a new learning-rate schedule and has only its share of the "
            "steps, where in one stage each adapter learns from the first step to the last"
        )
    if serving is not None and serving.high < 0:
        said.append(
            f"later stages take back some of what earlier ones gained (the last backbone is behind each domain's own, "
            f"{interval(serving)})"
        )
    if random is not None and random.high < 0:
        said.append(
            "the plan's groups trained worse than a deal at random of the same sizes, so that here the objective's "
            "preference, alike domains together and outlying ones alone, is against what training gains by"
        )
    elif random is not None and random.low <= 0 and _agreeing(name):
        said.append(
            "domains do differ in how much they give one another (two seeds of the measured transfer agree at ρ = "
            f"{_agreeing(name):.2f}), but in groups of these sizes that made no difference that these runs could show"
        )
    elif random is not None and random.low <= 0:
        said.append(
            "domains that differ in their words need not stand in each other's way: which of them shared a stage made "
            "no difference that these runs could show"
        )
    return f"What we think it means: {'; '.join(said)}." if said else ""


def _expected(found: Mapping[str, Any] | None) -> str:
    if not found:
        return ""
    verdict = "no more than an accident of sampling"
    if found["matters"]:
        verdict = "the groups are no accident of sampling"
    return (
        f"What the planner could know beforehand: its lead over random groups is {found['advantage']:.1f} standard "
        f"deviations over pairs, where a search in resampling noise finds {found['noise']:.1f} ± "
        f"{found['spread']:.1f}: "
        f"{verdict}. Whether differences between texts cost anything in training is another matter, and the table's."
    )


def _beside_the_papers(value: Mapping[str, Any]) -> str:
    plan = next(method for method in value["methods"] if method["name"] == "plan")
    h, m = (
        " → ".join(number(mean_of("reviews", plan["records"], one, when)) for when in ("before", "after"))
        for one in ("h_score", "mmd2")
    )
    return (
        "Beside the paper on alignment with self-supervision (Hayes and Fenwick), which reports "
        "accuracy 0.842 → 0.912, "
        "MMD 0.132 → 0.089 and H-score 0.781 → 0.854 over standard fine-tuning, without naming data, "
        "backbone or kernel: "
        f"here the plan ends at accuracy {plan['mean']:.3f}, MMD² goes {m} and the H-score {h}. Data and backbone are "
        "others and no alignment loss was on, so not even the directions need agree; with few test texts a domain the "
        "H-score has a high floor."
    )


def _runs_of(name: str, value: Mapping[str, Any], method: str) -> dict[int, Any]:
    keys = next(one["records"] for one in value["methods"] if one["name"] == method)
    return {records(name)[key]["seed"]: records(name)[key] for key in keys}


def schedule_lead(name: str, variant: str, study: Mapping[str, Any], value: Mapping[str, Any]) -> Lead | None:
    """How far the plan with a variant is ahead of the plan as it is, on the last backbone."""
    plan, held = _runs_of(name, value, "plan"), records(f"schedule-{name}")
    runs = {run["seed"]: held[run["record"]] for run in study["runs"] if run["variant"] == variant}
    seeds = sorted(set(runs) & set(plan))
    if len(seeds) < 2:
        return None
    changed, own = (np.array([row(some[s], "final", value["domains"]) for s in seeds]) for some in (runs, plan))
    return lead_of(changed, own[:, None, :], higher=value["higher_is_better"])


def _at_equal_steps(
    value: Mapping[str, Any], plan: Mapping[int, Any], one: Mapping[int, Any], joint: Mapping[int, Any]
) -> str:
    """What is left of one stage's lead where adapters get as many steps in stages, and what of that is forgetting."""
    out, kept = [], False
    for rival, words in ((joint, "one stage for all"), (one, "one stage with batches as small")):
        seeds = sorted(set(plan) & set(rival))
        if len(seeds) > 1:
            other = np.array([row(rival[seed], "final", value["domains"]) for seed in seeds])
            last, own = (
                lead_of(
                    np.array([row(plan[seed], where, value["domains"]) for seed in seeds]),
                    other[:, None, :],
                    higher=value["higher_is_better"],
                )
                for where in ("final", "snapshot")
            )
            kept = last.high < 0 <= own.high
            out.append(f"{than(last, words)} on the last backbone and {than(own, 'it')} on each domain's own")
    if not out:
        return ""
    text = f"The plan with those smaller batches is {'; '.join(out)}."
    if kept:
        text += (
            " So given steps enough, what is left of one stage's lead is what later stages take back: on the backbone "
            "that trained it a domain is not shown to lose by stages."
        )
    return text


def schedule_page() -> str:
    """Why staging loses: suspects one at a time."""
    parts = []
    for name in ("prose", "reviews"):
        study, value = stored(f"schedule-{name}", "schedule"), stored(name, "compare")
        if study is None or value is None:
            continue
        held, higher = records(f"schedule-{name}"), value["higher_is_better"]
        plan, joint = (_runs_of(name, value, method) for method in ("plan", "joint"))
        rows, said = [], []
        variants = {"the plan as it is": plan}
        for variant, words in VARIANTS.items():
            variants[words] = {r["seed"]: held[r["record"]] for r in study["runs"] if r["variant"] == variant}
        for words, runs in variants.items():
            seeds = sorted(set(runs) & set(plan) & set(joint))
            if len(seeds) < 2:
                continue

            def values(some: Mapping[int, Any], where: str = "final", s: Any = seeds, d: Any = value["domains"]) -> Any:
                return np.array([row(some[seed], where, d) for seed in s])

            over = {
                rival: lead_of(values(runs), values(of)[:, None, :], higher=higher)
                for rival, of in (("plan", plan), ("joint", joint))
            }
            own = runs is plan
            means = [f"{values(runs, where).mean():.4f}" for where in ("final", "snapshot")]
            steps = f"{np.mean([runs[seed]['steps'] for seed in seeds]):.0f}"
            rows.append([words, *means, "–" if own else interval(over["plan"]), interval(over["joint"]), steps])
            if not own:
                subject = words.capitalize() if words == VARIANTS["one"] else f"With {words} the plan"
                said.append(
                    f"{subject} is {than(over['plan'], 'the plan as it is')} and "
                    f"{than(over['joint'], 'one stage for all')}."
                )
        said.append(_at_equal_steps(value, variants[VARIANTS["steps"]], variants[VARIANTS["one"]], joint))
        head = ["the plan with", "last backbone", "own backbone", "lead over the plan", "lead over one stage", "steps"]
        parts += [f"**{name.capitalize()}**", table(head, rows), " ".join(said)]
    return "\n\n".join(["## Why one stage for all is hard to beat", *parts]) if parts else ""
