"""Each weighting's update rule, worked out by hand or by autograd of the published formula."""

from __future__ import annotations

import json
import math

import pytest
import torch
from kinfold.errors import ConfigError
from kinfold.stages.weighting import DWA, FAMO, METHODS, Static, SwampWatch, Uncertainty, Weighting, make_weighting

WEIGHTS = {"task": 1.0, "kl": 0.5, "ssl": 2.0}
LOSSES = {"task": 3.0, "kl": 0.25, "ssl": 1.5}


def parts(values: dict[str, float] | None = None) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, requires_grad=True) for name, value in (values or LOSSES).items()}


def gradients(weighting: Weighting, values: dict[str, float] | None = None) -> dict[str, float]:
    leaves = parts(values)
    weighting.combine(leaves).backward()
    return {name: float(leaf.grad) for name, leaf in leaves.items() if leaf.grad is not None}


def test_static_is_the_weighted_sum() -> None:
    assert float(Static(WEIGHTS).combine(parts()).detach()) == pytest.approx(3 + 0.125 + 3)
    assert gradients(Static(WEIGHTS)) == pytest.approx(WEIGHTS)


def test_uncertainty_follows_the_gradient_of_its_formula_and_is_clamped() -> None:
    weighting = Uncertainty(WEIGHTS, limit=0.5)
    assert gradients(weighting) == pytest.approx(WEIGHTS)  # s = 0: the user's weights
    (s,) = weighting.parameters()
    assert s.grad is not None
    # d/ds w (e^-s L + s/2) at 0 = w (1/2 - L)
    assert s.grad.tolist() == pytest.approx([1 * (0.5 - 3), 0.5 * (0.5 - 0.25), 2 * (0.5 - 1.5)])
    for _ in range(200):
        s.grad = None
        weighting.combine(parts()).backward()
        with torch.no_grad():
            s -= 0.1 * s.grad
        weighting.after_step(LOSSES)
    # The optimum is s = log 2L; the clamp holds those beyond.
    expected = [0.5, max(-0.5, math.log(0.5)), 0.5]
    assert s.tolist() == pytest.approx(expected, abs=1e-3)
    assert weighting.weights["task"] == pytest.approx(math.exp(-0.5), abs=1e-3)
    # At the bound the gradient still points somewhere, so s can come back.
    s.grad = None
    weighting.combine(parts({"task": 0.1, "kl": 1.0, "ssl": 1.0})).backward()
    assert s.grad is not None
    assert s.grad[0] > 0


def test_uncertainty_counts_its_own_term_once_under_accumulation() -> None:
    weighting = Uncertainty(WEIGHTS)
    with torch.no_grad():
        weighting.parameters()[0].copy_(torch.tensor([0.3, -0.2, 0.1]))
    whole = weighting.combine(parts())
    halves = [weighting.combine(parts({n: v / 2 for n, v in LOSSES.items()}), share=0.5) for _ in range(2)]
    torch.testing.assert_close(halves[0] + halves[1], whole)


def test_dwa_is_the_papers_rule_on_window_means() -> None:
    weighting = DWA({"task": 1.0, "kl": 0.5}, temperature=2.0, window=2)
    for task, kl in ((4.0, 1.0), (2.0, 1.0)):
        weighting.after_step({"task": task, "kl": kl})
    assert weighting.weights == {"task": 1.0, "kl": 0.5}
    for task, kl in ((1.0, 1.0), (2.0, 0.6)):
        weighting.after_step({"task": task, "kl": kl})
    r = (1.5 / 3.0, 0.8 / 1.0)
    e = [math.exp(value / 2.0) for value in r]
    expected = {"task": 2 * e[0] / sum(e), "kl": 0.5 * 2 * e[1] / sum(e)}
    assert weighting.weights == pytest.approx(expected)
    assert expected["kl"] / 0.5 > expected["task"], "the slower part must gain"
    assert gradients(weighting, {"task": 1.0, "kl": 1.0}) == pytest.approx(expected)


def test_dwa_survives_a_loss_that_is_zero_or_negative() -> None:
    weighting = DWA({"task": 1.0, "align": 1.0}, window=1)
    for align in (0.0, -0.01, 0.02, -0.02):
        weighting.after_step({"task": 1.0, "align": align})
        assert weighting.weights == pytest.approx({"task": 1.0, "align": 1.0})


def test_famo_takes_the_gradient_of_its_published_loss() -> None:
    weighting = FAMO({"a": 1.0, "b": 1.0})
    weighting.load_state_dict(
        {"name": "famo", "xi": {"a": 0.4, "b": -0.1}, "before": None, "coefficients": {"a": 1, "b": 1}}
    )
    leaves = torch.tensor([3.0, 0.25], requires_grad=True)
    z = torch.softmax(torch.tensor([0.4, -0.1]), 0)
    c = (z / leaves).sum().detach()
    (wanted,) = torch.autograd.grad((leaves.log() * z / c).sum(), leaves)
    got = gradients(weighting, {"a": 3.0, "b": 0.25})
    assert list(got.values()) == pytest.approx(wanted.tolist(), rel=1e-5)


def test_famo_moves_by_the_jacobian_of_softmax() -> None:
    weighting = FAMO({"a": 1.0, "b": 1.0, "c": 1.0}, lr=0.5, decay=0.01)
    start = {"a": 0.4, "b": -0.1, "c": 0.2}
    weighting.load_state_dict({"name": "famo", "xi": start, "before": None, "coefficients": dict.fromkeys("abc", 1.0)})
    before, after = [3.0, 0.25, 1.0], [2.0, 0.24, 1.3]
    weighting.combine(parts(dict(zip("abc", before, strict=True))))
    weighting.after_step(dict(zip("abc", after, strict=True)))
    xi = torch.tensor(list(start.values()), dtype=torch.float64, requires_grad=True)
    delta = torch.log(torch.tensor(before, dtype=torch.float64)) - torch.log(torch.tensor(after, dtype=torch.float64))
    (step,) = torch.autograd.grad(torch.softmax(xi, 0), xi, grad_outputs=delta)
    expected = xi.detach() - 0.5 * (step + 0.01 * xi.detach())
    assert list(weighting.state_dict()["xi"].values()) == pytest.approx(expected.tolist(), rel=1e-6)
    moved = {name: weighting.state_dict()["xi"][name] - start[name] for name in "abc"}
    assert moved["c"] > 0 > moved["a"], "the part that got worse must gain, the one that fell fastest lose"


@pytest.mark.parametrize("value", [-0.01, 0.0, 1e-9])
def test_famo_leaves_a_part_without_a_logarithm_at_its_weight(value: float) -> None:
    weighting = FAMO({"task": 1.0, "kl": 1.0, "align": 0.3})
    got = gradients(weighting, {"task": 3.0, "kl": value, "align": -0.2})
    assert got == pytest.approx({"task": 1.0, "kl": 1.0, "align": 0.3})
    weighting.after_step({"task": 2.0, "kl": -1.0, "align": 0.5})
    assert all(math.isfinite(v) for v in weighting.state_dict()["xi"].values())


@pytest.mark.parametrize("name", METHODS)
def test_states_survive_json_and_continue_alike(name: str) -> None:
    one, two = make_weighting(name, WEIGHTS), make_weighting(name, WEIGHTS)

    def advance(weighting: Weighting, steps: range) -> None:
        for step in steps:
            values = {key: value / (1 + 0.1 * step) ** (1 + len(key)) for key, value in LOSSES.items()}
            weighting.combine(parts(values)).backward()
            for parameter in weighting.parameters():
                with torch.no_grad():
                    assert parameter.grad is not None
                    parameter -= 0.05 * parameter.grad
                parameter.grad = None
            weighting.after_step({key: value * 0.9 for key, value in values.items()})

    advance(one, range(50))
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    advance(one, range(50, 90))
    advance(two, range(50, 90))
    assert one.weights == two.weights
    if name != "static":
        assert one.weights != pytest.approx(WEIGHTS, rel=1e-3)


def test_bad_input_is_named() -> None:
    with pytest.raises(ConfigError, match="choose one of static, uncertainty, dwa, famo"):
        make_weighting("gradnorm", {})
    with pytest.raises(ConfigError, match="kl loss"):
        make_weighting("static", {"kl": -1.0})
    with pytest.raises(ConfigError, match="no loss to combine"):
        make_weighting("static", {}).combine({})
    with pytest.raises(ConfigError, match="resume with the same setting"):
        make_weighting("dwa", WEIGHTS).load_state_dict({"name": "famo"})


def test_swamping_is_said_once_and_names_both_sides() -> None:
    watch = SwampWatch(share=0.9, patience=3)
    calm = {"task": 1.0, "kl": 0.5}
    loud = {"task": 0.01, "kl": 5.0}
    assert watch.observe(loud, {}) is None
    assert watch.observe(loud, {}) is None
    assert watch.observe(calm, {}) is None, "the streak was broken"
    said = [watch.observe(loud, {"kl": 1.0, "task": 1.0}) for _ in range(6)]
    assert [message is not None for message in said] == [False, False, True, False, False, False]
    assert said[2] is not None
    assert "kl" in said[2]
    assert "task" in said[2]
    weighted = SwampWatch(share=0.9, patience=1)
    assert weighted.observe(loud, {"kl": 0.002}) is None, "the weight counts"
    assert weighted.observe({"task": 1.0}, {}) is None, "one part alone swamps nobody"
    assert weighted.observe({"task": 1.0, "kl": -30.0}, {}) is not None, "size counts, not sign"
