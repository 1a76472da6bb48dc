"""DeepLIFT's rescale rule for every spelling of an activation, and for one module used many times.

Images and their baselines go through the network as one batch, images first. Within `Rescale` each
activation gives the values that it always gives, and passes back the signal times its multiplier:
the change of its output over the change of its input (Shrikumar et al., arXiv 1704.02685, section
3.5.1). Max-pooling shares its change among the positions that won, as captum does, but adds up where
windows overlap. Everything else follows autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_ACTIVATIONS = {
    "relu", "relu6", "hardtanh", "threshold", "leaky_relu", "prelu", "elu", "celu", "selu", "silu",
    "gelu", "mish", "hardswish", "hardsigmoid", "softplus", "clamp", "clip", "clamp_min",
    "clamp_max", "sigmoid", "tanh", "logsigmoid",
}  # fmt: skip
_POOLS = {"max_pool2d", "adaptive_max_pool2d"}

Function = Callable[[Tensor], Tensor]


class Rescale(TorchFunctionMode):
    """Within the block, activations and max-pooling pass signals back by the rescale rule."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").rstrip("_")
        if not args or not isinstance(args[0], Tensor) or name not in _ACTIVATIONS | _POOLS:
            return func(*args, **kwargs)
        x = args[0]

        # x, which may come to lie behind the function on the graph, is not to be held by it
        others = args[1:]

        def function(x: Tensor) -> Tensor:
            result: Tensor = func(x, *others, **kwargs)
            return result

        before = x.clone()  # what works in place writes over it
        with torch.no_grad():
            scratch = x.detach().clone()
            y = function(scratch)
        if not isinstance(y, Tensor) or not x.requires_grad:
            return func(*args, **kwargs)
        is_in_place = y.data_ptr() == scratch.data_ptr()
        rule = _Pool if name in _POOLS else _Activation
        result = rule.apply(before, y, function)
        return x.copy_(result) if is_in_place else result


class _Known(torch.autograd.Function):
    """y = f(x), computed before."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, function: Function) -> Tensor:
        ctx.save_for_backward(x, y.clone())
        ctx.function = function
        return y


class _Activation(_Known):
    """y = f(x), number by number."""

    @staticmethod
    def backward(ctx: Any, *signals: Any) -> Any:
        x, y = ctx.saved_tensors
        slope = _gradient(ctx.function, x, torch.ones_like(y))
        return signals[0] * _ratio(_change(y), _change(x), x, slope), None, None


class _Pool(_Known):
    """y = the maxima of x."""

    @staticmethod
    def backward(ctx: Any, *signals: Any) -> Any:
        x, y = ctx.saved_tensors
        signal = signals[0].chunk(2)[0]
        of_images, of_baselines = y.chunk(2)
        larger = torch.maximum(of_images, of_baselines)
        # the rise to the larger maximum is due to the image's winner, the rest to the baseline's
        changes = torch.cat([larger - of_baselines, of_images - larger])
        shares = _gradient(ctx.function, x, torch.cat([signal, signal]) * changes).chunk(2)
        total = torch.cat([shares[0] + shares[1]] * 2)
        slope = _gradient(ctx.function, x, torch.cat([signal, signal]))
        return _ratio(total, _change(x), x, slope), None, None


def _change(values: Tensor) -> Tensor:
    """From the baseline to the image, for both halves of a batch."""
    of_images, of_baselines = values.chunk(2)
    return torch.cat([of_images - of_baselines] * 2)


def _ratio(above: Tensor, below: Tensor, x: Tensor, slope: Tensor) -> Tensor:
    """The quotient; the slope where the change below is of the size of rounding."""
    largest = torch.cat([torch.maximum(*x.abs().chunk(2))] * 2)
    is_still = below.abs() <= 8 * torch.finfo(x.dtype).eps * largest
    quotient = above / torch.where(is_still, torch.ones_like(below), below)
    return torch.where(is_still, slope, quotient)


def _gradient(function: Function, x: Tensor, signal: Tensor) -> Tensor:
    """The signal carried back through a function by autograd."""
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        # a leaf is not worked on in place
        (gradient,) = torch.autograd.grad(function(leaf.clone()), leaf, signal)
    return gradient
