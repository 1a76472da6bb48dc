"""Tensors to 8-bit tiles and sheets of tiles; knows no model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PAPER = 255
"""The gray between tiles."""
OUTSIDE = 232
"""The gray of a tile where it lies beyond the edge of its image."""


def to_uint8(images: Tensor) -> Tensor:
    """[0, 1] to 0 to 255, any shape; values outside are clipped."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def signed(values: Tensor, scale: Tensor) -> Tensor:
    """Signed values to [0, 1]: zero is middle gray, plus and minus ``scale`` white and black.
    ``scale`` broadcasts.
    """
    return (values / scale.clamp(min=torch.finfo(values.dtype).tiny) + 1) / 2


def contrast(projections: Tensor) -> Tensor:
    """One scale for the k projections of a unit, (k, c, h, w) to a number: the 99.5th percentile of
    the magnitudes above zero.

    The few values beyond it are clipped; scaled by the largest, most of a projection would be too
    faint to be made out.
    """
    magnitudes = projections.abs()
    above = magnitudes[magnitudes > 0]
    if not len(above):
        return projections.new_ones(())
    return above.kthvalue(max(1, round(0.995 * len(above)))).values


def resized(tiles: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, c, h, w) to (n, c, *size): small tiles keep their pixels as squares, large ones are
    averaged down.
    """
    if size[0] >= tiles.shape[-2]:
        return F.interpolate(tiles, size, mode="nearest")
    return F.interpolate(tiles, size, mode="bilinear", antialias=True)


def sheet(tiles: Tensor, columns: int, gap: int = 1, fill: int = PAPER) -> Tensor:
    """Tiles (n, c, h, w) uint8 laid out in rows, ``gap`` pixels of ``fill`` between them: (c, H, W)
    uint8.
    """
    n, c, h, w = tiles.shape
    rows = -(-n // columns)
    height = rows * (h + gap) - gap
    width = columns * (w + gap) - gap
    canvas = tiles.new_full((c, height, width), fill)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        top, left = row * (h + gap), column * (w + gap)
        canvas[:, top : top + h, left : left + w] = tile
    return canvas


def picture_tiles(patches: Tensor, visible: Tensor, size: tuple[int, int]) -> Tensor:
    """Patches as tiles.

    Args:
        patches: (k, c, h, w) in [0, 1]; where c is not 3, their mean over channels is shown.
        visible: (k, h, w) bool, False beyond the edge of the image, which is light gray.
        size: (height, width) of a tile in pixels.

    Returns:
        (k, 3, *size) uint8.
    """
    # gray before they are resized, so that no edge turns dark
    filled = torch.where(visible[:, None], patches, _outside(patches))
    return _shown(resized(filled, size), visible)


def signal_tiles(projections: Tensor, visible: Tensor, size: tuple[int, int]) -> Tensor:
    """A unit's projections (k, c, h, w) as tiles, as `picture_tiles` does: zero is middle gray, and
    the k share one contrast.
    """
    # resized before they are scaled: averaging makes fine signals fainter, and the contrast is that
    # of the pixels that are drawn
    signals = resized(projections, size)
    return _shown(signed(signals, contrast(signals)), visible)


def _shown(values: Tensor, visible: Tensor) -> Tensor:
    if values.shape[1] != 3:
        values = values.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    kept = F.interpolate(visible[:, None].float(), values.shape[-2:], mode="nearest") > 0.5
    return to_uint8(torch.where(kept, values, _outside(values)))


def _outside(like: Tensor) -> Tensor:
    return like.new_tensor(OUTSIDE / 255)
