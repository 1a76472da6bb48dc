"""Fills: the values that replace a covered box of an image."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torchvision.transforms import functional as transforms

from featviz.errors import UsageError, did_you_mean
from featviz.geometry import Box
from featviz.images.preprocess import Preprocess

FILLS = ("gray", "mean", "blur")
"""The fills that have a name."""
Fill = str | float | Tensor
"""One of `FILLS`, or a value in model space."""


def filled(
    x: Tensor, fill: Fill, window: tuple[int, int], preprocess: Preprocess | None = None
) -> Tensor:
    """Images made of the fill alone, from which any box can be copied over the images.

    Args:
        x: images (..., c, h, w) in model space.
        fill: ``gray``: the middle of [0, 1] as ``preprocess`` carries it to model space, and
            without one 0, which is gray wherever images are normalized by their mean. ``mean``: the
            image's own, per channel. ``blur``: the image itself under a Gaussian whose standard
            deviation is a quarter of the window's side. A number, or a tensor that broadcasts to
            the image: this, in model space.
        window: (height, width) in pixels of the boxes that are going to be covered.
        preprocess: the preprocessing of the images.

    Returns:
        Of the shape, type and device of ``x``; it may share memory with the fill, so it is to be
        read, not written.

    Raises:
        UsageError: no such fill, or a tensor of another shape.

    Example:
        >>> import torch
        >>> from featviz.methods.fill import filled
        >>> filled(torch.ones(3, 2, 2), "gray", (1, 1)).unique()
        tensor([0.])
    """
    if not isinstance(fill, str):
        return _expanded(torch.as_tensor(fill, dtype=x.dtype, device=x.device), x)
    if fill == "gray":
        return _gray(x, preprocess).expand_as(x)
    if fill == "mean":
        return x.mean(dim=(-2, -1), keepdim=True).expand_as(x)
    if fill == "blur":
        return _blurred(x, window)
    allowed = ", ".join(map(repr, FILLS))
    nearest = did_you_mean(fill, FILLS)
    raise UsageError(f"fill={fill!r}: give {allowed}, or a value in model space{nearest}")


def _expanded(value: Tensor, x: Tensor) -> Tensor:
    try:
        return value.expand_as(x)
    except RuntimeError:
        raise UsageError(
            f"fill has the shape {tuple(value.shape)}, "
            f"which does not broadcast to images {tuple(x.shape)}: "
            "give a number, one value per channel (c, 1, 1), or an image"
        ) from None


def _gray(x: Tensor, preprocess: Preprocess | None) -> Tensor:
    """The middle of [0, 1] in model space, (c, 1, 1)."""
    channels = x.shape[-3]
    if preprocess is None:
        return x.new_zeros(channels, 1, 1)
    gray: Tensor = preprocess.normalize(x.new_full((channels, 1, 1), 0.5))
    return gray.to(x)


def _blurred(x: Tensor, window: tuple[int, int]) -> Tensor:
    sigmas = []
    kernel = []
    for side, length in zip(window, x.shape[-2:], strict=True):
        sigma = max(0.5, side / 4)
        radius = min(round(3 * sigma), length - 1)  # what lies beyond 3 sigma does not show
        sigmas.append(sigma)
        kernel.append(2 * radius + 1)
    blurred: Tensor = transforms.gaussian_blur(x, kernel[::-1], sigmas[::-1])  # width comes first
    return blurred


def check_boxes(boxes: Iterable[Box], size: tuple[int, int], what: str) -> None:
    """Make sure that boxes lie in an image of this (height, width) and hold at least one pixel.

    Raises:
        UsageError: one does not; the message names ``what``, which box, and the image.
    """
    image = Box(0, 0, *size)
    for i, box in enumerate(boxes):
        if box.height < 1 or box.width < 1:
            raise UsageError(
                f"{what}, box {i}: {tuple(box)} holds no pixel; a box is (top, left, bottom, right)"
            )
        if box.clip(image) != box:
            raise UsageError(
                f"{what}, box {i}: {tuple(box)} is not inside the image of {size[0]}x{size[1]} "
                "pixels; a box is (top, left, bottom, right), ends not included"
            )
