"""The later sections of docs/results.md: under which conditions groups matter, and what follows for the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from _results_data import (
    cell_values,
    comparison_leads,
    enough,
    groups_mixed,
    lead_of,
    policy_lead,
    serving_lead,
    stored,
)
from _results_foretelling import measure_default
from _results_lattice import lattice_default
from _results_pages import schedule_lead
from _results_partitions import objective_default
from _results_presets import weights_default
from _results_words import CELLS, SETS, interval, listed, lost, table, than, won

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
    said += _adapters_said(cells)
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


def _adapters_said(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One adapter per stage beside one per domain as well, all else equal."""
    if not {"plain-staged", "plain-both"} <= set(cells):
        return []
    said = []
    for policy, words in (("plan by labels", "groups by labels"), ("random", "random groups"), ("joint", "one stage")):
        one, other = (cell_values(cells[name], policy) for name in ("plain-staged", "plain-both"))
        seeds = min(len(one), len(other))
        lead = lead_of(one[:seeds].mean(axis=1), other[:seeds], higher=True)
        said.append(f"{words}: {than(lead, 'the same with one per domain')}")
    return [
        f"- **One adapter per stage instead of one per domain beside it** (plain-staged, plain-both): "
        f"{'; '.join(said)}."
    ]


def _stages_default(leads: dict[str, Any]) -> str:
    text = f"**Stages or one stage.** The plan's lead over one stage for all: {listed(leads)}. "
    if lost(leads) and not won(leads):
        return text + (
            "Nowhere is it ahead beyond doubt. Gains by rank average 0 over pairs, so that an objective left free "
            "always splits; `plan.stages` is therefore `fewest`: one stage where nothing forbids it, and under a "
            "budget as few as fit, so that whoever follows the defaults has what one stage gives. A budget is for what "
            f"one stage would break, cannot-link for tasks that contradict one another.{_conflict_over_joint()}"
        )
    return text + "`plan.stages` is `fewest`: more stages must be asked for, whatever they gained here."


def _conflict_over_joint() -> str:
    """Where more stages did pay."""
    said, sure = [], False
    for name in ("conflict-staged", "conflict-default"):
        cell = stored("when", name)
        if enough(cell):
            last, own = (policy_lead(cell, "plan by labels", "joint", serving) for serving in ("final", "snapshot"))
            said.append(f"{name}, {than(last, 'it')} on the last backbone, {than(own, 'it')} on each domain's own")
            sure = sure or own.low > 0
    if not said:
        return ""
    text = f" Where labels contradict, two stages planned by labels are, beside one stage: {'; '.join(said)}."
    if sure:
        text += (
            " So where `class_mean_cosine` was measured and agrees with itself, domains whose labels contradict are "
            "kept apart by default, in as few stages as that takes, and the plan says to serve each from its own "
            "backbone."
        )
    return text


def _serving_default(leads: dict[str, Any]) -> str:
    text = (
        f"**Last or own backbone.** The last one's lead over each domain's own, in the plan's runs: {listed(leads)}. "
    )
    if won(leads) and lost(leads):
        return text + (
            "The sign depends on the set, so no fixed choice serves all: every run evaluates both, its report shows "
            "both, and `kinfold export` takes for each domain the backbone that scored better; `compare.serving` "
            "judges the last one by default and shows both."
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
    text = (
        "**Where there are labels.** With contradicting conventions, groups by class-mean cosine are "
        f"{than(by_labels, 'random groups')}, groups by text {than(by_text, 'random groups')}. "
    )
    if by_labels.low > 0:
        text += "So with labels it is worth measuring `class_mean_cosine`; it"
    else:
        text += "`class_mean_cosine`"
    return text + " is not measured by default because labels must mean the same by name."


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
    parts += [
        measure_default(),
        lattice_default(),
        weights_default(),
        _schedule_default(),
        _labels_default(),
        _warning_default(compared),
    ]
    return "\n\n".join(part for part in parts if part)
