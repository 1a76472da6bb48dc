"""Boxes of pixels and receptive fields: whole numbers and fractions, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from types import EllipsisType
from typing import Literal, NamedTuple

Kind = Literal["exact", "bound", "measured", "global", "data", "unknown", "refuted"]
Number = int | Fraction


class Box(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of an image, in pixels; the ends
    are not included.
    """

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def clip(self, other: Box) -> Box:
        """The part that lies inside ``other``; empty (zero high or wide) if none does."""
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
        """What cuts the box out of an image: ``image[box.region]``."""
        return ..., slice(self.top, self.bottom), slice(self.left, self.right)


@dataclass(frozen=True)
class ReceptiveField:
    """The box of input pixels that each position of a layer can see, as (y, x) pairs in pixels.

    Position ``i`` along an axis sees pixels ``i * stride - padding`` to ``i * stride - padding +
    size - 1``; those outside the image are padding. After a transposed convolution stride and
    padding can be fractions of a pixel.

    Attributes:
        size, stride, padding: per axis (y, x).
        extent: the pixels that any position can see: the image, less what strides leave over at its
            edges.
        kind: its status. ``exact``: every pixel of the box inside the extent can matter and no
            other can, for every input. ``bound``: no pixel outside the box can matter.
            ``measured``: read off the gradients of a model that cannot be followed, and checked at
            many positions and several inputs. The others have the full image as their box:
            ``global``: every position depends on all of it. ``data``: which pixels matter depends
            on the image. ``unknown``: neither followed nor measured. ``refuted``: a projection had
            signal outside the box that had been found.
        resampled: behind an upsampling, a transposed convolution or an adaptive pool, which fall
            otherwise on a part of the image.

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
        """Whether a position sees a box of its own; else its box is the full image."""
        return self.kind in ("exact", "bound", "measured")

    def as_full_image(self, kind: Kind, image: Box) -> ReceptiveField:
        """The field of which only this status is known: its box is the image."""
        size = image.height, image.width
        return ReceptiveField(size, (0, 0), (0, 0), image, kind)

    def box(self, y: int, x: int, *, clip: bool = True) -> Box:
        """The pixels that position (y, x) sees; with ``clip=False`` also those that are padding."""
        if not self.is_local:
            return self.extent
        lows = [i * s - p for i, s, p in zip((y, x), self.stride, self.padding, strict=True)]
        highs = [low + size for low, size in zip(lows, self.size, strict=True)]
        box = Box(ceil(lows[0]), ceil(lows[1]), floor(highs[0]), floor(highs[1]))
        return box.clip(self.extent) if clip else box

    def __str__(self) -> str:
        """size/stride/padding, one number for each where both axes agree."""
        pairs = (
            str(a) if a == b else f"{a}x{b}" for a, b in (self.size, self.stride, self.padding)
        )
        return "/".join(pairs) if self.is_local else "full image"
