"""Projections: equal to the slow way, from crops as from full images, and without a trace in the
model.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from laws import randint, randn, same_bits, untouched
from nets import OneSize, Raises, Reused, SqueezeExcite, integers, plain
from oracles import Rectifiers, exemplars, projection
from torch import Tensor, nn

from featviz import (
    Box,
    Exemplars,
    Images,
    LayerScan,
    Preprocess,
    Unit,
    UnitSum,
    anatomy,
    open_images,
    project,
    project_exemplars,
    scan,
)
from featviz.errors import (
    FeatvizError,
    ImageError,
    LayerError,
    ModelError,
    NumberError,
    RecordError,
    RuleError,
    UnitError,
    UsageError,
)
from featviz.models import LocallyConnected2d, zfnet

RULES = ("gradient", "deconvnet", "guided")


def images(n: int, size: int = 24, seed: int = 0) -> Tensor:
    """Whole numbers, so that nothing is rounded on the way."""
    return randint(0, 4, n, 3, size, size, seed=seed) / 4


def visible(tiles: Tensor, result: Exemplars, row: int, rank: int) -> Tensor:
    """What a tile shows of its image, (c, pixels)."""
    return tiles[row, rank][:, result.visible[row, rank]]


def box_of(result: Exemplars, row: int, rank: int) -> Box:
    return Box(*result.boxes[row, rank].tolist())


# --- the slow way


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layer", ["0", "4"])
def test_scan_and_projection_equal_the_slow_way(layer: str, rule: str) -> None:
    model, data = plain().double(), open_images(images(14))
    layer_scan = scan(model, data, [layer], k=3, batch_size=5)[layer]
    expected = exemplars(model, [data[i].double() for i in range(len(data))], layer, 3)
    result = project_exemplars(model, data, layer_scan, rule=rule)
    for channel, entries in enumerate(expected):
        for rank, (score, image, y, x) in enumerate(entries):
            assert layer_scan.top.scores[channel, rank] == score
            assert layer_scan.top.images[channel, rank] == image
            assert layer_scan.top.positions[channel, rank].tolist() == [y, x]
            if result.dead[channel]:
                continue
            signal = projection(model, data[image].double(), layer, channel, (y, x), rule)
            box = box_of(result, channel, rank)
            shown = visible(result.projections[rule], result, channel, rank)
            assert torch.equal(shown, signal[box.region].flatten(1).float())
            patch = visible(result.patches, result, channel, rank)
            assert torch.equal(patch, data[image][box.region].flatten(1))
            signal[box.region] = 0
            assert not signal.any(), "the signal stays within the receptive field"


def test_tiles_are_filled_where_the_field_lies() -> None:
    """At a corner from the side that lies within the image; the rest stays zero."""
    model = integers(nn.Sequential(nn.Conv2d(3, 2, 5, padding=2)))
    data = open_images(images(1, size=9))
    layer_scan = scan(model, data, ["0"], k=1)["0"]
    layer_scan.top.positions[0, 0] = torch.tensor([0, 8])
    layer_scan.top.scores[0, 0] = model(data[0][None])[0, 0, 0, 8].detach()
    layer_scan.statistics.active[:] = 1
    result = project_exemplars(model, data, layer_scan, [0])
    assert result.boxes[0, 0].tolist() == [0, 6, 3, 9]
    expected = torch.zeros(5, 5, dtype=torch.bool)
    expected[2:, :3] = True
    assert torch.equal(result.visible[0, 0], expected)
    assert torch.equal(result.patches[0, 0, :, 2:, :3], data[0][:, :3, 6:])


def alexnet() -> nn.Module:
    return torchvision.models.alexnet()


def vgg11() -> nn.Module:
    return torchvision.models.vgg11(init_weights=False)


def squeezenet() -> nn.Module:
    return torchvision.models.squeezenet1_1()


def resnet18() -> nn.Module:
    return torchvision.models.resnet18()


def googlenet() -> nn.Module:
    return torchvision.models.googlenet(init_weights=False, aux_logits=False)


NETS: dict[str, tuple[Any, list[str], int]] = {
    "alexnet": (alexnet, ["features.0", "features.3", "features.6", "features.8"], 160),
    "vgg11": (vgg11, ["features.3", "features.8", "features.13"], 128),
    "squeezenet": (squeezenet, ["features.3", "features.7.expand3x3"], 160),
    "resnet18": (resnet18, ["conv1", "layer1", "layer2.1.bn2"], 160),
    "googlenet": (googlenet, ["conv3", "inception3a"], 128),
    "zfnet": (lambda: zfnet(10), ["conv1", "norm1", "conv2", "conv3"], 160),
}


@pytest.mark.parametrize("name", NETS)
def test_crops_equal_the_full_image(name: str) -> None:
    """Law 3, at corners, at edges and away from them, in float64."""
    torch.manual_seed(0)
    make, layers, size = NETS[name]
    model = make().double().eval()
    x = randn(3, size, size + 8, dtype=torch.float64)
    net = anatomy(model, (3, size, size + 8))
    for layer in layers:
        h, w = net[layer].map_size
        corners = [(0, 0), (h - 1, w - 1)]
        edges = [(0, w // 2), (h // 2, w - 1), (h // 3, w - 2)]
        positions = [*corners, (h // 2, w // 2), *edges]
        units = [Unit(layer, i % 4, at=position) for i, position in enumerate(positions)]
        signals = project(model, x, units, rule="deconvnet", net=net)
        for unit, position, signal in zip(units, positions, signals, strict=True):
            expected = projection(model, x, layer, unit.channel, position, "deconvnet")
            scale = expected.abs().max().clamp(min=1e-300)
            assert float((signal - expected).abs().max() / scale) <= 1e-10, unit


# --- full images


@pytest.mark.parametrize("rule", RULES)
def test_full_images_where_every_position_sees_all(rule: str) -> None:
    model = integers(SqueezeExcite()).double()
    x = images(1, 10)[0].double()
    signal = project(model, x, Unit("out", 1, at=(3, 4)), rule=rule)[0]
    expected = projection(model, x, "out", 1, (3, 4), rule)
    torch.testing.assert_close(signal, expected, rtol=1e-12, atol=0)


def test_a_locally_connected_layer_is_a_layer_like_any() -> None:
    """No crop reproduces it, since its weights are those of positions."""
    local = LocallyConnected2d(4, 5, (10, 10), 3)
    model = integers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), local)).double()
    x = images(1, 12)[0].double()
    signal = project(model, x, Unit("2", 3, at=(4, 6)))[0]
    assert torch.equal(signal, projection(model, x, "2", 3, (4, 6), "deconvnet"))
    data = open_images(images(5, 12))
    result = project_exemplars(model, data, scan(model, data, ["2"], k=2)["2"])
    assert result.full_image[~result.dead].all()


class Skip(nn.Module):
    """The last map's stride is finer than those below it: a crop could begin out of their phase."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, 4, 1)
        self.up = nn.ConvTranspose2d(4, 3, 4, 4)
        self.head = nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        upsampled = torch.relu(self.up(torch.relu(self.down(x))))
        return self.head(torch.cat([x, upsampled], 1))


@pytest.mark.parametrize("rule", RULES)
def test_behind_an_upsampling_the_full_image_is_used(rule: str) -> None:
    model, data = integers(Skip()).double(), open_images(images(4, 32))
    layer_scan = scan(model, data, ["head"], k=2)["head"]
    assert layer_scan.layer.field.resampled
    result = project_exemplars(model, data, layer_scan, rule=rule)
    assert result.full_image[~result.dead].all()
    assert not result.fallback.any(), "no crop was tried"
    y, x = layer_scan.top.positions[1, 0].tolist()
    image = data[int(result.images[1, 0])].double()
    signal = projection(model, image, "head", 1, (y, x), rule)[box_of(result, 1, 0).region]
    shown = visible(result.projections[rule], result, 1, 0)
    assert torch.equal(shown, signal.flatten(1).float())


# --- units


def test_units_and_images_in_any_pairing() -> None:
    model, x = plain(), images(3, 16)
    several = [Unit("4", 1), Unit("0", 2, at=(0, 0)), Unit("4", 7, at=(3, 3))]
    together = project(model, x[0], several)
    paired = project(model, x, several)
    for i, unit in enumerate(several):
        assert same_bits(together[i], project(model, x[0], unit)[0])
        assert same_bits(paired[i], project(model, x[i], unit)[0])
    many = project(model, x, [Unit("4", 1)] * 3)
    assert same_bits(many[2], project(model, x[2], Unit("4", 1))[0])


def test_a_unit_without_position_is_its_maximum() -> None:
    model, x = plain(), images(1, 16)[0]
    plane = model(x[None])[0, 2]
    y, z = divmod(int(plane.argmax()), plane.shape[1])
    at_maximum = project(model, x, Unit("4", 2, at=(y, z)))
    assert same_bits(project(model, x, Unit("4", 2)), at_maximum)
    position: Any = [y, z]  # as a record's tensors give it
    assert same_bits(project(model, x, Unit("4", 2, at=position)), at_maximum)


@pytest.mark.parametrize("at", [None, (0, 0), "map"])
def test_a_class_is_a_unit(at: Any) -> None:
    """It has one position, which is all of its map."""
    head = nn.Linear(4 * 36, 5)
    model = integers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), head)).double()
    x = images(1, 8)[0].double()
    expected = projection(model, x, "3", 4, (0, 0), "deconvnet")
    assert torch.equal(project(model, x, Unit("3", 4, at=at))[0], expected)


def test_exemplars_of_a_fully_connected_layer_are_full_images() -> None:
    head = nn.Linear(4 * 36, 5)
    model = integers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), head)).double()
    data = open_images(images(4, 8))
    result = project_exemplars(model, data, scan(model, data, "3", k=2)["3"])
    channel = int((~result.dead).nonzero()[0])
    image = int(result.images[channel, 0])
    assert result.boxes[channel, 0].tolist() == [0, 0, 8, 8]
    assert torch.equal(result.patches[channel, 0], data[image])
    expected = projection(model, data[image].double(), "3", channel, (0, 0), "deconvnet")
    assert torch.equal(result.projections["deconvnet"][channel, 0], expected.float())


def test_each_call_of_a_module_has_its_units() -> None:
    model: Any = integers(Reused()).double()
    model.bn1.eps = 0.0
    x = images(1, 12)[0].double()
    for call, channel in (("relu@0", 3), ("relu@1", 3), ("relu@2", 4)):
        signal = project(model, x, Unit(call, channel, at=(2, 3)))[0]
        assert torch.equal(signal, projection(model, x, call, channel, (2, 3), "deconvnet"))
    with pytest.raises(LayerError, match="'relu@0' or 'relu@1'"):
        project(model, x, Unit("relu", 0))
    once = project(model, x, [Unit("conv3@0", 1), Unit("conv3", 1)])  # a call that is the only one
    assert same_bits(once[0], once[1])


def by_hand(model: nn.Module, x: Tensor, rule: str, signal: Tensor) -> Tensor:
    """One backward pass of the full network from a signal at its output."""
    leaf = x[None].clone().requires_grad_()
    with Rectifiers(rule):
        result = model(leaf * 1)
    (gradient,) = torch.autograd.grad(result, leaf, signal[None])
    return gradient


@pytest.mark.parametrize("rule", RULES)
def test_sums_maps_and_starts(rule: str) -> None:
    model, x = plain().double(), images(1, 16)[0].double()
    out = model(x[None])[0].detach()
    y, z = divmod(int(out[2].argmax()), out.shape[2])
    zeros = torch.zeros_like(out)
    full_map, full_map_of_ones, peak, both = (zeros.clone() for _ in range(4))
    full_map[1] = out[1]
    full_map_of_ones[1] = 1
    peak[2, y, z] = out[2, y, z]
    both[2, y, z] = 1
    both[5, 0, 1] = -0.5
    total = Unit("4", 2) - 0.5 * Unit("4", 5, at=(0, 1))
    cases: list[tuple[Any, Any, Tensor]] = [
        (Unit("4", 1, at="map"), "activation", full_map),
        (Unit("4", 1, at="map"), "one", full_map_of_ones),
        (Unit("4", 2), "activation", peak),
        (total, "one", both),
    ]
    for unit, start, signal in cases:
        expected = by_hand(model, x, rule, signal)
        assert torch.equal(project(model, x, unit, rule=rule, start=start), expected)


def test_units_of_several_layers_share_a_forward() -> None:
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3), nn.ReLU()]
    model = integers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *pooled))
    x = images(1, 10)[0]
    units = [Unit("4", 0), Unit("4", 2), Unit("2", 1), Unit("1", 3, at="map")]
    alone = [project(model, x, unit)[0] for unit in units]
    net = anatomy(model, (3, 10, 10))
    forwards: list[int] = []
    model.register_forward_pre_hook(lambda module, args: forwards.append(1))
    together = project(model, x, units, net=net)
    assert len(forwards) == 1
    for a, b in zip(together, alone, strict=True):
        assert same_bits(a, b)


# --- images


def test_any_size_and_grayscale() -> None:
    model = integers(nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3))).double()
    for size in (7, 11):
        x = randn(1, size, size + 3, dtype=torch.float64)
        signal = project(model, x, Unit("2", 1, at=(1, 2)))[0]
        assert torch.equal(signal, projection(model, x, "2", 1, (1, 2), "deconvnet"))
    data = open_images(randint(0, 4, 4, 1, 9, 9) / 4, Preprocess(mean=(0.5,), std=(0.25,)))
    layer_scan = scan(model, data, ["2"], k=1)["2"]
    assert project_exemplars(model, data, layer_scan).patches.shape[2] == 1


def test_each_image_is_read_once() -> None:
    model, x = plain(), images(6)
    data = open_images(x)
    layer_scan = scan(model, data, ["4"], k=5)["4"]
    indices: list[int] = []

    def read(i: int) -> Tensor:
        indices.append(i)
        return x[i]

    project_exemplars(model, Images(data.keys, read, data.preprocess), layer_scan)
    assert len(indices) == len(set(indices))


def test_several_rules_share_a_forward() -> None:
    model, data = plain(), open_images(images(5))
    layer_scan = scan(model, data, ["4"], k=2)["4"]
    forwards: list[int] = []
    handle = model.register_forward_pre_hook(lambda module, args: forwards.append(1))
    together = project_exemplars(model, data, layer_scan, rules=[*RULES, "guided"])
    assert together.rules == list(RULES)
    shared = len(forwards)
    project_exemplars(model, data, layer_scan, rule="guided")
    assert len(forwards) == 2 * shared
    handle.remove()
    for rule in RULES:
        alone = project_exemplars(model, data, layer_scan, rule=rule)
        assert same_bits(alone.projections[rule], together.projections[rule])


def test_dead_units_are_named_and_not_projected() -> None:
    model: Any = plain()
    with torch.no_grad():
        model[3].bias[2] = -1e6
    data = open_images(images(6))
    layer_scan = scan(model, data, ["4"], k=2)["4"]
    assert layer_scan.statistics.dead[2]
    result = project_exemplars(model, data, layer_scan, [2, layer_scan.statistics.living[0]])
    assert result.dead.tolist() == [True, False]
    assert result.projections["deconvnet"][1].any()
    assert not result.projections["deconvnet"][0].any()
    assert not result.visible[0].any()


# --- what is refused


class Detached(nn.Module):
    """The image comes in without a gradient, and the parameters have theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.b = nn.Conv2d(4, 2, 3)
        self.last = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.b(self.a(x).detach()))


@pytest.mark.parametrize("unit", [Unit("b", 0, at=(1, 1)), Unit("last", 0), Unit("b", 0, at="map")])
def test_a_layer_without_a_gradient_is_named(unit: Unit) -> None:
    model = integers(Detached())
    with untouched(model), pytest.raises(LayerError, match=f"{unit.layer}.*gradient"):
        project(model, images(1, 12)[0], unit)


def test_weights_that_allow_no_gradients_are_refused() -> None:
    with torch.inference_mode():
        model = plain()
    for unit in (Unit("4", 0, at=(1, 1)), Unit("4", 0, at="map")):
        with pytest.raises(ModelError, match="inference_mode"):
            project(model, images(1, 12)[0], unit)
    data = open_images(images(3, 12))
    layer_scan = scan(model, data, "4", k=1)["4"]
    with pytest.raises(ModelError, match="inference_mode"):
        project_exemplars(model, data, layer_scan)


def test_nan_is_named() -> None:
    model: Any = plain()
    with torch.no_grad():
        model[3].weight[4] = torch.nan
    for unit in (Unit("4", 4), Unit("4", 4, at=(0, 0)), Unit("4", 4) + Unit("4", 1)):
        with pytest.raises(NumberError, match="4:4"):
            project(model, images(1, 12)[0], unit)


X = images(2, 12)
REFUSED: dict[str, tuple[type[FeatvizError], str, dict[str, Any]]] = {
    "layer": (LayerError, "'9'", {"units": Unit("9", 0)}),
    "channel": (UnitError, "0 to 7", {"units": Unit("4", 8)}),
    "position": (UnitError, "0 to 5", {"units": Unit("4", 0, at=(6, 0))}),
    "images": (UsageError, "2 images for 3 units", {"x": X, "units": [Unit("4", 0)] * 3}),
    "no units": (UsageError, "0 units", {"units": []}),
    "type": (UsageError, r"torch\.uint8", {"x": X[0].byte()}),
    "shape": (UsageError, r"\(12, 12\)", {"x": X[0, 0]}),
    "rule": (RuleError, "'guide'.*'guided'", {"rule": "guide"}),
    "start": (UsageError, "'two'.*'one' or 'activation'", {"start": "two"}),
    "list of lists": (UsageError, "u \\+ 0.5", {"units": [[Unit("4", 0), Unit("4", 1)]]}),
    "names": (UsageError, "'4:0'", {"units": ["4:0"]}),
    "empty sum": (UsageError, "UnitSum", {"units": UnitSum(())}),
    "net": (UsageError, "24, 24.*12, 12", {"net": anatomy(plain(), (3, 24, 24))}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_argument_is_named(name: str) -> None:
    error, message, change = REFUSED[name]
    arguments: dict[str, Any] = {"x": X[0], "units": Unit("4", 0)} | change
    model = plain()
    with untouched(model), pytest.raises(error, match=message):
        project(model, **arguments)


def layer_scan_of(model: nn.Module, x: Tensor) -> LayerScan:
    return scan(model, x, ["4"], k=1)["4"]


@pytest.mark.parametrize(
    ("error", "message", "change"),
    [
        (ImageError, "3 images.*2 of the scan", {"images": images(3, 12)}),
        (ImageError, r"000000.*14, 14.*12, 12", {"images": images(2, 14)}),
        (UnitError, "0 to 7", {"channels": [0, 8]}),
        (UnitError, "-1", {"channels": [-1]}),
        (RuleError, "'guide'", {"rule": "guide"}),
        (RuleError, "'guide'", {"rules": ["gradient", "guide"]}),
        (UsageError, r"rules=\[\]", {"rules": []}),
        (UsageError, "rules='guided'", {"rules": "guided"}),
        (
            UsageError,
            r"<Scan of 1 layers.*result\['conv1'\]",
            {"layer_scan": scan(plain(), X, "4")},
        ),
        (LayerError, "'4' in this model", {"model": nn.Sequential(nn.Conv2d(3, 8, 3))}),
    ],
)
def test_a_bad_argument_of_exemplars_is_named(
    error: type[FeatvizError], message: str, change: dict[str, Any]
) -> None:
    model = plain()
    arguments = {"model": model, "images": X, "layer_scan": layer_scan_of(model, X)} | change
    with untouched(model), pytest.raises(error, match=message):
        project_exemplars(**arguments)


def test_a_scan_of_other_weights_is_refused() -> None:
    model, data = plain(), open_images(images(4))
    layer_scan = layer_scan_of(model, images(4))
    integers(model, seed=5)
    with pytest.raises(RecordError, match=r"4:0 gives 22\.75 where 46\.5") as error:
        project_exemplars(model, data, layer_scan)
    assert error.value.arguments == ("fresh",)


def test_weights_that_have_become_nan_are_refused() -> None:
    """NaN is no response that could have been recorded."""
    model: Any = plain()
    layer_scan = layer_scan_of(model, images(4))
    with torch.no_grad():
        model[0].bias[0] = torch.nan
    with pytest.raises(RecordError, match="nan"):
        project_exemplars(model, images(4), layer_scan)


@pytest.mark.parametrize("at", [None, "map", (0, 0)])
def test_activations_that_are_nan_have_no_projection(at: Any) -> None:
    x = randn(3, 12, 12)
    x[0, 5, 5] = torch.nan
    with pytest.raises(NumberError, match=r"unit 4:1.* NaN: check weights"):
        project(plain(), x, Unit("4", 1, at), rule="gradient")


# --- law 1


@pytest.mark.parametrize("training", [True, False])
def test_models_are_left_as_they_were(training: bool) -> None:
    model: Any = integers(Reused()).train(training)
    model.bn1.eval()
    model.conv1.weight.requires_grad_(False)
    data = open_images(images(4, 12))
    with untouched(model):
        result = scan(model, data, ["bn1", "conv3", "relu@1"], k=2)
        project_exemplars(model, data, result["conv3"])
        project_exemplars(model, data, result["relu@1"], rules=RULES)
        project(model, data[0], [Unit("relu@2", 0), Unit("conv1", 0, at="map")])


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("at", [None, "map"])
def test_models_are_left_as_they_were_when_they_raise(at: Any, after: int) -> None:
    """In the first forward, and in the later ones of the same call."""
    model = Raises(after).train()

    def several_times() -> None:
        for _ in range(3):
            project(model, images(1, 12)[0], Unit("b", 0, at=at))

    with untouched(model), pytest.raises((FeatvizError, RuntimeError), match="in the middle"):
        several_times()


def test_what_takes_one_size_alone_is_projected_from_the_full_image() -> None:
    model, x = integers(OneSize(12)).double(), images(1, 12)[0].double()
    with untouched(model):
        signal = project(model, x, Unit("b", 1, at=(3, 4)))[0]
    assert torch.equal(signal, projection(model, x, "b", 1, (3, 4), "deconvnet"))


@pytest.mark.parametrize("rule", ["gradient", "deconvnet", "guided"])
def test_a_negative_activation_goes_back_with_its_sign(rule: str) -> None:
    """Law 3: a crop, which is asked for by a position, against the full image, by the whole map."""
    model, x = integers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))), images(1)
    maps = model(x)[0]
    channel = int(maps.amax(dim=(1, 2)).argmin())
    y, z = divmod(int(maps[channel].argmin()), maps.shape[2])
    assert maps[channel, y, z] < 0
    unit = Unit("2", channel, at=(y, z))
    crop = project(model, x, unit, rule=rule, start="activation")
    full = project(model, x, unit + 0 * unit, rule=rule, start="activation")
    torch.testing.assert_close(crop, full)


def test_a_forward_that_is_random_is_named_as_a_reason() -> None:
    """Dropout as a function is on in eval mode too, and there was no scan."""

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.b(F.dropout(self.a(x), 0.5))
            return result

    torch.manual_seed(0)
    with pytest.raises(RecordError, match="the forward pass is random, or the scan was made with"):
        project(Dropping().eval(), randn(3, 16, 16), Unit("b", 1), rule="gradient")
