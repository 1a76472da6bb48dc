"""Boxes of pixels and receptive fields: integers and fractions, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from types import EllipsisType
from typing import Literal, NamedTuple

Kind = Literal["exact", "bound", "measured", "global", "data", "unknown", "refuted"]
Number = int | Fraction


def as_number(fraction: Fraction) -> Number:
    """A fraction as a whole number where it is one."""
    return fraction.numerator if fraction.denominator == 1 else fraction


class Box(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of an image, in pixels, the last
    of either not included.

    Example:
        >>> from featviz.geometry import Box
        >>> box = Box(-2, 3, 4, 9).clip(Box(0, 0, 8, 8))
        >>> box, box.height, box.width
        (Box(top=0, left=3, bottom=4, right=8), 4, 5)
    """

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """In pixels."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """In pixels."""
        return self.right - self.left

    def clip(self, other: Box) -> Box:
        """The intersection with another box; a box of height or width 0 if they do not overlap."""
        return Box(
            min(max(self.top, other.top), other.bottom),
            min(max(self.left, other.left), other.right),
            min(max(self.bottom, other.top), other.bottom),
            min(max(self.right, other.left), other.right),
        )

    def shifted(self, dy: int, dx: int) -> Box:
        """The same box, ``dy`` pixels further down and ``dx`` further right."""
        return Box(self.top + dy, self.left + dx, self.bottom + dy, self.right + dx)

    @property
    def region(self) -> tuple[EllipsisType, slice, slice]:
        """The index of the box in an image (..., h, w): ``image[box.region]``."""
        return ..., slice(self.top, self.bottom), slice(self.left, self.right)


Pixel = tuple[int, int]
"""(y, x)."""


def overlap(a: Box, at_a: Pixel, b: Box, at_b: Pixel) -> tuple[Box, Box]:
    """What two boxes have in common where a pixel of one lies upon a pixel of the other, as a box of
    each one's own image; both of height or width 0 if that is nothing.

    Example:
        >>> from featviz.geometry import Box, overlap
        >>> overlap(Box(0, 0, 4, 4), (2, 2), Box(5, 5, 9, 9), (6, 6))
        (Box(top=1, left=1, bottom=4, right=4), Box(top=5, left=5, bottom=8, right=8))
    """
    common = a.shifted(-at_a[0], -at_a[1]).clip(b.shifted(-at_b[0], -at_b[1]))
    return common.shifted(*at_a), common.shifted(*at_b)


@dataclass(frozen=True)
class ReceptiveField:
    """The box of input pixels that each position of a layer can depend on, as (y, x) pairs in pixels.

    The field of position ``i`` along an axis is the pixels ``i * stride - padding`` to
    ``i * stride - padding + size - 1``; those outside the image are padding. Behind a transposed
    convolution or an upsampling, stride and padding can be fractions of a pixel.

    Attributes:
        size, stride, padding: per axis (y, x).
        extent: the union of the fields of all positions: the image, less what strides leave over at its
            edges.
        kind: its status. ``exact``: every pixel of the box inside the extent can matter and no
            other can, for every input. ``bound``: no pixel outside the box can matter.
            ``measured``: read off gradients, where an operation cannot be traced, and checked at
            many positions and several inputs. The others have the full image as their box:
            ``global``: every position depends on all of it. ``data``: which pixels matter depends
            on the image. ``unknown``: neither traced nor measured. ``refuted``: a projection had
            signal outside the box computed before.
        resampled: some step below depends on the size of the full map or makes it larger (an
            upsampling, a transposed convolution, an adaptive pool), so that a crop of the image
            would give something else.

    Example:
        >>> from featviz.geometry import Box, ReceptiveField
        >>> ReceptiveField((7, 7), (2, 2), (1, 1), Box(0, 0, 224, 224)).box(3, 0)
        Box(top=5, left=0, bottom=12, right=6)
    """

    size: tuple[int, int]
    stride: tuple[Number, Number]
    padding: tuple[Number, Number]
    extent: Box
    kind: Kind = "exact"
    resampled: bool = False

    @property
    def is_local(self) -> bool:
        """Whether each position has a box of its own; otherwise its box is the full image."""
        return self.kind in ("exact", "bound", "measured")

    def as_full_image(self, kind: Kind, image: Box) -> ReceptiveField:
        """The same layer's field with this status: its box is the full image."""
        size = image.height, image.width
        return ReceptiveField(size, (0, 0), (0, 0), image, kind)

    def box(self, y: int, x: int, *, clip: bool = True) -> Box:
        """The receptive field of position (y, x); with ``clip=False``, pixels of the padding too."""
        if not self.is_local:
            return self.extent
        top, bottom = self._span(0, y)
        left, right = self._span(1, x)
        box = Box(top, left, bottom, right)
        return box.clip(self.extent) if clip else box

    def _span(self, axis: int, position: int) -> tuple[int, int]:
        """The field of a position along an axis: the first pixel, and the one after the last."""
        low = position * self.stride[axis] - self.padding[axis]
        return ceil(low), floor(low + self.size[axis])

    def __str__(self) -> str:
        """``size/stride/padding``, one number for each where both axes agree."""
        if not self.is_local:
            return "full image"
        return "/".join(map(_written, (self.size, self.stride, self.padding)))


def _written(pair: tuple[Number, Number]) -> str:
    y, x = pair
    return str(y) if y == x else f"{y}x{x}"
