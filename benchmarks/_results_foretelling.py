"""The section of docs/results.md on what predicts transfer, and the defaults that follow from it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from _common import RECORDS
from _results_data import Correlation, Lead, correlation_lead, correlations, lambda_scan, stored, truth_of
from _results_partitions import lead_over
from _results_words import lost, number, standing, table, won

# The sets with a transfer matrix.
TRANSFER = ("reviews", "prose", "demo")
LAMBDAS = (0.0, 0.5, 1.0, 2.0, 5.0)
# Seeds that agree less than this measure mostly noise (as for the affinity measures, `measure.agreement`).
_AGREEING = 0.5


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


def transfer_lines() -> list[str]:
    """The section in short."""
    out = []
    for name in TRANSFER:
        value = stored(f"transfer-{name}", "transfer")
        if value is not None:
            found = correlations(value)
            of = {one.name: one for one in found}
            shown = [found[0], *(of[one] for one in ("js", "synergy") if one in of)]
            shown += [one for one in found if one.name.startswith("gradient")]
            said = ", ".join(f"{one.name} {_interval(one)}" for one in dict.fromkeys(shown))
            out.append(f"**What foretells transfer between two domains** ({name}, rank correlation): {said}.")
    return out


def transfer_page() -> str:
    """What predicts transfer."""
    parts: list[str] = []
    for name in TRANSFER:
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
            f"{one.name[0].upper()}{one.name[1:]}: ρ = {one.rho:.2f} (p = {one.p:.3f}), "
            f"{_lead(correlation_lead(value, one.name, 'js'))} more than js."
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


def _interval(one: Correlation) -> str:
    return f"{one.rho:+.2f} [{one.low:+.2f}, {one.high:+.2f}]"


def _lead(lead: Lead) -> str:
    return f"{lead.mean:+.2f} [{lead.low:+.2f}, {lead.high:+.2f}]"


def _planned_by_gradients(sets: Sequence[str]) -> str:
    """Whether groups picked by gradient affinity trained better where it foretells transfer."""
    leads = {name: lead for name in sets if (lead := lead_over(name, "by gradients", "random", apart=True))}
    if not leads:
        return "; whether groups picked by it train better was not tried, so it stays a measure to ask for."
    said = f"; groups picked by it that share nothing are, beside random ones, {standing(leads)}"
    if won(leads) and not lost(leads):
        return f"{said}: it is the measure to ask for where time allows."
    return f"{said}, so it stays a measure to ask for."


def measure_default() -> str:
    """Which measures plan by default, and with which λ and scale."""
    values = {name: value for name in TRANSFER if (value := stored(f"transfer-{name}", "transfer"))}
    if not values:
        return ""
    said, better, gradient = [], [], {}
    for name, value in values.items():
        ranked = correlations(value)
        of = {one.name: one for one in ranked}
        best = ranked[0]
        lead = correlation_lead(value, best.name, "js")
        better += [f"{best.name} on {name}"] if lead.low > 0 else []
        scan = lambda_scan(value, LAMBDAS)
        gradients = [one for one in ranked if one.name.startswith("gradient")]
        gradient[name] = any(one.low > 0 for one in gradients)
        text = (
            f"On {name} js reaches {_interval(of['js'])} and synergy {_interval(of['synergy'])} from the text alone; "
            f"the best of {len(ranked)}, {best.name}, {_interval(best)}, {_lead(lead)} more than js; "
        )
        text += "; ".join(
            f"{one.name} {_interval(one)}"
            + ("" if one.agreement is None else f" (halves agree at {one.agreement:.2f})")
            for one in gradients
            if one is not best
        )
        text = text.rstrip("; ") + ". "
        text += (
            f"By ranks λ · synergy − js goes from {scan['rank'][0]:.2f} at λ = {LAMBDAS[0]:g} over "
            f"{scan['rank'][LAMBDAS.index(1.0)]:.2f} at λ = 1 to {scan['rank'][-1]:.2f} at λ = {LAMBDAS[-1]:g}, "
            f"unscaled at λ = 1 it is {scan['none'][LAMBDAS.index(1.0)]:.2f}."
        )
        said.append(text)
    if better:
        end = (
            f"Beyond doubt better than js are {', '.join(better)}; js and synergy stay what is measured by default "
            "because they need neither labels nor a model, and `kinfold measure --validate` says which to take."
        )
    else:
        end = (
            "Nothing is beyond doubt better than js, though the best was picked of many; js, synergy, λ = 1 and ranks "
            "stay the defaults: they need neither labels nor a model."
        )
    yes, no = ([name for name, found in gradient.items() if found is wanted] for wanted in (True, False))
    if yes:
        end += f" Gradient affinity, the costliest, foretells transfer on {', '.join(yes)}"
        end += f" and not on {', '.join(no)}" if no else ""
        end += _planned_by_gradients(yes)
    elif no:
        end += " Gradient affinity, the costliest, foretells it nowhere; it stays a measure to ask for."
    return f"**Measures, λ and scale (rank correlation with measured transfer).** {' '.join(said)} {end}"
