"""The alignment loss against plain double sums, its gradient, and the feature queue."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from kinfold.errors import ConfigError
from kinfold.stages.losses import FeatureQueue, alignment_mmd2


def plain(x: np.ndarray, domains: np.ndarray, k: int, *, linear: bool, unbiased: bool) -> tuple[float, int]:
    """The docstring's formula as loops over pairs of rows."""
    n = len(x)
    sq = np.array([[((a - b) ** 2).sum() for b in x] for a in x])
    # torch's median is the lower of the two middle values.
    apart = np.sort(sq[~np.eye(n, dtype=bool)])
    median = apart[(len(apart) - 1) // 2]

    def kernel(a: int, b: int) -> float:
        if linear:
            return float(x[a] @ x[b])
        return float(np.mean([np.exp(-sq[a, b] / (2 * m * median)) for m in (0.25, 0.5, 1, 2, 4)]))

    def within(rows: np.ndarray) -> float:
        if unbiased:
            return sum(kernel(a, b) for a in rows for b in rows if a != b) / (len(rows) * (len(rows) - 1))
        return sum(kernel(a, b) for a in rows for b in rows) / len(rows) ** 2

    total, pairs = 0.0, 0
    for i, j in itertools.combinations(range(k), 2):
        left, right = np.flatnonzero(domains == i), np.flatnonzero(domains == j)
        if min(len(left), len(right)) < (2 if unbiased else 1):
            continue
        cross = sum(kernel(a, b) for a in left for b in right) / (len(left) * len(right))
        total += within(left) + within(right) - 2 * cross
        pairs += 1
    return total, pairs


CASES = [([4, 5], 2), ([3, 7, 2], 3), ([2, 1, 6, 3], 4), ([0, 4, 3], 3)]


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize(("sizes", "k"), CASES, ids=str)
def test_equals_the_plain_double_sums(sizes: list[int], k: int, linear: bool, unbiased: bool) -> None:
    domains = np.repeat(np.arange(k), sizes)
    x = np.random.default_rng(2).normal(size=(len(domains), 3)) + domains[:, None]
    order = np.random.default_rng(3).permutation(len(domains))
    part = alignment_mmd2(
        torch.from_numpy(x[order]), torch.from_numpy(domains[order]), k, linear=linear, unbiased=unbiased
    )
    keep = np.isin(domains, np.flatnonzero(np.asarray(sizes) >= (2 if unbiased else 1)))
    total, pairs = plain(x[keep], domains[keep], k, linear=linear, unbiased=unbiased)
    assert part.count == pairs
    assert float(part.total) == pytest.approx(total, rel=1e-9, abs=1e-12)


def test_the_linear_biased_form_is_the_distance_of_the_means() -> None:
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    domains = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1, 1])
    part = alignment_mmd2(x, domains, 2, linear=True, unbiased=False)
    expected = (x[domains == 0].mean(0) - x[domains == 1].mean(0)).square().sum()
    torch.testing.assert_close(part.total, expected)


def test_agrees_with_the_measure_of_the_same_name() -> None:
    measure = pytest.importorskip("kinfold.metrics")
    if not hasattr(measure, "mmd2"):
        pytest.skip("kinfold.metrics has no mmd2 yet")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 5)), rng.normal(size=(9, 5)) + 0.5
    stacked = torch.from_numpy(np.concatenate([x, y]))
    sq = torch.pdist(stacked).square()
    part = alignment_mmd2(stacked, torch.tensor([0] * 12 + [1] * 9), 2, bandwidth=float(np.median(sq.numpy())))
    assert float(part.total) == pytest.approx(float(measure.mmd2(x, y)), rel=1e-6)


@pytest.mark.parametrize("linear", [True, False])
def test_gradient(linear: bool) -> None:
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    domains = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    # With its own bandwidth the loss would move with the median, which is detached on purpose.
    run = lambda value: alignment_mmd2(value, domains, 3, linear=linear, bandwidth=2.0).total  # noqa: E731
    assert torch.autograd.gradcheck(run, (x,))


def test_the_bandwidth_has_no_gradient() -> None:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    domains = torch.tensor([0] * 4 + [1] * 4)
    sq = torch.cdist(x.detach(), x.detach()).square()[~torch.eye(8, dtype=torch.bool)]
    (own,) = torch.autograd.grad(alignment_mmd2(x, domains, 2).total, x)
    (given,) = torch.autograd.grad(alignment_mmd2(x, domains, 2, bandwidth=float(sq.median())).total, x)
    torch.testing.assert_close(own, given)


def test_equal_features_give_no_nan() -> None:
    x = torch.ones(6, 3, requires_grad=True)
    part = alignment_mmd2(x, torch.tensor([0, 0, 0, 1, 1, 1]), 2)
    part.total.backward()
    assert float(part.total.detach()) == pytest.approx(0, abs=1e-6)
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_the_estimate_is_unbiased_and_not_clamped() -> None:
    """Two samples of one distribution average to nothing, so half of them must be below zero."""
    generator = torch.Generator().manual_seed(0)
    domains = torch.tensor([0] * 6 + [1] * 6)
    values = [
        float(alignment_mmd2(torch.randn(12, 2, generator=generator), domains, 2, bandwidth=2.0).total)
        for _ in range(400)
    ]
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    assert 100 < sum(value < 0 for value in values) < 300


def test_sums_run_in_fp32_for_bf16_features() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 8, generator=generator)
    domains = torch.tensor([0] * 20 + [1] * 20)
    rounded = x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        got = alignment_mmd2(rounded.requires_grad_(), domains, 2).total
    exact = alignment_mmd2(rounded.detach().double(), domains, 2).total
    assert got.dtype == torch.float32
    assert float(got) == pytest.approx(float(exact), abs=2e-6)


def test_too_little_to_compare_is_zero_pairs() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    part = alignment_mmd2(x, torch.tensor([0, 0, 1]), 2)
    part.total.backward()
    assert part.count == 0
    assert float(part.mean) == 0


def test_the_queue_lends_constants_and_keeps_the_latest() -> None:
    queue = FeatureQueue(2, capacity=3)
    old = torch.arange(8.0).view(4, 2)
    queue.push(old.clone().requires_grad_(), torch.tensor([0, 0, 0, 0]))
    queue.push(torch.tensor([[9.0, 9.0]]), torch.tensor([1]))
    contents = queue.contents()
    assert contents is not None
    assert contents[0].tolist() == [*old[1:].tolist(), [9.0, 9.0]]
    assert contents[1].tolist() == [0, 0, 0, 1]
    x = torch.randn(2, 2, requires_grad=True)
    part = alignment_mmd2(x, torch.tensor([1, 1]), 2, queue)
    joined = alignment_mmd2(torch.cat([x, contents[0]]), torch.cat([torch.tensor([1, 1]), contents[1]]), 2)
    torch.testing.assert_close(part.total, joined.total)
    assert part.count == 1
    part.total.backward()
    assert x.grad is not None
    assert x.grad.any()
    twin = FeatureQueue(2, capacity=3)
    twin.load_state_dict(queue.state_dict())
    again = twin.contents()
    assert again is not None
    assert again[0].equal(contents[0])


def test_bad_input_is_named() -> None:
    with pytest.raises(ConfigError, match="do not fit"):
        alignment_mmd2(torch.randn(3, 2), torch.tensor([0, 1]), 2)
    with pytest.raises(ConfigError, match="another stage"):
        FeatureQueue(1).load_state_dict({"3": torch.zeros(1, 2)})
