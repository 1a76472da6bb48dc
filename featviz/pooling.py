"""Max-pooling on CPUs, several times as fast as torch's own where channels come first.

torch's kernel goes through such maps position by position. Without gradients the maxima of shifted maps are
the same values. With gradients, for which winners count, maps are laid out with their channels last, of which
the kernel takes many at once, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode, has_torch_function

_pooled = torch.ops.aten.max_pool2d_with_indices
_back = torch.ops.aten.max_pool2d_with_indices_backward
_FUNCTIONS = {F.max_pool2d, torch.max_pool2d}
_DTYPES = {torch.float32, torch.float64}

Sizes = int | Sequence[int]


class quick_pooling(TorchFunctionMode):  # a context, named as what it does
    """Within the block max-pooling on CPUs is quick, unless another mode that is entered outside of the
    block is to see it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in _FUNCTIONS and _is_slow(args[0] if args else None):
            return _max_pool2d(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def lies_last(maps: Tensor) -> bool:
    """Whether torch's own pooling of these is quick: maps (n, c, h, w) have their channels last in memory."""
    return maps.dim() != 4 or maps.is_contiguous(memory_format=torch.channels_last)


def _is_slow(x: object) -> bool:
    """Whether torch would pool this tensor position by position."""
    return (
        type(x) is Tensor
        and x.dim() == 4
        and x.device.type == "cpu"
        and x.dtype in _DTYPES
        and x.is_contiguous()
        and not torch.compiler.is_compiling()
        and not has_torch_function((x,))
    )


def _max_pool2d(
    func: Callable[..., Any],
    x: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """What torch's function of this name gives."""
    step = kernel_size if stride is None or stride == [] else stride
    window = (kernel_size, step, padding, dilation, ceil_mode)
    if return_indices:
        return func(x, *window, return_indices=True)
    if x.requires_grad and torch.is_grad_enabled():
        return MaxPool2DWithIndices.apply(x, window)[0]
    return _shifted_maxima(x, window)


def _shifted_maxima(x: Tensor, window: tuple[Any, ...]) -> Tensor:
    """The maxima over windows: first over their rows, then over their columns."""
    like = torch.empty(x.shape, device="meta", dtype=x.dtype)
    sizes = _pooled(like, *window)[0].shape[2:]
    kernel, stride, padding, dilation = (_pair(size) for size in window[:4])
    for axis in (0, 1):
        dim, step, reach = axis + 2, dilation[axis], (sizes[axis] - 1) * stride[axis]
        x = _padded(x, dim, padding[axis], reach + step * (kernel[axis] - 1) + 1)
        shifted = (
            x.narrow(dim, i * step, reach + 1)[_every(dim, stride[axis])]
            for i in range(kernel[axis])
        )
        x = reduce(torch.maximum, shifted)
    return x.contiguous()


def _pair(size: Sizes) -> tuple[int, int]:
    """Of rows and columns."""
    if isinstance(size, int):
        return size, size
    return size[0], size[-1]


def _padded(x: Tensor, dim: int, before: int, length: int) -> Tensor:
    """With so much of minus infinity before it along a dimension, and after it up to a length."""
    after = max(0, length - before - x.shape[dim])
    if not before and not after:
        return x
    sides = (before, after) if dim == 3 else (0, 0, before, after)
    return F.pad(x, sides, value=-torch.inf)


def _every(dim: int, step: int) -> tuple[slice, ...]:
    return (*[slice(None)] * dim, slice(None, None, step))


def _channels_last(x: Tensor, window: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Maxima and winners, with the channels first again."""
    last = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    values, indices = _pooled(last, *window)
    return values.contiguous(), indices.contiguous()


class MaxPool2DWithIndices(Function):
    """On the graph under the name of torch's own, whose backward pass it has."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, window: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        return _channels_last(x, window)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, ctx.window = inputs
        indices = output[1]
        ctx.mark_non_differentiable(indices)
        ctx.save_for_backward(x, indices)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        x, indices = ctx.saved_tensors
        return _back(gradients[0], x, *ctx.window, indices), None


def is_pooling(node: Node) -> bool:
    """Whether a node of the graph is one of these."""
    return isinstance(node, MaxPool2DWithIndices._backward_cls)
