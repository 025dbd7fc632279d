"""Fused cross-entropy and KL against autograd of the plain formula in float64, on awkward shapes."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.errors import ConfigError
from kinfold.stages.losses import fused_cross_entropy, fused_kl
from torch import Tensor

SHAPES = [(3, 5, 7, 2), (47, 31, 123, 3), (31, 3, 47, 1), (1, 1, 2, 1), (16, 8, 64, 4)]


def problem(n: int, h: int, v: int, d: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(n * 1000 + v)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)  # noqa: E731
    labels = torch.randint(0, v, (n,), generator=g)
    if n > 2:
        labels[::3] = -100
    return {
        "hidden": draw(n, h).requires_grad_(),
        "base": draw(n, h),
        "weight": draw(v, h).requires_grad_(),
        "bias": draw(v).requires_grad_(),
        "labels": labels,
        "domains": torch.randint(0, d, (n,), generator=g),
        "weights": draw(d),
    }


def plain_logits(x: Tensor, weight: Tensor, bias: Tensor | None, cap: float | None) -> Tensor:
    z = x @ weight.T
    z = z if bias is None else z + bias
    return z if cap is None else cap * torch.tanh(z / cap)


def by_domain(losses: Tensor, domains: Tensor, d: int) -> Tensor:
    return torch.stack([losses[domains == index].sum() for index in range(d)])


def check(sums: Tensor, losses: Tensor, p: dict[str, Tensor], d: int, bias: bool) -> None:
    expected = by_domain(losses, p["domains"], d)
    torch.testing.assert_close(sums, expected, rtol=1e-10, atol=1e-10)
    leaves = [p["hidden"], p["weight"], *([p["bias"]] if bias else [])]
    wanted = torch.autograd.grad((expected * p["weights"]).sum(), leaves)
    got = torch.autograd.grad((sums * p["weights"]).sum(), leaves)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [None, 1, 10])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cross_entropy(shape: tuple[int, int, int, int], chunk: int | None, bias: bool, cap: float | None) -> None:
    *_, d = shape
    p = problem(*shape)
    used = p["bias"] if bias else None
    losses = F.cross_entropy(
        plain_logits(p["hidden"], p["weight"], used, cap), p["labels"], reduction="none", ignore_index=-100
    )
    sums, counts = fused_cross_entropy(
        p["hidden"], p["weight"], p["labels"], p["domains"], d, bias=used, softcap=cap, chunk=chunk
    )
    kept = p["labels"] != -100
    assert counts.tolist() == [int((kept & (p["domains"] == i)).sum()) for i in range(d)]
    check(sums, losses, p, d, bias)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("cap", [None, 3.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [None, 10])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kl(shape: tuple[int, int, int, int], chunk: int | None, bias: bool, cap: float | None, direction: str) -> None:
    *_, d = shape
    p = problem(*shape)
    used = p["bias"] if bias else None
    log_p = F.log_softmax(plain_logits(p["hidden"], p["weight"], used, cap), -1)
    # The base's distribution is a constant, though it comes through the same head.
    log_0 = F.log_softmax(plain_logits(p["base"], p["weight"], used, cap), -1).detach()
    first, second = (log_0, log_p) if direction == "forward" else (log_p, log_0)
    mask = p["labels"] != -100
    losses = (first.exp() * (first - second)).sum(-1) * mask
    sums, counts = fused_kl(
        p["hidden"],
        p["base"],
        p["weight"],
        direction,  # type: ignore[arg-type]
        p["domains"],
        d,
        mask=mask,
        bias=used,
        softcap=cap,
        chunk=chunk,
    )
    assert int(counts.sum()) == int(mask.sum())
    check(sums, losses, p, d, bias)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_kl_of_a_model_with_itself_is_nothing(direction: str) -> None:
    p = problem(47, 31, 123, 1, torch.float32)
    hidden = p["hidden"].detach().requires_grad_()
    sums, _ = fused_kl(hidden, hidden.detach().clone(), p["weight"].detach(), direction)  # type: ignore[arg-type]
    (grad,) = torch.autograd.grad(sums.sum(), hidden)
    assert abs(sums.item()) < 1e-4
    assert float(grad.abs().max()) < 1e-4


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_small_divergences_keep_their_digits_in_fp32(direction: str) -> None:
    """The two entropies nearly cancel: Σ p log p − Σ p log q in fp32 would lose the answer."""
    p = problem(47, 31, 123, 1)
    near = p["base"] + 1e-3 * torch.randn(47, 31, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weight = p["weight"].detach()
    exact, _ = fused_kl(near, p["base"], weight, direction)  # type: ignore[arg-type]
    single, _ = fused_kl(near.float(), p["base"].float(), weight.float(), direction)  # type: ignore[arg-type]
    assert 0 < float(exact) < 1e-2
    assert abs(float(single) - float(exact)) < 0.02 * float(exact)


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.tensor([[1e4], [-1e4], [0.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0]])
    sums, _ = fused_cross_entropy(hidden, weight, torch.tensor([0, 0, 1]))
    expected = F.cross_entropy(hidden @ weight.T, torch.tensor([0, 0, 1]), reduction="sum")
    torch.testing.assert_close(sums[0], expected)
    for direction in ("forward", "reverse"):
        kl, _ = fused_kl(hidden, torch.tensor([[0.0], [1.0], [90.0]]), weight, direction)  # type: ignore[arg-type]
        (grad,) = torch.autograd.grad(kl.sum(), hidden)
        assert torch.isfinite(kl).all()
        assert torch.isfinite(grad).all()


def test_confident_rows_keep_their_gradient_in_bf16() -> None:
    """p − 1 for p near 1 is taken in fp32 before the head's product, not after."""
    hidden = torch.full((4, 8), 0.8, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.zeros(16, 8, dtype=torch.bfloat16)
    weight[3] = 1.0
    labels = torch.full((4,), 3)
    sums, _ = fused_cross_entropy(hidden, weight, labels)
    (grad,) = torch.autograd.grad(sums.sum(), hidden)
    double = hidden.detach().double().requires_grad_()
    exact = F.cross_entropy(double @ weight.double().T, labels, reduction="sum")
    (truth,) = torch.autograd.grad(exact, double)
    torch.testing.assert_close(grad.double(), truth, rtol=0.02, atol=0)
    assert sums.dtype == torch.float32


def test_autocast_gives_fp32_sums_and_gradients_in_the_inputs_precision() -> None:
    p = problem(47, 31, 123, 2, torch.float32)
    weight = p["weight"].detach()
    with torch.autocast("cpu", torch.bfloat16):
        sums, _ = fused_cross_entropy(p["hidden"], weight, p["labels"], p["domains"], 2)
    (grad,) = torch.autograd.grad(sums.sum(), p["hidden"])
    exact, _ = fused_cross_entropy(p["hidden"], weight, p["labels"], p["domains"], 2)
    (truth,) = torch.autograd.grad(exact.sum(), p["hidden"])
    assert sums.dtype == grad.dtype == torch.float32
    torch.testing.assert_close(sums, exact, rtol=0.01, atol=0)
    assert (grad - truth).norm() < 0.02 * truth.norm()


def test_no_gradient_is_made_where_none_is_wanted() -> None:
    p = problem(47, 31, 123, 2)
    with torch.no_grad():
        sums, _ = fused_cross_entropy(p["hidden"], p["weight"], p["labels"], p["domains"], 2)
    assert not sums.requires_grad


def test_all_rows_ignored_is_zero_with_a_zero_gradient() -> None:
    hidden = torch.randn(4, 3, requires_grad=True)
    sums, counts = fused_cross_entropy(hidden, torch.randn(5, 3), torch.full((4,), -100), n_domains=2)
    sums.sum().backward()
    assert counts.tolist() == [0, 0]
    assert sums.tolist() == [0, 0]
    assert hidden.grad is not None
    assert not hidden.grad.any()


@given(cuts=st.lists(st.integers(1, 22), max_size=3, unique=True))
@settings(deadline=None, max_examples=20)
def test_sums_do_not_depend_on_how_rows_are_split(cuts: list[int]) -> None:
    """Accumulation: sums of parts are the sum, so dividing once is exact."""
    p = problem(23, 4, 11, 2)
    edges = [0, *sorted(cuts), 23]
    whole, counted = fused_cross_entropy(p["hidden"], p["weight"], p["labels"], p["domains"], 2)
    parts = [
        fused_cross_entropy(p["hidden"][a:b], p["weight"], p["labels"][a:b], p["domains"][a:b], 2)
        for a, b in itertools.pairwise(edges)
    ]
    torch.testing.assert_close(torch.stack([s for s, _ in parts]).sum(0), whole)
    assert torch.stack([c for _, c in parts]).sum(0).equal(counted)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"labels": torch.tensor([0, 9])}, "labels span"),
        ({"labels": torch.tensor([0, -3])}, "labels span"),
        ({"labels": torch.tensor([0])}, "one label a row"),
        ({"weight": torch.randn(5, 4)}, "do not fit"),
        ({"bias": torch.randn(4)}, "head bias"),
        ({"softcap": 0.0}, "softcap"),
        ({"chunk": 0}, "chunk"),
        ({"domain_of_row": torch.tensor([0, 2]), "n_domains": 2}, "domain_of_row"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_bad_input_is_named(change: dict[str, object], match: str) -> None:
    arguments: dict[str, object] = {
        "hidden": torch.randn(2, 3),
        "weight": torch.randn(5, 3),
        "labels": torch.tensor([0, 1]),
        **change,
    }
    with pytest.raises(ConfigError, match=match):
        fused_cross_entropy(**arguments)  # type: ignore[arg-type]


def test_an_unknown_direction_is_named() -> None:
    with pytest.raises(ConfigError, match="direction"):
        fused_kl(torch.randn(2, 3), torch.randn(2, 3), torch.randn(5, 3), "sideways")  # type: ignore[arg-type]
