"""Figures: each draws whatever it may be given, where it is told, and changes nothing."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from io import BytesIO
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laws import generator, randn, same_bits
from matplotlib import rc_context, rcParams
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from torch import Tensor

import featviz
from featviz import (
    Ablation,
    Box,
    Checks,
    Correspondence,
    Exemplars,
    OcclusionMaps,
    SweepResult,
    figures,
)
from featviz.errors import RuleError, UsageError
from featviz.figures import LayerMaps, OccludedImage, Strided, SweptTransform, page
from featviz.figures.blocks import tile_size, unit_block, unit_tiles
from featviz.figures.text import LABEL_WIDTH, fitted, layer_name, legible, text_width, wrapped
from featviz.geometry import ReceptiveField
from featviz.methods.connections import Connections
from featviz.methods.evolve import Evolution, Track
from featviz.records.checks import Measured
from featviz.records.likeness import Likeness
from featviz.records.listing import Listing
from featviz.records.maximized import Maximized
from featviz.tiles import picture_tiles, sheet
from featviz.units import Layer

LONG = "features.denseblock1.denselayer12.conv2.with_a_name_that_does_not_end"
CHANNELS = [1, 2, 3, 4, 13]
WITHOUT_IMAGES = ("convergence", "equivariance", "sharing", "settling", "unit ablation")


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=generator(seed))


def layer(name: str = "conv1", channels: int = 8) -> Layer:
    field = ReceptiveField((7, 5), (2, 2), (0, 0), Box(0, 0, 16, 20))
    return Layer(
        name, f"{name}@0", "Conv2d", (channels, 6, 7), field, (7, 5), (2, 2), 99, 999, True
    )


def exemplars(c: int = 3, k: int = 4, units: int = 3, name: str = "conv1") -> Exemplars:
    """Some units, the second of them dead, with an empty slot at the end of the first."""
    size = (7, 5)
    dead = torch.zeros(units, dtype=torch.bool)
    dead[1:2] = True
    visible = torch.ones(units, k, *size, dtype=torch.bool)
    visible[:1, -1, :3] = False
    projections = {
        "deconvnet": randn(units, k, c, *size),
        "guided": randn(units, k, c, *size, seed=1),
    }
    return Exemplars(
        layer=layer(name),
        channels=list(range(2, 2 + units)),
        patches=rand(units, k, c, *size),
        projections=projections,
        visible=visible,
        boxes=torch.zeros(units, k, 4, dtype=torch.int64),
        centers=torch.zeros(units, k, 2, dtype=torch.int64),
        scores=rand(units, k),
        images=torch.zeros(units, k, dtype=torch.int64),
        full_image=torch.zeros(units, k, dtype=torch.bool),
        fallback=torch.zeros(units, k, dtype=torch.bool),
        dead=dead,
    )


def ablation() -> Ablation:
    """Three units of a layer with a long name, three classes, one without images."""
    return Ablation(
        layer=layer(LONG),
        channels=[0, 4, 7],
        by="mean",
        images=9,
        baseline=torch.zeros(3, dtype=torch.float64),
        ablated=torch.zeros(3, 3, dtype=torch.float64),
        labelled=torch.tensor([4, 0, 5]),
        right=torch.tensor([4, 0, 3]),
        right_ablated=torch.tensor([[0, 0, 3], [4, 0, 4], [3, 0, 3]]),
        replays=27,
        fallbacks=0,
    )


def occluded(c: int = 3) -> OccludedImage:
    corners = product((0, 4, 8), (0, 4, 8, 12))
    boxes = [Box(y, x, y + 8, x + 8) for y, x in corners]
    scores = {"response": rand(3, 4), "probability": rand(3, 4, seed=1)}
    baseline = {"response": 1.0, "probability": 0.9}
    classes = torch.arange(12).reshape(3, 4) % 11
    windows = torch.tensor(boxes).reshape(3, 4, 4)
    maps = OcclusionMaps(scores, baseline, classes, 0, windows, (16, 20))
    signals = randn(4, c, 16, 20)
    return OccludedImage(
        rand(c, 16, 20), maps, "response", LONG, signals, LONG, "probability", LONG
    )


def swept(c: int = 3, classes: list[int] | None = None) -> SweptTransform:
    distances = {"first": rand(2, 3), "top": rand(2, 3, seed=1)}
    norms = {name: torch.ones(2) for name in distances}
    result = SweepResult([-1.0, 0.0, 1.0], distances, norms, rand(2, 3, 5))
    return SweptTransform("rotation", "degrees", result, rand(2, 2, c, 8, 8), [-1.0, 1.0], classes)


def correspondence(n: int = 4) -> Correspondence:
    square = rand(n, n)
    distances = (square + square.T).fill_diagonal_(0)
    parts = {"eye": distances, "random place": distances.square()}
    return Correspondence({"conv5": dict(parts), LONG: dict(parts)})


BOXES = {"eye": [Box(0, 0, 4, 4)] * 2, "random place": [Box(2, 2, 5, 6)] * 2}


def evolution(c: int = 3, epochs: int = 3) -> Evolution:
    tracks = {}
    for name in ("conv1", LONG):
        dead = torch.zeros(2, epochs, dtype=torch.bool)
        dead[1, 0] = True
        tracks[name] = Track(
            layer=layer(name),
            channels=[0, 5],
            patches=rand(2, epochs, c, 7, 5),
            projections=randn(2, epochs, c, 7, 5),
            visible=torch.ones(2, epochs, 7, 5, dtype=torch.bool),
            scores=rand(2, epochs),
            images=torch.arange(2 * epochs).reshape(2, epochs) // 2,
            dead=dead,
            distance=torch.linspace(1, 0, epochs)[:, None].expand(epochs, 8),
            same=torch.ones(epochs, 8, dtype=torch.bool),
        )
    listing = Listing(["a", "b"], [None, None], (c, 16, 20))
    return Evolution(tracks, list(range(0, 2 * epochs, 2)), listing, "guided")


def network(c: int = 3, **measures: float) -> dict[str, Any]:
    return {
        "network": f"7 x 7, stride 2, {LONG}",
        "filters": randn(10, c, 7, 7),
        "stride": 2,
        "spectrum": torch.full((16,), 1 / 16),
        "second": randn(4, c, 7, 5),
        "visible": torch.ones(4, 7, 5, dtype=torch.bool),
        **measures,
    }


def probed(name: str = "conv1") -> list[dict[str, Any]]:
    accuracy = {"train accuracy": 0.9, "test accuracy": 0.5}
    return [{"weights": w, "layer": name, **accuracy} for w in ("trained", "initial")]


def ablated() -> list[dict[str, Any]]:
    errors = {"train error": 0.1, "test error": 0.2}
    return [{"network": name, "parameters": 12345, **errors} for name in ("as it is", LONG)]


CONNECTIONS = {
    "conv1": Connections("conv1", (3, 16, 20), (8, 6, 7), 10, 200, 30, 40, 250, 99),
    LONG: Connections(LONG, (8, 6, 7), (8, 6, 7), 2_000, 3_000_000, 70, 80, 900, 99),
}
PANELS = {
    "translation (pixels)": (
        [0.0, 1.0, 2.0],
        {"a": [0.0, 0.5, 1e-15], LONG: [0.0, 1.2, float("nan")]},
    ),
    "rotation (degrees)": ([0.0, 90.0, 180.0], {"a": [0.0, 0.5, 0.6]}),
}
STRIDES = {"a": "stride 2", LONG: "stride 4"}


def converging() -> Checks:
    """Curves of two rules from one layer, and of one of them from another, on a way of one step."""
    ways = [("guided", LONG, "conv1"), ("guided", LONG, "image"), (LONG, LONG, "conv1")]
    ways += [(LONG, LONG, "image"), ("guided", "conv1", "image")]
    return Checks(
        [
            Measured(rule, name, "convergence", step, 0.4, -0.3, 0.8, 5, 5, 5)
            for rule, name, step in ways
        ]
    )


def strided(stride: int) -> Strided:
    return Strided(stride, [layer(), layer(LONG)], 12_000_000 // stride, randn(8 // stride, 4))


# Each figure with several panels, of images of c channels, as a function of c and fig
SEVERAL: dict[str, Callable[..., Figure]] = {
    "grid": lambda c, fig: figures.grid(exemplars(c), heading="net", fig=fig),
    "grid, k=1": lambda c, fig: figures.grid(exemplars(c, k=1, name=LONG), fig=fig),
    "overview": lambda c, fig: figures.overview([exemplars(c), exemplars(c, k=1)], fig=fig),
    "top patches": lambda c, fig: figures.top_patches([exemplars(c, name=LONG)], fig=fig),
    "architecture": lambda c, fig: figures.architecture(
        [layer(LONG), replace(layer("relu"), kind="ReLU", kernel=None, parameters=0)],
        rand(c, 16, 20),
        heading="net",
        fig=fig,
    ),
    "activation maps": lambda c, fig: figures.activation_maps(
        rand(c, 16, 20), [LayerMaps(layer(LONG), [4, 0], randn(2, 6, 7))], fig=fig
    ),
    "attributions": lambda c, fig: figures.attributions(
        rand(2, c, 16, 20),
        {"integrated_gradients": randn(2, c, 16, 20), LONG: randn(2, 1, 16, 20)},
        projections={"guided": randn(2, c, 16, 20)},
        names=["a", LONG],
        fig=fig,
    ),
    "randomisation": lambda c, fig: figures.randomisation(
        rand(c, 16, 20),
        {"guided": randn(2, c, 16, 20), LONG: randn(2, c, 16, 20)},
        {"rank correlation": {"guided": [1.0, -0.2], LONG: [1.0, 0.4]}},
        ["trained", LONG],
        name=LONG,
        fig=fig,
    ),
    "convergence": lambda c, fig: figures.convergence(converging(), fig=fig),
    "networks": lambda c, fig: figures.networks(
        rand(2, c, 16, 20),
        {"a": {"guided": randn(2, c, 16, 20)}, LONG: {"guided": randn(2, c, 16, 20)}},
        {"a": {"guided": "specificity 0.5"}, LONG: {"guided": "none"}},
        note="one",
        fig=fig,
    ),
    "filters and maps": lambda c, fig: figures.filters_and_maps(
        rand(c, 16, 20), randn(9, c, 3, 3), range(9), randn(9, 6, 7), fig=fig
    ),
    "map sizes": lambda c, fig: figures.map_sizes(
        [rand(c, 8, 8), rand(c, 12, 10)], {LONG: [rand(4, 4), rand(6, 5)]}, note="one", fig=fig
    ),
    "occlusion": lambda c, fig: figures.occlusion(
        [occluded(c), replace(occluded(c), probability=None)], classes=[LONG] * 11, fig=fig
    ),
    "invariance": lambda c, fig: figures.invariance(
        [swept(c, [4, 0]), swept(c)], "first", "top", names=["a", LONG], fig=fig
    ),
    "equivariance": lambda c, fig: figures.equivariance(PANELS, STRIDES, fig=fig),
    "correspondence": lambda c, fig: figures.correspondence(
        correspondence(), rand(2, c, 8, 8), BOXES, chance="random place", fig=fig
    ),
    "sharing": lambda c, fig: figures.sharing(CONNECTIONS, fig=fig),
    "strides": lambda c, fig: figures.strides(rand(c, 16, 20), [strided(1), strided(2)], fig=fig),
    "first layer": lambda c, fig: figures.first_layer(
        [network(c, **{"test error": 0.2}), network(c, **{"test error": float("nan")})], fig=fig
    ),
    "evolution": lambda c, fig: figures.evolution(evolution(c), fig=fig),
    "settling": lambda c, fig: figures.settling(evolution(c), fig=fig),
    "unit ablation": lambda c, fig: figures.unit_ablation(
        ablation(), torch.tensor([0.1, float("nan"), 0.7]), heading=LONG, fig=fig
    ),
}


def classified() -> list[dict[str, Any]]:
    """The errors of two networks, of which one has too few classes for the second measure."""
    first = {"top-1 error": 0.4, "top-1 error low": 0.3, "top-1 error high": 0.5}
    second = {"top-5 error": 0.1, "top-5 error low": 0.05, "top-5 error high": 0.2}
    both = {"network": "net, trained", "parameters": 1234} | first | second
    return [both, {"network": LONG} | first]


def transferred() -> list[dict[str, Any]]:
    """Two curves, one with intervals."""
    ends = {"accuracy low": 0.5, "accuracy high": 0.9}
    return [
        {"classifier": kind, "images a class": n, "accuracy": 0.7} | own
        for kind, own in (("on features", ends), ("alone", {}))
        for n in (15, 60)
    ]


# and each with a single panel, as a function of ax
SINGLE: dict[str, Callable[..., Figure]] = {
    "ablation": lambda ax: figures.ablation(ablated(), heading="net", ax=ax),
    "layer probe": lambda ax: figures.layer_probe(probed(LONG), chance=0.1, ax=ax),
    "classification": lambda ax: figures.classification(classified(), ax=ax),
    "transfer": lambda ax: figures.transfer(transferred(), chance=0.1, ax=ax),
}


def pixels(figure: Figure) -> Tensor:
    """A figure as it is drawn, (3, h, w) uint8."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi)
    with Image.open(buffer) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible()]


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        (name, c)
        for name, c in product(SEVERAL, (1, 2, 3, 4))
        if c == 3 or name not in WITHOUT_IMAGES
    ],
)
def test_a_page_holds_all_of_its_text(name: str, channels: int) -> None:
    """No text is cut off at the edge of the page."""
    figure = SEVERAL[name](channels, None)
    assert isinstance(figure, figures.Page)
    pixels(figure)
    inside_page(figure)


@pytest.mark.parametrize("name", SINGLE)
def test_a_page_of_a_single_panel_holds_all_of_its_text(name: str) -> None:
    figure = SINGLE[name](None)
    assert isinstance(figure, figures.Page)
    pixels(figure)
    inside_page(figure)


def inside_page(figure: Figure) -> None:
    """Fails where something lies beyond the edge of the page."""
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox()
    assert min(box.x0, box.y0) >= 0, box
    assert box.x1 <= width, (box, width)
    assert box.y1 <= height, (box, height)


@pytest.mark.parametrize("name", SEVERAL)
def test_several_panels_go_into_a_figure_of_the_callers(name: str) -> None:
    """All of it stays in the part that is given, however large that is."""
    both = Figure(figsize=(9, 5), dpi=80)
    _, right = both.subfigures(1, 2, width_ratios=(1, 2))
    assert SEVERAL[name](3, right) is both
    shown = pixels(both)
    assert bool((shown[:, :, : 9 * 80 // 3 - 2] == 255).all())
    assert bool((shown[:, :, 9 * 80 // 3 :] != 255).any())
    assert not both.axes or all(axes.figure is right for axes in right.axes)


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_panel_goes_on_axes_of_the_callers(name: str) -> None:
    both = Figure()
    first, second = both.subplots(1, 2)
    assert SINGLE[name](second) is both
    pixels(both)
    assert not first.has_data()
    assert second.has_data()
    assert len(both.axes) == 2


@dataclass
class Inputs:
    """What a figure takes, as a tree of tensors."""

    tensors: list[Tensor]

    @classmethod
    def of(cls, *things: Any) -> Inputs:
        tensors: list[Tensor] = []
        collect(things, tensors)
        return cls([tensor.clone() for tensor in tensors])


def collect(thing: Any, tensors: list[Tensor]) -> None:
    if isinstance(thing, Tensor):
        tensors.append(thing)
    elif is_dataclass(thing):
        collect([getattr(thing, field.name) for field in fields(thing)], tensors)
    elif isinstance(thing, dict):
        collect(list(thing.values()), tensors)
    elif isinstance(thing, (list, tuple)):
        for element in thing:
            collect(element, tensors)


UNCHANGED: dict[str, tuple[Callable[..., Figure], tuple[Any, ...]]] = {
    "grid": (figures.grid, (exemplars(4),)),
    "overview": (figures.overview, ([exemplars(4)],)),
    "top patches": (figures.top_patches, ([exemplars()],)),
    "activation maps": (
        figures.activation_maps,
        (rand(3, 16, 20), [LayerMaps(layer(), [4, 0], randn(2, 6, 7))]),
    ),
    "attributions": (figures.attributions, (rand(1, 3, 16, 20), {"a": randn(1, 1, 16, 20)})),
    "randomisation": (
        figures.randomisation,
        (rand(3, 16, 20), {"a": randn(1, 3, 16, 20)}, {"b": {"a": [1.0]}}, ["c"]),
    ),
    "networks": (figures.networks, (rand(1, 3, 16, 20), {"a": {"b": randn(1, 3, 16, 20)}})),
    "filters and maps": (
        figures.filters_and_maps,
        (rand(1, 16, 20), randn(2, 1, 3, 3), [0, 1], randn(2, 6, 7)),
    ),
    "map sizes": (figures.map_sizes, ([rand(3, 8, 8)], {"conv1": [rand(4, 4)]})),
    "occlusion": (figures.occlusion, ([occluded()],)),
    "correspondence": (figures.correspondence, (correspondence(), rand(2, 3, 8, 8), BOXES)),
    "strides": (figures.strides, (rand(3, 16, 20), [strided(1)])),
    "first layer": (figures.first_layer, ([network()],)),
    "evolution": (figures.evolution, (evolution(),)),
    "settling": (figures.settling, (evolution(),)),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_what_is_drawn_is_not_changed(name: str) -> None:
    draw, given = UNCHANGED[name]
    before = Inputs.of(*given).tensors
    settings = dict(rcParams)
    pixels(draw(*given))
    after = Inputs.of(*given).tensors
    assert before
    assert all(same_bits(a, b) for a, b in zip(before, after, strict=True))
    assert dict(rcParams) == settings


def test_no_figure_is_drawn_with_pyplot() -> None:
    for path in (Path(featviz.__file__).parent / "figures").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", ())]
            module = getattr(node, "module", None) or ""
            assert "pyplot" not in f"{module} {names}", path.name


@pytest.mark.parametrize("channels", [1, 3, 13])
def test_a_pixel_of_a_tile_is_a_pixel_of_the_page(channels: int) -> None:
    """The blocks of a grid lie on its page as `unit_block` makes them, and those of dead units are
    blank."""
    own = exemplars(channels)
    shown = pixels(figures.grid(own, tile=21, heading="net"))
    block = unit_block(own, 0, "deconvnet", 21)
    assert len(positions_of(shown, block)) == 1
    alone = exemplars(channels, units=1)
    strip = unit_tiles(alone, 0, "deconvnet", 56)[:, 0]
    assert len(positions_of(pixels(figures.overview([alone])), sheet(strip, columns=1, gap=2))) == 1


def positions_of(picture: Tensor, detail: Tensor) -> list[list[int]]:
    """Where a detail (3, h, w) lies in a picture."""
    height, width = detail.shape[1:]
    down, across = picture.shape[1] - height + 1, picture.shape[2] - width + 1
    candidates = torch.ones(down, across, dtype=torch.bool)
    steps = generator(0)
    for _ in range(40):  # some pixels first: few positions are left to compare in full
        y = int(torch.randint(height, (), generator=steps))
        x = int(torch.randint(width, (), generator=steps))
        pixel = detail[:, y, x, None, None]
        candidates &= (picture[:, y : y + down, x : x + across] == pixel).all(dim=0)
    positions = []
    for y, x in candidates.nonzero().tolist():
        if torch.equal(picture[:, y : y + height, x : x + width], detail):
            positions.append([y, x])
    return positions


def test_other_channels_than_three_are_shown_as_their_mean_as_tiles_do() -> None:
    for channels in CHANNELS:
        image = rand(channels, 5, 4)
        shown = torch.from_numpy(page.rgb(image)).permute(2, 0, 1)
        visible = torch.ones(1, 5, 4, dtype=torch.bool)
        tile = picture_tiles(image[None], visible, (5, 4))[0]
        assert torch.equal((shown * 255).round().to(torch.uint8), tile)


def test_tiles_keep_the_shape_of_the_receptive_field() -> None:
    assert tile_size((3, 7, 5), 70) == (70, 50)
    assert tile_size((1, 300), 50) == (1, 50)


def test_dead_units_are_named_and_not_drawn() -> None:
    own = exemplars()
    assert any("dead" in text for text in texts(figures.grid(own)))
    assert any("1 of these 3 units is dead (3)" in text for text in texts(figures.overview([own])))
    channels = list(range(own.layer.channels))
    drawn = " ".join(texts(figures.overview([own], dead={own.layer.name: channels[:4]})))
    assert f"4 of {len(channels)} units are dead (0, 1, 2, 3)" in drawn
    many = " ".join(texts(figures.overview([own], dead={own.layer.name: range(20)})))
    assert "20 of" in many
    assert "units are dead (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …)" in many
    nothing = replace(own, dead=torch.ones(3, dtype=torch.bool))
    assert any("no image activates" in text for text in texts(figures.overview([nothing])))
    assert unit_block(own, 1, "deconvnet", 20).unique().tolist() == [244, 255]


def test_the_views_that_are_drawn_are_the_ones_asked_for() -> None:
    own = exemplars(units=1)
    squares = {}
    for view in ("masked", "projection", "heat"):
        block = unit_block(own, 0, "deconvnet", 21, view)
        width = (block.shape[2] - 4) // 2
        squares[view] = block[:, :, :width]
        for draw in (figures.grid, lambda e, **kw: figures.top_patches([e], **kw)):
            shown = pixels(draw(own, tile=21, views=view))
            assert len(positions_of(shown, block)) == 1, view
    assert torch.equal(
        unit_block(own, 0, "deconvnet", 21),
        unit_block(own, 0, "deconvnet", 21, "masked,projection"),
    )
    both = unit_block(own, 0, "deconvnet", 21, ["heat", "masked"])
    width = squares["heat"].shape[2]
    assert torch.equal(both[:, :, :width], squares["heat"])
    assert torch.equal(both[:, :, width + 4 : 2 * width + 4], squares["masked"])
    strip = unit_tiles(own, 0, "deconvnet", 56, "heat")[:, 0]
    drawn = pixels(figures.overview([own], views="heat"))
    assert len(positions_of(drawn, sheet(strip, columns=1, gap=2))) == 1
    with pytest.raises(UsageError, match=r"no view 'mask'.*masked"):
        figures.grid(own, views="mask")


def test_exemplars_without_signal_are_counted_in_the_caption() -> None:
    own = exemplars()
    assert not any("no signal" in text for text in texts(figures.grid(own)))
    own.projections["deconvnet"][~own.dead] = 0
    note = " ".join(texts(figures.grid(own)))
    assert "no signal" in note.replace("\n", " ")


def test_the_rule_that_is_drawn_is_the_one_asked_for() -> None:
    own = exemplars()
    for draw in (figures.grid, lambda e, rule: figures.overview([e], rule=rule)):
        assert any("guided" in text for text in texts(draw(own, rule="guided")))
        with pytest.raises(RuleError, match="gradient"):
            draw(own, rule="gradient")
    first, second = (pixels(figures.grid(own, rule=rule)) for rule in own.rules)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.grid(exemplars(units=0)),
        lambda: figures.overview([]),
        lambda: figures.top_patches([]),
        lambda: figures.activation_maps(rand(3, 8, 8), []),
        lambda: figures.attributions(rand(0, 3, 8, 8), {"a": rand(0, 3, 8, 8)}),
        lambda: figures.randomisation(rand(3, 8, 8), {}, {}, []),
        lambda: figures.convergence(Checks([])),
        lambda: figures.networks(rand(0, 3, 8, 8), {}),
        lambda: figures.occlusion([]),
        lambda: figures.invariance([], "a", "b", names=[]),
        lambda: figures.equivariance({}, {}),
        lambda: figures.sharing({}),
        lambda: figures.strides(rand(3, 8, 8), []),
        lambda: figures.ablation([]),
        lambda: figures.layer_probe([], chance=0.1),
        lambda: figures.first_layer([]),
        lambda: figures.classification([]),
        lambda: figures.architecture([], rand(3, 8, 8)),
        lambda: figures.transfer([], chance=0.1),
    ],
)
def test_nothing_to_draw_is_an_error_that_says_so(draw: Callable[[], Figure]) -> None:
    with pytest.raises(UsageError, match=r"^0 "):
        draw()


def test_modules_that_hold_others_are_no_boxes() -> None:
    conv = replace(layer("block.conv"), kernel=(3, 3), stride=(2, 2), parameters=9)
    relu = replace(layer("block.relu"), kind="ReLU", kernel=None, parameters=0)
    block = replace(relu, name="block@1", call="block@1", kind="Block")
    drawn = texts(figures.architecture([conv, relu, block], rand(3, 8, 8)))
    assert {"block.conv", "3 x 3, stride 2", "9 parameters"} <= set(drawn)
    assert not any("Block" in text for text in drawn)
    assert "then ReLU" in drawn


def test_of_what_has_no_units_a_box_has_the_shape() -> None:
    tokens = replace(layer("mlp"), kind="Linear", kernel=None, shape=(17, 64))
    norm = replace(tokens, name="norm", call="norm@0", kind="LayerNorm")
    drawn = texts(figures.architecture([tokens, norm], rand(3, 8, 8)))
    assert {"mlp", "17 x 64", "then LayerNorm"} <= set(drawn)
    assert "norm" not in drawn


def test_a_row_of_errors_has_what_was_measured() -> None:
    drawn = texts(figures.classification(classified()))
    assert {"40.0", "10.0", "top-1 error", "top-5 error"} <= set(drawn)
    assert any("1,234 parameters" in text for text in drawn)
    alone = texts(figures.classification(classified()[1:]))
    assert "top-5 error" not in alone


def test_transfer_has_the_number_of_images_along_its_axis() -> None:
    figure = figures.transfer(transferred(), chance=0.1)
    assert {"15", "60", "70", "on features", "alone"} <= set(texts(figure))
    assert figure.axes[0].get_xscale() == "log"


def test_pictures_that_do_not_fit_are_an_error_that_names_them() -> None:
    image, curves = rand(3, 8, 8), {"rank correlation": {"guided": [1.0]}}
    with pytest.raises(UsageError, match="'guided' has 2 for 1 steps"):
        figures.randomisation(image, {"guided": randn(2, 3, 8, 8)}, curves, ["trained"])
    with pytest.raises(UsageError, match="'guided' of 'a' has 2 for 1 images"):
        figures.networks(image[None], {"a": {"guided": randn(2, 3, 8, 8)}})
    one = randn(1, 3, 8, 8)
    with pytest.raises(UsageError, match="network 'b' has the rules lrp, the first guided"):
        figures.networks(image[None], {"a": {"guided": one}, "b": {"lrp": one}})


def test_too_few_names_of_classes() -> None:
    with pytest.raises(UsageError, match=r"class \d+ .* 2 names"):
        figures.occlusion([occluded()], classes=["a", "b"])


def test_names_stand_as_they_are_written() -> None:
    """A dollar sign begins no formula, and the middle of a name that is too long is left out."""
    figure = figures.grid(exemplars(name="a_$1$_b"), heading=r"$\wrong")
    pixels(figure)
    assert any(text.startswith(r"$\wrong: layer a_$1$_b") for text in texts(figure))
    shorter = fitted(LONG, 120, 8)
    assert text_width(shorter, 8) <= 120
    assert shorter.startswith("features")
    assert shorter.endswith("end")
    assert fitted("short", 120, 8) == "short"


ODD = [
    "latin\udce9.jpg",
    "日本語.jpg",
    "new\nline.jpg",
    "tab\t.jpg",
    "rtl\u202egpj.jpg",
    "\u202f€ü.jpg",
]
READ = ["latin?.jpg", "???.jpg", "new?line.jpg", "tab?.jpg", "rtl?gpj.jpg", " €ü.jpg"]


@pytest.mark.parametrize(("name", "drawn"), list(zip(ODD, READ, strict=True)))
def test_names_of_any_signs_are_drawn_on_one_line(name: str, drawn: str) -> None:
    assert legible(name) == fitted(name, 1000, 8) == drawn
    assert text_width(name, 8) == text_width(drawn, 8)
    assert wrapped(name.replace("\n", "").replace("\t", ""), 1000, 8)
    row = swept(3, [4, 0])
    figure = figures.invariance([row], "first", "top", names=[name, "b"], heading=name)
    assert drawn in texts(figure)
    pixels(figure)  # a warning of signs that the font lacks would be an error
    figure = figures.attributions(rand(1, 3, 8, 8), {"grad_cam": randn(1, 8, 8)}, names=[name])
    assert drawn in texts(figure)
    figure = Figure()
    figures.layer_probe(probed(name), chance=0.1, ax=figure.subplots())
    pixels(figure)


def test_the_font_s_own_signs_stay() -> None:
    assert legible("é ß € … → 名") == "é ß € … → ?"
    with rc_context({"font.family": ["cmsy10"]}):  # of mathematical signs alone, and no arrow
        assert legible("→") == "?"
    with rc_context({"font.family": ["cmsy10", "DejaVu Sans"]}):
        assert legible("→") == "→"


def test_names_along_an_axis_are_as_many_as_can_be_read() -> None:
    steps = [*(f"blocks.{i}.conv" for i in range(90)), "image"]
    numbers = [
        Measured("guided", "conv2", "convergence", step, 0.5, 0.4, 0.6, 5, 5, 5) for step in steps
    ]
    figure = figures.convergence(Checks(numbers))
    pixels(figure)
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert 8 < len(names) < 35
    assert names[0] == steps[0]
    assert names[-1] == "image"
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    ends = [box.x1 for box in boxes]
    assert min(b - a for a, b in pairwise(ends)) > 15
    few = figures.convergence(converging())
    assert len(few.axes[0].get_xticks()) == len(list(few.axes[0].lines[0].get_ydata()))


def test_whose_class_a_probability_is_of_is_the_caller_s_to_say() -> None:
    row = swept(3, [4, 0])
    drawn = texts(figures.invariance([row], "first", "top", names=["a", "b"], note="Of its own."))
    assert "probability of the class" in drawn
    assert "Of its own." in drawn


def test_the_caption_counts_the_exemplars_that_there_are() -> None:
    own = exemplars(k=4)
    assert any("Its 4 strongest responses" in text for text in texts(figures.grid(own)))
    own.images[:, 2:] = -1
    assert any("Its 2 strongest responses" in text for text in texts(figures.grid(own)))
    assert any("he 2 strongest responses" in text for text in texts(figures.top_patches([own])))


def test_pictures_of_all_layers_that_say_nothing_are_named() -> None:
    own = exemplars(name="conv_head")
    assert not any("hardly tell" in text for text in texts(figures.top_patches([own])))
    alike = replace(own, likeness={"deconvnet": Likeness(0.97, 0.4, 8, 8)})
    for draw in (figures.top_patches, figures.overview):
        drawn = texts(draw([own, alike]))
        remark = "These deconvnet pictures hardly tell one unit from another (cosine 0.97)."
        assert drawn.count(remark) == 1  # below the name of the layer that it is of
        assert drawn.index(remark) > drawn.index("conv_head", drawn.index("conv_head") + 1)


def test_what_lies_beyond_the_edge_of_an_image_is_named() -> None:
    own = exemplars()
    inside = replace(own, visible=torch.ones_like(own.visible))
    empty = replace(own, images=torch.full_like(own.images, -1))
    for draw in (
        figures.grid,
        lambda e: figures.overview([e]),
        lambda e: figures.top_patches([e]),
        lambda e: figures.unit(e, e.channels[0], Listing(["a"], [None], (3, 9, 9))),
    ):
        assert "Light grey: beyond the edge of the image." in texts(draw(own))
        assert not any("beyond the edge" in text for text in texts(draw(inside)))
    assert not any("beyond the edge" in text for text in texts(figures.grid(empty)))


def test_of_fewer_images_than_k_no_empty_cells_are_drawn() -> None:
    own = exemplars(k=9)
    own.images[:, 4:] = -1
    few = exemplars(k=4)
    assert unit_block(own, 0, "deconvnet", 20).shape == unit_block(few, 0, "deconvnet", 20).shape
    listing = Listing(["a"], [None], (3, 9, 9))
    widths = [figures.unit(e, 2, listing).get_figwidth() for e in (own, few)]
    assert widths[0] == widths[1]


def test_channels_that_are_no_colours_are_named() -> None:
    note = "Of the 4 channels of images and projections the mean is drawn."
    for c in (1, 3, 4):
        assert (note in texts(figures.grid(exemplars(c)))) == (c == 4)


def test_projections_of_an_occluded_image_that_do_not_tell_maps_apart_are_named() -> None:
    row = occluded()
    others = row.projections[:1] + 0.1 * randn(2, 3, 16, 20, seed=3)
    drawn = " ".join(texts(figures.occlusion([replace(row, others=others)])))
    assert "These deconvnet pictures hardly tell one unit from another (cosine" in drawn
    for other in (None, randn(2, 3, 16, 20, seed=3)):
        drawn = " ".join(texts(figures.occlusion([replace(row, others=other)])))
        assert "hardly" not in drawn
    assert "Projections under guided" in " ".join(
        texts(figures.occlusion([replace(row, rule="guided")]))
    )


def test_a_class_under_few_squares_is_not_said_to_be_under_none() -> None:
    row = occluded()
    classes = torch.zeros(20, 20, dtype=torch.int64)
    classes[0, 0] = 1
    few = replace(row, maps=replace(row.maps, classes=classes))
    drawn = [text for text in texts(figures.occlusion([few])) if "of squares" in text]
    assert [text.split("\n")[1] for text in drawn] == ["100% of squares", "< 1% of squares"]


def test_a_rule_has_one_colour_in_all_panels_and_gaps_where_nothing_arrived() -> None:
    def number(rule: str, layer: str, step: str) -> Measured:
        return Measured(rule, layer, "convergence", step, 0.4, 0.3, 0.5, 5, 5, 5)

    steps = {"conv3": ["conv2", "conv1", "image"], "conv2": ["conv1", "image"]}
    missing = {("gradient", "conv3", "conv1"), ("gradient", "conv2", "conv1")}
    missing |= {("gradient", "conv2", "image")}
    numbers = [
        number(rule, layer, step)
        for rule in ("gradient", "lrp")
        for layer, own in steps.items()
        for step in own
        if (rule, layer, step) not in missing
    ]
    figure = figures.convergence(Checks(numbers))
    first, last = figure.axes
    for axes in (first, last):
        colors = {str(line.get_label()): line.get_color() for line in axes.lines}
        assert colors == {"gradient": page.COLORS[0], "lrp": page.COLORS[1]}
    assert np.isnan(first.lines[0].get_ydata()).tolist() == [False, True, False]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["gradient", "lrp"]


def test_long_names_of_layers_that_differ_before_their_ends_stay_apart() -> None:
    names = [f"features.denseblock{i}.denselayer16.conv2" for i in (3, 4)]
    shown = [layer_name(name, LABEL_WIDTH, 8) for name in names]
    assert len(set(shown)) == 2
    assert text_width(shown[0], 8) <= LABEL_WIDTH
    assert layer_name("conv1", 100, 8) == "conv1"


def test_projections_beside_attributions_that_are_alike_are_named() -> None:
    maps = {"grad_cam": randn(3, 1, 8, 8)}
    same = randn(1, 3, 8, 8).repeat(3, 1, 1, 1)
    signals = {"deconvnet": same + 0.1 * randn(3, 3, 8, 8, seed=1), "guided": randn(3, 3, 8, 8)}
    figure = figures.attributions(rand(3, 3, 8, 8), maps, projections=signals)
    note = " ".join(texts(figure))
    assert re.search(
        r"deconvnet pictures hardly tell one image from another \(cosine 0.9\d\)", note
    )
    assert "guided does" in note
    assert "These guided pictures" not in note
    alone = {rule: values[:1] for rule, values in signals.items()}
    one = figures.attributions(
        rand(1, 3, 8, 8), {"grad_cam": maps["grad_cam"][:1]}, projections=alone
    )
    assert "hardly" not in " ".join(texts(one))


def test_the_dotted_line_of_a_probe_is_that_of_the_most_frequent_class() -> None:
    drawn = texts(figures.layer_probe(probed(), chance=1 / 3))
    assert "most frequent\nclass 33" in drawn
    assert not any("chance" in text for text in drawn)
    assert any("naming the most frequent class of the test images" in text for text in drawn)


@pytest.mark.parametrize("width", [60, 200, 1000])
def test_wrapped_lines_hold_every_word(width: int) -> None:
    text = "middle grey is zero, and the contrast the same within a unit"
    lines = wrapped(text, width, 8)
    assert " ".join(lines) == text
    assert all(text_width(line, 8) <= width for line in lines)


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_saved_figures_are_whole_and_the_same_each_time(suffix: str, tmp_path: Path) -> None:
    written = []
    for name in ("first", "second"):
        path = tmp_path / "new" / f"{name}.{suffix}"
        assert figures.save(figures.grid(exemplars()), path) == path
        written.append(path.read_bytes())
    assert written[0] == written[1]
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
        f"first.{suffix}",
        f"second.{suffix}",
    ]


def test_a_pdf_has_truetype_fonts_and_no_date(tmp_path: Path) -> None:
    data = figures.save(figures.grid(exemplars()), tmp_path / "a.pdf").read_bytes()
    assert b"/TrueType" in data or b"/CIDFontType2" in data
    assert b"/Type3" not in data
    assert b"CreationDate" not in data


@pytest.mark.parametrize("name", ["a.svg", "a", "a.png.part"])
def test_other_files_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=name):
        figures.save(Figure(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_notebook_shows_a_page_by_itself() -> None:
    figure = figures.grid(exemplars())
    assert isinstance(figure, figures.Page)
    assert figure._repr_png_().startswith(b"\x89PNG")
    size = [round(float(inches) * figure.dpi) for inches in figure.get_size_inches()]
    assert list(pixels(figure).shape[1:]) == size[::-1]


# linear RGB as red- and as green-blind eyes have it: Machado, Oliveira & Fernandes (2009), severity 1
BLIND = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


def lab(color: str, eye: str | None) -> Tensor:
    """A colour in CIELAB, where distances are as large as they look."""
    values = torch.tensor(to_rgb(color), dtype=torch.float64)
    linear = torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    if eye is not None:
        linear = (torch.tensor(BLIND[eye], dtype=torch.float64) @ linear).clamp(0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    white = torch.tensor([0.9505, 1.0, 1.089], dtype=torch.float64)
    ratio = torch.tensor(to_xyz, dtype=torch.float64) @ linear / white
    f = torch.where(ratio > 0.008856, ratio.clamp(min=1e-9) ** (1 / 3), 7.787 * ratio + 16 / 116)
    return torch.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("eye", [None, *BLIND])
def test_colours_stay_apart_for_colour_blind_eyes(eye: str | None) -> None:
    for i, first in enumerate(page.COLORS):
        for second in page.COLORS[:i]:
            assert float((lab(first, eye) - lab(second, eye)).norm()) > 10, (first, second)


def test_a_curve_for_each_image_layer_and_checkpoint() -> None:
    row = swept(3, [4, 0])
    figure = figures.invariance([row], "first", "top", names=["a", "b"])
    plots = [axes for axes in figure.axes if axes.lines]
    assert len(plots) == 3
    for plot, name in zip(plots[:2], ("first", "top"), strict=True):
        for line, curve in zip(plot.lines, row.result.distances[name], strict=True):
            assert list(line.get_ydata()) == pytest.approx(curve.tolist())
    assert row.result.probabilities is not None
    second = list(plots[2].lines[1].get_ydata())
    assert second == pytest.approx(row.result.probabilities[1, :, 0].tolist())
    figure = figures.settling(evolution())
    assert [len(axes.lines) for axes in figure.axes] == [3, 2]


def test_a_feature_that_jumps_is_marked() -> None:
    result = evolution()
    figure = figures.evolution(result)
    marks = [len(axes.patches) for axes in figure.axes]
    assert marks == [int(track.jumped.sum()) for track in result.values()]
    assert texts(figure).count("dead") == 2


def test_images_that_drive_units_take_the_place_of_projections() -> None:
    with pytest.raises(UsageError, match="no images were made"):
        figures.evolution(evolution(), maximized=True)
    result = evolution()
    for name, track in result.tracks.items():
        result.tracks[name] = replace(track, maximized=rand(2, 3, 3, 9, 9))
    figure = figures.evolution(result, maximized=True)
    assert "made to drive the unit then" in " ".join(" ".join(texts(figure)).split())
    before = figures.evolution(result).axes[0].images[0].get_array()
    assert not np.array_equal(figure.axes[0].images[0].get_array(), before)


def test_a_grid_has_the_image_that_drives_each_living_unit() -> None:
    own = exemplars()
    units = [own.layer.unit(channel) for channel in (2, 4)]
    images = torch.stack([torch.zeros(3, 9, 7), torch.ones(3, 9, 7)])
    activations = torch.tensor([2.0, 1.0])
    steps = torch.tensor([5, 5])
    made = Maximized(units, images, images[:, 0], activations, torch.tensor([1.0, 1.0]), steps)
    figure = figures.grid(own, maximized=made, tile=20, columns=3)
    canvas = figure.axes[0].images[0].get_array()
    plain = figures.grid(own, tile=20, columns=3).axes[0].images[0].get_array()
    assert canvas.shape[0] == plain.shape[0]
    side = 2 * 20 + 1
    assert canvas.shape[1] == plain.shape[1] + 3 * (side + 4)
    width = canvas.shape[1] // 3
    square = np.asarray(canvas)[-side:, width - side - 4 : width - 4]
    assert (square == 0).all(axis=2).mean() > 0.6  # unit 2 is black, unit 4 did not change
    assert "that was made to drive the unit" in " ".join(" ".join(texts(figure)).split())


def test_units_without_labels_or_numbers_are_not_drawn() -> None:
    result = ablation()
    with pytest.raises(UsageError, match="for 3 units"):
        figures.unit_ablation(result, torch.zeros(2))
    with pytest.raises(UsageError, match="0 units"):
        figures.unit_ablation(replace(result, channels=[]), torch.zeros(0))
    with pytest.raises(UsageError, match="give labels"):
        figures.unit_ablation(replace(result, labelled=None), torch.zeros(3))


def test_units_without_selectivity_are_counted_with_the_reason() -> None:
    some = torch.tensor([0.1, torch.nan, 0.7])
    drawn = " ".join(texts(figures.unit_ablation(ablation(), some)))
    assert "1 of 3 units has no class selectivity" in drawn
    assert "no image activates them" in drawn
    assert "no unit has" not in drawn
    nothing = torch.full((3,), torch.nan)
    assert (
        texts(figures.unit_ablation(ablation(), nothing)).count("no unit has a class selectivity")
        == 2
    )
    one = replace(ablation(), labelled=torch.tensor([0, 12, 0]))
    drawn = " ".join(texts(figures.unit_ablation(one, nothing)))
    assert "all images are of one class" in drawn


def test_ranks_of_ties_are_shared() -> None:
    labels = [
        axes.get_xlabel()
        for axes in figures.unit_ablation(ablation(), torch.tensor([0.1, 0.5, 0.7])).axes
    ]
    assert labels[1].endswith("(rank correlation -0.50)")
    assert labels[2].endswith("(rank correlation -0.50)")
    constant = figures.unit_ablation(ablation(), torch.full((3,), 0.5))
    assert constant.axes[1].get_xlabel().endswith("(rank correlation -)")
