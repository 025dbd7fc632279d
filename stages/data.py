"""From records to token ids: one flat store per domain and split, with what each token is paid for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..corpora.record import sort_labels
from ..errors import CorpusError, ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..corpora import Corpora, Domain, Record
    from .model import Base
    from .settings import TrainSettings

__all__ = ["Encoder", "TokenStore", "label_sets", "resolve_task"]

_BATCH = 512


@dataclass(frozen=True)
class TokenStore:
    """Tokenised pieces of one domain's split, in record order.

    Attributes
    ----------
    tokens
        All token ids, shape (n_tokens,).
    pays
        Whether a token is paid for as a target (a prompt's tokens are not), shape (n_tokens,).
    offsets
        Piece i is `tokens[offsets[i]:offsets[i + 1]]`, shape (n_pieces + 1,).
    record
        Number of the record each piece was cut from, shape (n_pieces,).
    labels
        Class of each piece, shape (n_pieces,); None in language modelling.
    truncated
        Records that lost tokens because they are longer than the limit.
    """

    domain: str
    tokens: NDArray[np.int32]
    pays: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    record: NDArray[np.int64]
    labels: NDArray[np.int64] | None = None
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each piece."""
        import numpy as np

        return np.diff(self.offsets)

    @property
    def records(self) -> int:
        """Number of records."""
        return int(self.record[-1]) + 1 if len(self.record) else 0

    def piece(self, index: int) -> NDArray[np.int32]:
        """The token ids of piece `index`."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


@dataclass
class _Builder:
    tokens: list[int]
    pays: list[bool]
    offsets: list[int]
    record: list[int]
    labels: list[int]
    truncated: int = 0
    settled: list[tuple[NDArray[np.int32], NDArray[np.bool_]]] = field(default_factory=list)
    count: int = 0

    def settle(self) -> None:
        """Turn what has gathered into arrays: a token takes 5 bytes there, some 16 in lists."""
        import numpy as np

        self.settled.append((np.asarray(self.tokens, dtype=np.int32), np.asarray(self.pays, dtype=bool)))
        self.tokens, self.pays = [], []

    def add(self, tokens: Sequence[int], pays: Sequence[bool], record: int, label: int | None) -> None:
        self.tokens.extend(tokens)
        self.pays.extend(pays)
        self.count += len(tokens)
        self.offsets.append(self.count)
        self.record.append(record)
        if label is not None:
            self.labels.append(label)


def resolve_task(corpora: Corpora, domains: Sequence[str], wanted: str) -> str:
    """The task the records call for: "classification" where every domain's first record has a label.

    Raises
    ------
    CorpusError
        If some domains are labelled and others are not while the task is "auto", or labels are asked for and missing.
    """
    if wanted == "lm":
        return "lm"
    kinds = {}
    for name in domains:
        first = next(iter(corpora[name].records()), None)
        if first is None:
            raise CorpusError(f"{name}: the corpus holds no usable record; check its files and fields.")
        kinds[name] = first.label is not None
    if wanted == "classification" or any(kinds.values()):
        lacking = sorted(name for name, labelled in kinds.items() if not labelled)
        if lacking and (wanted == "classification" or len(lacking) < len(kinds)):
            raise CorpusError(
                f"{', '.join(lacking)}: no label in the first record; name the label field in the manifest, "
                "or set train.task to lm."
            )
        return "classification"
    return "lm"


def label_sets(corpora: Corpora, domains: Sequence[str], *, shared: bool) -> dict[str, tuple[str, ...]]:
    """The labels of each domain's training records in numeric or else alphabetic order (one union where `shared`).

    Raises
    ------
    CorpusError
        If a domain has a single label, which leaves nothing to learn.
    """
    found: dict[str, set[str]] = {}
    for name in domains:
        found[name] = {record.label for record in corpora[name].records("train") if record.label is not None}
        if not found[name]:
            raise CorpusError(f"{name}: no labelled training record; name the label field in the manifest.")
    if shared:
        union = set().union(*found.values())
        found = dict.fromkeys(domains, union)
    for name, labels in found.items():
        if len(labels) < 2:
            raise CorpusError(
                f"{name}: its training records carry one label only ({min(labels)!r}); add another class."
            )
    return {name: tuple(sort_labels(labels)) for name, labels in found.items()}


class Encoder:
    """Turns records into token stores for one base model.

    A text is followed by the end-of-text token and cut into pieces of at most `max_length` tokens that overlap
    by one, so that every token but a record's first is paid for exactly once. Prompt + completion and chat
    records are never cut: the prompt loses its beginning first, then the completion its end, and the record counts
    as truncated.
    """

    def __init__(self, base: Base, settings: TrainSettings, labels: dict[str, tuple[str, ...]] | None = None) -> None:
        self.base = base
        self.labels = labels
        self.max_length = min(settings.max_length, base.limit or settings.max_length)
        self.train_on_prompt = settings.train_on_prompt
        self.template: str | None = None
        if settings.chat_template is not None:
            path = Path(settings.chat_template)
            try:
                self.template = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                raise ModelError(f"{path}: the chat template cannot be read; check train.chat_template.") from None

    def store(self, domain: Domain, split: str, *, limit: int | None = None, task_free: bool = False) -> TokenStore:
        """Tokenise up to `limit` records of one split; `task_free` reads only their text, as a language model.

        Raises
        ------
        CorpusError
            If the split holds no record, or a label is unknown to the head.
        """
        import numpy as np

        builder = _Builder([], [], [0], [], [])
        labelled = self.base.task == "classification" and not task_free
        # A sample, not the first records: files are often sorted by class or date. It does not depend on the run's
        # seed, so runs of several seeds are compared on the same texts.
        records: Iterable[Record] = domain.records(split) if limit is None else domain.sample(limit, split)
        number = 0
        for batch in _batches(records, _BATCH):
            for record, tokens in zip(batch, self._encode_plain(batch, task_free), strict=True):
                if tokens is None:
                    number += self._structured(record, builder, number)
                elif labelled:
                    number += self._labelled(domain.name, record, tokens, builder, number)
                else:
                    number += self._text(tokens, builder, number)
            builder.settle()
        if number == 0:
            raise CorpusError(
                f"{domain.name}: its {split} split holds no usable record; add records, or give the domain a share "
                f"for that split in the manifest."
            )
        return TokenStore(
            domain=domain.name,
            tokens=np.concatenate([tokens for tokens, _ in builder.settled]),
            pays=np.concatenate([pays for _, pays in builder.settled]),
            offsets=np.asarray(builder.offsets, dtype=np.int64),
            record=np.asarray(builder.record, dtype=np.int64),
            labels=np.asarray(builder.labels, dtype=np.int64) if labelled else None,
            truncated=builder.truncated,
        )

    def _encode_plain(self, batch: list[Record], task_free: bool) -> list[list[int] | None]:
        """Token ids of the records that are plain text, None for the others."""
        plain = [
            i for i, r in enumerate(batch) if task_free or self.base.task != "lm" or r.kind in ("text", "labelled")
        ]
        out: list[list[int] | None] = [None] * len(batch)
        if plain:
            ids = self._ids([batch[i].plain for i in plain], special=True)
            for i, tokens in zip(plain, ids, strict=True):
                out[i] = tokens
        return out

    def _ids(self, texts: list[str], *, special: bool) -> list[list[int]]:
        # verbose=False: the "longer than the model" warning is ours to give, as a count.
        encoded = self.base.tokenizer(
            texts, add_special_tokens=special, return_attention_mask=False, return_token_type_ids=False, verbose=False
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _text(self, tokens: list[int], builder: _Builder, number: int) -> int:
        eos = self.base.eos
        if eos is not None and (not tokens or tokens[-1] != eos) and self.base.kind == "decoder":
            tokens = [*tokens, eos]
        if len(tokens) < 2:
            return 0
        step = self.max_length - 1
        for start in range(0, max(len(tokens) - 1, 1), step):
            piece = tokens[start : start + self.max_length]
            builder.add(piece, [False] + [True] * (len(piece) - 1), number, None)
        return 1

    def _labelled(self, name: str, record: Record, tokens: list[int], builder: _Builder, number: int) -> int:
        labels = (self.labels or {}).get(name, ())
        if record.label not in labels:
            raise CorpusError(
                f"{record.path}:{record.line}: label {record.label!r} is unknown to the head of {name}, which knows "
                f"{', '.join(labels)}; mend the record, or add such records to its train split."
            )
        if not tokens:
            return 0
        if len(tokens) > self.max_length:
            # The last token is the encoder's separator: it stays, the text before it is cut.
            last = tokens[-1:] if self.base.kind == "encoder" else []
            tokens = tokens[: self.max_length - len(last)] + last
            builder.truncated += 1
        builder.add(tokens, [False] + [True] * (len(tokens) - 1), number, labels.index(record.label))
        return 1

    def _structured(self, record: Record, builder: _Builder, number: int) -> int:
        tokens, pays = self._chat(record) if record.kind == "chat" else self._completion(record)
        if self.train_on_prompt:
            pays = [False] + [True] * (len(pays) - 1)
        excess = len(tokens) - self.max_length
        if excess > 0:
            builder.truncated += 1
            first = pays.index(True) if True in pays else len(pays)
            # The prompt's beginning goes first, as long as one token of it stays to predict from.
            cut = min(excess, max(first - 1, 0))
            tokens = tokens[cut:][: self.max_length]
            pays = pays[cut:][: self.max_length]
        if len(tokens) < 2 or not any(pays[1:]):
            return 0
        builder.add(tokens, [False, *pays[1:]], number, None)
        return 1

    def _completion(self, record: Record) -> tuple[list[int], list[bool]]:
        prompt, completion = record.prompt or "", record.completion or ""
        if self.template is not None or (self.base.tokenizer.chat_template and not prompt.endswith((" ", "\n"))):
            from ..corpora.record import Message

            messages = (Message("user", prompt), Message("assistant", completion))
            return self._turns([{"role": m.role, "content": m.content} for m in messages])
        if prompt and not prompt[-1].isspace() and completion and not completion[0].isspace():
            prompt += "\n"
        head = self._ids([prompt], special=True)[0]
        tail = self._ids([completion], special=False)[0]
        if self.base.eos is not None:
            if head and head[-1] == self.base.eos:
                head = head[:-1]
            tail = [*tail, self.base.eos]
        return head + tail, [False] * len(head) + [True] * len(tail)

    def _chat(self, record: Record) -> tuple[list[int], list[bool]]:
        return self._turns([{"role": m.role, "content": m.content} for m in record.messages or ()])

    def prompt_text(self, record: Record) -> str:
        """What the model is shown of a prompt + completion or chat record before it answers."""
        if record.kind == "chat":
            messages = [{"role": m.role, "content": m.content} for m in record.messages or ()]
            while messages and messages[-1]["role"] == "assistant":
                messages.pop()
            return self._render(messages, generate=True)
        prompt = record.prompt or ""
        if self.template is not None or (self.base.tokenizer.chat_template and not prompt.endswith((" ", "\n"))):
            return self._render([{"role": "user", "content": prompt}], generate=True)
        return prompt if prompt[-1:].isspace() else prompt + "\n"

    def _render(self, messages: list[dict[str, str]], *, generate: bool) -> str:
        tokenizer = self.base.tokenizer
        if self.template is None and not tokenizer.chat_template:
            raise ModelError(
                f"{self.base.name}: the tokenizer has no chat template, but a corpus holds chats; give "
                "train.chat_template."
            )
        try:
            text: str = tokenizer.apply_chat_template(
                messages, chat_template=self.template, tokenize=False, add_generation_prompt=generate
            )
        except Exception as fault:  # a template is a program: it may raise anything
            raise ModelError(
                f"{self.base.name}: the chat template refuses a conversation ({fault}); mend either."
            ) from fault
        return text

    def _turns(self, messages: list[dict[str, str]]) -> tuple[list[int], list[bool]]:
        """Tokens of a rendered conversation; only what the assistant says is paid for.

        The spans come from rendering the conversation up to each of its turns, so they work with any template that
        writes turns one after the other; where a template rewrites earlier turns, only the last
        assistant turn is paid for.
        """
        text = self._render(messages, generate=False)
        spans: list[tuple[int, int]] = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:index], generate=True) if index else ""
            until = self._render(messages[: index + 1], generate=False)
            if text.startswith(before) and text.startswith(until):
                spans.append((len(before), len(until)))
            elif index == len(messages) - 1:
                spans = [(max(text.rfind(message["content"]), 0), len(text))]
        tokens: list[int]
        if getattr(self.base.tokenizer, "is_fast", False):
            encoded = self.base.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            tokens = encoded["input_ids"]
            # A token that begins with the template's last space and goes on into the answer is part of the answer.
            pays = [any(a < end and start < b for a, b in spans) for start, end in encoded["offset_mapping"]]
            return tokens, pays
        tokens, pays, position = [], [], 0
        for start, end in [*spans, (len(text), len(text))]:
            for piece, paid in ((text[position:start], False), (text[start:end], True)):
                ids = self._ids([piece], special=False)[0] if piece else []
                tokens += ids
                pays += [paid] * len(ids)
            position = end
        return tokens, pays


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
