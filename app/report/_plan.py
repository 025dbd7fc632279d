"""The plan section: stages and budgets, proof, and a reason for every domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._confidence import certainty, phase_view
from ._frame import Frame, entry, finite, join, number, pack, resource_title, signed
from ._rivals import order_view, solvers_view, ties

if TYPE_CHECKING:
    from ...metrics.relations import Relations
    from ...partition.plan import Plan

__all__ = ["plan_view"]


def plan_view(plan: Plan, frame: Frame, relations: Relations | None) -> dict[str, Any]:
    """Everything the plan says about itself; parts it does not hold are None or empty."""
    gain = frame.expand(plan.gain, plan.domains)
    settings = plan.settings or {}
    confidence = plan.confidence or {}
    together = frame.expand(confidence.get("co_assignment"), plan.domains)
    explained = _explain(plan, frame, together)
    solvers = solvers_view(plan)
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
        "fewest": settings.get("stages") == "fewest",
        "scale": settings.get("scale"),
        "budget": [
            {"resource": resource_title(key), "limit": finite(value)}
            for key, value in sorted((plan.budget or {}).items())
        ],
        "trivial": _trivial(plan),
        "gain": pack(gain, symmetric=True) if gain is not None and np.isfinite(gain).any() else None,
        "pulls": _pulls(gain, frame),
        "hurt": _hurt(gain, frame),
        "solvers": solvers,
        "ties": ties(solvers),
        "order": order_view(plan),
        "together": pack(together, symmetric=True) if together is not None else None,
        "fragile": [str(name) for name in confidence.get("fragile") or ()],
        "replicates": int(finite(confidence.get("replicates")) or 0),
        "certainty": certainty(together, frame),
        "phase": phase_view(plan),
        "explain": explained,
        "theory": _theory(plan.theory),
        "warnings": [str(text) for text in (*plan.notes, *plan.warnings)],
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
                "resource": resource_title(resource),
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
