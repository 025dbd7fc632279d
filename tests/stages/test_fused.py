"""Fused layers and document-wise attention: the model's own answers and gradients, in fp32, bf16 and float64."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from kinfold.stages import _attention_cpu, _attention_tiles, _fused
from kinfold.stages._attention_cpu import documents_attention, rotate
from kinfold.stages._bank_ops import GroupPlan, banked_linear
from kinfold.stages._fused import _Gate, _Norm, fuse
from kinfold.stages.attention import FLAT, _flat_attention, flat_layout
from kinfold.stages.bank import LoraBank, LoraSpec
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

LENGTHS = (5, 33, 2, 17, 40)
COMMON: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(kind: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    AttentionInterface.register(FLAT, _flat_attention)
    AttentionMaskInterface.register(FLAT, sdpa_mask)
    torch.manual_seed(0)
    model: Any = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**COMMON)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**COMMON)),
        "gemma": lambda: GemmaForCausalLM(GemmaConfig(**COMMON)),
    }[kind]()
    model.set_attn_implementation(FLAT)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, 1.0, 0.2)
    return model.to(dtype).requires_grad_(False)  # type: ignore[no-any-return]


def test_what_the_fused_attention_does_not_know_is_left_alone() -> None:
    from transformers import MistralConfig, MistralForCausalLM, SmolLM3Config, SmolLM3ForCausalLM

    def attentions(model: Any) -> list[bool]:
        model.set_attn_implementation(FLAT)
        model.requires_grad_(False)
        fuse(model)
        return [hasattr(layer.self_attn, "_own_forward") for layer in model.model.layers]

    made("llama")  # registers the flat attention
    assert attentions(MistralForCausalLM(MistralConfig(**COMMON, sliding_window=8))) == [False, False]
    assert attentions(MistralForCausalLM(MistralConfig(**COMMON, sliding_window=None))) == [True, True]
    some = {key: value for key, value in COMMON.items() if key != "head_dim"}
    mixed = SmolLM3ForCausalLM(SmolLM3Config(**some, no_rope_layers=[1, 0], pad_token_id=0))
    assert attentions(mixed) == [False, False]
    llama: Any = made("llama")
    llama.model.layers[0].self_attn.residual_dropout = 0.1
    assert attentions(llama) == [False, True]


def states(model: Any) -> Tensor:
    ids = torch.randint(0, 61, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(1))
    positions = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    hidden: Tensor = model.model(
        input_ids=ids,
        position_ids=positions,
        attention_mask=torch.ones(1, 1, 1, 1),
        flat=flat_layout(LENGTHS),
        use_cache=False,
    ).last_hidden_state
    return hidden


def trained(model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    """States and adapter gradients of one pass, documents of three domains."""
    bank = LoraBank.attach(model, ("a", "b", "c"), LoraSpec(rank=4, alpha=8), seed=0)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in bank.parameters():
            parameter.normal_(0, 0.1, generator=generator)
    with bank.route(tokens=[38, 2, 57]):
        hidden = states(model)
    (hidden.float() * torch.randn(hidden.shape, generator=generator)).sum().backward()
    grads = {name: p.grad.clone() for name, p in bank.named_parameters() if p.grad is not None}
    bank.detach()
    return hidden.detach(), grads


@pytest.mark.parametrize(("kind", "layers"), [("llama", 5 + 2 + 2), ("qwen3", 5 + 4 + 2 + 2), ("gemma", 2)])
def test_a_fused_model_gives_its_own_states_and_gradients(kind: str, layers: int) -> None:
    model = made(kind)
    wanted, grads = trained(copy.deepcopy(model))
    assert fuse(model) == layers  # Gemma's norm and activation differ: only its attention fits
    got, ours = trained(model)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    assert ours.keys() == grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(ours[name], grad, rtol=1e-4, atol=1e-5 * float(grad.abs().max()) + 1e-6)
    fused = {name for name, module in model.named_modules() if hasattr(module, "_own_forward")}
    assert ("model.norm" in fused) == (kind != "gemma")


def test_in_bf16_the_fused_model_is_no_further_from_fp32_than_the_plain_one() -> None:
    model = made("llama", torch.bfloat16)
    exact, exact_grads = trained(copy.deepcopy(model).float())
    plain, plain_grads = trained(copy.deepcopy(model))
    assert fuse(model) == 9
    got, grads = trained(model)

    def distance(a: Tensor, b: Tensor) -> float:
        return float((a.float() - b.float()).norm() / b.float().norm())

    assert distance(got, exact) <= 1.5 * distance(plain, exact)
    joined = [torch.cat([part[name].flatten() for name in exact_grads]) for part in (grads, plain_grads, exact_grads)]
    assert distance(joined[0], joined[2]) <= 1.5 * distance(joined[1], joined[2])


def test_a_copy_of_a_fused_model_runs_alone() -> None:
    model = made("llama")
    fuse(model)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        before = states(copied)
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(states(copied), before)


def test_generation_and_padded_rows_still_run() -> None:
    plain = made("llama").eval()
    model = copy.deepcopy(plain)
    fuse(model)
    ids = torch.randint(0, 61, (2, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, plain(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
        wanted: Any = plain
        got: Any = model
        options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
        assert torch.equal(got.generate(ids, **options), wanted.generate(ids, **options))


def test_the_number_of_threads_changes_no_bit_of_a_fused_layer() -> None:
    generator = torch.Generator().manual_seed(0)

    def answers(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        generator.manual_seed(0)
        x, y, grad = (torch.randn(301, 160, generator=generator).requires_grad_() for _ in range(3))
        weight, turn = torch.randn(160, generator=generator), torch.randn(301, 16, generator=generator)
        out = _Gate.apply(_Norm.apply(x, weight, 1e-6), y)  # type: ignore[no-untyped-call]
        out.backward(grad.detach())
        turned = rotate(x.detach().view(301, 10, 16), turn, turn.flip(0), -1)
        assert x.grad is not None
        assert y.grad is not None
        return [out.detach(), x.grad, y.grad, turned]

    for one, three in zip(answers(1), answers(3), strict=True):
        assert torch.equal(one, three)


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    parts, start = [], 0
    for n in LENGTHS:
        a, b, c = (t[:, :, start : start + n] for t in (q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)))
        scores = (a @ b.transpose(-1, -2)) * 0.3
        scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), float("-inf"))
        parts.append(scores.softmax(-1) @ c)
        start += n
    return torch.cat(parts, 2).transpose(1, 2)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("way", ["tiles", "vectors", "PyTorch"])
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 2e-6), (torch.bfloat16, 5e-3)], ids=str
)
def test_document_attention_equals_the_formula(
    dtype: torch.dtype, bound: float, way: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "vectors":
        monkeypatch.setattr(_attention_tiles, "takes", lambda query: False)
    if way == "PyTorch":
        monkeypatch.setattr(_attention_cpu, "have_compiler", lambda: False)
    monkeypatch.setattr(_fused, "_LEAST", 1)
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    n = sum(LENGTHS)
    q, k, v = (torch.randn(1, h, n, 16, generator=generator, dtype=torch.float64).to(dtype) for h in (4, 2, 2))
    upstream = torch.randn(1, n, 4, 16, generator=generator, dtype=torch.float64)
    exact = [t.double().requires_grad_() for t in (q, k, v)]
    (reference(*exact) * upstream).sum().backward()
    own = [t.requires_grad_() for t in (q, k, v)]
    out = documents_attention(q, k, v, LENGTHS, 0.3)
    out.backward(upstream.to(dtype))
    assert float((out.double() - reference(*exact)).detach().norm() / out.detach().double().norm()) < bound
    for ours, theirs in zip(own, exact, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert float((ours.grad.double() - theirs.grad).norm() / theirs.grad.norm()) < bound


def test_without_a_working_compiler_layers_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_fused, "have_compiler", lambda: False)
    assert fuse(made("llama")) == 0
    monkeypatch.undo()

    def broken(*words: Any) -> Any:
        raise ImportError("a numba that does not fit its llvmlite")

    monkeypatch.setattr(_fused, "_CLASSES", {})
    monkeypatch.setattr(_fused, "_norm_forward", broken)
    monkeypatch.setattr(_fused, "_mlp_forward", broken)
    monkeypatch.setattr(_fused, "_attention_forward", broken)
    assert fuse(made("llama")) == 0


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_factors_beside_each_other_equal_a_product_for_each_group(shared: bool, frozen: bool, transposed: bool) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    sizes = (3, 1, 6)
    weight, bias, upstream = draw(*((7, 5) if transposed else (5, 7))), draw(5), draw(10, 5)
    count = len(sizes) + shared
    start = [draw(10, 7), *(draw(2, 7) for _ in range(count)), *(draw(2, 5) for _ in range(count))]
    kept = (draw(3, 7), draw(3, 5)) if frozen else None
    results = []
    for beside in (False, True):
        leaves = [t.clone().requires_grad_() for t in start]
        plan = GroupPlan(sizes, 1.7, shared, True, transposed, ragged=True, beside=beside)
        y = banked_linear(leaves[0], weight, bias, plan, leaves[1 : 1 + count], leaves[1 + count :], frozen=kept)
        y.backward(upstream)
        results.append([y.detach(), *(leaf.grad for leaf in leaves)])
    for wanted, got in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def test_values_of_another_width_are_refused() -> None:
    """The compiled loops write rows of the query's width: anything else must not reach them."""
    query, key = torch.randn(1, 2, 12, 16, requires_grad=True), torch.randn(1, 2, 12, 16)
    with pytest.raises(RuntimeError, match="same head size"):
        documents_attention(query, key, torch.randn(1, 2, 12, 8), (7, 5), 0.25)
