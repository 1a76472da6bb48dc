"""The crop of an image that is enough to compute one position of a layer: integer arithmetic.

A crop must hold the position's receptive field, begin at a multiple of the layer's stride, so that
every window below falls where it falls in the full image, and reach the image's edge wherever the
field does, so that padding is the real one.
"""

from __future__ import annotations

from typing import NamedTuple

from featviz.geometry import Box, ReceptiveField


class Crop(NamedTuple):
    """A box of the image, and the position (y, x) in the layer's map of that box."""

    box: Box
    position: tuple[int, int]


class _Span(NamedTuple):
    """One axis of a crop: pixels ``start`` to ``stop``, and the position in the map of these."""

    start: int
    stop: int
    position: int


def crop_for(
    field: ReceptiveField,
    y: int,
    x: int,
    image: tuple[int, int],
    *,
    congruent: bool = False,
) -> Crop | None:
    """The smallest crop of an image of this (height, width) for position (y, x); None where only the
    full image will do.

    Args:
        congruent: make the crop's sides equal to the image's modulo the layer's stride, so that
            padding which depends on the size of the input (TensorFlow's ``SAME``) falls in the
            crop as it falls in the full image.
    """
    if field.kind not in ("exact", "bound") or field.resampled:
        return None
    spans = []
    for axis, position in enumerate((y, x)):
        stride, padding = field.stride[axis], field.padding[axis]
        if not (isinstance(stride, int) and isinstance(padding, int)) or stride < 1:
            return None
        length = field.size[axis] + -padding % stride  # down to a multiple of the stride
        if congruent:
            length += (image[axis] - length) % stride
        spans.append(_span(length, stride, padding, position, image[axis]))
    rows, columns = spans
    box = Box(rows.start, columns.start, rows.stop, columns.stop)
    if (box.height, box.width) == tuple(image):
        return None
    return Crop(box, (rows.position, columns.position))


def _span(length: int, stride: int, padding: int, position: int, n: int) -> _Span:
    """One axis. All spans away from the far edge have one length, so that crops can share a batch."""
    start = max(0, (position * stride - padding) // stride * stride)
    stop = start + length
    if stop >= n:  # slide back to keep the length, then run to the edge
        start = min(start, max(0, (n - length) // stride * stride))
        stop = n
    return _Span(start, stop, position - start // stride)
