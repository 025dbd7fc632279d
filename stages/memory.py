"""How much memory a training step takes, found without allocating it.

The model is built on the meta device, where tensors have shapes and no storage; one forward and backward pass of the
adapted backbone runs there while every storage is counted from birth to death. So the figure follows the actual
architecture, adapters, precision and checkpointing, not a formula for one family of models. What the meta device
cannot run, the chunked head, is added from its known sizes. Not counted is what lies outside tensors: the interpreter
and its libraries, and an allocator's slack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from ..errors import ModelError
from ._batch_shape import BatchShape
from ._meter import StorageMeter

if TYPE_CHECKING:
    from pathlib import Path

    from .bank import FrozenShared, LoraBank
    from .batches import Item
    from .collate import Layout
    from .session import Session
    from .settings import TrainSettings
    from .stores import Stores

__all__ = [
    "BatchShape",
    "MemoryEstimate",
    "StorageMeter",
    "estimate_memory",
    "estimate_phrase",
    "estimate_stage",
    "largest_shape",
]

_SHAPES = "kinfold_shapes"
_LOOKED_AT = 24  # steps whose micro-batches are compared for the largest


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
        Tokens in the forward pass of one micro-batch, all loss terms together, padding included.
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


def estimate_memory(
    model: str | Path,
    settings: TrainSettings,
    *,
    domains: int = 1,
    earlier_stages: int = 0,
    lengths: Sequence[int] | None = None,
    tokens: int | None = None,
    task: Literal["lm", "classification"] = "lm",
    layout: Layout | None = None,
    shape: BatchShape | None = None,
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
    task
        "classification" leaves the language-model head out and pads rows.
    layout
        How documents become tensors; None takes what the settings ask for, flat where they leave it open.
    shape
        A real micro-batch instead of a typical one.

    Raises
    ------
    ModelError
        If the configuration cannot be loaded or the architecture cannot be built on the meta device.
    """
    import transformers

    from .model import _load

    config = _load(transformers.AutoConfig, str(model), "configuration", trust_remote_code=settings.trust_remote_code)
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    names = ("AutoModelForCausalLM", "AutoModel") if task == "lm" else ("AutoModelForSequenceClassification",)
    built: Any = None
    with torch.device("meta"):
        for name in names:
            try:
                built = getattr(transformers, name).from_config(config, dtype=dtype)
                break
            except ValueError as fault:
                if name == names[-1]:
                    raise ModelError(
                        f"{model}: its architecture cannot be built ({fault}); choose another base."
                    ) from fault
    built.requires_grad_(False)
    if layout is None:
        flat = task == "lm" and settings.layout in ("auto", "flat") and not settings.compile and _flat_model(built)
        layout = "flat" if flat else "packed" if settings.layout == "packed" and task == "lm" else "padded"
    if shape is None:
        limit = getattr(config, "max_position_embeddings", None) or settings.max_length
        shape = BatchShape.typical(
            settings,
            domains=domains,
            layout=layout,
            lengths=lengths,
            tokens=tokens,
            max_length=min(settings.max_length, limit),
            decoder=name == "AutoModelForCausalLM",
        )
    return _measure(built, settings, shape, layout, earlier_stages)


def _flat_model(model: Any) -> bool:
    decoder = model.get_output_embeddings() is not None and not getattr(model.config, "is_encoder_decoder", False)
    return decoder and model.config._attn_implementation == "sdpa"


def _measure(model: Any, settings: TrainSettings, shape: BatchShape, layout: Layout, earlier: int) -> MemoryEstimate:
    from .model import set_checkpointing

    weights = sum(p.numel() * p.element_size() for p in {id(p): p for p in model.parameters()}.values())
    earlier = earlier if settings.adapters != "domain" else 0
    bank = _attached(model, settings, len(shape.groups), earlier)
    trainable = sum(p.numel() for p in bank.parameters())
    shared = sum(p.numel() for p in bank.shared_parameters())
    routing = bank.route(tokens=shape.groups) if layout == "flat" else bank.route(shape.groups)
    if settings.gradient_checkpointing:
        set_checkpointing(model, True)
    model.train()
    meter = StorageMeter()
    with meter, routing:
        hidden = model.base_model(**_arguments(model, shape, layout)).last_hidden_state
        forward = meter.now
        hidden.sum().backward()
    width, size = int(hidden.shape[-1]), hidden.element_size()
    head, kept = _head(model, settings, shape, width, size) if model.get_output_embeddings() is not None else (0, 0)
    gradients = trainable * 4
    # Of several micro-batches, all but the first find gradients already there while their activations pile up.
    waiting = gradients if settings.accumulation > 1 else 0
    # The head runs when all activations are alive; its kept gradient rides along into the backward pass, which
    # counts the gradients as they come.
    peak = max(forward + head + waiting, meter.peak + kept)
    frozen = earlier * shared * 4
    adapters = trainable * 4 * 4
    total = weights + frozen + trainable * 4 * 3 + max(peak, gradients)
    activations = total - weights - frozen - adapters
    return MemoryEstimate(weights, adapters, frozen, activations, total, shape.rows * shape.length)


def _attached(model: Any, settings: TrainSettings, domains: int, earlier: int) -> LoraBank:
    """The bank of such a stage, behind the shared adapters of earlier ones."""
    from .bank import LoraBank

    frozen: list[FrozenShared] = []
    for _ in range(earlier):
        bank = LoraBank.attach(model, ("d",), settings.lora, shared=True, domain_adapters=False)
        frozen.append(bank.freeze_shared())
        bank.detach()
    return LoraBank.attach(
        model,
        tuple(f"d{i}" for i in range(domains)),
        settings.lora,
        shared=settings.adapters != "domain",
        domain_adapters=settings.adapters != "shared",
        frozen=frozen,
    )


def _arguments(model: Any, shape: BatchShape, layout: Layout) -> dict[str, Any]:
    """What the backbone is called with; its attention is one that knows what a fused kernel keeps."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    from ._fused import fuse
    from .attention import FLAT, _flat_attention, flat_layout

    ids = torch.zeros(shape.rows, shape.length, dtype=torch.long, device="meta")
    arguments: dict[str, Any] = {"input_ids": ids}
    if layout == "flat":
        AttentionInterface.register(FLAT, _flat_attention)
        AttentionMaskInterface.register(FLAT, sdpa_mask)
        model.set_attn_implementation(FLAT)
        fuse(model)
        arguments |= {
            "position_ids": torch.zeros_like(ids),
            "attention_mask": torch.ones(1, 1, 1, 1, device="meta"),
            "flat": flat_layout(shape.documents, "meta"),
            "use_cache": False,
        }
    else:
        if model.config._attn_implementation == "sdpa":
            AttentionInterface.register(_SHAPES, _shape_attention)
            AttentionMaskInterface.register(_SHAPES, sdpa_mask)
            model.set_attn_implementation(_SHAPES)
        # Made already, as otherwise its content would be looked at; it is there in a real step, too.
        arguments["attention_mask"] = ids.new_ones(shape.rows, 1, shape.length, shape.length, dtype=torch.bool)
        if "use_cache" in model.config.to_dict():
            arguments["use_cache"] = False
    return arguments


def _shape_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Padded rows: what a fused kernel keeps of query (rows, heads, n, d), key and value (rows, kv heads, n, d)."""
    from .attention import _Shape

    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out: Tensor = _Shape.apply(query, key, value)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2).contiguous(), None


def _head(model: Any, settings: TrainSettings, shape: BatchShape, width: int, size: int) -> tuple[int, int]:
    """Bytes of the chunked losses: at most while they run, and what they keep for the backward pass."""
    from .losses._chunked import scratch_bytes

    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    capped = getattr(model.config, "final_logit_softcapping", None) is not None
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"

    def scratch(rows: int, buffers: int) -> int:
        return scratch_bytes(rows, vocabulary, width, buffers, size, torch.device(device), capped=capped)

    paid, general = shape.paid * width * size, shape.general * width * size
    # Each loss holds the states it selected and their gradient; KL also the base's states, from before the forward.
    task = general + 2 * paid + scratch(shape.paid, 1)
    kl = paid + 3 * general + scratch(shape.general, 3) if general else 0
    return max(task, kl), paid + general


def largest_shape(session: Session, stores: Stores, stage: int) -> BatchShape:
    """The largest micro-batch of the first steps of stage number `stage` (from 0)."""
    from .collate import collate, corrupted_items
    from .stores import schedule_of

    schedule = schedule_of(session, stores, stage)
    base, layout, limit = session.base, session.layout, session.encoder.max_length
    largest: list[Item] = []
    most = 0
    for number in range(min(schedule.steps, _LOOKED_AT)):
        for items in schedule.step(number):
            cost = sum(item.length for item in items)
            if layout == "padded" and items:
                cost = len(items) * max(item.length for item in items)
            if cost > most:
                largest, most = items, cost
    corrupted = corrupted_items([largest], base, session.settings, seed=session.seed, max_length=limit)
    micro = collate(largest, base, len(schedule.domains), layout=layout, max_length=limit, corrupted=corrupted)
    lengths = [len(corrupted[item][0]) if corrupted and item in corrupted else item.length for item in largest]
    return BatchShape.of(micro, lengths)


def estimate_stage(session: Session, stores: Stores, stage: int) -> MemoryEstimate:
    """Peak memory of stage number `stage` (from 0) on its own texts."""
    return estimate_memory(
        session.base.name,
        session.settings,
        earlier_stages=stage,
        task=session.base.task,
        layout=session.layout,
        shape=largest_shape(session, stores, stage),
    )


def estimate_phrase(session: Session, stage: int) -> str:
    """One phrase for the out-of-memory message: what this stage was expected to take."""
    try:
        estimate = estimate_memory(
            session.base.name,
            session.settings,
            domains=len(session.stages[stage]),
            earlier_stages=stage,
            task=session.base.task,
            layout=session.layout,
        )
    except Exception:  # the message must not hide the real fault behind one of its own
        return "no estimate could be made"
    return f"estimated peak {estimate.total / 2**30:.1f} GiB"
