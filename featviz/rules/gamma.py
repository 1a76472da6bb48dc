"""LRP-gamma of one layer with weights, as a correction of its gradient.

With inputs x, weights w, bias b and outputs y = sum(x w) + b, LRP-gamma (Montavon et al. 2019,
section 10.2.3; for inputs and outputs of both signs as in zennit) counts the contributions in the
direction of the output 1 + gamma times, and hands the relevance R of a positive output to

    R_j = (x_j w_j + gamma max(x_j w_j, 0)) R / (y + gamma (sum(max(x w, 0)) + max(b, 0)))

and that of a negative output in the same way with min for max. Since max(a, 0) = (a + |a|) / 2 and
min(a, 0) = (a - |a|) / 2, both are

    R_j = ((1 + gamma / 2) x_j w_j + gamma / 2 sign(y) |x_j w_j|) R / y * ratio
    ratio = 1 / (1 + gamma / 2 + gamma / 2 (sum(|x w|) + |b|) / |y|)

with a ratio of 0 to 1, which is 0 where y is 0. Relevance travels as R = y g, the
value times a signal g, so that sums, concatenations, pooling and rectifiers need nothing but their
gradient. Then a layer scales what arrives, s = g ratio, and its input is given

    (1 + gamma / 2) T(s, w) + gamma / 2 sign(x) T(sign(y) s, |w|)

where T is the gradient of the layer with regard to its input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featviz.rules.graph import Signals

GAMMA = 0.05
"""How much more than the others count the contributions in the direction of the output. With more,
pictures of different units become alike: at SqueezeNet's `features.12.expand3x3` their cosine is 0.10
with 0, 0.38 with 0.05, 0.69 with 0.1 and 0.90 with 0.25, zennit's default, and all are as readable."""


class Weights(ABC):
    """A linear operation with its input and weights.

    Attributes:
        x: the input.
        w: the weights, with batch norm merged.
        b: the bias, with batch norm merged; None: none.
    """

    x: Tensor
    w: Tensor
    b: Tensor | None

    @abstractmethod
    def forward(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        """The operation of this kind on other inputs, weights and biases."""

    @property
    def y(self) -> Tensor:
        """The output, computed once more."""
        return self.forward(self.x, self.w, self.b)

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

    def forward(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        result: Tensor = torch.ops.aten.convolution(x, w, b, *self.settings)
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

    def forward(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        y = w @ x if self.is_left else x @ w
        return y if b is None else y.add_(b)

    def backward(self, signal: Tensor, w: Tensor) -> Tensor:
        return w.mT @ signal if self.is_left else signal @ w.mT


class Gamma:
    """The hooks of one layer with weights.

    Args:
        weights: of the layer.
        y: its output; where no signal comes back, the sign may be another, or the value 0.
        positive: whether a signal comes back from positive outputs alone.
        rectified: whether no input is negative, as far as the graph tells; if not, they are looked at.
    """

    def __init__(
        self, weights: Weights, y: Tensor, *, positive: bool = False, rectified: bool = False
    ) -> None:
        self.weights = weights
        self.sign_of_x = None if rectified else _sign(weights.x)
        self.sign_of_y = None if positive else _sign(y)
        self.sizes = weights.w.abs().mul_(GAMMA / 2)
        self.ratio = self._ratio(y)
        self.signal: Tensor | None = None

    def _ratio(self, y: Tensor) -> Tensor:
        """All in the memory of the first result: on CPUs new memory takes longer than arithmetic."""
        tiny = torch.finfo(y.dtype).tiny  # where all is 0 there is no relevance
        x, b = self.weights.x, self.weights.b
        inputs = x if self.sign_of_x is None else x.abs()
        if b is not None:
            b = b.abs().mul_(GAMMA / 2).add_(tiny)
        total = self.weights.forward(inputs, self.sizes, b)
        if b is None:
            total.add_(tiny)
        return total.div_(y).abs_().add_(1 + GAMMA / 2).reciprocal_()

    def scale(self, signals: Signals) -> Signals:
        """Before the layer, or before the batch norm behind it: g to s."""
        self.signal = None
        if signals[0] is not None:
            self.signal = signals[0] * self.ratio
        return self.signal, *signals[1:]

    def correct(self, own: Tensor) -> Tensor:
        """Behind the layer: what its input is given, from its gradient T(s, w)."""
        signal = self.signal
        assert signal is not None
        self.signal = None
        if self.sign_of_y is not None:
            signal = signal * self.sign_of_y
        toward = self.weights.backward(signal, self.sizes)
        if self.sign_of_x is not None:
            toward.mul_(self.sign_of_x)
        return toward.add_(own, alpha=1 + GAMMA / 2)


def _sign(values: Tensor) -> Tensor | None:
    """The signs of values; None: none is negative."""
    return values.sign() if bool(values.amin() < 0) else None
