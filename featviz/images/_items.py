"""What a source gives for one image, as pixels: pictures, tensors and arrays, alone, with a label, or
in a dict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from featviz.errors import FeatvizError, ImageError, UsageError, first_line
from featviz.images._decoding import is_unread
from featviz.images.preprocess import SIXTEEN_BITS, Preprocess, check_range

IMAGE_FIELDS = ("image", "img", "pixel_values", "input", "x")
"""Where an item that is a dict has its image; the first that is there."""
_PICTURE_CHANNELS = (3, 4)

Read = Callable[[int], Any]
"""From an index to whatever a source gives there."""


def read_pixels(read: Read, index: int, key: str, preprocess: Preprocess) -> Tensor:
    """Image ``index`` of a source as (c, h, w): uint8 from 0 to 255, or floating point in [0, 1].

    Raises:
        ImageError: it cannot be read, or is no image; the message names ``key``.
        UsageError: its values are not those of an image, which is the source's way and not a fault
            of this one image.
    """
    try:
        item = image_of(read(index))
        if isinstance(item, Image.Image):
            return _named(key, _pixels_of, item, preprocess)
        return _named(key, lambda: _checked(item, preprocess.channels))
    except (ImageError, UsageError):
        raise
    except Exception as error:
        # Pillow and data sets of any make raise errors of every kind
        raise ImageError(unreadable(key, error)) from error


def _pixels_of(picture: Image.Image, preprocess: Preprocess) -> Tensor:
    """A picture's pixels. Its file is closed, also where it is damaged or has further frames, but not while its own pixels
    are still to be read: a list gives the same picture again."""
    with ExitStack() as stack:
        stack.enter_context(picture)
        pixels = preprocess.pixels(picture)
        if is_unread(picture):
            stack.pop_all()
    return pixels


def unreadable(key: str, error: Exception) -> str:
    """The message about an image that cannot be read."""
    if isinstance(error, UnidentifiedImageError):  # Pillow's message has an address in memory
        return f"image {key!r} cannot be read: it is no picture of a kind that Pillow knows"
    reason = first_line(error)
    kind = type(error).__name__
    if reason != kind and not isinstance(error, (OSError, ImageError)):
        reason = f"{kind}: {reason}"  # a bare 'x' says nothing where KeyError: 'x' does
    return f"image {key!r} cannot be read: {reason}"


def _named(key: str, work: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """Do the work; its errors begin with the image's key."""
    try:
        return work(*arguments)
    except FeatvizError as error:
        raise type(error)(f"image {key!r} {error}", *error.arguments) from error


def image_of(item: Any) -> Any:
    """The image in an item: the first of a tuple, the image of a dict, a small array of 8 bits as
    the picture it is.
    """
    if isinstance(item, (tuple, list)):
        item = item[0]
    if isinstance(item, Mapping):
        item = _field(item)
    if isinstance(item, np.ndarray) and _is_picture(item):
        return Image.fromarray(item)
    return item


def channels_of(item: Any) -> int | None:
    """How many channels an image has; None: it is a picture, which can have those of the model."""
    if isinstance(item, np.ndarray):
        item = _channels_first(item, None)
    if isinstance(item, (Tensor, np.ndarray)) and item.ndim == 3:
        return int(item.shape[0])
    return None


def size_of(item: Any, preprocess: Preprocess) -> tuple[int, int]:
    """(height, width) of an image before preprocessing, in pixels."""
    if isinstance(item, Image.Image):
        return preprocess.picture_size(item)
    if isinstance(item, np.ndarray):
        item = _channels_first(item, preprocess.channels)
    return int(item.shape[-2]), int(item.shape[-1])


def in_unit_range(pixels: Tensor) -> Tensor:
    """Pixels of any kind as floating point in [0, 1]: 8 bits are divided by 255, 16 by 65535, to the same
    values on every device.

    Raises:
        UsageError: whole numbers of another kind, whose white is not known.
    """
    if pixels.dtype == torch.uint8:
        return _divided(pixels, 255)
    if pixels.dtype == torch.uint16:
        return _divided(pixels, SIXTEEN_BITS)
    if pixels.dtype == torch.bool:
        return pixels.float()
    if not pixels.is_floating_point():
        raise UsageError(
            f"is {pixels.dtype}: give uint8 (0 to 255), uint16 (0 to 65535) "
            "or floating point in [0, 1]",
            "images",
        )
    if pixels.dtype == torch.float64:
        return pixels
    return pixels.float()


def _divided(pixels: Tensor, white: float) -> Tensor:
    """Pixels as shares of white, which is a tensor, since GPUs multiply by the reciprocal of a number."""
    if pixels.device.type == "cpu":
        return pixels.float().div_(white)
    return torch.div(pixels, torch.full((), white, dtype=torch.float32, device=pixels.device))


def _field(item: Mapping[Any, Any]) -> Any:
    for name in IMAGE_FIELDS:
        if name in item:
            return item[name]
    fields = ", ".join(repr(field) for field in item)
    allowed = ", ".join(repr(name) for name in IMAGE_FIELDS)
    raise TypeError(f"a dict with {fields}, and an image is under one of {allowed}")


def _is_picture(array: np.ndarray[Any, Any]) -> bool:
    """Whether an array is (h, w), (h, w, 3) or (h, w, 4) in 8 bits."""
    if array.dtype != np.uint8:
        return False
    if array.ndim == 2:
        return True
    return array.ndim == 3 and array.shape[2] in _PICTURE_CHANNELS and array.shape[0] > 4


def _channels_first(array: np.ndarray[Any, Any], channels: int | None) -> np.ndarray[Any, Any]:
    """An array as (c, h, w). It is (h, w, c) if its last axis fits the model, and its first does not;
    where the model is not known, if its last axis is the shortest.
    """
    if array.ndim == 2:
        return array[None]
    if array.ndim != 3:
        return array
    if _is_channels_last(array.shape, channels):
        return array.transpose(2, 0, 1)
    return array


def _is_channels_last(shape: tuple[int, ...], channels: int | None) -> bool:
    first, middle, last = shape
    if channels is None:
        return last < min(first, middle)
    return last == channels and first != channels


def _checked(item: Any, channels: int) -> Tensor:
    """A tensor or an array as pixels, if it is an image of so many channels."""
    if isinstance(item, np.ndarray):
        item = torch.from_numpy(np.array(_channels_first(item, channels)))
    if not isinstance(item, Tensor):
        raise ImageError(
            f"is a {type(item).__name__}: an image is a picture of PIL's, a tensor (c, h, w) "
            "or an array, alone, as the first of a tuple, or in a dict"
        )
    if item.dim() != 3 or not item.numel():
        raise ImageError(f"has shape {tuple(item.shape)}: images are (c, h, w)")
    if item.shape[0] != channels:
        raise ImageError(f"has {item.shape[0]} channels, the model takes {channels}")
    if item.dtype == torch.uint8:
        return item
    pixels = in_unit_range(item.detach())
    smallest, largest = pixels.aminmax()
    check_range(float(smallest), float(largest))
    return pixels
