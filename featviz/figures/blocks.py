"""A unit's tiles, and sheets of several units, as several figures lay them out."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt

import torch
from torch import Tensor

from featviz.errors import UsageError
from featviz.figures.page import QUIET, Area
from featviz.figures.text import text_width
from featviz.records._focus import ENERGY
from featviz.records.exemplars import Exemplars
from featviz.records.maximized import Maximized
from featviz.tiles import PAPER, resized, sheet, to_uint8
from featviz.views import PATCH, VIEWS, ViewsLike, view_tiles, views_for, without_signal

LABEL, GAP = 16, 10  # pixels: above a block, between blocks
DEAD = "dead: no image activates it"
_DEAD_GRAY = 244


def strongest_responses(exemplars: Exemplars) -> str:
    """The caption of the tiles of a unit: how many, k unless there are fewer images; says what ranks
    them if it is not the maximum."""
    k = most_filled(exemplars)
    caption = "strongest response" if k == 1 else f"{k} strongest responses"
    return caption + ranked_by(exemplars)


def most_filled(exemplars: Exemplars) -> int:
    """How many exemplars a unit has: k unless there are fewer images."""
    return int((exemplars.images >= 0).sum(dim=1).max()) or exemplars.k


def ranked_by(exemplars: Exemplars) -> str:
    """`` by quantile:0.99``; empty of the maximum, the usual."""
    return "" if exemplars.score == "max" else f" by {exemplars.score}"


def tile_size(shape: Sequence[int], side: int) -> tuple[int, int]:
    """(height, width) of a tile of pictures (..., h, w) whose longer side is ``side``."""
    height, width = shape[-2:]
    longer = max(height, width)
    return max(1, round(side * height / longer)), max(1, round(side * width / longer))


def unit_tiles(
    exemplars: Exemplars, row: int, rule: str, side: int, views: ViewsLike = None
) -> Tensor:
    """One unit's exemplars in each view, and then its patches, as tiles: (views + 1, n, 3, h, w)
    uint8, the longer side ``side``, n as `most_filled`."""
    size = tile_size(exemplars.visible.shape, side)
    shown = [*views_for(rule, views), PATCH]
    tiles = torch.stack([view_tiles(exemplars, row, rule, view, size) for view in shown])
    return tiles[:, : most_filled(exemplars)]


def unit_block(
    exemplars: Exemplars, row: int, rule: str, side: int, views: ViewsLike = None
) -> Tensor:
    """One unit: a square of tiles for each view and one of patches, side by side, (3, H, W) uint8;
    blank if it is dead."""
    tiles = unit_tiles(exemplars, row, rule, side, views)
    if exemplars.dead[row]:
        tiles = torch.full_like(tiles, _DEAD_GRAY)
    columns = ceil(sqrt(tiles.shape[1]))
    squares = torch.stack([sheet(own, columns) for own in tiles])
    return sheet(squares, len(squares), gap=4)


def unit_blocks(
    exemplars: Exemplars,
    rule: str | None,
    side: int,
    views: ViewsLike = None,
    maximized: Maximized | None = None,
) -> Tensor:
    """The blocks of all units: (units, 3, H, W) uint8; with images that were made to drive units, each
    has its own at its right, or nothing.

    Raises:
        UsageError: there are no units, or no such view.
        RuleError: there are no projections under the rule.
    """
    if not exemplars.channels:
        name = exemplars.layer.name
        raise UsageError(f"0 units of layer {name!r}: give exemplars of at least 1", "channels")
    rule = exemplars.rule(rule)
    rows = range(len(exemplars.channels))
    blocks = torch.stack([unit_block(exemplars, row, rule, side, views) for row in rows])
    if maximized is None:
        return blocks
    images = _images_of(exemplars, maximized, blocks.shape[-2])
    paper = torch.full((*blocks.shape[:-1], 4), PAPER, dtype=torch.uint8)
    return torch.cat([blocks, paper, images], dim=-1)


def _images_of(exemplars: Exemplars, maximized: Maximized, side: int) -> Tensor:
    """The image that was made to drive each unit, the first of its variants, in the middle of a square:
    (units, 3, side, side) uint8."""
    height, width = tile_size(maximized.images.shape, side)
    top, left = (side - height) // 2, (side - width) // 2
    squares = torch.full((len(exemplars.channels), 3, side, side), PAPER, dtype=torch.uint8)
    silent = maximized.silent.tolist()
    for square, channel in zip(squares, exemplars.channels, strict=True):
        unit = exemplars.layer.unit(channel)
        i = maximized.targets.index(unit) if unit in maximized.targets else None
        if i is not None and not silent[i]:
            image = maximized.images[i].expand(3, -1, -1)[None]
            picture = to_uint8(resized(image, (height, width)))[0]
            square[:, top : top + height, left : left + width] = picture
    return squares


def views_note(rule: str, views: ViewsLike) -> str:
    """The caption of what a row of pictures shows."""
    shown = "; ".join(VIEWS[view] for view in views_for(rule, views))
    return f"{shown}; the image patches themselves"


def silent_note(layers: Sequence[Exemplars], rule: str) -> list[str]:
    """The note on exemplars whose pictures say nothing, where there are any."""
    silent = sum(without_signal(exemplars, rule) for exemplars in layers)
    if not silent:
        return []
    return [f"{silent} of the exemplars have no signal under {rule}: their tiles are plain grey."]


def focus_note(layers: Sequence[Exemplars]) -> list[str]:
    """The note on tiles that are cut to the effective field, where there are any."""
    sizes = []
    for exemplars in layers:
        if exemplars.is_focused:
            height, width = exemplars.visible.shape[-2:]
            sizes.append(f"{height}x{width}")
    if not sizes:
        return []
    share = round(100 * ENERGY)
    which = "Tiles are" if len(sizes) == len(layers) else "Tiles of deep layers are"
    return [
        f"{which} cut to the layer's effective field, which holds {share}% of the energy of its "
        f"projections: {', '.join(sizes)} pixels."
    ]


def edge_note(layers: Sequence[Exemplars]) -> list[str]:
    """The note on tiles of which some lies beyond the edge of the image, where there are any."""
    for exemplars in layers:
        drawn = (exemplars.images >= 0) & ~exemplars.dead[:, None]
        if not bool(exemplars.visible[drawn].all()):
            return ["Light grey: beyond the edge of the image."]
    return []


def channels_note(layers: Sequence[Exemplars]) -> list[str]:
    """The note on images whose channels are no colours, where there are any."""
    channels = layers[0].patches.shape[2]
    if channels in (1, 3):
        return []
    return [f"Of the {channels} channels of images and projections the mean is drawn."]


def blocks_size(blocks: Tensor, columns: int) -> tuple[int, int]:
    """(width, height) in pixels of blocks in rows of ``columns``, with their labels."""
    height, width = blocks.shape[-2:]
    rows = ceil(len(blocks) / columns)
    return columns * (width + GAP) - GAP, rows * (LABEL + height + GAP) - GAP


def draw_blocks(
    area: Area, x: float, y: float, exemplars: Exemplars, blocks: Tensor, columns: int
) -> None:
    """Lay a layer's blocks out from (x, y), each below the number of its unit."""
    height, width = blocks.shape[-2:]
    across, down = blocks_size(blocks, columns)
    canvas = torch.full((3, down, across), PAPER, dtype=torch.uint8)
    for i, block in enumerate(blocks):
        row, column = divmod(i, columns)
        left = column * (width + GAP)
        top = LABEL + row * (LABEL + height + GAP)
        canvas[:, top : top + height, left : left + width] = block
        area.text(x + left, y + top - 3, str(exemplars.channels[i]), size=7, va="bottom")
        if exemplars.dead[i]:
            note = DEAD if text_width(DEAD, 7) < width else "dead"
            middle = (x + left + width / 2, y + top + height / 2)
            area.text(*middle, note, size=7, color=QUIET, ha="center")
    area.sheet(x, y, canvas)
