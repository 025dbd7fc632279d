"""What goes into a bank and out of it: PEFT folders, low-rank factors, a stage's shared adapter for the next stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ._bank_sites import Site
from ._lora_spec import LoraSpec
from .peft_io import Compressed, LowRank, compress, concatenate, read_peft, write_peft

__all__ = ["Exchange", "FrozenShared"]


@dataclass(frozen=True)
class FrozenShared:
    """The shared adapter of a finished stage: active and frozen in all later ones."""

    adapter: LowRank

    def save(self, path: str | Path, *, base_name: str | None = None, task_type: str | None = None) -> Path:
        """Write it as a PEFT folder."""
        return write_peft(path, self.adapter, base_name=base_name, task_type=task_type)

    @classmethod
    def load(cls, path: str | Path) -> FrozenShared:
        """Read it from a PEFT folder."""
        return cls(read_peft(path))


class Exchange:
    """The part of :class:`~kinfold.stages.bank.LoraBank` that reads and writes adapters."""

    domains: tuple[str, ...]
    spec: LoraSpec
    frozen: tuple[FrozenShared, ...]
    has_shared: bool
    has_domains: bool
    _sites: dict[str, Site]

    @property
    def model(self) -> nn.Module:
        """The adapted model."""
        raise NotImplementedError

    @property
    def n_shared(self) -> int:
        """Shared adapters there are."""
        raise NotImplementedError

    def _index(self, domain: str) -> int:
        raise NotImplementedError

    def _low_rank(self, index: int | None) -> LowRank:
        factors = {}
        for name, site in self._sites.items():
            a, b = site.factors(index)
            factors[name] = (a.detach().clone(), b.detach().clone())
        return LowRank(factors, self.spec.scaling, self._flipped())

    def _flipped(self) -> frozenset[str]:
        return frozenset(name for name, site in self._sites.items() if site.transposed)

    def freeze_shared(self) -> FrozenShared:
        """A copy of this stage's shared adapter, to be given to later stages' banks as `frozen`.

        Raises
        ------
        ModelError
            When the bank has no shared adapter.
        """
        if not self.has_shared:
            raise ModelError("this bank has no shared adapter to freeze; attach it with shared=True.")
        return FrozenShared(self._low_rank(None))

    def combined(self, domain: str | None, *, include_shared: bool = True, shared_stages: int | None = None) -> LowRank:
        """What :meth:`serve` adds to the base, as one adapter: shared adapters of all stages so far, and the domain's.

        Exact, by concatenation along the rank. `shared_stages` counts as in :meth:`serve`.
        """
        parts: list[LowRank] = []
        if include_shared:
            stages = self.n_shared if shared_stages is None else shared_stages
            parts += [stage.adapter for stage in self.frozen[:stages]]
            if self.has_shared and stages > len(self.frozen):
                parts.append(self._low_rank(None))
        if domain is not None:
            index = self._index(domain)
            if self.has_domains:
                parts.append(self._low_rank(index))
        if not parts:
            raise ModelError("nothing to export: neither shared adapters nor a domain's were asked for.")
        cpu = [
            LowRank({n: (a.cpu(), b.cpu()) for n, (a, b) in p.factors.items()}, p.scaling, p.fan_in_fan_out)
            for p in parts
        ]
        return concatenate(cpu)

    def to_peft(
        self,
        domain: str | None,
        path: str | Path,
        *,
        base_name: str | None = None,
        include_shared: bool = True,
        shared_stages: int | None = None,
        rank: int | None = None,
        task_type: str | None = None,
        heads: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> float:
        """Write the adapter that serves `domain` as one PEFT folder, which ``PeftModel.from_pretrained`` loads.

        Parameters
        ----------
        domain
            The domain, or None for the shared adapters alone.
        path
            The folder; replaced if it exists.
        base_name
            The base model's path or hub id, written into the configuration.
        include_shared, shared_stages
            Whether shared adapters go in, and how many stages' (None: all so far).
        rank
            Compress to this rank by singular values; None keeps the exact concatenation.
        task_type, heads
            As in :func:`~kinfold.stages.peft_io.write_peft`.

        Returns
        -------
        float
            Relative Frobenius error of the written update: 0 unless compressed.
        """
        adapter = self.combined(domain, include_shared=include_shared, shared_stages=shared_stages)
        error = 0.0
        if rank is not None:
            result: Compressed = compress(adapter, rank)
            adapter, error = result.adapter, result.error
        layers = [name for name, _ in self.model.named_modules() if name]
        write_peft(
            path,
            adapter,
            base_name=base_name,
            task_type=task_type,
            dropout=self.spec.dropout,
            all_layers=layers,
            heads=heads,
        )
        return error

    def from_peft(self, domain: str | None, path: str | Path) -> None:
        """Load a PEFT folder into a domain's adapter (None: the shared one); its scale is folded into B.

        A smaller rank is filled up with zero rows, which add nothing to the update.

        Raises
        ------
        ModelError
            When layers differ, or the rank is larger than the bank's; nothing is changed then.
        """
        adapter = read_peft(path)
        self.load_low_rank(domain, adapter, source=str(path))

    def load_low_rank(self, domain: str | None, adapter: LowRank, *, source: str = "the adapter") -> None:
        """As :meth:`from_peft`, from factors in memory."""
        if domain is None and not self.has_shared:
            raise ModelError(f"{source}: this bank has no shared adapter to load into; attach it with shared=True.")
        if domain is not None and not self.has_domains:
            raise ModelError(
                f"{source}: this bank has no domain adapters to load into; attach it with domain_adapters=True."
            )
        index = None if domain is None else self._index(domain)
        different = sorted(self._sites.keys() ^ adapter.factors.keys())
        if different:
            where = "lacks" if different[0] in self._sites else "has"
            raise ModelError(
                f"{source} {where} layer {different[0]}, unlike this bank; "
                "attach the bank with the same targets and model."
            )
        for name, site in self._sites.items():
            a, b = adapter.factors[name]
            if a.shape[1] != site.in_features or b.shape[1] != site.out_features:
                raise ModelError(f"{source} does not fit layer {name} of this model; it belongs to another one.")
        if adapter.rank > self.spec.rank:
            raise ModelError(
                f"{source} has rank {adapter.rank}, above the bank's {self.spec.rank}; "
                "raise lora.rank or compress it first (kinfold.stages.peft_io.compress)."
            )
        with torch.no_grad():
            for name, site in self._sites.items():
                a, b = adapter.factors[name]
                own_a, own_b = site.factors(index)
                own_a.zero_()[: a.shape[0]].copy_(a)
                own_b.zero_()[: b.shape[0]].copy_(b * (adapter.scaling / self.spec.scaling))
