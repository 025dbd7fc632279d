"""Which rows of a batch belong to which domain, and how that survives until the backward pass.

Gradient checkpointing runs a layer's forward again during the backward pass, when another routing may be in force
(another loss term, another micro-batch, none at all). PEFT's loop is silently wrong there. Here each checkpointed call
takes its routing with it; a recompute that cannot know its routing raises instead of guessing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..errors import ModelError

__all__ = ["CheckpointGuard", "Routing", "RoutingState"]


@dataclass(frozen=True)
class Routing:
    """One way to run the model.

    Attributes
    ----------
    rows
        Rows of dim 0 of each domain; empty when all rows are served alike.
    tokens
        Whether `rows` counts tokens of the flattened batch (all dimensions but the last) instead.
    domain
        The domain that serves all rows, or None for no domain adapter (with empty `rows`).
    shared
        Number of stages whose shared factors are active, oldest first; the bank's own is the last. None for all.
    adapters
        False runs the base model alone.
    present
        Indices of the domains with rows.
    carriers
        Empty tensors whose lengths are the token counts of those: torch.compile takes a tensor's length as a variable,
        a number in a tuple as a constant, and token counts differ from step to step.
    """

    rows: tuple[int, ...] = ()
    tokens: bool = False
    domain: int | None = None
    shared: int | None = None
    adapters: bool = True
    present: tuple[int, ...] = field(init=False, compare=False)
    carriers: tuple[torch.Tensor, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        present = tuple(index for index, count in enumerate(self.rows) if count)
        object.__setattr__(self, "present", present)
        carriers = tuple(torch.empty(self.rows[i], 0) for i in present) if self.tokens else ()
        object.__setattr__(self, "carriers", carriers)


class RoutingState:
    """The routing in force, seen by every layer of one bank."""

    def __init__(self) -> None:
        self.active: Routing | None = None
        self._recorded: list[Routing] = []
        self._stale = False

    @contextmanager
    def using(self, routing: Routing, *, record: bool = True) -> Iterator[None]:
        """Put `routing` in force; on exit it stays on record for a recompute in the backward pass."""
        # Only what a backward pass may recompute, and no more than two: two are as ambiguous as a hundred.
        if record and torch.is_grad_enabled():
            if self._stale:
                self._recorded.clear()
                self._stale = False
            if routing not in self._recorded:
                self._recorded = [*self._recorded[-1:], routing]
        before, self.active = self.active, routing
        try:
            yield
        finally:
            self.active = before

    def recall(self) -> Routing:
        """The routing of a call made outside of any context: allowed in a backward pass, if there was but one."""
        if torch._C._current_graph_task_id() == -1:
            raise ModelError(
                "an adapted layer ran outside of bank.route(...), bank.serve(...) and bank.disabled(); "
                "wrap the model's call in one of them."
            )
        self._stale = True
        if len(self._recorded) != 1:
            raise ModelError(
                f"a checkpointed layer is recomputed after {len(self._recorded) or 'no'} different routings, so "
                "its own is unknown; checkpoint through the model's gradient_checkpointing_enable() before "
                "entering bank.route(...), or call backward after each forward."
            )
        return self._recorded[0]


class _RoutedCheckpoint:
    """A checkpoint function that takes the routing of the call along into its recompute."""

    def __init__(self, inner: Callable[..., Any], state: RoutingState) -> None:
        self.inner = inner
        self.state = state

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        routing = self.state.active
        if routing is None:
            return self.inner(function, *args, **kwargs)
        state = self.state

        def routed(*inputs: Any, **options: Any) -> Any:
            with state.using(routing, record=False):
                return function(*inputs, **options)

        return self.inner(routed, *args, **kwargs)


class CheckpointGuard:
    """Finds the checkpointing layers of a transformers model and makes their recompute safe.

    ``gradient_checkpointing_enable`` stores its function on each such layer as ``_gradient_checkpointing_func``, before
    or after the bank was attached; so the guard looks again whenever a routing is entered.
    """

    _NAME = "_gradient_checkpointing_func"

    def __init__(self, model: nn.Module, state: RoutingState) -> None:
        self._modules = [module for module in model.modules() if hasattr(module, "gradient_checkpointing")]
        self._state = state

    def secure(self) -> None:
        """Wrap the functions that are not wrapped yet."""
        for module in self._modules:
            inner = getattr(module, self._NAME, None)
            if inner is not None and not isinstance(inner, _RoutedCheckpoint):
                setattr(module, self._NAME, _RoutedCheckpoint(inner, self._state))

    def release(self) -> None:
        """Put the original functions back."""
        for module in self._modules:
            inner = getattr(module, self._NAME, None)
            if isinstance(inner, _RoutedCheckpoint):
                setattr(module, self._NAME, inner.inner)
