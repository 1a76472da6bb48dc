"""Activations that work in place on a view: rules see them as they see those that do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from laws import randn, same_bits, untouched
from nets import integers
from torch import Tensor, nn

from featviz import (
    Images,
    ModelError,
    RuleError,
    Translate,
    Unit,
    ablate,
    attribute,
    equivariance,
    explain,
    occlude,
    open_images,
    project,
    project_exemplars,
    responses,
    scan,
    sweep,
)

RULES = ("gradient", "deconvnet", "guided")
Function = Callable[[Tensor], Any]


class Between(nn.Module):
    """Two convolutions with a function between them."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3)
        self.b = nn.Conv2d(8, 4, 3)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(self.function(self.a(x)))
        return result


def net(function: Function) -> nn.Module:
    return integers(Between(function)).double()


def signals(function: Function, rule: str) -> Tensor:
    model = net(function)
    with untouched(model):
        return project(model, randn(3, 12, 12, dtype=torch.float64), Unit("b", 1), rule=rule)


def dropping(work: Function) -> Function:
    """Work in place on a view of a map, the result of which is dropped."""

    def function(x: Tensor) -> Tensor:
        x = x.clone()
        work(x)
        return x

    return function


def on_half(activation: Function) -> Function:
    """The activation on the first four channels, with nothing done in place."""
    return lambda x: torch.cat([activation(x[:, :4]), x[:, 4:]], dim=1)


def assigned(x: Tensor) -> None:
    x[:, :4] = F.relu(x[:, :4])


def multiplied(x: Tensor) -> None:
    x[:, :4].relu_().mul_(2)
    x[:, 4:] *= 3
    x[:, 4:] += x[:, :4].clone()


def multiplied_apart(x: Tensor) -> Tensor:
    first = F.relu(x[:, :4]) * 2
    return torch.cat([first, x[:, 4:] * 3 + first], dim=1)


def shuffled(inplace: bool) -> Function:
    """A channel shuffle that is rectified in the middle."""

    def function(x: Tensor) -> Tensor:
        grouped = x.unflatten(1, (2, 4)).transpose(1, 2)
        return F.relu(grouped, inplace=inplace).flatten(1, 2)

    return function


PAIRS: dict[str, tuple[Function, Function]] = {
    "instance norm": (
        nn.Sequential(nn.InstanceNorm2d(8), nn.ReLU(inplace=True)),
        nn.Sequential(nn.InstanceNorm2d(8), nn.ReLU()),
    ),
    "relu_ on a slice": (dropping(lambda x: x[:, :4].relu_()), on_half(F.relu)),
    "clamp_ on a slice": (
        dropping(lambda x: x[:, :4].clamp_(min=0)),
        on_half(lambda x: x.clamp(min=0)),
    ),
    "torch.clamp_ on a slice": (
        dropping(lambda x: torch.clamp_(x[:, :4], 0)),
        on_half(lambda x: x.clamp(0)),
    ),
    "leaky ReLU on a slice": (
        dropping(lambda x: F.leaky_relu_(x[:, :4], 0.25)),
        on_half(lambda x: F.leaky_relu(x, 0.25)),
    ),
    "ReLU6 on a slice": (
        dropping(lambda x: F.relu6(x[:, :4], inplace=True)),
        on_half(F.relu6),
    ),
    "hardtanh_ on a slice": (
        dropping(lambda x: F.hardtanh_(x[:, :4], 0.0, 6.0)),
        on_half(lambda x: F.hardtanh(x, 0.0, 6.0)),
    ),
    "threshold_ on a slice": (
        dropping(lambda x: F.threshold_(x[:, :4], 2.0, 0.0)),
        on_half(lambda x: F.threshold(x, 2.0, 0.0)),
    ),
    "SiLU on a slice": (dropping(lambda x: F.silu(x[:, :4], inplace=True)), on_half(F.silu)),
    "a permuted map": (dropping(lambda x: x.permute(0, 2, 3, 1).relu_()), F.relu),
    "a channel shuffle": (shuffled(True), shuffled(False)),
    "an assignment": (dropping(assigned), on_half(F.relu)),
    "sums and products beside it": (dropping(multiplied), multiplied_apart),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", PAIRS)
def test_in_place_equals_out_of_place(name: str, rule: str) -> None:
    """Law 4, and nothing is left on the model."""
    in_place, apart = PAIRS[name]
    expected = signals(apart, rule)
    torch.testing.assert_close(signals(in_place, rule), expected, rtol=1e-12, atol=1e-12)
    assert expected.any()


def wrapped(x: Tensor) -> Tensor:
    """Circular padding by concatenation: two rows above, one below, one column on either side."""
    tall = torch.cat([x[:, :, -2:], x, x[:, :, :1]], dim=2)
    return torch.cat([tall[..., -1:], tall, tall[..., :1]], dim=3)


CIRCULAR: dict[str, tuple[Function, Function]] = {
    "F.pad": (lambda x: F.pad(x, (1, 1, 2, 1), mode="circular"), wrapped),
    "F.pad by position": (lambda x: F.pad(x, (1, 1, 2, 1), "circular"), wrapped),
    "nn.CircularPad2d": (nn.CircularPad2d((1, 1, 2, 1)), wrapped),
}


@pytest.mark.parametrize("rule", [*RULES, "lrp"])
@pytest.mark.parametrize("name", CIRCULAR)
def test_circular_padding_only_copies(name: str, rule: str) -> None:
    padded, apart = CIRCULAR[name]
    expected = signals(lambda x: apart(F.relu(x)).relu(), rule)
    result = signals(lambda x: padded(F.relu(x)).relu(), rule)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    assert expected.any()


def multiplied_by_a_mask(x: Tensor) -> None:
    x[:, :4].mul_(x[:, :4] > 0)


def times_a_mask(x: Tensor) -> None:
    x[:, :4] *= x[:, :4] > 0


def assigned_to_a_mask(x: Tensor) -> None:
    x[x < 0] = 0


def assigned_to_a_mask_of_a_slice(x: Tensor) -> None:
    half = x[:, :4]
    half[half < 0] = 0


HIDDEN: dict[str, Function] = {
    "a product with a mask": multiplied_by_a_mask,
    "times a mask": times_a_mask,
    "assigned to a mask": assigned_to_a_mask,
    "assigned to a mask of a slice": assigned_to_a_mask_of_a_slice,
    "masked_fill_": lambda x: x[:, :4].masked_fill_(x[:, :4] < 0, 0),
    "abs_": lambda x: x[:, :4].abs_(),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_may_hide_a_rectifier_in_a_view_is_refused(name: str) -> None:
    with pytest.raises(RuleError, match=r"has no meaning at (work in place|assignment)"):
        signals(dropping(HIDDEN[name]), "deconvnet")
    assert signals(dropping(HIDDEN[name]), "gradient").any()


def test_gradient_is_autograd() -> None:
    """Law 2, behind an instance norm that is rectified in place."""
    model = net(PAIRS["instance norm"][0])
    x = randn(3, 12, 12, dtype=torch.float64)
    leaf = x[None].clone().requires_grad_()
    response = model(leaf)[0, 1].flatten()
    position = int(response.argmax())
    (expected,) = torch.autograd.grad(response[position], leaf)
    unit = Unit("b", 1, at=(position // 8, position % 8))
    signal = project(model, x, unit, rule="gradient")
    torch.testing.assert_close(signal, expected, rtol=1e-12, atol=1e-12)
    assert same_bits(signal, project(model, x, Unit("b", 1), rule="gradient"))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("work", "name"),
    [
        (lambda x: torch.cat([y.relu_() for y in x.chunk(2, 1)], 1), "'relu_'"),
        (lambda x: torch.cat([F.relu(y, inplace=True) for y in x.split(4, 1)], 1), "'relu'"),
        (lambda x: torch.stack([y.mul_(2) for y in x.unbind(0)]), "'mul_'"),
        (lambda x: torch.cat([y[:, :1].relu_() for y in x.split(4, 1)] * 4, 1), "'relu_'"),
        (lambda x: (x.split(4, 1), x.relu_())[0][0].repeat(1, 2, 1, 1), "'repeat'"),
    ],
)
def test_work_in_place_on_one_of_several_views_is_an_error_of_one_line(
    work: Function, name: str, rule: str
) -> None:
    """Which autograd refuses, in training too."""
    with pytest.raises(ModelError, match=r"works in place on an output of .* clone\(\)") as error:
        signals(work, rule)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


class Normalizes(nn.Module):
    """Normalizes its images itself, where they lie or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3)
        self.b = nn.Conv2d(6, 4, 3)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        x = x.sub_(0.5).mul_(2) if self.in_place else (x - 0.5) * 2
        y: Tensor = self.b(self.a(x).relu()).mean(dim=(2, 3))
        return y


IMAGES = [randn(3, 20, 20, seed=i).sigmoid() for i in range(6)]


def exemplars(model: nn.Module, images: Images) -> Tensor:
    result = scan(model, images, "b", k=2)
    return project_exemplars(model, images, result["b"]).patches


def explained(model: nn.Module, images: Images) -> Tensor:
    result = scan(model, images, "b", k=2)
    return torch.stack([own.signals for own in explain(model, images, result, 1).layers])


METHODS: dict[str, Callable[[nn.Module, Images], Tensor]] = {
    "project": lambda model, images: project(model, images[0], Unit("b", 1)),
    "project_exemplars": exemplars,
    "explain": explained,
    "sweep": lambda m, images: sweep(m, images[0], "b", Translate, [0, 2]).distances["b"],
    "equivariance": lambda m, x: torch.tensor(equivariance(m, x[0], "b", Translate(1))["b"]),
    "occlude": lambda m, x: occlude(m, x[0], Unit("b", 1), window=4, stride=4).scores["b:1"],
    "ablate": lambda model, images: ablate(model, images, "a").ablated,
    "responses": lambda model, images: torch.as_tensor(responses(model, images, "b")["b"]),
    "attribute": lambda m, x: attribute(m, x[0], 1, method="integrated_gradients", steps=4),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_model_may_work_in_place_on_its_images(name: str) -> None:
    """Which are then given to it again."""
    own, expected = (
        METHODS[name](integers(Normalizes(in_place)).double(), open_images(IMAGES))
        for in_place in (True, False)
    )
    assert own.any() or name == "equivariance"
    assert same_bits(own, expected)
