"""ResNet-20 for images of 32 pixels, such as CIFAR-10's (He et al., CVPR 2016, section 4.2), to train:

featviz train --model scripts.resnet20:resnet20 --images cifar10/train --test cifar10/test --radius 0
"""

from __future__ import annotations

from collections import OrderedDict

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
        result: Tensor = (residual + identity).relu()
        return result


def resnet20(num_classes: int = 10) -> nn.Module:
    """The network, with initial weights: (n, 3, h, w) to (n, num_classes)."""
    layers: dict[str, nn.Module] = {
        "conv1": convolution(3, WIDTHS[0]),
        "norm1": nn.BatchNorm2d(WIDTHS[0]),
        "relu": nn.ReLU(),
    }
    channels = WIDTHS[0]
    for stage, width in enumerate(WIDTHS, start=1):
        first = Block(channels, width, stride=1 if stage == 1 else 2)
        layers[f"layer{stage}"] = nn.Sequential(
            first, *(Block(width, width, stride=1) for _ in range(1, BLOCKS))
        )
        channels = width
    layers |= {
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(channels, num_classes),
    }
    return nn.Sequential(OrderedDict(layers))


def convolution(channels: int, width: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
