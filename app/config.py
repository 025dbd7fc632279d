"""The configuration: the rooms' frozen settings under one roof, resolved from defaults, a YAML file, flags and --set.

The rooms own their settings and the checks on single values. This module merges the sources, lets pydantic compare the
result with the dataclasses (nothing unknown, nothing of the wrong kind) and reports every fault at once, each with its
path and the file line, flag or --set it came from.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ..corpora.settings import CorporaSettings
from ..errors import ConfigError, ModelError
from ..metrics.settings import MeasureSettings
from ..partition.settings import PlanSettings
from ..stages.settings import TrainSettings
from ._faults import Fault, all_paths, dotted, faults_of, hints, members, raise_faults, real_path, type_at
from ._merge import Lines, clear, expand, merge, nest, parse_set, relative
from ._yaml import KeyPath, read_yaml
from .compare.settings import CompareSettings

__all__ = [
    "CorporaSection",
    "Flag",
    "KinfoldConfig",
    "Resolved",
    "absolute",
    "check_model_name",
    "dump_yaml",
    "field_info",
    "needs_model",
    "plain",
    "resolve",
    "settings_help",
]


_MOST_FAULTS = 50


@dataclass(frozen=True)
class CorporaSection(CorporaSettings):
    """Where the corpora are, and how they are read."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    path: str | None = field(
        default=None, metadata={"help": "folder with one file or sub-folder per domain, or a YAML manifest"}
    )
    domains: Mapping[str, Any] = field(
        default_factory=dict, metadata={"help": "instead of a path: a manifest written here, {name: {path: ...}}"}
    )

    def __post_init__(self) -> None:
        above = getattr(super(), "__post_init__", None)
        if above is not None:
            above()
        if self.path is not None and self.domains:
            raise ConfigError("corpora.path and corpora.domains are both given; keep one of them.")

    @property
    def source(self) -> str | Mapping[str, Any] | None:
        """What :func:`kinfold.load_corpora` is asked to read, or None when nothing is named."""
        return self.path if self.path is not None else (self.domains or None)


@dataclass(frozen=True)
class KinfoldConfig:
    """Everything a command can be told."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    corpora: CorporaSection = field(default_factory=CorporaSection, metadata={"help": "what you bring"})
    model: str | None = field(default=None, metadata={"help": "base model: a local folder or a Hugging Face hub id"})
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "tokenizer to measure with: a folder or hub id; null = the model's, or one trained on the corpora"
        },
    )
    seed: int = field(default=0, metadata={"help": "the one seed that everything random derives from"})
    measure: MeasureSettings = field(default_factory=MeasureSettings, metadata={"help": "how domains are compared"})
    plan: PlanSettings = field(default_factory=PlanSettings, metadata={"help": "which domains share a stage"})
    train: TrainSettings = field(default_factory=TrainSettings, metadata={"help": "how stages are trained"})
    compare: CompareSettings = field(
        default_factory=CompareSettings, metadata={"help": "what is trained beside the plan, how often"}
    )

    def __post_init__(self) -> None:
        if self.seed < 0 or self.seed >= 2**63:
            raise ConfigError(f"seed={self.seed}: must be a whole number from 0 to 2^63 - 1.")


@dataclass(frozen=True)
class Flag:
    """One value given on the command line: its path in the configuration and the flag as typed."""

    path: tuple[str, ...]
    value: Any
    name: str


@dataclass(frozen=True)
class Resolved:
    """A configuration and where each of its values came from."""

    config: KinfoldConfig
    given: dict[str, Any]
    """Only what a file or flag said, nested."""
    origins: dict[KeyPath, str]
    """The place of each given value, such as `kinfold.yaml, line 4` or `--lambda`."""


def resolve(file: Path | None = None, flags: Sequence[Flag] = (), sets: Sequence[str] = ()) -> Resolved:
    """Merge defaults < `file` < `flags` < `sets` and validate the result.

    Parameters
    ----------
    file
        YAML file. Relative paths in it are relative to its folder.
    flags
        Values from the command line.
    sets
        `a.b=c` texts; the right side is YAML, so lists and mappings can be given.

    Raises
    ------
    ConfigError
        One error that holds every fault, each with its path and place.
    """
    data: dict[str, Any] = {}
    origins: dict[KeyPath, str] = {}
    faults: list[str] = []
    if file is not None:
        document = read_yaml(file)
        faults += [f"{file}, line {line}: {sentence}" for line, sentence in document.faults]
        value = expand(document.value)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise ConfigError(f"{file}: the top level must be a mapping of settings; `kinfold init` shows one.")
        relative(value, file.parent)
        merge(data, value, (), origins, Lines(str(file), document))
    for flag in flags:
        merge(data, nest(flag.path, flag.value), (), origins, flag.name)
    for text in sets:
        path, value = parse_set(text)
        clear(data, path)
        merge(data, nest(path, value), (), origins, f"--set {'.'.join(path)}")
    config, found = _validate(data)
    faults += [_placed(fault, origins) for fault in found]
    if config is not None and not faults:
        check_model_name(config.model)
        check_model_name(config.tokenizer, "tokenizer")
        check_model_name(config.measure.model)
    if faults or config is None:
        raise_faults(sorted(faults, key=_reading_order))
        raise ConfigError("the configuration cannot be read; start from one that `kinfold init` writes.")
    return Resolved(config, data, origins)


def _reading_order(sentence: str) -> tuple[int, int]:
    """Faults of the file first, by line; those of flags after them in the order found (sorting is stable)."""
    line = re.match(r".*?, line (\d+): ", sentence)
    return (0, int(line.group(1))) if line else (1, 0)


def plain(value: Any) -> Any:
    """Settings as plain dicts, lists and scalars, ready for YAML and JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def check_model_name(name: str | None, what: str = "model") -> None:
    """Refuse at once what can only be a local folder and is none, before a hub is asked for it.

    Raises
    ------
    ModelError
        When `name` is written as a path and no such folder exists.
    """
    if name is None or Path(name).exists():
        return
    if Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or "\\" in name:
        raise ModelError(f"{name}: no such {what} folder; check the path, or name a hub id such as organisation/name.")


def absolute(config: KinfoldConfig) -> dict[str, Any]:
    """The configuration as plain values whose local paths hold from anywhere; for a file that is put elsewhere."""
    values: dict[str, Any] = plain(config)
    corpora = values["corpora"]
    if corpora["path"] is not None:
        corpora["path"] = str(Path(corpora["path"]).expanduser().absolute())
    for name, entry in corpora["domains"].items():
        if isinstance(entry, str):
            corpora["domains"][name] = str(Path(entry).expanduser().absolute())
        elif isinstance(entry, dict) and isinstance(entry.get("path"), str):
            entry["path"] = str(Path(entry["path"]).expanduser().absolute())
    for holder, key in ((values, "model"), (values, "tokenizer"), (values["measure"], "model")):
        if isinstance(holder[key], str) and Path(holder[key]).exists():
            holder[key] = str(Path(holder[key]).absolute())
    return values


def dump_yaml(value: Any) -> str:
    """`value` as YAML that this module reads back to the same value."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Quotes every text that a YAML 1.1 or 1.2 reader could take for something else; never writes aliases."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, data: str) -> yaml.ScalarNode:
        from ._yaml import parse_scalar

        style = '"' if not data.isprintable() or not isinstance(parse_scalar(data), str) else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    def number(dumper: yaml.SafeDumper, data: float) -> yaml.ScalarNode:
        written = ".nan" if math.isnan(data) else f"{'-' if data < 0 else ''}.inf" if math.isinf(data) else repr(data)
        if "e" in written and "." not in written:
            written = written.replace("e", ".0e")  # YAML 1.1 takes 1e-05 for text
        return dumper.represent_scalar("tag:yaml.org,2002:float", written)

    Dumper.add_representer(str, text)
    Dumper.add_representer(float, number)
    return str(yaml.dump(plain(value), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100))


def _validate(data: dict[str, Any]) -> tuple[KinfoldConfig | None, list[Fault]]:
    """The configuration, or every fault in it.

    A dataclass checks its values only once all its kinds are right, so what is at fault is set aside and the rest is
    looked at again until nothing more comes up.
    """
    _drop_empty(data, KinfoldConfig)
    _lend_model(data)
    found: list[Fault] = []
    rest = data
    for _ in range(_MOST_FAULTS):
        config, errors = _try(rest)
        if config is not None:
            return (None, found) if found else (config, [])
        if _none_words(errors, rest):
            continue
        fresh = [fault for fault in faults_of(errors, rest, KinfoldConfig) if fault not in found]
        if not fresh:
            break
        found += fresh
        rest = copy.deepcopy(rest)
        for fault in fresh:
            _set_aside(rest, _narrowed(fault))
    return None, found


def _try(data: dict[str, Any]) -> tuple[KinfoldConfig | None, list[dict[str, Any]]]:
    from pydantic import TypeAdapter, ValidationError

    text = json.dumps(data, ensure_ascii=True)
    try:
        # JSON in strict mode: lists fill tuples, whole numbers fill floats, and nothing else is converted.
        return TypeAdapter(KinfoldConfig).validate_json(text, strict=True), []
    except ValidationError as fault:
        return None, [dict(error) for error in fault.errors(include_url=False)]


def _set_aside(data: dict[str, Any], path: KeyPath) -> None:
    holder: Any = data
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(holder, dict) and part in holder:
            if last or not isinstance(holder[part], dict):
                del holder[part]  # an item of a list goes with its list
                return
            holder = holder[part]
        elif isinstance(holder, dict) and depth and not last:
            return
        else:
            # The sentence names something that was not given: give up on the whole section.
            data.pop(str(path[0]), None)
            return


def _narrowed(fault: Fault) -> KeyPath:
    """The path of the setting that a fault about a section names, else the section's own."""
    named = _named_path(fault.sentence)
    return named if named is not None and named[: len(fault.path)] == fault.path else fault.path


def _drop_empty(data: dict[str, Any], kind: type) -> None:
    """Take an empty section (`plan:` with nothing below it) for one at its defaults."""
    for name, annotation in hints(kind).items():
        if not dataclasses.is_dataclass(annotation) or not isinstance(annotation, type) or name not in data:
            continue
        if data[name] is None:
            del data[name]
        elif isinstance(data[name], dict):
            _drop_empty(data[name], annotation)


def _lend_model(data: dict[str, Any]) -> None:
    """Let `measure` use the top-level model where it needs one and names none."""
    section = data.get("measure")
    if not isinstance(section, dict) or section.get("model") is not None or not isinstance(data.get("model"), str):
        return
    if needs_model(section):
        section["model"] = data["model"]


def needs_model(measure: Mapping[str, Any]) -> bool:
    """Whether these settings of `measure` read the base model itself, not only its tokenizer."""
    asked = measure.get("measures")
    return (
        measure.get("embedder") == "model"
        or measure.get("validate", "none") not in ("none", None)
        or (isinstance(asked, (list, tuple)) and "gradient_affinity" in asked)
    )


def _none_words(errors: Sequence[Any], data: dict[str, Any]) -> bool:
    """Take the word `none` for null where the setting allows null and not the word; True when anything changed."""
    changed = False
    for error in errors:
        path = real_path(error["loc"], data)
        holder: Any = data
        for part in path[:-1]:
            holder = holder[part]
        word = holder[path[-1]] if path else None
        if isinstance(word, str) and word.lower() == "none" and type(None) in members(type_at(KinfoldConfig, path)):
            holder[path[-1]] = None
            changed = True
    return changed


def _placed(fault: Fault, origins: Mapping[KeyPath, str]) -> str:
    """The fault with its place in front; a fault about a section is placed by the setting its sentence names."""
    path = _narrowed(fault)
    for length in range(len(path), 0, -1):
        if path[:length] in origins:
            return f"{origins[path[:length]]}: {fault.sentence}"
    return fault.sentence


def _named_path(sentence: str) -> KeyPath | None:
    word = re.match(r"[A-Za-z_][\w.]*", sentence)
    return tuple(word.group(0).rstrip(".").split(".")) if word else None


def settings_help() -> Iterator[tuple[tuple[str, ...], Any, str]]:
    """(path, default, help) of every setting that holds a value, in order."""
    defaults = plain(KinfoldConfig())
    for path in all_paths(KinfoldConfig):
        info = field_info(path)
        value: Any = defaults
        for part in path:
            value = value[part]
        if not dataclasses.is_dataclass(info.default_factory):
            yield path, value, str(info.metadata.get("help", ""))


def field_info(path: Sequence[str]) -> dataclasses.Field[Any]:
    """The dataclass field at a settings path such as ("train", "lora", "rank")."""
    value: Any = KinfoldConfig
    found: dataclasses.Field[Any] | None = None
    for part in path:
        fields = {item.name: item for item in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else {}
        if part not in fields:
            raise ConfigError(f"{dotted(tuple(path))} is not a setting; `kinfold init` lists them.")
        found = fields[part]
        value = found.default_factory if isinstance(found.default_factory, type) else None
    if found is None:
        raise ConfigError("an empty path names no setting.")
    return found
