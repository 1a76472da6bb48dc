"""A unit's tiles, as several figures lay them out."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt

import torch
from torch import Tensor

from featviz.records.exemplars import Exemplars
from featviz.tiles import PAPER, picture_tiles, sheet, signal_tiles

_DEAD = 244


def tile_size(shape: Sequence[int], side: int) -> tuple[int, int]:
    """(height, width) of a tile of pictures (..., h, w) whose longer side is ``side``."""
    height, width = shape[-2:]
    longer = max(height, width)
    return max(1, round(side * height / longer)), max(1, round(side * width / longer))


def unit_tiles(exemplars: Exemplars, row: int, rule: str, side: int) -> Tensor:
    """One unit's projections and patches as tiles: (2, k, 3, h, w) uint8, the longer side ``side``."""
    inside = exemplars.inside[row]
    size = tile_size(inside.shape, side)
    signals, patches = exemplars.projections[rule][row], exemplars.patches[row]  # (k, c, h, w)
    return torch.stack([signal_tiles(signals, inside, size), picture_tiles(patches, inside, size)])


def unit_block(exemplars: Exemplars, row: int, rule: str, side: int) -> Tensor:
    """One unit: a square of projections and one of patches, side by side, (3, H, W) uint8; blank if
    it is dead.
    """
    tiles = unit_tiles(exemplars, row, rule, side)
    if exemplars.dead[row]:
        tiles = torch.full_like(tiles, _DEAD)
    left, right = (sheet(half, ceil(sqrt(len(half)))) for half in tiles)
    return torch.cat([left, left.new_full((3, left.shape[1], 4), PAPER), right], dim=2)
