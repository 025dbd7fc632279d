"""The later sections of docs/results.md: conditions, transfer, what follows for the defaults, and the cost."""

from __future__ import annotations

import json
import math
from typing import Any

from _common import RECORDS
from _results import STORE
from _results_data import (
    cell_values,
    comparison_leads,
    correlations,
    enough,
    groups_mixed,
    lambda_scan,
    policy_lead,
    records,
    serving_lead,
    stored,
    truth_of,
)
from _results_pages import schedule_lead
from _results_partitions import objective_default
from _results_words import CELLS, SETS, interval, listed, lost, number, table, than, won

LAMBDAS = (0.0, 0.5, 1.0, 2.0, 5.0)
# Seeds that agree less than this measure mostly noise (as for the affinity measures, `measure.agreement`).
_AGREEING = 0.5
POLICIES = ("plan by labels", "plan by text", "random", "worst by labels", "joint")


def when_page() -> str:
    """The map of conditions."""
    cells = {name: cell for name in CELLS if enough(cell := stored("when", name))}
    if not cells:
        return ""
    rows, said, turned = [], [], []
    for name, cell in cells.items():
        leads = {rival: policy_lead(cell, "plan by labels", rival) for rival in ("random", "worst by labels", "joint")}
        text = policy_lead(cell, "plan by text", "random")
        means = [f"{cell_values(cell, policy).mean():.3f}" for policy in POLICIES]
        shown = [interval(lead) for lead in (*leads.values(), text)]
        rows.append([name, *means, *shown, str(len(cell_values(cell, "random")))])
        sentence = (
            f"- **{name}** ({CELLS[name]}; {cell['cell']['documents']} texts a domain): planned by "
            "label affinity it is "
            f"{than(leads['random'], 'random groups')} and "
            f"{than(leads['joint'], 'one stage for all')}; planned by text "
            f"it is {than(text, 'random groups')}."
        )
        if not cell["cell"]["apart"]:
            own = [policy_lead(cell, f"plan by {way}", "random", "snapshot") for way in ("labels", "text")]
            mean = [cell_values(cell, policy, "snapshot").mean() for policy in ("plan by labels", "random")]
            sentence += (
                f" Served from each domain's own stage, groups by labels ({mean[0]:.3f}) are "
                f"{than(own[0], f'random groups ({mean[1]:.3f})')}, groups by text {than(own[1], 'random groups')}."
            )
        if cell["turned"]:
            turned = cell["turned"]
            mixed = [groups_mixed(cell["policies"][f"plan by {way}"], turned) for way in ("labels", "text")]
            sentence += f" Groups that mix both conventions: {mixed[0]} by labels, {mixed[1]} by text."
        said.append(sentence)
    first = next(iter(cells.values()))
    train = first["settings"]
    head = ["cell", "plan by labels", "plan by text", "random", "worst by labels", "one stage for all"]
    head += ["by labels − random", "by labels − worst", "by labels − one stage", "by text − random", "seeds"]
    text_head = (
        f"{len(first['domains'])} of the review domains ({', '.join(first['domains'])}), the same "
        "encoder with adapters in "
        f"its last block, rate {train['lr']:g}, steps of {train['batch_tokens']} tokens; accuracy of "
        "the last backbone. *By "
        "labels*: groups planned from the cosine of class-mean differences. *By text*: from JS and synergy, as by "
        "default. *Worst*: the partition of the least label affinity. All groups of a cell are of one size. "
    )
    if turned:
        text_head += f"Labels turned round, where they are: {', '.join(turned)}."
    return "\n\n".join(["## When does a plan matter?", text_head, table(head, rows), "\n".join(said)])


def _validated(name: str) -> list[str]:
    """Where the study itself has no record: the newest of the metrics' own validation benchmark."""
    path = RECORDS / f"metrics_validation_{name}.json"
    if not path.exists():
        return []
    newest = json.loads(path.read_text())[-1]
    config, results = newest["config"], newest["results"]
    agreed = "one seed" if results["reliability"] is None else f"seeds agree at ρ = {results['reliability']:.2f}"
    return [
        f"**{name.capitalize()}**, from `benchmarks/bench_metrics_validation.py {name}` ({config['kind']}, embedder "
        f"{config['embedder'].rsplit('/', 1)[-1]}, {config['steps']} steps, {config['documents']} texts a domain, "
        f"{agreed}; commit {newest.get('commit', 'not noted')}):",
        table(
            ["measure", "Spearman ρ", "95 % over domains", "p", "split-half agreement"],
            [
                [row[0], f"{row[1]:+.2f}", row[2], f"{row[3]:.4f}" if len(row) > 5 else "–", _or_dash(row[-1])]
                for row in results["rows"]
            ],
        ),
    ]


def _ceiling(agreement: float) -> str:
    """What a perfect measure correlates with the mean of two noisy runs, by Spearman and Brown."""
    return "nothing" if agreement <= 0 else f"{math.sqrt(2 * agreement / (1 + agreement)):.2f}"


def _or_dash(value: object) -> str:
    return number(value, 2) if isinstance(value, float) else "–"


def transfer_page() -> str:
    """What predicts transfer."""
    parts: list[str] = []
    for name in ("reviews", "prose"):
        value = stored(f"transfer-{name}", "transfer")
        if value is None:
            parts += _validated(name)
            continue
        found, settings = correlations(value), value["settings"]
        best, sure = found[0], [one for one in found if one.low > 0]
        sentences = [
            f"Two seeds of the trainings, on other texts each, agree at ρ = {truth_of(value)[1]:.2f} over pairs, so "
            f"that a perfect foreteller would reach about {_ceiling(truth_of(value)[1])}. {len(sure)} of "
            f"{len(found)} measures foretell transfer with an interval above 0; the best is "
            f"{best.name} (ρ = {best.rho:.2f})."
        ]
        sentences += [
            f"{one.name[0].upper()}{one.name[1:]}: ρ = {one.rho:.2f} (p = {one.p:.3f})."
            for one in found
            if one.name.startswith("gradient")
        ]
        parts += [
            f"**{name.capitalize()}**: {value['model']}; {value['unit']}; {settings['probe_steps']} steps on at most "
            f"{settings['probe_documents']} texts of one domain, tested on all {len(value['domains'])}.",
            " ".join(sentences),
            table(
                ["measure", "Spearman ρ", "95 % over domains", "Mantel p", "split-half agreement"],
                [
                    [c.name, f"{c.rho:+.2f}", f"{c.low:+.2f} to {c.high:+.2f}", f"{c.p:.4f}", number(c.agreement, 2)]
                    for c in found
                ],
            ),
            "The same ρ for λ · synergy − js, both from the text alone:",
            table(
                ["scale", *(f"λ = {lam:g}" for lam in LAMBDAS)],
                [[scale, *(f"{rho:+.2f}" for rho in rhos)] for scale, rhos in lambda_scan(value, LAMBDAS).items()],
            ),
        ]
        if truth_of(value)[1] < _AGREEING:
            parts.append("Trainings that hardly agree with one another cannot tell measures apart; so beside them:")
            parts += _validated(name)
    if not parts:
        return ""
    head = "Row i of the matrix: trained on domain i alone, tested on every domain; row and column means taken out."
    return "\n\n".join(["## What predicts transfer?", head, *parts])


def _stages_default(leads: dict[str, Any]) -> str:
    text = f"**Stages or one stage.** The plan's lead over one stage for all: {listed(leads)}. "
    if lost(leads) and not won(leads):
        return text + (
            "Nowhere is it ahead beyond doubt. Gains by rank average 0 over pairs, so that an objective left free "
            "always splits; `plan.stages` is therefore `fewest`: one stage where nothing forbids it, and under a "
            "budget as few as fit, so that whoever follows the defaults has what one stage gives. A budget is for what "
            f"one stage would break, cannot-link for tasks that contradict one another.{_conflict_over_joint()}"
        )
    return (
        text
        + "As many stages as the objective likes would do; `plan.stages` is `fewest` as long as nothing gains by more."
    )


def _conflict_over_joint() -> str:
    """Where more stages did pay."""
    cell = stored("when", "conflict-staged")
    if not enough(cell):
        return ""
    last, own = (policy_lead(cell, "plan by labels", "joint", serving) for serving in ("final", "snapshot"))
    return (
        f" With contradicting labels two stages planned by labels are {than(last, 'one stage')} on the last backbone "
        f"and {than(own, 'one stage')} on each domain's own: there set `plan.stages` and plan by `class_mean_cosine`."
    )


def _serving_default(leads: dict[str, Any]) -> str:
    text = (
        f"**Last or own backbone.** The last one's lead over each domain's own, in the plan's runs: {listed(leads)}. "
    )
    if won(leads) and lost(leads):
        return text + (
            "The sign depends on the set, so no default serves all: every run evaluates both and its "
            "report shows both. "
            "The last one stays the default; where the report shows forgetting, serve the snapshot."
        )
    if lost(leads):
        return (
            f"{text}Nowhere is the last backbone ahead beyond doubt, and it is behind on {', '.join(lost(leads))}. "
            "So `kinfold export` takes for each domain the backbone that scored better in the run's evaluation; "
            "`compare.serving` judges the last one by default and shows both." + _serving_in_conflict()
        )
    return text + "The last backbone stays the default."


def _serving_in_conflict() -> str:
    cell = stored("when", "conflict-staged")
    if not enough(cell):
        return ""
    last, own = (policy_lead(cell, "plan by labels", "random", serving) for serving in ("final", "snapshot"))
    return (
        " Where labels contradict and stages go on from one another, groups by labels are, on the last backbone, "
        f"{than(last, 'random groups')}, and on each domain's own {than(own, 'random groups')}."
    )


def _shared_default(leads: dict[str, Any]) -> str:
    text = f"**Shared adapters.** The plan's lead over independent adapters: {listed(leads)}. "
    if won(leads):
        return text + f"Sharing won beyond doubt on {len(won(leads))} of {len(leads)}; shared adapters stay on."
    return text + "Sharing won nowhere beyond doubt; it stays on because it costs less to serve, not for its gain."


def _measure_default(name: str, value: Any) -> str:
    ranked = correlations(value)
    of = {one.name: one for one in ranked}
    best, js, synergy = ranked[0], of["js"], of["synergy"]
    inside = "within" if best.rho <= max(js.high, synergy.high) else "beyond"
    scan = lambda_scan(value, LAMBDAS)
    at = LAMBDAS.index(1.0)
    sure = "both with an interval above 0" if js.low > 0 and synergy.low > 0 else "not both with an interval above 0"
    return (
        f"**Measures, λ and scale ({name}).** From the text alone js reaches ρ = {js.rho:.2f} with "
        "transfer and synergy "
        f"{synergy.rho:.2f}, {sure}; the best of all, {best.name}, reaches {best.rho:.2f}, {inside} their intervals. "
        f"Together at λ = 1 they reach {scan['rank'][at]:.2f} by ranks and {scan['none'][at]:.2f} unscaled; for λ from "
        f"{LAMBDAS[0]:g} to {LAMBDAS[-1]:g} ranks stay between {min(scan['rank']):.2f} and "
        f"{max(scan['rank']):.2f}. js, "
        "synergy, λ = 1 and ranks stay the defaults: they need neither labels nor a model, and nothing foretells "
        f"better beyond doubt.{_gradients(ranked)}"
    )


def _gradients(ranked: Any) -> str:
    """What is to be said of gradient affinity, where it was measured."""
    found = [one for one in ranked if one.name.startswith("gradient")]
    if not found:
        return ""
    said = ", ".join(
        f"{one.rho:+.2f} [{one.low:+.2f}, {one.high:+.2f}]"
        + ("" if one.agreement is None else f" (its halves agree at {one.agreement:.2f})")
        for one in found
    )
    return f" Gradient affinity, the costliest, reaches {said}; it stays a measure to ask for."


def _schedule_default() -> str:
    study, value = stored("schedule-prose", "schedule"), stored("prose", "compare")
    if study is None or value is None:
        return ""
    lead = schedule_lead("prose", "span", study, value)
    if lead is None:
        return ""
    text = (
        "**Learning-rate schedule.** One schedule over all stages, where by default each has its own, is on prose "
        f"{than(lead, 'the default')}. "
    )
    if lead.low > 0:
        return text + "By this evidence it should become the default."
    return text + "The default stays: what a late stage gets of one schedule is its low end."


def _labels_default() -> str:
    cell = stored("when", "conflict-apart")
    if not enough(cell):
        return ""
    by_labels, by_text = (policy_lead(cell, f"plan by {way}", "random") for way in ("labels", "text"))
    return (
        "**Where there are labels.** With contradicting conventions, groups by class-mean cosine are "
        f"{than(by_labels, 'random groups')}, groups by text {than(by_text, 'random groups')}. So with labels measure "
        "`class_mean_cosine` and plan by it (`plan.synergy`) when it is negative for some pairs; it is not the default "
        "because it needs labels that mean the same everywhere by name."
    )


def _warning_default(compared: dict[str, Any]) -> str:
    """What the planner's own expectation says, and what came of it."""
    said = {name: value["expectation"] for name, value in compared.items() if value.get("expectation")}
    known = {name: lead for name in said if (lead := comparison_leads(compared[name]).get("random"))}
    if not known:
        return ""
    sure = [name for name in known if said[name]["matters"]]
    kept = [name for name in sure if known[name].low > 0]
    text = (
        "**What `kinfold plan` warns of.** It compares its lead over random groups with what a search finds in "
        f"resampling noise, and warns where it is no larger. On {len(sure)} of {len(known)} sets here "
        "the lead was beyond "
        f"noise; on {len(kept)} of those training then showed the plan ahead of random groups beyond doubt."
    )
    if len(kept) < len(sure):
        text += " So a lead beyond noise is needed for a plan to matter, and not enough."
    cell = stored("when", "conflict-apart")
    if enough(cell) and policy_lead(cell, "plan by labels", "random").low > 0:
        text += (
            " It also names contradicting labels inside a stage where `class_mean_cosine` was measured: under that "
            "condition groups made a difference here."
        )
    return text


def defaults() -> str:
    """What follows for the defaults, a paragraph each."""
    compared = {name: value for name in SETS if (value := stored(name, "compare")) is not None}
    leads = {name: comparison_leads(value) for name, value in compared.items()}
    parts = ["## What follows for the defaults"]
    joint = {name: found["joint"] for name, found in leads.items() if "joint" in found}
    serving = {name: lead for name, value in compared.items() if (lead := serving_lead(name, value, "plan"))}
    alone = {name: found["independent"] for name, found in leads.items() if "independent" in found}
    if joint:
        parts.append(_stages_default(joint))
    if serving:
        parts.append(_serving_default(serving))
    parts.append(objective_default())
    if alone:
        parts.append(_shared_default(alone))
    for name in ("reviews", "prose"):
        value = stored(f"transfer-{name}", "transfer")
        if value is not None:
            parts.append(_measure_default(name, value))
    parts += [_schedule_default(), _labels_default(), _warning_default(compared)]
    return "\n\n".join(part for part in parts if part)


def costs() -> str:
    """How to repeat it, and what it cost."""
    rows, machine = [], None
    changed: set[str] = set()
    for folder in sorted(path.name for path in STORE.iterdir() if path.is_dir()):
        held = records(folder)
        wall = sum(record["wall_seconds"] for record in held.values())
        cpu = sum(record.get("cpu_seconds", 0.0) for record in held.values())
        made = [record["made"] for record in held.values()]
        one = stored(folder, "transfer")
        if one is not None:
            wall, cpu, made = one["wall_seconds"], one["cpu_seconds"], [one["made"]]
        if not made:
            continue
        kind, _, of = folder.partition("-")
        script = f"results_sets.py {folder}"
        if folder == "when":
            script = "results_when.py"
        elif kind in ("transfer", "schedule"):
            script = f"results_{kind}.py {of}"
        commits = sorted({entry["commit"].removesuffix("+changes") for entry in made})
        changed |= {name for entry in made for name in entry.get("changed", ())}
        rows.append(
            [f"`benchmarks/{script}`", str(len(held) or "–"), f"{cpu:,.0f}", f"{wall:,.0f}", ", ".join(commits)]
        )
        machine = made[-1]["machine"]
    if machine is None:
        return ""
    text = (
        "`python benchmarks/results.py --run` makes every run that has no record and writes this "
        "page; each command below "
        "makes one table and goes on where it stopped. CPU-seconds are those of one thread a process; the clock also "
        "counts whatever else the machine was doing, which was much. "
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, torch {machine['versions']['torch']}."
    )
    if changed:
        text += f" Beyond the commit named, some runs were made with changes in {', '.join(sorted(changed))}."
    head = ["command", "runs", "CPU-seconds", "seconds by the clock", "commit of the package"]
    return "\n\n".join(["## Repeat it", text, table(head, rows)])
