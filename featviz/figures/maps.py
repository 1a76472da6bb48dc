"""Activation maps: an image's, layer by layer, and one network's on images of several sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from featviz.figures.page import DPI, INK, QUIET, field_of
from featviz.units import Layer

_TILE, _GAP, _MARGIN, _SIDE = (
    72,
    8,
    16,
    130,
)  # pixels: a map, between maps, around the page, for the names of layers


def activation_maps(
    image: Tensor,
    layers: Sequence[tuple[Layer, Sequence[int], Tensor]],
    *,
    title: str = "",
    kept: int = 12,
) -> Figure:
    """A row for each layer: the maps that one image activates most, the strongest first.

    Args:
        image: (c, h, w) in [0, 1].
        layers: in order: the layer, its channels from the strongest on, and their maps (n, h, w).
        title: in bold.
        kept: maps in a row.
    """
    side, left, top, row = 2 * _TILE + 26, _MARGIN + 2 * _TILE + 50, 80, _TILE + 26
    names = max(_SIDE, 20 + round(7.6 * max(len(info.name) for info, *_ in layers)))
    width = left + names + kept * (_TILE + _GAP) + _MARGIN
    height = top + max(len(layers) * row, side) + _MARGIN - 8
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    _text(
        figure,
        _MARGIN,
        20,
        title or "activation maps",
        width,
        height,
        size=11,
        weight="bold",
        color=INK,
    )
    note = "each layer's strongest maps; above each its channel and its largest value. Black is zero or below, white the largest value"
    _text(figure, _MARGIN, 42, note, width, height, size=8, color=QUIET)
    _axes(figure, _MARGIN, top, side, side, width, height).imshow(
        shown(image), interpolation="nearest"
    )
    for i, (info, channels, maps) in enumerate(layers):
        y = top + i * row
        _text(figure, left, y + 20, info.name, width, height, size=9, weight="bold", color=INK)
        size = f"{info.shape[1]} x {info.shape[2]}" if len(info.shape) == 3 else "1 x 1"
        _text(
            figure,
            left,
            y + 37,
            f"{info.shape[0]} maps, {size}",
            width,
            height,
            size=7.5,
            color=QUIET,
        )
        _text(figure, left, y + 52, f"field {field_of(info)}", width, height, size=7.5, color=QUIET)
        for j, (channel, plane) in enumerate(zip(channels[:kept], maps[:kept], strict=True)):
            x = left + names + j * (_TILE + _GAP)
            axes = _axes(figure, x, y, _TILE, _TILE, width, height)
            most = float(plane.max())
            axes.imshow(
                plane.numpy(),
                cmap="gray",
                vmin=0,
                vmax=most if most > 0 else 1,
                interpolation="nearest",
            )
            _text(figure, x, y - 8, f"{channel}", width, height, size=7, color=INK)
            _text(
                figure,
                x + _TILE,
                y - 8,
                _short(most),
                width,
                height,
                size=7,
                color=QUIET,
                ha="right",
            )
    return figure


def filters_and_maps(
    image: Tensor, filters: Tensor, channels: Sequence[int], maps: Tensor, *, title: str = ""
) -> Figure:
    """Many filters of a first layer, each above the map that it makes of one image.

    Args:
        image: (c, h, w) in [0, 1].
        filters: (n, c, k, k) with c 3, or others, which are averaged.
        channels: which the n are.
        maps: (n, h, w), before rectification; zero is middle grey.
        title: in bold.
    """
    across = min(8, len(channels))
    rows = -(-len(channels) // across)
    pair = _TILE + 34 + 20
    left = _MARGIN + 190
    width, height = left + across * (_TILE + _GAP) + _MARGIN, 66 + max(rows * pair, 200) + _MARGIN
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    _text(
        figure,
        _MARGIN,
        20,
        title or "filters and their maps",
        width,
        height,
        size=11,
        weight="bold",
        color=INK,
    )
    note = "each filter makes one map: it is laid over every place of the image with the same numbers. Middle grey = 0"
    _text(figure, _MARGIN, 40, note, width, height, size=8, color=QUIET)
    _axes(figure, _MARGIN, 66, 170, 170, width, height).imshow(
        shown(image), interpolation="nearest"
    )
    for i, (channel, plane) in enumerate(zip(channels, maps, strict=True)):
        x, y = left + (i % across) * (_TILE + _GAP), 66 + (i // across) * pair
        one = (
            filters[i]
            if filters.shape[1] == 3
            else filters[i].mean(dim=0, keepdim=True).expand(3, -1, -1)
        )
        one = one / one.abs().max().clamp(min=1e-12) / 2 + 0.5
        _axes(figure, x, y, 34, 34, width, height).imshow(shown(one), interpolation="nearest")
        _text(figure, x + 40, y + 17, str(channel), width, height, size=7, color=QUIET)
        most = float(plane.abs().max()) or 1.0
        axes = _axes(figure, x, y + 38, _TILE, _TILE, width, height)
        axes.imshow(plane.numpy(), cmap="gray", vmin=-most, vmax=most, interpolation="nearest")
    return figure


def map_sizes(
    images: Sequence[Tensor],
    maps: Mapping[str, Sequence[Tensor]],
    *,
    title: str = "",
    note: str = "",
) -> Figure:
    """One network on one picture at several sizes: a column for each size, drawn to scale, a row
    for each layer.

    Args:
        images: (c, h, w) in [0, 1], of growing size.
        maps: by layer, one (h, w) for each image.
        title: in bold.
        note: below it.
    """
    largest = max(image.shape[-1] for image in images)
    scale = min(1.2, 900 / sum(image.shape[-1] for image in images))
    widths = [max(56, round(image.shape[-1] * scale)) for image in images]
    tall = round(largest * scale * max(i.shape[-2] / i.shape[-1] for i in images))
    row, left = 120, _MARGIN + 70
    width = max(left + sum(widths) + 3 * _GAP * len(widths) + _MARGIN, 640)
    height = 70 + tall + 46 + len(maps) * (row + 20) + _MARGIN
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    _text(
        figure,
        _MARGIN,
        20,
        title or "one network, several sizes",
        width,
        height,
        size=11,
        weight="bold",
        color=INK,
    )
    _text(figure, _MARGIN, 40, note, width, height, size=8, color=QUIET)
    x = left
    for i, (image, wide) in enumerate(zip(images, widths, strict=True)):
        h, w = (round(side * scale) for side in image.shape[-2:])
        _axes(figure, x, 66 + tall - h, w, h, width, height).imshow(
            shown(image), interpolation="nearest"
        )
        _text(figure, x, 66 + tall + 12, _size(image), width, height, size=8, color=INK)
        for j, (name, planes) in enumerate(maps.items()):
            y = 66 + tall + 40 + j * (row + 20)
            plane = planes[i]
            # maps of one layer are drawn to scale with each other
            most = max(max(p.shape) for p in planes)
            side = [max(8, round(min(row, widths[-1]) * n / most)) for n in plane.shape]
            axes = _axes(figure, x, y, side[1], side[0], width, height)
            axes.imshow(
                plane.numpy(),
                cmap="gray",
                vmin=0,
                vmax=max(float(plane.max()), 1e-12),
                interpolation="nearest",
            )
            _text(figure, x, y + side[0] + 9, _size(plane), width, height, size=7.5, color=QUIET)
            if i == 0:
                _text(
                    figure, _MARGIN, y + 10, name, width, height, size=9, weight="bold", color=INK
                )
        x += wide + 3 * _GAP
    return figure


def shown(image: Tensor) -> Any:
    """(c, h, w) in [0, 1] as matplotlib takes it."""
    image = image if image.shape[0] == 3 else image.mean(dim=0, keepdim=True).expand(3, -1, -1)
    return np.asarray(image.clamp(0, 1).permute(1, 2, 0))


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2g}"


def _size(plane: Tensor) -> str:
    return f"{plane.shape[-2]} x {plane.shape[-1]}"


def _axes(
    figure: Figure, x: float, y: float, w: float, h: float, width: float, height: float
) -> Any:
    """Axes without frame at pixels from the top left."""
    axes = figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))
    axes.set_axis_off()
    return axes


def _text(
    figure: Figure, x: float, y: float, text: str, width: float, height: float, **style: Any
) -> None:
    figure.text(x / width, 1 - y / height, text, va="center", **style)
