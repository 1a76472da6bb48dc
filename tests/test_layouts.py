"""Channels and positions wherever a layer has them, and projections of networks that move, resize
and pad what they are shown: each against plain autograd on the full image, in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from laws import generator, randn
from nets import integers
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from featviz import Anatomy, LayerError, Unit, anatomy, open_images, project, read, scan
from featviz.units import Layout

TOLERANCE = 1e-10


def channels_first(output: Tensor, layout: Layout, size: tuple[int, int]) -> Tensor:
    """An output of one image as (c, h, w), spelled out for each layout."""
    output = output[0]
    if layout == "nhwc":
        return output.permute(2, 0, 1)
    if layout == "nlc":
        return output.T.unflatten(1, size)
    if layout == "ncl":
        return output.unflatten(1, size)
    return output


def assert_projections_are_autograds(
    model: nn.Module, name: str, size: tuple[int, int, int]
) -> Anatomy:
    """At corners, at an edge and in the middle, the projection is the gradient on the full image."""
    model = model.double().eval()
    x = randn(*size, dtype=torch.float64).sigmoid()
    net = anatomy(model, size, only=[name])
    layer = net[name]
    h, w = layer.map_size
    positions = [(0, 0), (h - 1, w - 1), (h // 2, w // 2), (h // 2, w - 1)]
    units = [layer.unit(i % layer.channels, at=position) for i, position in enumerate(positions)]
    signals = project(model, x, units, rule="gradient", net=net)
    leaf = x[None].clone().requires_grad_()
    maps = channels_first(read(model, leaf.clone(), layer)[name], layer.layout, (h, w))
    for unit, (row, column), signal in zip(units, positions, signals, strict=True):
        response = maps[unit.channel, row, column]
        (expected,) = torch.autograd.grad(response, leaf, retain_graph=True)
        scale = expected.abs().max().clamp(min=1e-300)
        assert float((signal - expected[0]).abs().max() / scale) <= TOLERANCE, unit
        outside = expected[0].clone()
        outside[layer.field.box(row, column).region] = 0
        assert not outside.any(), f"the field of {unit} is too small"
    return net


# --- layouts


class Laid(nn.Module):
    """A convolution, and a module that sees its output in another layout."""

    def __init__(self, to: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)
        self.laid = nn.Identity()
        self.to = to

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.laid(self.to(self.conv(x).relu()))
        return result


LAYOUTS: dict[Layout, Callable[[Tensor], Tensor]] = {
    "nchw": lambda x: x,
    "nhwc": lambda x: x.permute(0, 2, 3, 1),
    "nlc": lambda x: x.flatten(2).transpose(1, 2),
    "ncl": lambda x: x.flatten(2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_channels_and_positions_are_told(layout: Layout) -> None:
    net = assert_projections_are_autograds(integers(Laid(LAYOUTS[layout])), "laid", (3, 16, 12))
    layer = net["laid"]
    assert (layer.layout, layer.shape, layer.field.kind) == (layout, (5, 8, 6), "exact")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_scans_to_the_same_record(layout: Layout) -> None:
    data = open_images(randn(5, 3, 16, 12).sigmoid())
    expected = scan(integers(Laid(LAYOUTS["nchw"])), data, "laid", k=3)["laid"]
    result = scan(integers(Laid(LAYOUTS[layout])), data, "laid", k=3)["laid"]
    assert torch.equal(result.top.scores, expected.top.scores)
    assert torch.equal(result.top.positions, expected.top.positions)
    assert torch.equal(result.top.images, expected.top.images)
    assert torch.equal(result.statistics.histogram, expected.statistics.histogram)


def halves(x: Tensor) -> Tensor:
    return torch.cat([x[:, :, :4], x[:, :, 4:]])


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "windows in the place of the batch": (halves, "gives 2 rows for one image"),
    "complex": (lambda x: torch.complex(x, x), "gives complex numbers"),
    "a shape of its own": (
        lambda x: x[:, :, : 2 + int(x.detach().abs().sum() * 1000) % 5],
        "gives another shape for another image",
    ),
    "columns before channels": (lambda x: x.permute(0, 3, 1, 2), "could not be followed"),
    "five axes": (lambda x: x[:, :, None], "only maps"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_units_says_why(name: str) -> None:
    to, message = REFUSED[name]
    torch.manual_seed(0)
    layer = anatomy(Laid(to).eval(), (3, 16, 12))["laid"]
    assert not layer.has_units
    with pytest.raises(LayerError, match=message):
        layer.check_units()


class Table(nn.Module):
    """Gives a map of parameters, as position biases, or a weight that is normalised, do."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.rand(1, 4, 10, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.values * 2


class ByNumpy(nn.Module):
    """Leaves torch, so that it cannot be followed."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(2 * x.detach().numpy())


class WithTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.table = Table()
        self.by_numpy = ByNumpy()
        self.last = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 1, 3))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.by_numpy(self.conv(x)) + self.table(x))
        return result


def test_what_is_the_same_for_every_image_has_no_units() -> None:
    """It has one row for any number of images, over which a scan of all layers would stumble."""
    model = WithTable().eval()
    result = scan(model, open_images(torch.rand(3, 3, 12, 12)), "*", k=1)
    assert list(result) == ["conv", "by_numpy", "last"]
    for name in ("table", "last.parametrizations.weight"):
        with pytest.raises(LayerError, match="is the same for every image"):
            anatomy(model, (3, 12, 12))[name].check_units()


class Idle(nn.Module):
    """Modules that are no layers, for three reasons."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.alias = self.conv
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.lstm(self.conv(x).flatten(2).transpose(1, 2))[0]
        return result


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lstm", "returns a tuple, not a tensor: ask for a layer inside it"),
        ("alias", "is the same module as 'conv': ask for that"),
        ("unused", "takes no part in a forward pass"),
    ],
)
def test_modules_that_are_no_layers_say_why(name: str, message: str) -> None:
    net = anatomy(Idle(), (3, 12, 12))
    assert list(net) == ["conv"]
    for ask in (lambda: net[name], lambda: net.select(name), lambda: net.layer_of(Unit(name, 0))):
        with pytest.raises(LayerError, match=message):
            ask()


# --- networks that move, resize and pad


class Transformer(nn.Module):
    """A spatial transformer that turns and shifts its image, as after training."""

    def __init__(self) -> None:
        super().__init__()
        self.where = nn.Linear(3, 6)
        self.conv = nn.Conv2d(3, 4, 3)
        with torch.no_grad():
            self.where.weight.zero_()
            self.where.bias.copy_(torch.tensor([0.7, -0.7, 0.0, 0.7, 0.7, 0.1]))

    def forward(self, x: Tensor) -> Tensor:
        theta = self.where(x.mean((2, 3))).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        result: Tensor = self.conv(F.grid_sample(x, grid, align_corners=False).relu())
        return result


class Deformable(nn.Module):
    """A deformable convolution, whose offsets depend on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Conv2d(3, 18, 3, padding=1)
        self.weight = nn.Parameter(randn(4, 3, 3, 3))
        self.last = nn.Conv2d(4, 4, 3)
        with torch.no_grad():
            self.offset.weight.copy_(randn(18, 3, 3, 3, seed=1))

    def forward(self, x: Tensor) -> Tensor:
        x = deform_conv2d(x, self.offset(x), self.weight, padding=1)
        result: Tensor = self.last(x.relu())
        return result


class Glimpse(nn.Module):
    """Crops its image where a map of its own is strongest."""

    def __init__(self) -> None:
        super().__init__()
        self.where = nn.Conv2d(3, 1, 3, padding=1)
        self.look = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        crops = []
        for i, best in enumerate(self.where(x).flatten(1).argmax(1).tolist()):
            top = min(max(best // w - 4, 0), h - 8)
            left = min(max(best % w - 4, 0), w - 8)
            crops.append(x[i, :, top : top + 8, left : left + 8])
        result: Tensor = self.look(torch.stack(crops))
        return result


class Letterbox(nn.Module):
    """Resizes its image and pads it to a square, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.b = nn.Conv2d(4, 4, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, size=(24, 32), mode="bilinear")
        result: Tensor = self.b(self.a(F.pad(x, (0, 0, 4, 4))).relu())
        return result


class UNet(nn.Module):
    """One level down, and up again beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.c = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        y = self.up(self.b(F.max_pool2d(x, 2)).relu())
        result: Tensor = self.c(torch.cat([x, y], dim=1))
        return result


MOVING: dict[str, tuple[Callable[[], nn.Module], str, set[str]]] = {
    "spatial transformer": (Transformer, "conv", {"unknown", "data", "measured"}),
    "deformable convolution": (Deformable, "last", {"unknown", "data"}),
    "a crop at the argmax": (Glimpse, "look", {"data"}),
    "letterbox": (Letterbox, "b", {"exact", "bound"}),
    "U-Net, below": (UNet, "b", {"exact"}),
    "U-Net, above": (UNet, "c", {"exact", "bound"}),
}


@pytest.mark.parametrize("name", MOVING)
def test_what_moves_its_image_is_projected_right(name: str) -> None:
    make, layer, kinds = MOVING[name]
    torch.manual_seed(0)
    net = assert_projections_are_autograds(make(), layer, (3, 28, 32))
    assert net[layer].field.kind in kinds


# --- published networks


def detector() -> nn.Module:
    make = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn
    model: nn.Module = make(weights=None, weights_backbone=None)
    return model


def fcn() -> nn.Module:
    make = torchvision.models.segmentation.fcn_resnet50
    model: nn.Module = make(weights=None, weights_backbone=None, num_classes=3)
    return model


PUBLISHED: dict[str, tuple[Callable[[], nn.Module], str, Layout, int]] = {
    "Swin, the patches": (torchvision.models.swin_t, "features.0", "nhwc", 64),
    "Swin, attention": (torchvision.models.swin_t, "features.1", "nhwc", 64),
    "ConvNeXt's inner Linear": (
        torchvision.models.convnext_tiny,
        "features.1.0.block.3",
        "nhwc",
        64,
    ),
    "FCN, the backbone": (fcn, "backbone.layer1.0.conv2", "nchw", 64),
    "FCN, the head": (fcn, "classifier.0", "nchw", 64),
    "a detector's backbone": (detector, "backbone.body.1.block.1.0", "nchw", 96),
    "a detector's proposals": (detector, "rpn.head.cls_logits@0", "nchw", 96),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_are_projected_right(name: str) -> None:
    make, layer, layout, size = PUBLISHED[name]
    torch.manual_seed(0)
    net = assert_projections_are_autograds(make(), layer, (3, size, size))
    assert net[layer].layout == layout


def test_tokens_are_refused_in_words() -> None:
    """A class token beside the patches: no map has that many positions."""
    model = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32)
    data = open_images(torch.rand(2, 3, 32, 32, generator=generator()))
    with pytest.raises(LayerError, match=r"returns \('n', 17, 16\): only maps .* have units"):
        scan(model, data, ["encoder.layers.encoder_layer_0"], k=1)


def test_regions_are_refused_in_words() -> None:
    torch.manual_seed(0)
    layer = anatomy(detector().eval(), (3, 96, 96), only=[])["roi_heads.box_head.fc6"]
    with pytest.raises(LayerError, match="rows for one image"):
        layer.check_units()
