"""Equivariance: exactly zero where the theory says so, and nowhere else."""

import math

import pytest
import torch
import torchvision
from laws import generator, randn, untouched
from nets import Raises, integers, plain
from torch import Tensor, nn

from featviz import Rotate, Scale, Translate, equivariance, load_model, sweep
from featviz.errors import LayerError, NumberError, UsageError
from featviz.models import LocallyConnected2d


def images(n: int = 3, height: int = 20, width: int = 24) -> Tensor:
    return randn(n, 3, height, width, dtype=torch.float64)


@pytest.mark.parametrize("shift", [(2, 0), (-4, 2), (0, 6), (0, 0)])
def test_zero_for_translations_by_the_stride(shift: tuple[int, int]) -> None:
    """Whole numbers throughout, so there is no rounding: the error is exactly 0 in the second
    layer's steps of 2 pixels."""
    model = plain().double()
    x = torch.randint(-4, 5, (2, 3, 26, 30), generator=generator()).double()
    assert equivariance(model, x, "*", Translate(*shift)) == dict.fromkeys("01234", 0.0)


def test_not_zero_elsewhere() -> None:
    model, x = plain().double(), images(2, 40, 44)
    odd = equivariance(model, x, ["0", "3"], Translate(1, 0))
    assert odd["0"] < 1e-14  # its stride is 1
    assert odd["3"] > 0.05
    half = equivariance(model, x, ["0", "1"], Translate(0.5))
    assert half["0"] < 1e-14  # linear: interpolation may come before or after
    assert half["1"] > 0.01
    for transform in (Rotate(20), Scale(1.2), Scale(0.8)):
        assert 0.01 < equivariance(model, x, ["3"], transform)["3"] < 2


def test_turning_is_about_the_image_center() -> None:
    """A 1x1 convolution of stride 2 or 3 commutes with the turns and the scales of a smooth image,
    to interpolation."""
    line = torch.linspace(-1, 1, 61)
    y, x = torch.meshgrid(line, line, indexing="ij")
    smooth = torch.stack([y, x, torch.sin(2 * x) * y])[None].double()
    for stride, padding in ((1, 0), (2, 0), (3, 1), (4, 3)):
        model = _point(stride, padding)
        for transform in (Rotate(30), Scale(1.3), Scale(0.7), Translate(2.5, -1.25)):
            error = equivariance(model, smooth, ["0"], transform)["0"]
            assert error < 0.02, (stride, transform)


def _point(stride: int, padding: int) -> nn.Module:
    """A 5x5 convolution each of whose positions looks at its middle pixel alone, so that turns do
    not turn the filter."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 5, stride, padding, bias=False).double()
    with torch.no_grad():
        middle = layer.weight[:, :, 2:3, 2:3].clone()
        layer.weight.zero_()
        layer.weight[:, :, 2:3, 2:3] = middle
    return nn.Sequential(layer)


@pytest.mark.parametrize("name", ["zfmini", "alexnet", "resnet18"])
def test_zero_on_real_networks(name: str) -> None:
    """To rounding, for each layer's own stride, where the receptive field fits the image with room
    to move."""
    torch.manual_seed(0)
    layers = {
        "zfmini": ["conv1", "pool1", "conv2", "conv3"],
        "alexnet": ["features.0", "features.3"],
        "resnet18": ["conv1", "layer1"],
    }
    model = load_model(name) if name == "zfmini" else torchvision.models.get_model(name)
    x = images(1, 150, 140)
    errors = equivariance(model.double(), x, layers[name], Translate(16, -8))
    assert list(errors) == layers[name]
    assert max(errors.values()) < 1e-12


def test_a_locally_connected_layer_is_equivariant_to_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(LocallyConnected2d(3, 6, (28, 28), 5, 2)).double()
    assert equivariance(model, images(2, 28, 28), ["0"], Translate(0))["0"] == 0
    for shift in (1, 2, 4, 8):
        assert equivariance(model, images(2, 28, 28), ["0"], Translate(shift))["0"] > 1


def test_borders_are_left_out_and_nothing_left_is_nan() -> None:
    """Padding is seen at the border of the map alone; where every position sees it, there is
    nothing to compare."""
    model = integers(nn.Sequential(nn.Conv2d(3, 2, 7, padding=3))).double()
    assert equivariance(model, images(1, 16, 16).round(), ["0"], Translate(5))["0"] == 0
    assert math.isnan(equivariance(model, images(1, 16, 16), ["0"], Translate(12))["0"])


def test_several_batches_are_one() -> None:
    model, x = plain().double(), images(5, 24, 24)
    each = equivariance(model, x, ["3"], Rotate(10), batch_size=2)["3"]
    assert each == pytest.approx(equivariance(model, x, ["3"], Rotate(10))["3"], rel=1e-12)


def test_one_image_will_do() -> None:
    model, x = plain().double(), images(1, 24, 24)
    alone = equivariance(model, x[0], "3", Rotate(10))
    assert alone == equivariance(model, x, "3", Rotate(10))


@pytest.mark.parametrize("after", [0, 1, 2, 9])
def test_models_are_left_as_they_were(after: int) -> None:
    model = Raises(after).train()
    x = images(2).float()
    with untouched(model):
        if after == 9:
            equivariance(model, x, ["a", "b"], Rotate(5))
        else:
            with pytest.raises(Exception, match="in the middle"):
                equivariance(model, x, ["a", "b"], Rotate(5))


def test_bad_input_is_named() -> None:
    model = nn.Sequential(*plain(), nn.Flatten()).double()
    with pytest.raises(LayerError, match="layer '5'"):
        equivariance(model, images(), ["3", "5"], Translate(1))
    with pytest.raises(LayerError, match=r"layers=\[\]"):
        equivariance(model, images(), [], Translate(1))
    with pytest.raises(UsageError, match="batch_size=0"):
        equivariance(model, images(), ["3"], Translate(1), batch_size=0)


def test_maps_whose_steps_differ_can_be_shifted_and_not_turned() -> None:
    oblong = nn.Sequential(nn.Conv2d(3, 2, 3, stride=(1, 2))).double()
    assert equivariance(oblong, images(), ["0"], Translate(1, 2))["0"] < 1e-14
    with pytest.raises(UsageError, match="stride 1x2"):
        equivariance(oblong, images(), ["0"], Rotate(5))


class LastChannels(nn.Module):
    """Between two layers channels lie last, as many as there are rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3)
        self.norm = nn.LayerNorm(12)
        self.linear = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(self.norm(self.conv(x).permute(0, 2, 3, 1)))
        return y.mean((1, 2))


def test_maps_of_any_layout_move_with_the_image() -> None:
    model = integers(LastChannels()).double()
    x = randn(2, 3, 14, 14, dtype=torch.float64)
    assert equivariance(model, x, "conv, norm, linear", Translate(1, 2)) == {
        "conv": 0,
        "norm": 0,
        "linear": 0,
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_moves_by_whole_pixels(dtype: torch.dtype) -> None:
    x = randn(1, 3, 224, 224).to(dtype)
    expected = torch.zeros_like(x)
    expected[..., 8:, 3:] = x[..., :-8, :-3]
    assert torch.equal(Translate(8, 3)(x), expected)
    model = integers(nn.Sequential(nn.Conv2d(3, 4, 3))).to(dtype)
    assert equivariance(model, x, "0", Translate(8, 3)) == {"0": 0}
    assert sweep(model, x, "0", Translate, [0]).distances["0"].tolist() == [[0]]


def test_activations_that_are_no_numbers_are_an_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    x = torch.full((1, 3, 20, 20), torch.nan)
    with pytest.raises(NumberError, match="layer '0' gives NaN"):
        equivariance(model, x, "0", Translate(1))
    with pytest.raises(NumberError, match="layer '0' gives NaN"):
        sweep(model, x, "0", Translate, [0])
