"""The layers of a network as boxes: figure 3 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import log2, sqrt

from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from torch import Tensor

from featviz.errors import UsageError
from featviz.figures.page import (
    COLORS,
    INK,
    NEUTRAL,
    QUIET,
    AnyFigure,
    Area,
    Style,
    new_page,
    titled,
)
from featviz.figures.text import fitted, layer_name
from featviz.units import Layer

_CELL, _LINE = 142, 14  # pixels: a layer with its text, lines of that
_LINES = 5  # below a box
_SIDE = 70  # pixels: of the image
_IN_A_ROW = 8
_CHANGES_NOTHING = ("Dropout", "Identity", "Flatten")

Point = tuple[float, float]


def architecture(
    layers: Sequence[Layer],
    image: Tensor,
    *,
    heading: str = "",
    note: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """Figure 3 of the paper: convolutions, pooling and fully connected layers in the order of the forward pass, each as a
    box: as high and as wide as its maps (by the square root), as deep as there are many (by the logarithm).

    Args:
        layers: as of `anatomy`, in order. Others than these are written below the box that they follow.
        image: (c, h, w) in [0, 1], of the size that the layers are for.
        heading: comes first in the title.
        note: below it.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        UsageError: none of the layers is one of these.

    Source: Zeiler & Fergus, figure 3.

    Example:
        >>> import torch
        >>> from featviz import anatomy, figures, load_model
        >>> net = anatomy(load_model("zfmini"), (3, 96, 96))
        >>> figure = figures.architecture(list(net.values()), torch.rand(3, 96, 96))
    """
    size = image.shape[1], image.shape[2]
    own = _without_holders(layers)
    boxes = [_box(own[i], size, _after(own[i + 1 :])) for i in range(len(own)) if _is_box(own[i])]
    if not boxes:
        raise UsageError("0 layers: give convolutions, pooling or fully connected ones", "layers")
    notes = [note] if note else []
    notes.append(
        "In the order of the forward pass, branches one after the other. A box is as high and wide as its maps "
        "(square root), as deep as there are many (logarithm). Blue: convolution, grey: pooling, orange: fully connected."
    )
    cells: list[_Box | None] = [None, *boxes]  # the first is the image
    rows = [cells[start : start + _IN_A_ROW] for start in range(0, len(cells), _IN_A_ROW)]
    heights = [max(_SIDE if box is None else box.height for box in row) for row in rows]
    below = _LINES * _LINE + 24
    title = titled(heading, f"{len(boxes)} layers of convolution, pooling and full connection")
    width = min(_IN_A_ROW, len(cells)) * _CELL
    area = new_page(width, sum(heights) + below * len(rows), title, notes, fig)
    y = 0.0
    for row, height in zip(rows, heights, strict=True):
        y += height
        for column, box in enumerate(row):
            if box is None:
                _image(area, column * _CELL, y, image)
            else:
                _layer(area, column * _CELL, y, box)
        y += below
    return area.finish()


@dataclass(frozen=True)
class _Box:
    """A layer as it is drawn.

    Attributes:
        high, wide: of its front, in pixels.
        depth: by how much its back lies to the right; above, by three quarters of it.
        after: the kinds of the layers that follow it.
    """

    layer: Layer
    high: float
    wide: float
    depth: float
    after: list[str]

    @property
    def height(self) -> float:
        """Of all of it."""
        return self.high + self.rise

    @property
    def rise(self) -> float:
        return 0.75 * self.depth

    @property
    def shade(self) -> str:
        if self.layer.kernel is None:
            return COLORS[4]
        return COLORS[5] if self.layer.parameters else NEUTRAL


def _is_box(layer: Layer) -> bool:
    """Whether a layer is drawn: a convolution, pooling, or fully connected."""
    return layer.kernel is not None or layer.kind.endswith("Linear")


def _without_holders(layers: Sequence[Layer]) -> list[Layer]:
    """Layers but for modules that hold others of these."""
    holders = set()
    for layer in layers:
        names = layer.module.split(".")
        holders |= {".".join(names[:n]) for n in range(1, len(names))}
    return [layer for layer in layers if layer.module not in holders]


def _after(layers: Sequence[Layer]) -> list[str]:
    """The kinds of layers up to the next one that is drawn, each once."""
    between = takewhile(lambda own: not _is_box(own), layers)
    kinds = (layer.kind for layer in between if layer.kind not in _CHANGES_NOTHING)
    return list(dict.fromkeys(kind.removesuffix("2d") for kind in kinds))


def _box(layer: Layer, size: tuple[int, int], after: list[str]) -> _Box:
    """The box of a layer for images of a size."""
    many = log2(1 + (layer.channels if layer.has_units else max(layer.shape, default=1)))
    if not layer.has_maps:
        return _Box(layer, 7 * many, 10, 0, after)
    high, wide = (
        min(_SIDE * sqrt(own / all_of_it), 1.1 * _SIDE)
        for own, all_of_it in zip(layer.map_size, size, strict=True)
    )
    return _Box(layer, high, wide, 2.6 * many, after)


def _image(area: Area, x: float, y: float, image: Tensor) -> None:
    """The image, and its size."""
    channels, height, width = image.shape
    scale = _SIDE / max(height, width)
    area.image(x, y - scale * height, scale * width, scale * height, image)
    _texts(area, x, y, "image", [f"{channels} x {height} x {width}"])


def _layer(area: Area, x: float, y: float, box: _Box) -> None:
    """A box that stands on y, with its text."""
    axes = area.axes(x, y - box.height, _CELL - 6, box.height)
    axes.set(xlim=(0, _CELL - 6), ylim=(box.height, 0))
    axes.set_axis_off()
    faces: list[tuple[list[Point], float]] = [(_face(box, (0, 0), (box.wide, 0), down=True), 1.0)]
    if box.depth:
        faces.append((_face(box, (0, 0), (box.wide, 0), down=False), 0.5))
        faces.append((_face(box, (box.wide, 0), (box.wide, box.high), down=False), 0.8))
    for points, alpha in faces:
        style: Style = {
            "facecolor": box.shade,
            "edgecolor": INK,
            "linewidth": 0.7,
            "clip_on": False,
        }
        axes.add_patch(Polygon(points, alpha=alpha, **style))
    layer = box.layer
    lines = [_window_of(layer), _units_of(layer)]
    if layer.parameters:
        lines.append(f"{layer.parameters:,} parameters")
    if box.after:
        lines.append(f"then {', '.join(box.after)}")
    _texts(area, x, y, layer.name, lines)


def _face(box: _Box, start: Point, end: Point, down: bool) -> list[Point]:
    """The four corners of a face, from one edge of the front: down it, or back to where the box ends."""
    across, along = (0.0, box.high) if down else (box.depth, -box.rise)
    corners = [start, end, (end[0] + across, end[1] + along), (start[0] + across, start[1] + along)]
    return [(x, y + box.rise) for x, y in corners]


def _texts(area: Area, x: float, y: float, name: str, lines: Sequence[str]) -> None:
    """A name, and lines below it."""
    area.text(x, y + 12, layer_name(name, _CELL - 6, 8), color=INK)
    for i, line in enumerate(lines, 1):
        area.text(x, y + 12 + i * _LINE, fitted(line, _CELL - 6, 7.5), size=7.5, color=QUIET)


def _units_of(layer: Layer) -> str:
    """How many maps of what size, or units; of what has none, such as tokens, the shape."""
    if layer.has_maps:
        return f"{layer.channels:,} maps, {' x '.join(map(str, layer.map_size))}"
    if layer.has_units:
        return f"{layer.channels:,} units"
    return " x ".join(map(str, layer.shape))


def _window_of(layer: Layer) -> str:
    """``7 x 7, stride 2``; a fully connected layer's kind."""
    if layer.kernel is None:
        return layer.kind
    words = " x ".join(map(str, layer.kernel))
    if layer.stride is not None and max(layer.stride) > 1:
        y, x = layer.stride
        words += f", stride {y}" if y == x else f", stride {y} x {x}"
    return words
