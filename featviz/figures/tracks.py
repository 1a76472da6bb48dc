"""Features over training: the paper's figure 4, and when each layer settles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

from featviz.figures.blocks import tile_size
from featviz.figures.page import DPI, INK, QUIET
from featviz.methods.evolve import Evolution, Track
from featviz.tiles import PAPER, sheet, signal_tiles

_HEAD, _GAP, _LEFT, _MARGIN = (
    40,
    30,
    30,
    14,
)  # pixels: above a block, between blocks, for channel numbers, around the page


def evolution(found: Evolution, *, tile: int = 46, columns: int = 3, heading: str = "") -> Figure:
    """Figure 4 of the paper: a block for each layer, a row for each feature, a column for each
    epoch.

    A tile is the projection of the response that is the strongest at that epoch, over all images.
    Where another image has become the strongest since the epoch before, the tile has a mark at its
    top left: features jump there.

    Args:
        found: from `featviz.evolve`.
        tile: side of a tile in pixels.
        columns: blocks beside each other.
        heading: said first in the title.
    """
    blocks = [_block(track, tile) for track in found.layers.values()]
    across = min(columns, len(blocks))
    rows = [blocks[i : i + across] for i in range(0, len(blocks), across)]
    width = _MARGIN + max(sum(_LEFT + b.shape[2] + _GAP for b in row) for row in rows)
    width = max(width, 660)
    top = 74
    height = top + sum(max(b.shape[1] for b in row) + _HEAD + _GAP for row in rows)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    names = iter(found.layers.items())
    y = top
    for row in rows:
        x = _MARGIN + _LEFT
        for block in row:
            name, track = next(names)
            place = (
                x / width,
                1 - (y + _HEAD + block.shape[1]) / height,
                block.shape[2] / width,
                block.shape[1] / height,
            )
            _drawn(figure.add_axes(place), block, name, track, found.epochs, tile)
            x += block.shape[2] + _GAP + _LEFT
        y += max(b.shape[1] for b in row) + _HEAD + _GAP
    note = (
        f"rows: units; columns: epochs. Each tile: {found.rule} projection of the unit's strongest response then\n"
        "(middle grey = 0, contrast of each tile its own). Corner mark: another image is now the strongest."
    )
    _titled(figure, f"{heading + ': ' if heading else ''}features over training", note, height)
    return figure


def settling(found: Evolution, *, heading: str = "") -> Figure:
    """How soon each layer is as it stays: its responses against the last ones, and the strongest
    images that are already final.

    Args:
        found: from `featviz.evolve`.
        heading: said first in the title.
    """
    figure = Figure(figsize=(10.4, 4.4), dpi=DPI, facecolor="white")
    left, right = figure.subplots(1, 2)
    figure.subplots_adjust(left=0.075, right=0.87, top=0.76, bottom=0.14, wspace=0.24)
    colours = _shades(len(found.layers))
    for colour, (name, track) in zip(colours, found.layers.items(), strict=True):
        when = track.settled(found.epochs)
        left.plot(found.epochs, track.remaining, "o-", color=colour, ms=3.5, lw=1.6)
        label = f"{name}: epoch {when:.1f}"
        right.plot(
            found.epochs,
            100 * track.same.double().mean(dim=1),
            "o-",
            color=colour,
            ms=3.5,
            lw=1.6,
            label=label,
        )
    left.axhline(0.5, color=QUIET, lw=0.8, ls=":")
    left.set_ylabel("distance still to go, first checkpoint = 1")
    left.set_title("responses: 1 - correlation with the last", size=9, color=INK)
    right.set_ylabel("% of units")
    right.set_title("strongest image is that of the last epoch", size=9, color=INK)
    right.set_ylim(0, 104)
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.set_xticks(found.epochs)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.legend(
        title="half way at", loc="center right", fontsize=8, title_fontsize=8, frameon=False
    )
    note = "below the dotted line a layer's units have gone more than half the way from the first checkpoint to the last"
    _titled(figure, f"{heading + ': ' if heading else ''}when each layer settles", note, 440)
    return figure


def _shades(n: int) -> list[Any]:
    """Light for low layers, dark for high ones."""
    return [colormaps["viridis_r"](0.12 + 0.83 * i / max(1, n - 1)) for i in range(n)]


def _block(track: Track, side: int) -> Tensor:
    """Projections as tiles, a row for each unit: (3, H, W) uint8."""
    size = tile_size(track.inside.shape, side)
    tiles = []
    for projections, inside, dead in zip(
        track.projections, track.inside, track.dead, strict=True
    ):  # (e, c, h, w), (e, h, w), (e,)
        seen = inside & ~dead[:, None, None]
        tiles += [
            signal_tiles(one[None], mask[None], size)
            for one, mask in zip(projections, seen, strict=True)
        ]
    return sheet(torch.cat(tiles), columns=track.projections.shape[1], gap=2, fill=PAPER)


def _drawn(
    axes: Any, block: Tensor, name: str, track: Track, epochs: Sequence[int], side: int
) -> None:
    height, width = block.shape[1:]
    across, down = (width + 2) / len(epochs), (height + 2) / len(track.channels)
    axes.imshow(block.permute(1, 2, 0).numpy(), interpolation="none", extent=(0, width, height, 0))
    axes.set_axis_off()
    axes.text(0, -20, name, size=9, weight="bold", color=INK, va="bottom")
    for i, epoch in enumerate(epochs):
        axes.text(
            (i + 0.5) * across - 1, -5, str(epoch), size=7, color=QUIET, ha="center", va="bottom"
        )
    for i, channel in enumerate(track.channels):
        axes.text(
            -6, (i + 0.5) * down - 1, str(channel), size=7, color=QUIET, ha="right", va="center"
        )
    for row, column in track.jumped.nonzero().tolist():
        x, y, mark = column * across, row * down, 0.16 * side
        axes.fill([x, x + mark, x], [y, y, y + mark], color="#d9480f", lw=0)
    for row, column in track.dead.nonzero().tolist():
        axes.text(
            (column + 0.5) * across,
            (row + 0.5) * down,
            "dead",
            size=6,
            color=QUIET,
            ha="center",
            va="center",
        )


def _titled(figure: Figure, title: str, note: str, height: int) -> None:
    """A title in bold and a note below it, at the top left."""
    figure.text(0.012, 1 - 18 / height, title, va="center", size=10, weight="bold", color=INK)
    figure.text(0.012, 1 - 32 / height, note, va="top", size=8, color=QUIET, linespacing=1.4)
