"""The bank against PEFT itself, adapter by adapter: outputs and gradients, on every kind of model."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from kinfold.stages.bank import LoraBank, LoraSpec
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

DOMAINS = ("law", "news", "code")
LENGTH = 7


def llama() -> nn.Module:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=61,
            hidden_size=24,
            intermediate_size=36,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            attention_dropout=0.0,
        )
    )


def llama_classifier() -> nn.Module:
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=24,
        intermediate_size=36,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_labels=3,
        pad_token_id=0,
    )
    return LlamaForSequenceClassification(config)


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=61, n_embd=24, n_layer=2, n_head=4, n_positions=16, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
        )
    )


def bert() -> nn.Module:
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=61,
            hidden_size=24,
            intermediate_size=36,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=16,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            num_labels=3,
        )
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": llama,
    "llama_classifier": llama_classifier,
    "gpt2": gpt2,
    "bert": bert,
}


def fill(bank: LoraBank) -> None:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for _, parameter in bank.named_parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


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


def compare(bank: LoraBank, twin: nn.Module, rows: list[int], tolerance: float = 1e-5) -> None:
    ids = torch.randint(1, 61, (sum(rows), LENGTH), generator=torch.Generator().manual_seed(3))
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


def enable_checkpointing(model: nn.Module, use_reentrant: bool) -> None:
    # Renamed in the course of transformers 5.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})


ROWS = ([2, 2, 2], [1, 3, 2], [0, 2, 3], [4, 0, 0])


@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("kind", MODELS)
def test_equals_peft_adapter_by_adapter(kind: str, rows: list[int]) -> None:
    torch.manual_seed(0)
    base = MODELS[kind]()
    reference = copy.deepcopy(base)
    bank = LoraBank.attach(base, DOMAINS, LoraSpec(rank=4, alpha=8), seed=1)
    fill(bank)
    compare(bank, peft_twin(reference, bank), rows)


@pytest.mark.parametrize(("shared", "own"), [(True, False), (False, True)])
def test_equals_peft_with_one_kind_of_adapter(shared: bool, own: bool) -> None:
    torch.manual_seed(0)
    base = llama()
    reference = copy.deepcopy(base)
    spec = LoraSpec(rank=3, alpha=5, rslora=True, targets=("q_proj", "down_proj"))
    bank = LoraBank.attach(base, DOMAINS, spec, shared=shared, domain_adapters=own)
    fill(bank)
    compare(bank, peft_twin(reference, bank), [1, 3, 2])


def test_token_counts_route_a_batch_that_is_one_row() -> None:
    """One row of documents back to back gives each token the layer its domain has."""
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(6, 5))
    bank = LoraBank.attach(layer, ("a", "b"), LoraSpec(rank=2, targets=("0",)))
    fill(bank)
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
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(6, 5))
    bank = LoraBank.attach(layer, ("a", "b"), LoraSpec(rank=2, targets=("0",)))
    fill(bank)
    x = torch.randn(3, 7, 6)
    with bank.route([1, 2]):
        torch.testing.assert_close(layer(x.view(21, 6)).view(3, 7, 5), layer(x))


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
    fill(plain)
    fill(bank)
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


def test_a_bank_runs_on_the_meta_device() -> None:
    """Memory is estimated there, before a weight is loaded."""
    with torch.device("meta"):
        model = llama()
    bank = LoraBank.attach(model, DOMAINS, LoraSpec(rank=4))
    with bank.route([2, 1, 1]):
        logits = model(input_ids=torch.ones(4, LENGTH, dtype=torch.long, device="meta")).logits
    logits.float().sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in bank.parameters())


def test_autocast_runs_products_in_bf16_and_keeps_fp32_gradients() -> None:
    torch.manual_seed(0)
    base = llama()
    reference = copy.deepcopy(base)
    bank = LoraBank.attach(base, DOMAINS, LoraSpec(rank=4, alpha=8), seed=1)
    fill(bank)
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
    fill(bank)
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
    fill(bank)
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


@pytest.mark.slow
def test_compiles_to_one_graph_without_recompiling_for_equal_counts() -> None:
    import torch._dynamo as dynamo
    import torch._dynamo.testing

    dynamo.reset()
    torch.manual_seed(0)
    base = llama()
    base.model.layers = base.model.layers[:1]
    bank = LoraBank.attach(base, DOMAINS, LoraSpec(rank=4, alpha=8))
    fill(bank)
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
    fill(bank)
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
