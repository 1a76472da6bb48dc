"""The part of an image that is enough to compute one position of a layer: integer arithmetic, no
torch.

A cut must hold the position's receptive field, begin at a multiple of the layer's stride, so that
every window below falls where it falls in the whole image, and reach the image's edge wherever the
field does, so that padding is the real one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from featviz.geometry import Box, ReceptiveField


class Cut(NamedTuple):
    """A box of the image, and where the position lies in the layer's map of that box, (y, x)."""

    box: Box
    at: tuple[int, int]


@dataclass(frozen=True)
class _Span:
    start: int
    stop: int
    at: int


def cut(field: ReceptiveField, y: int, x: int, image: tuple[int, int]) -> Cut | None:
    """The smallest cut of an image of this (height, width) for position (y, x); None where only the
    whole image will do.
    """
    if field.kind == "global" or field.resampled:
        return None
    spans = []
    for axis, i in enumerate((y, x)):
        stride, padding = field.stride[axis], field.padding[axis]
        if not (isinstance(stride, int) and isinstance(padding, int)) or stride < 1:
            return None
        spans.append(_span(field.size[axis], stride, padding, i, image[axis]))
    rows, columns = spans
    if (rows.stop - rows.start, columns.stop - columns.start) == tuple(image):
        return None
    return Cut(Box(rows.start, columns.start, rows.stop, columns.stop), (rows.at, columns.at))


def _span(size: int, stride: int, padding: int, i: int, n: int) -> _Span:
    """One axis. All spans away from the far edge have one length, so that cuts can share a batch."""
    length = (
        size + -padding % stride
    )  # the field, and what lies before it down to a multiple of the stride
    start = max(0, (i * stride - padding) // stride * stride)
    stop = start + length
    if stop >= n:  # slide back to keep the length, then run to the edge
        start = min(start, max(0, (n - length) // stride * stride))
        stop = n
    return _Span(start, stop, i - start // stride)
