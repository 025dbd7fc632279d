"""Names, tables and phrases of docs/results.md: how a number is shown, and which words a lead deserves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from _results_data import Lead

SETS = {
    "reviews": "Reviews: sentiment in sixteen domains, a pretrained encoder",
    "reviews-short": "The same reviews, trained for a short time",
    "prose": "Prose: ten domains, next-token prediction, a small language model",
    "demo": "The demo's corpora: nine domains, next-token prediction, the same small model",
    "reviews-text": "The reviews' texts alone: sixteen domains, next-token prediction, the same small model",
}
RIVALS = {
    "joint": "one stage for all",
    "independent": "independent adapters",
    "random": "random groups of the plan's sizes",
    "single-linkage": "single linkage",
    "discrepancy-only": "a plan with λ = 0",
    "one-per-domain": "one stage per domain",
}
MAIN = ("reviews", "prose", "demo")
"""The three sets that the first question is about; the others stand beside them."""
CELLS = {
    "conflict-apart": "half of the domains have their labels turned round; groups share nothing",
    "conflict-staged": "half turned round; stages go on from one another with one head",
    "plain-apart": "labels as they are; groups share nothing",
    "plain-apart-scarce": "labels as they are; groups share nothing; few texts",
    "plain-apart-pairs": "labels as they are; groups of two share nothing",
    "plain-staged": "labels as they are; stages go on from one another with one adapter and one head for all domains",
    "plain-both": "labels as they are; the same with an adapter of its own per domain beside the shared one",
    "conflict-default": "half turned round; a head and an adapter of its own per domain",
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(cells) + " |" for cells in rows)])


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def interval(lead: Lead | None) -> str:
    """`+0.012 [-0.003, +0.027]`."""
    return "–" if lead is None else f"{lead.mean:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}]"


def than(lead: Lead, what: str) -> str:
    """`better than random groups (+0.012 [...])`."""
    if lead.low > 0:
        return f"better than {what} ({interval(lead)})"
    if lead.high < 0:
        return f"worse than {what} ({interval(lead)})"
    return f"not to be told from {what} ({interval(lead)})"


def against(value: Mapping[str, Any], name: str, lead: Lead | None) -> str:
    """The plan against one rival, as a sentence."""
    rival = RIVALS[name]
    if lead is None:
        return f"Against {rival}: not run."
    wins = f"{interval(lead)}; {lead.seeds} seeds; better in {lead.better} of {lead.count} domains"
    much = f"{abs(lead.mean):.3f} nats a token"
    if value["higher_is_better"]:
        much = f"{100 * abs(lead.mean):.1f} points of accuracy"
    if lead.low > 0:
        return f"The plan **beats {rival}** by {much} ({wins})."
    if lead.high < 0:
        return f"The plan **loses to {rival}** by {much} ({wins})."
    half = (lead.high - lead.low) / 2
    return f"Between the plan and {rival} **no difference is shown** ({wins}); one below {half:.3f} could hardly show."


def mark(lead: Lead | None) -> str:
    """A lead as a cell of a table: `**+** +0.206 [...]`, `≈ ...` or `**−** ...`."""
    if lead is None:
        return "–"
    return f"{'**+**' if lead.low > 0 else '**−**' if lead.high < 0 else '≈'} {interval(lead)}"


def standing(leads: Mapping[str, Lead], *, figures: bool = True) -> str:
    """`ahead on demo (+0.035 [...]); behind on ...; not to be told apart on ...`."""

    def some(names: Sequence[str]) -> str:
        return ", ".join(f"{name} ({interval(leads[name])})" if figures else name for name in names)

    unsure = [name for name in leads if name not in (*won(leads), *lost(leads))]
    kinds = (("ahead on", won(leads)), ("behind on", lost(leads)), ("not to be told apart on", unsure))
    return "; ".join(f"{words} {some(names)}" for words, names in kinds if names)


def listed(leads: Mapping[str, Lead]) -> str:
    """`reviews +0.012 [...]; prose ...`."""
    return "; ".join(f"{name} {interval(lead)}" for name, lead in leads.items())


def won(leads: Mapping[str, Lead]) -> list[str]:
    """Those that are ahead beyond doubt."""
    return [name for name, lead in leads.items() if lead.low > 0]


def lost(leads: Mapping[str, Lead]) -> list[str]:
    """Those that are behind beyond doubt."""
    return [name for name, lead in leads.items() if lead.high < 0]
