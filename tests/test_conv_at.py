"""One window of a convolution against the whole of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from featviz.methods._conv_at import Places, only_at

CONVOLUTIONS = {
    "plain": nn.Conv2d(4, 6, 3),
    "padded": nn.Conv2d(4, 6, 5, padding=2),
    "strided": nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(1, 0)),
    "dilated": nn.Conv2d(4, 6, 3, dilation=(2, 1), padding=(0, 3)),
    "grouped": nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "depthwise": nn.Conv2d(4, 8, 3, groups=4, bias=False),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_window_is_what_the_whole_map_has_there(name: str) -> None:
    layer = CONVOLUTIONS[name].double()
    x = torch.randn(3, 4, 11, 9, dtype=torch.float64, requires_grad=True)
    maps = layer(x)
    _, channels, height, width = maps.shape
    places = Places(*(torch.randint(n, (3, 5)) for n in (channels, height, width)))
    places.y[0, 0], places.x[0, 0], places.y[0, 1], places.x[0, 1] = 0, 0, height - 1, width - 1
    expected = torch.stack(
        [
            torch.stack(
                [maps[i, c, y, z] for c, y, z in zip(*(p[i].tolist() for p in places), strict=True)]
            )
            for i in range(3)
        ]
    )
    with only_at(layer, places) as given:
        found = layer(x)
    assert given[0] is x
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(places.of(maps), expected)
    seeds = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(
        *(torch.autograd.grad(values, x, seeds)[0] for values in (found, expected))
    )
    assert layer(x).shape == maps.shape, "nothing of it is left"


def test_what_is_no_plain_convolution_computes_as_ever() -> None:
    places = Places(*(torch.zeros(1, 1, dtype=torch.long) for _ in range(3)))
    hooked = nn.Conv2d(4, 6, 3)
    hooked.register_forward_hook(lambda module, inputs, output: output * 2)
    for layer in (
        nn.Conv2d(4, 6, 3, padding_mode="reflect", padding=1),
        nn.Conv2d(4, 6, 3, padding="same"),
        nn.ReLU(),
        hooked,
    ):
        with only_at(layer, places) as given:
            assert layer(torch.zeros(1, 4, 5, 5)).dim() == 4
        assert not given


def test_nothing_is_left_after_an_error() -> None:
    layer = nn.Conv2d(4, 6, 3)
    places = Places(*(torch.zeros(1, 1, dtype=torch.long) for _ in range(3)))
    with pytest.raises(IndexError), only_at(layer, places):
        layer(torch.zeros(1, 2, 5, 5))
    assert "forward" not in layer.__dict__
