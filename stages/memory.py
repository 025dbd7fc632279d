"""How much memory a training step takes, found without allocating it.

The model is built on the meta device, where tensors have shapes and no storage; one forward and backward pass of the
adapted backbone runs there while every storage is counted from birth to death. So the figure follows the actual
architecture, adapters, precision and checkpointing, not a formula for one family of models. What the meta device
cannot run, the chunked head, is added from its known sizes.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from ..errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from .session import Session
    from .settings import TrainSettings

__all__ = ["MemoryEstimate", "StorageMeter", "estimate_memory", "estimate_phrase"]


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one training step at its peak.

    Attributes
    ----------
    weights
        The frozen base model.
    adapters
        Trainable factors, fp32, with their gradients and AdamW's two moments.
    frozen
        Shared adapters of earlier stages.
    activations
        Everything else alive at the peak: saved activations, gradients on their way, the head's scratch.
    total
        The sum.
    tokens
        Tokens in the forward pass of one micro-batch, all loss terms together.
    """

    weights: int
    adapters: int
    frozen: int
    activations: int
    total: int
    tokens: int

    def to_dict(self) -> dict[str, int]:
        """Plain values."""
        return asdict(self)


class StorageMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages born inside, now and at most; works on any device, meta included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}

    def _free(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        known = {t.untyped_storage()._cdata for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)}
        for value in tree_iter(out):
            if not isinstance(value, Tensor):
                continue
            storage = value.untyped_storage()
            key = storage._cdata
            if key in self._sizes or key in known:
                continue
            self._sizes[key] = storage.nbytes()
            self.now += self._sizes[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, key)
        return out


def estimate_memory(
    model: str | Path,
    settings: TrainSettings,
    *,
    domains: int = 1,
    earlier_stages: int = 0,
    lengths: Sequence[int] | None = None,
    tokens: int | None = None,
) -> MemoryEstimate:
    """Peak memory of one optimiser step on one rank, in bytes.

    Parameters
    ----------
    model
        Base model, a folder or a hub id; only its configuration is read.
    settings
        As for training.
    domains
        Domains of the stage.
    earlier_stages
        Stages before it, whose shared adapters ride along.
    lengths
        Typical document lengths, cycled to fill the batch; None takes documents of `max_length`.
    tokens
        Tokens of one forward pass; None takes those of a micro-batch with all its loss terms.

    Raises
    ------
    ModelError
        If the configuration cannot be loaded or the architecture cannot be built on the meta device.
    """
    import transformers

    from .model import _load

    config = _load(transformers.AutoConfig, str(model), "configuration", trust_remote_code=settings.trust_remote_code)
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    with torch.device("meta"):
        try:
            built = _auto("AutoModelForCausalLM").from_config(config, dtype=dtype)
        except ValueError:
            try:
                built = _auto("AutoModel").from_config(config, dtype=dtype)
            except ValueError as fault:
                raise ModelError(
                    f"{model}: its architecture cannot be built ({fault}); choose another base."
                ) from fault
    built.requires_grad_(False)
    if tokens is None:
        share = 1.0 + (settings.ssl_share if settings.ssl_weight > 0 else 0.0)
        share += settings.kl_share if settings.kl_weight > 0 else 0.0
        tokens = max(1, round(settings.batch_tokens * share / settings.accumulation))
    limit = getattr(config, "max_position_embeddings", None) or settings.max_length
    return _measure(built, settings, tokens, domains, earlier_stages, lengths, min(settings.max_length, limit))


def _auto(name: str) -> Any:
    import transformers

    return getattr(transformers, name)


def _documents(tokens: int, lengths: Sequence[int] | None, max_length: int) -> list[int]:
    """Document lengths that fill `tokens`."""
    cycle = [min(n, max_length) for n in lengths] if lengths else [max_length]
    made: list[int] = []
    while sum(made) < tokens:
        made.append(min(cycle[len(made) % len(cycle)], tokens - sum(made)))
    return made


def _measure(
    model: Any,
    settings: TrainSettings,
    tokens: int,
    domains: int,
    earlier: int,
    lengths: Sequence[int] | None,
    max_length: int,
) -> MemoryEstimate:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    from .attention import FLAT, _flat_attention, flat_layout
    from .bank import LoraBank
    from .model import set_checkpointing

    weights = sum(p.numel() * p.element_size() for p in {id(p): p for p in model.parameters()}.values())
    names = tuple(f"d{i}" for i in range(domains))
    bank = LoraBank.attach(
        model,
        names,
        settings.lora,
        shared=settings.adapters != "domain",
        domain_adapters=settings.adapters != "shared",
    )
    trainable = sum(p.numel() for p in bank.parameters())
    shared = sum(p.numel() for p in bank.shared_parameters())
    documents = _documents(tokens, lengths, max_length)
    body = model.base_model
    flat = model.config._attn_implementation == "sdpa" and _causal_config(model)
    arguments: dict[str, Any] = {}
    if flat:
        AttentionInterface.register(FLAT, _flat_attention)
        AttentionMaskInterface.register(FLAT, sdpa_mask)
        model.set_attn_implementation(FLAT)
        ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
        arguments = {
            "position_ids": torch.zeros(1, tokens, dtype=torch.long, device="meta"),
            "attention_mask": torch.ones(1, 1, 1, 1, device="meta"),
            "flat": flat_layout(documents, "meta"),
            "use_cache": False,
        }
        groups = [len(part) for part in _even(tokens, domains)]
        routing = bank.route(tokens=groups)
    else:
        ids = torch.zeros(len(documents), max(documents), dtype=torch.long, device="meta")
        routing = bank.route([len(part) for part in _even(len(documents), domains)])
    if settings.gradient_checkpointing:
        set_checkpointing(model, True)
    model.train()
    meter = StorageMeter()
    with meter, routing:
        hidden = body(input_ids=ids, **arguments).last_hidden_state
        forward = meter.now
        hidden.sum().backward()
    gradients = sum(p.numel() * 4 for p in bank.parameters())
    backward = max(meter.peak - gradients, 0)
    head = _head(model, settings, tokens, int(hidden.shape[-1]), hidden.element_size())
    adapters = trainable * 4 * 4
    frozen = earlier * shared * (2 if settings.precision == "bf16" else 4)
    # The head runs when all activations are alive; its kept gradient rides along into the backward pass.
    activations = max(forward + head[0], backward + head[1])
    total = weights + adapters + frozen + activations
    return MemoryEstimate(weights, adapters, frozen, activations, total, tokens)


def _even(count: int, parts: int) -> list[range]:
    edges = [count * i // parts for i in range(parts + 1)]
    return [range(a, b) for a, b in itertools.pairwise(edges)]


def _causal_config(model: Any) -> bool:
    return model.get_output_embeddings() is not None and not getattr(model.config, "is_encoder_decoder", False)


def _head(model: Any, settings: TrainSettings, tokens: int, width: int, size: int) -> tuple[int, int]:
    """Bytes of the chunked head: while it runs, and what it keeps for the backward pass."""
    from .losses._chunked import _chunk_rows

    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kept = 2 * tokens * width * size  # the selected states, and their gradient
    scratch = _chunk_rows(tokens, vocabulary, 1, 4, torch.device(device)) * vocabulary * 4
    # In half precision each chunk also lives as a half-precision product and as its cast-down gradient.
    scratch *= 2 if size < 4 else 1
    return kept + scratch, kept


def estimate_phrase(session: Session, stage: int) -> str:
    """One phrase for the out-of-memory message: what this stage was expected to take."""
    try:
        estimate = estimate_memory(
            session.base.name, session.settings, domains=len(session.stages[stage]), earlier_stages=stage
        )
    except Exception:  # the message must not hide the real fault behind one of its own
        return "no estimate could be made"
    return f"estimated peak {estimate.total / 2**30:.1f} GiB"
