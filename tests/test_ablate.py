"""Ablation: the scores of a network without each unit, as forward passes give them."""

from __future__ import annotations

from collections.abc import Callable
from math import isnan
from typing import Any

import oracles
import pytest
import torch
import torchvision
from laws import randint, randn, same_bits, untouched
from nets import Branches, Reused, SqueezeExcite, integers, plain
from torch import Tensor, nn

from featviz import Images, Preprocess, ablate, anatomy, directions, edit, edits, open_images
from featviz.errors import (
    FeatvizError,
    LayerError,
    ModelError,
    NumberError,
    UnitError,
    UsageError,
)

IDENTITY = Preprocess(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class Headed(nn.Module):
    """A network with four classes."""

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.body(x).sum((2, 3)))
        return output


class Deciding(nn.Module):
    """Where its layer has more than so much, it does something else."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.layer = nn.Conv2d(3, 5, 3)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        values = torch.relu(self.layer(x)).sum((2, 3))
        if bool(values.sum() > self.limit):
            values = values + 1
        output: Tensor = self.head(values)
        return output


def exact(model: nn.Module) -> nn.Module:
    """In whole numbers of double precision, which are not rounded."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0  # its statistics are 0 and 1
    return integers(model).double()


def pixels(n: int = 5) -> Tensor:
    """Images (n, 3, h, w) in [0, 1] whose multiples by whole numbers are not rounded."""
    return randint(0, 5, n, 3, 12, 12) / 4


def pictures(n: int = 5) -> Images:
    return open_images(pixels(n), IDENTITY)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "sequence": (lambda: Headed(plain(), 8), "body.0"),
    "rectified": (lambda: Headed(plain(), 8), "body.1"),
    "residual, before the branch": (lambda: Headed(Reused(), 5), "body.bn1"),
    "residual, in the branch": (lambda: Headed(Reused(), 5), "body.conv2"),
    "parallel, the left": (lambda: Headed(Branches(), 4), "body.left"),
    "parallel, the right": (lambda: Headed(Branches(), 4), "body.right"),
    "decides": (lambda: Deciding(30.0), "layer"),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("value", [0, 2])
def test_scores_are_those_of_a_forward_pass_for_each(name: str, value: int) -> None:
    """Difference 0, in three batches of which the last is smaller."""
    build, layer = NETWORKS[name]
    model = exact(build())
    c = anatomy(model, (3, 12, 12))[layer].channels
    by: Any = torch.full((c,), float(value)) if value else "zero"
    size = 1 if name == "decides" else 2
    with untouched(model):
        result = ablate(model, pictures(), layer, by=by, batch_size=size)
    for channel in range(c):
        rows = oracles.ablated(model, layer, pixels().double(), channel, value)
        expected = torch.tensor(rows, dtype=torch.float64).sum(dim=0) / 5
        assert same_bits(result.ablated[channel], expected)
    with torch.no_grad():
        assert same_bits(result.baseline, model(pixels().double()).sum(dim=0) / 5)
    assert same_bits(result.effects, result.ablated - result.baseline)
    if name == "decides":
        assert (result.replays, result.fallbacks) == (0, 25)
    else:
        assert result.fallbacks == 0
        assert result.replays <= 5 * c


class ByImage(nn.Module):
    """Chooses its classifier by the image's mean, in a way that no operation of torch shows."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.dark, self.bright = nn.Linear(4, 3), nn.Linear(4, 3)
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x).relu().mean((2, 3))
        head = self.bright if float(x.numpy().mean()) > self.threshold else self.dark
        logits: Tensor = head(maps)
        return logits


def test_a_decision_that_cannot_be_seen_is_noticed_by_the_scores() -> None:
    torch.manual_seed(0)
    means = pixels().double().mean((1, 2, 3)).sort().values
    model = ByImage(float(means[2:4].mean())).double().eval()
    result = ablate(model, pictures(), "conv", batch_size=1)
    for channel in range(4):
        rows = oracles.ablated(model, "conv", pixels().double(), channel, 0)
        expected = torch.tensor(rows, dtype=torch.float64).mean(dim=0)
        assert torch.allclose(result.ablated[channel], expected, atol=1e-12)
    assert result.replays
    assert result.fallbacks


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", ["layer3.0.downsample.0", "layer3.0.conv1", "layer3.0.relu@1", "layer4"]),
        ("squeezenet1_1", ["features.6.squeeze"]),
        ("mobilenet_v3_small", ["features.4.block.2"]),
    ],
)
def test_networks_give_the_bits_of_forward_passes(name: str, layers: list[str]) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name).eval()
    images = open_images(torch.rand(2, 3, 48, 48), IDENTITY)
    x = torch.stack([images[0], images[1]])
    net = anatomy(model, (3, 48, 48), only=[])
    for layer in layers:
        result = ablate(model, images, net[layer], [0, 3])
        for i, channel in enumerate([0, 3]):
            with torch.no_grad(), edit(model, {net[layer]: edits.zero(channel)}):
                expected = model(x).double().sum(dim=0) / 2
            assert same_bits(result.ablated[i], expected)
        assert result.fallbacks == 0


def test_gates_and_calls_are_ablated() -> None:
    model = Headed(SqueezeExcite(), 4).double()
    images = pictures(2)
    for layer in ("body.gate", "body.conv"):
        result = ablate(model, images, layer, [1])
        with torch.no_grad(), edit(model, {layer: edits.zero(1)}):
            assert same_bits(result.ablated[0], model(pixels(2).double()).sum(dim=0) / 2)
    reused = exact(Headed(Reused(), 5))
    result = ablate(reused, images, "body.relu@1", [1])
    with torch.no_grad(), edit(reused, {"body.relu@1": edits.zero(1)}):
        assert same_bits(result.ablated[0], reused(pixels(2).double()).sum(dim=0) / 2)


def test_the_mean_is_that_of_all_images_and_positions() -> None:
    model = exact(Headed(plain(), 8))
    with torch.no_grad():
        maps = model.body[0](pixels().double())  # type: ignore[index,operator,union-attr]
    means = maps.mean((2, 3)).sum(0) / 5
    result = ablate(model, pictures(), "body.0", by="mean", batch_size=2)
    expected = ablate(model, pictures(), "body.0", by=means)
    assert (result.by, expected.by) == ("mean", "values")
    assert torch.allclose(result.ablated, expected.ablated, rtol=1e-12)


def test_accuracy_is_counted_by_class() -> None:
    model = exact(Headed(plain(), 8))
    labels = [0, 1, 1, 3, 0]
    result = ablate(model, pictures(), "body.0", [1, 5], labels=labels, batch_size=2)
    with torch.no_grad():
        right = model(pixels().double()).argmax(1) == torch.tensor(labels)
    assert result.accuracy == float(right.float().mean())
    for i, channel in enumerate([1, 5]):
        rows = torch.tensor(oracles.ablated(model, "body.0", pixels().double(), channel, 0))
        still = rows.argmax(1) == torch.tensor(labels)
        drops = result.class_drops[i].tolist()
        for label in (0, 1, 3):
            own = torch.tensor(labels) == label
            lost = right[own].double().mean() - still[own].double().mean()
            assert drops[label] == pytest.approx(float(lost))
        assert isnan(drops[2])
        assert float(result.drops[i]) == pytest.approx(float(right.sum() - still.sum()) / 5)


def test_a_score_is_a_function_of_the_output() -> None:
    model = exact(Headed(plain(), 8))
    classes = ablate(model, pictures(), "body.0", [2])
    margin = ablate(
        model, pictures(), "body.0", [2], score=lambda output: output[:, 3] - output[:, 1]
    )
    assert margin.effects.shape == (1, 1)
    expected = float(classes.effects[0, 3] - classes.effects[0, 1])
    assert float(margin.effects) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(UsageError, match="give labels"):
        margin.drops  # noqa: B018


def test_any_output_is_scored() -> None:
    class Named(Headed):
        def forward(self, x: Tensor) -> Any:
            return {"name": "logits", "logits": (super().forward(x), None)}

    model = exact(Named(plain(), 8))
    result = ablate(model, pictures(), "body.0", [2], score=lambda output: output["logits"][0])
    own = Headed(plain(), 8)
    own.load_state_dict(model.state_dict())
    assert same_bits(result.ablated, ablate(own.double(), pictures(), "body.0", [2]).ablated)
    assert result.fallbacks == 0
    with pytest.raises(UsageError, match=r"a dict, is no .* give a function as score"):
        ablate(model, pictures(), "body.0", [2])


def test_units_that_change_nothing_are_not_run() -> None:
    model = exact(Headed(plain(), 8))
    with torch.no_grad():
        model.body[0].weight[3] = 0  # type: ignore[index,union-attr,operator]
        model.body[0].bias[3] = -1  # type: ignore[index,union-attr,operator]
    result = ablate(model, pictures(), "body.1", [2, 3])
    assert result.replays == 5
    assert not result.effects[1].any()


def test_the_edited_network_is_ablated() -> None:
    model = exact(Headed(plain(), 8))
    with edit(model, {"body.0": edits.zero(0)}):
        result = ablate(model, pictures(), "body.0", [2])
    with torch.no_grad(), edit(model, {"body.0": edits.zero([0, 2])}):
        assert same_bits(result.ablated[0], model(pixels().double()).sum(dim=0) / 5)


def test_a_forward_calls_the_model() -> None:
    model = exact(Headed(plain(), 8))
    result = ablate(model, pictures(), "body.0", [2], forward=lambda net, x: net(x + 1))
    rows = torch.tensor(oracles.ablated(model, "body.0", pixels().double() + 1, 2, 0)).double()
    assert same_bits(result.ablated[0], rows.sum(dim=0) / 5)


def test_rows_are_a_table() -> None:
    model = exact(Headed(plain(), 8))
    result = ablate(model, pictures(), "body.0", [4, 1], labels=[0, 1, 1, 3, 0])
    first, second = result.rows()
    assert list(first) == ["layer", "unit", "score", "effect", "mean effect", "drop", "class",
                           "class drop"]  # fmt: skip
    assert (first["unit"], second["unit"]) == (4, 1)
    assert first["effect"] == float(result.effects[0, first["score"]])
    assert first["class drop"] == float(result.class_drops[0].nan_to_num(-1).max())
    assert repr(result) == "<Ablation of 2 units of body.0 by zero, 5 images>"
    assert ablate(model, pictures(), "body.0", []).rows() == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layer": "nothing"}, LayerError, "nothing"),
        ({"layer": "body.*"}, LayerError, "means 5 layers"),
        ({"units": [6]}, UnitError, "channels 0 to 5"),
        ({"units": [-1]}, UnitError, "counted from 0"),
        ({"by": "half"}, UsageError, "by='half'"),
        ({"by": torch.zeros(5)}, UsageError, r"takes \(6,\)"),
        ({"batch_size": 0}, UsageError, "batch_size=0"),
        ({"labels": [0]}, UsageError, "1 labels for 5 images"),
        ({"labels": [0, 1, 2, 3, 4]}, UsageError, "labels from 0 to 4 for 4 scores"),
        ({"score": lambda output: output.sum()}, UsageError, "for 5 images: give"),
        ({"forward": 3}, UsageError, "cannot be called"),
    ],
)
def test_arguments_are_checked(
    arguments: dict[str, Any], error: type[FeatvizError], message: str
) -> None:
    model = exact(Headed(plain(), 8))
    with untouched(model), pytest.raises(error, match=message):
        ablate(model, pictures(), **({"layer": "body.0"} | arguments))


def test_an_image_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ModelError, match="does not take"):
        ablate(
            exact(Headed(plain(), 8)), open_images(randn(1, 1, 8, 8).abs().clamp(0, 1)), "body.0"
        )


def test_directions_are_refused() -> None:
    """The network does not use them: without any of them it is the same."""
    model = plain()
    with (
        directions(model, "3", torch.eye(8)) as layer,
        pytest.raises(LayerError, match="which the network itself does not use"),
    ):
        ablate(model, torch.rand(2, 3, 10, 10), layer)


def test_scores_that_are_no_numbers_are_an_error() -> None:
    model = integers(Branches())
    for parameter in model.parameters():
        parameter.data.fill_(torch.nan)
    with pytest.raises(NumberError, match="scores are NaN: check weights"):
        ablate(model, randn(4, 3, 12, 12).sigmoid(), "left", [0], score=lambda y: y.mean((2, 3)))
