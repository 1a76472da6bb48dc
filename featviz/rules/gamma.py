"""LRP-gamma of one layer with weights, as a correction of its gradient.

With inputs x, weights w, bias b and outputs y = sum(x w) + b, LRP-gamma (Montavon et al. 2019,
section 10.2.3; for inputs and outputs of both signs as in zennit) hands the relevance R of an output to

    R_j = x_j (w_j + gamma u_j) R / (y + gamma c)

where u_j and c are what works in the direction of y: for y > 0, u_j is the positive part of w_j
where x_j > 0 and the negative part where x_j < 0, and c is the sum of all positive x_j w_j, and of b
if it is positive; for y < 0 the same with the signs turned.

Relevance travels here as R = y g, the value times a signal g, so that sums, concatenations, pooling and
rectifiers need nothing but their gradient. Then a layer does two things: it scales what arrives,

    s = g y / (y + gamma c),    a ratio of 0 to 1, so that nothing is divided by a small number

and adds gamma times the backward pass of s through u to its gradient of s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

GAMMA = 0.25
"""How much more than the others count the contributions in the direction of the output; zennit's default."""

Signals = tuple[Tensor | None, ...]


class Weights(ABC):
    """A linear operation with its input and weights.

    Attributes:
        x: the input.
        w: the weights, with batch norm merged.
        b: the bias, with batch norm merged, of a shape that adds to the output; None: none.
    """

    x: Tensor
    w: Tensor
    b: Tensor | None

    @abstractmethod
    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """The operation of this kind on other inputs and weights, without a bias."""

    @abstractmethod
    def backward(self, signal: Tensor, w: Tensor) -> Tensor:
        """The gradient of `forward` with regard to the input."""


@dataclass
class Convolution(Weights):
    """``x`` (n, c, ...), ``w`` as the convolution has it; ``settings`` from the stride on."""

    x: Tensor
    w: Tensor
    b: Tensor | None
    settings: tuple[Any, ...]

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        result: Tensor = torch.ops.aten.convolution(x, w, None, *self.settings)
        return result

    def backward(self, signal: Tensor, w: Tensor) -> Tensor:
        grads = torch.ops.aten.convolution_backward(
            signal, self.x, w, None, *self.settings, [True, False, False]
        )
        result: Tensor = grads[0]
        return result


@dataclass
class Product(Weights):
    """A product of matrices, ``x @ w``; or, where ``w`` is on the left, ``w @ x``."""

    x: Tensor
    w: Tensor
    b: Tensor | None
    is_left: bool = False

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return w @ x if self.is_left else x @ w

    def backward(self, signal: Tensor, w: Tensor) -> Tensor:
        return w.mT @ signal if self.is_left else signal @ w.mT


class Gamma:
    """The hooks of one layer with weights.

    Args:
        weights: of the layer.
        y: its output, or what has the same positive part and no negative one, if nothing but a
            rectifier takes it; None: it is computed.
    """

    def __init__(self, weights: Weights, y: Tensor | None) -> None:
        self.weights = weights
        self.both_signs = bool((weights.x < 0).any())
        positive = _added(self._signed(weights, 1), weights.b, 1)
        negative = None
        if y is None:
            negative = _added(self._signed(weights, -1), weights.b, -1)
            y = positive + negative
        self.is_negative: Tensor | None = y < 0
        if not bool(self.is_negative.any()):
            self.is_negative = None
            toward = positive
        else:
            toward = torch.where(
                self.is_negative, y - positive if negative is None else negative, positive
            )
        # where y is 0 there is no relevance
        self.ratio = torch.where(y == 0, 0, y / (y + GAMMA * toward))
        self.signal: Tensor | None = None

    def _signed(self, weights: Weights, sign: int) -> Tensor:
        """The sum of all contributions of a sign."""
        total = weights.forward(weights.x.clamp(min=0), _only(weights.w, sign))
        if self.both_signs:
            total = total + weights.forward(weights.x.clamp(max=0), _only(weights.w, -sign))
        return total

    def scale(self, signals: Signals) -> Signals:
        """Before the layer, or before the batch norm behind it: g to s."""
        if signals[0] is None:
            self.signal = None
            return signals
        self.signal = signals[0] * self.ratio
        return self.signal, *signals[1:]

    def add(self, own: Tensor) -> Tensor:
        """Behind the layer: the gradient of s, and what gamma adds."""
        signal = self.signal
        self.signal = None
        if signal is None:
            return own
        by_sign = {1: signal}
        if self.is_negative is not None:
            by_sign = {1: signal.masked_fill(self.is_negative, 0)}
            by_sign[-1] = signal - by_sign[1]
        added = self._toward(by_sign, 1)
        if self.both_signs:
            added = torch.where(self.weights.x < 0, self._toward(by_sign, -1), added)
        return own + GAMMA * added

    def _toward(self, by_sign: dict[int, Tensor], sign: int) -> Tensor:
        """The signals of positive and negative outputs, carried back to inputs of a sign."""
        total: Tensor | None = None
        for sign_of_y, signal in by_sign.items():
            part = self.weights.backward(signal, _only(self.weights.w, sign * sign_of_y))
            total = part if total is None else total + part
        assert total is not None
        return total


def _only(values: Tensor, sign: int) -> Tensor:
    """The values of one sign, and 0 for the others."""
    return values.clamp(min=0) if sign > 0 else values.clamp(max=0)


def _added(values: Tensor, bias: Tensor | None, sign: int) -> Tensor:
    return values if bias is None else values + _only(bias, sign)
