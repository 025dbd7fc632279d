"""How the parts of a loss are weighed against each other, while they change.

- static: Σ w_i L_i.
- uncertainty: Σ w_i (e^{−s_i} L_i + s_i / 2), s_i trained and clamped (Kendall et al. 2018, eq. 10).
- dwa: λ_i = K softmax(r / T)_i with r_i = L_i(t−1) / L_i(t−2), means over windows of steps (Liu, Johns, Davison 2019,
  eq. 7); the loss is Σ w_i λ_i L_i.
- famo: Σ z_i log(L_i − m) / c, z = softmax(ξ), c = Σ z_i / (L_i − m); ξ follows the parts' own progress (Liu et al.
  2023, algorithm 1).

w_i are the user's weights (λ₁, λ₂, ...). A plain sum with good regularisation often matches the rest: measure.

Use, once a step: ``loss = weighting.combine(parts)``, backward, optimiser step, then ``weighting.after_step(values)``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ._swamp import SwampWatch

__all__ = ["DWA", "FAMO", "METHODS", "Static", "SwampWatch", "Uncertainty", "Weighting", "make_weighting"]


class Weighting:
    """Base of the methods; by itself it is the static sum.

    Parameters
    ----------
    weights
        Name of each part and the user's weight for it; parts not named weigh 1. A part of weight 0 is left out.
    """

    name = "static"

    def __init__(self, weights: Mapping[str, float]) -> None:
        for part, weight in weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ConfigError(f"weight of the {part} loss is {weight!r}; it must be a number of at least 0.")
        self.base = dict(weights)

    def parameters(self) -> list[nn.Parameter]:
        """What the optimiser should train along (without weight decay); mostly nothing."""
        return []

    @property
    def weights(self) -> dict[str, float]:
        """The factor in front of each part now, for the log."""
        return dict(self.base)

    def combine(self, parts: Mapping[str, Tensor], share: float = 1.0) -> Tensor:
        """One scalar to call backward on.

        Parameters
        ----------
        parts
            Name → scalar loss, each already divided by its own count over the whole step.
        share
            Share of the step that this call stands for (1 / micro-batches under accumulation); only terms that do not
            come from the data are multiplied by it.

        Raises
        ------
        ConfigError
            When no part is given.
        """
        if not parts:
            raise ConfigError("there is no loss to combine; give at least one part a weight above 0.")
        return torch.stack([value * self.base.get(name, 1.0) for name, value in parts.items()]).sum()

    def after_step(self, values: Mapping[str, float]) -> None:
        """Learn from the step's losses (the same parts, as numbers, after the optimiser's step)."""

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers only, fit for JSON."""
        return {"name": self.name}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a state of :meth:`state_dict` back.

        Raises
        ------
        ConfigError
            When it was made by another method.
        """
        if state.get("name") != self.name:
            raise ConfigError(
                f"the checkpoint's loss weighting is {state.get('name')!r}, not {self.name!r}; "
                "resume with the same setting."
            )

    def _weight(self, name: str) -> float:
        return self.base.get(name, 1.0)


class Static(Weighting):
    """The user's weights, unchanged."""


class Uncertainty(Weighting):
    """Weights e^{−s} with s trained by the optimiser and clamped, so that no part can be switched off or blown up.

    Parameters
    ----------
    weights
        The user's weights; their names are the parts that get an s.
    limit
        s stays within ±limit (weights within e^±limit). The clamp is applied to the parameter after each step: a clamp
        inside the loss would have no gradient beyond the bound, and s could never return.
    """

    name = "uncertainty"

    def __init__(self, weights: Mapping[str, float], limit: float = 3.0) -> None:
        super().__init__(weights)
        if not limit > 0:
            raise ConfigError(f"uncertainty limit={limit!r} must be above 0; 3 keeps weights within 0.05 and 20.")
        self.limit = limit
        self._names = [name for name, weight in weights.items() if weight > 0]
        self._s = nn.Parameter(torch.zeros(len(self._names)))

    def parameters(self) -> list[nn.Parameter]:
        """The log-variances s."""
        return [self._s]

    @property
    def weights(self) -> dict[str, float]:
        """W e^{−s}."""
        s = self._s.detach().tolist()
        return {name: self._weight(name) * math.exp(-value) for name, value in zip(self._names, s, strict=True)}

    def combine(self, parts: Mapping[str, Tensor], share: float = 1.0) -> Tensor:
        """Σ w (e^{−s} L + share · s / 2)."""
        terms: list[Tensor] = []
        for name, value in parts.items():
            weight = self._weight(name)
            if name not in self._names:
                terms.append(weight * value)
                continue
            s = self._s[self._names.index(name)].to(value.device)
            terms.append(weight * (torch.exp(-s) * value + share * s / 2))
        if not terms:
            return super().combine(parts, share)
        return torch.stack(terms).sum()

    def after_step(self, values: Mapping[str, float]) -> None:
        """Clamp s."""
        with torch.no_grad():
            self._s.clamp_(-self.limit, self.limit)

    def state_dict(self) -> dict[str, Any]:
        """The log-variances by part."""
        return {"name": self.name, "s": dict(zip(self._names, self._s.detach().tolist(), strict=True))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take log-variances back."""
        super().load_state_dict(state)
        with torch.no_grad():
            self._s.copy_(torch.tensor([float(state["s"][name]) for name in self._names]))


class DWA(Weighting):
    """Dynamic weight average: a part that falls slowly gets more weight.

    Parameters
    ----------
    weights
        The user's weights.
    temperature
        Larger is more even; the paper takes 2.
    window
        Steps whose mean loss counts as one epoch of the paper. Until two windows are full, weights are the user's.
    """

    name = "dwa"

    def __init__(self, weights: Mapping[str, float], temperature: float = 2.0, window: int = 20) -> None:
        super().__init__(weights)
        if not temperature > 0 or window < 1:
            raise ConfigError(
                f"dwa temperature={temperature!r} and window={window!r} must be above 0; 2 and 20 are usual."
            )
        self.temperature = temperature
        self.window = window
        self._names = [name for name, weight in weights.items() if weight > 0]
        self._sums = dict.fromkeys(self._names, 0.0)
        self._seen = 0
        self._history: list[dict[str, float]] = []
        self._lambda = dict.fromkeys(self._names, 1.0)

    @property
    def weights(self) -> dict[str, float]:
        """w_i λ_i, where the λ sum to their number."""
        return {name: self._weight(name) * self._lambda[name] for name in self._names}

    def combine(self, parts: Mapping[str, Tensor], share: float = 1.0) -> Tensor:
        """Σ w_i λ_i L_i."""
        if not parts:
            return super().combine(parts, share)
        weights = self.weights
        return torch.stack([value * weights.get(name, self._weight(name)) for name, value in parts.items()]).sum()

    def after_step(self, values: Mapping[str, float]) -> None:
        """Count the step into its window; at a window's end the weights change."""
        for name in self._names:
            self._sums[name] += float(values.get(name, 0.0))
        self._seen += 1
        if self._seen < self.window:
            return
        self._history = [*self._history, {name: total / self._seen for name, total in self._sums.items()}][-2:]
        self._sums, self._seen = dict.fromkeys(self._names, 0.0), 0
        if len(self._history) == 2:
            older, newer = self._history
            # An unbiased MMD² may be zero or negative: its ratio says nothing then, and counts as no change.
            ratios = [newer[n] / older[n] if older[n] > 1e-12 and newer[n] > 0 else 1.0 for n in self._names]
            top = max(ratios)
            powers = [math.exp((ratio - top) / self.temperature) for ratio in ratios]
            self._lambda = {n: len(powers) * p / sum(powers) for n, p in zip(self._names, powers, strict=True)}

    def state_dict(self) -> dict[str, Any]:
        """Windows and weights."""
        return {
            "name": self.name,
            "sums": dict(self._sums),
            "seen": self._seen,
            "history": [dict(window) for window in self._history],
            "lambda": dict(self._lambda),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take windows and weights back."""
        super().load_state_dict(state)
        self._sums = {name: float(state["sums"][name]) for name in self._names}
        self._seen = int(state["seen"])
        self._history = [{name: float(window[name]) for name in self._names} for window in state["history"]]
        self._lambda = {name: float(state["lambda"][name]) for name in self._names}


class FAMO(Weighting):
    """Fast adaptive multitask optimisation: all parts' logarithms fall at one rate, at the price of one vector.

    After the optimiser's step, ξ ← ξ − β (Jᵀ (log L(θ_t) − log L(θ_{t+1})) + γ ξ), J the Jacobian of softmax at ξ. The
    original measures L(θ_{t+1}) on the same batch again; giving the next batch's losses instead (`after_step` with what
    the next step measured before its own update) is the amortised form, noisier and free.

    Parameters
    ----------
    weights
        The user's weights; they multiply each z_i (before normalisation).
    lr, decay
        β and γ; the original's defaults.
    floor
        m, the least value a part can take (0 for cross-entropy and KL).
    signed
        Parts that may be zero or negative, as an unbiased MMD² may: a logarithm means nothing there, so they keep the
        user's weight beside the others' factors, which sum to 1. A part that happens to reach the floor is treated so
        for that step.
    """

    name = "famo"

    def __init__(
        self,
        weights: Mapping[str, float],
        lr: float = 0.025,
        decay: float = 1e-3,
        floor: float = 0.0,
        signed: Collection[str] = ("align",),
    ) -> None:
        super().__init__(weights)
        if not lr > 0 or not decay >= 0:
            raise ConfigError(
                f"famo lr={lr!r} must be above 0 and decay={decay!r} at least 0; 0.025 and 0.001 are usual."
            )
        self.lr = lr
        self.decay = decay
        self.floor = floor
        self._names = [name for name, weight in weights.items() if weight > 0 and name not in signed]
        self._xi = dict.fromkeys(self._names, 0.0)
        self._before: dict[str, float] | None = None
        self._coefficients = {name: self._weight(name) for name in self._names}

    def _z(self) -> dict[str, float]:
        top = max(self._xi.values(), default=0.0)
        powers = {name: math.exp(value - top) for name, value in self._xi.items()}
        total = sum(powers.values())
        return {name: power / total for name, power in powers.items()}

    @property
    def weights(self) -> dict[str, float]:
        """The factor in front of each part's gradient at the last combine."""
        return {**self.base, **self._coefficients}

    def _above(self, value: float) -> float | None:
        """L − m, or None where its logarithm means nothing."""
        rest = value - self.floor
        return rest if math.isfinite(rest) and rest > 1e-8 else None

    def combine(self, parts: Mapping[str, Tensor], share: float = 1.0) -> Tensor:
        """Σ z_i log(L_i − m) / c as a linear form: the same gradient, Σ (z_i / (L_i − m) / c) ∇L_i, from numbers."""
        if not parts:
            return super().combine(parts, share)
        z = self._z()
        above = {n: self._above(float(value.detach())) for n, value in parts.items() if n in z}
        raw = {n: self._weight(n) * z[n] / rest for n, rest in above.items() if rest is not None}
        c = sum(raw.values())
        usual = {name: self._weight(name) for name in above}
        self._coefficients = {**self._coefficients, **usual, **{name: value / c for name, value in raw.items()}}
        self._before = {name: rest for name, rest in above.items() if rest is not None}
        terms = [value * self._coefficients.get(name, self._weight(name)) for name, value in parts.items()]
        return torch.stack(terms).sum()

    def after_step(self, values: Mapping[str, float]) -> None:
        """Move ξ by how far each part's logarithm fell."""
        if self._before is None:
            return
        z = self._z()
        now = {n: self._above(float(values[n])) for n in self._before if n in values}
        delta = {n: math.log(self._before[n] / rest) for n, rest in now.items() if rest is not None}
        mean = sum(z[name] * fall for name, fall in delta.items())
        for name in self._names:
            progress = z[name] * (delta[name] - mean) if name in delta else 0.0
            self._xi[name] -= self.lr * (progress + self.decay * self._xi[name])
        self._before = None

    def state_dict(self) -> dict[str, Any]:
        """ξ and the last factors."""
        return {
            "name": self.name,
            "xi": dict(self._xi),
            "before": self._before,
            "coefficients": dict(self._coefficients),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take ξ back."""
        super().load_state_dict(state)
        self._xi = {name: float(state["xi"][name]) for name in self._names}
        before = state["before"]
        self._before = None if before is None else {name: float(value) for name, value in before.items()}
        self._coefficients = {name: float(value) for name, value in state["coefficients"].items()}


METHODS: dict[str, type[Weighting]] = {"static": Static, "uncertainty": Uncertainty, "dwa": DWA, "famo": FAMO}


def make_weighting(name: str, weights: Mapping[str, float]) -> Weighting:
    """The method called `name`, with its defaults.

    Raises
    ------
    ConfigError
        When there is no such method.
    """
    if name not in METHODS:
        raise ConfigError(f"weighting={name!r} is unknown; choose one of {', '.join(METHODS)}.")
    return METHODS[name](weights)
