"""The layers a bank adapts: how they are found, and what an adapted layer does."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._seeding import derive_seed
from ..errors import ModelError
from ._bank_ops import GroupPlan, banked_linear
from ._bank_routing import Routing, RoutingState
from ._lora_spec import ALL_LINEAR, LoraSpec
from ._lowrank import takes

__all__ = ["Site", "find_sites"]

SHARED = "lora_shared"
OWN = "lora_own"
_BESIDE = 256  # columns of masked factors up to which one product beats one a group


@functools.lru_cache(maxsize=1)
def _conv1d() -> type[nn.Module]:
    from transformers.pytorch_utils import Conv1D

    return Conv1D


def _is_conv1d(module: nn.Module) -> bool:
    # Looked at by name first, so that a model without any does not import transformers.
    return type(module).__name__ == "Conv1D" and isinstance(module, _conv1d())


def _adaptable(module: nn.Module) -> bool:
    return type(module) is nn.Linear or (type(module).__name__ == "Conv1D" and type(module) is _conv1d())


def _head_modules(model: nn.Module) -> set[nn.Module]:
    """Output layers, which the losses read directly: an update there would be ignored in silence."""
    heads: set[nn.Module] = set()
    getter = getattr(model, "get_output_embeddings", None)
    if callable(getter):
        try:
            head = getter()
        except (AttributeError, NotImplementedError):
            head = None
        if isinstance(head, nn.Module):
            heads.add(head)
    body = getattr(model, "base_model", None)
    if isinstance(body, nn.Module) and body is not model:
        inside = set(body.modules())
        heads.update(module for module in model.modules() if module not in inside and _adaptable(module))
    return heads


def _available(candidates: dict[str, nn.Module]) -> str:
    ends: dict[str, int] = {}
    for name in candidates:
        end = name.rpartition(".")[2]
        ends[end] = ends.get(end, 0) + 1
    shown = [f"{end} ({count})" for end, count in sorted(ends.items())]
    return ", ".join(shown[:20]) + (", ..." if len(shown) > 20 else "") if shown else "none at all"


def find_sites(model: nn.Module, targets: Sequence[str] | str) -> dict[str, nn.Module]:
    """The layers that `targets` names, by their dotted path, in the model's order.

    A target names a layer by its path or by the end of it (``q_proj``, ``attn.q_proj``). "all-linear" takes every
    linear layer of the model's body and none of its head.

    Raises
    ------
    ModelError
        When a target matches nothing, a layer of another kind, or the head; the message names what exists.
    """
    heads = _head_modules(model)
    modules = {name: module for name, module in model.named_modules() if name}
    candidates = {name: module for name, module in modules.items() if _adaptable(module) and module not in heads}
    if targets == ALL_LINEAR:
        if not candidates:
            raise ModelError(
                f"{type(model).__name__}: no linear layer to adapt in its body; "
                "use a model built of torch.nn.Linear or Conv1D layers."
            )
        return candidates
    chosen: set[str] = set()
    for target in [targets] if isinstance(targets, str) else targets:
        found = [name for name in modules if name == target or name.endswith("." + target)]
        good = [name for name in found if name in candidates]
        if not good:
            why = "matches no layer"
            if any(modules[name] in heads for name in found):
                why = "is a head, which the losses read directly"
            elif found:
                why = f"is a {type(modules[found[0]]).__name__}, not a plain linear layer"
            raise ModelError(
                f"lora.targets: {target!r} {why} of {type(model).__name__}; "
                f"its linear layers are {_available(candidates)}; name some of these or 'all-linear'."
            )
        chosen.update(good)
    return {name: module for name, module in candidates.items() if name in chosen}


def _draw_a(rank: int, width: int, seed: int, like: Tensor, *names: str) -> nn.Parameter:
    """A's start: uniform within ±1/√in, as PEFT's (Kaiming with a = √5); drawn on the CPU, the same on any device."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "bank", *names))
    bound = 1.0 / math.sqrt(width)
    drawn = torch.empty(rank, width, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
    return nn.Parameter(drawn.to(like.device))


class Site:
    """One adapted layer: its factors, and how to run it.

    The module itself stays where it is and keeps its names; only its class changes to one whose forward asks this
    object. A factors are (rank, in), B factors (rank, out), fp32; each is a leaf parameter of its own, so that a
    domain absent from a step has no gradient at all.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        spec: LoraSpec,
        state: RoutingState,
        *,
        shared: bool,
        domains: Sequence[str],
        seed: int,
    ) -> None:
        self.name = name
        self.module = module
        self.spec = spec
        self.state = state
        self.transposed = _is_conv1d(module)
        weight: Tensor = module.weight  # type: ignore[assignment]
        self.out_features, self.in_features = weight.shape[::-1] if self.transposed else weight.shape
        self.n_frozen = 0
        self._frozen_ranks: tuple[int, ...] = ()
        self._original = type(module)
        module.__class__ = _banked_class(type(module))
        module._bank_site = self  # type: ignore[assignment]
        self.has_shared = shared
        self.has_domains = bool(domains)
        if shared:
            self._register(SHARED, _draw_a(spec.rank, self.in_features, seed, weight, "shared", name))
        for index, domain in enumerate(domains):
            self._register(f"{OWN}_{index}", _draw_a(spec.rank, self.in_features, seed, weight, "domain", domain, name))

    def _register(self, name: str, a: nn.Parameter) -> None:
        self.module.register_parameter(f"{name}_A", a)
        zero = torch.zeros(a.shape[0], self.out_features, dtype=a.dtype, device=a.device)
        self.module.register_parameter(f"{name}_B", nn.Parameter(zero))

    def factors(self, domain: int | None) -> tuple[nn.Parameter, nn.Parameter]:
        """The trainable pair A (rank, in), B (rank, out) of a domain, or of the shared adapter for None."""
        name = SHARED if domain is None else f"{OWN}_{domain}"
        parameters = self.module._parameters
        a, b = parameters.get(f"{name}_A"), parameters.get(f"{name}_B")
        if a is None or b is None:
            raise ModelError(
                f"{self.name}: its adapters are gone, as after bank.detach(); read or save them before that."
            )
        return a, b

    def freeze(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Set the frozen pairs of earlier stages, oldest first, B already relative to this bank's scaling."""
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        listed = [(a.to(weight.device, torch.float32), b.to(weight.device, torch.float32)) for a, b in pairs]
        self.n_frozen = len(listed)
        self._frozen_ranks = tuple(a.shape[0] for a, _ in listed)
        dtype = weight.dtype if weight.dtype.is_floating_point else torch.float32
        if listed:
            # Kept in the base model's precision: they never change again.
            self.module.register_buffer("_bank_frozen_A", torch.cat([a for a, _ in listed]).to(dtype), persistent=False)
            self.module.register_buffer("_bank_frozen_B", torch.cat([b for _, b in listed]).to(dtype), persistent=False)

    def _frozen(self, stages: int) -> tuple[Tensor, Tensor] | None:
        if not stages or not self.n_frozen:
            return None
        rank = sum(self._frozen_ranks[:stages])
        buffers = self.module._buffers
        a, b = buffers["_bank_frozen_A"], buffers["_bank_frozen_B"]
        if a is None or b is None or rank == 0:
            return None
        return (a, b) if stages >= self.n_frozen else (a[:rank], b[:rank])

    def detach(self) -> None:
        """Give the module its own class back and take the adapters off it."""
        for name in [key for key in self.module._parameters if key.startswith(("lora_shared_", "lora_own_"))]:
            del self.module._parameters[name]
        for name in ("_bank_frozen_A", "_bank_frozen_B"):
            self.module._buffers.pop(name, None)
            self.module._non_persistent_buffers_set.discard(name)
        self.module.__dict__.pop("_bank_site", None)
        self.module.__class__ = self._original

    def run(self, x: Tensor) -> Tensor:
        """The layer's output under the routing in force."""
        routing = self.state.active
        if routing is None:
            routing = self.state.recall()
        if not routing.adapters:
            return self._original.forward(self.module, x)  # type: ignore[no-any-return]
        stages = self.n_frozen + 1 if routing.shared is None else routing.shared
        use_shared = self.has_shared and stages > self.n_frozen
        frozen = self._frozen(stages)
        present: Sequence[int] = ()
        sizes: tuple[int, ...] = (x.numel() // x.shape[-1],)
        if routing.present:
            sizes, present = self._groups(x, routing)
        elif routing.domain is not None and self.has_domains:
            present = (routing.domain,)
        if not (use_shared or present or frozen is not None):
            return self._original.forward(self.module, x)  # type: ignore[no-any-return]
        pairs = ([self.factors(None)] if use_shared else []) + [self.factors(index) for index in present]
        x = _to_compute(x)
        beside = (
            len(present) > 1
            and x.dtype == torch.bfloat16
            and x.device.type in ("cpu", "meta")  # memory is estimated on the meta device
            and not torch.compiler.is_compiling()
            and any(size != sizes[0] for size in sizes)
            and len(present) * self.spec.rank <= max(self.in_features, _BESIDE)
        )
        plan = GroupPlan(
            sizes,
            self.spec.scaling,
            use_shared,
            bool(present),
            self.transposed,
            ragged=routing.tokens,
            beside=beside,
            tiled=takes(x, self.out_features),
        )
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        bias: Tensor | None = self.module.bias  # type: ignore[assignment]
        y = banked_linear(
            x.reshape(-1, self.in_features),
            weight,
            bias,
            plan,
            [a for a, _ in pairs],
            [b for _, b in pairs],
            frozen=frozen,
            dropout=self.spec.dropout if self.module.training else 0.0,
        )
        return y.view(*x.shape[:-1], self.out_features)

    def _groups(self, x: Tensor, routing: Routing) -> tuple[tuple[int, ...], Sequence[int]]:
        """Tokens of each present domain, and which those are."""
        if routing.tokens and torch.compiler.is_compiling():
            sizes = tuple(carrier.shape[0] for carrier in routing.carriers)
            return (sizes, routing.present) if self.has_domains else ((x.numel() // x.shape[-1],), ())
        total, length = sum(routing.rows), x.numel() // x.shape[-1]
        if routing.tokens and length != total:
            raise ModelError(
                f"{self.name}: {length} tokens came in, but the routing names {total}; "
                "bank.route(tokens=...) takes the tokens of the very batch, padding included, sorted by domain."
            )
        if x.shape[0] % total and not routing.tokens:
            raise ModelError(
                f"{self.name}: {x.shape[0]} rows came in, but the routing names {total}; "
                "bank.route takes the rows of dim 0 of the very batch, sorted by domain."
            )
        per_row = length // total
        if not self.has_domains:
            return (total * per_row,), ()
        return tuple(routing.rows[index] * per_row for index in routing.present), routing.present


def _to_compute(x: Tensor) -> Tensor:
    kind = x.device.type
    # The meta device, on which memory is estimated, has no autocast state.
    if kind != "meta" and torch.is_autocast_enabled(kind):
        return x.to(torch.get_autocast_dtype(kind))
    return x


def _site_forward(module: nn.Module, x: Tensor) -> Tensor:
    site: Site = module._bank_site  # type: ignore[assignment]
    return site.run(x)


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def _banked_class(cls: type[nn.Module]) -> type[nn.Module]:
    """The class of an adapted `cls`, made once: compiled graphs and copies rely on its identity."""
    if cls not in _CLASSES:
        _CLASSES[cls] = _make_banked(cls)
    return _CLASSES[cls]


def _make_banked(cls: type[nn.Module]) -> type[nn.Module]:
    members: dict[str, Any] = {
        "forward": _site_forward,
        "__doc__": f"A {cls.__name__} adapted by a bank of LoRA factors.",
    }
    return type(f"Banked{cls.__name__}", (cls,), members)
