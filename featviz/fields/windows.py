"""Footprints of operations with windows: convolutions, pools, padding, and changes of size.

The arithmetic of one axis is in `featviz.fields.footprint`; here an operation's arguments are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from featviz.fields.aten import Operation, pointwise
from featviz.fields.footprint import Axis, Footprint, Window


def convolution(op: Operation) -> Footprint | None:
    _, weight, _, stride, padding, dilation, is_transposed = op.args[:7]
    if op.of(weight) is not None or not op.is_map:  # weights computed from the image see all of it
        return None
    windows = _windows(weight.shape[-2:], stride, padding, dilation)
    if not is_transposed:
        return _slid(op, windows)
    y, x = (axis.spread(window) for axis, window in zip(op.field.axes, windows, strict=True))
    # outputs between two strides see fewer inputs than the box counts
    return replace(op.with_axes(y, x).worse("bound"), resampled=True)


def pool(op: Operation) -> Footprint | None:
    if not op.is_map:
        return None
    dilation = op.arg(4, 1) if op.name.startswith("max") else 1  # of an average: the ceil mode
    return _slid(op, _windows(op.args[1], op.arg(2, ()), op.arg(3, 0), dilation))


def im2col(op: Operation) -> Footprint | None:
    """Windows as columns: (n, c, h, w) to (n, c * kernel, positions), where the positions
    are y and x in one dimension.
    """
    if not op.is_map:
        return None
    kernel, dilation, padding, stride = op.args[1:5]
    windows = _windows(kernel, stride, padding, dilation)
    height, width = (
        (n + 2 * window.padding - window.span - 1) // window.stride + 1
        for n, window in zip(op.field.sizes, windows, strict=True)
    )
    footprint = _slid(op, windows, (height, width))
    return replace(footprint, sizes=(height, width), steps=(width, 1))


def pad(op: Operation) -> Footprint | None:
    """Padding with a constant; below zero it removes. Pads come in pairs, the last dimension's
    first.
    """
    pads = [*op.args[1], 0, 0, 0, 0]
    along_x, along_y, along_others = pads[:2], pads[2:4], pads[4:]
    if not op.is_map or any(along_others):
        # channels may be padded (local response normalization does it), y and x may not
        return None if any(along_x + along_y) else pointwise(op)
    y_window, x_window = Window(1, padding=along_y[0]), Window(1, padding=along_x[0])
    (y, x), sizes, outputs = op.field.axes, op.field.sizes, op.shape[-2:]
    moved = op.with_axes(
        y.slide(y_window, sizes[0], outputs[0]), x.slide(x_window, sizes[1], outputs[1])
    )
    # A position in the padding sees nothing. Around the image its box is outside of it and empty;
    # around the output of a layer the box can hold pixels.
    is_image = all(axis.low == axis.high == 0 for axis in op.field.axes)
    if max(along_x + along_y) > 0 and not is_image:
        return moved.worse("bound")
    return moved


def _slid(
    op: Operation, windows: tuple[Window, Window], sizes: Sequence[int] | None = None
) -> Footprint:
    """The field after a window; ``sizes`` are the output's, its last two dimensions if not given."""
    axes = []
    has_gaps = False
    outputs = sizes or op.shape[-2:]
    for axis, n, m, window in zip(op.field.axes, op.field.sizes, outputs, windows, strict=True):
        axes.append(axis.slide(window, n, m))
        has_gaps |= axis.leaves_gaps(window, n, m)
    moved = op.with_axes(axes[0], axes[1])
    return moved.worse("bound") if has_gaps else moved


def _windows(kernel: Any, stride: Any, padding: Any, dilation: Any) -> tuple[Window, Window]:
    """The windows along y and x. An empty stride is the kernel's size, as pools have it."""
    stride = _pair(stride) or _pair(kernel)
    settings = zip(_pair(kernel), stride, _pair(padding), _pair(dilation), strict=True)
    y, x = (Window(*setting) for setting in settings)
    return y, x


def _pair(value: Any) -> Sequence[int]:
    """A number, or one, two or more in a sequence, as (y, x); empty if there is none."""
    if isinstance(value, int):
        value = [value]
    if len(value) == 1:
        return value[0], value[0]
    return tuple(value[-2:])


def adaptive(op: Operation) -> Footprint | None:
    if not op.is_map:
        return None
    sizes, outputs = op.field.sizes, op.shape[-2:]
    if "avg" in op.name and outputs == (1, 1) and sizes != (1, 1):
        return None  # the mean of the map
    y, x = (axis.cells(n, m) for axis, n, m in zip(op.field.axes, sizes, outputs, strict=True))
    moved = replace(op.with_axes(y, x), resampled=True)
    is_even = sizes[0] % outputs[0] == 0 and sizes[1] % outputs[1] == 0
    return moved if is_even else moved.worse("bound")


def upsample(op: Operation) -> Footprint | None:
    is_nearest = op.name == "upsample_nearest2d"
    aligns_corners = not is_nearest and op.arg(2, False)
    if not op.is_map or aligns_corners:
        return None  # aligned corners have other steps, which are not worked out
    first = 2 if is_nearest else 3  # nearest has no argument for the corners
    scales = op.arg(first), op.arg(first + 1)
    settings = zip(op.field.axes, op.field.sizes, op.shape[-2:], scales, strict=True)
    y, x = (_resampled(op.name, axis, n, m, scale) for axis, n, m, scale in settings)
    return replace(op.with_axes(y, x).worse("bound"), resampled=True)


def _resampled(name: str, axis: Axis, n: int, m: int, scale: float | None) -> Axis:
    """n positions resampled to m, or by a scale if one was given.

    With r input positions a step, the middle of output i is at ``(i + 1/2) r - 1/2`` of the input,
    which is ``i r`` and ``(r - 1) / 2`` more. Bilinear takes what is less than 1 from there, bicubic
    less than 2. Nearest takes ``floor(i r)``, which for r = p / q is less than ``i r`` by
    ``(q - 1) / q`` at most.
    """
    ratio = Fraction(n, m)
    if scale is not None:
        ratio = 1 / Fraction(scale).limit_denominator(1000)  # 1.7 is 17/10, not the nearest double
    if name == "upsample_nearest2d":
        return axis.resample(ratio, Fraction(1, ratio.denominator) - 1, Fraction(0))
    middle = (ratio - 1) / 2
    radius = 1 if name == "upsample_bilinear2d" else 2
    return axis.resample(ratio, middle - radius, middle + radius)
