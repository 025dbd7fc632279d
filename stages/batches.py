"""Which documents a step sees, and how they become tensors: a pure function of (seed, stage, step).

Nothing here remembers where it is. A resumed run asks for step n and gets what the first run got; a second rank asks
for the same step and takes its own micro-batches of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from .._seeding import generator
from ..errors import ConfigError

if TYPE_CHECKING:
    from .data import TokenStore
    from .settings import TrainSettings

__all__ = ["GENERAL", "SSL", "TASK", "Item", "Schedule", "sampling_shares"]

Kind = Literal[0, 1, 2]
TASK: Kind = 0
SSL: Kind = 1
GENERAL: Kind = 2
_WINDOW = 32  # steps among which documents are sorted by length where rows are padded


@dataclass(frozen=True, slots=True, eq=False)
class Item:
    """One document of a step.

    Attributes
    ----------
    domain
        Index of the stage's domain whose adapter it is routed to.
    kind
        TASK, SSL or GENERAL.
    store
        Where its tokens are.
    piece
        Which piece of the store.
    """

    domain: int
    kind: Kind
    store: TokenStore
    piece: int

    @property
    def length(self) -> int:
        """Tokens."""
        return int(self.store.offsets[self.piece + 1] - self.store.offsets[self.piece])


def sampling_shares(
    tokens: Sequence[int], settings: TrainSettings, weights: Sequence[float] | None = None
) -> list[float]:
    """Share of each domain in a batch; sums to 1.

    Parameters
    ----------
    tokens
        Training tokens of each domain.
    settings
        `sampling`, `temperature` and `alpha`: uniform 1/k, proportional n, temperature n^(1/T), alpha n^α.
    weights
        The user's factor for each domain.
    """
    power = {
        "uniform": 0.0,
        "proportional": 1.0,
        "temperature": 1.0 / settings.temperature,
        "alpha": settings.alpha,
    }[settings.sampling]
    raw = [float(n) ** power * (1.0 if weights is None else weights[i]) for i, n in enumerate(tokens)]
    total = math.fsum(raw)
    return [value / total for value in raw]


def _stream(
    store: TokenStore, quota: float, steps: int, *names: str | int, seed: int, window: int | None
) -> list[NDArray[np.int64]]:
    """Pieces of `store` for each step, about `quota` tokens a step: whole passes in ever new orders.

    A document belongs to the step in which its first token falls, so quotas hold on average and none is ever cut.
    Where `quota` times `steps` is a whole number of passes, every document is seen just that often.
    With `window`, documents of that many steps are sorted by length and dealt out again, and the steps are shuffled.
    """
    lengths = store.lengths
    total = int(lengths.sum())
    passes = max(1, math.ceil(quota * steps / total) + 1)
    order = np.concatenate(
        [generator(seed, "order", *names, number).permutation(len(lengths)) for number in range(passes)]
    )
    begins = np.cumsum(lengths[order]) - lengths[order]
    # Rounding must not let the first document of a further pass slip in.
    keep = begins < quota * steps - 1e-6
    order = order[keep]
    step_of = np.minimum((begins[keep] / quota).astype(np.int64), steps - 1)
    if window is None:
        cuts = np.searchsorted(step_of, np.arange(1, steps))
        return np.split(order, cuts)
    result: list[NDArray[np.int64]] = []
    for start in range(0, steps, window):
        width = min(window, steps - start)
        inside = order[(step_of >= start) & (step_of < start + width)]
        inside = inside[np.argsort(lengths[inside], kind="stable")]
        before = np.cumsum(lengths[inside]) - lengths[inside]
        share = max(float(lengths[inside].sum()) / width, 1.0)
        slot = np.minimum((before / share).astype(np.int64), width - 1)
        # One shuffle for all stores of the window, so that a step's domains stay of like length.
        shuffle = generator(seed, "window", names[0], start).permutation(width)
        dealt = [inside[slot == place] for place in range(width)]
        result.extend(dealt[place] for place in shuffle)
    return result


Part = tuple[int | None, Kind, "TokenStore", list[NDArray[np.int64]]]


def _sizes(store: TokenStore, pieces: NDArray[np.int64]) -> int:
    return int((store.offsets[pieces + 1] - store.offsets[pieces]).sum())


def _without_empty(steps: int, parts: list[Part]) -> tuple[int, tuple[Part, ...]]:
    """Leave out the steps that no domain document falls into (documents longer than a whole batch)."""
    kept = [n for n in range(steps) if any(kind == TASK and len(pieces[n]) for _, kind, _, pieces in parts)]
    if len(kept) == steps:
        return steps, tuple(parts)
    return len(kept), tuple((domain, kind, store, [pieces[n] for n in kept]) for domain, kind, store, pieces in parts)


@dataclass(frozen=True)
class Schedule:
    """All steps of one stage.

    Attributes
    ----------
    domains
        The stage's domains, in the bank's order.
    steps
        Optimiser steps.
    parts
        Per stream: (domain or None for all, kind, store, pieces per step).
    shares
        Share of each domain in a batch.
    micro
        Micro-batches a step is cut into: accumulation times ranks.
    """

    domains: tuple[str, ...]
    steps: int
    parts: tuple[Part, ...]
    shares: tuple[float, ...]
    micro: int

    @classmethod
    def make(
        cls,
        stage: int,
        stores: Mapping[str, TokenStore],
        settings: TrainSettings,
        *,
        seed: int,
        unlabelled: Sequence[TokenStore] = (),
        general: Sequence[TokenStore] = (),
        ranks: int = 1,
        window: bool = False,
        weights: Mapping[str, float] | None = None,
    ) -> Schedule:
        """Lay out the steps of stage number `stage` over `stores` (domain → training tokens).

        Raises
        ------
        ConfigError
            If the batch is too small to hold each domain.
        """
        domains = tuple(stores)
        tokens = [int(stores[name].lengths.sum()) for name in domains]
        shares = sampling_shares(tokens, settings, [weights[name] for name in domains] if weights else None)
        wanted = settings.tokens_per_stage
        wanted = wanted if wanted is not None else math.ceil(sum(tokens) * settings.epochs)
        steps = max(1, math.ceil(wanted / settings.batch_tokens))
        # Steps of equal size that add up to what was asked: a full last step would give a stage text beyond its share.
        batch = wanted / steps
        if settings.max_steps is not None:
            steps = min(steps, settings.max_steps)
        micro = settings.accumulation * ranks
        parts: list[Part] = []
        span = _WINDOW if window else None
        for index, name in enumerate(domains):
            quota = batch * shares[index]
            if settings.batch_tokens * shares[index] < 1:
                raise ConfigError(
                    f"train.batch_tokens={settings.batch_tokens}: leaves {name} less than a token per step; "
                    "raise it, or choose train.sampling uniform."
                )
            store = stores[name]
            parts.append((index, TASK, store, _stream(store, quota, steps, stage, name, seed=seed, window=span)))
            if settings.ssl_weight > 0:
                own = quota * settings.ssl_share * (0.5 if unlabelled else 1.0)
                pieces = _stream(store, own, steps, stage, name, "ssl", seed=seed, window=span)
                parts.append((index, SSL, store, pieces))
        extra: list[tuple[Kind, Sequence[TokenStore], float]] = []
        if settings.ssl_weight > 0:
            extra.append((SSL, unlabelled, batch * settings.ssl_share * 0.5))
        if settings.kl_weight > 0:
            extra.append((GENERAL, general, batch * settings.kl_share))
        for kind, sources, quota in extra:
            for store in sources:
                pieces = _stream(store, quota / len(sources), steps, stage, store.domain, kind, seed=seed, window=span)
                parts.append((None, kind, store, pieces))
        return cls(domains, *_without_empty(steps, parts), tuple(shares), micro)

    def step(self, number: int, stopped: frozenset[str] = frozenset()) -> list[list[Item]]:
        """The micro-batches of step `number`, each sorted by domain and kind; domains in `stopped` are left out.

        Documents that belong to no domain (general and unlabelled text) go round the domains that still train, so
        each adapter meets them.
        """
        active = [i for i, name in enumerate(self.domains) if name not in stopped]
        bins: list[list[Item]] = [[] for _ in range(self.micro)]
        loads = [0] * self.micro
        for place, (domain, kind, store, pieces) in enumerate(self.parts):
            if domain is not None and domain not in active:
                continue
            for offset, piece in enumerate(pieces[number].tolist()):
                owner = domain if domain is not None else active[(number + place + offset) % len(active)]
                item = Item(owner, kind, store, piece)
                lightest = loads.index(min(loads))
                bins[lightest].append(item)
                loads[lightest] += item.length
        for items in bins:
            items.sort(key=lambda item: (item.domain, item.kind))
        return bins

    def tokens(self, number: int) -> int:
        """Domain tokens of step `number`."""
        return sum(_sizes(store, pieces[number]) for _, kind, store, pieces in self.parts if kind == TASK)

    @property
    def total_tokens(self) -> int:
        """Domain tokens of the whole stage."""
        return sum(self.tokens(number) for number in range(self.steps))
