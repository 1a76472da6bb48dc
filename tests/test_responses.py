"""Responses against maps read one image at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from laws import generator, randint, same_bits, untouched
from nets import Raises, Reused, integers, plain
from oracles import output
from torch import Tensor, nn

from featviz import read, responses, scan
from featviz.errors import ImageError, LayerError, NumberError, UsageError
from featviz.images import Images, Preprocess, open_images
from featviz.methods._reductions import reduction_of

X = randint(0, 4, 5, 3, 12, 12) / 4
REDUCED: dict[Any, Any] = {
    "max": lambda maps: maps.amax(dim=(2, 3)),
    "mean": lambda maps: maps.mean(dim=(2, 3)),
    "sum": lambda maps: maps.sum(dim=(2, 3)),
    "l2": lambda maps: maps.square().sum(dim=(2, 3)).sqrt(),
    "map": lambda maps: maps,
}


def maps_of(layer: str) -> Tensor:
    return torch.stack([output(plain(), layer, image) for image in X])


@pytest.mark.parametrize("batch_size", [2, 32])
@pytest.mark.parametrize("reduce", REDUCED)
def test_each_reduction(reduce: Any, batch_size: int) -> None:
    model = plain().train()
    with untouched(model):
        values = responses(model, X, "conv", reduce=reduce, batch_size=batch_size)
    assert set(values) == {"0", "3"}
    for name, value in values.items():
        assert same_bits(value, REDUCED[reduce](maps_of(name)))


def test_a_function_of_ones_own() -> None:
    values = responses(plain(), X, "3", reduce=lambda maps: maps[:, 2, 1], batch_size=2)
    assert same_bits(values["3"], maps_of("3")[:, 2, 1])


@pytest.mark.parametrize("reduce", ["max", "map"])
def test_a_fully_connected_layer_stays_as_it_is(reduce: Any) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(432, 4)).eval()
    value = responses(model, X, "1", reduce=reduce)["1"]
    torch.testing.assert_close(value, model(X).detach())


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'maxx'.*'max'"):
        responses(plain(), X, reduce="maxx")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"\(\).*5 images.*'3'"):
        responses(plain(), X, "3", reduce=lambda maps: maps.mean())
    with pytest.raises(UsageError, match=r"\(8, 5\).*5 images"):
        responses(plain(), X, "3", reduce=lambda maps: maps.amax(dim=(2, 3)).T)
    with pytest.raises(UsageError, match="batch_size=0"):
        responses(plain(), X, batch_size=0)
    with pytest.raises(UsageError, match=r"quantile:1.5.*0 to 1"):
        responses(plain(), X, reduce="quantile:1.5")
    with pytest.raises(UsageError, match="float for layer '3'"):
        responses(plain(), X, "3", reduce=lambda maps: 0.5)  # type: ignore[arg-type,return-value]
    rows = iter((1, 2))
    with pytest.raises(UsageError, match=r"\(2, 8\), and before.*\(1, 8\)"):
        responses(
            plain(), X, "3", reduce=lambda m: m.new_zeros(len(m), next(rows), 8), batch_size=3
        )
    with pytest.raises(UsageError, match="folder"):
        responses(plain(), X, resume=True)
    with pytest.raises(LayerError, match="'9'"):
        responses(plain(), X, "9")


def broken(*indices: int) -> Images:
    """X, with some images that cannot be read."""

    def read(i: int) -> Tensor:
        if i in indices:
            raise OSError("broken")
        return X[i]

    return Images(list("abcde"), read, Preprocess())


def test_an_image_that_cannot_be_read_is_skipped() -> None:
    result = responses(plain(), broken(0, 3), batch_size=2)
    assert [entry.key for entry in result.skipped] == ["a", "d"]
    value = result["3"]
    assert value[[0, 3]].isnan().all()
    assert same_bits(value[[1, 2, 4]], REDUCED["max"](maps_of("3")[[1, 2, 4]]))
    readable = result.readable()
    assert readable.listing.keys == ["b", "c", "e"]
    assert same_bits(readable["3"], value[[1, 2, 4]])
    assert readable.readable() is readable


def test_an_image_that_cannot_be_read_is_an_error_where_it_is_to_be() -> None:
    with pytest.raises(ImageError, match=r"'d'.*broken"):
        responses(plain(), broken(3), strict=True)
    with pytest.raises(ImageError, match=r"none of the 5 images.*broken"):
        responses(plain(), broken(*range(5)))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99, 1.0])
def test_a_quantile_is_the_value_of_a_position(share: float) -> None:
    value = responses(plain(), X, "3", reduce=f"quantile:{share}")["3"]
    ordered = maps_of("3").flatten(2).sort(dim=2).values
    expected = np.quantile(ordered.numpy(), share, axis=2, method="higher")
    assert same_bits(value, torch.from_numpy(expected))


def half(weight: float, dtype: torch.dtype) -> nn.Module:
    model = nn.Conv2d(3, 2, 1, dtype=dtype).requires_grad_(False)
    model.weight.fill_(weight)
    return nn.Sequential(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("weight", [1e-4, 200.0])  # of squares that are 0 and infinite in float16
def test_the_norm_of_maps_in_half_precision(weight: float, dtype: torch.dtype) -> None:
    model, pixels = half(weight, dtype), pictures()
    maps = read(model, pixels.to(dtype), "0")["0"].double()
    expected = maps.square().sum(dim=(2, 3)).sqrt()
    result = responses(model, pixels, "0", reduce="l2")["0"]
    assert result.dtype == dtype
    assert torch.allclose(result.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)
    top = scan(model, pixels, "0", k=1, score="l2")["0"].top
    assert torch.allclose(top.scores[:, 0].double(), expected.amax(dim=0), rtol=1e-5)


def test_a_sum_that_half_precision_cannot_hold_is_refused_and_taken_in_another() -> None:
    model, pixels = half(2000, torch.float16), pictures()
    with pytest.raises(NumberError, match="larger than float16 can hold: give a wider dtype"):
        responses(model, pixels, "0", reduce="sum")
    result = responses(model, pixels, "0", reduce="sum", dtype=torch.float32)["0"]
    maps = read(model, pixels.half(), "0")["0"].float()
    assert torch.allclose(result, maps.sum(dim=(2, 3)))


def test_the_rank_of_a_quantile_is_exact() -> None:
    maps = torch.arange(101.0).view(1, 1, 1, 101)
    for percent in range(101):
        assert reduction_of(f"quantile:{percent / 100}")(maps).item() == percent


def test_a_type_of_ones_own() -> None:
    value = responses(plain(), X, "3", dtype=torch.float16)["3"]
    assert same_bits(value, REDUCED["max"](maps_of("3")).half())


def network() -> nn.Module:
    """Maps, a rectifier in place behind them, and a fully connected layer with another behind it."""
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 3, stride=2)]
    head = [nn.Flatten(), nn.Linear(64, 5), nn.ReLU(inplace=True)]
    return integers(nn.Sequential(*layers, *head)).double()


def pictures(n: int = 5, side: int = 12) -> Tensor:
    return torch.rand(n, 3, side, side, generator=generator(4))


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
