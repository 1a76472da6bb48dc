"""What can be done to images and, in step, to activation maps: shift, turn, scale."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any

from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from featviz.errors import UsageError
from featviz.geometry import ReceptiveField

Warp = Callable[[Tensor], Tensor]
"""From images (n, c, h, w) to images of the same shape."""


@dataclass(frozen=True)
class _Affine(ABC):
    """A turn, a scale and a shift about the image's centre, in pixels; what comes from outside is
    0.
    """

    @abstractmethod
    def numbers(self) -> tuple[float, float, tuple[float, float]]:
        """Angle in degrees, scale, and shift (y, x) in pixels."""

    def __call__(self, images: Tensor) -> Tensor:
        """Images (n, c, h, w), transformed."""
        return _affine(images, *self.numbers(), None)

    def on_map(self, maps: Tensor, field: ReceptiveField, size: tuple[int, int]) -> Tensor:
        """Activation maps (n, c, h, w) of images of this (height, width), moved as the pixels below
        them move.

        A map's step is the layer's stride in pixels, so a shift of d pixels is one of d / stride
        steps, and the centre about which it turns lies where the image's centre does. Between
        positions the map is interpolated bilinearly."""
        angle, scale, shift = self.numbers()
        stride = float(field.stride[0]), float(field.stride[1])
        if (angle or scale != 1) and stride[0] != stride[1]:
            raise UsageError(
                f"a layer of stride {stride[0]:g}x{stride[1]:g} cannot be turned or scaled: its steps differ"
            )
        moved = shift[0] / stride[0], shift[1] / stride[1]
        middle = [  # in steps from the edge of position 0
            (length / 2 + float(padding) - seen / 2) / step + 0.5
            for length, padding, seen, step in zip(
                size, field.padding, field.size, stride, strict=True
            )
        ]
        return _affine(maps, angle, scale, moved, middle)


@dataclass(frozen=True)
class Translate(_Affine):
    """Move images down by ``dy`` and right by ``dx`` pixels; what comes in is 0, grey in model
    space.

    Example:
        >>> import torch
        >>> from featviz import Translate
        >>> Translate(1)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).flatten().tolist()
        [0.0, 0.0, 1.0, 2.0]
    """

    dy: float
    dx: float = 0.0

    def numbers(self) -> tuple[float, float, tuple[float, float]]:
        return 0.0, 1.0, (self.dy, self.dx)


@dataclass(frozen=True)
class Rotate(_Affine):
    """Turn images about their centre by ``degrees``, counter-clockwise; corners that come in are 0,
    grey in model space.

    Example:
        >>> import torch
        >>> from featviz import Rotate
        >>> Rotate(90)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).round().flatten().tolist()
        [2.0, 4.0, 1.0, 3.0]
    """

    degrees: float

    def numbers(self) -> tuple[float, float, tuple[float, float]]:
        return -float(self.degrees), 1.0, (0.0, 0.0)


@dataclass(frozen=True)
class Scale(_Affine):
    """Scale images about their centre by ``factor``, keeping their size; what comes in is 0, grey
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
        if not self.factor > 0:
            raise UsageError(f"scale {self.factor}: a factor is above 0")

    def numbers(self) -> tuple[float, float, tuple[float, float]]:
        return 0.0, float(self.factor), (0.0, 0.0)


def _affine(
    x: Tensor,
    angle: float,
    scale: float,
    shift: tuple[float, float],
    middle: Sequence[float] | None,
) -> Tensor:
    """torchvision's affine transform; ``middle`` is (y, x) from the edge of the first pixel.

    A shift by whole pixels takes the nearest, which loses nothing; all else is bilinear.
    """
    whole = (
        angle == 0
        and scale == 1
        and all(isclose(step, round(step), abs_tol=1e-9) for step in shift)
    )
    mode = InterpolationMode.NEAREST if whole else InterpolationMode.BILINEAR
    offset: list[Any] = [shift[1], shift[0]]
    center: list[Any] | None = None if middle is None else [middle[1], middle[0]]
    result: Tensor = transforms.affine(x, angle, offset, scale, [0.0, 0.0], mode, center=center)
    return result
