"""The shares of units in the responses of units behind them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from laws import generator, randn, untouched
from matplotlib.text import Text
from torch import Tensor, nn

from featviz import (
    Images,
    LayerError,
    Links,
    Scan,
    Unit,
    UnitError,
    UsageError,
    figures,
    links,
    open_images,
    project_exemplars,
    scan,
)
from featviz.models import load_model
from featviz.records.likeness import Likeness


def images_of(n: int = 6, side: int = 16) -> Images:
    return open_images(torch.rand((n, 3, side, side), generator=generator()))


class Branching(nn.Module):
    """Two convolutions that are summed and one beside them, pooled; then one of all of them."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, bias=bias)
        self.left = nn.Conv2d(4, 4, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(4)
        self.right = nn.Conv2d(4, 5, 1, bias=bias)
        self.last = nn.Conv2d(9, 6, 3, bias=bias)
        self.head = nn.Linear(6, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        summed = F.relu_(self.norm(self.left(x)) + x)
        joined = torch.cat([summed, self.right(x).relu()], dim=1)
        x = F.relu(self.last(F.max_pool2d(joined, 2)))
        result: Tensor = self.head(x.mean(dim=(2, 3)))
        return result


def branching(bias: bool = False) -> Branching:
    model = Branching(bias).double().eval()
    for i, parameter in enumerate(model.parameters()):
        parameter.data = randn(*parameter.shape, seed=i, dtype=torch.float64)
    model.norm.weight.data.abs_()
    model.norm.running_var.fill_(2)
    if not bias:
        model.norm.bias.data.zero_()
    return model


LAYERS = ["first", "left", "right", "last", "head"]


def test_shares_add_up_to_the_response() -> None:
    """Through batch norm, a residual sum, a concatenation, pooling and a mean."""
    model, images = branching(), images_of()
    result = scan(model, images, LAYERS, k=3)
    with untouched(model):
        own = links(model, images, result)
    before = {name: set(tables) for name, tables in own.shares.items()}
    assert before == {
        "first": set(),
        "left": {"first"},
        "right": {"first"},
        "last": {"first", "left", "right"},
        "head": {"last"},
    }
    for name in LAYERS[1:]:
        total = sum(table.sum(dim=1) for table in own.shares[name].values())
        torch.testing.assert_close(total, own.responses[name], rtol=1e-12, atol=1e-12)
        assert float(own.rests[name].abs().max()) < 1e-9


def test_responses_are_those_of_the_scan() -> None:
    model, images = branching(), images_of()
    result = scan(model, images, "last", k=3)
    own = links(model, images, result)
    living = ~result["last"].statistics.dead
    expected = result["last"].top.scores.double().mean(dim=1)[living]
    torch.testing.assert_close(own.responses["last"][living], expected, rtol=1e-6, atol=1e-6)


def share_by_hand(model: Branching, image: Tensor, channel: int, y: int, x: int) -> Tensor:
    """Of the five units of ``right`` in a response of ``last``, window by window."""
    with torch.no_grad():
        first = F.relu(model.first(image[None].double()))
        right = F.max_pool2d(model.right(first).relu(), 2)[0, :, y : y + 3, x : x + 3]
        return (model.last.weight[channel, 4:] * right).sum(dim=(1, 2))


def test_a_share_is_what_the_window_of_a_unit_adds() -> None:
    model, images = branching(bias=True), images_of()
    result = scan(model, images, "last", k=2)
    unit = result["last"].strongest()[0]
    own = links(model, images, result, {"last": [unit]})
    top = result["last"].top
    expected = torch.zeros(5, dtype=torch.float64)
    for image, (y, x) in zip(top.images[unit].tolist(), top.positions[unit].tolist(), strict=True):
        expected += share_by_hand(model, images[image], unit, y, x) / 2
    table = own.shares["last"]["right"][unit]
    assert table.any()
    torch.testing.assert_close(table, expected, rtol=1e-9, atol=1e-9)


def test_what_biases_add_is_the_rest() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)).double().eval()
    images = images_of()
    bias = model[1].bias.detach().fill_(9)  # high enough that both units live
    result = scan(model, images, "1", k=2)
    own = links(model, images, result)
    assert not result["1"].statistics.dead.any()
    torch.testing.assert_close(own.rests["1"], bias)


def test_a_planted_network_is_read_back() -> None:
    """A unit that is made of two others, of which one takes from it."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model[0].weight.copy_(torch.rand(model[0].weight.shape, generator=generator()))
        model[2].weight[1, 3] = 2.0
        model[2].weight[1, 5] = -0.5
        model[2].weight[2, 5] = 1.0
    images = images_of()
    own = links(model, images, scan(model, images, "0, 2", k=3))
    assert [link.unit for link in own.exciting(Unit("2", 1))] == [Unit("0", 3)]
    assert [link.unit for link in own.inhibiting(Unit("2", 1))] == [Unit("0", 5)]
    assert [link.unit for link in own.feeding(Unit("0", 5))] == [Unit("2", 2)]
    assert own.feeding(Unit("0", 5))[0].share == pytest.approx(1)
    assert not own.feeding(Unit("0", 0))
    assert not own.exciting(Unit("2", 0)), "it is dead"
    rows = own.rows()
    assert {key: rows[0][key] for key in ("layer", "unit", "before", "unit before")} == {
        "layer": "2",
        "unit": 1,
        "before": "0",
        "unit before": 3,
    }


def test_layers_without_links_are_named() -> None:
    model, images = branching(), images_of()
    result = scan(model, images, "last, norm", k=2)
    own = links(model, images, result)
    assert set(own.shares) == {"last"}
    with pytest.raises(LayerError, match="'norm' has no links"):
        links(model, images, result, {"norm": [0]})
    with pytest.raises(UnitError, match="channel 6"):
        links(model, images, result, {"last": [6]})
    with pytest.raises(LayerError, match="no links of layer 'head'"):
        own.exciting(Unit("head", 0))


def test_the_bundled_network() -> None:
    from featviz.data import SyntheticImages
    from featviz.models import MINI_PREPROCESS

    model = load_model("zfmini")
    images = open_images(SyntheticImages(12), MINI_PREPROCESS)
    result: Scan = scan(model, images, "conv", k=3)
    own = links(model, images, result, {"conv3": [0, 5], "conv5": [2]})
    for name, channels in {"conv3": [0, 5], "conv5": [2]}.items():
        for channel in channels:
            total = sum(float(table[channel].sum()) for table in own.shares[name].values())
            response = float(own.responses[name][channel])
            assert total + float(own.rests[name][channel]) == pytest.approx(response, rel=1e-5)


def test_a_figure_of_a_unit_and_its_links() -> None:
    model, images = branching(), images_of()
    result = scan(model, images, "first, left, right, last", k=2)
    own = links(model, images, result)
    unit = Unit("last", result["last"].strongest()[0])
    shown = [
        project_exemplars(model, images, result[name], channels, rule="gradient")
        for name, channels in own.linked(unit, 3).items()
    ]
    figure = figures.links(own, unit, shown, n=3, heading="tiny")
    texts = [text.get_text() for text in figure.findobj(Text)]
    link = own.exciting(unit)[0]
    assert any(f"{100 * link.share:+.0f}% {link.unit.layer}:" in text for text in texts)
    assert any("units that inhibit it" in text for text in texts) == bool(own.inhibiting(unit, 3))
    with pytest.raises(UsageError, match="no exemplars of unit"):
        figures.links(own, unit, shown[:1], n=3)
    alike = [replace(e, likeness={"gradient": Likeness(0.97, 0.1, 4, 4)}) for e in shown]
    figure = figures.links(own, unit, alike, n=3)
    remark = f"{shown[0].layer.name}: These gradient pictures hardly tell one unit from another"
    assert any(text.get_text().startswith(remark) for text in figure.findobj(Text))


# --- both ways


class Gated(nn.Module):
    """Grouped and strided convolutions, a shuffle of channels, squeeze and excitation, mean pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=2)
        self.grouped = nn.Conv2d(6, 8, 3, stride=2, groups=2, padding=1)
        self.squeeze = nn.Conv2d(8, 2, 1)
        self.excite = nn.Conv2d(2, 8, 1)
        self.dilated = nn.Conv2d(8, 4, (3, 2), dilation=2, padding=(2, 0))
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = x.unflatten(1, (3, 2)).transpose(1, 2).flatten(1, 2)
        x = F.hardswish(self.grouped(x))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))
        x = F.avg_pool2d(F.relu6(self.dilated(x)), 3)
        result: Tensor = self.head(x.flatten(1))
        return result


class Normed(nn.Module):
    """A norm over channels, so that each channel is made of all units."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.norm = nn.GroupNorm(1, 6)
        self.last = nn.Conv2d(6, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.norm(self.first(x)))
        return result


def backward_links(model: nn.Module, images: Images, result: Scan) -> Links:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featviz.methods.links.shares_at_once", lambda *_: None)
        return links(model, images, result)


@pytest.mark.parametrize("make", [lambda: branching(bias=True), Gated])
def test_shares_at_once_are_those_of_backward_passes(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model, images = make().double().eval(), images_of(5)
    result = scan(
        model, images, [name for name, _ in model.named_children() if name != "norm"], k=4
    )
    own, expected = links(model, images, result), backward_links(model, images, result)
    assert set(own.backward_passes.values()) == {0}
    for name in result:
        assert expected.backward_passes[name] == int(own.exemplars[name].sum())
        assert own.shares[name].keys() == expected.shares[name].keys()
        for before, table in own.shares[name].items():
            torch.testing.assert_close(table, expected.shares[name][before], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(own.rests[name], expected.rests[name], rtol=1e-9, atol=1e-9)


def test_channels_of_several_units_take_backward_passes() -> None:
    torch.manual_seed(0)
    model, images = Normed().double().eval(), images_of(5)
    own = links(model, images, scan(model, images, "first, last", k=4))
    assert own.backward_passes == {"first": 0, "last": int(own.exemplars["last"].sum())}
    total = own.shares["last"]["first"].sum(dim=1) + own.rests["last"]
    torch.testing.assert_close(total, own.responses["last"])


class Hidden(torch.autograd.Function):
    """Twice its input, with a gradient that does not say that it comes from the signal."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> Tensor:
        return 2 * signal.detach()


class Hiding(nn.Module):
    """Two ways from one convolution to the next, of which one is hidden, or both."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.last = nn.Conv2d(6, 4, 3)
        self.both = both

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        hidden = Hidden.apply(x)
        result: Tensor = self.last(hidden if self.both else x + hidden)
        return result


@pytest.mark.parametrize("both", [False, True])
def test_a_gradient_that_hides_where_it_comes_from_takes_backward_passes(both: bool) -> None:
    torch.manual_seed(0)
    model, images = Hiding(both).double().eval(), images_of(5)
    result = scan(model, images, "last", k=4)
    own = links(model, images, result)
    assert own.backward_passes == {"last": int(own.exemplars["last"].sum())}
    total = own.shares["last"]["first"].sum(dim=1) + own.rests["last"]
    torch.testing.assert_close(total, own.responses["last"])
    living = own.exemplars["last"] > 0
    bias = model.last.bias.detach()[living]
    torch.testing.assert_close(own.rests["last"][living], bias)


def test_images_of_several_batches_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = branching(), images_of(7)
    result = scan(model, images, LAYERS, k=4)
    expected = links(model, images, result)
    monkeypatch.setattr("featviz.methods.links._MOST", 2)
    own = links(model, images, result)
    for name in LAYERS[1:]:
        for before, table in own.shares[name].items():
            torch.testing.assert_close(table, expected.shares[name][before])
