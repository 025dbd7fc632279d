"""The page in three plain sentences, made from the numbers; they say so when there is nothing to say."""

from __future__ import annotations

from typing import Any

from ._frame import join, number, percent, plural, quote
from ._outcome import LEAST_LOST, unit_of

__all__ = ["summarise"]


def summarise(
    names: tuple[str, ...],
    relations: dict[str, Any] | None,
    plan: dict[str, Any] | None,
    outcome: dict[str, Any] | None,
    trained: bool,
) -> dict[str, Any]:
    """Three sentences (relations, plan, outcome), each left out when its part is missing, and the tiles beside them."""
    sentences = [
        {"about": "relations", "text": _relations(names, relations)},
        {"about": "plan", "text": _plan(plan)},
        {"about": "outcome", "text": _outcome(outcome, trained)},
    ]
    return {
        "sentences": [sentence for sentence in sentences if sentence["text"]],
        "tiles": _tiles(names, relations, plan, outcome),
    }


def _relations(names: tuple[str, ...], view: dict[str, Any] | None) -> str:
    if not view or not view["measures"]:
        return ""
    measure = next((m for m in view["measures"] if m["kind"] == "discrepancy" and m["id"] != "mmd2_p"), None)
    if measure is None or not measure["extremes"]["alike"]:
        return ""
    extremes, unit = measure["extremes"], f" {measure['unit']}" if measure["unit"] else ""
    first, last = extremes["alike"][0], extremes["apart"][0]
    label = _lower(measure["title"].split(" (")[0])
    near = f"{quote(names[int(first[0])])} and {quote(names[int(first[1])])}"
    far = f"{quote(names[int(last[0])])} and {quote(names[int(last[1])])}"
    if measure.get("closest_is_noise"):
        text = f"Of {len(names)} domains, {near} cannot be told apart by {label}, and {far} differ most"
    else:
        text = f"Of {len(names)} domains, {near} are most alike ({label} {number(first[2], 2)}{unit})"
        text += f" and {far} differ most"
    text += f" ({number(last[2], 2)}{unit})"
    if "noisy" in measure and measure["pairs"]:
        if measure["noisy"] == 0:
            text += f"; all {measure['pairs']:,} pairs differ by more than two halves of one domain do."
        elif measure["noisy"] == measure["pairs"]:
            text += "; no pair can be told from two halves of one domain, so these measurements separate nothing."
        else:
            verb = "differ" if measure["noisy"] > 1 else "differs"
            text += (
                f"; {measure['noisy']:,} of {measure['pairs']:,} pairs {verb} no more than two halves of one domain do."
            )
    else:
        text += "."
    return text


def _lower(title: str) -> str:
    """A title inside a sentence: its first letter small unless the word is a name or an abbreviation."""
    word = title.split(" ")[0]
    return (
        title
        if word.isupper() or word.startswith(("Jensen", "Jaccard", "Ruzicka", "MMD"))
        else title[:1].lower() + title[1:]
    )


def _plan(plan: dict[str, Any] | None) -> str:
    if not plan:
        return ""
    stages = plan["stages"]
    if plan["trivial"] == "together":
        what = "The plan trains everything in one stage"
    elif plan["trivial"] == "alone":
        what = "The plan trains every domain on its own"
    else:
        groups = [join(stage["names"], 3) for stage in stages]
        listed = "; ".join(groups) if len(groups) <= 3 else ""
        what = f"The plan trains them in {plural(len(stages), 'stage')}" + (f" ({listed})" if listed else "")
    if plan["by_hand"]:
        sure = "it was written by hand, so nothing is proved about it"
    elif plan["status"] == "optimal":
        into = f" into {plural(len(stages), 'stage')}" if plan.get("fewest") and len(stages) > 1 else ""
        sure = f"no other grouping{into} scores higher under this objective and budget (proved)"
        if plan.get("fewest") and len(stages) == 1:
            sure = "nothing forbids it, and as few stages as the constraints allow were asked for"
    elif plan["certificate"] != "no certificate":
        sure = f"its score is {plan['certificate']} of the best possible"
    else:
        sure = "how close it is to the best possible could not be proved"
    if plan["replicates"]:
        fragile = plan["fragile"]
        if fragile:
            are = "are" if len(fragile) > 1 else "is"
            they = "they" if len(fragile) > 1 else "it"
            sure += f", but {join(fragile)} {are} fragile: on resampled documents {they} often moved"
        else:
            sure += f", and no domain is fragile over {plural(plan['replicates'], 'resampled plan')}"
    if changes := _changes(plan):
        sure += f"; the proof is for this objective only: {changes}" if plan["status"] == "optimal" else f"; {changes}"
    hurt = plan.get("hurt")
    text = f"{what}; {sure}."
    if hurt:
        apart = ", and the plan keeps them apart" if hurt["apart"] else ", and yet share a stage"
        text += (
            f" Of all pairs, {quote(hurt['names'][0])} and {quote(hurt['names'][1])} are expected to hurt each other "
            f"most{apart if hurt['apart'] is not None else ''}; that is expected from the measurements, not a result."
        )
    return text


def _changes(plan: dict[str, Any]) -> str:
    """What the number of stages changes with, one step of λ or of the budget away; empty when it does not."""
    return "" if plan["by_hand"] else str((plan.get("phase") or {}).get("changes") or "")


def _outcome(outcome: dict[str, Any] | None, trained: bool) -> str:
    if not outcome:
        return "The run has not been evaluated yet, so whether training helped is not known." if trained else ""
    counts, rows = outcome["counts"], outcome["rows"]
    total = len(rows)
    split = outcome["split"]
    if counts["unknown"] == total:
        known = [row for row in rows if row["change"] is not None]
        fell = sum(row["change"] < 0 for row in known)
        fact = f"The {split} loss fell in {fell} of {plural(total, 'domain')}"
        return f"{fact}, but no intervals were computed, so none of it can be told from chance."
    if not counts["better"] and not counts["worse"]:
        return f"Training changed no domain's {split} loss by more than its 95 % interval: there is no gain to report."
    text = ""
    if counts["better"]:
        best = next(row for row in rows if row["verdict"] == "better")
        all_ = "all" if counts["better"] == total and total > 1 else f"{counts['better']} of"
        text = f"Training lowered the {split} loss of {all_} {plural(total, 'domain')} beyond the 95 % interval"
        text += f", most for {quote(best['name'])}"
        if best["before"] is not None and best["final"] is not None:
            text += f" ({number(best['before'])} to {number(best['final'])})"
    else:
        text = f"Training improved none of {plural(total, 'domain')}"
    worse = [row["name"] for row in reversed(rows) if row["verdict"] == "worse"]
    if worse:
        text += f"; it raised the loss of {join(worse)}"
    if counts["unclear"]:
        text += f"; {counts['unclear']} stayed within {'their' if counts['unclear'] > 1 else 'its'} interval"
    general = outcome["general"]
    if general and general[0]["change"] is not None:
        change, finding = general[0]["change"], general[0]["verdict"]
        if finding == "unclear":
            text += "; on general text the loss stayed within its interval"
        else:
            low, high, unit = general[0]["low"], general[0]["high"], unit_of(outcome["task"])
            text += f"; on general text the loss {'rose' if change > 0 else 'fell'} by {number(abs(change), 2)} {unit}"
            if low is not None and high is not None:
                low, high = sorted((abs(low), abs(high))) if low * high > 0 else (low, high)
                text += f" (95 % interval {number(low, 2)} to {number(high, 2)})"
    if lost := outcome["lost"]:
        unit, worst = unit_of(outcome["task"]), lost[0]
        text += f". Later stages cost {plural(len(lost), 'domain')} more than {number(LEAST_LOST, 1)} {unit}"
        text += f", most {quote(worst['name'])} ({number(worst['cost'], 2)})"
        if beyond := sum(bool(row["beyond"]) for row in lost):
            which = "that is" if len(lost) == 1 else f"for {'all' if beyond == len(lost) else beyond} of them that is"
            text += f"; {which} beyond the interval right after {'their' if len(lost) > 1 else 'its'} own stage"
        gone = [row["name"] for row in lost if row["gone"]]
        if gone:
            text += f"; of what {join(gone)} had gained, nothing certain is left"
    return text + "."


def _tiles(
    names: tuple[str, ...],
    relations: dict[str, Any] | None,
    plan: dict[str, Any] | None,
    outcome: dict[str, Any] | None,
) -> list[dict[str, str]]:
    """Four figures that answer: how alike, which plan, how sure, did it help."""
    tiles: list[dict[str, str]] = []
    measure = next((m for m in relations["measures"] if "noisy" in m), None) if relations else None
    if measure and measure["pairs"]:
        apart, title = measure["pairs"] - measure["noisy"], _lower(measure["title"].split(" (")[0])
        tiles.append(
            {
                "value": percent(apart / measure["pairs"], 3),
                "label": "of pairs really differ",
                "note": f"{apart:,} of {measure['pairs']:,} pairs stand above the noise floor of {title}",
                "href": "#relations",
            }
        )
    elif relations:
        tiles.append(
            {
                "value": str(len(names)),
                "label": "domains measured",
                "note": "no noise floor was computed",
                "href": "#relations",
            }
        )
    if plan:
        sizes = [len(stage["names"]) for stage in plan["stages"]]
        count = len(sizes)
        note = {"together": "everything together: a trivial plan", "alone": "every domain alone: a trivial plan"}.get(
            plan["trivial"] or "",
            f"{plural(sum(sizes), 'domain')}, {_range(sizes)} to a stage",
        )
        tiles.append({"value": str(count), "label": "stage" if count == 1 else "stages", "note": note, "href": "#plan"})
        if plan["by_hand"]:
            value, label = "by hand", "no proof"
        elif plan["status"] == "optimal":
            value, label = "proved", "optimal for its objective"
        elif plan["gap"] is not None and plan["certificate"] != "no certificate":
            value, label = f"≤ {percent(plan['gap'])}", "from the best possible"
        else:
            value, label = "open", "no certificate"
        if plan["certainty"] is not None:
            plans = plural(plan["replicates"], "resampled plan")
            note = f"{percent(plan['certainty'])} of pairs placed the same way over {plans}"
        else:
            note = "not checked against resampled documents"
        if moving := _changes(plan):
            note += f"; {moving}"
        tiles.append(
            {
                "value": value,
                "label": label,
                "note": note,
                "href": "#confidence" if plan["certainty"] is not None else "#plan",
            }
        )
    if outcome:
        counts, total = outcome["counts"], len(outcome["rows"])
        if counts["unknown"] == total:
            value, label = "?", "no intervals"
            note = "changes without intervals prove nothing"
        else:
            value, label = f"{counts['better']} / {total}", "domains improved"
            note = f"{counts['worse']} worse, {counts['unclear']} within the 95 % interval"
        changes = [row["change"] for row in outcome["rows"] if row["change"] is not None]
        if changes:
            mean = sum(changes) / len(changes)
            size = f"{number(abs(mean), 2)} {unit_of(outcome['task'])}"
            note += f"; loss {'fell' if mean < 0 else 'rose'} by {size} on average"
        general = outcome["general"]
        if general and general[0]["change"] is not None:
            change, finding = general[0]["change"], general[0]["verdict"]
            note += (
                "; general-text loss within its interval"
                if finding == "unclear"
                else (f"; general-text loss {'rose' if change > 0 else 'fell'} by {number(abs(change), 2)}")
            )
        tiles.append({"value": value, "label": label, "note": note, "href": "#outcome"})
    return tiles


def _range(sizes: list[int]) -> str:
    low, high = min(sizes), max(sizes)
    return str(low) if low == high else f"{low} to {high}"
