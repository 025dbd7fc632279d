"""Classification heads: one per domain or one for all, applied to their own rows."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .._seeding import derive_seed
from ..errors import ModelError
from .model import Base

__all__ = ["Heads"]

SHARED = "shared"


class _Routed(nn.Module):
    """Stands in for one module of the head and runs each domain's own copy on that domain's rows (dim 0)."""

    def __init__(self, copies: nn.ModuleList, state: Heads) -> None:
        super().__init__()
        self.copies = copies
        # Not a submodule: it would own this module in turn.
        object.__setattr__(self, "state", state)

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        rows: tuple[int, ...] = self.state.rows  # type: ignore[union-attr, assignment]
        x = x.float()  # heads train in fp32 whatever the base runs in
        if len(self.copies) == 1:
            only: Tensor = self.copies[0](x, *args, **kwargs)
            return only
        parts = [
            copied(part, *args, **kwargs)
            for copied, part in zip(self.copies, torch.split(x, list(rows)), strict=True)
            if part.shape[0]
        ]
        width = max(part.shape[-1] for part in parts)
        # Domains may know different numbers of classes; the places beyond are never looked at.
        return torch.cat([nn.functional.pad(part, (0, width - part.shape[-1])) for part in parts])


class Heads:
    """All trainable modules above the backbone, copied for each domain.

    Parameters
    ----------
    base
        A model for sequence classification; its head is replaced in place until :meth:`detach`.
    labels
        Domain → its labels; the same for all where the head is shared.
    shared
        One head for all domains.
    """

    def __init__(self, base: Base, labels: Mapping[str, Sequence[str]], *, shared: bool, seed: int = 0) -> None:
        self.base = base
        self.labels = {name: tuple(values) for name, values in labels.items()}
        self.domains = tuple(self.labels)
        self.shared = shared
        self.rows: tuple[int, ...] = ()
        body = getattr(base.model, "base_model_prefix", "")
        names = [
            name
            for name, module in base.model.named_children()
            if name != body and any(True for _ in module.parameters())
        ]
        if not names:
            raise ModelError(f"{base.name}: no classification head found; choose another base model.")
        self._originals = {name: base.model.get_submodule(name) for name in names}
        self.modules: dict[str, nn.ModuleList] = {}
        for name, module in self._originals.items():
            copies = [_resized(module, len(self.labels[d]), seed, name, d) for d in self._owners()]
            routed = nn.ModuleList(copies).to(base.device, torch.float32)
            routed.requires_grad_(True)
            self.modules[name] = routed
            setattr(base.model, name, _Routed(routed, self))

    def _owners(self) -> tuple[str, ...]:
        return self.domains[:1] if self.shared else self.domains

    def owner(self, domain: str) -> str:
        """Whose head serves `domain`: its own name, or "shared"."""
        return SHARED if self.shared else domain

    @contextmanager
    def route(self, domains: Sequence[str], rows: Sequence[int]) -> Iterator[None]:
        """Send `rows[i]` rows of the batch to the head of `domains[i]`."""
        counts = dict(zip(domains, rows, strict=True))
        before, self.rows = self.rows, tuple(counts.get(name, 0) for name in self.domains)
        try:
            yield
        finally:
            self.rows = before

    def named_parameters(self, domain: str | None = None) -> Iterator[tuple[str, nn.Parameter]]:
        """Names like ``head/<domain>/<module>.<weight>``; of one domain's head, or of all."""
        for place, owner in enumerate([SHARED] if self.shared else self.domains):
            if domain is not None and self.owner(domain) != owner:
                continue
            for name, copies in self.modules.items():
                for key, parameter in copies[place].named_parameters():
                    yield f"head/{owner}/{name}.{key}", parameter

    def state_dict(self) -> dict[str, Tensor]:
        """All heads' tensors by the names of :meth:`named_parameters`."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy tensors in by name; heads that `state` lacks stay as they are."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name in state:
                    parameter.copy_(state[name])

    def export(self, domain: str) -> dict[str, dict[str, Tensor]]:
        """The head that serves `domain`: module → its tensors by key, as PEFT's `modules_to_save` wants them."""
        place = 0 if self.shared else self.domains.index(domain)
        return {
            name: {key: value.detach() for key, value in copies[place].state_dict().items()}
            for name, copies in self.modules.items()
        }

    def detach(self) -> None:
        """Give the model its own head back."""
        for name, module in self._originals.items():
            setattr(self.base.model, name, module)


def _resized(module: nn.Module, classes: int, seed: int, name: str, domain: str) -> nn.Module:
    """A copy whose last linear layer has `classes` outputs; drawn anew (by name) only where the number differs."""
    copied = copy.deepcopy(module)
    linear = [(key, m) for key, m in copied.named_modules() if isinstance(m, nn.Linear)]
    if not linear or name not in ("score", "classifier"):
        return copied
    key, last = linear[-1]
    if last.out_features == classes:
        return copied
    drawn = nn.Linear(last.in_features, classes, bias=last.bias is not None)
    generator = torch.Generator().manual_seed(derive_seed(seed, "head", domain))
    with torch.no_grad():
        drawn.weight.normal_(0.0, 0.02, generator=generator)
        if drawn.bias is not None:
            drawn.bias.zero_()
    if not key:
        return drawn
    parent, _, leaf = key.rpartition(".")
    setattr(copied.get_submodule(parent) if parent else copied, leaf, drawn)
    return copied
