"""Photographs decoded and scaled in a faster way than Pillow's.

Pixels differ from Pillow's by what ``docs/speed.md`` measures, and do not depend on which decoder is
installed: all of them are libjpeg-turbo.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

SCALED = ("bilinear", "bicubic")
"""Interpolations that torch has for tensors of 8 bits, with the same filter as Pillow."""
_DEPRECATED = (0, 29)
"""The version of torchvision from which on its decoders are deprecated."""
_ROOM = 2
"""How many times as large as asked for a photograph is decoded at least, and then scaled down."""


@cache
def jpeg_decoder() -> Callable[[bytes], Tensor] | None:
    """A function from the bytes of a JPEG to (3, h, w) uint8: TorchCodec's, or torchvision's where it
    is not deprecated; None: there is neither."""
    try:
        from torchcodec.decoders import decode_jpeg  # 0.16 or later
    except Exception:  # not installed, too old, or without its libraries: errors of several kinds
        return _torchvision_decoder()
    return cast("Callable[[bytes], Tensor]", decode_jpeg)


def _torchvision_decoder() -> Callable[[bytes], Tensor] | None:
    version = tuple(int(number) for number in torchvision.__version__.split(".")[:2])
    if version >= _DEPRECATED:
        return None
    return _decode_by_torchvision


def _decode_by_torchvision(data: bytes) -> Tensor:
    from torchvision.io import ImageReadMode, decode_jpeg

    content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return cast(Tensor, decode_jpeg(content, mode=ImageReadMode.RGB))


def shrink(image: Image.Image, side: int) -> None:
    """Have a JPEG decoded at a half, a quarter or an eighth of its size, if its short side is then
    still twice ``side``; nothing happens to other pictures."""
    image.draft(None, (_ROOM * side, _ROOM * side))


def decoded(image: Image.Image) -> Tensor | None:
    """The pixels of a JPEG that Pillow has opened and not read, (3, h, w) uint8; None: it is another
    picture, or Pillow does it better."""
    decode = jpeg_decoder()
    file: Any = getattr(image, "fp", None)
    scale, *_ = getattr(image, "decoderconfig", None) or (1,)  # of what `shrink` chose
    if decode is None or file is None or scale > 1:
        return None
    if image.format != "JPEG" or image.mode != "RGB":
        return None
    start = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(start)
    try:
        return decode(data)
    except RuntimeError:
        return None  # Pillow says what is wrong with it


def is_unread(image: Image.Image) -> bool:
    """Whether a picture's own pixels are still in its file, since they were decoded beside it."""
    return bool(getattr(image, "tile", None))


def planes(image: Image.Image) -> Tensor:
    """A picture of mode L or RGB as (c, h, w) uint8, color by color in memory. By numpy, which lets other threads go
    on once where torch does so several times."""
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        return torch.from_numpy(pixels.copy())[None]
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


def as_tensor(image: Image.Image) -> Tensor:
    """The same, with its colors last in memory, which torch scales in half of the time."""
    pixels = torch.from_numpy(np.array(image))
    if pixels.dim() == 2:
        return pixels[None]
    return pixels.permute(2, 0, 1)


def scaled(pixels: Tensor, side: int, interpolation: str) -> Tensor:
    """(c, h, w) uint8 whose short side is ``side``."""
    resize = cast(Any, transforms.resize)
    result: Tensor = resize(pixels, [side], InterpolationMode(interpolation), antialias=True)
    return result
