"""The first screen of docs/results.md: the answer of each set in one table, and what else was found, a line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from _results_data import Lead, comparison_leads, enough, policy_lead, stored
from _results_foretelling import transfer_lines
from _results_partitions import partition_lines
from _results_presets import presets_lines
from _results_repeat import repeat_line
from _results_words import CELLS, MAIN, RIVALS, SETS, interval, lost, mark, standing, table, won


def opening() -> str:
    """Title, how the page came about, and the answer in short."""
    found = {name: value for name in SETS if (value := stored(name, "compare")) is not None}
    leads = {name: comparison_leads(value) for name, value in found.items()}
    head = ["set (unit)", *RIVALS.values()]
    rows = []
    for name, value in found.items():
        unit = "accuracy" if value["higher_is_better"] else "nats a token"
        title = f"**{name}** ({unit})" if name in MAIN else f"{name} ({unit})"
        rows.append([title, *(_cell(value, rival, leads[name]) for rival in RIVALS)])
    by_rival = {
        rival: {name: leads[name][rival] for name in MAIN if name in leads and rival in leads[name]} for rival in RIVALS
    }
    lines = [*_condition_lines(), *partition_lines(), *transfer_lines(), *presets_lines(), *repeat_line()]
    how = (
        "Written by `python benchmarks/results.py` from the records in `benchmarks/records/results`; every number is "
        "computed from them, and which sentence stands here follows from the numbers. The studies are small, so that "
        "two cores can repeat them ([cost](#repeat-it))."
    )
    legend = (
        "The plan's lead over each rival at equal tokens, three seeds, on the backbone after the last stage; above 0 "
        "the plan is better. **+** ahead, **−** behind, ≈ not to be told apart: the 95 % interval, paired by seed and "
        "domain, holds 0; it speaks of other seeds and other domains like these ([how](compare.md)). Each interval "
        "stands for itself: of twenty equal rivals one would look different. The three sets in bold are the question; "
        "the other two vary the length of training and the task of the first."
    )
    return "\n\n".join(
        [
            "# Results: when does a plan matter, and by how much?",
            how,
            "## In short",
            _answer(by_rival),
            table(head, rows),
            legend,
            "\n".join(f"- {line}" for line in lines),
        ]
    )


def _cell(value: Mapping[str, Any], rival: str, leads: Mapping[str, Lead]) -> str:
    same = any(method["name"] == rival and method.get("verdict") == "same as the plan" for method in value["methods"])
    return "the plan's stages" if same else mark(leads.get(rival))


def _answer(by_rival: Mapping[str, Mapping[str, Lead]]) -> str:
    """Is a plan worth it on the three sets? From the verdicts alone."""
    said = [
        f"{words[0].upper()}{words[1:]}: {standing(by_rival[rival], figures=False)}."
        for rival, words in RIVALS.items()
        if by_rival.get(rival)
    ]
    joint, random = by_rival.get("joint", {}), by_rival.get("random", {})
    alone = by_rival.get("independent", {})
    ends = []
    if joint and not won(joint):
        ends.append("one stage for all is the thing to beat, and the plan beats it on none of the sets")
    if random and not won(random):
        worse = f", and on {', '.join(lost(random))} worse" if lost(random) else ""
        ends.append(f"the plan's groups were nowhere better than groups drawn at random{worse}")
    if alone and len(won(alone)) == len(alone):
        ends.append(f"sharing at all is what pays, on {', '.join(alone)}")
    text = "; ".join(ends)
    verdict = f"**{text[0].upper()}{text[1:]}.**" if text else ""
    use = ""
    if joint and not won(joint):
        use = (
            " A plan is for what one stage cannot do: a budget that not all domains fit, or domains that contradict "
            "one another."
        )
    return f"{verdict}{use}\n\nThe plan beside each rival. {' '.join(said)}".strip()


def _condition_lines() -> list[str]:
    """Under which conditions groups planned by labels are ahead of random ones."""
    last: dict[str, Lead] = {}
    own: dict[str, Lead] = {}
    for name in CELLS:
        cell = stored("when", name)
        if enough(cell):
            last[name] = policy_lead(cell, "plan by labels", "random")
            if not cell["cell"]["apart"]:
                own[name] = policy_lead(cell, "plan by labels", "random", "snapshot")
    if not last:
        return []
    out = []
    sure = {**{name: f"{interval(last[name])}" for name in won(last)}}
    for name in won(own):
        sure[name] = (
            f"{sure[name]}, " if name in sure else ""
        ) + f"on each domain's own backbone {interval(own[name])}"
    if sure:
        where = "; ".join(f"{name}, {CELLS[name]} ({figures})" for name, figures in sure.items())
        out.append(f"**Where groups matter** (by label affinity against random, accuracy): {where}.")
    else:
        out.append("**Where groups matter**: under none of the conditions tried were they ahead of random ones.")
    nowhere = [name for name in last if name not in sure]
    if nowhere:
        behind = [name for name in nowhere if name in lost(last)]
        words = "; ".join(f"{name} ({interval(last[name])})" for name in nowhere)
        out.append(
            f"**Where they were not shown to**: {words}" + (f"; behind on {', '.join(behind)}." if behind else ".")
        )
    return out
