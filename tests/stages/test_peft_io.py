"""PEFT folders: what a bank writes, PEFT loads and reproduces; what PEFT writes, a bank reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from banks import MODELS, fill
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.errors import ModelError
from kinfold.stages.bank import FrozenShared, LoraBank, LoraSpec
from kinfold.stages.peft_io import LowRank, compress, concatenate, read_peft, write_peft
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

IDS = torch.randint(1, 61, (4, 6), generator=torch.Generator().manual_seed(0))
KINDS = ("llama", "gpt2", "bert")


def made(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[kind](16).eval()


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to")
@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_peft_reproduces_two_stages_and_a_domain(kind: str, rslora: bool, tmp_path: Path) -> None:
    model = made(kind)
    first = LoraBank.attach(model, ("a",), LoraSpec(rank=2, alpha=3))
    fill(first, 1)
    first.freeze_shared().save(tmp_path / "shared")
    first.detach()
    frozen = FrozenShared.load(tmp_path / "shared")
    bank = LoraBank.attach(model, ("b", "c"), LoraSpec(rank=3, alpha=5, rslora=rslora), frozen=[frozen])
    fill(bank, 2)
    expected = {}
    for domain in ("b", "c", None):
        with bank.serve(domain):
            expected[domain] = logits(model)
        assert bank.to_peft(domain, tmp_path / str(domain), base_name="base") == 0
    with bank.serve("b", shared_stages=1):
        snapshot = logits(model)
    bank.to_peft("b", tmp_path / "snapshot", shared_stages=1)
    with bank.serve("b", shared_stages=0):
        alone = logits(model)
    bank.to_peft("b", tmp_path / "alone", include_shared=False)
    bank.detach()
    base = logits(model)
    wanted = {**{str(key): value for key, value in expected.items()}, "snapshot": snapshot, "alone": alone}
    for folder, value in wanted.items():
        loaded = PeftModel.from_pretrained(made(kind), tmp_path / folder).eval()
        torch.testing.assert_close(logits(loaded), value, rtol=1e-5, atol=1e-5)
        assert (value - base).abs().max() > 1e-3
        merged = loaded.merge_and_unload()
        torch.testing.assert_close(logits(merged), value, rtol=1e-4, atol=1e-4)
    config = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 2 + 3 + 3
    assert config["base_model_name_or_path"] == "base"
    assert not list((tmp_path / "b").glob("*.bin"))


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to")
@pytest.mark.parametrize("kind", KINDS)
def test_a_bank_reads_what_peft_writes(kind: str, tmp_path: Path) -> None:
    config = LoraConfig(r=3, lora_alpha=7, use_rslora=True, target_modules="all-linear", init_lora_weights=False)
    if kind == "bert":
        config.modules_to_save = ["classifier"]
    peft = get_peft_model(made(kind), config)
    expected = logits(peft.eval())
    peft.save_pretrained(tmp_path / "peft")
    model = made(kind)
    bank = LoraBank.attach(model, ("a", "b"), LoraSpec(rank=4, alpha=2))
    if kind == "bert":
        # PEFT's "all-linear" also adapts the pooler, as a bank does; its head is the same untrained one.
        assert any("pooler" in site for site in bank.sites)
    bank.from_peft("b", tmp_path / "peft")
    with bank.serve("b"):
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    with bank.serve("a"):
        assert (logits(model) - expected).abs().max() > 1e-3


def test_a_round_trip_is_bit_identical(tmp_path: Path) -> None:
    bank = LoraBank.attach(made("llama"), ("a",), LoraSpec(rank=2, alpha=4))
    fill(bank, 1)
    before = {name: value.clone() for name, value in bank.state_dict().items()}
    bank.to_peft("a", tmp_path / "a", include_shared=False)
    fill(bank, 2)
    bank.from_peft("a", tmp_path / "a")
    assert all(value.equal(before[name]) for name, value in bank.state_dict().items() if name.startswith("domain/"))


def test_heads_travel_with_the_adapter(tmp_path: Path) -> None:
    model = made("bert")
    bank = LoraBank.attach(model, ("a",))
    fill(bank, 1)
    torch.manual_seed(7)
    with torch.no_grad():
        model.classifier.weight.normal_()
        model.classifier.bias.normal_()
    with bank.serve("a"):
        expected = logits(model)
    head = {"classifier": dict(model.classifier.named_parameters())}
    bank.to_peft("a", tmp_path / "a", task_type="SEQ_CLS", heads=head)
    loaded = PeftModel.from_pretrained(made("bert"), tmp_path / "a").eval()
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-5, atol=1e-5)


def test_short_target_names_only_where_they_are_unambiguous(tmp_path: Path) -> None:
    model = made("llama")
    bank = LoraBank.attach(model, ("a",), LoraSpec(targets=("model.layers.0.self_attn.q_proj", "down_proj")))
    bank.to_peft("a", tmp_path / "a")
    targets = json.loads((tmp_path / "a" / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(bank.sites), "q_proj of layer 1 is not adapted, so its short name would be wrong"
    bank.detach()
    bank = LoraBank.attach(model, ("a",), LoraSpec(targets=("q_proj", "down_proj")))
    bank.to_peft("a", tmp_path / "b")
    assert json.loads((tmp_path / "b" / "adapter_config.json").read_text())["target_modules"] == ["down_proj", "q_proj"]


@given(
    rank=st.integers(1, 6),
    kept=st.integers(1, 8),
    width=st.integers(1, 12),
    out=st.integers(1, 12),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_compression_is_the_truncated_svd_of_the_dense_matrix(
    rank: int, kept: int, width: int, out: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, width, generator=generator, dtype=torch.float64)
    b = torch.randn(rank, out, generator=generator, dtype=torch.float64)
    result = compress(LowRank({"x": (a, b)}, 0.7), kept)
    dense = 0.7 * b.T @ a
    u, s, vh = torch.linalg.svd(dense, full_matrices=False)
    best = (u[:, :kept] * s[:kept]) @ vh[:kept]
    new_a, new_b = result.adapter.factors["x"]
    assert new_a.shape[0] == new_b.shape[0] == kept
    torch.testing.assert_close(new_b.T @ new_a, best, rtol=1e-8, atol=1e-8)
    assert result.error == pytest.approx(float((dense - best).norm() / dense.norm()), abs=1e-7)


def test_the_error_of_a_compressed_export_is_stated_and_true(tmp_path: Path) -> None:
    bank = LoraBank.attach(made("llama"), ("a",), LoraSpec(rank=4))
    fill(bank, 1)
    exact = bank.combined("a")
    error = bank.to_peft("a", tmp_path / "a", rank=3)
    written = read_peft(tmp_path / "a")
    assert written.rank == 3
    gone = total = 0.0
    for name, (a, b) in exact.factors.items():
        small_a, small_b = written.factors[name]
        dense = exact.scaling * b.T @ a
        gone += float((dense - written.scaling * small_b.T @ small_a).square().sum())
        total += float(dense.square().sum())
    assert 0.05 < error < 1
    assert error == pytest.approx((gone / total) ** 0.5, rel=1e-4)
    assert bank.to_peft("a", tmp_path / "b", rank=8) == pytest.approx(0, abs=1e-6)


def test_concatenation_fills_layers_that_one_side_lacks(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    draw = lambda rank: (torch.randn(rank, 5, generator=g), torch.randn(rank, 7, generator=g))  # noqa: E731
    one, two = LowRank({"x": draw(2), "y": draw(2)}, 0.5), LowRank({"y": draw(3)}, 2.0)
    both = concatenate([one, two])
    assert {name: a.shape[0] for name, (a, _) in both.factors.items()} == {"x": 2, "y": 5}
    dense = 0.5 * one.factors["y"][1].T @ one.factors["y"][0] + 2 * two.factors["y"][1].T @ two.factors["y"][0]
    torch.testing.assert_close(both.factors["y"][1].T @ both.factors["y"][0], dense)
    write_peft(tmp_path / "p", both)
    back = read_peft(tmp_path / "p")
    assert back.rank == 5
    assert back.factors["x"][0].shape == (5, 5)
    torch.testing.assert_close(
        back.factors["x"][1].T @ back.factors["x"][0], 0.5 * one.factors["x"][1].T @ one.factors["x"][0]
    )


def _config(folder: Path, **change: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"peft_type": "IA3"}, "not a LoRA"),
        ({"use_dora": True}, "DoRA"),
        ({"rank_pattern": {"q_proj": 2}}, "ranks that differ"),
        ({"bias": "all"}, "biases"),
        ({"r": None}, "no rank"),
        ({"lora_alpha": "x"}, "no rank"),
    ],
    ids=str,
)
def test_variants_that_cannot_be_read_are_named(change: dict[str, object], match: str, tmp_path: Path) -> None:
    write_peft(tmp_path / "a", LowRank({"x": (torch.ones(1, 2), torch.ones(1, 3))}))
    _config(tmp_path / "a", **change)
    with pytest.raises(ModelError, match=match):
        read_peft(tmp_path / "a")


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_peft(tmp_path / "nowhere")
    write_peft(tmp_path / "a", LowRank({"x": (torch.ones(1, 2), torch.ones(1, 3))}))
    file = tmp_path / "a" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(ModelError, match="not a readable safetensors"):
        read_peft(tmp_path / "a")
    file.unlink()
    with pytest.raises(ModelError, match="safetensors"):
        read_peft(tmp_path / "a")
    with pytest.raises(ModelError, match="no layers"):
        write_peft(tmp_path / "b", LowRank({}))


def test_adapters_that_do_not_fit_change_nothing(tmp_path: Path) -> None:
    model = made("llama")
    bank = LoraBank.attach(model, ("a",), LoraSpec(rank=4, targets=("q_proj",)))
    bank.to_peft("a", tmp_path / "wide")  # shared + own: rank 8
    bank.detach()
    bank = LoraBank.attach(model, ("a",), LoraSpec(rank=4, targets=("q_proj",)))
    before = {name: value.clone() for name, value in bank.state_dict().items()}
    with pytest.raises(ModelError, match="rank 8, above the bank's 4"):
        bank.from_peft("a", tmp_path / "wide")
    bank.detach()
    bank = LoraBank.attach(model, ("a",), LoraSpec(rank=4, targets=("v_proj",)))
    with pytest.raises(ModelError, match="same targets"):
        bank.from_peft("a", tmp_path / "wide")
    bank.detach()
    bank = LoraBank.attach(model, ("a",), LoraSpec(rank=4, targets=("q_proj",)), shared=False)
    with pytest.raises(ModelError, match="no shared adapter"):
        bank.from_peft(None, tmp_path / "wide")
    with pytest.raises(ModelError, match="no shared adapter to freeze"):
        bank.freeze_shared()
    assert all(value.equal(before[name]) for name, value in bank.state_dict().items())
