"""Tensors to 8-bit tiles and sheets of tiles; knows no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from featviz.precision import in_full

PAPER = 255
"""The gray between tiles."""
OUTSIDE = 232
"""The gray of a tile where it lies beyond the edge of its image."""

SQUARES = 32
"""Up to this height of a tile its pixels are shown as squares where it is enlarged."""

MASK_BLUR = 3 / 224
"""Of a mask, and of a heat map: the standard deviation of its blur, as a share of the image's side.
The signal of a unit is a scatter of single pixels; blurred this far they close to the shapes that
they lie on, and the edges of an eye or a wheel stay sharp."""
MASK_TINY = 1 / 16
"""The blur is at most this share of the patch's shorter side: of a patch of a few pixels, as in the
first layers, it would otherwise leave nothing but its mean."""
MASK_PERCENTILE = 0.98
"""The energy above which a pixel is shown as it is. The largest would hang on a single pixel: all but
a spot would be dark."""
MASK_POWER = 0.7
"""Opacity is relative energy to this power: below 1, so that what surrounds the strongest pixels can
still be made out. Energy is a square: 0.5 would be the magnitude itself, and keeps too much."""

FOR = (0.84, 0.09, 0.11)
AGAINST = (0.13, 0.36, 0.78)
"""Of a heat map, the colours of relevance above and below zero: red and blue, which the color-blind
tell apart."""
HEAT_BASE = (0.35, 0.55)
"""Of a heat map, the gray picture under the colours: this much of its contrast, lifted by this much.
A picture in its own colours, or a dark one, would be taken for relevance, or hide it."""


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
    return _percentile(projections.abs(), 0.995)


def _percentile(values: Tensor, share: float) -> Tensor:
    """The value that this share of those above zero does not exceed; 1 where none is."""
    above = values.numpy(force=True)  # whose partition is several times as fast as torch's
    above = above[above > 0]
    if not len(above):
        return values.new_ones(())
    rank = max(1, round(share * len(above))) - 1
    return values.new_tensor(np.partition(above, rank)[rank])


def resized(tiles: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, c, h, w) to (n, c, *size): the pixels of small tiles become squares, large ones are
    interpolated or averaged down.
    """
    height = tiles.shape[-2]
    if size[0] == height or (size[0] > height and height <= SQUARES):
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


def in_middle(images: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Images that differ in size, each in the middle of one of this size.

    Args:
        images: (c, h, w) each.
        size: (height, width), no less than that of any.

    Returns:
        (n, c, *size), 0 outside of the images; and (n, *size) bool, where they are.

    Example:
        >>> import torch
        >>> from featviz.tiles import in_middle
        >>> pixels, visible = in_middle([torch.ones(3, 2, 2), torch.ones(3, 2, 4)], (2, 4))
        >>> visible[0, 0].tolist()
        [False, True, True, False]
    """
    height, width = size
    pixels = images[0].new_zeros(len(images), images[0].shape[0], height, width)
    visible = torch.zeros(len(images), height, width, dtype=torch.bool)
    for i, image in enumerate(images):
        h, w = image.shape[1:]
        top, left = (height - h) // 2, (width - w) // 2
        pixels[i, :, top : top + h, left : left + w] = image
        visible[i, top : top + h, left : left + w] = True
    return pixels, visible


def signal_tiles(projections: Tensor, visible: Tensor, size: tuple[int, int]) -> Tensor:
    """A unit's projections (k, c, h, w) as tiles, as `picture_tiles` does: zero is middle gray, and
    the k share one contrast.
    """
    # resized before they are scaled: averaging makes fine signals fainter, and the contrast is that
    # of the pixels that are drawn
    signals = resized(projections, size)
    return _shown(signed(signals, contrast(signals)), visible)


def energy(signals: Tensor, blur: float) -> Tensor:
    """How much signal there is at and around each pixel: squares, summed over channels and blurred.

    Args:
        signals: (k, c, h, w), any sign and scale.
        blur: standard deviation of the Gaussian in pixels of the patch, as of `blur_of`.

    Returns:
        (k, h, w), relative to the strongest pixel before the blur; 0 where the signal is 0.
    """
    # relative before they are squared: the square of a small float32 is zero
    largest = signals.abs().amax(dim=(1, 2, 3), keepdim=True)
    relative = signals / largest.clamp(min=torch.finfo(signals.dtype).tiny)
    return blurred(relative.square().sum(dim=1), blur)


def blur_of(image: tuple[int, int], patch: tuple[int, int]) -> float:
    """The standard deviation of the blur, in pixels, for an image and a patch of these sizes."""
    return min(MASK_BLUR * min(image), MASK_TINY * min(patch))


@in_full()
def blurred(values: Tensor, deviation: float) -> Tensor:
    """Values (k, h, w) under a Gaussian of this standard deviation in pixels, which ends at four of
    them: the mean of what lies near, at an edge of what there is.
    """
    rows = _gaussian(values, values.shape[-2], deviation)
    columns = _gaussian(values, values.shape[-1], deviation)
    return rows @ values @ columns.T


def _gaussian(like: Tensor, n: int, deviation: float) -> Tensor:
    """The weights (n, n) of n pixels in each of n means."""
    position = torch.arange(n, dtype=like.dtype, device=like.device)
    distance = (position[:, None] - position).abs() / max(deviation, 1e-6)
    weights = torch.exp(-distance.square() / 2).masked_fill(distance > 4, 0)
    return weights / weights.sum(dim=1, keepdim=True)


def opacity(signals: Tensor, blur: float) -> Tensor:
    """How much of each pixel is shown, (k, c, h, w) to (k, h, w) in [0, 1]: relative energy, 1 for
    the pixels of most energy, and 0 where no signal is near.

    It does not depend on the scale of a signal. One that is zero everywhere has no opacity anywhere.
    """
    energies = energy(signals, blur)
    # of what is above zero: a signal that covers little of its box is zero at any percentile of all
    scales = torch.stack([_percentile(own, MASK_PERCENTILE) for own in energies])
    return (energies / scales[:, None, None]).clamp(0, 1) ** MASK_POWER


def masked_tiles(
    patches: Tensor, projections: Tensor, visible: Tensor, size: tuple[int, int], blur: float
) -> Tensor:
    """Patches as tiles, faded to middle gray where their signal has no energy.

    Args:
        patches: (k, c, h, w) in [0, 1]; ``projections``: their signals, of the same shape.
        visible: (k, h, w) bool, False beyond the edge of the image, which is light gray.
        size: (height, width) of a tile in pixels.
        blur: standard deviation of the energy's blur in pixels of the patch, as of `blur_of`.

    Returns:
        (k, 3, *size) uint8; middle gray all over where the signal is zero.
    """
    shown = opacity(projections, blur)[:, None]
    return picture_tiles(0.5 + shown * (patches - 0.5), visible, size)


def heat_tiles(
    patches: Tensor, projections: Tensor, visible: Tensor, size: tuple[int, int], blur: float
) -> Tensor:
    """Signed relevance over patches, as `masked_tiles` takes them: red for, blue against, the picture
    in gray where it is zero. The k share one scale, which is the same for both signs.
    """
    relevance = resized(blurred(projections.sum(dim=1), blur)[:, None], size)
    strength = (relevance / contrast(relevance)).clamp(-1, 1)
    lowered, lift = HEAT_BASE
    base = resized(torch.where(visible[:, None], patches, _outside(patches)), size)
    gray = lift + lowered * base.mean(dim=1, keepdim=True)
    colors = torch.where(strength > 0, _color(strength, FOR), _color(strength, AGAINST))
    values = gray + strength.abs() * (colors - gray)
    without = (projections == 0).flatten(1).all(dim=1)
    values = torch.where(without[:, None, None, None], _middle(values), values)
    return _shown(values, visible)


def _color(like: Tensor, color: tuple[float, float, float]) -> Tensor:
    return like.new_tensor(color)[None, :, None, None]


def _middle(like: Tensor) -> Tensor:
    return like.new_tensor(0.5)


def _shown(values: Tensor, visible: Tensor) -> Tensor:
    if values.shape[1] != 3:
        values = values.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    kept = F.interpolate(visible[:, None].float(), values.shape[-2:], mode="nearest") > 0.5
    return to_uint8(torch.where(kept, values, _outside(values)))


def _outside(like: Tensor) -> Tensor:
    return like.new_tensor(OUTSIDE / 255)
