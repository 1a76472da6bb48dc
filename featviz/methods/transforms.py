"""Transforms of images, and of activation maps accordingly: shift, rotation, scale."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import isclose, isfinite
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from featviz.errors import UsageError
from featviz.geometry import ReceptiveField
from featviz.precision import in_full

Transform = Callable[[Tensor], Tensor]
"""From images (n, c, h, w) to images of the same shape."""


def transformed(transform: Transform, images: Tensor) -> Tensor:
    """Images (n, c, h, w) under a transform.

    Raises:
        UsageError: the transform changes their shape.
    """
    result = transform(images)
    if result.shape != images.shape:
        raise UsageError(
            f"the transform made {tuple(result.shape)} of images {tuple(images.shape)}: "
            "it is to keep their shape"
        )
    return result


class Motion(NamedTuple):
    """A turn, a scale and a shift.

    Attributes:
        angle: in degrees, clockwise.
        scale: 1 keeps the size.
        shift: (y, x) in pixels, or in a map's steps.
    """

    angle: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Affine(ABC):
    """A turn, a scale and a shift about the image's center, in pixels; what comes from outside is
    0."""

    @property
    @abstractmethod
    def motion(self) -> Motion:
        """What happens to images."""

    def __call__(self, images: Tensor) -> Tensor:
        """Images (n, c, h, w), transformed."""
        return _moved(images, self.motion, None)

    def on_map(self, maps: Tensor, field: ReceptiveField, size: tuple[int, int]) -> Tensor:
        """Activation maps (n, c, h, w) of images of this (height, width), moved as the pixels below
        them move.

        A map's step is the layer's stride in pixels, so a shift of d pixels is one of d / stride
        steps, and the center about which it turns lies where the image's center does. Between
        positions the map is interpolated bilinearly.

        Raises:
            UsageError: the map is to be turned or scaled, and its steps differ along the axes.
        """
        angle, scale, shift = self.motion
        stride = float(field.stride[0]), float(field.stride[1])
        if (angle or scale != 1) and stride[0] != stride[1]:
            raise UsageError(
                f"a layer of stride {stride[0]:g}x{stride[1]:g} cannot be turned or scaled: "
                "its steps differ"
            )
        steps = shift[0] / stride[0], shift[1] / stride[1]
        center = _center(field, size, 0), _center(field, size, 1)
        return _moved(maps, Motion(angle, scale, steps), center)


def _center(field: ReceptiveField, size: tuple[int, int], axis: int) -> float:
    """Where the image's center is on a map, in steps from the edge of position 0."""
    # position 0 is centered at size / 2 - padding pixels, half a step from its edge
    pixels = size[axis] / 2 + float(field.padding[axis]) - field.size[axis] / 2
    return pixels / float(field.stride[axis]) + 0.5


@dataclass(frozen=True)
class Translate(Affine):
    """Move images down by ``dy`` and right by ``dx`` pixels; what comes in is 0, gray in model
    space.

    Example:
        >>> import torch
        >>> from featviz import Translate
        >>> Translate(1)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).flatten().tolist()
        [0.0, 0.0, 1.0, 2.0]
    """

    dy: float
    dx: float = 0.0

    def __post_init__(self) -> None:
        if not (isfinite(self.dy) and isfinite(self.dx)):
            raise UsageError(f"a shift of {self.dy}, {self.dx}: give pixels")

    @property
    def motion(self) -> Motion:
        """A shift."""
        return Motion(shift=(self.dy, self.dx))


@dataclass(frozen=True)
class Rotate(Affine):
    """Turn images about their center by ``degrees``, counter-clockwise; corners that come in are 0,
    gray in model space.

    Example:
        >>> import torch
        >>> from featviz import Rotate
        >>> Rotate(90)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).round().flatten().tolist()
        [2.0, 4.0, 1.0, 3.0]
    """

    degrees: float

    def __post_init__(self) -> None:
        if not isfinite(self.degrees):
            raise UsageError(f"a turn of {self.degrees}: give degrees")

    @property
    def motion(self) -> Motion:
        """A turn; torchvision counts angles clockwise."""
        return Motion(angle=-float(self.degrees))


@dataclass(frozen=True)
class Scale(Affine):
    """Scale images about their center by ``factor``, keeping their size; what comes in is 0, gray
    in model space.

    Raises:
        UsageError: a factor that is not above 0.

    Example:
        >>> import torch
        >>> from featviz import Scale
        >>> Scale(2)(torch.eye(4)[None, None]).shape
        torch.Size([1, 1, 4, 4])
    """

    factor: float

    def __post_init__(self) -> None:
        if not (isfinite(self.factor) and self.factor > 0):
            raise UsageError(f"scale {self.factor}: a factor is above 0, and finite")

    @property
    def motion(self) -> Motion:
        """A scale."""
        return Motion(scale=float(self.factor))


@in_full()
def _moved(x: Tensor, motion: Motion, center: tuple[float, float] | None) -> Tensor:
    """torchvision's affine transform about ``center``, (y, x) from the edge of the first pixel;
    None: the middle."""
    dy, dx = motion.shift
    # torchvision's order is (x, y); its hints ask for whole numbers, and it takes fractions
    offset: list[Any] = [dx, dy]
    about: list[Any] | None = None
    if center is not None:
        about = [center[1], center[0]]
    mode = InterpolationMode.BILINEAR
    if _is_by_full_steps(motion):
        mode = InterpolationMode.NEAREST  # loses nothing
    # torchvision reckons positions in the type of x, of which half precision has too few
    wide = x.float() if x.dtype.itemsize < torch.float32.itemsize else x
    result: Tensor = transforms.affine(
        wide, motion.angle, offset, motion.scale, [0.0, 0.0], mode, center=about
    )
    return result.to(x.dtype)


def _is_by_full_steps(motion: Motion) -> bool:
    """Whether a motion is a shift that takes pixels to pixels."""
    if motion.angle != 0 or motion.scale != 1:
        return False
    return all(isclose(step, round(step), abs_tol=1e-9) for step in motion.shift)
