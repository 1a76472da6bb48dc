"""Activation maps: an image's, layer by layer, and one network's on images of several sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import NamedTuple

from matplotlib.figure import Figure
from torch import Tensor

from featviz.errors import UsageError
from featviz.figures.page import QUIET, AnyFigure, field_of, new_page, short, titled
from featviz.figures.text import layer_name, text_width
from featviz.units import Layer

_TILE, _GAP = 72, 8  # pixels: a map, between maps
_FILTER = 34  # pixels: a filter


class LayerMaps(NamedTuple):
    """Some activation maps of one layer for one image.

    Attributes:
        layer: whose maps they are.
        channels: which, from the strongest on.
        maps: (n, h, w), one for each channel.
    """

    layer: Layer
    channels: Sequence[int]
    maps: Tensor


def activation_maps(
    image: Tensor,
    layers: Sequence[LayerMaps],
    *,
    kept: int = 12,
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """A row for each layer: the maps that one image activates most, the strongest first.

    Args:
        image: (c, h, w) in [0, 1].
        layers: in order, each with its maps, of any sign.
        kept: at most so many maps in a row.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        UsageError: there are no layers.

    Example:
        >>> import torch
        >>> from featviz import anatomy, figures, load_model, read
        >>> from featviz.figures import LayerMaps
        >>> model, image = load_model("zfmini"), torch.rand(3, 96, 96)
        >>> layer = anatomy(model, (3, 96, 96))["conv1"]
        >>> maps = read(model, image[None], layer)["conv1"][0, :4]
        >>> figure = figures.activation_maps(image, [LayerMaps(layer, [0, 1, 2, 3], maps)])
    """
    if not layers:
        raise UsageError("0 layers: give the maps of at least 1", "layers")
    side = 2 * _TILE + 26
    words = [_words(own.layer) for own in layers]
    beside = 16 + max(_words_width(*lines) for lines in words)
    left = side + 20
    start = left + beside
    most = min(kept, max(len(own.channels) for own in layers))
    width = start + most * (_TILE + _GAP) - _GAP
    row = _TILE + 26
    height = max(len(layers) * row - 10, 16 + side)
    title = titled(heading, "activation maps")
    notes = [
        "Each layer's strongest maps; above each its channel and its largest value. Black is "
        "zero or below, white the "
        "largest value."
    ]
    area = new_page(width, height, title, notes, fig)
    area.image(0, 16, side, side, image)
    for i, (own, (name, units, field)) in enumerate(zip(layers, words, strict=True)):
        y = 16 + i * row
        area.text(left, y + 10, name, size=9, weight="bold")
        area.text(left, y + 27, units, size=7.5, color=QUIET)
        area.text(left, y + 42, field, size=7.5, color=QUIET)
        shown = list(zip(own.channels, own.maps.detach(), strict=True))[:kept]
        for j, (channel, plane) in enumerate(shown):
            x = start + j * (_TILE + _GAP)
            largest = float(plane.max())
            white = largest if largest > 0 else 1.0
            area.plane(x, y, _TILE, _TILE, plane, 0, white)
            area.text(x, y - 8, str(channel), size=7)
            area.text(x + _TILE, y - 8, short(largest), size=7, color=QUIET, ha="right")
    return area.finish()


def _words(layer: Layer) -> tuple[str, str, str]:
    """What stands beside a row: the layer's name, its maps, its receptive field."""
    height, width = layer.map_size
    units = f"{layer.channels} maps of {height} x {width}"
    return layer_name(layer.name, 180, 9, bold=True), units, f"field {field_of(layer)}"


def _words_width(name: str, units: str, field: str) -> float:
    return max(text_width(name, 9, bold=True), text_width(units, 7.5), text_width(field, 7.5))


def filters_and_maps(
    image: Tensor,
    filters: Tensor,
    channels: Sequence[int],
    maps: Tensor,
    *,
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """Many filters of a first layer, each above the map that it makes of one image.

    Args:
        image: (c, h, w) in [0, 1].
        filters: (n, c, k, k), of any sign.
        channels: which the n are.
        maps: (n, h, w), before rectification; zero is middle grey.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Example:
        >>> import torch
        >>> from featviz import figures, load_model
        >>> conv, image = load_model("zfmini").conv1, torch.rand(3, 96, 96)
        >>> maps = conv(image[None])[0, :8].detach()
        >>> figure = figures.filters_and_maps(image, conv.weight[:8], range(8), maps)
    """
    across = min(8, len(channels))
    rows = ceil(len(channels) / across)
    pair = _FILTER + 4 + _TILE + 16
    side, left = 170, 190
    width = left + across * (_TILE + _GAP) - _GAP
    notes = [
        "Each filter makes one map: it is laid over every position of the image with the same "
        "weights. Above each map its "
        "filter and its channel; middle grey = 0."
    ]
    height = max(rows * pair - 16, side)
    area = new_page(width, height, titled(heading, "filters and their maps"), notes, fig)
    area.image(0, 0, side, side, image)
    for i, (channel, plane) in enumerate(zip(channels, maps.detach(), strict=True)):
        row, column = divmod(i, across)
        x, y = left + column * (_TILE + _GAP), row * pair
        area.image(x, y, _FILTER, _FILTER, _filter(filters[i].detach()))
        area.text(x + _FILTER + 6, y + _FILTER / 2, str(channel), size=7, color=QUIET)
        most = float(plane.abs().max()) or 1.0
        area.plane(x, y + _FILTER + 4, _TILE, _TILE, plane, -most, most)
    return area.finish()


def _filter(weights: Tensor) -> Tensor:
    """A filter as an image in [0, 1]: zero is middle grey, the largest magnitude black or white."""
    if weights.shape[0] != 3:
        weights = weights.mean(dim=0, keepdim=True)  # first, so that the mean has the full contrast
    return weights / weights.abs().max().clamp(min=1e-12) / 2 + 0.5


def map_sizes(
    images: Sequence[Tensor],
    maps: Mapping[str, Sequence[Tensor]],
    *,
    heading: str = "",
    note: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """One network on one picture at several sizes: a column for each size, drawn to scale, a row
    for each layer.

    Args:
        images: (c, h, w) in [0, 1], of growing size.
        maps: by layer, or whatever names a row, one (h, w) for each image.
        heading: comes first in the title.
        note: below it.
        fig: a figure, or part of one, to draw into; None: a new one.

    Example:
        >>> import torch
        >>> from featviz import figures
        >>> sizes = (32, 64)
        >>> images = [torch.rand(3, side, side) for side in sizes]
        >>> maps = {"conv1": [torch.rand(side // 2, side // 2) for side in sizes]}
        >>> figure = figures.map_sizes(images, maps)
    """
    scale = min(1.2, 900 / sum(image.shape[-1] for image in images))
    widths = [max(64, round(image.shape[-1] * scale)) for image in images]
    tall = round(scale * max(image.shape[-2] for image in images))
    names = [layer_name(name, 240, 9, bold=True) for name in maps]
    left = max(70, *(text_width(name, 9, bold=True) + 14 for name in names))
    room, step = 120, 146
    row_top = tall + 42
    width = left + sum(widths) + 3 * _GAP * (len(widths) - 1)
    height = row_top + len(maps) * step - 10
    title = titled(heading, "one network on one picture at several sizes")
    notes = [note] if note else []
    notes.append(
        "Above: the pictures, to scale. Below: a map of each layer, to scale within a row; "
        "black is zero or below, white its largest value."
    )
    area = new_page(width, height, title, notes, fig)
    for row, name in enumerate(names):
        area.text(0, row_top + row * step + 10, name, size=9, weight="bold")
    x = left
    for column, (image, wide) in enumerate(zip(images, widths, strict=True)):
        high = scale * image.shape[-2]
        area.image(x, tall - high, scale * image.shape[-1], high, image)
        area.text(x, tall + 12, _size(image))
        for row, planes in enumerate(maps.values()):
            y = row_top + row * step
            largest = max(max(plane.shape) for plane in planes)
            zoom = min(room, widths[-1]) / largest
            plane = planes[column].detach()
            size = [max(8.0, zoom * length) for length in plane.shape]
            area.plane(x, y, size[1], size[0], plane, 0, max(float(plane.max()), 1e-12))
            area.text(x, y + size[0] + 9, _size(plane), size=7.5, color=QUIET)
        x += wide + 3 * _GAP
    return area.finish()


def _size(plane: Tensor) -> str:
    return f"{plane.shape[-2]} x {plane.shape[-1]}"
