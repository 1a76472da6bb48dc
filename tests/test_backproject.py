"""The engine below projections: crops where they do, full images where they do not, and what is
counted as which.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from laws import randint, same_bits
from nets import OneSize, SizeDependent, integers, plain
from oracles import projection
from torch import Tensor, nn

from featviz import Box, Exemplars, LayerScan, open_images, project_exemplars, scan
from featviz.fields.crop import crop_for
from featviz.geometry import ReceptiveField

SIZE = 24
DATA = open_images(randint(0, 4, 12, 3, SIZE, SIZE) / 4)


def layer_scan_of(model: nn.Module, layer: str, k: int = 4) -> LayerScan:
    return scan(model, DATA, [layer], k=k)[layer]


def assert_right(model: nn.Module, layer_scan: LayerScan, result: Exemplars) -> None:
    """Every projection is that of the full image, to the last bit."""
    layer = layer_scan.layer.name
    for row, channel in enumerate(result.channels):
        for rank in range(result.k):
            if result.dead[row] or result.images[row, rank] < 0:
                continue
            y, x = layer_scan.top.positions[channel, rank].tolist()
            image = DATA[int(result.images[row, rank])]
            expected = projection(model, image, layer, channel, (y, x), "deconvnet")
            box = Box(*result.boxes[row, rank].tolist())
            shown = result.projections["deconvnet"][row, rank][:, result.visible[row, rank]]
            assert torch.equal(shown, expected[box.region].flatten(1))


def projected(result: Exemplars) -> Tensor:
    """Which slots hold a projection, (c, k)."""
    return ~result.dead[:, None] & (result.images >= 0)


# --- crops


def test_crops_are_smaller_than_the_image_and_right() -> None:
    model = plain()
    layer_scan = layer_scan_of(model, "4")
    sizes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda module, args: sizes.append(tuple(args[0].shape[2:])))
    result = project_exemplars(model, DATA, layer_scan)
    assert max(sizes) < (SIZE, SIZE)
    assert not result.full_image.any()
    assert not result.fallback.any()
    assert_right(plain(), layer_scan, result)


@pytest.mark.parametrize("memory", [0, 1, 10**5, 2**30])
def test_memory_changes_nothing(memory: int) -> None:
    model = plain()
    layer_scan = layer_scan_of(model, "4")
    expected = project_exemplars(model, DATA, layer_scan)
    result = project_exemplars(model, DATA, layer_scan, memory=memory)
    assert same_bits(result.projections["deconvnet"], expected.projections["deconvnet"])


# --- where crops do not do


class OtherOnCrops(SizeDependent):
    """Gives a hundredth more on every other size, in its last layer alone."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(torch.relu(self.a(x)))
        if x.shape[3] == SIZE:
            return result
        return result * 1.01


class NanOnCrops(SizeDependent):
    """Gives NaN on every other size: NaN is not far from any number, and yet no agreement."""

    def forward(self, x: Tensor) -> Tensor:
        activation = torch.relu(self.a(x))
        if x.shape[3] != SIZE:
            activation = activation * torch.nan
        return self.b(activation)


class SmallerOnCrops(SizeDependent):
    """Has no position but the first on every other size."""

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.relu(self.b(torch.relu(self.a(x))))
        if x.shape[3] == SIZE:
            return result
        return result[:, :, :1, :1]


class Last(nn.Module):
    """Shows what a network returns as a layer of its own."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.last = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.net(x))


FALLBACKS: dict[str, tuple[nn.Module, str]] = {
    "one size alone": (OneSize(SIZE), "b"),
    "crops never agree": (SizeDependent(), "b"),
    "crops give NaN": (NanOnCrops(), "b"),
    "crops give more": (Last(OtherOnCrops()), "last"),
    "crops have other maps": (Last(SmallerOnCrops()), "last"),
}


@pytest.mark.parametrize("memory", [1, 2**28])
@pytest.mark.parametrize("name", FALLBACKS)
def test_each_full_image_instead_of_a_crop_is_counted(name: str, memory: int) -> None:
    """Law 3: the record says so, exemplar by exemplar; and the values are right."""
    model, layer = FALLBACKS[name]
    integers(model)
    layer_scan = layer_scan_of(model, layer)
    assert layer_scan.layer.field.is_local, "a crop was to be expected"
    result = project_exemplars(model, DATA, layer_scan, memory=memory)
    assert torch.equal(result.fallback, projected(result))
    assert torch.equal(result.full_image, projected(result))
    assert result.fallbacks == int(projected(result).sum()) > 0
    assert_right(model, layer_scan, result)


def test_a_fallback_is_counted_for_what_a_crop_should_have_done_alone() -> None:
    """With a wide stride, the crop of the last position is the image itself."""
    wide = nn.Conv2d(4, 4, 15, stride=8, padding=7)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), wide)

    class Asserting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[2:] == (SIZE, SIZE)
            return self.net(x)

    model = integers(Asserting())
    layer_scan = layer_scan_of(model, "net.2", k=12)
    result = project_exemplars(model, DATA, layer_scan)
    expected = torch.zeros_like(result.fallback)
    for row, rank in projected(result).nonzero().tolist():
        y, x = layer_scan.top.positions[row, rank].tolist()
        crop = crop_for(layer_scan.layer.field, y, x, (SIZE, SIZE))
        expected[row, rank] = crop is not None
    assert 0 < int(expected.sum()) < int(projected(result).sum()), "some have crops, some do not"
    assert torch.equal(result.fallback, expected)
    assert torch.equal(result.full_image, projected(result))


def test_a_field_that_promises_too_little_gives_itself_away() -> None:
    model = plain()
    layer_scan = layer_scan_of(model, "4")
    field = layer_scan.layer.field
    small = ReceptiveField((2, 2), field.stride, (0, 0), field.extent, "bound")
    wrong = replace(layer_scan, layer=replace(layer_scan.layer, field=small))
    result = project_exemplars(model, DATA, wrong)
    assert not result.layer.field.is_local
    assert torch.equal(result.full_image, projected(result))
    assert_right(model, layer_scan, result)


# --- memory that runs out


def runs_out_above(n: int) -> Any:
    def small_device(module: nn.Module, args: tuple[Tensor]) -> None:
        if len(args[0]) > n:
            raise torch.OutOfMemoryError("no more")

    return small_device


def test_batches_are_halved_when_the_device_runs_out() -> None:
    """It is no fallback: the crops do, in smaller batches."""
    model = plain()
    layer_scan = layer_scan_of(model, "4")
    expected = project_exemplars(model, DATA, layer_scan)
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    model.register_forward_pre_hook(runs_out_above(3))
    result = project_exemplars(model, DATA, layer_scan)
    assert max(sizes) > 3, "larger batches were tried"
    assert same_bits(result.projections["deconvnet"], expected.projections["deconvnet"])
    assert result.fallbacks == 0
    assert not result.full_image.any()


def test_full_images_are_halved_too() -> None:
    model = integers(SizeDependent())
    layer_scan = layer_scan_of(model, "b")
    model.register_forward_pre_hook(runs_out_above(2))
    result = project_exemplars(model, DATA, layer_scan)
    assert torch.equal(result.fallback, projected(result))
    assert_right(integers(SizeDependent()), layer_scan, result)


def test_a_device_too_small_for_a_single_crop_says_so() -> None:
    model = plain()
    layer_scan = layer_scan_of(model, "4")
    model.register_forward_pre_hook(runs_out_above(0))
    with pytest.raises(torch.OutOfMemoryError, match="no more"):
        project_exemplars(model, DATA, layer_scan)


# --- convolutions that are computed at positions


class Doubling(nn.Conv2d):
    """A convolution of a subclass: what it computes is its own."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, 2 * weight, bias)


def test_a_convolution_of_ones_own_is_asked_for_its_maps() -> None:
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), Doubling(4, 5, 3, padding=1)]
    model = integers(nn.Sequential(*layers))
    layer_scan = layer_scan_of(model, "2")
    result = project_exemplars(model, DATA, layer_scan)
    assert not result.full_image.any()
    assert_right(model, layer_scan, result)
