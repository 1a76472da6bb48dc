"""Footprints, the receptive fields of all positions of a tensor: the arithmetic that the tracer
carries along a forward pass.

All numbers are fractions of pixels, so that nothing is rounded behind a transposed convolution or an
upsampling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Literal, NamedTuple

Kind = Literal["exact", "bound", "global", "unknown"]
KINDS: tuple[Kind, ...] = ("exact", "bound", "global", "unknown")
"""From the best known to the least."""


class Window(NamedTuple):
    """A sliding window along one axis: output j depends on the input positions
    ``j * stride - padding + dilation * t`` for t from 0 to ``kernel - 1``, as far as there are any.

    A padding below zero removes positions.
    """

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    @property
    def span(self) -> int:
        """From its first position to its last."""
        return self.dilation * (self.kernel - 1)

    def end(self, m: int) -> int:
        """The last position of the last of m windows."""
        return (m - 1) * self.stride - self.padding + self.span


@dataclass(frozen=True)
class Axis:
    """One axis, y or x: the field of position i is the pixels from ``i * stride + low`` to
    ``i * stride + high``, both included, as far as they lie within ``reach``.

    Attributes:
        stride, low, high: in pixels.
        reach: the first and the last pixel of all fields.
    """

    stride: Fraction
    low: Fraction
    high: Fraction
    reach: tuple[Fraction, Fraction]

    @classmethod
    def of_image(cls, n: int) -> Axis:
        """The image itself, n pixels long: the field of pixel i is pixel i."""
        return cls(Fraction(1), Fraction(0), Fraction(0), (Fraction(0), Fraction(n - 1)))

    def slide(self, window: Window, n: int, m: int) -> Axis:
        """After a window has slid over n positions to m."""
        first = max(0, -window.padding)
        last = min(n - 1, window.end(m))
        return Axis(
            stride=self.stride * window.stride,
            low=self.low - window.padding * self.stride,
            high=self.high + (window.span - window.padding) * self.stride,
            reach=(
                max(self.reach[0], self.low + first * self.stride),
                min(self.reach[1], self.high + last * self.stride),
            ),
        )

    def leaves_gaps(self, window: Window, n: int, m: int) -> bool:
        """Whether some position behind the window may see less than the box that ``slide`` gives it."""
        before = window.padding
        behind = window.end(m) - (n - 1)
        # A window altogether in the padding sees nothing. Its box is counted in pixels and may lie
        # within the image all the same, since an input position sees more than one pixel.
        sees_nothing = max(before, behind) > window.span
        if sees_nothing or self._leaves_holes(window):
            return True
        return window.dilation > 1 and self._misses_an_edge(window, n, before, behind)

    def _leaves_holes(self, window: Window) -> bool:
        """Whether two neighbors in the window leave pixels between them out: they lie
        ``dilation * stride`` pixels apart, and each sees ``high - low + 1``.
        """
        apart = window.dilation * self.stride
        return window.kernel > 1 and apart > self.high - self.low + 1

    def _misses_an_edge(self, window: Window, n: int, before: int, behind: int) -> bool:
        """Whether a dilated window that hangs over an edge may skip the pixel at the edge.

        It steps over the edge in strides of the dilation, so that the first position that it meets
        may be any from 0 to ``dilation - 1``. That does no harm where even position
        ``dilation - 1`` sees the first pixel that there is; and so at the far edge.
        """
        skipped = (window.dilation - 1) * self.stride
        low_of_last_skipped = self.low + skipped
        high_of_first_skipped = self.high + (n - 1) * self.stride - skipped
        near = before > 0 and low_of_last_skipped > self.reach[0]
        far = behind > 0 and high_of_first_skipped < self.reach[1]
        return near or far

    def spread(self, window: Window) -> Axis:
        """After the transpose of a window, in which inputs and outputs change roles.

        The window takes input i to the outputs from ``i * stride - padding`` on, ``span`` long; so
        output j is reached from the inputs between ``(j + padding - span) / stride`` and
        ``(j + padding) / stride``.
        """
        step = self.stride / window.stride
        return Axis(
            stride=step,
            low=self.low + (window.padding - window.span) * step,
            high=self.high + window.padding * step,
            reach=self.reach,
        )

    def cells(self, n: int, m: int) -> Axis:
        """After n positions are divided into m cells, as adaptive pools do it: cell i holds
        positions ``floor(i n / m)`` to ``ceil((i + 1) n / m) - 1``.
        """
        if n % m == 0:
            return self.slide(Window(n // m, n // m), n, m)
        # Uneven cells are given one size that contains them all: rounding moves either end outwards
        # by (m - 1) / m of a position at most.
        ratio, rounding = Fraction(n, m), Fraction(m - 1, m)
        return self.resample(ratio, -rounding, ratio + rounding - 1)

    def resample(self, ratio: Fraction, low: Fraction, high: Fraction) -> Axis:
        """After a step whose output i depends on input positions ``i * ratio + low`` to
        ``i * ratio + high``.
        """
        return Axis(
            stride=self.stride * ratio,
            low=self.low + low * self.stride,
            high=self.high + high * self.stride,
            reach=self.reach,
        )

    def contains(self, other: Axis) -> bool:
        """Whether each position's field contains its field in the other."""
        within_box = self.low <= other.low and self.high >= other.high
        within_reach = self.reach[0] <= other.reach[0] and self.reach[1] >= other.reach[1]
        return within_box and within_reach

    def union(self, other: Axis) -> Axis:
        """The smallest axis that contains both; they have one stride."""
        reach = min(self.reach[0], other.reach[0]), max(self.reach[1], other.reach[1])
        return Axis(self.stride, min(self.low, other.low), max(self.high, other.high), reach)


@dataclass(frozen=True)
class Footprint:
    """The receptive fields of a tensor's positions, and which axes of the tensor are y and x.

    Attributes:
        kind: how well this is known.
        axes: y and x.
        sizes: the number of positions along each.
        steps: the number of elements, in row-major order, from one position to the next along each.
            Sizes and steps stay the same when a tensor is reshaped, and show which axes are y and x.
        resampled: some step on the way depends on the size of the full map, or makes it larger: a
            crop of the image would be divided into other windows.
        lost: where in the tensor the axes are is not known any more.
    """

    kind: Kind
    axes: tuple[Axis, Axis]
    sizes: tuple[int, int]
    steps: tuple[int, int]
    resampled: bool = False
    lost: bool = False

    @classmethod
    def of_image(cls, height: int, width: int) -> Footprint:
        """The image itself, (..., height, width)."""
        axes = Axis.of_image(height), Axis.of_image(width)
        return cls("exact", axes, (height, width), (width, 1))

    def worse(self, kind: Kind) -> Footprint:
        """The same, known as well as ``kind`` at best."""
        return replace(self, kind=max(self.kind, kind, key=KINDS.index))

    @property
    def local(self) -> bool:
        """Whether each position has a box of its own."""
        return self.kind in ("exact", "bound")

    def dims(self, shape: Sequence[int]) -> tuple[int, int] | None:
        """Which dimensions of a tensor of this shape are y and x (the same one twice if they are
        merged into one); None if there are none.
        """
        if self.lost:
            return None
        layout = [(size, prod(shape[dim + 1 :])) for dim, size in enumerate(shape)]
        y, x = zip(self.sizes, self.steps, strict=True)
        adjacent = self.steps[0] == self.sizes[1] * self.steps[1]
        merged = prod(self.sizes), self.steps[1]
        # with a size of 1, y and x merged look just as the other axis does alone
        if adjacent and merged in layout and 1 not in self.sizes:
            dim = layout.index(merged)
            return dim, dim
        if y not in layout or x not in layout:
            return None
        # dimensions of size 1 are alike: take the last for x, and for y the last before it
        dim_x = len(layout) - 1 - layout[::-1].index(x)
        earlier = [dim for dim in range(dim_x) if layout[dim] == y]
        return (earlier[-1], dim_x) if earlier else None

    def at(self, dims: tuple[int, int], shape: Sequence[int]) -> Footprint:
        """The same, in a tensor of this shape whose dimensions y and x are these."""
        y, x = (prod(shape[dim + 1 :]) for dim in dims)
        if dims[0] == dims[1]:
            y = self.sizes[1] * x
        return replace(self, steps=(y, x))


def union(a: Footprint, b: Footprint) -> Footprint:
    """The footprint of a sum of two tensors. It is exact where one contains the other."""
    resampled = a.resampled or b.resampled
    a, b = replace(a, resampled=resampled), replace(b, resampled=resampled)
    worst = a.worse(b.kind)
    if not worst.local:
        return worst
    pairs = list(zip(a.axes, b.axes, strict=True))
    if a.sizes != b.sizes or any(p.stride != q.stride for p, q in pairs):
        return a.worse("global")  # no one box for each position
    if all(p.contains(q) for p, q in pairs):
        return a
    if all(q.contains(p) for p, q in pairs):
        return b
    y, x = (p.union(q) for p, q in pairs)
    return replace(a, axes=(y, x)).worse("bound")  # neither may see the box's corners
