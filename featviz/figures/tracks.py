"""Features over training: the paper's figure 4, and when each layer settles."""

from __future__ import annotations

from math import isfinite

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from featviz.errors import UsageError
from featviz.figures.blocks import tile_size
from featviz.figures.page import (
    ACCENT,
    INK,
    QUIET,
    AnyFigure,
    Area,
    Style,
    array,
    new_page,
    plain,
    shades,
    titled,
)
from featviz.figures.text import fitted, layer_name, text_width
from featviz.methods.evolve import Evolution, Track
from featviz.tiles import PAPER, resized, sheet, signal_tiles, to_uint8

_HEAD, _GAP = 36, 26  # pixels: above a block, between blocks


def evolution(
    result: Evolution,
    *,
    tile: int = 46,
    columns: int = 3,
    maximized: bool = False,
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """Figure 4 of the paper: a block for each layer, a row for each feature, a column for each
    epoch.

    A tile is the projection of the response that is the strongest at that epoch, over all images.
    Where another image has become the strongest since the epoch before, the tile has a mark at its
    top left: features jump there.

    Args:
        result: from `featviz.evolve`.
        tile: side of a tile in pixels.
        columns: blocks beside each other.
        maximized: draw the image that was made to drive the unit then, in place of the projection.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        UsageError: no such images were made.

    Source: Zeiler & Fergus, figure 4.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> import torch
        >>> from featviz import evolve, figures, load_model
        >>> from featviz.data import SyntheticImages
        >>> folder = Path(mkdtemp())
        >>> for epoch, weights in ((0, "initial"), (16, None)):
        ...     torch.save(load_model("zfmini", weights).state_dict(), folder / f"epoch-{epoch:03d}.pt")
        >>> result = evolve(load_model("zfmini"), SyntheticImages(8), "conv1", folder, 3)
        >>> figure = figures.evolution(result, heading="zfmini")
    """
    names = list(result)
    block = _images if maximized else _block
    blocks = {name: block(result[name], tile) for name in names}
    left = 8 + max(_numbers_width(track) for track in result.values())
    rows = [names[i : i + columns] for i in range(0, len(names), columns)]
    widths, heights = [], []
    for row in rows:
        widths.append(sum(left + blocks[name].shape[2] + _GAP for name in row) - _GAP)
        heights.append(_HEAD + max(blocks[name].shape[1] for name in row) + _GAP)
    what = (
        f"the {result.rule} projection of the unit's strongest response then (middle grey = 0, light "
        "grey: beyond the edge of the image; each tile has its own contrast)"
    )
    if maximized:
        what = "the image that was made to drive the unit then, from the same noise"
    notes = [
        f"Rows: units. Columns: epochs. Each tile: {what}. Corner mark: another image is now the "
        "strongest."
    ]
    title = titled(heading, "features over training")
    area = new_page(max(widths), sum(heights) - _GAP, title, notes, fig)
    y = 0
    for row, height in zip(rows, heights, strict=True):
        x = left
        for name in row:
            _draw_block(area, x, y + _HEAD, blocks[name], result, name)
            x += blocks[name].shape[2] + _GAP + left
        y += height
    return area.finish()


def settling(result: Evolution, *, heading: str = "", fig: AnyFigure | None = None) -> Figure:
    """How soon each layer converges: the distance of its responses from the last ones, and the share
    of strongest images that are already final.

    Args:
        result: from `featviz.evolve`.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> import torch
        >>> from featviz import evolve, figures, load_model
        >>> from featviz.data import SyntheticImages
        >>> folder = Path(mkdtemp())
        >>> for epoch, weights in ((0, "initial"), (16, None)):
        ...     torch.save(load_model("zfmini", weights).state_dict(), folder / f"epoch-{epoch:03d}.pt")
        >>> result = evolve(load_model("zfmini"), SyntheticImages(8), "conv1", folder, 3)
        >>> figure = figures.settling(result, heading="zfmini")
    """
    labels = [_settled(result, name) for name in result]
    plot, gap = 370, 90
    notes = [
        "Below the dotted line a layer's units have gone more than half the way from the first"
        " checkpoint to the last."
    ]
    legend = 20 + max(text_width(label, 8) for label in labels) + 40
    width = 50 + 2 * plot + gap + legend
    height = max(26 + 270 + 40, 46 + 18 * len(labels))
    area = new_page(width, height, titled(heading, "when each layer settles"), notes, fig)
    left = area.axes(50, 26, plot, 270)
    right = area.axes(50 + plot + gap, 26, plot, 270)
    for shade, label, track in zip(shades(len(labels)), labels, result.values(), strict=True):
        style: Style = {"color": shade, "marker": "o", "markersize": 3.5, "linewidth": 1.6}
        left.plot(result.epochs, array(track.remaining), **style)
        share = 100 * track.same.double().mean(dim=1)
        right.plot(result.epochs, array(share), label=label, **style)
    left.axhline(0.5, color=QUIET, linewidth=0.8, linestyle=":")
    left.set_ylabel("distance still to go, first checkpoint = 1", size=8, color=QUIET)
    left.set_title("responses: 1 - correlation with the last", size=9, color=INK, loc="left")
    left.set_ylim(bottom=0)
    right.set_ylabel("% of units", size=8, color=QUIET)
    right.set_title("strongest image is that of the last epoch", size=9, color=INK, loc="left")
    right.set_ylim(0, 104)
    for axes in (left, right):
        plain(axes)
        axes.set_xlabel("epoch", size=8, color=QUIET)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    x = 50 + 2 * plot + gap + 20
    area.text(x, 34, "half way at", size=8, weight="bold")
    area.legend(x, 46, right, 1)
    return area.finish()


def _settled(result: Evolution, name: str) -> str:
    """A layer's name and the epoch at which it has gone half the way."""
    when = result[name].settled(result.epochs)
    words = f"epoch {when:.1f}" if isfinite(when) else "unknown"
    return f"{layer_name(name, 160, 8)}: {words}"


def _numbers_width(track: Track) -> float:
    return max(text_width(str(channel), 7) for channel in track.channels)


def _block(track: Track, side: int) -> Tensor:
    """Projections as tiles, a row for each unit: (3, H, W) uint8."""
    size = tile_size(track.visible.shape, side)
    visible = track.visible & ~track.dead[:, :, None, None]
    tiles = []
    # one by one, so that each has its own contrast
    for projection, own in zip(track.projections.flatten(0, 1), visible.flatten(0, 1), strict=True):
        tiles.append(signal_tiles(projection[None], own[None], size))
    return sheet(torch.cat(tiles), columns=track.projections.shape[1], gap=2, fill=PAPER)


def _images(track: Track, side: int) -> Tensor:
    """Images that were made to drive units as tiles, a row for each unit: (3, H, W) uint8."""
    if track.maximized is None:
        raise UsageError(
            f"no images were made for the units of layer {track.layer.name!r}: follow them with "
            "evolve(..., maximize=256)",
            "maximized",
        )
    images = track.maximized.flatten(0, 1).expand(-1, 3, -1, -1)
    tiles = to_uint8(resized(images, tile_size(images.shape, side)))
    return sheet(tiles, columns=track.maximized.shape[1], gap=2, fill=PAPER)


def _draw_block(
    area: Area, x: float, y: float, block: Tensor, result: Evolution, name: str
) -> None:
    """A layer's tiles with the numbers of units and epochs, and marks where features jump."""
    track = result[name]
    height, width = block.shape[1:]
    across = (width + 2) / len(result.epochs)
    down = (height + 2) / len(track.channels)
    axes = area.sheet(x, y, block)
    area.text(x, y - 25, fitted(name, width, 9, bold=True), size=9, weight="bold")
    for column, epoch in enumerate(result.epochs):
        middle = x + (column + 0.5) * across - 1
        area.text(middle, y - 8, str(epoch), size=7, color=QUIET, ha="center")
    for row, channel in enumerate(track.channels):
        middle = y + (row + 0.5) * down - 1
        area.text(x - 6, middle, str(channel), size=7, color=QUIET, ha="right")
    mark = 0.2 * min(across, down)
    for row, column in track.jumped.nonzero().tolist():
        left, top = column * across, row * down
        corner = [left, left + mark, left], [top, top, top + mark]
        axes.fill(*corner, facecolor=ACCENT, edgecolor="white", linewidth=0.8)
    for row, column in track.dead.nonzero().tolist():
        middle_x = x + (column + 0.5) * across - 1
        middle_y = y + (row + 0.5) * down - 1
        area.text(middle_x, middle_y, "dead", size=6, color=QUIET, ha="center")
