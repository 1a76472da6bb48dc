"""Tiny networks whose answers can be worked out, or checked bit for bit: their weights are small
whole numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def integers(model: nn.Module, seed: int = 0, low: int = -2, high: int = 3) -> nn.Module:
    """The model with every parameter a whole number from low to high - 1, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randint(low, high, parameter.shape, generator=generator))
    return model.eval()


def plain() -> nn.Module:
    """conv, relu, overlapping pool, conv, relu."""
    return integers(
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
            nn.Conv2d(6, 8, 3, padding=1),
            nn.ReLU(),
        )
    )


class Spelled(nn.Module):
    """conv, rectifier in a spelling of one's choice, pool, conv, the same rectifier again, conv."""

    def __init__(self, rectifier: object) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 5, 3, padding=1)
        self.b = nn.Conv2d(5, 6, 3, padding=1)
        self.c = nn.Conv2d(6, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.rectifier = rectifier

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.rectifier(self.a(x)))  # type: ignore[operator]
        return self.c(self.rectifier(self.b(x)))  # type: ignore[operator]


class Reused(nn.Module):
    """One ReLU module called three times, a residual sum, and work in place behind every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv3 = nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.conv2(x)
        y += x
        return self.relu(self.conv3(self.relu(y)))


class Branches(nn.Module):
    """Two parallel branches, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 3, 1)
        self.right = nn.Conv2d(3, 3, 5, padding=2)
        self.head = nn.Conv2d(6, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([F.relu(self.left(x)), torch.relu(self.right(x))], dim=1))


class SqueezeExcite(nn.Module):
    """Every position sees the full image, by way of a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.gate = nn.Conv2d(4, 4, 1)
        self.out = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu_()
        return self.out(x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True))))


class Raises(nn.Module):
    """A network that raises in the middle of its forward, from the nth call on."""

    def __init__(self, after: int = 0) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.b = nn.Conv2d(4, 4, 3)
        self.calls = 0
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        self.calls += 1
        if self.calls > self.after:
            raise RuntimeError("in the middle")
        return torch.relu(self.b(x))


class OneSize(nn.Module):
    """Takes images of one size alone: it asserts it, as networks with position embeddings do. Not
    told by its layers, whose fields are exact."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[2:] == (self.size, self.size), "one size alone"
        return self.b(torch.relu(self.a(x)))


class SizeDependent(nn.Module):
    """Its activations are in proportion to the size of the image, so that no crop gives the
    response of the full image, and its layers still are plain convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)) * x.shape[3])
