"""How rows find their domain's adapter: token counts, recomputation, the meta device, compiled graphs."""

from __future__ import annotations

import copy

import pytest
import torch
from banks import DOMAINS, LENGTH, fill, llama
from kinfold.stages.bank import LoraBank, LoraSpec
from torch import nn


def one_layer() -> tuple[nn.Module, LoraBank]:
    """A layer of six inputs and five outputs with filled adapters of the domains a and b."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(6, 5))
    bank = LoraBank.attach(layer, ("a", "b"), LoraSpec(rank=2, targets=("0",)))
    fill(bank, 5, 0.2)
    return layer, bank


def test_token_counts_route_a_batch_that_is_one_row() -> None:
    """One row of documents back to back gives each token the layer its domain has."""
    layer, bank = one_layer()
    x = torch.randn(1, 7, 6)
    with bank.route(tokens=(3, 4)):
        y = layer(x)
    with bank.serve("a"):
        first = layer(x)
    with bank.serve("b"):
        second = layer(x)
    torch.testing.assert_close(y, torch.cat([first[:, :3], second[:, 3:]], 1))
    assert (first - second).abs().max() > 1e-2


def test_rows_flattened_before_a_layer_are_still_told_apart() -> None:
    layer, bank = one_layer()
    x = torch.randn(3, 7, 6)
    with bank.route([1, 2]):
        torch.testing.assert_close(layer(x.view(21, 6)).view(3, 7, 5), layer(x))


def enable_checkpointing(model: nn.Module, use_reentrant: bool) -> None:
    # Renamed in the course of transformers 5.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("early", [True, False])
def test_checkpointing_recomputes_with_the_routing_of_its_own_forward(use_reentrant: bool, early: bool) -> None:
    """Two forwards of different routings, one backward: PEFT's loop is silently wrong here, the bank must not be."""
    torch.manual_seed(0)
    base = llama()
    twin = copy.deepcopy(base)
    spec = LoraSpec(rank=4, alpha=8)
    plain = LoraBank.attach(twin, DOMAINS, spec, seed=1)
    base.train()
    twin.train()
    if early:
        enable_checkpointing(base, use_reentrant)
    bank = LoraBank.attach(base, DOMAINS, spec, seed=1)
    if not early:
        enable_checkpointing(base, use_reentrant)
    base.enable_input_require_grads()
    fill(plain, 5, 0.2)
    fill(bank, 5, 0.2)
    ids = torch.randint(1, 61, (6, LENGTH))
    calls = 0
    original = type(base.model.layers[0].mlp).forward

    def counted(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return original(self, x)

    base.model.layers[0].mlp.forward = counted.__get__(base.model.layers[0].mlp)
    for one in (plain, bank):
        with one.route([2, 2, 2]):
            first = one.model(input_ids=ids).logits
        with one.route([1, 5, 0]):
            second = one.model(input_ids=ids).logits
        with one.serve("code"):
            third = one.model(input_ids=ids).logits
        (first.square().sum() + 2 * second.square().sum() - third.square().sum()).backward()
    assert calls == 6, "the checkpointed layer was not recomputed, so this test would prove nothing"
    for (name, wanted), (_, got) in zip(plain.named_parameters(), bank.named_parameters(), strict=True):
        torch.testing.assert_close(got.grad, wanted.grad, rtol=1e-5, atol=1e-5, msg=name)


def test_a_recompute_that_cannot_know_its_routing_raises() -> None:
    from kinfold.errors import ModelError
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(6, 5))
    bank = LoraBank.attach(layer, ("a", "b"), LoraSpec(rank=2, targets=("0",)))
    x = torch.randn(2, 6, requires_grad=True)
    with bank.route([1, 1]):
        y = checkpoint(layer, x, use_reentrant=False)
    y.sum().backward()  # One routing: fine.
    with bank.route([1, 1]):
        y = checkpoint(layer, x, use_reentrant=False)
    with bank.route([2, 0]):
        z = checkpoint(layer, x, use_reentrant=False)
    with pytest.raises(ModelError, match="2 different routings"):
        (y.sum() + z.sum()).backward()
    # Forwards that no backward pass will follow do not count.
    with torch.no_grad(), bank.route([0, 2]):
        layer(x)
    with bank.route([2, 0]):
        z = checkpoint(layer, x, use_reentrant=False)
    z.sum().backward()


def test_a_bank_runs_on_the_meta_device() -> None:
    """Memory is estimated there, before a weight is loaded."""
    with torch.device("meta"):
        model = llama()
    bank = LoraBank.attach(model, DOMAINS, LoraSpec(rank=4))
    with bank.route([2, 1, 1]):
        logits = model(input_ids=torch.ones(4, LENGTH, dtype=torch.long, device="meta")).logits
    logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in bank.parameters())


@pytest.mark.slow
def test_compiles_to_one_graph_without_recompiling_for_equal_counts() -> None:
    import torch._dynamo as dynamo
    import torch._dynamo.testing

    dynamo.reset()
    torch.manual_seed(0)
    base = llama()
    base.model.layers = base.model.layers[:1]
    bank = LoraBank.attach(base, DOMAINS, LoraSpec(rank=4, alpha=8))
    fill(bank, 5, 0.2)
    body = base.model
    ids = torch.randint(1, 61, (6, LENGTH))
    with bank.route([2, 2, 2]):
        expected = body(input_ids=ids).last_hidden_state
    wanted = torch.autograd.grad(expected.square().sum(), bank.parameters())
    counter = dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(body, backend=counter, fullgraph=True)
    optimiser = torch.optim.SGD(bank.parameters(), lr=0.0)
    with dynamo.config.patch(error_on_recompile=True):
        for _ in range(4):
            with bank.route([2, 2, 2]):
                hidden = compiled(input_ids=ids).last_hidden_state
            got = torch.autograd.grad(hidden.square().sum(), bank.parameters())
            optimiser.step()
    assert counter.frame_count == 1
    torch.testing.assert_close(hidden, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    dynamo.reset()


@pytest.mark.slow
def test_token_counts_that_change_every_step_are_compiled_as_variables() -> None:
    import torch._dynamo as dynamo
    import torch._dynamo.testing

    dynamo.reset()
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    bank = LoraBank.attach(layers, DOMAINS, LoraSpec(rank=2, targets=("0",)))
    fill(bank, 5, 0.2)
    counter = dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layers, backend=counter, fullgraph=True)
    for counts in ([3, 4, 5], [4, 2, 6], [7, 5, 3], [2, 9, 4], [4, 4, 4]):
        x = torch.randn(1, sum(counts), 8)
        results = []
        for run in (layers, compiled):
            with bank.route(tokens=counts):
                y = run(x)
            results.append((y, *torch.autograd.grad(y.square().sum(), bank.parameters())))
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs)
    # Once for the first counts, then once for each set of dimensions found to vary.
    assert counter.frame_count <= 3
    dynamo.reset()
