"""One optimiser step: forward all domains at once, take every loss as a sum and a count, divide once, go back.

With one micro-batch the objective is built and differentiated directly. With several (accumulation, ranks), the
factor in front of each term is found first, and each micro-batch pays its share of every term's sum over the count of
the whole step, so the gradient is that of the undivided batch. Only the alignment term is no sum over documents: its
gradient with respect to the pooled features is taken once over all of them, which costs a second forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._seeding import derive_seed
from .batches import GENERAL, SSL, TASK, Schedule
from .collate import Layout, Micro, collate, corrupted_items
from .losses import FeatureQueue, alignment_mmd2, fused_cross_entropy, fused_kl

if TYPE_CHECKING:
    from .bank import LoraBank
    from .heads import Heads
    from .model import Base
    from .ranks import Ranks
    from .settings import TrainSettings
    from .weighting import Weighting

__all__ = ["StepResult", "Stepper"]


@dataclass(frozen=True)
class StepResult:
    """What one step measured, as plain numbers.

    Attributes
    ----------
    loss
        The weighted objective.
    parts, weights
        Each term's mean and the factor in front of it.
    per_domain
        Mean task loss of each domain that had a document.
    tokens
        Domain tokens.
    """

    loss: float
    parts: dict[str, float]
    weights: dict[str, float]
    per_domain: dict[str, float]
    tokens: int


@dataclass
class _Sums:
    """The terms of one micro-batch before division."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    task_by_domain: Tensor | None = None
    task_counts: Tensor | None = None
    features: Tensor | None = None


class Stepper:
    """Computes the gradients of any step of one stage."""

    def __init__(
        self,
        base: Base,
        bank: LoraBank,
        heads: Heads | None,
        schedule: Schedule,
        weighting: Weighting,
        settings: TrainSettings,
        ranks: Ranks,
        *,
        layout: Layout,
        max_length: int,
        stage: int,
        seed: int,
    ) -> None:
        self.base, self.bank, self.heads = base, bank, heads
        self.schedule, self.weighting, self.settings, self.ranks = schedule, weighting, settings, ranks
        self.layout: Layout = layout
        self.max_length = max_length
        self.stage, self.seed = stage, seed
        self.domains = schedule.domains
        n = len(self.domains)
        self.aligned = settings.align_weight > 0 and n > 1
        # FAMO learns from how far the last step's update moved the losses, which this step's forward measures.
        self._lagging = weighting.name == "famo"
        self.queue = FeatureQueue(n, settings.align_queue) if self.aligned and settings.align_queue else None
        # Dropout of the base must not blur what KL compares with; toggling it costs time, so only where there is any.
        self._dropout = any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in base.model.modules())

    # -- data ---------------------------------------------------------------------------------------------------

    def batches(self, number: int, stopped: frozenset[str]) -> tuple[list[tuple[int, Micro, Micro | None]], int]:
        """Micro-batches of a step for this rank, each with its general documents alone, and how many all ranks have."""
        bins = [items for items in self.schedule.step(number, stopped) if items]
        corrupted = corrupted_items(
            bins,
            self.base,
            self.settings,
            seed=derive_seed(self.seed, "ssl", self.stage, number),
            max_length=self.max_length,
        )
        n = len(self.domains)
        made = []
        for place, items in self.ranks.mine(bins):
            micro = collate(items, self.base, n, layout=self.layout, max_length=self.max_length, corrupted=corrupted)
            general = [item for item in items if item.kind == GENERAL]
            alone = collate(general, self.base, n, layout=self.layout, max_length=self.max_length) if general else None
            made.append((place, micro, alone))
        return made, len(bins)

    # -- forward ------------------------------------------------------------------------------------------------

    def _routed(self, micro: Micro) -> ExitStack:
        stack = ExitStack()
        if self.layout == "flat":
            stack.enter_context(self.bank.route(tokens=micro.groups))
        else:
            stack.enter_context(self.bank.route(micro.groups))
        if self.heads is not None:
            stack.enter_context(self.heads.route(self.domains, micro.groups))
        return stack

    def _forward(self, number: int, place: int, micro: Micro, alone: Micro | None) -> _Sums:
        settings, base, n = self.settings, self.base, len(self.domains)
        reference = self._reference(alone) if alone is not None else None
        torch.manual_seed(derive_seed(self.seed, "dropout", self.stage, number, place))
        result = _Sums()
        with self._routed(micro):
            if self.heads is None:
                hidden, features = base.states(
                    micro.input_ids, micro.position_ids, micro.mask, settings.align_layer, flat=micro.flat
                )
            else:
                hidden, features, logits = self._classify(micro)
        width = hidden.shape[-1]
        flat = hidden.reshape(-1, width)
        weight, bias = base.head
        if self.heads is not None:
            sums, counts = self._class_loss(micro, logits)
            result.task_by_domain, result.task_counts = sums, counts
            result.sums["task"] = sums.sum()
        elif micro.task is not None:
            task = micro.task
            sums, counts = fused_cross_entropy(
                flat.index_select(0, task.index), weight, task.labels, task.domain, n, bias=bias, softcap=base.softcap
            )
            result.task_by_domain, result.task_counts = sums, counts
            result.sums["task"] = sums.sum()
        if micro.ssl is not None:
            ssl = micro.ssl
            sums, _ = fused_cross_entropy(
                flat.index_select(0, ssl.index), weight, ssl.labels, ssl.domain, n, bias=bias, softcap=base.softcap
            )
            result.sums["ssl"] = sums.sum()
        if micro.general is not None and reference is not None:
            general = micro.general
            sums, _ = fused_kl(
                flat.index_select(0, general.index),
                reference,
                weight,
                settings.kl_direction,
                general.domain,
                n,
                bias=bias,
                softcap=base.softcap,
            )
            result.sums["kl"] = sums.sum()
        if self.aligned and len(micro.doc_lengths):
            result.features = self._pool(features.reshape(-1, features.shape[-1]), micro)
        return result

    def _reference(self, alone: Micro) -> Tensor:
        """The base model's own states where the general documents are scored."""
        if self._dropout:
            self.base.model.eval()
        with torch.no_grad(), self.bank.disabled():
            hidden, _ = self.base.states(alone.input_ids, alone.position_ids, alone.mask, flat=alone.flat)
        if self._dropout:
            self.base.model.train()
        assert alone.general is not None
        return hidden.reshape(-1, hidden.shape[-1]).index_select(0, alone.general.index)

    def _classify(self, micro: Micro) -> tuple[Tensor, Tensor, Tensor]:
        output = self.base.model(input_ids=micro.input_ids, attention_mask=micro.mask, output_hidden_states=True)
        states = output.hidden_states
        return states[-1], states[self.settings.align_layer], output.logits

    def _class_loss(self, micro: Micro, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the task rows, by domain, each over its own labels."""
        assert self.heads is not None
        assert micro.class_rows is not None
        assert micro.class_labels is not None
        logits = logits.index_select(0, micro.class_rows).float()
        width = torch.tensor([len(self.heads.labels[name]) for name in self.domains], device=logits.device)
        outside = torch.arange(logits.shape[1], device=logits.device) >= width[micro.doc_domain][:, None]
        losses = torch.nn.functional.cross_entropy(
            logits.masked_fill(outside, float("-inf")), micro.class_labels, reduction="none"
        )
        n = len(self.domains)
        sums = losses.new_zeros(n).index_add(0, micro.doc_domain, losses)
        return sums, torch.bincount(micro.doc_domain, minlength=n)

    def _pool(self, states: Tensor, micro: Micro) -> Tensor:
        """One feature a task document: the mean of its states, or its last one; (documents, hidden), fp32."""
        rows = states.index_select(0, micro.pool_index)
        if self.settings.align_pool == "last":
            return rows.index_select(0, micro.doc_lengths.cumsum(0) - 1).float()
        total = rows.new_zeros(len(micro.doc_lengths), rows.shape[1], dtype=torch.float32)
        return total.index_add(0, micro.pool_doc, rows.float()) / micro.doc_lengths[:, None]

    # -- objective ----------------------------------------------------------------------------------------------

    def _align(self, features: Tensor, domain: Tensor) -> Tensor | None:
        linear = self.settings.align_kind == "linear"
        part = alignment_mmd2(features, domain, len(self.domains), queue=self.queue, linear=linear)
        return part.mean if part.count else None

    def __call__(self, number: int, stopped: frozenset[str] = frozenset()) -> StepResult:
        """Leave the gradients of step `number` in the parameters and say what was measured."""
        micros, total = self.batches(number, stopped)
        counts = self._counts(micros)
        if total == 1 and self.ranks.count == 1:
            place, micro, alone = micros[0]
            out = self._forward(number, place, micro, alone)
            parts = {name: value / counts[name] for name, value in out.sums.items()}
            if out.features is not None:
                aligned = self._align(out.features, micro.doc_domain)
                if aligned is not None:
                    parts["align"] = aligned
                if self.queue is not None:
                    self.queue.push(out.features, micro.doc_domain)
            self._famo({name: float(value.detach()) for name, value in parts.items()} if self._lagging else {})
            loss = self.weighting.combine(parts)
            loss.backward()  # type: ignore[no-untyped-call]
            return self._result(loss, parts, out.task_by_domain, out.task_counts, micro.tokens)
        return self._several(number, micros, counts)

    def _counts(self, micros: Sequence[tuple[int, Micro, Micro | None]]) -> dict[str, float]:
        """Targets of each term over the whole step and all ranks."""
        totals = torch.zeros(3, dtype=torch.float64)
        for _, micro, _ in micros:
            classified = len(micro.class_labels) if micro.class_labels is not None else 0
            totals[TASK] += len(micro.task) if micro.task is not None else classified
            totals[SSL] += len(micro.ssl) if micro.ssl is not None else 0
            totals[GENERAL] += len(micro.general) if micro.general is not None else 0
        if self.ranks.count > 1:
            totals = self.ranks.sum(totals.to(self.ranks.device))
        task, ssl, general = totals.tolist()
        return {"task": max(task, 1.0), "ssl": max(ssl, 1.0), "kl": max(general, 1.0)}

    def _several(
        self, number: int, micros: Sequence[tuple[int, Micro, Micro | None]], counts: dict[str, float]
    ) -> StepResult:
        names = self._names(counts)
        values: dict[str, float] = dict.fromkeys(names, 1.0)
        pulls: list[Tensor] = []
        if self.aligned or self._lagging:
            with torch.no_grad():
                outs = [self._forward(number, *entry) for entry in micros]
            values = self._global_values(outs, counts, names)
            if self.aligned:
                aligned, pulls = self._align_all(micros, outs)
                if aligned is not None:
                    values["align"] = aligned
        self._famo(values if self._lagging else {})
        coefficients = self._coefficients(values)
        outs = []
        for place, (entry, micro) in enumerate(zip(micros, (m for _, m, _ in micros), strict=True)):
            out = self._forward(number, *entry)
            terms = [coefficients[name] / counts[name] * value for name, value in out.sums.items()]
            if pulls and out.features is not None and "align" in coefficients:
                terms.append(coefficients["align"] * (out.features * pulls[place]).sum())
            if terms:
                torch.stack(terms).sum().backward()  # type: ignore[no-untyped-call]
            out.sums = {name: value.detach() for name, value in out.sums.items()}
            outs.append(out)
            if self.queue is not None and self.ranks.count == 1 and out.features is not None:
                self.queue.push(out.features, micro.doc_domain)
        final = {**values, **self._global_values(outs, counts, names)}
        self._coefficients(final)  # gradients of the weighting's own parameters, from the true values
        by_domain, by_count = self._by_domain(outs)
        loss = sum(coefficients[name] * value for name, value in final.items())
        tokens = int(self.ranks.sum(torch.tensor(float(sum(m.tokens for _, m, _ in micros)), device=self.ranks.device)))
        parts = {name: torch.tensor(value) for name, value in final.items()}
        return self._result(torch.tensor(loss), parts, by_domain, by_count, tokens)

    def _names(self, counts: dict[str, float]) -> list[str]:
        wanted = {"task": True, "ssl": self.settings.ssl_weight > 0, "kl": self.settings.kl_weight > 0}
        return [name for name in counts if wanted[name]]

    def _global_values(self, outs: Sequence[_Sums], counts: dict[str, float], names: Sequence[str]) -> dict[str, float]:
        rows = [[out.sums[n].detach().double() if n in out.sums else None for n in names] for out in outs]
        totals = torch.zeros(len(names), dtype=torch.float64, device=self.ranks.device)
        for row in rows:
            for i, value in enumerate(row):
                if value is not None:
                    totals[i] += value
        summed = self.ranks.sum(totals).tolist()
        return {name: value / counts[name] for name, value in zip(names, summed, strict=True)}

    def _align_all(
        self, micros: Sequence[tuple[int, Micro, Micro | None]], outs: Sequence[_Sums]
    ) -> tuple[float | None, list[Tensor]]:
        """MMD² over the features of all micro-batches and ranks, and its gradient for each micro-batch here."""
        parts = [out.features for out in outs if out.features is not None]
        width = parts[0].shape[1] if parts else self.base.hidden_size
        mine = torch.cat(parts) if parts else torch.zeros(0, width, device=self.ranks.device)
        domains = torch.cat([m.doc_domain for _, m, _ in micros]) if micros else mine.new_zeros(0, dtype=torch.long)
        features, own = self.ranks.gather_ragged(mine)
        domain, _ = self.ranks.gather_ragged(domains)
        leaf = features.detach().requires_grad_(True)
        aligned = self._align(leaf, domain)
        sizes = [len(m.doc_lengths) for _, m, _ in micros]
        if aligned is None:
            pulls = list(torch.split(torch.zeros_like(mine), sizes))
        else:
            (gradient,) = torch.autograd.grad(aligned, leaf)
            pulls = list(torch.split(gradient[own], sizes))
        if self.queue is not None and self.ranks.count > 1:
            self.queue.push(features, domain)
        return (None if aligned is None else float(aligned.detach())), pulls

    def _famo(self, values: dict[str, float]) -> None:
        if values:
            self.weighting.after_step(values)

    def _coefficients(self, values: dict[str, float]) -> dict[str, float]:
        """D objective / d term at these values; fills the gradients of the weighting's own parameters."""
        for parameter in self.weighting.parameters():
            parameter.grad = None
        leaves = {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}
        self.weighting.combine(leaves).backward()  # type: ignore[no-untyped-call]
        return {name: 0.0 if leaf.grad is None else float(leaf.grad) for name, leaf in leaves.items()}

    def _by_domain(self, outs: Sequence[_Sums]) -> tuple[Tensor, Tensor]:
        n = len(self.domains)
        both = torch.zeros(2, n, dtype=torch.float64, device=self.ranks.device)
        for out in outs:
            if out.task_by_domain is not None and out.task_counts is not None:
                both[0] += out.task_by_domain.detach()
                both[1] += out.task_counts
        both = self.ranks.sum(both)
        return both[0], both[1]

    def _result(
        self, loss: Tensor, parts: dict[str, Tensor], sums: Tensor | None, counts: Tensor | None, tokens: int
    ) -> StepResult:
        n = len(self.domains)
        sums = torch.zeros(n) if sums is None else sums.detach()
        counts = torch.zeros(n) if counts is None else counts
        # One transfer for all numbers: on an accelerator each would wait for the device.
        scalars = torch.stack([loss.detach().double(), *(p.detach().double() for p in parts.values())])
        row = torch.cat([scalars, sums.double().to(scalars.device), counts.double().to(scalars.device)]).tolist()
        values = dict(zip(parts, row[1 : 1 + len(parts)], strict=True))
        by_sum, by_count = row[1 + len(parts) :][:n], row[1 + len(parts) + n :]
        per_domain = {name: by_sum[i] / by_count[i] for i, name in enumerate(self.domains) if by_count[i]}
        weights = {name: float(weight) for name, weight in self.weighting.weights.items() if name in values}
        return StepResult(row[0], values, weights, per_domain, tokens)
