"""Convolution that does not share its parameters."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LocallyConnected2d(nn.Module):
    """A layer connected like a convolution, but with weights of its own at every position.

    It has the sparse interactions of a convolution without the parameter sharing, so it is
    equivariant to nothing (Goodfellow, Bengio & Courville, *Deep Learning*, section 9.5, "unshared
    convolution").

    Args:
        in_channels, out_channels: channels of input and output.
        input_size: (height, width) of its input, which is fixed: it has weights for these positions
            alone.
        kernel_size, stride, padding: as of ``nn.Conv2d``; whole numbers, the same for both axes.
        bias: whether each output has a bias of its own.

    Shape:
        (n, in_channels, *input_size) to (n, out_channels, h, w) with h = (height + 2 padding -
        kernel_size) // stride + 1.

    Raises:
        ValueError: an input of another size than ``input_size``.

    Example:
        >>> import torch
        >>> from featviz.models import LocallyConnected2d
        >>> LocallyConnected2d(3, 8, (16, 16), kernel_size=5, stride=2)(torch.zeros(1, 3, 16, 16)).shape
        torch.Size([1, 8, 6, 6])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        input_size: tuple[int, int],
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.input_size = input_size
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.output_size = tuple(
            (side + 2 * padding - kernel_size) // stride + 1 for side in input_size
        )
        positions = math.prod(self.output_size)
        inputs = in_channels * kernel_size**2
        self.weight = nn.Parameter(torch.empty(positions, out_channels, inputs))
        self.bias: nn.Parameter | None = None
        if bias:
            self.bias = nn.Parameter(torch.zeros(out_channels, *self.output_size))
        nn.init.normal_(self.weight, std=math.sqrt(2 / inputs))

    def forward(self, x: Tensor) -> Tensor:
        if tuple(x.shape[-2:]) != self.input_size:
            raise ValueError(
                f"input of size {tuple(x.shape[-2:])}: this layer has weights for {self.input_size} alone"
            )
        # windows (n, inputs, positions), out (n, channels, positions) and then (n, channels, h, w)
        windows = F.unfold(x, self.kernel_size, padding=self.padding, stride=self.stride)
        out = torch.einsum("nip,poi->nop", windows, self.weight)
        out = out.reshape(len(x), self.out_channels, *self.output_size)
        if self.bias is not None:
            out = out + self.bias
        return out

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, input_size={self.input_size}, "
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        )
