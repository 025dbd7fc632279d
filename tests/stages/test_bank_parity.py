"""The bank against PEFT itself, adapter by adapter: outputs and gradients, on every kind of model."""

from __future__ import annotations

import copy

import pytest
import torch
from banks import DOMAINS, LENGTH, MODELS, fill, llama
from kinfold.stages.bank import LoraBank, LoraSpec
from peft_twins import compare, looped, peft_gradients, peft_twin
from torch import nn

ROWS = ([2, 2, 2], [1, 3, 2], [0, 2, 3], [4, 0, 0])


@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("kind", MODELS)
def test_equals_peft_adapter_by_adapter(kind: str, rows: list[int]) -> None:
    torch.manual_seed(0)
    base = MODELS[kind]()
    reference = copy.deepcopy(base)
    bank = LoraBank.attach(base, DOMAINS, LoraSpec(rank=4, alpha=8), seed=1)
    fill(bank, 5, 0.2)
    compare(bank, peft_twin(reference, bank), rows)


@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("kind", MODELS)
def test_equals_peft_where_widths_and_rows_suit_the_compiled_products(kind: str, rows: list[int]) -> None:
    """Widths of 64 and 96 and 120 tokens and more run on tile registers where there are any."""
    torch.manual_seed(0)
    base = MODELS[kind](64)
    reference = copy.deepcopy(base)
    bank = LoraBank.attach(base, DOMAINS, LoraSpec(rank=4, alpha=8), seed=1)
    fill(bank, 5, 0.1)
    compare(bank, peft_twin(reference, bank), rows, length=40)


@pytest.mark.parametrize(("shared", "own"), [(True, False), (False, True)])
def test_equals_peft_with_one_kind_of_adapter(shared: bool, own: bool) -> None:
    torch.manual_seed(0)
    base = llama()
    reference = copy.deepcopy(base)
    spec = LoraSpec(rank=3, alpha=5, rslora=True, targets=("q_proj", "down_proj"))
    bank = LoraBank.attach(base, DOMAINS, spec, shared=shared, domain_adapters=own)
    fill(bank, 5, 0.2)
    compare(bank, peft_twin(reference, bank), [1, 3, 2])


def test_training_one_domain_is_plain_peft_training() -> None:
    """Twelve AdamW steps with clipping, step for step."""
    torch.manual_seed(0)
    base = llama()
    reference = copy.deepcopy(base)
    bank = LoraBank.attach(base, ("only",), LoraSpec(rank=4, alpha=8), shared=False, seed=1)
    twin = peft_twin(reference, bank)
    ours = torch.optim.AdamW(bank.parameters(), lr=2e-2, weight_decay=0.1, fused=True)
    lora = [p for n, p in twin.named_parameters() if "lora_" in n]
    theirs = torch.optim.AdamW(lora, lr=2e-2, weight_decay=0.1)
    losses: list[list[float]] = [[], []]
    for step in range(12):
        ids = torch.randint(1, 61, (4, LENGTH), generator=torch.Generator().manual_seed(step % 2))
        with bank.route([4]):
            one = base(input_ids=ids, labels=ids).loss
        two = twin(input_ids=ids, labels=ids).loss
        for loss, parameters, optimiser, values in (
            (one, bank.parameters(), ours, losses[0]),
            (two, lora, theirs, losses[1]),
        ):
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 0.5)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            values.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], abs=2e-5)
    assert losses[0][-1] < losses[0][0] - 0.05, "nothing was learnt, so nothing is shown"


def test_autocast_runs_products_in_bf16_and_keeps_fp32_gradients() -> None:
    torch.manual_seed(0)
    base = llama()
    reference = copy.deepcopy(base)
    bank = LoraBank.attach(base, DOMAINS, LoraSpec(rank=4, alpha=8), seed=1)
    fill(bank, 5, 0.2)
    twin = peft_twin(reference, bank)
    rows = [2, 2, 2]
    ids = torch.randint(1, 61, (6, LENGTH))
    expected = looped(twin, bank, ids, rows)
    expected.square().mean().backward()
    exact = peft_gradients(twin, bank)
    twin.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        looped(twin, bank, ids, rows).float().square().mean().backward()
        with bank.route(rows):
            logits = base(input_ids=ids).logits
    assert logits.dtype == torch.bfloat16
    logits.float().square().mean().backward()
    peft = peft_gradients(twin, bank)
    for name, parameter in bank.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        truth = exact[name]
        other = peft[name]
        assert truth is not None
        assert other is not None
        ours, theirs = (parameter.grad - truth).norm() / truth.norm(), (other - truth).norm() / truth.norm()
        # No worse than PEFT's own bf16 error, but for rounding luck.
        assert ours < max(2 * theirs, 0.02), f"{name}: {ours:.4f} against {theirs:.4f}"


def test_a_bf16_model_trains_fp32_adapters() -> None:
    torch.manual_seed(0)
    base = llama().to(torch.bfloat16)
    bank = LoraBank.attach(base, DOMAINS, LoraSpec(rank=4))
    fill(bank, 5, 0.2)
    with bank.route([1, 2, 0]):
        logits = base(input_ids=torch.randint(1, 61, (3, LENGTH))).logits
    logits.float().sum().backward()
    assert logits.dtype == torch.bfloat16
    for parameter in bank.shared_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32


def test_dropout_keeps_the_expectation_and_the_gradient_of_its_own_mask() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(6, 5)).double()
    bank = LoraBank.attach(layer, ("a", "b"), LoraSpec(rank=2, dropout=0.4, targets=("0",)))
    fill(bank, 5, 0.2)
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    layer.train()

    def run(inputs: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(11)
        with bank.route([1, 3]):
            return layer(inputs)

    a, b = bank.shared_parameters()
    own = [bank.parameters("a"), bank.parameters("b")]
    torch.manual_seed(11)
    dropped = torch.nn.functional.dropout(x, 0.4)
    delta = torch.cat([d @ p[0].double().T @ p[1].double() for d, p in zip(dropped.split([1, 3]), own, strict=True)])
    expected = torch.nn.functional.linear(x, layer[0].weight, layer[0].bias)
    expected = expected + bank.spec.scaling * (dropped @ a.double().T @ b.double() + delta)
    torch.testing.assert_close(run(x), expected)
    wanted = torch.autograd.grad(expected.square().sum(), (x, a, b, *own[1]))
    got = torch.autograd.grad(run(x).square().sum(), (x, a, b, *own[1]))
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    layer.eval()
    with bank.route([1, 3]):
        torch.testing.assert_close(layer(x), layer(x))
