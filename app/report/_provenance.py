"""The provenance section: with what data, model, settings and versions, so that the page can be made again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["flatten", "provenance_view"]


def flatten(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Nested values as dotted keys, in the order they come.

    >>> flatten({"a": {"b": 1, "c": [2, 3]}, "d": None})
    [('a.b', '1'), ('a.c', '2, 3'), ('d', 'none')]
    """
    if isinstance(value, Mapping):
        out: list[tuple[str, str]] = []
        for key, inner in value.items():
            out += flatten(inner, f"{prefix}.{key}" if prefix else str(key))
        return out or [(prefix, "none")] * bool(prefix)
    if isinstance(value, (list, tuple)):
        if any(isinstance(inner, (Mapping, list, tuple)) for inner in value):
            out = []
            for i, inner in enumerate(value):
                out += flatten(inner, f"{prefix}[{i + 1}]")
            return out
        return [(prefix, ", ".join(_text(inner) for inner in value) or "none")]
    return [(prefix, _text(value))]


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _settings(holder: Any) -> dict[str, Any]:
    return {"seed": getattr(holder, "seed", None), **dict(getattr(holder, "settings", None) or {})}


def provenance_view(
    *,
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    plan: Any = None,
    relations: Any = None,
    manifest: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Groups of rows, each collapsible; empty groups are left out."""
    environment = dict(environment or {})
    versions = environment.pop("versions", None) or environment.pop("packages", None) or {}
    prints: dict[str, Any] = {}
    for source, holder in (("relations", relations), ("plan", plan)):
        found = getattr(holder, "fingerprints", None)
        if found:
            prints[source] = found
    manifest = dict(manifest or {})
    trained_on = {key: manifest[key] for key in ("corpora", "fingerprints") if manifest.get(key)}
    if trained_on:
        prints["run"] = trained_on
    run = {key: manifest[key] for key in ("state", "task", "seed", "model", "kinfold", "version") if key in manifest}
    groups = [
        ("Run", flatten(run)),
        ("Versions", flatten(versions)),
        ("Machine", flatten(environment)),
        ("Measuring: settings", flatten(_settings(relations)) if relations is not None else []),
        ("Planning: settings", flatten(_settings(plan)) if plan is not None else []),
        ("Training: resolved configuration", flatten(config or {})),
        ("Fingerprints of data, tokenizer and settings", flatten(prints)),
    ]
    return [{"title": title, "rows": rows} for title, rows in groups if rows]
