"""Tiles cut to the effective field of a layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from laws import generator, randn, same_bits
from nets import integers, plain
from torch import Tensor, nn

from featviz import Exemplars, Images, figures, gallery, open_images, project_exemplars, scan
from featviz.records._focus import ENERGY, effective_size, window

SIDE = 31


def rand(*shape: int) -> Tensor:
    return torch.rand(shape, generator=generator())


def energies_in(signal: Tensor, top: int, left: int, height: int, width: int) -> float:
    """The share of the energy of a signal (c, h, w) in a box, one pixel at a time."""
    inner = total = 0.0
    for y in range(signal.shape[1]):
        for x in range(signal.shape[2]):
            energy = float(signal[:, y, x].double().square().sum())
            total += energy
            if top <= y < top + height and left <= x < left + width:
                inner += energy
    return inner / total


def bumps(width: float, n: int = 5) -> Tensor:
    """Signals (n, 2, SIDE, SIDE) about the middle of their tile."""
    axis = torch.arange(SIDE) - SIDE // 2
    bump = torch.exp(-(axis[:, None].square() + axis.square()) / (2 * width**2))
    return randn(n, 2, SIDE, SIDE) * bump


def test_the_effective_size_is_the_smallest_that_holds_the_energy() -> None:
    signals = bumps(3)
    visible = torch.ones(5, SIDE, SIDE, dtype=torch.bool)
    centers = torch.full((5, 2), SIDE // 2)
    height, width = effective_size(signals, visible, centers)
    assert height == width < SIDE

    def share(side: int) -> float:
        first = SIDE // 2 - side // 2
        return sum(energies_in(signal, first, first, side, side) for signal in signals) / 5

    assert share(height) >= ENERGY
    assert share(height - 2) < ENERGY


def test_without_signal_the_size_is_that_of_the_tile() -> None:
    nothing = torch.zeros(3, 2, 9, 7)
    visible = torch.ones(3, 9, 7, dtype=torch.bool)
    assert effective_size(nothing, visible, torch.zeros(3, 2, dtype=torch.int64)) == (9, 7)


def test_windows_are_moved_until_they_show_the_image() -> None:
    """In the middle, at an edge of the tile, at one of the image, and where little is visible."""
    visible = torch.zeros(4, 10, 10, dtype=torch.bool)
    visible[:2] = True
    visible[2, 4:] = True
    visible[3, :2] = True
    centers = torch.tensor([[5, 5], [0, 9], [3, 5], [1, 5]])
    own = window(centers, visible, (4, 4))
    assert own.top.tolist() == [3, 0, 4, -1]
    assert own.left.tolist() == [3, 6, 3, 3]
    tiles = rand(4, 3, 10, 10)
    cut = own.cut(tiles)
    assert same_bits(cut[0], tiles[0, :, 3:7, 3:7])
    assert same_bits(cut[2], tiles[2, :, 4:8, 3:7])
    assert same_bits(cut[3, :, 1:], tiles[3, :, :3, 3:7])
    assert not cut[3, :, 0].any()


def deep() -> nn.Sequential:
    """Fields of 33 pixels, of which small weights far from the middle leave little."""
    layers: list[nn.Module] = []
    for i in range(8):
        layer = nn.Conv2d(3 if i == 0 else 4, 4, 5, padding=2)
        with torch.no_grad():
            axis = torch.arange(5) - 2
            layer.weight.copy_(randn(*layer.weight.shape, seed=i).abs())
            layer.weight *= torch.exp(-2.0 * (axis[:, None].square() + axis.square()))
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers).eval()


@pytest.fixture(scope="module")
def photographs() -> Images:
    return open_images(rand(6, 3, 48, 48))


@pytest.fixture(scope="module")
def whole(photographs: Images) -> Exemplars:
    model = deep()
    result = scan(model, photographs, "14", k=4)
    return project_exemplars(model, photographs, result["14"], rules=["deconvnet", "gradient"])


def test_what_is_cut_is_where_its_boxes_say(whole: Exemplars, photographs: Images) -> None:
    focused = whole.focused()
    assert focused.is_focused
    assert max(focused.visible.shape[-2:]) < 0.8 * whole.visible.shape[-1]
    for row in range(len(focused.channels)):
        for rank in range(focused.k):
            image = photographs[int(focused.images[row, rank])]
            top, left, bottom, right = focused.boxes[row, rank].tolist()
            shown = focused.visible[row, rank]
            height, width = bottom - top, right - left
            assert int(shown.sum()) == height * width
            patch = focused.patches[row, rank][:, shown].view(3, height, width)
            assert same_bits(patch, image[:, top:bottom, left:right])


def test_signals_keep_their_energy(whole: Exemplars) -> None:
    focused = whole.focused()
    for rule in whole.rules:
        before = whole.projections[rule].double().square().sum(dim=(2, 3, 4))
        after = focused.projections[rule].double().square().sum(dim=(2, 3, 4))
        assert float((after / before).mean()) >= ENERGY - 1e-6
    assert focused.scores is whole.scores
    assert focused.blur <= whole.blur


def test_a_second_group_takes_the_size_of_the_first(whole: Exemplars) -> None:
    size = whole.effective_size()
    other = replace(whole, projections={r: s * 0 + 1 for r, s in whole.projections.items()})
    assert not other.focused().is_focused  # its signal is everywhere
    assert other.focused(size).visible.shape[-2:] == size


def test_small_fields_stay_as_they_are(photographs: Images) -> None:
    model = integers(plain())
    result = scan(model, photographs, "0", k=2)
    exemplars = project_exemplars(model, photographs, result["0"])
    assert exemplars.focused() is exemplars


def test_a_network_without_local_fields_is_focused_about_the_position() -> None:
    """A global field has the image as its tile; the centre is where the position lies in it."""

    class Scaled(nn.Module):
        """All of the image, by a factor, as squeeze and excitation has it."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = deep()

        def forward(self, x: Tensor) -> Tensor:
            maps: Tensor = self.layers(x)
            return maps * maps.mean(dim=(2, 3), keepdim=True)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scaled = Scaled()
            self.last = nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.last(self.scaled(x))
            return result

    model = Net().eval()
    with torch.no_grad():
        model.last.weight.fill_(1)
        model.last.bias.fill_(1)
    images = open_images(rand(3, 3, 64, 64))
    result = scan(model, images, "last", k=2)
    assert not result["last"].layer.field.is_local
    exemplars = project_exemplars(model, images, result["last"], rule="gradient")
    position = result["last"].top.positions
    assert same_bits(exemplars.centers, position)
    focused = exemplars.focused((16, 16))
    boxes = focused.boxes
    inside = (boxes[..., :2] <= position) & (position < boxes[..., 2:])
    assert bool(inside.all())


def test_a_grid_says_what_its_tiles_show(whole: Exemplars) -> None:
    def text_of(exemplars: Exemplars) -> str:
        figure = figures.grid(exemplars)
        return " ".join(
            text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))
        )

    focused = whole.focused()
    height, width = focused.visible.shape[-2:]
    assert f"{height}x{width}" in text_of(focused)
    assert "effective field" not in text_of(whole)


def test_a_gallery_shows_effective_fields(photographs: Images, tmp_path: Path) -> None:
    model = deep()
    result = scan(model, photographs, "0, 14", k=4)
    page = gallery.build(result, model, photographs, tmp_path / "a", rules=["deconvnet"])
    lead = (page.parent / "layer-001.html").read_text()
    assert "effective field" in lead
    assert "effective field" not in (page.parent / "layer-000.html").read_text()
    rules = ["deconvnet"]
    assert gallery.is_finished(result, tmp_path / "a", rules)
    assert not gallery.is_finished(result, tmp_path / "a", rules, full_fields=True)
    full = gallery.build(result, model, photographs, tmp_path / "b", rules=rules, full_fields=True)
    assert "effective field" not in (full.parent / "layer-001.html").read_text()
