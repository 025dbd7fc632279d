"""From what a user points at to checked :class:`Corpora`: a folder, a YAML manifest, or a mapping."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CorpusError, InputTypeError
from ._datasets import HUB_ID, saved_splits
from ._fields import Fields
from ._formats import format_by_name, is_saved_dataset, split_by_name, stem
from ._manifest import Entry, entries_of, read_manifest
from ._names import checked_name
from .corpora import Corpora
from .domain import Domain, Source
from .record import named_split
from .settings import TEST_SHARE, VALIDATION_SHARE, CorporaSettings, check_limit, check_share

__all__ = ["load_corpora"]

_FORMATS = ".txt, .jsonl, .json, .csv or .parquet, each also .gz or .zst"
_ABOUT = ("readme", "license", "licence", "notice", "changelog", "citation", "sources", "requirements")
_MANIFESTS = (".yaml", ".yml")
DOCUMENTS = ("blocks", "lines", "files")


def load_corpora(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    strict: bool = False,
    limit: int | None = None,
    validation: float = VALIDATION_SHARE,
    test: float = TEST_SHARE,
    base: str | os.PathLike[str] | None = None,
) -> Corpora:
    """Find the domains of `source` and check that each can be read.

    Parameters
    ----------
    source
        A folder with one file or sub-folder per domain (one called `general` is general text); a YAML manifest; or a
        mapping from names to paths or to entries as a manifest has them.
    strict
        Whether a bad record is an error. Then everything is read once before this returns.
    limit
        At most this many records of each split of a domain, in file order.
    validation, test
        Shares for the split by content hash, for records that name no split.
    base
        Where relative paths of a mapping begin; the working folder by default. A manifest's begin at the manifest.

    Returns
    -------
    Corpora
        The domains, in the order of their names. Of each, the beginning has been read.

    Raises
    ------
    CorpusError
        When the source, an entry, a name, a file or a record at its beginning cannot be used.
    ConfigError
        When a setting cannot be used.
    """
    defaults = CorporaSettings(strict=strict, limit=limit, validation=validation, test=test)
    ignored: list[str] = []
    if isinstance(source, Mapping):
        place, root = "corpora", Path(base or "")
        entries = entries_of(source)
    elif isinstance(source, (str, os.PathLike)):
        path = _path(source, "corpora")
        place, root = str(path), path.parent
        if path.is_dir():
            entries = _folder_entries(path, ignored)
        elif not path.exists():
            raise CorpusError(f"{path}: no such file or folder; check the path.")
        elif path.suffix.casefold() in _MANIFESTS:
            entries = read_manifest(path)
        else:
            raise CorpusError(
                f"{path}: is a single file; give a folder with one file or sub-folder per domain, or a YAML manifest."
            )
    else:
        raise InputTypeError(f"corpora are given as {type(source).__name__}; give a path or a mapping.")
    if not entries:
        left = f" ({ignored[0]})" if ignored else ""
        raise CorpusError(f"{place}: holds no corpus{left}; put one file or sub-folder per domain in it ({_FORMATS}).")
    _refuse_same_names(entries)
    domains = []
    for entry in entries:
        domain = _domain(entry, root, defaults, ignored)
        domain.check()
        domains.append(domain)
    return Corpora(tuple(domains), tuple(ignored))


def _folder_entries(folder: Path, ignored: list[str]) -> list[Entry]:
    """One entry per file or sub-folder; what is no corpus is noted, and hidden names are passed over."""
    if is_saved_dataset(folder):
        raise CorpusError(f"{folder}: is one saved data set, so one domain; give the folder above it, or a manifest.")
    entries = []
    for path in _listed(folder):
        if path.name.startswith((".", "__")):
            continue
        if path.is_dir():
            if not is_saved_dataset(path) and not _files(path):
                ignored.append(f"{path.name}: holds no file of a known format")
                continue
            name = path.name
        else:
            reason = _no_corpus(path)
            if reason:
                ignored.append(f"{path.name}: {reason}")
                continue
            name = stem(path)
        values = {"path": path.absolute(), "general": name.casefold() in ("general", "_general")}
        entries.append(Entry(name, values, {None: str(path)}))
    if entries and all(split_by_name(Path(entry.name)) for entry in entries):
        raise CorpusError(
            f"{folder}: holds {' and '.join(str(entry.name) for entry in entries)}, so it looks like one domain; "
            "give the folder above it."
        )
    return entries


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as fault:
        raise CorpusError(f"{folder}: cannot be listed ({fault.strerror or fault}); check its permissions.") from None


def _no_corpus(path: Path) -> str | None:
    """Why a file found in a folder is no corpus, or None."""
    if path.suffix.casefold() in _MANIFESTS:
        return "a YAML file; to use it as the manifest, name it itself"
    if format_by_name(path) is None:
        return "not of a known format"
    if stem(path).casefold() in _ABOUT:
        return "about the data, not of them"
    return None


def _files(folder: Path, ignored: list[str] | None = None) -> list[Path]:
    """The corpus files below `folder`; hidden ones are passed over, what is no corpus is noted."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        for name in sorted(names):
            path = Path(place, name)
            reason = _no_corpus(path)
            if name.startswith("."):
                continue
            if reason is None:
                found.append(path)
            elif ignored is not None:
                ignored.append(f"{path.relative_to(folder.parent)}: {reason}")
    return sorted(found)


def _refuse_same_names(entries: list[Entry]) -> None:
    """Names that differ only in case meet in one file on some systems."""
    seen: dict[str, Entry] = {}
    for entry in entries:
        folded = checked_name(entry.name, entry.at()).casefold()
        if folded in seen:
            other = seen[folded]
            same = "is the same as" if other.name == entry.name else "differs only in case from"
            raise CorpusError(f"{entry.at()}: the domain name {entry.name!r} {same} that of {other.at()}; rename one.")
        seen[folded] = entry


def _domain(entry: Entry, base: Path, defaults: CorporaSettings, ignored: list[str]) -> Domain:
    """Check one entry and turn it into a domain."""
    name = checked_name(entry.name, entry.at())
    values = entry.values
    fields, forced = _fields(entry)
    general, unlabelled = _flag(entry, "general"), _flag(entry, "unlabelled")
    if general and unlabelled:
        raise CorpusError(f"{entry.at('general')}: {name!r} is both general and unlabelled; keep one.")
    validation = check_share(values.get("validation", defaults.validation), f"{entry.at('validation')}: validation")
    test = check_share(values.get("test", defaults.test), f"{entry.at('test')}: test")
    if validation + test >= 1:
        raise CorpusError(
            f"{entry.at('test')}: validation + test = {validation + test:g} leaves nothing to train on; lower them."
        )
    kind, sources, documents = _where(entry, base, forced, ignored)
    return Domain(
        name=name,
        kind=kind,
        sources=sources,
        fields=fields,
        weight=_weight(entry),
        general=general,
        unlabelled=unlabelled,
        validation=validation,
        test=test,
        strict=defaults.strict,
        limit=check_limit(values.get("limit", defaults.limit), f"{entry.at('limit')}: limit"),
        documents=documents,
        hub=_text(entry, "hub"),
        subset=_text(entry, "subset"),
        revision=_text(entry, "revision"),
    )


def _fields(entry: Entry) -> tuple[Fields, str | None]:
    """The field names, and the one split all records belong to where `split` names a split instead of a field."""
    values = dict(entry.values)
    split = values.get("split")
    forced = named_split(split) if isinstance(split, str) else None
    if forced:
        del values["split"]
    try:
        return Fields.of(values, f"{entry.name}"), forced
    except CorpusError as fault:
        raise CorpusError(f"{entry.at()}: {fault}") from None


def _where(entry: Entry, base: Path, forced: str | None, ignored: list[str]) -> tuple[str, tuple[Source, ...], str]:
    """Kind, sources and text layout of an entry."""
    values = entry.values
    documents = values.get("documents")
    if documents is not None and documents not in DOCUMENTS:
        raise CorpusError(
            f"{entry.at('documents')}: documents={documents!r} is not known; use one of {', '.join(DOCUMENTS)}."
        )
    if ("path" in values) == ("hub" in values):
        raise CorpusError(f"{entry.at()}: {entry.name!r} needs either `path` or `hub`; give one of them.")
    if "hub" in values:
        hub = _text(entry, "hub") or ""
        if not HUB_ID.fullmatch(hub):
            raise CorpusError(f"{entry.at('hub')}: {hub!r} is not a data set id; write it as `owner/name`.")
        if forced:
            raise CorpusError(f"{entry.at('split')}: `split` cannot choose a split of a hub data set; name a field.")
        return "hub", (), documents or "blocks"
    for key in ("subset", "revision"):
        if key in values:
            raise CorpusError(f"{entry.at(key)}: `{key}` belongs to `hub`, not to `path`; remove it.")
    given = values["path"] if isinstance(values["path"], (list, tuple)) else [values["path"]]
    paths = [path for item in given for path in _expanded(entry, item, base)]
    if not paths:
        raise CorpusError(f"{entry.at('path')}: {entry.name!r} has an empty list of paths; name a file or folder.")
    saved = [path for path in paths if is_saved_dataset(path)]
    if saved:
        if len(saved) < len(paths):
            raise CorpusError(f"{entry.at('path')}: mixes saved data sets with files; make them two domains.")
        return "datasets", _saved_sources(saved, forced, ignored), documents or "blocks"
    sources: list[Source] = []
    loose = 0
    for path in paths:
        inside = path.is_dir()
        files = _files(path, ignored) if inside else [path]
        if not files:
            raise CorpusError(f"{path}: holds no file of a known format; use {_FORMATS}.")
        several = inside or len(paths) > 1
        found = [
            Source(file, forced or (split_by_name(file, path if inside else None) if several else None))
            for file in files
        ]
        loose += sum(format_by_name(source.path) == "txt" and source.split is None for source in found if inside)
        sources += found
    # A folder with several texts that are not called after splits: one document a file.
    layout = documents or ("files" if loose > 1 else "blocks")
    return "files", _lone_train(sources, forced), layout


def _saved_sources(folders: list[Path], forced: str | None, ignored: list[str]) -> tuple[Source, ...]:
    sources = []
    for folder in folders:
        for table, name in saved_splits(folder):
            split = named_split(name) if name else None
            if name and split is None:
                ignored.append(f"{table}: its split {name!r} is none of train, validation and test")
            else:
                sources.append(Source(table, forced or split))
    if not sources:
        raise CorpusError(
            f"{folders[0]}: has no split called train, validation or test; name one of its folders as `path`."
        )
    return _lone_train(sources, forced)


def _lone_train(sources: list[Source], forced: str | None) -> tuple[Source, ...]:
    """Where there is nothing but training files, they count as not split, so that some text is held out."""
    if not forced and {source.split for source in sources} == {"train"}:
        return tuple(Source(source.path) for source in sources)
    return tuple(sources)


def _expanded(entry: Entry, item: Any, base: Path) -> list[Path]:
    """A path of an entry, relative to `base`, or everything its pattern matches."""
    where = entry.at("path")
    if not isinstance(item, (str, os.PathLike)) or not str(item):
        raise CorpusError(f"{where}: path={item!r} of {entry.name!r} is not a path; give a file or folder.")
    path = base / _path(item, where)
    if path.exists():
        return [path]
    if any(sign in str(item) for sign in "*?["):
        anchor = Path(path.anchor) if path.is_absolute() else Path()
        found = sorted(anchor.glob(str(path.relative_to(path.anchor) if path.is_absolute() else path)))
        if found:
            return found
        raise CorpusError(f"{where}: nothing matches {str(path)!r}; check the pattern.")
    prefix = "" if where == str(path) else f"{where}: "
    raise CorpusError(f"{prefix}{path}: no such file or folder; check the path.")


def _path(given: str | os.PathLike[str], where: str) -> Path:
    """`given` with its `~` resolved, if it is something a file system can hold."""
    try:
        path = Path(given).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as fault:
        shown = str(given) if len(str(given)) <= 60 else str(given)[:57] + "..."
        reason = getattr(fault, "strerror", None) or fault
        raise CorpusError(f"{where}: {shown!r} cannot be used as a path ({reason}); check it.") from None
    return path


def _flag(entry: Entry, key: str) -> bool:
    value = entry.values.get(key, False)
    if not isinstance(value, bool):
        raise CorpusError(
            f"{entry.at(key)}: {key}={value!r} of {entry.name!r} is not a truth value; write true or false."
        )
    return value


def _text(entry: Entry, key: str) -> str | None:
    value = entry.values.get(key)
    if value is not None and (not isinstance(value, str) or not value):
        raise CorpusError(f"{entry.at(key)}: {key}={value!r} of {entry.name!r} is not text; put it in quotes.")
    return value


def _weight(entry: Entry) -> float:
    value = entry.values.get("weight", 1.0)
    if isinstance(value, str):
        try:
            value = float(value)  # YAML reads 5e-1 as text
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        given = entry.values["weight"]
        raise CorpusError(
            f"{entry.at('weight')}: weight={given!r} of {entry.name!r} is not a number above 0; give one."
        )
    return float(value)
