"""Tensors to 8-bit tiles and sheets of tiles; knows no model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PAPER = 255  # what lies between tiles
OUTSIDE = 232  # where a tile lies beyond the edge of its image


def to_uint8(images: Tensor) -> Tensor:
    """[0, 1] to 0 to 255, any shape; what is outside is clipped."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def signed(values: Tensor, scale: Tensor) -> Tensor:
    """Signed values to [0, 1]: zero is middle grey, plus and minus ``scale`` white and black.
    ``scale`` broadcasts.
    """
    return (values / scale.clamp(min=torch.finfo(values.dtype).tiny) + 1) / 2


def contrast(projections: Tensor) -> Tensor:
    """One scale for the k projections of a unit, (k, c, h, w) to a number: the 99.5th percentile of
    the magnitudes above zero.

    The few values beyond it are clipped; scaled by the largest, most of what a projection shows
    would be too faint to see."""
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
    """Lay (n, 3, h, w) uint8 tiles out in rows, ``gap`` pixels of ``fill`` between them: (3, H, W)
    uint8.
    """
    n, c, h, w = tiles.shape
    rows = -(-n // columns)
    canvas = tiles.new_full((c, rows * (h + gap) - gap, columns * (w + gap) - gap), fill)
    for i, tile in enumerate(tiles):
        top, left = (i // columns) * (h + gap), (i % columns) * (w + gap)
        canvas[:, top : top + h, left : left + w] = tile
    return canvas


def picture_tiles(patches: Tensor, inside: Tensor, size: tuple[int, int]) -> Tensor:
    """Patches (k, c, h, w) in [0, 1] as tiles (k, 3, *size) uint8: light grey where ``inside`` (k,
    h, w) is False.

    Images of other than three channels are shown as their mean.
    """
    filled = torch.where(
        inside[:, None], patches, patches.new_tensor(OUTSIDE / 255)
    )  # first, so that no edge turns dark
    return _shown(resized(filled, size), inside)


def signal_tiles(projections: Tensor, inside: Tensor, size: tuple[int, int]) -> Tensor:
    """A unit's projections (k, c, h, w) as tiles, as ``picture_tiles`` does: zero is middle grey,
    and the k share one contrast.

    They are scaled to ``size`` first: averaging makes fine signals fainter, and it is the result
        that is to be seen.
    """
    signals = resized(projections, size)
    return _shown(signed(signals, contrast(signals)), inside)


def _shown(values: Tensor, inside: Tensor) -> Tensor:
    if values.shape[1] != 3:
        values = values.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    kept = F.interpolate(inside[:, None].float(), values.shape[-2:], mode="nearest") > 0.5
    return to_uint8(torch.where(kept, values, values.new_tensor(OUTSIDE / 255)))
