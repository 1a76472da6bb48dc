"""All tiles of a unit as one picture, and the other pictures of a gallery; each packed as WebP."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from io import BytesIO
from math import ceil, sqrt
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from featviz.records.exemplars import Exemplars
from featviz.tiles import OUTSIDE, picture_tiles, sheet, signal_tiles, to_uint8
from featviz.views import PATCH, ViewsLike, view_tiles, views_for

TILE = 96  # the longest side of a tile in pixels; what is larger is averaged down
CRISP = 32  # tiles up to this side keep their exact pixels
QUALITY = 65
THUMBNAIL = 192  # the longest side of an image
STRIP_SIDE = 72  # of the tiles on the front page
PREVIEW = 32  # the height of what is shown until a sprite is loaded
PREVIEW_QUALITY = 40


def tile_size(height: int, width: int) -> tuple[int, int]:
    """The size in pixels that a tile of this size is kept in."""
    return _at_most(TILE, height, width)


def _at_most(limit: int, height: int, width: int) -> tuple[int, int]:
    """A size scaled down so that its longer side is at most the limit."""
    scale = min(1.0, limit / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def block_names(rules: Sequence[str], views: ViewsLike = None) -> list[dict[str, str]]:
    """What the blocks of a sprite show, from the left: the patches, then for each rule its views."""
    names = [{"rule": "", "view": PATCH}]
    for rule in rules:
        names += [{"rule": rule, "view": view} for view in views_for(rule, views)]
    return names


def lead(names: Sequence[dict[str, str]]) -> tuple[int, int]:
    """Which two blocks the front page shows of a unit: the first two views under the first rule, or
    the only one and the patches."""
    if len(names) > 2 and names[2]["rule"] == names[1]["rule"]:
        return 1, 2
    return 1, 0


def blocks(
    exemplars: Exemplars, row: int, size: tuple[int, int], views: ViewsLike = None
) -> list[Tensor]:
    """A unit's patches and, for each rule, its views: each a square of tiles of a size in pixels,
    (3, H, W) uint8, in the order of ``block_names``.
    """
    across = ceil(sqrt(exemplars.k))
    squares = []
    for name in block_names(exemplars.rules, views):
        tiles = view_tiles(exemplars, row, name["rule"], name["view"], size)
        squares.append(sheet(tiles, across))
    return squares


def shown(exemplars: Exemplars, row: int, size: tuple[int, int]) -> Tensor:
    """Where a block of a unit shows its images, and not what lies beyond their edges or between tiles: (1, H, W) uint8,
    255 or 0."""
    visible = F.interpolate(exemplars.visible[row][:, None].float(), size, mode="nearest")
    return sheet(to_uint8(visible), ceil(sqrt(exemplars.k)), fill=0)


def strongest(exemplars: Exemplars, row: int, side: int, views: ViewsLike = None) -> Tensor:
    """The strongest exemplar's two pictures of the front page, the first above the second: (3, 2 *
    side, side) uint8."""
    names = block_names(exemplars.rules, views)
    pictures = []
    for block in lead(names):
        # all k are drawn although one is shown, since they share one contrast
        name = names[block]
        tiles = view_tiles(exemplars, row, name["rule"], name["view"], (side, side))
        pictures.append(tiles[0])
    return torch.cat(pictures, dim=1)


def filters(weight: Tensor) -> list[Tensor]:
    """First-layer filters (c, 1 or 3, h, w) as pictures (3, h, w) uint8, each in its own contrast."""
    height, width = weight.shape[-2:]
    visible = torch.ones(1, height, width, dtype=torch.bool)
    kernels = weight.detach().float().cpu()
    return [signal_tiles(kernel[None], visible, (height, width))[0] for kernel in kernels]


def packed(picture: Tensor, *, crisp: bool) -> bytes:
    """A picture (3, h, w) uint8 as WebP; exact, or with the losses of a photograph."""
    return _webp(_image(picture), **_options(crisp))


def _options(crisp: bool) -> dict[str, Any]:
    # of lossless WebP, quality is the effort that goes into packing
    kept = {"lossless": True, "quality": 50} if crisp else {"quality": QUALITY}
    return {"exact": True, **kept}


def _image(picture: Tensor) -> Image.Image:
    """Of a picture (3, h, w) uint8, or (4, h, w) with its opacity."""
    return Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())


def _webp(image: Image.Image, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "WEBP", method=2, **options)
    return buffer.getvalue()


def address(data: bytes) -> str:
    """WebP data as an address that a page can hold."""
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def beside(pictures: Sequence[Tensor], opacity: Tensor) -> Image.Image:
    """A unit's blocks beside each other, with how opaque each pixel is.

    Args:
        pictures: of ``blocks``.
        opacity: of each of them, as of ``shown``: a dark page is dark between tiles too.
    """
    return _image(torch.cat([torch.cat([picture, opacity]) for picture in pictures], dim=2))


def sprite(
    across: Image.Image, maps: str = "", details: str = "null", *, crisp: bool = False
) -> str:
    """A unit's blocks as a script, which pages opened from disk may load and read the pixels of.

    Args:
        across: of ``beside``.
        maps: the address of the picture of the unit's activation maps; empty: it has none.
        details: what else its panel shows, as JSON that may stand in a script.
        crisp: keep exact pixels, as of tiles up to CRISP.
    """
    picture = address(_webp(across, **_options(crisp)))
    return f'featviz.sprite("{picture}", "{maps}", {details});\n'


def preview(across: Image.Image) -> str:
    """The same so small that a page holds it, to be shown until the script is there: the address of its picture."""
    size = max(1, round(across.width * PREVIEW / across.height)), PREVIEW
    small = across.resize(size, Image.Resampling.BOX)
    return address(_webp(small, quality=PREVIEW_QUALITY))


def from_sprite(
    script: str, tile: tuple[int, int], names: Sequence[dict[str, str]], side: int
) -> Tensor:
    """The picture of ``strongest``, read back from a unit's script.

    Args:
        script: of ``sprite``.
        tile: (height, width) of its tiles in pixels.
        names: of its blocks, as of ``block_names``.
        side: of the two squares, in pixels.
    """
    data = base64.b64decode(script.partition("base64,")[2].partition('"')[0])
    with Image.open(BytesIO(data)) as picture:
        width = picture.width // len(names)
        pictures = [_scaled(picture, block * width, tile, side) for block in lead(names)]
    return torch.cat(pictures, dim=1)


def _scaled(picture: Image.Image, left: int, tile: tuple[int, int], side: int) -> Tensor:
    """The first tile of the block that begins at ``left``, as a square (3, side, side) uint8."""
    height, width = tile
    resampling = Image.Resampling.LANCZOS
    if max(tile) < side:
        resampling = Image.Resampling.NEAREST
    cut = picture.crop((left, 0, left + width, height)).convert("RGB")
    pixels = np.asarray(cut.resize((side, side), resampling)).copy()
    return torch.from_numpy(pixels).permute(2, 0, 1)


def strip(columns: Sequence[Tensor]) -> bytes:
    """Pictures of one size side by side, as WebP."""
    return packed(torch.cat(list(columns), dim=2), crisp=False)


def thumbnail(image: Tensor, *, crisp: bool = False) -> bytes:
    """An image (c, h, w) in [0, 1] as WebP, the longer side at most THUMBNAIL; exact, or with losses."""
    _, height, width = image.shape
    visible = torch.ones(1, height, width, dtype=torch.bool)
    size = _at_most(THUMBNAIL, height, width)
    return packed(picture_tiles(image[None], visible, size)[0], crisp=crisp)


def blank(side: int) -> Tensor:
    """What a dead unit has in a strip, (3, 2 * side, side) uint8."""
    return torch.full((3, 2 * side, side), OUTSIDE, dtype=torch.uint8)
