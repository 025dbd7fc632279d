"""The plan section: stages and budgets, proof, rivals, order, confidence, phases, and a reason for every domain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._frame import Frame, entry, finite, join, number, pack, signed

if TYPE_CHECKING:
    from ...metrics.relations import Relations
    from ...partition.plan import Plan

__all__ = ["plan_view"]

_RESOURCES = {
    "tokens": "tokens",
    "domains": "domains",
    "adapter_parameters": "adapter parameters",
    "gpu_memory": "GPU memory",
}


def plan_view(plan: Plan, frame: Frame, relations: Relations | None) -> dict[str, Any]:
    """Everything the plan says about itself; parts it does not hold are None or empty."""
    gain = frame.expand(plan.gain, plan.domains)
    settings = plan.settings or {}
    confidence = plan.confidence or {}
    together = frame.expand(confidence.get("co_assignment"), plan.domains)
    explained = _explain(plan, frame, together)
    solvers = _solvers(plan)
    return {
        "stages": [_stage(number_, plan, frame, gain) for number_ in range(len(plan.stages))],
        "status": plan.status,
        "certificate": plan.certificate,
        "objective": finite(plan.objective),
        "bound": finite(plan.bound),
        "gap": finite(plan.gap),
        "seconds": finite(plan.seconds),
        "lam": finite(settings.get("lam")),
        "kappa": finite(settings.get("kappa")),
        "scale": settings.get("scale"),
        "budget": [
            {"resource": _RESOURCES.get(key, key.replace("_", " ")), "limit": finite(value)}
            for key, value in sorted((plan.budget or {}).items())
        ],
        "trivial": _trivial(plan),
        "gain": pack(gain, symmetric=True) if gain is not None and np.isfinite(gain).any() else None,
        "pulls": _pulls(gain, frame),
        "hurt": _hurt(gain, frame),
        "solvers": solvers,
        "ties": _ties(solvers),
        "order": _order(plan),
        "together": pack(together, symmetric=True) if together is not None else None,
        "fragile": [str(name) for name in confidence.get("fragile") or ()],
        "replicates": int(finite(confidence.get("replicates")) or 0),
        "certainty": _certainty(together, frame),
        "phase": _phase(plan),
        "explain": explained,
        "theory": _theory(plan.theory),
        "warnings": [str(text) for text in plan.warnings],
        "by_hand": plan.status == "given",
    }


def _stage(index: int, plan: Plan, frame: Frame, gain: NDArray[np.float64] | None) -> dict[str, Any]:
    names = plan.stages[index]
    at = frame.stages[index]
    inside: float | None = None
    worst: list[Any] | None = None
    if gain is not None and len(at) > 1:
        block = gain[np.ix_(at, at)]
        rows, columns = np.triu_indices(len(at), 1)
        pairs = block[rows, columns]
        inside = finite(pairs.sum())
        lowest = int(np.argmin(pairs))
        # Of two domains the only pair is the least fitting one: nothing to say.
        if len(at) > 2:
            worst = [names[rows[lowest]], names[columns[lowest]], finite(pairs[lowest])]
    used = []
    for resource, sizes in sorted((plan.sizes or {}).items()):
        amounts = [finite(sizes.get(name)) for name in names]
        if any(amount is None for amount in amounts):
            continue
        total = sum(amount for amount in amounts if amount is not None)
        limit = finite((plan.budget or {}).get(resource))
        # Without a limit only the tokens are worth a line: they say how long a stage trains.
        if limit is None and resource != "tokens":
            continue
        used.append(
            {
                "resource": _RESOURCES.get(resource, resource.replace("_", " ")),
                "used": total,
                "limit": limit,
                "share": total / limit if limit else None,
            }
        )
    return {
        "number": index + 1,
        "names": list(names),
        "at": list(at),
        "gain": inside,
        "worst": worst,
        "why": _why(index, plan, frame, gain),
        "used": used,
    }


def _why(index: int, plan: Plan, frame: Frame, gain: NDArray[np.float64] | None) -> str:
    """Why nobody of a stage is elsewhere: what a budget keeps out, or that a lone domain has no partner."""
    names = plan.stages[index]
    kept: dict[tuple[int, tuple[str, ...]], list[tuple[str, float]]] = {}
    for name in names:
        why = (plan.explain or {}).get(name) or {}
        other, there, margin = why.get("best_other"), finite(why.get("best_other_gain")), finite(why.get("margin"))
        budgets = _budgets(why.get("binding"))
        if isinstance(other, int) and there is not None and margin is not None and margin < 0 and budgets:
            kept.setdefault((other, budgets), []).append((name, there))
    parts = []
    for (other, budgets), some in kept.items():
        gains = ", ".join(signed(value) for _, value in some[:3]) + ("…" if len(some) > 3 else "")
        room = "them" if len(some) > 1 else "it"
        parts.append(
            f"{join([name for name, _ in some], 3)} would gain more in stage {other + 1} ({gains}), "
            f"which has no room for {room} ({', '.join(budgets)})."
        )
    if len(names) > 1 or parts:
        return " ".join(parts)
    at = frame.position(names[0])
    if gain is not None and at is not None:
        with_others = np.delete(gain[at], at)
        with_others = with_others[np.isfinite(with_others)]
        if with_others.size and with_others.max() <= 0:
            return "A stage of its own: no partner gains."
    why = (plan.explain or {}).get(names[0]) or {}
    other, there = why.get("best_other"), finite(why.get("best_other_gain"))
    if isinstance(other, int) and there is not None and there < 0:
        return f"A stage of its own: even in stage {other + 1}, the best other, it would cost {number(-there)}."
    return "A stage of its own."


def _budgets(binding: Any) -> tuple[str, ...]:
    """The budgets among what binds a domain, and only if nothing else does."""
    found = [str(part) for part in (binding if isinstance(binding, (list, tuple)) else [binding] if binding else [])]
    return tuple(part.replace("_", " ") for part in found) if all(part.endswith(" budget") for part in found) else ()


def _hurt(gain: NDArray[np.float64] | None, frame: Frame) -> dict[str, Any] | None:
    """The pair that is expected to lose most in one stage, and whether the plan keeps it apart."""
    pulls = _pulls(gain, frame, 1)
    if not pulls or not pulls["apart"]:
        return None
    i, j, value = pulls["apart"][0]
    first, second = frame.stage_of[int(i)], frame.stage_of[int(j)]
    return {
        "names": [frame.names[int(i)], frame.names[int(j)]],
        "gain": value,
        "apart": None if first is None or second is None else first != second,
    }


def _ties(rows: list[dict[str, Any]]) -> str:
    """A sentence when more than half of the other methods reach the plan's objective; empty otherwise."""
    others = [row for row in rows if not row["own"]]
    best = sum(row["best"] for row in others)
    if len(others) < 2 or 2 * best <= len(others):
        return ""
    return (
        f"{best} of {len(others)} other methods reach the same objective: this problem is easy, and the plan’s "
        "score alone does not set it apart."
    )


def _pulls(gain: NDArray[np.float64] | None, frame: Frame, count: int = 5) -> dict[str, list[list[float]]] | None:
    """The pairs that gain most and lose most in one stage, as [row, column, gain]; only true gains and true losses."""
    if gain is None:
        return None
    rows, columns = np.triu_indices(frame.k, 1)
    flat = gain[rows, columns]
    good = np.flatnonzero(np.isfinite(flat))
    ranked = good[np.argsort(flat[good], kind="stable")]

    def listed(chosen: NDArray[np.intp]) -> list[list[float]]:
        return [[int(rows[i]), int(columns[i]), float(flat[i])] for i in chosen]

    return {
        "together": listed(ranked[flat[ranked] > 0][::-1][:count]),
        "apart": listed(ranked[flat[ranked] < 0][:count]),
    }


def _trivial(plan: Plan) -> str | None:
    domains = sum(len(stage) for stage in plan.stages)
    if len(plan.stages) == 1 and domains > 1:
        return "together"
    if len(plan.stages) == domains and domains > 1:
        return "alone"
    return None


def _solvers(plan: Plan) -> list[dict[str, Any]]:
    """Best first; how far each falls short of the plan, relative to the plan's objective."""
    rows: list[dict[str, Any]] = []
    ours = finite(plan.objective)
    for row in plan.solvers:
        value = finite(row.get("objective"))
        feasible = row.get("feasible", True) is not False
        rows.append(
            {
                "name": str(row.get("name", "?")).replace("_", " "),
                "objective": value,
                "stages": row.get("stages"),
                "gap": finite(row.get("gap")),
                "seconds": finite(row.get("seconds")),
                "feasible": feasible,
                "note": _note(row, plan),
                "short": None if value is None or ours is None else ours - value,
                "own": str(row.get("name", "")) == "kinfold",
                "best": value is not None
                and ours is not None
                and feasible
                and value >= ours - 1e-9 * max(1.0, abs(ours)),
            }
        )
    return sorted(
        rows,
        key=lambda row: (
            not row["feasible"],
            -round(row["objective"], 9) if row["objective"] is not None else np.inf,
            not row["own"],
            row["name"],
        ),
    )


def _note(row: Mapping[str, Any], plan: Plan) -> str:
    """A solver's note, unless it only repeats the name, and whether its groups had to be changed to be allowed."""
    name, note = str(row.get("name", "")), str(row.get("note") or "")
    if note.lower() == name.replace("_", " "):
        note = ""
    # Only these two propose a known number of stages, so only theirs shows that it was changed.
    proposed = {"all_in_one": 1, "one_per_domain": len(plan.domains)}.get(name)
    if proposed is None or not row.get("stages") or row["stages"] == proposed:
        return note
    settings = plan.settings or {}
    others = ("must_link", "cannot_link", "pin", "minimum", "stages")
    what = "the budget" if plan.budget and not any(settings.get(key) for key in others) else "the constraints"
    return f"{note}, repaired to {what}" if note else f"repaired to {what}"


def _order(plan: Plan) -> dict[str, Any] | None:
    order = plan.order
    if not order:
        return None
    matrix = next((order[key] for key in ("affinity", "stage_affinity", "matrix") if order.get(key) is not None), None)
    packed = None
    if matrix is not None:
        values = np.asarray(matrix, dtype=np.float64)
        if values.shape == (len(plan.stages), len(plan.stages)) and len(values) > 1:
            values = values.copy()
            np.fill_diagonal(values, np.nan)
            packed = pack(values)
    exact = order.get("exact")
    return {
        "affinity": packed,
        "score": finite(order.get("score")),
        "method": str(order.get("method") or ""),
        "exact": bool(exact) if exact is not None else None,
        "rivals": [
            {"name": str(name).replace("_", " "), "score": finite(value)}
            for name, value in sorted(
                dict(order.get("rivals") or {}).items(), key=lambda item: -(finite(item[1]) or float("-inf"))
            )
        ],
    }


def _phase(plan: Plan) -> dict[str, Any] | None:
    phase = plan.phase
    if not phase:
        return None
    # Rows are budgets, columns are λ; None (no plan fits) becomes NaN.
    counts = np.array(phase.get("n_stages") or [[]], dtype=np.float64)
    lam, budget = list(phase.get("lam") or []), list(phase.get("budget") or [])
    if counts.ndim != 2 or not counts.size or counts.shape != (len(budget), len(lam)):
        return None
    agreement = phase.get("agreement")
    agree = np.array(agreement, dtype=np.float64) if agreement else None
    chosen = finite((plan.settings or {}).get("lam"))
    labels = [f"{value:g}" if finite(value) is not None else str(value) for value in lam]
    column = None
    if chosen is not None:
        steps = [abs((finite(value) or 0.0) - chosen) for value in lam]
        column = int(np.argmin(steps)) if steps and min(steps) <= 1e-6 * max(1.0, abs(chosen)) else None
    resource = str(phase.get("resource") or "")
    title = _RESOURCES.get(resource, resource.replace("_", " ")) or "budget"
    limits = [finite(value) for value in budget]
    own = finite((plan.budget or {}).get(resource))
    if resource == "domains":
        # Whole domains: a limit of 2.8 is one of 2. Rows that say the same twice are drawn once.
        limits = [None if value is None else float(math.floor(value + 1e-9)) for value in limits]
        own = float(len(plan.domains)) if own is None else float(math.floor(own + 1e-9))
        keep = [
            i
            for i, value in enumerate(limits)
            if i == 0 or value != limits[i - 1] or not np.array_equal(counts[i], counts[i - 1], equal_nan=True)
        ]
        counts, limits = counts[keep], [limits[i] for i in keep]
        agree = agree[keep] if agree is not None and len(agree) == len(budget) else None
    line = None
    if own is None:
        line = limits.index(None) if None in limits else None
    else:
        gaps = [math.inf if value is None else abs(value - own) for value in limits]
        line = int(np.argmin(gaps)) if min(gaps) <= 1e-6 * max(1.0, abs(own)) else None
    agree = agree if agree is not None and agree.shape == counts.shape else None
    texts = ["no limit" if value is None else f"{title} ≤ {number(value)}" for value in limits]
    return {
        "counts": pack(counts),
        "agreement": pack(agree) if agree is not None else None,
        "lam": labels,
        "budget": texts,
        "resource": title,
        "column": column,
        "row": line,
        "domains": len(plan.domains),
        **_neighbours(counts, agree, line, column),
    }


def _neighbours(
    counts: NDArray[np.float64], agree: NDArray[np.float64] | None, row: int | None, column: int | None
) -> dict[str, str]:
    """Whether the plan is the same one step of λ or of the budget away: a sentence (`stability`), a clause (`changes`).

    Both are empty where the plan's own settings are not among those tried.
    """
    nothing = {"stability": "", "changes": ""}
    if row is None or column is None or not np.isfinite(counts[row, column]):
        return nothing
    found, moving = [], []
    for name, steps in (("λ", ((0, -1), (0, 1))), ("the budget", ((-1, 0), (1, 0)))):
        for down, right in steps:
            i, j = row + down, column + right
            if not (0 <= i < counts.shape[0] and 0 <= j < counts.shape[1]) or not np.isfinite(counts[i, j]):
                continue
            other = counts[i, j] != counts[row, column]
            found.append((other, agree is not None and bool(agree[i, j] < 1 - 1e-9)))
            if other and name not in moving:
                moving.append(name)
    if not found:
        return nothing

    def of_them(count: int, one: str, many: str) -> str:
        """So many of the neighbours, with their verb."""
        if len(found) == 1:
            return f"Its only neighbour {one}"
        who = f"{'All' if count == len(found) else count} of its {len(found)} neighbours"
        return f"{who} {one if count == 1 else many}"

    differ, regrouped = sum(other for other, _ in found), sum(other or moved for other, moved in found)
    if differ:
        sentence = f"{of_them(differ, 'has', 'have')} another number of stages: this choice is not a stable one."
    elif regrouped:
        sentence = (
            f"{of_them(regrouped, 'groups', 'group')} the domains otherwise, in as many stages: only the number of "
            "stages is stable."
        )
    elif agree is not None:
        sentence = f"{of_them(len(found), 'gives', 'give')} the same plan: near this choice, little depends on it."
    else:
        sentence = f"{of_them(len(found), 'has', 'have')} as many stages."
    return {
        "stability": sentence,
        "changes": f"the number of stages changes with {' and with '.join(moving)}" if moving else "",
    }


def _certainty(together: NDArray[np.float64] | None, frame: Frame) -> float | None:
    """The mean share of replicates that agree with the plan about a pair: 1 = every replicate gave this plan."""
    if together is None or frame.k < 2 or not frame.stages:
        return None
    same = np.zeros((frame.k, frame.k), dtype=bool)
    for stage in frame.stages:
        same[np.ix_(stage, stage)] = True
    rows, columns = np.triu_indices(frame.k, 1)
    share = np.where(same, together, 1 - together)[rows, columns]
    share = share[np.isfinite(share)]
    return float(share.mean()) if share.size else None


def _explain(plan: Plan, frame: Frame, together: NDArray[np.float64] | None) -> list[dict[str, Any]]:
    """One row a domain, the least certain first."""
    stability = (plan.confidence or {}).get("stability") or {}
    fragile = {str(name) for name in (plan.confidence or {}).get("fragile") or ()}
    rows = []
    for name in plan.domains:
        why = (plan.explain or {}).get(name) or {}
        stage = plan.stage_of(name)
        at = frame.position(name)
        stays = finite(stability.get(name))
        mates = [i for i in frame.stages[stage] if i != at]
        if stays is None and together is not None and at is not None and mates:
            stays = finite(np.nanmean(together[at, mates]))
        rows.append(
            {
                "name": name,
                "stage": stage,
                "gain": finite(why.get("gain")),
                "other": _alternative(why),
                "other_gain": finite(why.get("best_other_gain")),
                "margin": finite(why.get("margin")),
                "binding": _binding(why.get("binding")),
                "stays": stays,
                "fragile": name in fragile,
                "known": bool(why),
            }
        )
    return sorted(
        rows,
        key=lambda row: (
            row["margin"] is None,
            row["margin"] if row["margin"] is not None else 0.0,
            row["stage"],
            row["name"],
        ),
    )


def _alternative(why: Mapping[str, Any]) -> str:
    """The best other place in words; None with a gain is a stage of its own, None without one is no place at all."""
    other = why.get("best_other")
    if other is None:
        return "a stage of its own" if finite(why.get("best_other_gain")) is not None else "–"
    return f"stage {int(other) + 1}" if isinstance(other, (int, float)) else str(other)


def _binding(value: Any) -> str:
    if not value:
        return ""
    if isinstance(value, str):
        return value.replace("_", " ")
    if isinstance(value, (list, tuple)):
        return ", ".join(str(part).replace("_", " ") for part in value)
    return str(value)


_TERMS = {
    "stages": "stages",
    "discrepancy": "discrepancy inside stages (lower is better)",
    "synergy": "synergy inside stages (higher is better)",
    "capacity_shared": "shared adapters, each at most ρ_θ",
    "capacity_domain": "domain adapters, each at most ρ_φ",
    "sampling": "sampling error, up to a constant",
}


def _theory(theory: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The terms of the bound, a column for the plan and one for each rival, and Corollary 3.1 in a sentence."""
    terms = entry(theory, "terms")
    if not isinstance(terms, Mapping) or not all(isinstance(column, Mapping) for column in terms.values()):
        return None
    names = list(dict.fromkeys(name for column in terms.values() for name in column))
    check = entry(theory, "corollary")
    sentence = ""
    if isinstance(check, Mapping) and finite(check.get("premise_pairs")) is not None:
        pairs, held = int(check["premise_pairs"]), int(finite(check.get("held")) or 0)
        sentence = f"{held:,} of {pairs:,} pairs with a positive gain share a stage. {check.get('note') or ''}".strip()
    return {
        "columns": [str(name).replace("_", " ") for name in terms],
        "rows": [
            {
                "name": _TERMS.get(name, name.replace("_", " ")),
                "values": [number(column.get(name), 4) for column in terms.values()],
            }
            for name in names
        ],
        "corollary": sentence,
    }
