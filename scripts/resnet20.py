"""ResNet-20 for images of 32 pixels, such as CIFAR-10's (He et al., CVPR 2016, section 4.2), to train:

featviz train --model scripts.resnet20:resnet20 --images cifar10/train --test cifar10/test --radius 0
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (16, 32, 64)
"""Channels of the three stages; the second and the third halve the map."""
BLOCKS = 3
"""Of each stage."""


class Block(nn.Module):
    """Two convolutions, to whose output the input is added.

    Where the map is halved, every second position of the input is added, with channels of zeros:
    option A of the paper, without weights.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.added = width - channels
        self.conv1 = convolution(channels, width, stride)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm1(self.conv1(x)).relu()
        residual = self.norm2(self.conv2(residual))
        identity = x[..., :: self.stride, :: self.stride]
        identity = F.pad(identity, (0, 0, 0, 0, 0, self.added))
        return (residual + identity).relu()


def resnet20(num_classes: int = 10) -> nn.Module:
    """The network, with initial weights: (n, 3, h, w) to (n, num_classes)."""
    layers: list[nn.Module] = [convolution(3, WIDTHS[0]), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()]
    channels = WIDTHS[0]
    for width in WIDTHS:
        for i in range(BLOCKS):
            stride = 2 if i == 0 and width != channels else 1
            layers.append(Block(channels, width, stride))
            channels = width
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
    )


def convolution(channels: int, width: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
