"""LoRA factors as PEFT folders: written so that ``PeftModel.from_pretrained`` reproduces the bank exactly.

Several adapters that act at once become one by concatenation along the rank: with components (A_c, B_c, s_c),
Σ_c s_c B_c A_c = [s_1 B_1, s_2 B_2, ...] · [A_1; A_2; ...], an adapter of the summed rank and of scale 1. Where a
smaller rank is wanted, :func:`compress` truncates the singular values of that product, found from the factors alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._files import atomic_dir, read_json, write_json
from ..errors import ModelError

__all__ = ["Compressed", "LowRank", "compress", "concatenate", "read_peft", "write_peft"]

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class LowRank:
    """One adapter as plain factors.

    Attributes
    ----------
    factors
        Layer path → (A (rank, in), B (rank, out)); ranks may differ between layers. Note B's layout: the update is
        ``scaling * B.T @ A``.
    scaling
        Factor in front of every product.
    fan_in_fan_out
        Layer paths whose weight is stored (in, out), as GPT-2's ``Conv1D``.
    """

    factors: Mapping[str, tuple[Tensor, Tensor]]
    scaling: float = 1.0
    fan_in_fan_out: frozenset[str] = field(default_factory=frozenset)

    @property
    def rank(self) -> int:
        """The largest rank of any layer."""
        return max((a.shape[0] for a, _ in self.factors.values()), default=0)


def concatenate(components: Sequence[LowRank]) -> LowRank:
    """The sum of several adapters as one of scale 1, by joining factors along the rank; exact.

    A component that lacks a layer adds nothing there.
    """
    joined: dict[str, tuple[Tensor, Tensor]] = {}
    names = list(dict.fromkeys(name for part in components for name in part.factors))
    for name in names:
        present = [part for part in components if name in part.factors]
        a = torch.cat([part.factors[name][0].detach() for part in present])
        b = torch.cat([part.factors[name][1].detach() * part.scaling for part in present])
        joined[name] = (a, b)
    return LowRank(joined, 1.0, frozenset().union(*(part.fan_in_fan_out for part in components)))


@dataclass(frozen=True)
class Compressed:
    """A truncated adapter and what was lost.

    Attributes
    ----------
    adapter
        The adapter of smaller rank.
    error
        ‖Δ − Δ_r‖_F / ‖Δ‖_F over all layers, 0 to 1; 0 where nothing was lost.
    per_layer
        The same for each layer.
    """

    adapter: LowRank
    error: float
    per_layer: Mapping[str, float]


@torch.no_grad()
def compress(adapter: LowRank, rank: int) -> Compressed:
    """The best adapter of a given rank in Frobenius norm (Eckart–Young), layer by layer, without a dense matrix.

    QR of the two thin factors leaves an R×R core, whose singular value decomposition is the product's; all in
    float64. The square root of each singular value goes to either side.

    Raises
    ------
    ModelError
        When `rank` is below 1.
    """
    if rank < 1:
        raise ModelError(f"rank={rank} for a compressed adapter must be at least 1; 8 or 16 are usual.")
    small: dict[str, tuple[Tensor, Tensor]] = {}
    lost: dict[str, float] = {}
    sum_lost = sum_all = 0.0
    for name, (a, b) in adapter.factors.items():
        q_a, r_a = torch.linalg.qr(a.detach().double().T)  # (in, k), (k, R)
        q_b, r_b = torch.linalg.qr(b.detach().double().T)  # (out, k), (k, R)
        u, sigma, vh = torch.linalg.svd(adapter.scaling * (r_b @ r_a.T), full_matrices=False)
        root = sigma[:rank].clamp_min(0).sqrt()
        new_a = root[:, None] * (vh[:rank] @ q_a.T)
        new_b = root[:, None] * (q_b @ u[:, :rank]).T
        missing = rank - root.numel()
        if missing > 0:  # PEFT wants one rank for all layers; zero rows add nothing.
            new_a = torch.cat([new_a, new_a.new_zeros(missing, new_a.shape[1])])
            new_b = torch.cat([new_b, new_b.new_zeros(missing, new_b.shape[1])])
        small[name] = (new_a.to(a.dtype), new_b.to(b.dtype))
        squares = sigma.square()
        gone, everything = float(squares[rank:].sum()), float(squares.sum())
        lost[name] = math.sqrt(gone / everything) if everything > 0 else 0.0
        sum_lost += gone
        sum_all += everything
    error = math.sqrt(sum_lost / sum_all) if sum_all > 0 else 0.0
    return Compressed(LowRank(small, 1.0, adapter.fan_in_fan_out), error, lost)


def _shortest_targets(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Ends of paths where they select exactly `names` among all layers (vLLM wants these), else the full paths."""
    ends = sorted({name.rpartition(".")[2] for name in names})
    wanted = set(names)
    selected = {name for name in {*names, *others} if name.rpartition(".")[2] in ends}
    return ends if selected == wanted else sorted(names)


def write_peft(
    path: str | Path,
    adapter: LowRank,
    *,
    base_name: str | None = None,
    task_type: str | None = None,
    dropout: float = 0.0,
    all_layers: Sequence[str] = (),
    heads: Mapping[str, Mapping[str, Tensor]] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write an adapter as a PEFT folder, atomically.

    Parameters
    ----------
    path
        The folder; replaced if it exists.
    adapter
        Factors; its scaling is folded into B and the folder says ``lora_alpha = r``, so readers scale by 1.
    base_name
        The base model's path or hub id, for readers that load it themselves.
    task_type
        PEFT's: CAUSAL_LM, SEQ_CLS, TOKEN_CLS, FEATURE_EXTRACTION or None.
    dropout
        Recorded for those who train further.
    all_layers
        All layer paths of the model, to find out whether short target names are unambiguous.
    heads
        Fully trained modules: module path → its tensors by name (``{"score": {"weight": ...}}``).
    metadata
        Strings for the safetensors header.

    Raises
    ------
    ModelError
        When the adapter has no layer.
    """
    from safetensors.torch import save_file

    if not adapter.factors:
        raise ModelError(f"{path}: the adapter has no layers, so there is nothing to write; choose targets that exist.")
    rank = adapter.rank
    tensors: dict[str, Tensor] = {}
    for name, (a, b) in adapter.factors.items():
        a, b = a.detach().cpu(), (b.detach() * adapter.scaling).cpu()
        if a.shape[0] < rank:
            a = torch.cat([a, a.new_zeros(rank - a.shape[0], a.shape[1])])
            b = torch.cat([b, b.new_zeros(rank - b.shape[0], b.shape[1])])
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = a.contiguous()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = b.T.contiguous()
    for module, parts in (heads or {}).items():
        for key, value in parts.items():
            tensors[f"{_PREFIX}{module}.{key}"] = value.detach().cpu().contiguous()
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": dropout,
        "target_modules": _shortest_targets(list(adapter.factors), all_layers),
        "modules_to_save": sorted(heads) if heads else None,
        "fan_in_fan_out": bool(adapter.fan_in_fan_out),
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    with atomic_dir(path) as folder:
        write_json(folder / CONFIG, config)
        save_file(tensors, str(folder / WEIGHTS), metadata={"format": "pt", **(metadata or {})})
    return Path(path)


_REFUSED = {
    "use_dora": "is a DoRA adapter, whose update is not a plain product",
    "lora_bias": "carries a bias beside B, which a bank has no place for",
    "rank_pattern": "has ranks that differ between layers",
    "alpha_pattern": "has scales that differ between layers",
    "trainable_token_indices": "trains token embeddings too",
    "modules_to_save": None,
}


def read_peft(path: str | Path) -> LowRank:
    """Read a PEFT LoRA folder (safetensors only) as plain factors; heads in it are left alone.

    Raises
    ------
    ModelError
        When the folder lacks a file, is no LoRA adapter, or uses a variant that plain factors cannot express.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(path)
    config = read_json(folder / CONFIG, error=ModelError)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise ModelError(f"{folder}: not a LoRA adapter of PEFT; name a folder with an {CONFIG} of peft_type LORA.")
    for key, why in _REFUSED.items():
        if why is not None and config.get(key):
            raise ModelError(f"{folder}: {why} ({key}); merge or convert it to a plain LoRA with PEFT first.")
    if config.get("bias", "none") != "none":
        raise ModelError(f"{folder}: trains biases (bias={config['bias']!r}); only bias='none' can be imported.")
    file = folder / WEIGHTS
    if not file.is_file():
        raise ModelError(f"{file}: no such file; save the adapter with safetensors (pickled .bin files are not read).")
    try:
        tensors = load_file(str(file))
    except (SafetensorError, OSError) as fault:
        raise ModelError(f"{file}: not a readable safetensors file ({fault}); save the adapter again.") from None
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise ModelError(
            f"{folder / CONFIG}: r={rank!r}, lora_alpha={alpha!r} are no rank and scale; save the adapter again."
        )
    scaling = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for key, a in tensors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        name = key.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        b = tensors.get(key.replace(".lora_A.weight", ".lora_B.weight"))
        if b is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise ModelError(f"{file}: layer {name} has no matching pair of lora_A and lora_B; save the adapter again.")
        factors[name] = (a, b.T.contiguous())
    if not factors:
        raise ModelError(f"{file}: holds no lora_A.weight tensors; only linear layers can be imported.")
    flipped = frozenset(factors) if config.get("fan_in_fan_out") else frozenset()
    return LowRank(factors, scaling, flipped)
