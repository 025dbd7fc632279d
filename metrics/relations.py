"""`Relations`: everything measured about a set of domains, as one frozen value that is also two files."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from .._files import atomic_path, digest, file_digest, read_json, write_json
from ..errors import FingerprintError, RelationsError
from .registry import MEASURES, MeasureInfo

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["VERSION", "Relations"]

VERSION = 1
_GROUPS = ("matrices", "low", "high", "floors", "replicates")
_SIZES = ("tokens", "documents", "characters")


def _frozen(array: Any, dtype: str) -> NDArray[Any]:
    out = np.array(array, dtype=dtype)
    out.flags.writeable = False
    return out


@dataclass(frozen=True, eq=False)
class Relations:
    """How k domains relate: one k×k matrix a measure, with intervals, noise floors and bootstrap draws.

    Attributes
    ----------
    domains : tuple of str
        The k domain names; row and column order of every matrix.
    matrices : mapping of str to ndarray (k, k), float64
        The estimates. The diagonal holds what a domain reads against itself (`js`: 0 by definition; `jaccard`,
        `ruzicka`, `js_plugin`: one half of its documents against the other; `mmd2`: 0; cosines: 1).
        Never NaN, never infinite.
    low, high : mapping of str to ndarray (k, k)
        Ends of the bootstrap interval (over documents) at ``settings["confidence"]``.
    floors : mapping of str to ndarray (k, k)
        What a domain reads against itself, with its noise: a discrepancy at or under it, or a similarity at or
        above it, cannot be told from one domain (see :meth:`under_floor`). Only for measures that have one.
    replicates : mapping of str to ndarray (B, k, k), float32
        Bootstrap draws, recentred on the estimate: plan on each to see how sure a plan is.
    tokens, documents, characters : ndarray (k,), int64
        Size of the measured split.
    fingerprints : dict
        ``{"corpora": {name: hash}, "tokenizer": hash, "embedder": str, "settings": hash}``; "model" too, a hash, where
        :func:`kinfold.measure` was given one.
    settings : dict
        The resolved settings.
    seed : int
    warnings : tuple of str
        One sentence each; what a reader should know before trusting a cell.
    agreement : mapping of str to dict
        Per affinity measure: ``{"split_half": float, "usable": bool, "why": str}``.
    validation : dict or None
        Result of ``validate="probe"``: rank correlation of each measure with measured transfer.
    details : dict
        Facts for the curious: token budget per half, median squared distance, standard error against n.
    """

    domains: tuple[str, ...]
    matrices: Mapping[str, NDArray[np.float64]]
    low: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    high: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    floors: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    replicates: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    tokens: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    documents: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    characters: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    fingerprints: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    warnings: tuple[str, ...] = ()
    agreement: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    validation: Mapping[str, Any] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    version: int = VERSION

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "domains", tuple(str(name) for name in self.domains))
        put(self, "warnings", tuple(self.warnings))
        k = len(self.domains)
        if k < 1:
            raise RelationsError("relations hold no domain; measure at least one.")
        if len(set(self.domains)) != k:
            twice = next(name for name in self.domains if self.domains.count(name) > 1)
            raise RelationsError(f"relations name the domain {twice!r} twice; rename one of them.")
        for group in _GROUPS:
            dtype = "float32" if group == "replicates" else "float64"
            checked = {}
            for name, array in getattr(self, group).items():
                value = _frozen(array, dtype)
                _check(f"{group}[{name!r}]", value, k, stack=group == "replicates", names=self.domains)
                checked[str(name)] = value
            put(self, group, checked)
        for group in ("low", "high", "floors", "replicates"):
            for name in getattr(self, group):
                if name not in self.matrices:
                    raise RelationsError(f"relations carry {group} of {name!r} but not its matrix; measure again.")
        for name in _SIZES:
            value = _frozen(getattr(self, name), "int64")
            if value.size == 0:
                value = _frozen(np.zeros(k), "int64")
            if value.shape != (k,) or (value < 0).any():
                raise RelationsError(f"relations: {name} must hold {k} counts of at least 0, got shape {value.shape}.")
            put(self, name, value)

    # ---------------------------------------------------------------- reading
    @property
    def names(self) -> tuple[str, ...]:
        """The measures at hand."""
        return tuple(self.matrices)

    def matrix(self, name: str) -> NDArray[np.float64]:
        """The estimate of one measure, k×k; the array is read-only."""
        try:
            return self.matrices[name]
        except KeyError:
            raise RelationsError(
                f"{name!r} was not measured; at hand are {', '.join(self.matrices) or 'none'}: "
                "add it to measure.measures and measure again."
            ) from None

    def interval(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Both ends of the interval of one measure; where none was made, the estimate itself twice."""
        value = self.matrix(name)
        return self.low.get(name, value), self.high.get(name, value)

    def floor(self, name: str) -> NDArray[np.float64] | None:
        """The noise floor of one measure, k×k, or None where it has none."""
        self.matrix(name)
        return self.floors.get(name)

    def under_floor(self, name: str) -> NDArray[np.bool_] | None:
        """Cells that cannot be told from two halves of one domain, k×k, or None where the measure has no floor.

        For a discrepancy these lie at or under the floor, for a similarity at or above it (there the floor is what
        a domain reads against itself).
        """
        floor = self.floor(name)
        if floor is None:
            return None
        value = self.matrix(name)
        out: NDArray[np.bool_] = value >= floor if self.info(name).kind == "similarity" else value <= floor
        return out

    def replicate(self, name: str) -> NDArray[np.float32]:
        """The bootstrap draws of one measure, B×k×k; B is 0 where none were made."""
        value = self.matrix(name)
        return self.replicates.get(name, np.zeros((0, *value.shape), np.float32))

    def symmetric(self, name: str) -> NDArray[np.float64]:
        """One measure, symmetrised by the mean of both directions: what a planner needs."""
        value = self.matrix(name)
        return (value + value.T) / 2

    def info(self, name: str) -> MeasureInfo:
        """Title, unit, kind, range and source of one measure."""
        self.matrix(name)
        if name in MEASURES:
            return MEASURES[name]
        return MeasureInfo(name, name, "", "discrepancy", False, (-np.inf, np.inf), "given by hand")

    @property
    def digest(self) -> str:
        """A 32-digit hash of every number and fact, the same on every machine."""
        parts: list[Any] = [self._facts()]
        for key, array in sorted(self._arrays().items()):
            plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            parts.append([key, list(array.shape), hashlib.blake2b(plain.data, digest_size=16).hexdigest()])
        return digest(parts)

    def subset(self, names: Sequence[str]) -> Relations:
        """Relations of some of the domains, in the order given."""
        missing = [name for name in names if name not in self.domains]
        if missing:
            raise RelationsError(f"{missing[0]!r} is not a measured domain; choose from {', '.join(self.domains)}.")
        index = np.array([self.domains.index(name) for name in names], dtype=np.int64)
        groups: dict[str, Any] = {
            group: {name: value[..., index[:, None], index] for name, value in getattr(self, group).items()}
            for group in _GROUPS
        }
        prints = dict(self.fingerprints)
        if "corpora" in prints:
            prints["corpora"] = {name: prints["corpora"][name] for name in names if name in prints["corpora"]}
        return Relations(
            domains=tuple(names),
            **groups,
            tokens=self.tokens[index],
            documents=self.documents[index],
            characters=self.characters[index],
            fingerprints=prints,
            settings=self.settings,
            seed=self.seed,
            warnings=self.warnings,
            agreement=self.agreement,
            validation=None,
            details={},
        )

    def check_compatible(self, other: Relations) -> None:
        """Raise `FingerprintError` where `other` was measured with another tokenizer or embedder."""
        for key, remedy in (("tokenizer", "vocabulary"), ("embedder", "embedding")):
            mine, theirs = self.fingerprints.get(key), other.fingerprints.get(key)
            if mine != theirs:
                raise FingerprintError(
                    f"these relations were measured with another {remedy} ({key} {mine} against {theirs}); "
                    f"measure both with the same {key}."
                )

    def to_frame(self) -> pd.DataFrame:
        """A long table: measure, a, b, value, low, high, floor; one row a pair (both directions where they differ)."""
        import pandas as pd

        rows: list[dict[str, Any]] = []
        for name, value in self.matrices.items():
            low, high = self.interval(name)
            floor = self.floors.get(name)
            symmetric = self.info(name).symmetric
            for i, a in enumerate(self.domains):
                for j, b in enumerate(self.domains):
                    if symmetric and j < i:
                        continue
                    cell = {"measure": name, "a": a, "b": b, "value": value[i, j], "low": low[i, j], "high": high[i, j]}
                    rows.append({**cell, "floor": None if floor is None else floor[i, j]})
        return pd.DataFrame(rows, columns=["measure", "a", "b", "value", "low", "high", "floor"])

    def plot(self, measure: str | Sequence[str] | None = None, order: str | Sequence[str] | None = None) -> Figure:
        """Heatmaps of one, some or all measures; `order` is None, "dendrogram", "given" or a sequence of names."""
        from ._plots import plot_relations

        return plot_relations(self, measure, order)

    # ---------------------------------------------------------------- files
    def _facts(self) -> dict[str, Any]:
        facts = {
            "version": self.version,
            "domains": list(self.domains),
            "measures": {
                name: {
                    "title": self.info(name).title,
                    "unit": self.info(name).unit,
                    "kind": self.info(name).kind,
                    "symmetric": self.info(name).symmetric,
                    "reference": self.info(name).reference,
                }
                for name in self.matrices
            },
            "tokens": self.tokens.tolist(),
            "documents": self.documents.tolist(),
            "characters": self.characters.tolist(),
            "fingerprints": self.fingerprints,
            "settings": self.settings,
            "seed": self.seed,
            "warnings": list(self.warnings),
            "agreement": self.agreement,
            "validation": self.validation,
            "details": self.details,
        }
        return {key: _plain(value) for key, value in facts.items()}

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {f"{group}.{name}": value for group in _GROUPS for name, value in getattr(self, group).items()}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `relations.npz` and `relations.json` into the folder `path` (or as the `.json` named).

        Each file is replaced in one step and the JSON, written last, carries the hash of the other: a kill in
        between is found on loading.
        """
        target = _json_path(Path(path))
        buffer = io.BytesIO()
        arrays: dict[str, Any] = self._arrays()
        np.savez_compressed(buffer, **arrays)
        with atomic_path(target.with_suffix(".npz")) as temporary:
            temporary.write_bytes(buffer.getvalue())
        write_json(target, {**self._facts(), "npz": file_digest(target.with_suffix(".npz"))})
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Relations:
        """Read what :meth:`save` wrote, from its folder or its JSON file.

        Raises
        ------
        RelationsError
            A file is missing, damaged, of a later version, or the two do not belong together.
        """
        target = _json_path(Path(path))
        facts = read_json(target, error=RelationsError)
        if not isinstance(facts, dict) or "domains" not in facts:
            raise RelationsError(f"{target}: not a relations file; make one with `kinfold measure`.")
        version = facts.get("version")
        if version != VERSION:
            raise RelationsError(f"{target}: version {version!r} is not {VERSION}; measure again with this Kinfold.")
        store = target.with_suffix(".npz")
        try:
            if facts.get("npz") not in (None, file_digest(store)):
                raise RelationsError(f"{store}: does not belong to {target.name}; measure again.")
            with np.load(store, allow_pickle=False) as data:
                arrays = {key: data[key] for key in data.files}
        except OSError:
            raise RelationsError(f"{store}: missing or unreadable; keep it beside {target.name}.") from None
        except RelationsError:
            raise
        except (ValueError, KeyError, EOFError, BadZipFile) as fault:
            raise RelationsError(f"{store}: damaged ({fault}); measure again.") from None
        groups: dict[str, Any] = {group: {} for group in _GROUPS}
        for key, array in arrays.items():
            group, _, name = key.partition(".")
            if group in groups:
                groups[group][name] = array
        try:
            return cls(
                domains=tuple(facts["domains"]),
                **groups,
                tokens=np.array(facts.get("tokens", []), np.int64),
                documents=np.array(facts.get("documents", []), np.int64),
                characters=np.array(facts.get("characters", []), np.int64),
                fingerprints=facts.get("fingerprints", {}),
                settings=facts.get("settings", {}),
                seed=int(facts.get("seed", 0)),
                warnings=tuple(facts.get("warnings", ())),
                agreement=facts.get("agreement", {}),
                validation=facts.get("validation"),
                details=facts.get("details", {}),
            )
        except (TypeError, OverflowError) as fault:
            raise RelationsError(f"{target}: damaged ({fault}); measure again.") from None


def _json_path(path: Path) -> Path:
    return path if path.suffix == ".json" else path / "relations.json"


def _plain(value: Any) -> Any:
    """JSON-able copy of nested mappings, sequences and NumPy values."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def _check(label: str, value: NDArray[Any], k: int, *, stack: bool, names: tuple[str, ...]) -> None:
    if value.ndim != 2 + stack or value.shape[-2:] != (k, k):
        raise RelationsError(f"relations: {label} has shape {value.shape}, expected {k}×{k} for {k} domains.")
    if not np.isfinite(value).all():
        spot = np.argwhere(~np.isfinite(value))[0]
        pair = f"{names[spot[-2]]} and {names[spot[-1]]}"
        raise RelationsError(f"relations: {label} is not a finite number between {pair}; check these domains' texts.")
