"""The compiled products against plain ones in float64, and that no result depends on threads or neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kinfold.stages import _linear
from kinfold.stages._bank_ops import GroupPlan, banked_linear
from kinfold.stages._linear import filled, product
from kinfold.stages._lowrank import takes
from kinfold.stages._tiles import have_tiles
from torch import Tensor

pytestmark = pytest.mark.skipif(not have_tiles(), reason="needs a CPU with AMX and numba")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Layer:
    """A layer with random factors, and its outputs and gradients one way or another."""

    def __init__(self, sizes: tuple[int, ...], width: int, out: int, shared: int, own: int, frozen: int) -> None:
        draw = torch.Generator().manual_seed(sum(sizes) + width)

        def half(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw).bfloat16()

        def pairs(rank: int) -> tuple[Tensor, Tensor]:
            # Values of bf16 in fp32, so that rounding the factors is no part of the difference.
            return half(rank, width).float() / 16, half(rank, out).float() / 4

        self.sizes, self.x, self.weight, self.grad = (
            sizes,
            half(sum(sizes), width),
            half(out, width) / 16,
            half(sum(sizes), out),
        )
        trained = ([pairs(shared)] if shared else []) + [pairs(own) for _ in sizes if own]
        self.a, self.b = ([pair[place] for pair in trained] for place in (0, 1))
        self.frozen = pairs(frozen) if frozen else None
        self.shared, self.own = bool(shared), bool(own)

    def run(self, dtype: torch.dtype, **how: bool) -> list[Tensor]:
        exact = dtype == torch.float64
        x, weight = self.x.to(dtype, copy=True).requires_grad_(), self.weight.to(dtype)
        a, b = ([(t.double() if exact else t.clone()).requires_grad_() for t in part] for part in (self.a, self.b))
        frozen: Any = None if self.frozen is None else tuple(t.to(dtype) for t in self.frozen)
        plan = GroupPlan(self.sizes, 0.5, self.shared, self.own, transposed=False, ragged=True, **how)
        y = banked_linear(x, weight, None, plan, a, b, frozen=frozen)
        y.backward(self.grad.to(dtype))
        return [y.detach(), *(t.grad for t in (x, *a, *b) if t.grad is not None)]


LAYERS = [
    ((100, 33, 5, 1, 64), 64, 96, 8, 8, 0),
    ((300, 129), 160, 64, 16, 16, 0),
    ((77,), 128, 64, 16, 0, 24),
    ((20, 40, 31), 64, 64, 0, 4, 8),
    ((140, 31), 96, 64, 40, 33, 5),
    ((40, 100, 33), 2080, 1056, 8, 8, 4),  # more than one pass over steps and over columns
]


@pytest.mark.parametrize(("dtype", "least"), [(torch.bfloat16, 1e-3), (torch.float32, 1e-6)], ids=["bf16", "fp32"])
@pytest.mark.parametrize("layer", LAYERS)
def test_equals_the_plain_formula(
    layer: tuple[Any, ...], dtype: torch.dtype, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = _linear._scratch
    # Every bit set is not a number: what a loop reads of its scratch it must have written.
    monkeypatch.setattr(_linear, "_scratch", lambda pieces, size: scratch(pieces, size).fill_(0xFF))
    case = Layer(*layer)
    wanted = case.run(torch.float64)
    got, plain = case.run(dtype, tiled=True), case.run(dtype)
    assert len(got) == len(wanted) == len(plain)
    for mine, theirs, exact in zip(got, plain, wanted, strict=True):
        error, usual = ((t.double() - exact).norm() / exact.norm() for t in (mine, theirs))
        assert float(error) < max(1.1 * float(usual), least)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rows_that_lie_apart(dtype: torch.dtype) -> None:
    case = Layer((10, 25), 64, 96, 8, 8, 0)
    wanted = case.run(dtype, tiled=True)
    plan = GroupPlan(case.sizes, 0.5, shared=True, domains=True, transposed=False, tiled=True)
    apart = torch.stack([case.x, case.grad[:, :64]], 1).to(dtype)[:, 0]
    assert not apart.is_contiguous()
    got = banked_linear(apart, case.weight.to(dtype), None, plan, case.a, case.b)
    assert torch.equal(got, wanted[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_groups_know_nothing_of_each_other(dtype: torch.dtype) -> None:
    """A group of infinities and one that is not a number beside it leave the others as they are."""
    case = Layer((45, 20, 70), 64, 64, 0, 8, 0)
    before = case.run(dtype, tiled=True)
    case.x[45:65] = float("inf")
    case.grad[45:65] = float("nan")
    after = case.run(dtype, tiled=True)
    for old, new in zip(before[:2], after[:2], strict=True):
        assert torch.equal(old[:45], new[:45])
        assert torch.equal(old[65:], new[65:])
    for place in (0, 2):
        assert torch.equal(before[2 + place], after[2 + place])
        assert torch.equal(before[5 + place], after[5 + place])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_threads_change_nothing(threads: None, dtype: torch.dtype) -> None:
    case = Layer((700, 333, 90), 96, 128, 8, 8, 8)
    torch.set_num_threads(1)
    one = case.run(dtype, tiled=True)
    torch.set_num_threads(3)
    three = case.run(dtype, tiled=True)
    # In bf16 the frozen layer's own product is PyTorch's, so what is compared is the gradients of the factors.
    for mine, theirs in zip(*(part[2 if dtype == torch.bfloat16 else 0 :] for part in (one, three)), strict=True):
        assert torch.equal(mine, theirs)


def test_a_second_derivative_is_refused() -> None:
    """The loops record nothing, so a derivative of a gradient would be wrong without a word."""
    case = Layer((10, 25), 64, 96, 8, 8, 0)
    plan = GroupPlan(case.sizes, 0.5, shared=True, domains=True, transposed=False, tiled=True)
    x = case.x.float().requires_grad_()
    y = banked_linear(x, case.weight.float(), None, plan, case.a, case.b)
    (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_what_is_taken() -> None:
    x = torch.zeros(3, 64, dtype=torch.bfloat16)
    assert takes(x, 96)
    assert not takes(x, 80)
    assert not takes(x[:, :48], 96)
    assert takes(torch.zeros(2, 50, 64), 96)
    assert not takes(x.float(), 96)  # laying the weight out costs more than so few rows
    assert not takes(x.double(), 96)
    assert not takes(x[:0], 96)  # an empty input stays one


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(97, 64, 96), (600, 160, 288), (130, 2080, 64)])
def test_split_products_are_as_exact_as_single_precision(shape: tuple[int, int, int], transposed: bool) -> None:
    rows, steps, width = shape
    draw = torch.Generator().manual_seed(rows)
    # Numbers of very different size, so that what a plane leaves out would show.
    x = torch.randn(rows, steps, generator=draw) * torch.logspace(-6, 6, steps)
    weight = torch.randn(steps, width, generator=draw) * torch.logspace(6, -6, steps)[:, None]
    got = product(x, weight if transposed else weight.t().contiguous(), transposed=transposed)
    exact = x.double() @ weight.double()
    error, usual = ((t.double() - exact).abs().max() / exact.abs().max() for t in (got, torch.mm(x, weight)))
    assert float(error) < max(1.5 * float(usual), 1e-6)


def test_split_products_write_where_they_are_told() -> None:
    x, weight = torch.randn(100, 64), torch.randn(32, 64)
    out = torch.full((100, 32), float("nan"))
    assert product(x, weight, out=out) is out
    assert torch.allclose(out, x @ weight.t(), atol=1e-4)
    assert product(x[:, ::2], weight[:, ::2]).shape == (100, 32)  # what is not contiguous is PyTorch's


@given(rows=st.integers(1, 100_000), more=st.integers(0, 100))
def test_rows_are_filled_up_by_little(rows: int, more: int) -> None:
    full = filled(rows)
    assert full % 32 == 0
    assert rows <= full < rows + 32 + rows / 24
    assert filled(full) == full
    assert full <= filled(rows + more)  # so that what suffices for a chunk suffices for a smaller one


def test_few_numbers_of_rows_occur() -> None:
    for usual in (800, 4_000, 60_000):
        assert len({filled(rows) for rows in range(round(0.8 * usual), round(1.2 * usual))}) <= 24
