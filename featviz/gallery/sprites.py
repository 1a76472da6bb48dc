"""All tiles of a unit as one picture, and the other pictures of a gallery; each packed as WebP."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from math import ceil, sqrt

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from featviz.records.exemplars import Exemplars
from featviz.tiles import OUTSIDE, picture_tiles, sheet, signal_tiles

TILE = 96  # the longest side of a tile in pixels; what is larger is averaged down
CRISP = 32  # tiles up to this side keep their exact pixels
QUALITY = 80
THUMBNAIL = 192
STRIP_SIDE = 72


def tile_size(height: int, width: int) -> tuple[int, int]:
    """The size in pixels that a tile of this size is kept in."""
    scale = min(1.0, TILE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def blocks(exemplars: Exemplars, row: int) -> list[Tensor]:
    """A unit's patches and, for each rule, its projections: each a square of tiles, (3, H, W)
    uint8, all of one size.
    """
    inside, size = exemplars.inside[row], tile_size(*exemplars.inside.shape[-2:])
    across = ceil(sqrt(exemplars.scores.shape[1]))
    signals = [
        signal_tiles(projections[row], inside, size)
        for projections in exemplars.projections.values()
    ]
    return [
        sheet(tiles, across)
        for tiles in (picture_tiles(exemplars.patches[row], inside, size), *signals)
    ]


def strongest(exemplars: Exemplars, row: int, rule: str, side: int) -> Tensor:
    """The strongest exemplar's projection above its patch, (3, 2 * side, side) uint8."""
    inside, size = exemplars.inside[row], (side, side)
    signal = signal_tiles(exemplars.projections[rule][row], inside, size)[0]
    return torch.cat([signal, picture_tiles(exemplars.patches[row], inside, size)[0]], dim=1)


def filters(weight: Tensor) -> list[Tensor]:
    """First-layer filters (c, 1 or 3, h, w) as pictures (3, h, w) uint8, each in its own contrast."""
    inside = torch.ones(1, *weight.shape[-2:], dtype=torch.bool)
    size = (weight.shape[2], weight.shape[3])
    return [signal_tiles(one[None], inside, size)[0] for one in weight.detach().float().cpu()]


def packed(picture: Tensor, *, crisp: bool) -> bytes:
    """A picture (3, h, w) uint8 as WebP; exact, or with the losses of a photograph."""
    buffer = BytesIO()
    image = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
    if crisp:
        image.save(buffer, "WEBP", lossless=True, quality=50, method=2)
    else:
        image.save(buffer, "WEBP", quality=QUALITY, method=2)
    return buffer.getvalue()


def address(data: bytes) -> str:
    """WebP data as an address that a page can hold."""
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def sprite(pictures: Sequence[Tensor]) -> str:
    """A unit's blocks beside each other as a script, which pages opened from disk may load and read
    the pixels of.
    """
    across = torch.cat(list(pictures), dim=2)
    crisp = max(across.shape[1:]) <= 3 * len(pictures) * (CRISP + 1)
    return f'featviz.sprite("{address(packed(across, crisp=crisp))}");\n'


def from_sprite(script: str, tile: tuple[int, int], n: int, side: int) -> Tensor:
    """What ``strongest`` gives, read back from a unit's script of n blocks of tiles of this
    (height, width).
    """
    data = base64.b64decode(script.partition("base64,")[2].partition('"')[0])
    with Image.open(BytesIO(data)) as picture:
        width = picture.width // n
        places = [(width, 0), (0, 0)]  # the first rule's projection, then the patch
        pair = [picture.crop((x, y, x + tile[1], y + tile[0])).convert("RGB") for x, y in places]
    way = Image.Resampling.NEAREST if max(tile) < side else Image.Resampling.LANCZOS
    scaled = [np.asarray(one.resize((side, side), way)).copy() for one in pair]
    return torch.cat([torch.from_numpy(one).permute(2, 0, 1) for one in scaled], dim=1)


def strip(columns: Sequence[Tensor]) -> bytes:
    """Pictures of one size side by side, as WebP."""
    return packed(torch.cat(list(columns), dim=2), crisp=False)


def thumbnail(image: Tensor) -> bytes:
    """An image (c, h, w) in [0, 1] as WebP, the longer side at most THUMBNAIL."""
    _, h, w = image.shape
    scale = min(1.0, THUMBNAIL / max(h, w))
    size = max(1, round(h * scale)), max(1, round(w * scale))
    inside = torch.ones(1, h, w, dtype=torch.bool)
    return packed(picture_tiles(image[None], inside, size)[0], crisp=False)


def nothing(side: int) -> Tensor:
    """The place of a dead unit in a strip, (3, 2 * side, side) uint8."""
    return torch.full((3, 2 * side, side), OUTSIDE, dtype=torch.uint8)
