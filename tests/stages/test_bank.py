"""The life of a bank: attach, serve, freeze, save, detach; and what it refuses."""

from __future__ import annotations

import copy

import pytest
import torch
from banks import fill, llama
from kinfold.errors import ConfigError, ModelError
from kinfold.stages.bank import LoraBank, LoraSpec
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

IDS = torch.randint(1, 61, (4, 6), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return llama(16).eval()


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_detach_restores_the_model_exactly(model: nn.Module) -> None:
    model.model.norm.weight.requires_grad_(False)
    before = {name: (type(module), id(module)) for name, module in model.named_modules()}
    names = list(model.state_dict())
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    expected = logits(model)
    bank = LoraBank.attach(model, ("a", "b"))
    assert not any(p.requires_grad for n, p in model.named_parameters() if "lora" not in n)
    fill(bank)
    model.gradient_checkpointing = False
    bank.detach()
    bank.detach()
    assert {name: (type(module), id(module)) for name, module in model.named_modules()} == before
    assert list(model.state_dict()) == names
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert logits(model).equal(expected)
    with pytest.raises(ModelError, match="detached"), bank.serve("a"):
        pass
    with pytest.raises(ModelError, match=r"after bank\.detach"):
        bank.state_dict()
    LoraBank.attach(model, ("c",)).detach()


def test_a_fresh_bank_changes_nothing_and_disabled_is_the_base(model: nn.Module) -> None:
    expected = logits(model)
    bank = LoraBank.attach(model, ("a", "b"))
    with bank.route([3, 1]):
        torch.testing.assert_close(logits(model), expected)
    fill(bank)
    with bank.disabled():
        assert logits(model).equal(expected)
    with bank.serve("a"):
        assert (logits(model) - expected).abs().max() > 1e-3
    # PEFT re-freezes adapters on leaving disable_adapter(); a bank must not.
    assert all(parameter.requires_grad for parameter in bank.parameters())


def test_gradients_flow_to_inputs_while_disabled(model: nn.Module) -> None:
    bank = LoraBank.attach(model, ("a",))
    embeddings = model.get_input_embeddings()(IDS).detach().requires_grad_()
    with bank.disabled():
        model(inputs_embeds=embeddings).logits.sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad.abs().max() > 0


def test_running_outside_of_a_routing_is_refused(model: nn.Module) -> None:
    LoraBank.attach(model, ("a",))
    with pytest.raises(ModelError, match=r"bank\.route"):
        model(input_ids=IDS)


def test_contexts_nest_and_come_back(model: nn.Module) -> None:
    bank = LoraBank.attach(model, ("a", "b"))
    fill(bank)
    with bank.serve("a"):
        first = logits(model)
        with bank.disabled():
            base = logits(model)
        with bank.serve("b"):
            second = logits(model)
        assert logits(model).equal(first)
    assert not first.equal(second)
    assert not first.equal(base)


def test_draws_do_not_depend_on_other_domains_and_differ_by_seed(model: nn.Module) -> None:
    bank = LoraBank.attach(model, ("a", "b"), seed=3)
    one = {name: value.clone() for name, value in bank.state_dict().items()}
    bank.detach()
    bank = LoraBank.attach(model, ("c", "b"), seed=3)
    two = bank.state_dict()
    assert all(one[name].equal(two[name]) for name in one if "/a/" not in name)
    assert not two["domain/b/model.layers.0.mlp.up_proj/A"].equal(two["domain/c/model.layers.0.mlp.up_proj/A"])
    bank.detach()
    other = LoraBank.attach(model, ("c", "b"), seed=4).state_dict()
    assert not any(two[name].equal(other[name]) for name in two if name.endswith("/A"))
    assert not any(value.any() for name, value in two.items() if name.endswith("/B"))
    width = 24
    drawn = torch.cat([v.flatten() for n, v in two.items() if n.endswith("down_proj/A")])
    bound = width**-0.5
    assert drawn.abs().max() <= bound
    # Uniform: a Kolmogorov-Smirnov distance that a normal or a narrower draw would exceed.
    ranks = torch.linspace(0, 1, drawn.numel())
    assert ((drawn.sort().values / bound + 1) / 2 - ranks).abs().max() < 1.63 / drawn.numel() ** 0.5


def test_an_absent_domain_does_not_move_under_adamw(model: nn.Module) -> None:
    bank = LoraBank.attach(model, ("a", "b"))
    fill(bank)
    optimiser = torch.optim.AdamW(bank.parameters(), lr=0.1, weight_decay=0.1, fused=True)
    for rows in ([2, 2], [4, 0]):
        before = {name: value.clone() for name, value in bank.state_dict().items()}
        with bank.route(rows):
            model(input_ids=IDS).logits.square().sum().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        moved = {name for name, value in bank.state_dict().items() if not value.equal(before[name])}
        still = {name for name in before if name.startswith("domain/b/")} if not rows[1] else set()
        assert moved == set(before) - still


def test_earlier_stages_stay_active_and_frozen(model: nn.Module) -> None:
    """Stage 2 starts from stage 1's backbone; each number of stages serves what it served then."""
    base = logits(model)
    spec = LoraSpec(rank=3, alpha=6)
    first = LoraBank.attach(model, ("a",), spec)
    fill(first, 1)
    with first.serve(None):
        backbone_1 = logits(model)
    stage_1 = first.freeze_shared()
    first.detach()
    # The next stage may have another rank and scale.
    second = LoraBank.attach(model, ("b", "c"), LoraSpec(rank=2, alpha=1), frozen=[stage_1])
    with second.route([2, 2]):
        torch.testing.assert_close(logits(model), backbone_1)
    fill(second, 2)
    with second.serve(None, shared_stages=0):
        torch.testing.assert_close(logits(model), base)
    with second.serve(None, shared_stages=1):
        torch.testing.assert_close(logits(model), backbone_1)
    with second.serve(None):
        backbone_2 = logits(model)
    assert (backbone_2 - backbone_1).abs().max() > 1e-3
    with second.route([1, 3]):
        model(input_ids=IDS).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in second.parameters())
    with second.serve("b"):
        served = logits(model)
    stages = [*second.frozen, second.freeze_shared()]
    adapter = second._low_rank(0)
    second.detach()
    # A bank for serving: everything frozen, only domain adapters.
    serving = LoraBank.attach(model, ("b", "c"), LoraSpec(rank=2, alpha=1), shared=False, frozen=stages)
    serving.load_low_rank("b", adapter)
    assert serving.n_shared == 2
    with serving.serve("b"):
        torch.testing.assert_close(logits(model), served)
    with serving.serve(None, shared_stages=1):
        torch.testing.assert_close(logits(model), backbone_1)


def test_a_stage_of_another_model_or_other_targets_is_refused(model: nn.Module) -> None:
    first = LoraBank.attach(model, ("a",), LoraSpec(targets=("q_proj",)))
    frozen = first.freeze_shared()
    first.detach()
    with pytest.raises(ModelError, match=r"same lora\.targets"):
        LoraBank.attach(model, ("a",), LoraSpec(targets=("v_proj",)), frozen=[frozen])
    # The refused attempt left nothing behind.
    assert type(model.model.layers[0].self_attn.v_proj) is nn.Linear
    assert model.lm_head.weight.requires_grad
    model.model.layers[0].self_attn.q_proj = nn.Linear(16, 20, bias=False)
    with pytest.raises(ModelError, match="another model"):
        LoraBank.attach(model, ("a",), LoraSpec(targets=("q_proj",)), frozen=[frozen])


def test_state_goes_and_comes_back(model: nn.Module) -> None:
    bank = LoraBank.attach(model, ("a", "b"))
    fill(bank)
    state = {name: value.clone() for name, value in bank.state_dict().items()}
    fill(bank, 9)
    bank.load_state_dict(state)
    assert all(value.equal(state[name]) for name, value in bank.state_dict().items())
    missing = dict(state)
    missing.pop("shared/model.layers.0.mlp.up_proj/A")
    with pytest.raises(ModelError, match="missing"):
        bank.load_state_dict(missing)
    with pytest.raises(ModelError, match="unknown"):
        bank.load_state_dict({**state, "domain/z/x/A": torch.zeros(1)})
    with pytest.raises(ModelError, match="shape"):
        bank.load_state_dict({**state, "shared/model.layers.0.mlp.up_proj/A": torch.zeros(1)})


def test_parameters_by_owner(model: nn.Module) -> None:
    bank = LoraBank.attach(model, ("a", "b"), LoraSpec(targets=("q_proj", "o_proj")))
    sizes = [len(bank.shared_parameters()), len(bank.parameters("a")), len(bank.parameters())]
    assert sizes == [8, 8, 24]
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in bank.parameters()}
    assert bank.summary()["trainable"] == sum(p.numel() for p in bank.parameters())


def test_moving_and_copying_the_model_keeps_adapters(model: nn.Module) -> None:
    bank = LoraBank.attach(model, ("a",))
    fill(bank)
    with bank.serve("a"):
        expected = logits(model)
    model.to(torch.float64)
    with bank.serve("a"):
        torch.testing.assert_close(logits(model).float(), expected)


def test_all_linear_takes_the_body_and_leaves_the_head(model: nn.Module) -> None:
    bank = LoraBank.attach(model, ("a",))
    assert len(bank.sites) == 14
    assert not any("lm_head" in site for site in bank.sites)
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=16, n_layer=1, n_head=2, n_positions=8))
    assert [site.rpartition(".")[2] for site in LoraBank.attach(gpt2, ("a",)).sites] == [
        "c_attn",
        "c_proj",
        "c_fc",
        "c_proj",
    ]
    bert = BertForMaskedLM(
        BertConfig(vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
    )
    sites = LoraBank.attach(bert, ("a",)).sites
    assert len(sites) == 6
    assert all(site.startswith("bert.") for site in sites)


@pytest.mark.parametrize(
    ("targets", "match"),
    [
        (("query",), r"'query' matches no layer of LlamaForCausalLM; its linear layers are .*q_proj \(2\)"),
        (("lm_head",), "is a head"),
        (("embed_tokens",), "is a Embedding"),
        (("q_proj", "nothing"), "'nothing' matches no layer"),
    ],
)
def test_targets_that_match_nothing_name_what_exists(model: nn.Module, targets: tuple[str, ...], match: str) -> None:
    with pytest.raises(ModelError, match=match):
        LoraBank.attach(model, ("a",), LoraSpec(targets=targets))
    assert model.lm_head.weight.requires_grad


def test_what_a_bank_refuses(model: nn.Module) -> None:
    with pytest.raises(ModelError, match="no linear layer"):
        LoraBank.attach(nn.Sequential(nn.Conv1d(3, 4, 1)), ("a",))
    with pytest.raises(ConfigError, match="twice"):
        LoraBank.attach(model, ("a", "a"))
    with pytest.raises(ConfigError, match="at least one domain"):
        LoraBank.attach(model, ())
    with pytest.raises(ConfigError, match="all three"):
        LoraBank.attach(model, ("a",), shared=False, domain_adapters=False)
    bank = LoraBank.attach(model, ("a", "b"))
    with pytest.raises(ModelError, match="already carries"):
        LoraBank.attach(model, ("a",))
    for rows, why in (([1], "2 domains"), ([0, 0], "not all 0"), ([-1, 2], "at least 0")):
        with pytest.raises(ModelError, match=why), bank.route(rows):
            pass
    with pytest.raises(ModelError, match="one of them"), bank.route():
        pass
    with pytest.raises(ModelError, match="'c' is not in this bank"), bank.serve("c"):
        pass
    with pytest.raises(ModelError, match="between 0 and 1"), bank.serve("a", shared_stages=2):
        pass
    with pytest.raises(ModelError, match="4 rows came in"), bank.route([1, 2]):
        logits(model)
    with pytest.raises(ModelError, match="24 tokens came in"), bank.route(tokens=[12, 11]):
        logits(model)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"rank": 0}, "rank"),
        ({"rank": True}, "rank"),
        ({"alpha": -1.0}, "alpha"),
        ({"alpha": float("inf")}, "alpha"),
        ({"dropout": 1.0}, "dropout"),
        ({"dora": True}, "DoRA"),
        ({"targets": ()}, "targets"),
    ],
    ids=str,
)
def test_specs_that_cannot_be(change: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        LoraSpec(**change)  # type: ignore[arg-type]


def test_generation_with_an_adapter_equals_the_merged_model(model: nn.Module) -> None:
    """The cache path: one token at a time through the served adapter."""
    merged = copy.deepcopy(model)
    bank = LoraBank.attach(model, ("a", "b"))
    fill(bank)
    combined = bank.combined("b")
    modules = dict(merged.named_modules())
    with torch.no_grad():
        for name, (a, b) in combined.factors.items():
            modules[name].weight += combined.scaling * b.T @ a
    with bank.serve("b"):
        ours = model.generate(IDS[:2], max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert ours.equal(merged.generate(IDS[:2], max_new_tokens=6, do_sample=False, pad_token_id=0))
