"""The plan: which domains share a stage, in what order, with what proof. A frozen value that is also a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from decimal import ROUND_CEILING, Context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._files import read_json, write_json
from ..errors import PlanError
from ._seal import answer_holds, order_holds, problem_holds, seal_of

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["PLAN_VERSION", "Plan", "certificate_of", "schema"]

PLAN_VERSION = 1
_MATRICES = ("gain", "discrepancy", "synergy")
_TOLERANCE = 1e-9
_TWO_DIGITS = Context(prec=2, rounding=ROUND_CEILING)
EDITED = "The plan was changed after it was made, so its certificate no longer holds; validate it or plan again."
UNSEALED = "The plan carries no seal (an older Kinfold made it, or it was removed): nothing vouches for it; plan again."


@dataclass(frozen=True, eq=False)
class Plan:
    """Stages in training order, the matrices they were planned on, and everything that vouches for them.

    Attributes
    ----------
    stages : tuple of tuples of str
        Domains of each stage, first trained first.
    domains : tuple of str
        All domains, sorted; rows and columns of the matrices.
    objective, bound, gap : float or None
        Σ of `gain` inside stages − κ·stages; a proved upper bound on it; (bound − objective)/|objective|.
        None in a plan written by hand.
    status : str
        "optimal" (proved), "feasible" (bound and gap tell how far), "given" (written or edited by hand).
    gain, discrepancy, synergy : ndarray of shape (k, k) or None
        As planned: gain = λ·synergy − discrepancy, on the common scale, zero diagonal.
    sizes, budget : mapping
        {resource: {domain: size}} and {resource: most per stage}.
    settings : mapping
        The resolved :class:`~kinfold.partition.PlanSettings`.
    fingerprints : mapping
        Of the data and measures the plan was made for; checked on use.
    solvers, order, confidence, phase, explain, theory, warnings
        The peers' answers, the stage order's score, bootstrap confidence, the λ×budget phase diagram, why each
        domain is where it is, the terms of the bound, and what the user should know.
    seal : mapping or None
        Digests that say whether bound, certificate and order still belong to the stages beside them; made when a plan
        is saved first.
    """

    stages: tuple[tuple[str, ...], ...]
    domains: tuple[str, ...]
    version: int = PLAN_VERSION
    objective: float | None = None
    bound: float | None = None
    gap: float | None = None
    status: str = "given"
    gain: NDArray[np.float64] | None = None
    discrepancy: NDArray[np.float64] | None = None
    synergy: NDArray[np.float64] | None = None
    sizes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    budget: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    fingerprints: Mapping[str, Any] = field(default_factory=dict)
    solvers: tuple[Mapping[str, Any], ...] = ()
    order: Mapping[str, Any] | None = None
    confidence: Mapping[str, Any] | None = None
    phase: Mapping[str, Any] | None = None
    explain: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    theory: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    seal: Mapping[str, str] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(self.stages)

    def __repr__(self) -> str:
        inside = " | ".join(", ".join(stage) for stage in self.stages)
        return f"Plan({inside}; {self.certificate})"

    @property
    def certificate(self) -> str:
        """What is proved, in words: "proved optimal", "within 1.2 %" or "no certificate".

        A plan whose stages, matrices or constraints changed since it was made has none.
        """
        if self.seal is not None and not answer_holds(self):
            return certificate_of("given", None)
        return certificate_of(self.status, self.gap)

    @property
    def assignment(self) -> tuple[int, ...]:
        """The stage index (from 0, in training order) of each domain of `domains`."""
        where = {name: t for t, stage in enumerate(self.stages) for name in stage}
        return tuple(where[name] for name in self.domains)

    @property
    def notes(self) -> tuple[str, ...]:
        """What explains the plan and calls for nothing, unlike `warnings`; nothing where its stages were edited."""
        from .advice import notes_on

        made = self.status != "given" and self.seal is not None and answer_holds(self)
        return notes_on(self.stages, self.settings) if made else ()

    def stage_of(self, name: str) -> int:
        """The index (from 0) of the stage that trains `name`.

        Raises
        ------
        PlanError
            When the plan does not contain the domain.
        """
        for t, stage in enumerate(self.stages):
            if name in stage:
                return t
        raise PlanError(f"plan: no domain {name!r}; it has {', '.join(self.domains)}.")

    def verify(self) -> tuple[str, ...]:
        """Recompute objective, bound order and every constraint from the file's own numbers.

        Returns one sentence for each fault, none when all holds. It shares no code with the solvers.
        """
        from .verify import faults

        return faults(self)

    def revalidated(self) -> Plan:
        """The plan after an edit by hand: objective, gap and status follow from its stages; constraints are checked.

        The bound stays while the problem is the one it was proved for, since it holds for every partition; a bound
        proved under other budgets, links, sizes or gains is dropped. So is what described the old stages or the old
        order.

        Raises
        ------
        PlanError
            When the edited stages break a constraint.
        """
        from .verify import objective_of

        by_hand = self.objective is None and self.bound is None and self.gain is None
        if by_hand or (self.seal is not None and answer_holds(self) and order_holds(self)):
            faults = self.verify()
            if faults:
                raise PlanError(" ".join(faults))
            return self
        objective = objective_of(self)
        bound = self.bound if problem_holds(self) else None
        if objective is None:
            plan = replace(self, status="given", objective=None, bound=None, gap=None, seal=None)
        else:
            gap = None if bound is None else relative_gap(objective, bound)
            proved = gap is not None and gap <= _TOLERANCE
            status = "optimal" if proved else "given"
            plan = replace(self, objective=objective, bound=bound, gap=gap, status=status, seal=None)
        faults = plan.verify()
        if faults:
            raise PlanError(" ".join(faults))
        plan = replace(
            plan,
            order=None,
            confidence=None,
            explain={},
            theory=None,
            warnings=_lasting(self.warnings),
        )
        return replace(plan, seal=seal_of(plan))

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-able values, matrices as nested lists."""
        out: dict[str, Any] = {"version": self.version}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in _MATRICES and value is not None:
                value = value.tolist()
            out[item.name] = _plain(value)
        if self.seal is None and self.status != "given":
            out["seal"] = seal_of(self)
        return out

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON (`plan.schema.json`), atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan; one written by hand needs no more than `version` and `stages`.

        A file whose stages, matrices or constraints were changed since it was written loads with the status "given"
        and a warning, without gap and certificate, and keeps its bound only while the problem is unchanged;
        :meth:`revalidated` then works out what still holds.

        Raises
        ------
        PlanError
            When the file is missing, is not a plan or names a domain twice.
        """
        return cls.from_dict(read_json(Path(path), error=PlanError), source=str(path))

    @classmethod
    def from_dict(cls, values: Any, *, source: str = "plan") -> Plan:
        """The inverse of :meth:`to_dict`; `source` names the file in errors."""
        import numpy as np

        if not isinstance(values, Mapping):
            raise PlanError(
                f"{source}: a plan is a JSON object; write {{'version': 1, 'stages': [['a', 'b'], ['c']]}}."
            )
        version = values.get("version")
        if version != PLAN_VERSION:
            raise PlanError(f"{source}: version {version!r} is not {PLAN_VERSION}; plan again with this Kinfold.")
        known = {item.name for item in fields(cls)} | {"certificate", "$schema"}
        unknown = sorted(set(map(str, values)) - known)
        if unknown:
            raise PlanError(f"{source}: unknown key {unknown[0]!r}; allowed are {', '.join(sorted(known))}.")
        stages = _stages(values.get("stages"), source)
        names = sorted(name for stage in stages for name in stage)
        domains = _names(values.get("domains", names), source)
        if sorted(domains) != names:
            odd = sorted(set(domains) ^ set(names))
            raise PlanError(
                f"{source}: domains and stages differ in {', '.join(odd)}; every domain belongs in exactly one stage."
            )
        out: dict[str, Any] = {"stages": stages, "domains": domains, "version": PLAN_VERSION}
        for name in _MATRICES:
            if values.get(name) is not None:
                matrix = _matrix(values[name], len(domains), f"{source}: {name}")
                matrix.setflags(write=False)
                out[name] = matrix
        for name in ("objective", "bound", "gap", "seconds"):
            if values.get(name) is not None:
                value = values[name]
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
                    raise PlanError(f"{source}: {name} is {value!r}; it must be a finite number or null.")
                out[name] = float(value)
        for name, kind in (
            ("status", str),
            ("seed", int),
            ("sizes", Mapping),
            ("budget", Mapping),
            ("settings", Mapping),
            ("fingerprints", Mapping),
            ("order", Mapping),
            ("confidence", Mapping),
            ("phase", Mapping),
            ("explain", Mapping),
            ("theory", Mapping),
            ("seal", Mapping),
        ):
            if values.get(name) is not None:
                if not isinstance(values[name], kind):
                    raise PlanError(f"{source}: {name} must be a JSON {_KIND[kind]}; see plan.schema.json.")
                out[name] = values[name]
        for name in ("solvers", "warnings"):
            if values.get(name) is not None:
                if not isinstance(values[name], Sequence) or isinstance(values[name], str):
                    raise PlanError(f"{source}: {name} must be a JSON array; see plan.schema.json.")
                out[name] = tuple(values[name])
        return _trusted(cls(**out))

    def plot(self) -> Figure:
        """Heat maps ordered by the plan with its stages framed."""
        from ._plots import plot_plan

        return plot_plan(self)


def _trusted(plan: Plan) -> Plan:
    """The plan without the claims that do not belong to its stages."""
    if plan.status == "given" and plan.bound is None:
        return plan
    if answer_holds(plan):
        return plan
    return replace(
        plan,
        status="given",
        gap=None,
        bound=plan.bound if problem_holds(plan) else None,
        warnings=(*_lasting(plan.warnings), UNSEALED if plan.seal is None else EDITED),
    )


def _lasting(warnings: Sequence[str]) -> tuple[str, ...]:
    """Warnings that speak of the plan and not of the state its file was found in."""
    return tuple(line for line in warnings if line not in (EDITED, UNSEALED))


def certificate_of(status: str, gap: float | None) -> str:
    """What a status and gap prove, in words; a gap of more than two digits is rounded up, never down.

    >>> certificate_of("optimal", 0.0), certificate_of("feasible", 0.012), certificate_of("feasible", None)
    ('proved optimal', 'within 1.2 %', 'no certificate')
    >>> certificate_of("feasible", 0.0201)
    'within 2.1 %'
    """
    if status == "optimal":
        return "proved optimal"
    # A bound more than twice the objective vouches for nothing.
    if gap is None or not gap < 1.0:
        return "no certificate"
    # A billionth less, so that 7.000000000000001 is 7.
    percent = _TWO_DIGITS.create_decimal_from_float(max(100 * gap, 0.001) * (1 - 1e-9))
    return f"within {float(percent):g} %"


def relative_gap(objective: float, bound: float) -> float:
    """(bound − objective)/|objective|; over |bound| when the objective is 0, and 0 when both are."""
    slack = max(0.0, bound - objective)
    if slack == 0.0:
        return 0.0
    return slack / (abs(objective) or abs(bound))


def schema() -> dict[str, Any]:
    """The JSON Schema of a plan file."""
    value = read_json(Path(__file__).with_name("plan.schema.json"))
    if not isinstance(value, dict):
        raise PlanError("plan.schema.json: is not a JSON object; install Kinfold again.")
    return value


_KIND: dict[type, str] = {str: "string", int: "integer", Mapping: "object"}


def _plain(value: Any) -> Any:
    """Tuples as lists, mappings as dicts: what JSON gives back, so that a round trip compares equal."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return value.tolist()
    return value


def _names(value: Any, source: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(n, str) and n for n in value):
        raise PlanError(f"{source}: domains must be a list of names.")
    if len(set(value)) < len(value):
        twice = sorted({name for name in value if list(value).count(name) > 1})
        raise PlanError(f"{source}: domain {twice[0]!r} appears twice; every domain belongs in exactly one stage.")
    return tuple(value)


def _stages(value: Any, source: str) -> tuple[tuple[str, ...], ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        raise PlanError(f"{source}: stages must be a non-empty list of lists of domain names.")
    stages: list[tuple[str, ...]] = []
    for t, stage in enumerate(value):
        if isinstance(stage, str) or not isinstance(stage, Sequence) or not stage:
            raise PlanError(f"{source}: stage {t + 1} must be a non-empty list of domain names; remove it or fill it.")
        if not all(isinstance(name, str) and name for name in stage):
            raise PlanError(f"{source}: stage {t + 1} holds {list(stage)!r}; domain names are non-empty strings.")
        stages.append(tuple(stage))
    _names([name for stage in stages for name in stage], source)
    return tuple(stages)


def _matrix(value: Any, k: int, where: str) -> NDArray[np.float64]:
    import numpy as np

    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise PlanError(f"{where} must be a {k}×{k} matrix of numbers.") from None
    if matrix.shape != (k, k) or not np.isfinite(matrix).all():
        raise PlanError(f"{where} has shape {matrix.shape} or holds a non-number; it must be {k}×{k}, all finite.")
    return matrix
