"""The engine below projections: crops where they do, full images where they do not, and what is
counted as which.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from laws import randint, randn, same_bits
from nets import OneSize, SizeDependent, integers, plain
from oracles import projection
from torch import Tensor, nn

from featviz import (
    Box,
    Exemplars,
    LayerScan,
    anatomy,
    open_images,
    project,
    project_exemplars,
    scan,
)
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
    # but for the sample that tells whether pictures tell units apart: it reads two images a unit
    pairs = result.likeness["deconvnet"].unit_pairs
    assert sizes.count((SIZE, SIZE)) <= pairs < len(sizes)
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


# --- padding that depends on the size of the image


class Same(nn.Module):
    """A convolution with TensorFlow's padding, written out: as much as makes the output's size that
    of the input divided by the stride, and the odd pixel at the far side."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride)
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        y, z = (self._missing(n) for n in x.shape[2:])
        padded = F.pad(x, (z // 2, z - z // 2, y // 2, y - y // 2))
        result: Tensor = self.conv(padded)
        return result

    def _missing(self, n: int) -> int:
        return max((-(-n // self.stride) - 1) * self.stride + self.kernel - n, 0)


def same_padded() -> nn.Module:
    layers = [Same(3, 4, 3, 2), nn.ReLU(), Same(4, 5, 3, 2), nn.ReLU(), Same(5, 4, 3, 1)]
    return integers(nn.Sequential(*layers))


@pytest.mark.parametrize("size", [(40, 40), (41, 38), (43, 45)])
def test_padding_that_depends_on_the_size_falls_in_crops_as_in_the_image(
    size: tuple[int, int],
) -> None:
    """Law 3, and no full image is needed."""
    data = open_images(randint(0, 4, 6, 3, *size) / 4)
    layer_scan = scan(same_padded(), data, ["4.conv"], k=3)["4.conv"]
    result = project_exemplars(same_padded(), data, layer_scan, rule="gradient")
    assert result.fallbacks == 0
    model = same_padded()
    for row, rank in projected(result).nonzero().tolist():
        y, x = layer_scan.top.positions[row, rank].tolist()
        image = data[int(result.images[row, rank])]
        expected = projection(model, image, "4.conv", row, (y, x), "gradient")
        box = Box(*result.boxes[row, rank].tolist())
        shown = result.projections["gradient"][row, rank][:, result.visible[row, rank]]
        assert torch.equal(shown, expected[box.region].flatten(1))
        assert torch.count_nonzero(shown) == torch.count_nonzero(expected)


@pytest.mark.parametrize("image", range(24, 34))
@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_congruent_crops_have_the_images_size_modulo_the_stride(stride: int, image: int) -> None:
    """And hold the field of their position, which keeps its place in the map."""
    full = Box(0, 0, image, image)
    field = ReceptiveField((7, 7), (stride, stride), (2, 2), full, "exact")
    for position in range((image - 3) // stride):
        crop = crop_for(field, position, 0, (image, image), congruent=True)
        if crop is None:
            continue
        assert (image - crop.box.height) % stride == 0
        assert crop.box.top % stride == 0
        assert crop.box.top // stride + crop.position[0] == position
        box = field.box(position, 0)
        assert box.clip(crop.box) == box


def test_a_published_network_with_such_padding() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).double().eval()
    images = randn(2, 3, 96, 96, dtype=torch.float64).sigmoid()
    net = anatomy(model, (3, 96, 96))
    for name in ("conv_stem", "blocks.1.0", "blocks.2.1"):
        layer_scan = scan(model, images, [name], k=1)[name]
        assert project_exemplars(model, images, layer_scan, range(3)).fallbacks == 0
        h, w = net[name].map_size
        for y, x in ((0, 0), (h // 2, w // 2), (h - 1, w - 1)):
            unit = net[name].unit(1, at=(y, x))
            signal = project(model, images[0], unit, rule="gradient", net=net)[0]
            expected = projection(model, images[0], name, 1, (y, x), "gradient")
            scale = expected.abs().max().clamp(min=1e-300)
            assert float((signal - expected).abs().max() / scale) <= 1e-10


class OverBatch(nn.Module):
    """Its activations are those of an image less the mean of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        result: Tensor = self.b(x - x.mean((0, 2, 3), keepdim=True) / 4)
        return result


def test_an_image_whose_neighbors_matter_is_projected_alone() -> None:
    model = integers(OverBatch())
    layer_scan = scan(model, DATA, ["b"], k=3, batch_size=1)["b"]
    result = project_exemplars(model, DATA, layer_scan, rule="gradient")
    for row, rank in projected(result).nonzero().tolist():
        y, x = layer_scan.top.positions[row, rank].tolist()
        image = DATA[int(result.images[row, rank])]
        expected = projection(model, image, "b", row, (y, x), "gradient")
        box = Box(*result.boxes[row, rank].tolist())
        shown = result.projections["gradient"][row, rank][:, result.visible[row, rank]]
        torch.testing.assert_close(shown, expected[box.region].flatten(1))


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
