"""What every section of the report shares: one list of domains, compact matrices, numbers in words."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ...metrics.relations import Relations
    from ...partition.plan import Plan

__all__ = [
    "Frame",
    "finite",
    "fixed",
    "join",
    "number",
    "pack",
    "pack_marks",
    "percent",
    "places",
    "plural",
    "quote",
    "resource_title",
    "signed",
]

_MISSING = 65535


@dataclass(frozen=True)
class Frame:
    """The domains of the page, in one fixed (alphabetical) order, and the stage of each.

    Attributes
    ----------
    names : tuple of str
        Every domain of the relations, the plan and the run.
    stages : tuple of tuples of int
        Positions in `names`; empty without a plan.
    """

    names: tuple[str, ...]
    stages: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, relations: Relations | None, plan: Plan | None, extra: Iterable[str] = ()) -> Frame:
        """The union of all names met, so that a plan edited by hand still has a page."""
        found = {*(relations.domains if relations else ()), *(plan.domains if plan else ()), *extra}
        names = tuple(sorted(found, key=lambda name: (name.casefold(), name)))
        where = {name: i for i, name in enumerate(names)}
        stages = tuple(tuple(where[name] for name in stage) for stage in (plan.stages if plan else ()))
        return cls(names, stages)

    @property
    def k(self) -> int:
        """The number of domains."""
        return len(self.names)

    @property
    def stage_of(self) -> tuple[int | None, ...]:
        """The stage of each domain, counted from 0; None for a domain outside the plan."""
        where = {i: number for number, stage in enumerate(self.stages) for i in stage}
        return tuple(where.get(i) for i in range(self.k))

    def position(self, name: str) -> int | None:
        """Where `name` stands in `names`."""
        return self.names.index(name) if name in self.names else None

    def expand(self, matrix: Any, domains: Sequence[str]) -> NDArray[np.float64] | None:
        """A matrix over `domains` as one over `names`; missing pairs are NaN, a wrong shape gives None."""
        if matrix is None:
            return None
        try:
            values = np.asarray(matrix, dtype=np.float64)
        except (TypeError, ValueError):
            return None
        if values.shape != (len(domains), len(domains)) or not len(domains):
            return None
        where = {name: i for i, name in enumerate(self.names)}
        at = np.array([where[name] for name in domains])
        full = np.full((self.k, self.k), np.nan)
        full[np.ix_(at, at)] = values
        return full


def pack(matrix: NDArray[Any], *, symmetric: bool = False) -> dict[str, Any]:
    """A matrix as 16-bit steps between its extremes, in base64: a tenth of its JSON, within 1/65000 of its range.

    A symmetric matrix keeps its upper triangle with the diagonal, row by row. 65535 stands for a missing value.
    """
    values = np.asarray(matrix, dtype=np.float64)
    rows, columns = values.shape
    flat = values[np.triu_indices(rows)] if symmetric else values.ravel()
    good = np.isfinite(flat)
    low = float(flat[good].min()) if good.any() else 0.0
    high = float(flat[good].max()) if good.any() else 0.0
    span = (high - low) or 1.0
    steps = np.full(flat.shape, _MISSING, dtype="<u2")
    steps[good] = np.rint((flat[good] - low) / span * (_MISSING - 1)).astype("<u2")
    data = base64.b64encode(steps.tobytes()).decode("ascii")
    return {"rows": rows, "cols": columns, "sym": symmetric, "lo": low, "hi": high, "d": data}


def pack_marks(marks: NDArray[np.bool_], *, symmetric: bool = False) -> dict[str, Any]:
    """Yes-or-no cells as bits in base64, in the order of :func:`pack`."""
    rows, columns = marks.shape
    flat = marks[np.triu_indices(rows)] if symmetric else marks.ravel()
    data = base64.b64encode(np.packbits(flat, bitorder="little").tobytes()).decode("ascii")
    return {"rows": rows, "cols": columns, "sym": symmetric, "bits": data}


def finite(value: Any) -> float | None:
    """`value` as a float, None where it is missing, not a number or infinite."""
    if value is None or isinstance(value, (str, bool)):
        return None
    try:
        result = float(value)
    except (TypeError, ValueError):
        return None
    return result if math.isfinite(result) else None


def number(value: Any, digits: int = 3) -> str:
    """A number for people: `digits` significant ones, thousands apart, a true minus sign.

    >>> number(0.01234), number(-5.0), number(1234567), number(None)
    ('0.0123', '−5', '1,234,567', '–')
    """
    result = finite(value)
    if result is None:
        return "–"
    if abs(result) < 1e-12:  # what rounding leaves of zero
        return "0"
    if abs(result) >= 1000 or result == int(result):
        text = f"{result:,.0f}"
    elif abs(result) < 1e-4:
        text = f"{result:.{digits - 1}e}"
    else:
        rounded = float(f"{result:.{digits}g}")
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
        text = f"{rounded:.{decimals}f}"
    return text.replace("-", "−")


def fixed(value: Any, decimals: int = 3, *, sign: bool = False) -> str:
    """A number with as many decimals as its neighbours in a column.

    >>> fixed(0.5), fixed(0.00042, sign=True), fixed(-2.0, 1)
    ('0.500', '0.000', '−2.0')
    """
    result = finite(value)
    if result is None:
        return "–"
    text = f"{result:{'+' if sign else ''},.{decimals}f}".replace("-", "−")
    # Zero has no sign, however small the number was that rounds to it.
    return text if any(digit in text for digit in "123456789") else text.lstrip("+−")


def places(values: Iterable[Any], least: int = 3, most: int = 6) -> int:
    """Decimals that keep every value which is not zero from reading as zero.

    >>> places([-0.5, 0.1]), places([-0.0004, -0.00012])
    (3, 4)
    """
    sizes = [abs(found) for value in values if (found := finite(value))]
    return least if not sizes else min(most, max(least, math.ceil(-math.log10(min(sizes)))))


def signed(value: Any, digits: int = 3) -> str:
    """A change: always with its sign.

    >>> signed(0.5), signed(-0.25, 2)
    ('+0.500', '−0.25')
    """
    result = finite(value)
    text = number(result, digits)
    return f"+{text}" if result is not None and result > 0 else text


def percent(value: Any, digits: int = 2) -> str:
    r"""A share as per cent.

    >>> percent(0.0123)
    '1.2\xa0%'
    """
    result = finite(value)
    return "–" if result is None else f"{number(100 * result, digits)}\N{NO-BREAK SPACE}%"


def plural(count: int, one: str, many: str | None = None) -> str:
    """`count` with its noun.

    >>> plural(1, "stage"), plural(3, "stage")
    ('1 stage', '3 stages')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def quote(name: str, limit: int = 40) -> str:
    """A domain name inside a sentence, shortened in its middle; escaping is the template's work."""
    if len(name) > limit:
        head = (limit - 1) // 2
        name = f"{name[:head]}…{name[-(limit - 1 - head) :]}"
    return f"“{name}”" if not name.replace("_", "").replace("-", "").isalnum() else name


def join(names: Sequence[str], limit: int = 4) -> str:
    """Names in a sentence.

    >>> join(["a", "b", "c"])
    'a, b and c'
    """
    shown = [quote(name) for name in names]
    if len(shown) > limit:
        shown = [*shown[: limit - 1], f"{len(names) - limit + 1} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else "none"


def entry(mapping: Mapping[str, Any] | None, *path: str) -> Any:
    """The value at a path of keys; None where any part is missing."""
    value: Any = mapping
    for key in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


_RESOURCES = {
    "tokens": "tokens",
    "domains": "domains",
    "adapter_parameters": "adapter parameters",
    "gpu_memory": "GPU memory",
}


def resource_title(name: str) -> str:
    """A budget's resource in words."""
    return _RESOURCES.get(name, name.replace("_", " "))
