"""The effective field of a layer: where the signal of its projections is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ENERGY = 0.95
"""The share of a projection's energy that the effective field holds, in the mean over exemplars."""
LARGEST = 0.8
"""An effective field whose sides are more than this share of the receptive field's is not cut to:
little would be won, and the offset within the receptive field lost."""
SMALLEST = 32
"""A receptive field of up to so many pixels a side is not cut either: they are shown one by one."""
_STEPS = 64
_SAMPLED = 64  # exemplars that it is measured on


@dataclass(frozen=True, eq=False)
class Window:
    """A box of one size in each of n tiles.

    Attributes:
        top, left: (n,) int64: its first row and column in the tile, which may lie before the tile.
        size: (height, width).
    """

    top: Tensor
    left: Tensor
    size: tuple[int, int]

    def cut(self, tiles: Tensor) -> Tensor:
        """What is in the boxes of tiles (n, c, h, w): (n, c, *size); 0 beyond the tiles."""
        rows, columns = self._indices(tiles)
        height, width = tiles.shape[-2:]
        n = torch.arange(len(tiles))[:, None, None]
        y, x = rows[:, :, None], columns[:, None, :]
        values = tiles.permute(0, 2, 3, 1)[n, y.clamp(0, height - 1), x.clamp(0, width - 1)]
        is_there = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        return (values * is_there[..., None]).permute(0, 3, 1, 2).contiguous()

    def _indices(self, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """The rows (n, height) and the columns (n, width) of the tiles."""
        height, width = self.size
        return self.top[:, None] + torch.arange(height), self.left[:, None] + torch.arange(width)

    def share(self, energies: Tensor) -> Tensor:
        """How much of the energy (n, h, w) of each tile is in its box, (n,) in [0, 1]."""
        inner = self.cut(energies[:, None]).sum(dim=(1, 2, 3))
        return inner / energies.sum(dim=(1, 2))


def window(centers: Tensor, visible: Tensor, size: tuple[int, int]) -> Window:
    """Boxes of one size around centres, moved as far as they are to show what is visible.

    Args:
        centers: (n, 2) int64, (y, x) in a tile.
        visible: (n, h, w) bool, a box of each tile.
        size: (height, width).
    """
    top = _first(centers[:, 0], visible.any(dim=2), size[0])
    left = _first(centers[:, 1], visible.any(dim=1), size[1])
    return Window(top, left, size)


def _first(center: Tensor, visible: Tensor, size: int) -> Tensor:
    """Along an axis, where boxes of a size begin: within what is visible, or around all of it."""
    low = visible.byte().argmax(dim=1)
    high = low + visible.sum(dim=1)
    bounds = torch.stack([low, high - size])
    return (center - size // 2).maximum(bounds.amin(dim=0)).minimum(bounds.amax(dim=0))


def effective_size(signals: Tensor, visible: Tensor, centers: Tensor) -> tuple[int, int]:
    """The sides of the smallest box, shaped as the tile and centred on the receptive field, that
    holds `ENERGY` of the energy, in the mean over exemplars.

    Args:
        signals: (n, c, h, w), of which a sample is measured, evenly spread.
        visible: (n, h, w) bool.
        centers: (n, 2) int64, (y, x) in a tile.

    Returns:
        (height, width), those of the tile where no exemplar has a signal.

    Source: Luo et al., Understanding the Effective Receptive Field in Deep Convolutional Neural
        Networks, NeurIPS 2016.
    """
    height, width = visible.shape[-2:]
    filled = (signals != 0).flatten(1).any(dim=1).nonzero().flatten()
    step = max(1, len(filled) // _SAMPLED)
    chosen = filled[::step]
    if not len(chosen):
        return height, width
    largest = signals[chosen].abs().amax(dim=(1, 2, 3), keepdim=True)
    energies = (signals[chosen] / largest).square().sum(dim=1)
    low, high = 1, _STEPS  # the share rises with the size
    while low < high:
        middle = (low + high) // 2
        own = window(centers[chosen], visible[chosen], _part(height, width, middle))
        if own.share(energies).mean() >= ENERGY:
            high = middle
        else:
            low = middle + 1
    return _part(height, width, low)


def _part(height: int, width: int, steps: int) -> tuple[int, int]:
    """So many of `_STEPS` steps of both sides."""
    return -(-height * steps // _STEPS), -(-width * steps // _STEPS)
