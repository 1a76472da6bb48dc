"""A convolution at single positions, against its maps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from laws import generator, randn
from torch import Tensor, nn

from featviz.methods._conv_at import Positions, conv_at, is_plain

CONVOLUTIONS = {
    "plain": nn.Conv2d(4, 6, 3),
    "padded": nn.Conv2d(4, 6, 5, padding=2),
    "strided": nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(1, 0)),
    "dilated": nn.Conv2d(4, 6, 3, dilation=(2, 1), padding=(0, 3)),
    "grouped": nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "depthwise": nn.Conv2d(4, 8, 3, groups=4, bias=False),
}


def some_positions(maps: Tensor) -> Positions:
    """Five of each image's, the first and the last corner among them."""
    _, channels, height, width = maps.shape
    random = generator()
    positions = Positions(
        torch.randint(channels, (3, 5), generator=random),
        torch.randint(height, (3, 5), generator=random),
        torch.randint(width, (3, 5), generator=random),
    )
    positions.y[0, 0], positions.x[0, 0] = 0, 0
    positions.y[0, 1], positions.x[0, 1] = height - 1, width - 1
    return positions


def looked_up(maps: Tensor, positions: Positions) -> Tensor:
    """The values at the positions, (n, r), one by one."""
    rows = []
    for i, (channels, ys, xs) in enumerate(zip(*positions, strict=True)):
        values = [maps[i, c, y, x] for c, y, x in zip(channels, ys, xs, strict=True)]
        rows.append(torch.stack(values))
    return torch.stack(rows)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_values_and_gradients_are_those_of_the_maps(name: str) -> None:
    conv = CONVOLUTIONS[name].double()
    x = randn(3, 4, 11, 9, dtype=torch.float64).requires_grad_()
    maps = conv(x)
    positions = some_positions(maps)
    expected = looked_up(maps, positions)
    values = conv_at(conv, x, positions)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(positions.of(maps), expected)
    signal = randn(3, 5, seed=1, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(values, x, signal)
    (expected_gradient,) = torch.autograd.grad(expected, x, signal)
    torch.testing.assert_close(gradient, expected_gradient)


class Doubling(nn.Conv2d):
    """A convolution that is not what it seems: it doubles its filters."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, 2 * weight, bias)


class Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def hooked(register: str) -> nn.Module:
    conv = nn.Conv2d(4, 6, 3)
    getattr(conv, register)(lambda module, *_: None)
    return conv


def with_own_forward() -> nn.Module:
    conv: Any = nn.Conv2d(4, 6, 3)
    conv.forward = torch.relu
    return conv  # type: ignore[no-any-return]


NOT_PLAIN = {
    "reflecting": nn.Conv2d(4, 6, 3, padding_mode="reflect", padding=1),
    "same": nn.Conv2d(4, 6, 3, padding="same"),
    "relu": nn.ReLU(),
    "transposed": nn.ConvTranspose2d(4, 6, 3),
    "forward hook": hooked("register_forward_hook"),
    "forward pre-hook": hooked("register_forward_pre_hook"),
    "own forward": with_own_forward(),
    "forward of a subclass": Doubled(4, 6, 3),
    "convolution of a subclass": Doubling(4, 6, 3),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_computes_something_else_is_not_plain(name: str) -> None:
    assert not is_plain(NOT_PLAIN[name])


def test_a_subclass_that_adds_nothing_is_plain() -> None:
    class Named(nn.Conv2d):
        pass

    assert is_plain(Named(4, 6, 3))
    assert all(map(is_plain, CONVOLUTIONS.values()))
