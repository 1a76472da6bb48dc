"""What lies under the grey square: values that take the place of a part of an image."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torchvision.transforms import functional as transforms

from featviz.errors import UsageError, did_you_mean
from featviz.geometry import Box
from featviz.images import Preprocess

FILLS = ("grey", "mean", "blur")
Fill = str | float | Tensor


def filling(
    x: Tensor, fill: Fill, window: tuple[int, int], preprocess: Preprocess | None = None
) -> Tensor:
    """What is seen where an image is occluded, as an image of its size.

    Args:
        x: images (..., c, h, w) in model space.
        fill: ``grey``: the middle of [0, 1] as ``preprocess`` carries it to model space, and
            without one 0, which is grey wherever images are normalised by their mean. ``mean``: the
            image's own, per channel. ``blur``: the image itself under a Gaussian as wide as half
            the window. A number, or a tensor that broadcasts to the image: this, in model space.
        window: (height, width) in pixels of what is occluded.

    Raises:
        UsageError: no such fill, or a tensor of another shape.
    """
    if isinstance(fill, str):
        if fill not in FILLS:
            raise UsageError(
                f"fill={fill!r}: give {', '.join(map(repr, FILLS))}, or a value in model space{did_you_mean(fill, FILLS)}"
            )
        if fill == "blur":
            return _blurred(x, window)
        if fill == "mean":
            return x.mean(dim=(-2, -1), keepdim=True).expand_as(x)
        fill = (
            0.0
            if preprocess is None
            else preprocess.normalize(x.new_full((x.shape[-3], 1, 1), 0.5)).to(x)
        )
    value = torch.as_tensor(fill, dtype=x.dtype, device=x.device)
    try:
        return value.expand_as(x)
    except RuntimeError:
        raise UsageError(
            f"fill has the shape {tuple(value.shape)}, which does not broadcast to images {tuple(x.shape)}: "
            "give a number, one value per channel (c, 1, 1), or an image"
        ) from None


def _blurred(x: Tensor, window: tuple[int, int]) -> Tensor:
    sigmas = [max(0.5, side / 4) for side in window]
    reach = [
        min(round(3 * sigma), side - 1) for sigma, side in zip(sigmas, x.shape[-2:], strict=True)
    ]
    kernel = [2 * radius + 1 for radius in reach]
    return transforms.gaussian_blur(x, kernel[::-1], sigmas[::-1])  # it takes the width first


def check_boxes(boxes: Iterable[Box], size: tuple[int, int], what: str) -> None:
    """Make sure that boxes lie in an image of this (height, width) and hold at least one pixel.

    Raises:
        UsageError: one does not; the message names ``what``, which box, and the image.
    """
    for i, box in enumerate(boxes):
        if box.height < 1 or box.width < 1:
            raise UsageError(
                f"{what}, box {i}: {tuple(box)} holds no pixel; a box is (top, left, bottom, right)"
            )
        if box.clip(Box(0, 0, *size)) != box:
            raise UsageError(
                f"{what}, box {i}: {tuple(box)} is not inside the image of {size[0]}x{size[1]} pixels; "
                "a box is (top, left, bottom, right), ends not included"
            )
