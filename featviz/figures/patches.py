"""Exemplars of all layers on one page, as the paper's figure 2 has them."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch
from matplotlib.figure import Figure

from featviz.figures.blocks import unit_block
from featviz.figures.page import DPI, INK, QUIET, field_of
from featviz.records.exemplars import Exemplars
from featviz.tiles import PAPER
from featviz.units import Layer

_HEAD, _LABEL, _GAP, _MARGIN = (
    44,
    15,
    10,
    16,
)  # pixels: above a layer, above a unit, between units, around the page


def top_patches(
    layers: Sequence[tuple[Layer, Exemplars]],
    *,
    rule: str | None = None,
    tile: int = 54,
    columns: int | None = None,
    heading: str = "",
) -> Figure:
    """Figure 2 of the paper: for some units of every layer the k projections, and beside them the
    patches that caused them.

    Args:
        layers: in order, each with the exemplars of the units to show.
        rule: which projections, if there are several; None: the first.
        tile: side of a tile in pixels.
        columns: units beside each other; None: 3 or 4, whichever fills the rows.
        heading: said first in the title.
    """
    rule = rule or next(iter(layers[0][1].projections))
    blocks = [
        [unit_block(exemplars, row, rule, tile) for row in range(len(exemplars.channels))]
        for _, exemplars in layers
    ]
    most = max(map(len, blocks))
    columns = columns or min((4, 3), key=lambda c: (-most % c, -c))
    across = max(1, min(columns, most))
    wide = max(block.shape[2] for row in blocks for block in row)
    heights = [
        _HEAD + ceil(len(row) / across) * (_LABEL + row[0].shape[1] + _GAP) if row else _HEAD
        for row in blocks
    ]
    width, height = max(2 * _MARGIN + across * (wide + 2 * _GAP), 640), 78 + sum(heights) + _MARGIN
    page = torch.full((3, height, width), PAPER, dtype=torch.uint8)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    top = 78
    for (info, exemplars), row, tall in zip(layers, blocks, heights, strict=True):
        axes.text(_MARGIN, top + 12, info.name, size=10, weight="bold", color=INK, va="center")
        axes.text(_MARGIN, top + 28, _described(info), size=7.5, color=QUIET, va="center")
        for i, (channel, block) in enumerate(zip(exemplars.channels, row, strict=True)):
            y = top + _HEAD + _LABEL + (i // across) * (_LABEL + block.shape[1] + _GAP)
            x = _MARGIN + (i % across) * (wide + 2 * _GAP)
            page[:, y : y + block.shape[1], x : x + block.shape[2]] = block
            note = f"{channel}: dead, no image activates it" if exemplars.dead[i] else str(channel)
            axes.text(x, y - 3, note, size=7, color=INK, va="bottom")
        top += tall
    axes.imshow(page.permute(1, 2, 0).numpy(), interpolation="none", extent=(0, width, height, 0))
    k = layers[0][1].scores.shape[1]
    axes.text(
        _MARGIN,
        22,
        f"{heading + ': ' if heading else ''}the {k} strongest responses of random feature maps",
        size=11,
        weight="bold",
        color=INK,
        va="center",
    )
    note = f"left: {rule} projections (middle grey = 0, contrast the same within a unit)\nright: the image patches that caused them"
    axes.text(_MARGIN, 36, note, size=8, color=QUIET, va="top", linespacing=1.4)
    return figure


def _described(info: Layer) -> str:
    maps = f" of {info.shape[1]} x {info.shape[2]}" if len(info.shape) == 3 else ""
    return f"{info.shape[0]} maps{maps}, receptive field {field_of(info)}"
