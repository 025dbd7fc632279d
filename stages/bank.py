"""A bank of LoRA adapters: one shared, one per domain, all trained in one forward.

The rows of a batch are sorted by domain; every adapted layer runs its frozen product once for all rows and adds, to
each group of rows, the shared update and that domain's own as one grouped low-rank product::

    bank = LoraBank.attach(model, ("law", "news"), LoraSpec(rank=8), seed=0)
    optimiser = torch.optim.AdamW(bank.parameters(), fused=True)
    with bank.route([4, 4]):                      # rows 0..3 are law's, 4..7 are news'
        hidden = model.model(**batch).last_hidden_state
    ...
    bank.detach()                                 # the model is what it was

What a training loop has to know:

- A domain without rows in a step gets no gradient (``None``, not zeros), so AdamW leaves it alone, provided gradients
  are cleared with ``zero_grad(set_to_none=True)``. Every (layer, adapter) factor is a parameter of its own; use an
  optimiser with ``fused=True`` or ``foreach=True``, since they are many and small.
- The routing in force when the forward ran is also used by a checkpointed layer's recompute, whichever routing is in
  force by then. This holds for models of transformers with ``gradient_checkpointing_enable()``, reentrant or not;
  other uses of ``torch.utils.checkpoint`` are safe with one routing before each backward and raise otherwise.
- Adapters are fp32; products run in the inputs' precision (the autocast precision under autocast).
- Under ``torch.compile`` one graph serves all steps of equal row counts.
- Layers that flatten batch and sequence first are fine (rows keep their order); layers that see a permuted or gathered
  subset of tokens, as the experts of a mixture, are not: leave them out of the targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ModelError
from ._bank_exchange import Exchange, FrozenShared
from ._bank_routing import CheckpointGuard, Routing, RoutingState
from ._bank_sites import Site, find_sites
from ._lora_spec import LoraSpec
from .projection import project_all_, update_norms

__all__ = ["FrozenShared", "LoraBank", "LoraSpec"]


class LoraBank(Exchange):
    """Shared and per-domain LoRA adapters on one frozen base; made by :meth:`attach`."""

    def __init__(
        self,
        model: nn.Module,
        domains: tuple[str, ...],
        spec: LoraSpec,
        sites: dict[str, Site],
        state: RoutingState,
        frozen: tuple[FrozenShared, ...],
        requires_grad: dict[str, bool],
    ) -> None:
        self._model: nn.Module | None = model
        self._sites = sites
        self._state = state
        self._guard = CheckpointGuard(model, state)
        self._requires_grad = requires_grad
        self._routings: dict[Routing, Routing] = {}
        self.domains = domains
        self.spec = spec
        self.frozen = frozen
        first = next(iter(sites.values()))
        self.has_shared = first.has_shared
        self.has_domains = first.has_domains

    # -- life ---------------------------------------------------------------------------------------------------

    @classmethod
    def attach(
        cls,
        model: nn.Module,
        domains: Sequence[str],
        spec: LoraSpec | None = None,
        *,
        shared: bool = True,
        domain_adapters: bool = True,
        seed: int = 0,
        frozen: Sequence[FrozenShared] = (),
    ) -> LoraBank:
        """Put a bank on `model`, in place, and freeze the model's own parameters.

        Layers keep their place, names and weights; their class changes until :meth:`detach`. Each adapter's A is
        drawn from its own stream (seed, domain, layer), so adding a domain moves no other; B starts at zero.

        Parameters
        ----------
        model
            A model of ``nn.Linear`` or GPT-2 ``Conv1D`` layers.
        domains
            Names of the domains trained here, in the order that :meth:`route` counts rows.
        spec
            Shape and targets of every adapter; the default :class:`LoraSpec` if None.
        shared, domain_adapters
            Whether there is a shared adapter, and one per domain.
        seed
            Seed of the draws.
        frozen
            Shared adapters of earlier stages, oldest first.

        Raises
        ------
        ModelError
            When targets match nothing (the message names what exists), or a bank is already attached.
        ConfigError
            When no adapter is asked for, or names are doubled.
        """
        spec = spec or LoraSpec()
        domains = tuple(domains)
        if len(set(domains)) != len(domains):
            raise ConfigError("a bank's domains must differ from each other; a name is given twice.")
        if not domains and domain_adapters:
            raise ConfigError(
                "a bank with domain adapters needs at least one domain; name some or set domain_adapters=False."
            )
        if not (shared or domain_adapters or frozen):
            raise ConfigError("a bank needs a shared adapter, domain adapters or frozen ones; all three are off.")
        if any(hasattr(module, "_bank_site") for module in model.modules()):
            raise ModelError(f"{type(model).__name__} already carries a bank; call detach() on that one first.")
        modules = find_sites(model, spec.targets)
        state = RoutingState()
        requires_grad = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        sites: dict[str, Site] = {}
        own = domains if domain_adapters else ()
        try:
            for name, module in modules.items():
                sites[name] = Site(name, module, spec, state, shared=shared, domains=own, seed=seed)
            bank = cls(model, domains, spec, sites, state, tuple(frozen), requires_grad)
            bank._set_frozen()
        except BaseException:
            for site in sites.values():
                site.detach()
            _restore(model, requires_grad)
            raise
        return bank

    def _set_frozen(self) -> None:
        pairs: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self._sites}
        for number, stage in enumerate(self.frozen):
            factors = stage.adapter.factors
            unknown = [name for name in factors if name not in self._sites]
            if unknown:
                raise ModelError(
                    f"the shared adapter of stage {number + 1} adapts {unknown[0]}, which this bank's targets leave "
                    "out; use the same lora.targets in every stage."
                )
            for name, site in self._sites.items():
                if name in factors:
                    a, b = factors[name]
                    if a.shape[1] != site.in_features or b.shape[1] != site.out_features:
                        raise ModelError(
                            f"the shared adapter of stage {number + 1} does not fit layer {name}; "
                            "it belongs to another model."
                        )
                    pairs[name].append((a, b * (stage.adapter.scaling / self.spec.scaling)))
                else:
                    weight: Tensor = site.module.weight  # type: ignore[assignment]
                    empty = weight.new_zeros
                    pairs[name].append((empty(0, site.in_features), empty(0, site.out_features)))
        for name, site in self._sites.items():
            site.freeze(pairs[name])

    @property
    def model(self) -> nn.Module:
        """The adapted model.

        Raises
        ------
        ModelError
            After :meth:`detach`.
        """
        if self._model is None:
            raise ModelError("the bank was detached from its model; attach a new one.")
        return self._model

    def detach(self) -> None:
        """Restore the model exactly: classes, parameters, ``requires_grad``, checkpoint functions. Idempotent."""
        if self._model is None:
            return
        for site in self._sites.values():
            site.detach()
        self._guard.release()
        _restore(self._model, self._requires_grad)
        self._model = None

    # -- routing ------------------------------------------------------------------------------------------------

    def route(
        self, rows: Sequence[int] | None = None, *, tokens: Sequence[int] | None = None
    ) -> AbstractContextManager[None]:
        """Run the model with groups of rows: ``rows[i]`` rows of dim 0 belong to ``domains[i]``, sorted by domain.

        With `tokens` instead, counts are of tokens: for batches that are one long row, documents back to back. Zero is
        allowed. The routing of a forward stays with its checkpointed layers until their backward pass.

        Raises
        ------
        ModelError
            When the number of entries is not the number of domains, an entry is negative or all are zero.
        """
        given = rows if tokens is None else tokens
        if given is None or (rows is not None and tokens is not None):
            raise ModelError("bank.route takes either row counts or tokens=..., one of them.")
        counts = tuple(int(count) for count in given)
        if len(counts) != len(self.domains):
            raise ModelError(
                f"bank.route got {len(counts)} counts for {len(self.domains)} domains; "
                "give one each, 0 for an absent one."
            )
        if any(count < 0 for count in counts) or not sum(counts):
            raise ModelError(f"bank.route got counts {list(counts)}; they must be at least 0 and not all 0.")
        return self._enter(Routing(rows=counts, tokens=tokens is not None))

    def serve(self, domain: str | None, *, shared_stages: int | None = None) -> AbstractContextManager[None]:
        """Run all rows with one domain's adapter (None: with none), over the first `shared_stages` shared adapters.

        The stages count frozen ones first, then this bank's own; None means all, 0 none at all.

        Raises
        ------
        ModelError
            When the domain or the number of stages is unknown.
        """
        index = None if domain is None or not self.has_domains else self._index(domain)
        if domain is not None and not self.has_domains:
            self._index(domain)
        if shared_stages is not None and not 0 <= shared_stages <= self.n_shared:
            raise ModelError(
                f"shared_stages={shared_stages} must lie between 0 and {self.n_shared}, the shared adapters there are."
            )
        return self._enter(Routing(domain=index, shared=shared_stages))

    def disabled(self) -> AbstractContextManager[None]:
        """Run the base model alone. Nothing is frozen or unfrozen, and gradients for the inputs still flow."""
        return self._enter(Routing(adapters=False))

    @contextmanager
    def _enter(self, routing: Routing) -> Iterator[None]:
        _ = self.model
        self._guard.secure()
        # One object a routing: compiled graphs guard on it.
        with self._state.using(self._known(routing)):
            yield

    def _known(self, routing: Routing) -> Routing:
        if len(self._routings) > 256:  # Token counts differ at every step: keep none of them for ever.
            self._routings.clear()
        return self._routings.setdefault(routing, routing)

    def _index(self, domain: str) -> int:
        try:
            return self.domains.index(domain)
        except ValueError:
            known = ", ".join(self.domains) or "none"
            raise ModelError(f"domain {domain!r} is not in this bank; its domains are {known}.") from None

    @property
    def n_shared(self) -> int:
        """Shared adapters there are: the frozen stages' and, if it has one, the bank's own."""
        return len(self.frozen) + int(self.has_shared)

    # -- parameters ---------------------------------------------------------------------------------------------

    @property
    def sites(self) -> tuple[str, ...]:
        """Paths of the adapted layers."""
        return tuple(self._sites)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Trainable factors by name: ``shared/<layer>/A``, ``domain/<name>/<layer>/B``, ..."""
        for site in self._sites.values():
            for prefix, index in self._adapters():
                a, b = site.factors(index)
                yield f"{prefix}/{site.name}/A", a
                yield f"{prefix}/{site.name}/B", b

    def _adapters(self) -> list[tuple[str, int | None]]:
        shared: list[tuple[str, int | None]] = [("shared", None)] if self.has_shared else []
        return shared + [(f"domain/{name}", i) for i, name in enumerate(self.domains) if self.has_domains]

    def parameters(self, domain: str | None = None) -> list[nn.Parameter]:
        """All trainable factors, or those of one domain."""
        if domain is not None:
            index = self._index(domain)
            return (
                [factor for site in self._sites.values() for factor in site.factors(index)] if self.has_domains else []
            )
        return [parameter for _, parameter in self.named_parameters()]

    def shared_parameters(self) -> list[nn.Parameter]:
        """The trainable factors of the shared adapter; none without one."""
        return [factor for site in self._sites.values() for factor in site.factors(None)] if self.has_shared else []

    def state_dict(self) -> dict[str, Tensor]:
        """The trainable factors, detached, by the names of :meth:`named_parameters`; flat, fit for safetensors."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy factors in; names and shapes must be exactly those of :meth:`state_dict`.

        Raises
        ------
        ModelError
            When a name is missing or too many, or a shape differs; nothing is changed then.
        """
        own = dict(self.named_parameters())
        for name in sorted(own.keys() ^ state.keys()):
            what = "is missing from" if name in own else "is unknown to the bank but in"
            raise ModelError(
                f"adapter tensor {name!r} {what} the state given; it belongs to other domains, layers or settings."
            )
        for name, parameter in own.items():
            if state[name].shape != parameter.shape:
                raise ModelError(
                    f"adapter tensor {name!r} has shape {tuple(state[name].shape)}, but the bank's is "
                    f"{tuple(parameter.shape)}; the rank or the model differs."
                )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])

    # -- norms --------------------------------------------------------------------------------------------------

    def _pairs(self, index: int | None) -> list[tuple[nn.Parameter, nn.Parameter]]:
        return [site.factors(index) for site in self._sites.values()]

    def norms(self) -> dict[str, float]:
        """Frobenius norm of each adapter's whole update, all layers together: ``shared`` and ``domain/<name>``."""
        owners = self._adapters()
        norms = update_norms([self._pairs(index) for _, index in owners], self.spec.scaling)
        return {name: norm for (name, _), norm in zip(owners, norms, strict=True)}

    def project_(self, rho_shared: float | None = None, rho_domain: float | None = None) -> dict[str, float]:
        """Project each adapter's update onto its ball, in place (METHOD, Algorithm 1); return the norms afterwards.

        Parameters
        ----------
        rho_shared, rho_domain
            Radii of the shared and of each domain's adapter; None for no bound.
        """
        owners = self._adapters()
        radii = [rho_shared if index is None else rho_domain for _, index in owners]
        norms = project_all_([self._pairs(index) for _, index in owners], radii, self.spec.scaling)
        return {name: norm for (name, _), norm in zip(owners, norms, strict=True)}

    def __repr__(self) -> str:
        parts = ", ".join(self.domains)
        return f"LoraBank([{parts}], rank={self.spec.rank}, layers={len(self._sites)}, frozen={len(self.frozen)})"

    def summary(self) -> dict[str, Any]:
        """Numbers for a log: layers, trainable parameters, rank, frozen stages."""
        return {
            "layers": len(self._sites),
            "trainable": sum(parameter.numel() for parameter in self.parameters()),
            "rank": self.spec.rank,
            "frozen_stages": len(self.frozen),
        }


def _restore(model: nn.Module, requires_grad: Mapping[str, bool]) -> None:
    for name, parameter in model.named_parameters():
        if name in requires_grad:
            parameter.requires_grad_(requires_grad[name])
