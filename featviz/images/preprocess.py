"""How an image becomes what a model takes, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from featviz.errors import UsageError


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes what a model takes.

    Attributes:
        size: (height, width) of the centre that is cut out after resizing, in pixels; None leaves
            the image as it is.
        resize: length in pixels to which the short side is scaled first; None: not scaled.
        mean, std: per channel, of images in [0, 1]: the model sees (image - mean) / std. Their
            number is the number of channels, 1 for grayscale or 3 for RGB.
        interpolation: ``bilinear``, ``bicubic`` or ``nearest``, for scaling.
    """

    size: tuple[int, int] | None = None
    resize: int | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise UsageError(
                f"mean has {len(self.mean)} numbers and std {len(self.std)}: give one of each per channel"
            )
        if min(self.std) <= 0:
            raise UsageError(f"std={self.std}: a standard deviation is above 0")

    @property
    def channels(self) -> int:
        return len(self.mean)

    def pixels(self, image: Image.Image) -> Tensor:
        """A picture as a (c, h, w) uint8 tensor, 0 to 255, scaled and cut."""
        image = _converted(image, "L" if self.channels == 1 else "RGB")
        if self.resize is not None:
            image = cast(Any, transforms.resize)(
                image, [self.resize], InterpolationMode(self.interpolation)
            )
        if self.size is not None:
            image = cast(Any, transforms.center_crop)(image, list(self.size))
        return transforms.pil_to_tensor(image)

    def normalize(self, images: Tensor) -> Tensor:
        """From [0, 1] to model space; (..., c, h, w), any device."""
        mean, std = (
            torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std)
        )
        return (images - mean) / std

    def denormalize(self, images: Tensor) -> Tensor:
        """From model space to [0, 1]."""
        mean, std = (
            torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std)
        )
        return images * std + mean

    def __str__(self) -> str:
        steps = [] if self.resize is None else [f"short side to {self.resize}"]
        steps += [] if self.size is None else [f"centre {self.size[0]}x{self.size[1]}"]
        return ", ".join([*steps, f"mean {self.mean}", f"std {self.std}"])


def _converted(image: Image.Image, mode: str) -> Image.Image:
    """Any kind of picture in 8 bits: 16 bits are scaled down, transparency is laid over white."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float64)
        largest = values.max(initial=0)
        most = 65535.0 if largest > 255 else 1.0 if image.mode == "F" and largest <= 1 else 255.0
        image = Image.fromarray((values.clip(0, most) * (255 / most)).round().astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), layer)
    return image.convert(mode)
