"""The result of a comparison: a value that is also a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._files import atomic_path, read_json, write_json, write_text
from ...errors import RunError
from ._summary import COMPARISON_VERSION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Comparison"]


@dataclass(frozen=True, eq=False)
class Comparison:
    """What a comparison found.

    Parameters
    ----------
    path
        Its folder: `compare.json`, `compare.md`, pictures (`forest.svg` and `.png`, ...) and `records/`.
    value
        The content of `compare.json`.
    """

    path: Path
    value: Mapping[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Open the folder (or the `compare.json`) of a finished comparison.

        Raises
        ------
        RunError
            When there is none.
        """
        path = Path(path)
        file = path if path.suffix == ".json" else path / "compare.json"
        value = read_json(file, error=RunError)
        if not isinstance(value, dict) or value.get("version") != COMPARISON_VERSION:
            raise RunError(f"{file}: is not a comparison of this version; run kinfold compare again.")
        return cls(file.parent, value)

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods, the plan first."""
        return tuple(row["name"] for row in self.value["methods"])

    def method(self, name: str) -> Mapping[str, Any]:
        """What was found about one method.

        Raises
        ------
        RunError
            When it was not compared.
        """
        for row in self.value["methods"]:
            if row["name"] == name:
                return dict(row)
        raise RunError(f"{self.path}: no method {name!r}; compared were {', '.join(self.methods)}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return dict(self.value)

    @property
    def lines(self) -> tuple[str, ...]:
        """One sentence per rival, and the warnings."""
        unit = "accuracy" if self.value["higher_is_better"] else "nats per token"
        found = []
        for row in self.value["methods"]:
            gain = row.get("plan_advantage")
            if gain is None:
                continue
            interval = "" if gain["low"] is None else f" [{gain['low']:+.4f}, {gain['high']:+.4f}]"
            found.append(
                f"plan against {row['name']}: advantage {gain['mean']:+.4f}{interval} {unit}, "
                f"better in {gain['better']} of {len(self.value['domains'])} domains: {row['verdict']}."
            )
        return (*found, *self.value["warnings"])

    @property
    def markdown(self) -> str:
        """The table as Markdown, generated from the values alone."""
        from ._views import markdown

        return markdown(self.value)

    def plot(self) -> Figure:
        """The forest plot: the plan's advantage over each rival with its interval, and every domain's mean."""
        from ._views import forest

        return forest(self.value)

    def figures(self) -> dict[str, Figure]:
        """Every picture by name: `forest` where there are rivals, `sensitivity` and `robustness` where asked for."""
        from ._views import degradation, forest, heatmap

        found: dict[str, Figure] = {}
        if any(row.get("plan_advantage") for row in self.value["methods"]):
            found["forest"] = forest(self.value)
        if self.value.get("grid"):
            found["sensitivity"] = heatmap(self.value)
        if self.value.get("conditions"):
            found["robustness"] = degradation(self.value)
        return found

    def save(self) -> None:
        """Write `compare.json`, `compare.md` and the pictures, each atomically."""
        write_json(self.path / "compare.json", self.to_dict())
        write_text(self.path / "compare.md", self.markdown)
        import matplotlib

        for name, figure in self.figures().items():
            for suffix in ("svg", "png"):
                # Without a date and random ids, so that the same result gives the same picture.
                metadata = {"Date": None} if suffix == "svg" else None
                with (
                    matplotlib.rc_context({"svg.hashsalt": "kinfold"}),
                    atomic_path(self.path / f"{name}.{suffix}") as path,
                ):
                    figure.savefig(path, format=suffix, dpi=160, metadata=metadata)
