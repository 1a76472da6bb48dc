"""Fields that are read off gradients: fitted at many positions, and checked with one more input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from laws import randn, untouched
from nets import integers, plain
from torch import Tensor, nn

from featviz import Layer, anatomy
from featviz.fields.measured import measured_field
from featviz.geometry import Box, ReceptiveField

SIZE = (3, 32, 30)


def layer_of(model: nn.Module, name: str) -> Layer:
    return anatomy(model, SIZE, only=[])[name]


def measured(model: nn.Module, name: str) -> ReceptiveField:
    model = model.double().eval()
    image = torch.zeros(1, *SIZE, dtype=torch.float64)
    with untouched(model):
        return measured_field(model, image, layer_of(model, name))


def supports_lie_in(model: nn.Module, name: str, field: ReceptiveField) -> bool:
    """Whether the gradients of another image, at every position, lie in the field's boxes."""
    layer = layer_of(model, name)
    x = randn(1, *SIZE, seed=7, dtype=torch.float64).requires_grad_()
    maps = model(x)
    for y in range(layer.map_size[0]):
        for column in range(layer.map_size[1]):
            (gradient,) = torch.autograd.grad(maps[0, :, y, column].sum(), x, retain_graph=True)
            outside = gradient[0].clone()
            outside[field.box(y, column).region] = 0
            if outside.any():
                return False
    return True


STACKS: dict[str, Callable[[], nn.Module]] = {
    "one convolution": lambda: nn.Sequential(nn.Conv2d(3, 4, 5, padding=2)),
    "strides": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, stride=2)
    ),
    "rows and columns apart": lambda: nn.Sequential(
        nn.Conv2d(3, 4, (3, 5), stride=(1, 2), padding=(0, 1)), nn.Conv2d(4, 4, (5, 1))
    ),
    "a mean of windows": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2)),
}


@pytest.mark.parametrize("name", STACKS)
def test_linear_stacks_are_measured_as_they_are_traced(name: str) -> None:
    """Law 6: where nothing hides a pixel, the gradients show the field itself."""
    torch.manual_seed(0)
    model = STACKS[name]().double().eval()
    last = str(len(list(model.children())) - 1)
    traced = layer_of(model, last).field
    field = measured(model, last)
    assert field.kind == "measured"
    assert (field.size, field.stride, field.padding) == (
        traced.size,
        traced.stride,
        traced.padding,
    )


def test_a_field_behind_rectifiers_holds_the_supports() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3)).double()
    field = measured(model, "2")
    assert field.kind == "measured"
    assert supports_lie_in(model, "2", field)


class Resizing(nn.Module):
    """Sees its image at another size: a stride that is no whole number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(F.interpolate(x, scale_factor=1.5, mode="bilinear"))
        return result


def test_a_stride_that_is_a_fraction_is_measured_right_or_not_at_all() -> None:
    torch.manual_seed(0)
    field = measured(Resizing(), "conv")
    assert field.kind in ("measured", "unknown")
    assert supports_lie_in(Resizing().double(), "conv", field)


class Turning(nn.Module):
    """Sees its image upside down, by an index: no window moves that way."""

    def __init__(self, on_data: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.on_data = on_data

    def forward(self, x: Tensor) -> Tensor:
        index = torch.arange(x.shape[2] - 1, -1, -1)
        if self.on_data:
            index = x[0].sum((0, 2)).argsort()
        result: Tensor = self.conv(x.index_select(2, index))
        return result


@pytest.mark.parametrize("on_data", [False, True])
def test_what_is_no_field_is_not_called_measured(on_data: bool) -> None:
    """Its box is the full image: nothing is cut off."""
    field = measured(Turning(on_data), "conv")
    assert field.kind in ("unknown", "data")
    assert field.box(0, 0) == Box(0, 0, *SIZE[1:])


class LeapsOnTheLast(nn.Module):
    """A network that looks elsewhere from its nth forward on."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.after = after
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > self.after:
            x = x.roll(5, 2)
        result: Tensor = self.conv(x)
        return result


def test_a_support_outside_the_fitted_boxes_is_data() -> None:
    model = LeapsOnTheLast(after=5).double()  # three to trace it, two to fit
    layer = layer_of(model, "conv")
    field = measured_field(model, torch.zeros(1, *SIZE, dtype=torch.float64), layer)
    assert model.calls == 6
    assert field.kind == "data"
    assert field.box(0, 0) == Box(0, 0, *SIZE[1:])


class Inferring(nn.Module):
    """Computes what no gradient comes through."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.last = nn.Identity()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.function(self.conv(x)))
        return result


def for_inference_alone(x: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        raise NotImplementedError("for inference alone")
    return x


NO_GRADIENT: dict[str, Callable[[Tensor], Tensor]] = {
    "detached": torch.detach,
    "whole numbers": lambda x: (x > 0).long(),
    "for inference alone": for_inference_alone,
    "complex": lambda x: torch.complex(x, x),
}


@pytest.mark.parametrize("name", NO_GRADIENT)
def test_what_carries_nothing_back_is_unknown_and_no_error(name: str) -> None:
    field = measured(Inferring(NO_GRADIENT[name]), "last")
    assert field.kind == "unknown"
    assert field.box(0, 0) == Box(0, 0, *SIZE[1:])


def test_a_layer_without_maps_is_unknown() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 30 * 28, 5))
    assert measured(model, "2").kind == "unknown"


def test_a_map_of_one_position_is_unknown() -> None:
    """One support has no stride."""
    model = nn.Sequential(nn.Conv2d(3, 4, (32, 30)))
    assert measured(model, "0").kind == "unknown"


def test_measuring_does_not_depend_on_what_was_traced() -> None:
    model = integers(plain()).double()
    layer = layer_of(model, "3")
    wrong = replace(layer, field=ReceptiveField((1, 1), (1, 1), (0, 0), Box(0, 0, 32, 30), "bound"))
    image = torch.zeros(1, *SIZE, dtype=torch.float64)
    assert measured_field(model, image, wrong) == measured_field(model, image, layer)
