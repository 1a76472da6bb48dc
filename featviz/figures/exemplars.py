"""Exemplars and their projections: the grid of a layer, and a whole network on one page."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt
from textwrap import wrap
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from featviz.figures.blocks import unit_block, unit_tiles
from featviz.figures.page import DPI, INK, QUIET, field_of
from featviz.records.exemplars import Exemplars
from featviz.tiles import PAPER, sheet
from featviz.units import Layer

_LABEL, _GAP, _MARGIN = 16, 10, 14  # pixels: above a block, between blocks, around the page


def grid(
    exemplars: Exemplars,
    info: Layer,
    *,
    rule: str | None = None,
    tile: int | None = None,
    columns: int | None = None,
    heading: str = "",
) -> Figure:
    """Figure 2 of the paper for one layer: for each unit its k projections, and beside them the
    patches that caused them.

    Within a unit, exemplars run from the strongest at the top left. Zero is middle grey; the
    contrast of the projections is the same for the k of a unit (`featviz.tiles.contrast`). Units
    that no image activates are named, not drawn.

    Args:
        exemplars: from `featviz.project_exemplars`.
        info: the layer, from ``scan.layers``.
        rule: which projections, if there are several; None: the first.
        tile: side of a tile in pixels; None: twice the receptive field, between 22 and 56.
        columns: units in a row; None: as many as make the page a little wider than high.
        heading: said first in the title, such as the model's name.
    """
    rule = rule or next(iter(exemplars.projections))
    side = tile or max(22, min(56, 2 * max(info.field.size)))
    blocks = [unit_block(exemplars, row, rule, side) for row in range(len(exemplars.channels))]
    height, width = blocks[0].shape[1:]
    n = len(blocks)
    columns = columns or _columns(n, (width + _GAP) / (height + _LABEL + _GAP))
    rows = ceil(n / columns)
    page, places = _page(blocks, rows, columns)
    lines = [
        f"{heading + ': ' if heading else ''}{info.name}, {info.kind}, {info.shape[0]} channels"
        + (f" of {info.shape[1]} x {info.shape[2]}" if len(info.shape) == 3 else "")
        + f", receptive field {field_of(info)}",
        f"left: {rule} projections of the {exemplars.scores.shape[1]} strongest responses, middle grey = 0, "
        "contrast the same within a unit (± the 99.5th percentile of its magnitudes); right: the image patches",
    ]
    figure, axes = _canvas(page, lines)
    for channel, dead, (left, top) in zip(
        exemplars.channels, exemplars.dead.tolist(), places, strict=True
    ):
        axes.text(left, top - 3, str(channel), size=7, color=INK, ha="left", va="bottom")
        if dead:
            middle = left + width / 2, top + height / 2
            axes.text(
                *middle,
                "dead: no image activates it",
                size=7,
                color=QUIET,
                ha="center",
                va="center",
            )
    return figure


def overview(
    layers: Sequence[tuple[Layer, Exemplars]],
    *,
    rule: str | None = None,
    tile: int = 56,
    heading: str = "",
) -> Figure:
    """A whole network on one page: a row for each layer, the strongest exemplar of some units,
    projection above patch.

    Args:
        layers: in order, each with the exemplars of the units to show; rows may differ in length.
        rule: which projections, if there are several; None: the first.
        tile: side of a tile in pixels.
        heading: said first in the title.
    """
    rule = rule or next(iter(layers[0][1].projections))
    strips = []
    for _, exemplars in layers:
        rows = [i for i in range(len(exemplars.channels)) if not exemplars.dead[i]]
        pairs = [unit_tiles(exemplars, i, rule, tile)[:, 0] for i in rows]  # (2, 3, tile, tile)
        blank = torch.full((2, 3, tile, tile), PAPER, dtype=torch.uint8)
        ordered = torch.stack(pairs or [blank], dim=1)  # (2, units, 3, tile, tile)
        strips.append(sheet(ordered.flatten(0, 1), columns=ordered.shape[1], gap=2))
    width = max(strip.shape[2] for strip in strips)
    head = 34
    page = torch.full((3, sum(s.shape[1] + head for s in strips), width), PAPER, dtype=torch.uint8)
    top, places = 0, []
    for strip in strips:
        top += head
        page[:, top : top + strip.shape[1], : strip.shape[2]] = strip
        places.append(top)
        top += strip.shape[1]
    lines = [
        heading,
        f"the strongest response of each unit: {rule} projection above its image patch",
    ]
    figure, axes = _canvas(page, [line for line in lines if line])
    for (info, exemplars), top in zip(layers, places, strict=True):
        axes.text(0, top - 16, f"{info.name}", size=9, weight="bold", color=INK, va="bottom")
        size = f"{info.shape[1]} x {info.shape[2]}" if len(info.shape) == 3 else "1 x 1"
        note = f"{info.kind}, {info.shape[0]} channels of {size}, field {field_of(info)}; units {_listed(exemplars)}"
        axes.text(0, top - 3, note, size=7, color=QUIET, va="bottom")
    return figure


def _columns(n: int, aspect: float) -> int:
    """As many blocks in a row as make a page a little wider than high, and leave few places of its
    last row empty.
    """
    ideal = sqrt(1.3 * n / aspect)
    near = range(max(1, round(0.7 * ideal)), min(n, round(1.4 * ideal)) + 1)
    return min(near, key=lambda c: (-n % c) / c + abs(c - ideal) / ideal, default=n)


def _listed(exemplars: Exemplars) -> str:
    return (
        ", ".join(
            str(c)
            for c, dead in zip(exemplars.channels, exemplars.dead.tolist(), strict=True)
            if not dead
        )
        or "all dead"
    )


def _page(blocks: list[Tensor], rows: int, columns: int) -> tuple[Tensor, list[tuple[int, int]]]:
    height, width = blocks[0].shape[1:]
    page = torch.full(
        (3, rows * (height + _LABEL + _GAP), columns * (width + _GAP)), PAPER, dtype=torch.uint8
    )
    places = []
    for i, block in enumerate(blocks):
        top, left = (
            (i // columns) * (height + _LABEL + _GAP) + _LABEL,
            (i % columns) * (width + _GAP),
        )
        page[:, top : top + height, left : left + width] = block
        places.append((left, top))
    return page, places


def _canvas(page: Tensor, lines: list[str]) -> tuple[Figure, Any]:
    """A figure on which one pixel of ``page`` is one pixel at 100 dpi, below a title."""
    height, width = page.shape[1:]
    total_w = max(width + 2 * _MARGIN, 620)
    text = total_w - 2 * _MARGIN
    styled = [(part, True) for part in wrap(lines[0], int(text / 8.6))]
    styled += [(part, False) for line in lines[1:] for part in wrap(line, int(text / 5.6))]
    head = 26 + 18 * len(styled)
    total_h = height + head + _MARGIN
    figure = Figure(figsize=(total_w / DPI, total_h / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes(
        (_MARGIN / total_w, _MARGIN / total_h, width / total_w, height / total_h)
    )
    axes.imshow(page.permute(1, 2, 0).numpy(), interpolation="none", extent=(0, width, height, 0))
    axes.set_axis_off()
    for i, (line, bold) in enumerate(styled):
        figure.text(
            _MARGIN / total_w,
            1 - (18 + 18 * i) / total_h,
            line,
            va="center",
            size=10 if bold else 8,
            weight="bold" if bold else "normal",
            color=INK if bold else QUIET,
        )
    return figure, axes
