"""Attribution: equal to captum where captum is right, to a plain loop everywhere, and refused in words
where a method has no meaning."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import captum.attr
import oracles
import pytest
import torch
from laws import randn, same_bits, untouched
from nets import Branches, Raises, Reused, Spelled, SqueezeExcite
from torch import Tensor, nn

from featviz import LayerError, ModelError, NumberError, Unit, UnitError, UsageError, attribute
from featviz.methods.attribute import METHODS


def network() -> nn.Module:
    """Modules, each used once, not in place."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ELU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(5 * 16, 4),
    )
    return model.eval().double()


def image(n: int = 1, side: int = 16, seed: int = 3) -> Tensor:
    return randn(n, 3, side, side, seed=seed, dtype=torch.float64)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-6) -> None:
    assert a.shape == b.shape
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance * float(b.abs().max()))


def by_captum(name: str, model: nn.Module, x: Tensor, target: int, **options: Any) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it sets hooks
        method = getattr(captum.attr, name)(model)
        result: Tensor = method.attribute(x.clone().requires_grad_(), target=target, **options)
    return result.detach()


# --- equal to captum


def test_input_x_gradient_equals_captum() -> None:
    model, x = network(), image()
    expected = by_captum("InputXGradient", model, x, 2)
    close(attribute(model, x, 2, method="input_x_gradient"), expected)
    close(attribute(model, x, Unit("8", 2), method="input_x_gradient"), expected)


def test_integrated_gradients_equal_captum() -> None:
    model, x = network(), image()
    expected = by_captum("IntegratedGradients", model, x, 2, n_steps=20)
    close(attribute(model, x, 2, steps=20), expected)
    close(attribute(model, x, 2, steps=20, batch_size=3), expected)


@pytest.mark.parametrize("fill", ["gray", "mean", 0.3])
def test_deep_lift_equals_captum(fill: str | float) -> None:
    model, x = network(), image()
    baseline = torch.zeros_like(x)
    if fill == "mean":
        baseline = x.mean(dim=(2, 3), keepdim=True).expand_as(x)
    elif fill != "gray":
        baseline = torch.full_like(x, float(fill))
    expected = by_captum("DeepLift", model, x, 1, baselines=baseline)
    close(attribute(model, x, 1, method="deep_lift", fill=fill), expected)


def pooled(*behind: nn.Module) -> nn.Module:
    """Max-pooling somewhere behind the first convolution."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        *behind,
        nn.Conv2d(6, 5, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 64, 4),
    )
    return model.eval().double()


def test_deep_lift_equals_captum_at_max_pooling() -> None:
    x, baseline = image(2)[:, None]
    model = pooled(nn.ReLU(), nn.Conv2d(6, 6, 1), nn.MaxPool2d(2))
    expected = by_captum("DeepLift", model, x, 1, baselines=baseline)
    close(attribute(model, x, 1, method="deep_lift", fill=baseline[0]), expected)


@pytest.mark.parametrize(
    "behind", [(nn.ReLU(), nn.MaxPool2d(2)), (nn.MaxPool2d(2), nn.ReLU())], ids=["before", "after"]
)
def test_deep_lift_adds_up_where_captum_does_not(behind: tuple[nn.Module, ...]) -> None:
    """captum's hooks of two modules that follow each other are on one tensor, and the one that was
    set first reads the signal before the other has changed it."""
    x, baseline = image(2)[:, None]
    model = pooled(*behind)
    change = float((model(x) - model(baseline)).detach()[0, 1])
    theirs = by_captum("DeepLift", model, x, 1, baselines=baseline)
    assert abs(float(theirs.sum()) - change) > 1e-3
    ours = attribute(model, x, 1, method="deep_lift", fill=baseline[0])
    assert float(ours.sum()) == pytest.approx(change, rel=1e-9)


def test_feature_ablation_equals_captum() -> None:
    model, x = network(), image()
    rows = torch.arange(16) // 5
    squares = (rows[:, None] * 4 + rows)[None, None]
    expected = by_captum("FeatureAblation", model, x, 0, feature_mask=squares)
    for batch_size in (1, 7, 64):
        given = attribute(model, x, 0, method="feature_ablation", window=5, batch_size=batch_size)
        close(given, expected[:, :1])


def test_grad_cam_equals_captum() -> None:
    model, x = network(), image()
    method = captum.attr.LayerGradCam(model, model[3])  # type: ignore[index]
    cam = method.attribute(x, 2, relu_attributions=True)
    expected = captum.attr.LayerAttribution.interpolate(cam, (16, 16), "bilinear")
    close(attribute(model, x, 2, method="grad_cam"), expected.detach())
    close(attribute(model, x, 2, method="grad_cam", layer="3"), expected.detach())


# --- equal to plain loops


def score_of(layer: int, channel: int, y: int, x: int) -> Callable[[nn.Module, Tensor], Tensor]:
    """One position of a layer of a Sequential, as a function of one image (c, h, w)."""

    def score(model: nn.Module, image: Tensor) -> Tensor:
        value: Tensor = model[: layer + 1](image[None])[0, channel, y, x]  # type: ignore[index]
        return value

    return score


@pytest.mark.parametrize("method", ["input_x_gradient", "integrated_gradients", "feature_ablation"])
def test_equals_the_plain_loop(method: str) -> None:
    model, x = network(), image()
    score = score_of(5, 3, 2, 6)
    unit = Unit("5", 3, at=(2, 6))
    given = attribute(model, x, unit, method=method, steps=400, window=6)
    own = lambda pixels: score(model, pixels)  # noqa: E731
    if method == "integrated_gradients":
        # a Riemann sum crosses the kinks of rectifiers elsewhere than a quadrature does
        expected = oracles.integrated_gradients(own, x[0], torch.zeros_like(x[0]), 4000)
        close(given[0], expected, 5e-3)
    elif method == "input_x_gradient":
        close(given[0], oracles.input_x_gradient(own, x[0]))
    else:
        close(given[0], oracles.feature_ablation(own, x[0], torch.zeros_like(x[0]), 6))


def test_grad_cam_equals_the_formula() -> None:
    model, x = network(), image()
    above = lambda maps: model[4:](maps[None])[0, 1]  # type: ignore[index]  # noqa: E731
    maps = model[:4](x)[0].detach()  # type: ignore[index]
    expected = oracles.grad_cam(above, maps, (16, 16))
    close(attribute(model, x, Unit("8", 1), method="grad_cam")[0], expected)


def test_units_of_a_convolution_are_explained_by_the_convolution_before() -> None:
    model, x = network(), image()
    unit = Unit("3", 2, at=(1, 5))
    expected = attribute(model, x, unit, method="grad_cam", layer="0")
    assert same_bits(attribute(model, x, unit, method="grad_cam"), expected)
    with pytest.raises(LayerError, match="no convolution before it"):
        attribute(model, x, Unit("0", 2), method="grad_cam")


class Fire(nn.Module):
    """Two convolutions beside each other, below them one."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(3, 4, 1)
        self.a = nn.Conv2d(4, 5, 1)
        self.b = nn.Conv2d(4, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.a(x), self.b(x)], dim=1)


def test_grad_cam_reads_the_last_convolution_on_the_way() -> None:
    torch.manual_seed(0)
    model, x = Fire().eval(), randn(3, 8, 8)
    unit = Unit("b", 2, at=(3, 3))
    with untouched(model):
        result = attribute(model, x, unit, method="grad_cam")
    assert same_bits(result, attribute(model, x, unit, method="grad_cam", layer="squeeze"))
    with pytest.raises(LayerError, match="does not depend on layer 'a'"):
        attribute(model, x, unit, method="grad_cam", layer="a")


# --- rectifiers that captum's DeepLIFT misses


def lifted(model: nn.Module, x: Tensor, unit: Unit) -> tuple[float, float]:
    """What attributions add up to, and the change of the response from a black image."""
    values = []
    for pixels in (x, torch.zeros_like(x)):
        assert isinstance(unit.at, tuple)
        values.append(model(pixels).detach()[0, unit.channel, unit.at[0], unit.at[1]])
    attributions = attribute(model, x, unit, method="deep_lift")
    return float(attributions.sum()), float(values[0] - values[1])


@pytest.mark.parametrize(
    "rectifier",
    [torch.relu, nn.functional.relu, torch.relu_, nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU(),
     lambda x: x.clamp(min=0), nn.GELU(), nn.LeakyReLU(0.1), nn.PReLU(), nn.Sigmoid()],
)  # fmt: skip
def test_deep_lift_adds_up_for_every_spelling(rectifier: Any) -> None:
    """Two calls of one rectifier, a function or a module."""
    torch.manual_seed(1)
    model = Spelled(rectifier).eval().double()
    total, change = lifted(model, image(), Unit("c", 1, at=(3, 4)))
    assert total == pytest.approx(change, rel=1e-9)


@pytest.mark.parametrize("make", [Branches, Reused])
def test_deep_lift_adds_up_for_branches_and_residual_sums(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(1)
    model = make().eval().double()
    name = "head" if make is Branches else "relu@2"
    shape = model(image()).shape
    channel, y, x = divmod(int(model(image()).argmax()), shape[2] * shape[3])[0], 0, 0
    y, x = divmod(int(model(image())[0, channel].argmax()), shape[3])
    total, change = lifted(model, image(), Unit(name, channel, at=(y, x)))
    assert total == pytest.approx(change, rel=1e-9)
    assert change != 0


def test_deep_lift_adds_up_where_windows_of_pooling_overlap() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2), nn.Conv2d(4, 2, 3)).double()
    total, change = lifted(model, image(), Unit("2", 1, at=(2, 2)))
    assert total == pytest.approx(change, rel=1e-9)


class Head(nn.Module):
    """A network of `nets.Spelled`, and the mean of each of its maps as classes."""

    def __init__(self, rectifier: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body = Spelled(rectifier)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.body(x)
        return maps.mean(dim=(2, 3))


def test_captums_deep_lift_misses_functions_and_raises_at_a_module_used_twice() -> None:
    """Why deep_lift is featviz's own."""
    x = image()
    model = Head(torch.relu).eval().double()
    theirs = by_captum("DeepLift", model, x, 1)
    # rectifiers keep their gradient; the pool, a module, does not
    change = float((model(x) - model(torch.zeros_like(x))).detach()[0, 1])
    assert abs(float(theirs.sum()) - change) > 0.01 * abs(change)
    ours = attribute(model, x, 1, method="deep_lift")
    assert float(ours.sum()) == pytest.approx(change, rel=1e-9)
    with pytest.raises(Exception, match="more than once"):
        by_captum("DeepLift", Head(nn.ReLU()).eval().double(), x, 1)
    close(attribute(Head(nn.ReLU()).eval().double(), x, 1, method="deep_lift"), ours, 1e-12)


def test_deep_lift_is_refused_at_a_gate() -> None:
    torch.manual_seed(0)
    model = SqueezeExcite().eval().double()
    with pytest.raises(ModelError, match=r"add up to .*integrated_gradients"):
        attribute(model, image(), Unit("out", 1, at=(3, 3)), method="deep_lift")


def test_a_change_lost_in_the_rounding_of_the_response_is_no_error() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 2)).requires_grad_(False)
    model[1].weight.mul_(1e-9)
    model[1].bias.fill_(1e4)
    assert attribute(model, image().float(), 1, method="deep_lift").any()


# --- units


@pytest.mark.parametrize("method", METHODS)
def test_a_sum_is_the_sum(method: str) -> None:
    """Of methods that are linear in the response."""
    model, x = network(), image()
    a, b = Unit("8", 1), Unit("5", 3, at=(2, 6))
    options: dict[str, Any] = {"method": method}
    if method == "grad_cam":
        b = Unit("8", 2)  # its positive part is taken last
    both = attribute(model, x, a - 0.5 * b, **options)
    first, second = attribute(model, x, [a, b], **options)
    if method == "grad_cam":
        assert both.shape == (1, 1, 16, 16)
        return
    close(both[0], first - 0.5 * second)


@pytest.mark.parametrize("method", METHODS)
def test_a_unit_without_position_is_at_the_maximum_in_the_image(method: str) -> None:
    model, x = network(), image()
    plane = model[:6](x)[0, 3]  # type: ignore[index]
    at = divmod(int(plane.argmax()), plane.shape[1])
    given = attribute(model, x, Unit("5", 3), method=method)
    assert same_bits(given, attribute(model, x, Unit("5", 3, at=at), method=method))


def test_the_full_map_is_the_sum_of_its_positions() -> None:
    model, x = network(), image()
    total = attribute(model, x, Unit("5", 3, at="map"), method="deep_lift")
    units = [Unit("5", 3, at=(i // 8, i % 8)) for i in range(64)]
    close(total[0], attribute(model, x, units, method="deep_lift").sum(dim=0))


@pytest.mark.parametrize("method", METHODS)
def test_one_image_for_each_unit_and_one_unit_for_all(method: str) -> None:
    model, x = network(), image(2)
    channels = 1 if method in ("grad_cam", "feature_ablation") else 3
    pairs = attribute(model, x, [1, Unit("8", 2)], method=method)
    assert pairs.shape == (2, channels, 16, 16)
    assert same_bits(pairs[1:], attribute(model, x[1:], 2, method=method))
    one_unit = attribute(model, x, 1, method=method)
    assert same_bits(one_unit[0], pairs[0])
    assert same_bits(attribute(model, x[0], 1, method=method), pairs[:1])


def test_the_type_is_that_of_the_image() -> None:
    for method in METHODS:
        assert attribute(network(), image().float(), 1, method=method).dtype == torch.float32


# --- laws and errors


@pytest.mark.parametrize("method", METHODS)
def test_no_model_is_changed(method: str) -> None:
    model, x = network().train(), image()
    model[0].weight.requires_grad_(False)  # type: ignore[index]
    before = x.clone()
    with untouched(model), torch.inference_mode():
        first = attribute(model, x, 1, method=method)
        assert same_bits(first, attribute(model, x, 1, method=method))
    assert same_bits(x, before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("after", [0, 4])
def test_no_model_is_changed_by_a_forward_that_raises(method: str, after: int) -> None:
    model = Raises(after)
    units = [Unit("b", 1, at=(2, 2))] * 9
    with untouched(model), pytest.raises((RuntimeError, ModelError), match="in the middle"):
        attribute(model, randn(1, 3, 12, 12), units, method=method)


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.b = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.a(x).mean(dim=(2, 3)).detach())
        return y


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"feature_ablation"}))
def test_what_has_no_gradient_is_refused(method: str) -> None:
    model = Detached().eval().requires_grad_(False)
    with untouched(model), pytest.raises(LayerError, match="by way of a gradient"):
        attribute(model, randn(1, 3, 8, 8), 1, method=method)
    assert attribute(model, randn(1, 3, 8, 8), 1, method="feature_ablation").any()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "deeplift"}, UsageError, "did you mean 'deep_lift'"),
        ({"steps": 0}, UsageError, "steps=0: give 1 or more"),
        ({"batch_size": 0}, UsageError, "batch_size=0"),
        ({"window": 0}, UsageError, "window=0"),
        ({"layer": "3"}, UsageError, "only 'grad_cam' reads a layer"),
        ({"fill": "grey"}, UsageError, "did you mean 'gray'"),
        ({"units": 9}, UnitError, "classes 0 to 3"),
        ({"units": Unit("5", 9)}, UnitError, "channels 0 to 4"),
        ({"units": Unit("nine", 0)}, LayerError, "nine"),
        ({"units": []}, UsageError, "1 images for 0 units"),
        ({"units": "3"}, UsageError, "'3' among the units"),
        ({"x": image(3), "units": [1, 2]}, UsageError, "3 images for 2 units"),
        ({"x": image() * float("nan")}, NumberError, "NaN"),
        ({"method": "grad_cam", "layer": "8"}, LayerError, "give one layer that has maps"),
        ({"method": "grad_cam", "layer": "5", "units": Unit("3", 1)}, LayerError, "a layer before"),
    ],
)
def test_errors(options: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"x": image(), "units": 1} | options
    with pytest.raises(error, match=message):
        attribute(network(), **arguments)


def test_a_class_needs_a_model_with_classes() -> None:
    with pytest.raises(UsageError, match="no \\(n, classes\\): give a Unit"):
        attribute(Branches().eval(), randn(1, 3, 8, 8), 0)
