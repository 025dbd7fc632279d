"""Loading a base model and its tokenizer: safetensors only, no remote code unless asked, one sentence when it fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .._files import read_json
from .._hub import hub_options
from ..errors import ConfigError, ModelError
from .fingerprint import local_folder, model_fingerprint

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from .attention import FlatLayout
    from .settings import TrainSettings

__all__ = ["Base", "load_base", "model_fingerprint", "quiet", "resolve_device", "set_checkpointing"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """A frozen base model with everything the loop asks of it.

    Attributes
    ----------
    model
        The full model (`AutoModelForCausalLM` or `AutoModelForSequenceClassification`), parameters frozen.
    backbone
        Its inner model, which ends in the last hidden state.
    kind
        "decoder" (causal attention) or "encoder".
    limit
        Longest sequence the model takes, in tokens; None where its configuration names none.
    scale
        What hidden states are multiplied with before the head (1 but for models that scale their logits).
    softcap
        c of c·tanh(logits / c), or None.
    """

    model: nn.Module
    backbone: nn.Module
    tokenizer: Any
    kind: Literal["decoder", "encoder"]
    name: str
    fingerprint: str
    task: Literal["lm", "classification"]
    hidden_size: int
    limit: int | None
    pad: int
    bos: int | None
    eos: int | None
    mask: int | None
    scale: float = 1.0
    softcap: float | None = None

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    @property
    def vocabulary(self) -> int:
        """Rows of the input embedding."""
        return int(self.embedding.shape[0])

    @property
    def embedding(self) -> Tensor:
        """The input embedding, shape (vocabulary, hidden)."""
        weight: Tensor = self.model.get_input_embeddings().weight  # type: ignore[operator]
        return weight

    @property
    def head(self) -> tuple[Tensor, Tensor | None]:
        """Weight (vocabulary, hidden) and bias of the language-model head; an encoder's is its tied embedding."""
        layer = self.model.get_output_embeddings() if self.task == "lm" else None  # type: ignore[operator]
        if layer is None:
            return self.embedding, None
        return layer.weight, getattr(layer, "bias", None)

    def states(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None,
        mask: Tensor | None,
        layer: int = -1,
        *,
        flat: FlatLayout | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Last hidden states (rows, length, hidden), and those of `layer` where it is not the last."""
        arguments: dict[str, Any] = {"input_ids": input_ids, "attention_mask": mask}
        if flat is not None:
            arguments["flat"] = flat
        if self.kind == "decoder":
            arguments["use_cache"] = False
            if position_ids is not None:
                arguments["position_ids"] = position_ids
        if layer != -1:
            arguments["output_hidden_states"] = True
        output = self.backbone(**arguments)
        hidden = output.last_hidden_state
        if self.scale != 1.0:
            hidden = hidden * self.scale
        return hidden, (output.hidden_states[layer] if layer != -1 else hidden)


def set_checkpointing(model: Any, on: bool) -> None:
    """Switch activation checkpointing, under the name this version of transformers has for it.

    Raises
    ------
    ConfigError
        If the architecture has none.
    """
    name = "activation_checkpointing" if hasattr(model, "activation_checkpointing_enable") else "gradient_checkpointing"
    try:
        if on:
            getattr(model, f"{name}_enable")({"use_reentrant": False})
        else:
            getattr(model, f"{name}_disable")()
    except ValueError as fault:
        raise ConfigError(
            f"train.gradient_checkpointing: {type(model).__name__} does not support it; set it to false."
        ) from fault


def resolve_device(name: str) -> torch.device:
    """The device called `name`; "auto" takes the accelerator where there is one."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device='cuda': no CUDA device is visible; use device auto or cpu.")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("train.device='mps': this machine has no MPS device; use device auto or cpu.")
    return torch.device(name)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own messages and bars off the terminal: what matters is said by ours."""
    import transformers

    log: Any = transformers.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _check_folder(path: Path) -> None:
    if not (path / "config.json").exists():
        raise ModelError(f"{path}: not a model folder (config.json is missing); save the model with save_pretrained.")
    config = read_json(path / "config.json", error=ModelError)
    if not isinstance(config, dict):
        raise ModelError(f"{path / 'config.json'}: not a JSON object; save the model with save_pretrained.")
    if not any(path.glob("*.safetensors")):
        what = "only pickled weights" if any(path.glob("*.bin")) else "no weights"
        raise ModelError(f"{path}: {what} but no *.safetensors; save the model with safe serialisation.")
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")
    if not any((path / name).exists() for name in names):
        raise ModelError(f"{path}: the model has no tokenizer; save its tokenizer into the same folder.")


def _load(loader: Any, name: str | Path, what: str, **options: Any) -> Any:
    options |= hub_options(name)
    try:
        return loader.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError) as fault:
        first = " ".join(str(fault).split())
        first = first if len(first) <= 200 else first[:200] + "…"
        hint = "check the path, or the hub id and the network"
        if "trust_remote_code" in first:
            hint = "set train.trust_remote_code only if you trust its code"
        raise ModelError(f"{name}: its {what} cannot be loaded ({first.rstrip('.')}); {hint}.") from fault


def load_base(
    name: str | Path,
    settings: TrainSettings,
    *,
    task: Literal["lm", "classification"] = "lm",
    labels: int = 2,
    seed: int = 0,
    device: torch.device | None = None,
) -> Base:
    """Load and freeze the base model called `name` (a folder or a hub id) with its tokenizer.

    Raises
    ------
    ModelError
        If the model or its tokenizer is missing, has no safetensors, or is of a kind that cannot be trained here.
    """
    import torch
    import transformers

    from .._seeding import derive_seed

    path = local_folder(name)
    if path is not None:
        _check_folder(path)
    name = str(path.resolve() if path is not None else name)
    trust = settings.trust_remote_code
    config = _load(transformers.AutoConfig, name, "configuration", trust_remote_code=trust)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{name}: an encoder-decoder model; Kinfold trains decoders and encoders, choose one of those."
        )
    tokenizer = _load(transformers.AutoTokenizer, name, "tokenizer", trust_remote_code=trust)
    options: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": trust}
    options["dtype"] = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    if settings.attention != "auto":
        options["attn_implementation"] = settings.attention
    loader: Any = transformers.AutoModelForCausalLM
    if task == "classification":
        loader = transformers.AutoModelForSequenceClassification
        options |= {"num_labels": labels, "ignore_mismatched_sizes": True}
    with quiet(), torch.random.fork_rng(devices=[]):
        # A classification head that the checkpoint lacks is drawn here; it must not depend on what ran before.
        torch.manual_seed(derive_seed(seed, "head"))
        model = _load(loader, name, "weights", **options)
    return _freeze(model, tokenizer, name, task, device or resolve_device(settings.device), settings)


def _freeze(model: Any, tokenizer: Any, name: str, task: Any, device: torch.device, settings: TrainSettings) -> Base:
    config = model.config.get_text_config()
    backbone = model.base_model if task == "lm" else model
    if task == "lm" and (backbone is model or model.get_output_embeddings() is None):
        raise ModelError(f"{name}: no language-model head found; choose a causal language model.")
    _check_weights(model, name)
    model.requires_grad_(False)
    model.eval()
    model.to(device)
    pad = model.config.pad_token_id
    pad = pad if isinstance(pad, int) else tokenizer.pad_token_id
    if pad is None:
        # Padding is masked or never paid for, so any id serves; end-of-text is what most libraries take.
        pad = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else 0
    model.config.pad_token_id = pad
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    kind: Literal["decoder", "encoder"] = "decoder" if _causal(model) else "encoder"
    if task == "lm" and kind == "encoder":
        raise ModelError(
            f"{name}: an encoder cannot be trained as a language model; choose a decoder or label the records."
        )
    rows = int(model.get_input_embeddings().weight.shape[0])
    if len(tokenizer) > rows:
        raise ModelError(
            f"{name}: the tokenizer has {len(tokenizer)} entries but the model embeds {rows}; "
            "resize the model's embeddings and save it again."
        )
    limit = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if limit is not None and getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert"):
        limit -= int(config.pad_token_id or 0) + 1  # their positions start after the padding index
    base = Base(
        model=model,
        backbone=backbone,
        tokenizer=tokenizer,
        kind=kind,
        name=name,
        fingerprint=model_fingerprint(name),
        task=task,
        hidden_size=int(config.hidden_size),
        limit=limit,
        pad=int(pad),
        bos=tokenizer.bos_token_id,
        eos=tokenizer.eos_token_id,
        mask=tokenizer.mask_token_id,
        scale=_logit_scale(config),
        softcap=getattr(config, "final_logit_softcapping", None),
    )
    if task == "lm":
        _check_head(base)
    return base


def _check_weights(model: Any, name: str) -> None:
    """Refuse weights that are no numbers: each check to come would blame something else for them."""
    for tensor, weight in model.named_parameters():
        # One pass over memory; a NaN is its own least and largest.
        if weight.is_floating_point() and weight.numel() and not all(bool(v.isfinite()) for v in weight.aminmax()):
            raise ModelError(
                f"{name}: {tensor} holds values that are no finite numbers; get the weights anew, or choose another "
                "precision if they overflowed in this one."
            )


def _causal(model: Any) -> bool:
    """Whether a token sees only what stands before it; tried on the model itself, since configurations do not say."""
    import torch

    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]], device=model.device) % model.get_input_embeddings().weight.shape[0]
    if bool((ids[0] == ids[1]).all()):
        return True
    body = model.base_model
    with torch.no_grad():
        states = body(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return bool(torch.equal(states[0, 0], states[1, 0]))


def _logit_scale(config: Any) -> float:
    divisor = getattr(config, "logits_scaling", None)  # Granite divides, Cohere multiplies
    factor = getattr(config, "logit_scale", None)
    return float(1.0 / divisor if divisor else factor or 1.0)


def _check_head(base: Base) -> None:
    """Refuse a model whose logits are not head(hidden states): the fused losses would train something else."""
    import torch

    ids = torch.arange(4, 12, device=base.device)[None] % base.vocabulary
    with torch.no_grad():
        wanted = base.model(input_ids=ids, use_cache=False).logits.float()
        hidden, _ = base.states(ids, None, None)
        weight, bias = base.head
        got = torch.nn.functional.linear(hidden, weight, bias).float()
        if base.softcap:
            got = base.softcap * torch.tanh(got / base.softcap)
    scale = wanted.abs().max().clamp(min=1e-6)
    if got.shape != wanted.shape or bool(((got - wanted).abs().max() / scale) > 2e-2):
        raise ModelError(
            f"{base.name}: its logits are not head(last hidden state), so the fused losses do not fit; "
            "report the model type, or choose another base."
        )
