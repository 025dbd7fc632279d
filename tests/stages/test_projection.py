"""Norms and projections of low-rank products against dense matrices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kinfold.errors import ConfigError
from kinfold.stages.bank import LoraBank, LoraSpec
from kinfold.stages.projection import product_norm, project_, update_norm
from torch import nn


def pair(rank: int, width: int, out: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, width, generator=generator), torch.randn(rank, out, generator=generator)


@given(
    rank=st.integers(1, 9),
    width=st.integers(1, 31),
    out=st.integers(1, 47),
    seed=st.integers(0, 99),
    scaling=st.sampled_from([1.0, 0.3, 2.0]),
)
@settings(deadline=None, max_examples=50)
def test_norm_equals_the_dense_matrix(rank: int, width: int, out: int, seed: int, scaling: float) -> None:
    a, b = pair(rank, width, out, seed)
    dense = scaling * b.double().T @ a.double()
    assert product_norm(a, b, scaling) == pytest.approx(float(dense.norm()), rel=1e-9)


def test_norm_survives_cancellation() -> None:
    """Rows that cancel: the product is far smaller than its factors."""
    a, b = pair(1, 20, 30, 0)
    a2 = torch.cat([a, a + 1e-4 * torch.randn(1, 20, generator=torch.Generator().manual_seed(1))])
    b2 = torch.cat([b, -b])
    dense = b2.double().T @ a2.double()
    assert product_norm(a2, b2) == pytest.approx(float(dense.norm()), rel=1e-6)


@given(seed=st.integers(0, 99), share=st.floats(0.05, 1.5))
@settings(deadline=None, max_examples=40)
def test_projection_is_the_nearest_point_of_the_ball(seed: int, share: float) -> None:
    pairs = [pair(3, 7, 5, seed), pair(2, 4, 11, seed + 100)]
    dense = torch.cat([(0.5 * b.double().T @ a.double()).flatten() for a, b in pairs])
    norm = float(dense.norm())
    assert update_norm(pairs, 0.5) == pytest.approx(norm, rel=1e-9)
    rho = share * norm
    before = [b.clone() for _, b in pairs]
    after = project_(pairs, rho, 0.5)
    got = torch.cat([(0.5 * b.double().T @ a.double()).flatten() for a, b in pairs])
    # The closed form of the Euclidean projection onto a ball around 0.
    torch.testing.assert_close(got, dense * min(1.0, rho / norm), rtol=1e-5, atol=1e-6)
    assert after == pytest.approx(min(norm, rho), rel=1e-6)
    if share >= 1:
        assert all(b.equal(old) for (_, b), old in zip(pairs, before, strict=True)), "inside the ball nothing may move"


def test_a_radius_of_zero_and_an_update_of_zero() -> None:
    a, b = pair(2, 3, 4, 0)
    assert project_([(a, b)], 0.0) == 0
    assert not b.any()
    assert project_([(a, b)], 0.0) == 0
    assert torch.isfinite(b).all()


@pytest.mark.parametrize("rho", [-1.0, float("nan")])
def test_a_bad_radius_is_named(rho: float) -> None:
    with pytest.raises(ConfigError, match="rho"):
        project_([pair(2, 3, 4, 0)], rho)


def test_a_bank_projects_each_adapter_onto_its_own_ball() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    bank = LoraBank.attach(model, ("a", "b"), LoraSpec(rank=3, alpha=6), seed=0)
    with torch.no_grad():
        for name, parameter in bank.named_parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    before = bank.norms()
    dense = {
        key: sum(
            float(
                (bank.spec.scaling * bank.state_dict()[f"{key}/{s}/B"].T @ bank.state_dict()[f"{key}/{s}/A"])
                .square()
                .sum()
            )
            for s in bank.sites
        )
        ** 0.5
        for key in before
    }
    assert before == pytest.approx(dense, rel=1e-5)
    after = bank.project_(rho_shared=1.5, rho_domain=0.25)
    assert after == pytest.approx({"shared": 1.5, "domain/a": 0.25, "domain/b": 0.25})
    assert bank.norms() == pytest.approx(after, rel=1e-6)
    assert bank.project_() == pytest.approx(after, rel=1e-6)
