"""The losses' machine code against autograd of the plain formula in float64, and against PyTorch's passes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from kinfold._compile import have_compiler
from kinfold.stages.losses import _chunked, fused_cross_entropy, fused_kl
from torch import Tensor

pytestmark = pytest.mark.skipif(not have_compiler(), reason="no compiler: PyTorch's passes are used")

N, H, V = 300, 31, 123
BOUNDS = {torch.float32: (2e-6, 5e-6), torch.bfloat16: (5e-3, 2e-2)}  # of sums and of gradients, relative


def drawn(dtype: torch.dtype, *shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("chunk", [None, 10, 1])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("loss", ["task", "forward", "reverse"])
def test_sums_and_gradients(loss: str, dtype: torch.dtype, bias: bool, chunk: int | None) -> None:
    hidden, base = drawn(dtype, N, H, seed=1).requires_grad_(), drawn(dtype, N, H, seed=2)
    weight, added = drawn(dtype, V, H, seed=3), drawn(dtype, V, seed=4) if bias else None
    labels = torch.randint(0, V, (N,), generator=torch.Generator().manual_seed(5))
    labels[::3] = -100
    if loss == "task":
        sums, _ = fused_cross_entropy(hidden, weight, labels, bias=added, chunk=chunk)
    else:
        sums, _ = fused_kl(hidden, base, weight, loss, mask=labels >= 0, bias=added, chunk=chunk)  # type: ignore[arg-type]
    (got,) = torch.autograd.grad(sums.sum(), hidden)
    exact = hidden.detach().double().requires_grad_()
    own, theirs = (
        F.log_softmax(x @ weight.double().T + (0 if added is None else added.double()), -1)
        for x in (exact, base.double())
    )
    if loss == "task":
        wanted = F.nll_loss(own, labels, ignore_index=-100, reduction="sum")
    else:
        first, second = (own, theirs) if loss == "reverse" else (theirs, own)
        wanted = (first.exp() * (first - second))[labels >= 0].sum()
    (grad,) = torch.autograd.grad(wanted, exact)
    near_sum, near_grad = BOUNDS[dtype]
    assert abs(float(sums.detach().sum()) / float(wanted.detach()) - 1) <= near_sum
    assert float((got - grad).norm() / grad.norm()) <= near_grad


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_no_further_from_the_truth_than_pytorchs_passes(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight = drawn(dtype, N, H, seed=1).requires_grad_(), drawn(dtype, V, H, seed=3)
    labels = torch.arange(N) % V
    exact = hidden.detach().double().requires_grad_()
    F.cross_entropy(exact @ weight.double().T, labels, reduction="sum").backward()
    assert exact.grad is not None
    distances = []
    for compiled in (True, False):
        monkeypatch.setattr(_chunked, "_machine_code", lambda *_, use=compiled: use)
        (grad,) = torch.autograd.grad(fused_cross_entropy(hidden, weight, labels)[0].sum(), hidden)
        distances.append(float((grad - exact.grad).norm()))
    assert distances[0] <= 1.2 * distances[1]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_a_confident_row_has_a_small_gradient_and_not_none(dtype: torch.dtype) -> None:
    """1 − p of a sure label would round away in bf16; the label's entry is Σe less its own, formed before rounding."""
    weight = torch.eye(4, dtype=dtype)
    hidden = torch.tensor([[12.0, 0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    (grad,) = torch.autograd.grad(fused_cross_entropy(hidden, weight, torch.tensor([0]))[0].sum(), hidden)
    rest = torch.softmax(hidden.detach().double(), -1)[0, 1:].sum()
    assert float(-grad[0, 0]) == pytest.approx(float(rest), rel=2e-2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_broken_states_give_a_broken_loss(dtype: torch.dtype, bad: float) -> None:
    """The loop stops at a loss that is no number: the loops must not turn one into a number."""
    hidden = torch.zeros(3, H, dtype=dtype)
    hidden[1, 2] = bad
    weight = drawn(dtype, V, H, seed=3)
    sums, _ = fused_cross_entropy(hidden.requires_grad_(), weight, torch.zeros(3, dtype=torch.long))
    assert not torch.isfinite(sums).all()
    sums, _ = fused_kl(hidden, torch.zeros(3, H, dtype=dtype), weight)
    assert not torch.isfinite(sums).all()
