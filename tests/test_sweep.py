"""Sweeps against the slow way; equivariance exactly zero where the theory says so, and nowhere
else.
"""

import pytest
import torch
import torchvision
from nets import Raises, integers, plain
from oracles import moved, output
from test_project import assert_untouched, state
from torch import Tensor, nn

from featviz import Rotate, Scale, Translate, equivariance, load_model, sweep
from featviz.errors import LayerError, UsageError
from featviz.models import LocallyConnected2d


def images(n: int = 3, height: int = 20, width: int = 24, seed: int = 0) -> Tensor:
    return torch.randn(
        n, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def classifier() -> nn.Module:
    return (
        nn.Sequential(*plain(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5))
        .double()
        .eval()
    )


def test_a_sweep_equals_the_slow_way() -> None:
    model, x = classifier(), images(5)
    found = sweep(model, x, ["0", "3", "7"], Translate, [-3, 0, 2, 7], batch_size=2, progress=True)
    assert found.values == [-3, 0, 2, 7]
    assert found.probabilities is not None
    assert found.probabilities.shape == (5, 4, 5)
    for i, image in enumerate(x):
        for v, value in enumerate((-3, 0, 2, 7)):
            changed = moved(image, value, 0)
            for layer in ("0", "3", "7"):
                apart = (
                    (output(model, layer, changed) - output(model, layer, image))
                    .square()
                    .sum()
                    .sqrt()
                )
                torch.testing.assert_close(
                    found.distances[layer][i, v], apart, rtol=1e-12, atol=1e-12
                )
            torch.testing.assert_close(
                found.probabilities[i, v], model(changed[None]).softmax(1)[0]
            )
        torch.testing.assert_close(
            found.norms["3"][i], output(model, "3", image).square().sum().sqrt()
        )
    assert not found.distances["7"][:, 1].any()
    torch.testing.assert_close(
        found.relative("3") * found.norms["3"][:, None], found.distances["3"]
    )


def test_any_function_is_a_transform() -> None:
    model, x = plain().double(), images(2)
    found = sweep(model, x, ["0"], lambda v: lambda batch: batch * v, [1, 0.5])
    assert found.probabilities is None
    assert not found.distances["0"][:, 0].any()
    assert found.distances["0"][:, 1].all()


def test_transforms() -> None:
    x = images(2, 9, 11)
    assert torch.equal(Translate(2, -3)(x)[1], moved(x[1], 2, -3))
    assert torch.equal(Translate(0)(x), x)
    half = Translate(0, 0.5)(x)
    torch.testing.assert_close(half[..., 1:], (x[..., 1:] + x[..., :-1]) / 2)
    square = images(2, 9, 9)
    torch.testing.assert_close(Rotate(90)(square), square.rot90(1, (2, 3)))
    torch.testing.assert_close(Rotate(-90)(square), square.rot90(-1, (2, 3)))
    torch.testing.assert_close(Rotate(360)(square), square)
    torch.testing.assert_close(Scale(1.0)(x), x)
    spot = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    spot[0, 0, 2:7, 2:7] = 1
    assert Scale(2)(spot).sum() > 2.5 * spot.sum()
    assert Scale(0.5)(spot).sum() < 0.4 * spot.sum()


@pytest.mark.parametrize("shift", [(2, 0), (-4, 2), (0, 6), (0, 0)])
def test_zero_for_translations_by_the_stride(shift: tuple[int, int]) -> None:
    """Whole numbers throughout, so there is no rounding: the error is exactly 0 in the second
    layer's steps of 2 pixels.
    """
    model = plain().double()
    x = torch.randint(-4, 5, (2, 3, 26, 30), generator=torch.Generator().manual_seed(0)).double()
    assert equivariance(model, x, ["0", "1", "2", "3", "4"], Translate(*shift)) == dict.fromkeys(
        "01234", 0.0
    )


def test_not_zero_elsewhere() -> None:
    model, x = plain().double(), images(2, 40, 44)
    odd = equivariance(model, x, ["0", "3"], Translate(1, 0))
    assert odd["0"] < 1e-14  # its stride is 1
    assert odd["3"] > 0.05
    assert (
        equivariance(model, x, ["0"], Translate(0.5))["0"] < 1e-14
    )  # linear: interpolation may come before or after
    assert equivariance(model, x, ["1"], Translate(0.5))["1"] > 0.01
    for transform in (Rotate(20), Scale(1.2), Scale(0.8)):
        assert 0.01 < equivariance(model, x, ["3"], transform)["3"] < 2


def test_turning_is_about_the_image_centre() -> None:
    """A 1x1 convolution of stride 2 or 3 commutes with the turns and the scales of a smooth image,
    to interpolation.
    """
    y, x = torch.meshgrid(torch.linspace(-1, 1, 61), torch.linspace(-1, 1, 61), indexing="ij")
    smooth = torch.stack([y, x, torch.sin(2 * x) * y])[None].double()
    for stride, padding in ((1, 0), (2, 0), (3, 1), (4, 3)):
        model = nn.Sequential(nn.Conv2d(3, 4, 5, stride, padding)).double()
        with torch.no_grad():
            model[0].bias.zero_()
        for transform in (Rotate(30), Scale(1.3), Scale(0.7), Translate(2.5, -1.25)):
            kernel_free = equivariance(_point(model, stride, padding), smooth, ["0"], transform)[
                "0"
            ]
            assert kernel_free < 0.02, (stride, transform)


def _point(model: nn.Sequential, stride: int, padding: int) -> nn.Module:
    """The same geometry, but each position looks at its middle pixel alone, so that turns do not
    turn the filter.
    """
    with torch.no_grad():
        middle = model[0].weight[:, :, 2:3, 2:3].clone()
        model[0].weight.zero_()
        model[0].weight[:, :, 2:3, 2:3] = middle
    return model


@pytest.mark.parametrize("name", ["zfmini", "alexnet", "resnet18"])
def test_zero_on_real_networks(name: str) -> None:
    """To rounding, for each layer's own stride, where the receptive field fits the image with room
    to move.
    """
    torch.manual_seed(0)
    layers = {
        "zfmini": ["conv1", "pool1", "conv2", "conv3"],
        "alexnet": ["features.0", "features.3"],
        "resnet18": ["conv1", "layer1"],
    }
    model = (
        load_model(name) if name == "zfmini" else torchvision.models.get_model(name, weights=None)
    )
    found = equivariance(model.double(), images(1, 150, 140), layers[name], Translate(16, -8))
    assert max(found.values()) < 1e-12


def test_a_locally_connected_layer_is_equivariant_to_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(LocallyConnected2d(3, 6, (28, 28), 5, 2)).double()
    assert equivariance(model, images(2, 28, 28), ["0"], Translate(0))["0"] == 0
    for shift in (1, 2, 4, 8):
        assert equivariance(model, images(2, 28, 28), ["0"], Translate(shift))["0"] > 1


def test_borders_are_left_out_and_nothing_left_is_nan() -> None:
    """Padding is seen at the border of the map alone; where every position sees it, there is
    nothing to compare.
    """
    model = integers(nn.Sequential(nn.Conv2d(3, 2, 7, padding=3))).double()
    assert equivariance(model, images(1, 16, 16).round(), ["0"], Translate(5))["0"] == 0
    found = equivariance(model, images(1, 16, 16), ["0"], Translate(12))["0"]
    assert found != found


def test_several_batches_are_one() -> None:
    model, x = plain().double(), images(5, 24, 24)
    each = equivariance(model, x, ["3"], Rotate(10), batch_size=2)["3"]
    assert each == pytest.approx(equivariance(model, x, ["3"], Rotate(10))["3"], rel=1e-12)


@pytest.mark.parametrize("after", [0, 1, 2, 9])
def test_models_are_left_as_they_were(after: int) -> None:
    model = Raises(after).train()
    before = state(model)
    for verb in (
        lambda: sweep(model, images(2).float(), ["a", "b"], Rotate, [0, 90]),
        lambda: equivariance(model, images(2).float(), ["a", "b"], Rotate(5)),
    ):
        model.calls = 0
        if after == 9:
            verb()
        else:
            with pytest.raises(Exception, match="in the middle"):
                verb()
    assert_untouched(model, before)


def test_bad_input_is_named() -> None:
    model, x = classifier(), images()
    with pytest.raises(UsageError, match=r"give floating point images \(n, c, h, w\)"):
        sweep(model, x[0], ["0"], Translate, [1])
    with pytest.raises(UsageError, match="0 values"):
        sweep(model, x, ["0"], Translate, [])
    with pytest.raises(UsageError, match="0 layers"):
        sweep(model, x, [], Translate, [1])
    with pytest.raises(LayerError, match="no layer 'conv'"):
        sweep(model, x, ["conv"], Translate, [1])
    with pytest.raises(UsageError, match="it is to keep their shape"):
        sweep(model, x, ["0"], lambda v: lambda batch: batch[..., 1:], [1])
    with pytest.raises(UsageError, match="a factor is above 0"):
        sweep(model, x, ["0"], Scale, [0])
    with pytest.raises(LayerError, match="layer '7' sees the whole image"):
        equivariance(model, x, ["7"], Translate(1))
    with pytest.raises(UsageError, match="no layers"):
        equivariance(model, x, [], Translate(1))
    oblong = nn.Sequential(nn.Conv2d(3, 2, 3, stride=(1, 2))).double()
    assert equivariance(oblong, x, ["0"], Translate(1, 2))["0"] < 1e-14
    with pytest.raises(UsageError, match="stride 1x2 cannot be turned"):
        equivariance(oblong, x, ["0"], Rotate(5))
