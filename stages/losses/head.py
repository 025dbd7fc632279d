"""Cross-entropy and KL divergence from hidden states, without the logits of more than a few rows at a time.

The head's product, the softmax and the gradient with respect to the hidden states run chunk by chunk in the forward
pass; the backward pass only scales what is kept (H numbers a row instead of V). Sums are kept by domain: row i's
gradient is that of its own loss, and the backward multiplies it by the weight its domain's sum received, so weights
chosen later are exact. A head that is trained itself costs one more product, in the backward pass.

The idea of taking the gradient in the forward is that of Liger-Kernel (Hsu et al. 2024, arXiv 2410.10989) and of cut
cross-entropy (Wijmans et al. 2024, arXiv 2411.09009).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...errors import ConfigError
from ._chunked import CrossEntropyRows, KLRows, run

__all__ = ["IGNORE", "fused_cross_entropy", "fused_kl"]

IGNORE = -100


def _checked(hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None, chunk: int | None) -> None:
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1]:
        raise ConfigError(
            f"hidden states {tuple(hidden.shape)} and head {tuple(weight.shape)} do not fit; "
            "they must be (rows, H) and (V, H)."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ConfigError(f"head bias {tuple(bias.shape)} does not fit the head; it must be ({weight.shape[0]},).")
    if softcap is not None and not softcap > 0:
        raise ConfigError(f"softcap={softcap!r} must be positive, or None for no cap.")
    if chunk is not None and chunk < 1:
        raise ConfigError(f"chunk={chunk!r} must be at least 1 row, or None to choose by memory.")


def _rows_of(n: int, domain_of_row: Tensor | None, n_domains: int, device: torch.device) -> Tensor:
    if domain_of_row is None:
        return torch.zeros(n, dtype=torch.long, device=device)
    if domain_of_row.shape != (n,):
        raise ConfigError(
            f"domain_of_row has shape {tuple(domain_of_row.shape)}; it must name a domain for each of {n} rows."
        )
    if n and not 0 <= int(domain_of_row.min()) <= int(domain_of_row.max()) < n_domains:
        raise ConfigError(f"domain_of_row must lie in 0..{n_domains - 1}; raise n_domains or mend the indices.")
    return domain_of_row.to(device=device, dtype=torch.long)


def fused_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    domain_of_row: Tensor | None = None,
    n_domains: int = 1,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    chunk: int | None = None,
    ignore_index: int = IGNORE,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of ``softmax(cap(hidden @ weight.T + bias))`` against labels, summed by domain, in nats.

    Parameters
    ----------
    hidden
        Last hidden states (N, H), already shifted against the labels for causal models.
    weight, bias
        The head (V, H) and (V,). Gradients flow to them where they require it.
    labels
        Class or token of each row (N,); rows with `ignore_index` are dropped before the head.
    domain_of_row
        Domain of each row (N,), 0..n_domains-1; None for one domain.
    n_domains
        Number of sums returned.
    softcap
        Logits become ``softcap * tanh(logits / softcap)`` (Gemma 2); None for none.
    chunk
        Rows whose logits exist at once; None keeps scratch memory near 96 MiB on a CPU, 512 MiB on an accelerator.
    ignore_index
        The label of rows that do not count.

    Returns
    -------
    sums : Tensor
        (n_domains,) sums of the loss, differentiable; fp32, or fp64 for fp64 inputs.
    counts : Tensor
        (n_domains,) int64 numbers of rows that count.

    Raises
    ------
    ConfigError
        When shapes do not fit, or a label lies outside of the head.
    """
    _checked(hidden, weight, bias, softcap, chunk)
    if labels.shape != hidden.shape[:1]:
        raise ConfigError(
            f"labels {tuple(labels.shape)} do not fit {hidden.shape[0]} hidden states; give one label a row."
        )
    domains = _rows_of(hidden.shape[0], domain_of_row, n_domains, hidden.device)
    labels = labels.to(hidden.device)
    rows = torch.nonzero(labels != ignore_index).squeeze(1)
    kept = labels[rows]
    if rows.numel() and not 0 <= int(kept.min()) <= int(kept.max()) < weight.shape[0]:
        raise ConfigError(
            f"labels span {int(kept.min())}..{int(kept.max())}, but the head knows 0..{weight.shape[0] - 1}; "
            "use the model's own tokenizer or a head with enough classes."
        )
    kind = CrossEntropyRows(kept)
    return run(hidden, weight, bias, kind, rows, domains[rows], n_domains, softcap, chunk)


def fused_kl(
    hidden: Tensor,
    base_hidden: Tensor,
    weight: Tensor,
    direction: Literal["forward", "reverse"] = "reverse",
    domain_of_row: Tensor | None = None,
    n_domains: int = 1,
    *,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    base_weight: Tensor | None = None,
    base_bias: Tensor | None = None,
    softcap: float | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Kullback–Leibler divergence between a model's and its base's next-token distributions, summed by domain, in nats.

    Only the base's hidden states are kept, H numbers a row; its logits are made again chunk by chunk, which is exact
    because the head is frozen. "reverse" is KL(p_θ ‖ p_0), the model first, as MoL (arXiv 2505.12043) has it;
    "forward" is KL(p_0 ‖ p_θ).

    Parameters
    ----------
    hidden, base_hidden
        Last hidden states (N, H) with and without adapters; no gradient flows to the base's.
    weight, bias
        The model's head (V, H), (V,).
    direction
        Which distribution the expectation is over: "reverse" the model's, "forward" the base's.
    domain_of_row, n_domains, softcap, chunk
        As in :func:`fused_cross_entropy`.
    mask
        (N,) bool; rows that are False are dropped before the head.
    base_weight, base_bias
        The base's head where it differs from the model's.

    Returns
    -------
    sums, counts : Tensor
        As in :func:`fused_cross_entropy`; each row's term is at least 0 up to rounding.

    Raises
    ------
    ConfigError
        When shapes do not fit or the direction is unknown.
    """
    _checked(hidden, weight, bias, softcap, chunk)
    if direction not in ("forward", "reverse"):
        raise ConfigError(f"direction={direction!r} must be 'forward' (KL(p_0‖p_θ)) or 'reverse' (KL(p_θ‖p_0)).")
    if base_hidden.shape[0] != hidden.shape[0]:
        raise ConfigError(
            f"{base_hidden.shape[0]} base hidden states do not fit {hidden.shape[0]} of the model; give one each."
        )
    _checked(base_hidden, weight if base_weight is None else base_weight, base_bias, None, None)
    domains = _rows_of(hidden.shape[0], domain_of_row, n_domains, hidden.device)
    if mask is None:
        rows = torch.arange(hidden.shape[0], device=hidden.device)
    else:
        if mask.shape != hidden.shape[:1]:
            raise ConfigError(
                f"mask {tuple(mask.shape)} does not fit {hidden.shape[0]} hidden states; give one entry a row."
            )
        rows = torch.nonzero(mask.to(hidden.device)).squeeze(1)
    own_head = base_weight is None
    kind = KLRows(
        base_hidden.detach(),
        weight.detach() if base_weight is None else base_weight.detach(),
        (bias if own_head else base_bias),
        rows,
        softcap,
        reverse=direction == "reverse",
    )
    return run(hidden, weight, bias, kind, rows, domains[rows], n_domains, softcap, chunk)
