"""PEFT's model with the adapters of a bank, run adapter by adapter; for tests that compare the two."""

from __future__ import annotations

import copy

import torch
from banks import LENGTH
from kinfold.stages.bank import LoraBank
from peft import LoraConfig, get_peft_model
from torch import nn


def peft_twin(base: nn.Module, bank: LoraBank) -> nn.Module:
    """PEFT's model with the same adapters, one per domain and one called `shared`."""
    spec = bank.spec
    names = (["shared"] if bank.has_shared else []) + [f"d_{name}" for name in bank.domains if bank.has_domains]
    config = LoraConfig(
        r=spec.rank, lora_alpha=spec.alpha, use_rslora=spec.rslora, target_modules=list(bank.sites), lora_dropout=0.0
    )
    model = get_peft_model(copy.deepcopy(base), config, adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    modules = dict(model.base_model.model.named_modules())
    with torch.no_grad():
        for key, value in bank.state_dict().items():
            kind, _, rest = key.partition("/")
            adapter = "shared" if kind == "shared" else "d_" + rest.split("/")[0]
            site, factor = rest.split("/")[-2:]
            layer = modules[site]
            if factor == "A":
                layer.lora_A[adapter].weight.copy_(value)
            else:
                layer.lora_B[adapter].weight.copy_(value.T)
    return model


def activate(model: nn.Module, bank: LoraBank, domain: str) -> None:
    active = (["shared"] if bank.has_shared else []) + ([f"d_{domain}"] if bank.has_domains else [])
    model.base_model.set_adapter(active)
    # set_adapter turns gradients of the others off: one of PEFT's traps.
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(True)


def peft_gradients(model: nn.Module, bank: LoraBank) -> dict[str, torch.Tensor | None]:
    modules = dict(model.base_model.model.named_modules())
    result: dict[str, torch.Tensor | None] = {}
    for key, _ in bank.named_parameters():
        kind, _, rest = key.partition("/")
        adapter = "shared" if kind == "shared" else "d_" + rest.split("/")[0]
        site, factor = rest.split("/")[-2:]
        weight = (modules[site].lora_A if factor == "A" else modules[site].lora_B)[adapter].weight
        result[key] = None if weight.grad is None else (weight.grad if factor == "A" else weight.grad.T)
    return result


def looped(model: nn.Module, bank: LoraBank, ids: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """PEFT's logits, domain by domain."""
    parts, start = [], 0
    for domain, count in zip(bank.domains, rows, strict=True):
        if count:
            activate(model, bank, domain)
            parts.append(model(input_ids=ids[start : start + count]).logits)
        start += count
    return torch.cat(parts)


def compare(bank: LoraBank, twin: nn.Module, rows: list[int], tolerance: float = 1e-5, length: int = LENGTH) -> None:
    """Logits and gradients of both agree; a domain without rows has no gradient at all."""
    ids = torch.randint(1, 61, (sum(rows), length), generator=torch.Generator().manual_seed(3))
    for parameter in (*bank.parameters(), *twin.parameters()):
        parameter.grad = None
    expected = looped(twin, bank, ids, rows)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(4))
    (expected * weights).sum().backward()
    with bank.route(rows):
        logits = bank.model(input_ids=ids).logits
    (logits * weights).sum().backward()
    torch.testing.assert_close(logits, expected, rtol=tolerance, atol=tolerance)
    reference = peft_gradients(twin, bank)
    absent = {f"domain/{name}" for name, count in zip(bank.domains, rows, strict=True) if not count}
    for name, parameter in bank.named_parameters():
        if any(name.startswith(prefix + "/") for prefix in absent):
            assert parameter.grad is None, f"{name} of an absent domain has a gradient, so AdamW would move it"
            continue
        wanted = reference[name]
        assert (parameter.grad is None) == (wanted is None), name
        if wanted is not None and parameter.grad is not None:
            assert wanted.abs().max() > 1e-4, f"{name}: a zero gradient proves nothing"
            scale = float(wanted.abs().max())
            torch.testing.assert_close(parameter.grad, wanted, rtol=tolerance, atol=tolerance * max(1.0, scale))
