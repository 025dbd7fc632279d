"""Collect every domain's sample: from the cache, over processes, over ranks; the same numbers to the last bit."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._files import atomic_path, digest
from .._progress import SILENT, Progress
from ..errors import CorpusError
from . import sampling
from .counting import TokenCounter
from .ranks import exchange, one_for_all, place, together
from .sampling import DomainSample, Share
from .tokenizing import fingerprint, load_tokenizer, train_tokenizer

if TYPE_CHECKING:
    from ..corpora import Corpora, Domain
    from .settings import MeasureSettings

__all__ = ["Collection", "collect"]

_log = logging.getLogger("kinfold.metrics")
_FORMAT = 1
# Text per domain for the tokenizer that is trained when none is given, in characters.
_TRAINING_TEXT = 300_000


class Collection:
    """The samples of all measured domains, and the identity of the tokenizer that counted them."""

    def __init__(self, samples: Sequence[DomainSample], tokenizer: str, size: int, fast: bool) -> None:
        self.samples = tuple(samples)
        self.tokenizer = tokenizer
        self.size = size
        self.fast = fast


def _kept(settings: MeasureSettings) -> int:
    return max(settings.samples, settings.affinity_documents, settings.probe_documents)


def _window(settings: MeasureSettings) -> int:
    """Characters kept of a very long sampled document: enough for every window an embedder may take."""
    return max(4096, settings.max_windows * settings.max_length * 8)


def collect(
    corpora: Corpora,
    settings: MeasureSettings,
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    seed: int = 0,
    cache: Path | None = None,
    progress: Progress = SILENT,
) -> Collection:
    """One sample a planned domain, in the order of `corpora.planned`."""
    domains = list(corpora.planned)
    made = _tokenizer(domains, settings, tokenizer, seed, progress)
    mark = fingerprint(made)
    counter = TokenCounter(made)
    prints = together(lambda: corpora.fingerprints)
    keys = [
        digest(
            [
                _FORMAT,
                prints[domain.name],
                settings.split,
                mark,
                seed,
                settings.max_tokens,
                _kept(settings),
                _window(settings),
                domain.limit,
            ]
        )
        for domain in domains
    ]
    _same_data(domains, keys)
    files = [None if cache is None else Path(cache) / "tokens" / f"{key}.npz" for key in keys]
    held = [None if file is None else _read(file, domain.name) for file, domain in zip(files, domains, strict=True)]
    # Ranks may see different caches. A domain is taken from them only where every rank has it; else all count it.
    complete = np.all(exchange([sample is not None for sample in held]), axis=0)
    out: list[DomainSample] = []
    with progress.task("counting tokens", total=len(domains), unit="domains") as task:
        for index, domain in enumerate(domains):
            sample = held[index]
            if sample is None or not complete[index]:
                fresh = sampling.finish(
                    domain.name,
                    _count(domain, counter, made, settings, seed),
                    counter,
                    max_tokens=settings.max_tokens,
                    samples=_kept(settings),
                    window=_window(settings),
                )
                file = files[index]
                if file is not None and sample is None:
                    _write(file, fresh)
                sample = fresh
            out.append(sample)
            task.advance()
    return Collection(out, mark, counter.size, counter.fast)


def _tokenizer(
    domains: Sequence[Domain],
    settings: MeasureSettings,
    source: str | os.PathLike[str] | None,
    seed: int,
    progress: Progress,
) -> Any:
    """The tokenizer named, or one of the corpora's own; under several ranks that of rank 0, as JSON."""

    def make() -> Any:
        return _own_tokenizer(domains, settings, seed, progress) if source is None else load_tokenizer(source)

    if place()[1] == 1:
        return make()
    from tokenizers import Tokenizer

    return Tokenizer.from_str(one_for_all(lambda: make().to_str()))


def _same_data(domains: Sequence[Domain], keys: Sequence[str]) -> None:
    """Every rank must read the same files with the same settings, or their shares do not make a whole."""
    for rank, others in enumerate(exchange(list(keys))):
        for domain, mine, theirs in zip(domains, keys, others, strict=False):
            if mine != theirs or len(keys) != len(others):
                raise CorpusError(
                    f"domain {domain.name!r} is not the same on every process of this run (rank {rank} reads other "
                    "data or settings); give all processes the same files and command."
                )


# ------------------------------------------------------------------ one domain
def _pairs(domain: Domain, split: str, part: int = 0, parts: int = 1) -> Iterator[tuple[str, str | None]]:
    for number, record in enumerate(domain.records(split)):
        if number % parts == part:
            yield record.plain, record.label


def _share(domain: Domain, counter: TokenCounter, settings: MeasureSettings, seed: int, part: int, parts: int) -> Share:
    return sampling.count_stream(
        _pairs(domain, settings.split, part, parts),
        counter,
        seed=seed,
        max_tokens=settings.max_tokens,
        samples=_kept(settings),
        alone=parts == 1,
    )


def _share_in_process(state: str, domain: Domain, settings: MeasureSettings, seed: int, part: int, parts: int) -> Share:
    """The work of one process; the tokenizer travels as JSON."""
    from tokenizers import Tokenizer

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return _share(domain, TokenCounter(Tokenizer.from_str(state)), settings, seed, part, parts)


def _count(domain: Domain, counter: TokenCounter, tokenizer: Any, settings: MeasureSettings, seed: int) -> Share:
    rank, ranks = place()
    workers = settings.num_proc

    def work() -> Share:
        if workers == 1:
            return _share(domain, counter, settings, seed, rank, ranks)
        from joblib import Parallel, delayed  # type: ignore[import-untyped]

        state = tokenizer.to_str()
        shares = Parallel(n_jobs=workers)(
            delayed(_share_in_process)(state, domain, settings, seed, rank * workers + part, ranks * workers)
            for part in range(workers)
        )
        share: Share = shares[0]
        for other in shares[1:]:
            share.merge(other)
        return share

    return work() if ranks == 1 else _reduce(together(work))


def _reduce(share: Share) -> Share:
    """Sum counts over ranks and merge sketches: integers and sets, so every rank gets the same, bit for bit."""
    import torch
    import torch.distributed as dist

    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    facts = np.array([share.documents, share.characters, share.long], np.int64)
    tensor = torch.from_numpy(np.concatenate([share.counts, facts])).to(device)
    dist.all_reduce(tensor)
    total = tensor.cpu().numpy()
    sketches = exchange(share.sketch)
    merged = sketches[0]
    for other in sketches[1:]:
        merged.merge(other)
    documents, characters, long = (int(number) for number in total[-3:])
    return Share(total[:-3], documents, characters, long, merged)


# ------------------------------------------------------------------ the tokenizer of the corpora themselves
def _own_tokenizer(domains: Sequence[Domain], settings: MeasureSettings, seed: int, progress: Progress) -> Any:
    """Train on an equal, order-free sample of each domain."""
    texts: list[str] = []
    with progress.task("training a tokenizer", total=len(domains), unit="domains") as task:
        for domain in domains:
            sketch = sampling.Sketch(seed, _TRAINING_TEXT, 1)
            for text, _ in _pairs(domain, settings.split):
                if text and not text.isspace():
                    for part in sampling.segments(sampling.clean(text), 65_536):
                        sketch.add(part)
            texts += [text for text, _, _ in sketch.sorted()]
            task.advance()
    return train_tokenizer(texts, settings.vocabulary)


# ------------------------------------------------------------------ the cache
def _read(file: Path, name: str) -> DomainSample | None:
    """A cached sample; a damaged file is as good as none."""
    if not file.is_file():
        return None
    try:
        with np.load(file, allow_pickle=False) as data:
            return sampling.unpack(name, {key: data[key] for key in data.files})
    except Exception as fault:  # zip, numpy and decoding errors alike: count again
        _log.warning("%s: damaged cache entry (%s); counting again", file, fault)
        return None


def _write(file: Path, sample: DomainSample) -> None:
    """Written aside and renamed: of two runs at once both write the same bytes and neither reads half of them."""
    buffer = io.BytesIO()
    np.savez(buffer, **sampling.pack(sample))  # type: ignore[arg-type]
    try:
        with atomic_path(file) as temporary:
            temporary.write_bytes(buffer.getvalue())
    except OSError as fault:
        _log.warning("%s: cache not written (%s)", file, fault)
