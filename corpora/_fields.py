"""From a row to the parts of a record: the user's field names, or names that most data sets use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ..errors import CorpusError
from .record import SPLITS, Message, named_split

__all__ = ["BadRow", "Extractor", "Fields", "Parts"]

_MESSAGES = ("messages", "conversations", "conversation", "chat")
_PROMPTS = ("prompt", "instruction", "question", "query", "input", "source")
_COMPLETIONS = ("completion", "response", "output", "answer", "target")
_TEXTS = (
    "text",
    "content",
    "body",
    "document",
    "sentence",
    "passage",
    "article",
    "review",
    "abstract",
    "story",
    "code",
)
_LABELS = ("label", "labels", "class")
_SPLITS = ("split",)
# What belongs to a prompt when it stands beside it, and whether it goes before it.
_COMPANIONS = {
    "instruction": (("input", False), ("context", False)),
    "question": (("context", True), ("passage", True)),
}
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "chatgpt": "assistant", "model": "assistant"}
_KNOWN = frozenset((*_MESSAGES, *_PROMPTS, *_COMPLETIONS, *_TEXTS, *_LABELS, *_SPLITS)).union(
    name for pairs in _COMPANIONS.values() for name, _ in pairs
)


class BadRow(Exception):
    """Why a row is no record, and the remedy, without the place."""


class Parts(NamedTuple):
    """What a row holds; `split` is None where it names none."""

    text: str | None
    prompt: str | None
    completion: str | None
    messages: tuple[Message, ...] | None
    label: str | None
    split: str | None


@dataclass(frozen=True)
class Fields:
    """Which fields of a row hold what; None leaves it to the names that most data sets use.

    A tuple of several names joins their values with blank lines (`text`, `prompt` and `completion` only). A dot goes
    into nested objects (`meta.body`) where the row has no field of that whole name.
    """

    text: tuple[str, ...] | None = None
    prompt: tuple[str, ...] | None = None
    completion: tuple[str, ...] | None = None
    messages: tuple[str, ...] | None = None
    label: tuple[str, ...] | None = None
    split: tuple[str, ...] | None = None

    @classmethod
    def of(cls, given: Mapping[str, object], where: str) -> Fields:
        """Check names as a manifest gives them: a string, or for joined parts a list of strings.

        Raises
        ------
        CorpusError
            When a name is none, or when parts are named that exclude each other; `where` names the place.
        """
        checked: dict[str, tuple[str, ...] | None] = {}
        for field in fields(cls):
            value = given.get(field.name)
            if value is None:
                continue
            names = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, tuple)) else [None]
            if not names or not all(isinstance(name, str) and name for name in names):
                raise CorpusError(f"{where}.{field.name}={value!r} is not a field name; give the name as text.")
            if len(names) > 1 and field.name not in ("text", "prompt", "completion"):
                raise CorpusError(f"{where}.{field.name} names {len(names)} fields; name one.")
            checked[field.name] = tuple(str(name) for name in names)
        kinds: list[str] = [name for name in ("text", "messages") if name in checked]
        if "prompt" in checked or "completion" in checked:
            kinds.append("prompt and completion")
        if len(kinds) > 1:
            raise CorpusError(
                f"{where}: names {kinds[0]} and {kinds[1]} at once; a record is one of them, so keep one."
            )
        return cls(**checked)

    def to_dict(self) -> dict[str, list[str]]:
        """The names that were given, for fingerprints and JSON."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: list(value) for name, value in given.items() if value is not None}


class _Layout(NamedTuple):
    """What of one set of field names is looked at, in this order."""

    messages: str | None
    prompt: tuple[str, ...]
    companions: tuple[tuple[str, bool], ...]
    completion: tuple[str, ...]
    text: tuple[str, ...]
    label: str | None
    split: str | None


class Extractor:
    """Turns rows into :class:`Parts`; remembers the layout of each set of field names it has met.

    Parameters
    ----------
    given
        Field names the user gave.
    labels
        Whether labels are read; they are not where a domain is unlabelled or general.
    """

    def __init__(self, given: Fields, *, labels: bool = True) -> None:
        self._given = given
        self._labels = labels
        self._layouts: dict[tuple[str, ...], _Layout] = {}
        named = [name for field in fields(given) for name in getattr(given, field.name) or ()]
        self._wanted = _KNOWN | set(named) | {name.partition(".")[0] for name in named}

    def columns(self, names: Sequence[str]) -> list[str]:
        """Those of `names` that can matter; all where no content is among them, so that messages name what is there."""
        given = self._given
        asked = [part for part in (given.text, given.messages, given.prompt, given.completion) if part]
        needed = [{*part, *(name.partition(".")[0] for name in part)} for part in asked]
        if not needed:
            needed = [{*_TEXTS, *_MESSAGES, *_COMPLETIONS}]
        if not all(part.intersection(names) for part in needed):
            return list(names)
        return [name for name in names if name in self._wanted]

    def __call__(self, row: dict[str, Any]) -> Parts:
        """The parts of `row`.

        Raises
        ------
        BadRow
            When the row holds no record.
        """
        names = tuple(row)
        layout = self._layouts.get(names)
        if layout is None:
            layout = self._layout(row)
            if len(self._layouts) < 4096:  # rows with random keys must not fill the memory
                self._layouts[names] = layout
        split = _split(row, layout.split) if layout.split else None
        label = _label(row, layout.label) if layout.label else None
        given = self._given
        if layout.messages and (given.messages or isinstance(row.get(layout.messages), (list, tuple))):
            return Parts(None, None, None, _messages(_cell(row, layout.messages), layout.messages), label, split)
        mapped = given.prompt or given.completion
        if layout.prompt and (mapped or not layout.text or _texts(row, (*layout.prompt, *layout.completion))):
            prompt, completion = _joined(row, layout.prompt, empty=True), _joined(row, layout.completion)
            for name, before in layout.companions:
                extra = row.get(name)
                if isinstance(extra, str) and extra.strip():
                    prompt = f"{_sound(extra, name)}\n\n{prompt}" if before else f"{prompt}\n\n{_sound(extra, name)}"
            return Parts(None, prompt, completion, None, label, split)
        if layout.text:
            return Parts(_joined(row, layout.text), None, None, None, label, split)
        raise BadRow(self._nothing(row))

    def _layout(self, row: dict[str, Any]) -> _Layout:
        given = self._given
        auto = not (given.text or given.messages or given.prompt or given.completion)
        messages = given.messages[0] if given.messages else _first(row, _MESSAGES) if auto else None
        prompt, completion = given.prompt or (), given.completion or ()
        companions: tuple[tuple[str, bool], ...] = ()
        if auto or prompt or completion:
            found = prompt[0] if prompt else _first(row, _PROMPTS, but=completion)
            answer = completion[0] if completion else _first(row, _COMPLETIONS, but=prompt)
            if found and answer:
                if not prompt:
                    prompt = (found,)
                    companions = tuple(
                        pair for pair in _COMPANIONS.get(found, ()) if pair[0] in row and pair[0] != answer
                    )
                completion = completion or (answer,)
            elif not auto:
                raise BadRow(self._nothing(row, "completion" if prompt else "prompt"))
        text = given.text or ()
        if auto and not text:
            first = _first(row, _TEXTS)
            text = (first,) if first else ()
        label = None
        if self._labels:
            label = given.label[0] if given.label else _first(row, _LABELS)
        split = given.split[0] if given.split else _first(row, _SPLITS)
        return _Layout(messages, prompt, companions, completion, text, label, split)

    def _nothing(self, row: dict[str, Any], part: str = "text") -> str:
        """Why nothing was found: the fields seen, and the likeliest one by length."""
        if not row:
            return "the record has no fields; give it a text"
        strings = {name: len(value) for name, value in row.items() if isinstance(value, str)}
        guess = max(strings, key=lambda name: strings[name]) if strings else None
        remedy = f"name it in a manifest, for example `{part}: {guess}`" if guess else "name it in a manifest"
        return f"no {part} among the fields {_shown(row)}; {remedy}"


def _shown(row: Mapping[str, Any]) -> str:
    names = [repr(name if len(name) <= 40 else name[:37] + "...") for name in row]
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _first(row: Mapping[str, Any], names: tuple[str, ...], but: tuple[str, ...] = ()) -> str | None:
    return next((name for name in names if name in row and name not in but), None)


def _texts(row: Mapping[str, Any], names: tuple[str, ...]) -> bool:
    return all(isinstance(row.get(name), str) for name in names)


def _cell(row: Mapping[str, Any], name: str) -> Any:
    """The value of field `name`, by its whole name or by its path."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise BadRow(f"no field {name!r} among {_shown(row)}; correct the name in the manifest or the record")
        value = value[part]
    return value


def _sound(text: str, name: str) -> str:
    """Refuse half of a surrogate pair: JSON can spell it, but no tokenizer takes it."""
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise BadRow(f"{name!r} holds half of a surrogate pair; write the character whole") from None
    return text


def _joined(row: Mapping[str, Any], names: tuple[str, ...], *, empty: bool = False) -> str:
    parts = []
    for name in names:
        value = _cell(row, name)
        if isinstance(value, str):
            parts.append(_sound(value, name))
        elif value is None:
            parts.append("")
        else:
            raise BadRow(f"{name!r} is {_article(value)}, not text; name a field that holds text")
    text = parts[0] if len(parts) == 1 else "\n\n".join(part for part in parts if part.strip())
    if not empty and (not text or text.isspace()):
        raise BadRow(f"{names[0]!r} is empty; fill it or remove the record")
    return text


def _article(value: object) -> str:
    names = {bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), f"of type {type(value).__name__}")


def _label(row: Mapping[str, Any], name: str) -> str | None:
    value = _cell(row, name)
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, str):
        return _sound(value.strip(), name) or None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    raise BadRow(f"{name!r} is {_article(value)}, not a class; give a whole number or text")


def _split(row: Mapping[str, Any], name: str) -> str | None:
    value = _cell(row, name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    split = named_split(value) if isinstance(value, str) else None
    if split is None:
        shown = repr(value)
        shown = shown if len(shown) <= 40 else shown[:37] + "..."
        raise BadRow(f"{name!r} is {shown}; use one of {', '.join(SPLITS)}")
    return split


def _messages(value: Any, name: str) -> tuple[Message, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise BadRow(f"{name!r} is not a list of messages; write [{{role, content}}, ...]")
    messages = []
    for number, item in enumerate(value, start=1):
        if not isinstance(item, Mapping):
            raise BadRow(f"message {number} of {name!r} is not an object; write {{role, content}}")
        role = item.get("role", item.get("from"))
        content = item.get("content", item.get("value"))
        if isinstance(content, (list, tuple)):
            content = _content_parts(content, number)
        if not isinstance(role, str) or not role.strip():
            raise BadRow(f"message {number} of {name!r} has no role; write {{role, content}}")
        if not isinstance(content, str):
            raise BadRow(f"message {number} of {name!r} has no text content; write {{role, content}}")
        role = role.strip()
        messages.append(Message(_ROLES.get(role.casefold(), role), _sound(content, name)))
    if not any(message.content.strip() for message in messages):
        raise BadRow(f"all messages of {name!r} are empty; fill them or remove the record")
    return tuple(messages)


def _content_parts(parts: Any, number: int) -> str:
    """Content in typed parts: the text of all of them; anything else is refused."""
    texts = []
    for part in parts:
        if isinstance(part, Mapping) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        else:
            raise BadRow(f"message {number} holds a part that is not text; keep text parts only")
    return "\n".join(texts)
