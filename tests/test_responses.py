"""Responses: equal to one image at a time, whatever the batches, and without a trace in the model."""

from collections.abc import Callable

import pytest
import torch
from laws import generator, same_bits, untouched
from nets import Raises, Reused, integers, plain
from oracles import output
from torch import Tensor, nn

from featviz import Preprocess, open_images, responses
from featviz.errors import LayerError, UsageError

BY_HAND: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda plane: plane.max(),
    "mean": lambda plane: plane.sum() / plane.numel(),
    "sum": lambda plane: plane.sum(),
    "l2": lambda plane: (plane * plane).sum().sqrt(),
    "map": lambda plane: plane,
}


def network() -> nn.Module:
    """Maps, a rectifier in place behind them, and a fully connected layer with another behind it."""
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 3, stride=2)]
    head = [nn.Flatten(), nn.Linear(64, 5), nn.ReLU(inplace=True)]
    return integers(nn.Sequential(*layers, *head)).double()


def pictures(n: int = 5, side: int = 12) -> Tensor:
    return torch.rand(n, 3, side, side, generator=generator(4))


@pytest.mark.parametrize("reduce", list(BY_HAND))
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_equal_to_one_image_at_a_time(reduce: str, batch_size: int) -> None:
    model, images = network(), pictures()
    result = responses(model, images, "conv, 4", reduce=reduce, batch_size=batch_size)  # type: ignore[arg-type]
    assert list(result) == ["0", "2", "4"]
    for layer, values in result.items():
        assert len(values) == len(images)
        for i, image in enumerate(images):
            expected = output(model, layer, image.double())
            if expected.dim() == 3:
                expected = torch.stack([BY_HAND[reduce](plane) for plane in expected])
            torch.testing.assert_close(values[i], expected, rtol=1e-12, atol=1e-12)


def test_any_function_of_the_output() -> None:
    model, images = network(), pictures()
    corner = responses(model, images, "0", reduce=lambda maps: maps[:, :, 0, 0])["0"]
    maps = responses(model, images, "0", reduce="map")["0"]
    assert same_bits(corner, maps[:, :, 0, 0])


def test_images_are_brought_to_model_space() -> None:
    model, pixels = network(), pictures()
    recipe = Preprocess(size=(12, 12), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    result = responses(model, open_images(pixels, recipe), "0")["0"]
    expected = output(model, "0", recipe.normalize(pixels[2]).double()).amax((1, 2))
    torch.testing.assert_close(result[2], expected, rtol=1e-6, atol=1e-6)


def test_calls_of_one_module_are_kept_apart() -> None:
    model, images = integers(Reused()), pictures()
    result = responses(model, images, ["relu@1", "relu@0"], progress=True)
    assert list(result) == ["relu@1", "relu@0"]
    for name, values in result.items():
        torch.testing.assert_close(values[1], output(model, name, images[1]).amax((1, 2)))


@pytest.mark.parametrize("after", [0, 1, 2, 9])
def test_the_model_is_left_as_it_was(after: int) -> None:
    model = Raises(after).train()
    with untouched(model):
        if after == 9:
            responses(model, pictures(), ["a", "b"], batch_size=2)
        else:
            with pytest.raises(Exception, match="in the middle"):
                responses(model, pictures(), ["a", "b"], batch_size=2)


def test_bad_input_is_named() -> None:
    with pytest.raises(UsageError, match=r"'maximum'.*did you mean 'max'"):
        responses(plain(), pictures(), "0", reduce="maximum")  # type: ignore[arg-type]
    with pytest.raises(LayerError, match="'9'"):
        responses(plain(), pictures(), ["9"])
    flat = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(2))
    with pytest.raises(LayerError, match="'1'"):
        responses(flat, pictures(), ["1"])
