"""How an image becomes what a model takes, and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import index
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from featviz.errors import ImageError, UsageError
from featviz.images import _decoding
from featviz.names import DECODES

INTERPOLATIONS = tuple(mode.value for mode in InterpolationMode)
SIXTEEN_BITS = 65535
OVERSHOOT = 0.25
"""How far bicubic interpolation of an image in [0, 1] may come to lie outside."""
_ORIENTATION = 0x0112  # the EXIF tag
_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its EXIF orientation."""
_SIDEWAYS = (5, 6, 7, 8)
_TRANSPARENT = ("LA", "PA", "RGBA", "La", "RGBa")


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes what a model takes.

    Pictures (files, PIL images) are turned upright, brought to 8 bits, scaled and cut. Tensors are
    taken in the size they have; see `featviz.open_images`.

    Attributes:
        size: (height, width) of the centre that is cut out after resizing, in pixels; None leaves
            the image as it is.
        resize: length in pixels to which the short side is scaled first; None: not scaled.
        mean, std: per channel, of images in [0, 1]: the model sees (image - mean) / std. Their
            number is the number of channels. Pictures have 1 (grayscale) or 3 (RGB), tensors any.
        interpolation: ``bilinear``, ``bicubic`` or ``nearest``, for scaling.
        exif: turn pictures as their EXIF orientation says, as viewers do; False: take the pixels as
            they lie in the file.
        range: what is black and what is white in pictures of 16 bits or of floating point, such as
            (0, 4095) of a camera with 12 bits; what lies outside is black or white, and what is not
            a number black. None: 0 and 65535 of 16 bits, 0 and 1 of floating point.
        decode: ``exact``: pictures are decoded and scaled by Pillow, as networks are trained with.
            ``fast``: JPEG files by TorchCodec where it is installed, those much larger than
            ``resize`` at a half, a quarter or an eighth of their size, and scaled by torch. Pixels
            differ by some steps of 255; see ``docs/speed.md``.

    Raises:
        UsageError: mean and std differ in number or are not of images in [0, 1], a side below 1, an interpolation
            or a way to decode that there is not, or a range whose first number is not below its
            second.

    Example:
        >>> import torch
        >>> from featviz import Preprocess
        >>> recipe = Preprocess(mean=(0.5,), std=(0.25,))
        >>> recipe.normalize(torch.tensor([[[0.0, 1.0]]]))
        tensor([[[-2.,  2.]]])
    """

    size: tuple[int, int] | None = None
    resize: int | None = None
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    interpolation: str = "bilinear"
    exif: bool = True
    range: tuple[float, float] | None = None
    decode: str = "exact"

    def __post_init__(self) -> None:
        self._take_numbers()
        if len(self.mean) != len(self.std) or not self.mean:
            raise UsageError(
                f"mean has {len(self.mean)} numbers and std {len(self.std)}: "
                "give one of each per channel",
                "mean",
                "std",
            )
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)):
            raise UsageError(f"mean={self.mean}, std={self.std}: give numbers", "mean", "std")
        if min(self.std) <= 0:
            raise UsageError(f"std={self.std}: a standard deviation is above 0", "std")
        if max(*self.mean, *self.std) > 1:
            raise UsageError(
                f"mean={self.mean}, std={self.std}: these are not of images in [0, 1]; "
                f"divide those of 0 to 255 by 255: mean={_of_255(self.mean)}, "
                f"std={_of_255(self.std)}",
                "mean",
                "std",
            )
        if self.interpolation not in INTERPOLATIONS:
            raise UsageError(
                f"interpolation={self.interpolation!r}: there are {', '.join(INTERPOLATIONS)}"
            )
        if self.decode not in DECODES:
            raise UsageError(f"decode={self.decode!r}: there are {', '.join(DECODES)}", "decode")
        if self.range is not None:
            _check_black_and_white(self.range)

    def _take_numbers(self) -> None:
        """Take numbers of any library as Python's own, which records can keep."""
        own: dict[str, Any] = {}
        for name in ("mean", "std"):
            own[name] = _per_channel(name, getattr(self, name))
        if self.size is not None:
            own["size"] = _sides("size", self.size, self.size, "(height, width)")
        if self.resize is not None:
            own["resize"] = _sides("resize", self.resize, (self.resize, self.resize), "a side")[0]
        for name, value in own.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of_channels(cls, channels: int) -> Preprocess:
        """Images of any number of channels, taken as they are."""
        return cls(mean=(0.0,) * channels, std=(1.0,) * channels)

    @property
    def channels(self) -> int:
        """How many channels the model takes."""
        return len(self.mean)

    def pixels(self, image: Image.Image) -> Tensor:
        """A picture as a (c, h, w) uint8 tensor, 0 to 255: turned upright, scaled and cut.

        Raises:
            UsageError: the model takes images of other than 1 or 3 channels, or a picture of
                floating point numbers has values outside [0, 1].
        """
        if self.channels not in (1, 3):
            raise UsageError(
                f"is a picture, of 1 or 3 channels, and the model takes {self.channels}: "
                "give tensors (c, h, w)",
                "images",
            )
        pixels: Any
        if self._is_fast:
            pixels = self._scaled_fast(image)
        else:
            pixels = self._scaled(image)
        if self.size is not None:
            pixels = cast(Any, transforms.center_crop)(pixels, list(self.size))
        if isinstance(pixels, Tensor):
            return pixels.contiguous()
        return _decoding.planes(pixels)

    @property
    def _is_fast(self) -> bool:
        return self.decode == "fast" and self.interpolation in _decoding.SCALED

    def _scaled(self, image: Image.Image) -> Image.Image:
        """A picture upright, in 8 bits, and scaled, by Pillow."""
        image = self._upright(image)
        if self.resize is None:
            return image
        resize = cast(Any, transforms.resize)
        result: Image.Image = resize(image, [self.resize], InterpolationMode(self.interpolation))
        return result

    def _scaled_fast(self, image: Image.Image) -> Tensor:
        """The same as (c, h, w) uint8, by whatever is faster."""
        if self.resize is not None:
            _decoding.shrink(image, self.resize)
        pixels = None
        # TorchCodec turns pictures by EXIF, torchvision does not
        if self.channels == 3 and _orientation(image) not in _TURNED:
            pixels = _decoding.decoded(image)
        if pixels is None:
            pixels = _decoding.as_tensor(self._upright(image))
        if self.resize is None:
            return pixels
        return _decoding.scaled(pixels, self.resize, self.interpolation)

    def picture_size(self, image: Image.Image) -> tuple[int, int]:
        """(height, width) of a picture as it is to be seen, before it is scaled and cut."""
        # of a square picture the orientation, for which some formats are decoded, says nothing
        if image.height != image.width and self.exif and _orientation(image) in _SIDEWAYS:
            return image.width, image.height
        return image.height, image.width

    def output_size(self, image: Image.Image) -> tuple[int, int]:
        """(height, width) of what `pixels` makes of a picture, whose pixels are not read."""
        if self.size is not None:
            return self.size
        if self._is_fast and self.resize is not None:
            _decoding.shrink(image, self.resize)
        height, width = self.picture_size(image)
        if self.resize is None:
            return height, width
        long = int(self.resize * max(height, width) / min(height, width))
        return (self.resize, long) if height <= width else (long, self.resize)

    def normalize(self, images: Tensor) -> Tensor:
        """From [0, 1] to model space; (..., c, h, w), any device."""
        return self.normalizer(images.device)(images)

    def normalizer(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """What `normalize` does of images on a device, where mean and deviation are moved once."""
        mean, std = self._on(device)

        def normalized(images: Tensor) -> Tensor:
            return (images - mean).div_(std)  # a batch is as large as a layer: one is enough

        return normalized

    @property
    def is_identity(self) -> bool:
        """Whether model space is [0, 1]."""
        return not any(self.mean) and set(self.std) == {1.0}

    def denormalize(self, images: Tensor) -> Tensor:
        """From model space to [0, 1]; (..., c, h, w), any device."""
        mean, std = self._on(images.device)
        return (images * std).add_(mean)

    def __str__(self) -> str:
        steps = []
        if self.range is not None:
            steps.append(f"range {self.range[0]:g} to {self.range[1]:g}")
        if not self.exif:
            steps.append("not turned by EXIF")
        if self.decode != "exact":
            steps.append(f"decoded {self.decode}")
        if self.resize is not None:
            steps.append(f"short side to {self.resize}")
        if self.size is not None:
            steps.append(f"centre {self.size[0]}x{self.size[1]}")
        return ", ".join([*steps, f"mean {self.mean}", f"std {self.std}"])

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (c, 1, 1) each."""
        values = torch.tensor([self.mean, self.std], dtype=torch.float32).to(
            device, non_blocking=True
        )
        mean, std = values.view(2, -1, 1, 1)
        return mean, std

    def _upright(self, image: Image.Image) -> Image.Image:
        """A picture turned upright, in 8 bits, of as many channels as the model takes."""
        turn = None
        if self.exif:
            turn = _TURNED.get(_orientation(image))
        if turn is not None:
            image = image.transpose(turn)
        return _converted(image, "L" if self.channels == 1 else "RGB", self.range)


def _per_channel(name: str, given: Any) -> tuple[float, ...]:
    """A number for each channel."""
    try:
        return tuple(map(float, given))
    except (TypeError, ValueError):
        raise UsageError(
            f"{name}={given!r}: give a number for each channel, such as (0.5, 0.5, 0.5)", name
        ) from None


def _sides(name: str, given: Any, sides: Any, what: str) -> tuple[int, int]:
    """Two sides in whole pixels."""
    try:
        height, width = map(index, sides)
    except (TypeError, ValueError):  # no whole numbers, or not two
        height = width = 0
    if min(height, width) < 1:
        raise UsageError(f"{name}={given!r}: give {what} in pixels, 1 or more", name)
    return height, width


def _of_255(values: tuple[float, ...]) -> tuple[float, ...]:
    """Of images in [0, 1], from the same of images in 0 to 255; four digits are enough to copy."""
    return tuple(round(value / 255, 4) for value in values)


def _orientation(image: Image.Image) -> int:
    """A picture's EXIF orientation; 1, upright, where it has none."""
    if image.format == "PNG":
        # its EXIF may lie behind the pixels, so that they are read first; where they are damaged, that
        # is no fault of the EXIF, and to read them again gives black
        image.load()
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block is no reason not to see the picture
        return 1


def _check_black_and_white(limits: tuple[float, float]) -> None:
    if len(limits) != 2 or not all(map(math.isfinite, limits)) or limits[0] >= limits[1]:
        raise UsageError(
            f"range={limits}: give what is black and what is white, such as (0, 4095)", "range"
        )


def _converted(
    image: Image.Image, mode: str, limits: tuple[float, float] | None = None
) -> Image.Image:
    """Any kind of picture in 8 bits: 16 bits are scaled down, transparency is laid over white.

    What the scale is depends on the kind of picture and never on its values, so that all pictures
    of a data set share it.
    """
    if image.mode.startswith("I"):
        image = _eight_bits(image, *(limits or (0, SIXTEEN_BITS)))
    elif image.mode == "F":
        if limits is None:
            _check_unit_range(image)
        image = _eight_bits(image, *(limits or (0, 1)))
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), layer)
    if image.mode == mode:
        return image  # convert would copy it
    return image.convert(mode)


def _eight_bits(image: Image.Image, black: float, white: float) -> Image.Image:
    """A grayscale picture from ``black`` to ``white`` as one from 0 to 255."""
    values = np.asarray(image, np.float64)
    values = np.where(np.isnan(values), black, values).clip(black, white)
    return Image.fromarray(((values - black) * (255 / (white - black))).round().astype(np.uint8))


def _check_unit_range(image: Image.Image) -> None:
    values = np.asarray(image)
    check_range(float(values.min()), float(values.max()))


def check_range(low: float, high: float) -> None:
    """Make sure that values are of an image in [0, 1], give or take what scaling overshoots.

    Raises:
        ImageError: they are not finite.
        UsageError: they are of 0 to 255, or normalized already.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ImageError("has values that are not finite numbers")
    if low >= -OVERSHOOT and high <= 1 + OVERSHOOT:
        return
    if low >= -OVERSHOOT:
        remedy = "divide by what is white, such as 255, or give pictures their range"
    else:
        remedy = "leave the normalizing to Preprocess(mean=..., std=...)"
    raise UsageError(
        f"has values from {low:.3g} to {high:.3g}, and floating point images are in [0, 1]: {remedy}",
        "images",
    )
