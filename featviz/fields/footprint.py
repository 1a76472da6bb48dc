"""What the positions of a tensor can see of an image: the arithmetic that `tracing` carries along a
forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Literal

Kind = Literal["exact", "bound", "global", "unknown"]
WORSE: tuple[Kind, ...] = ("exact", "bound", "global", "unknown")
"""From the best known to the least."""


@dataclass(frozen=True)
class Axis:
    """Position i sees pixels i * stride + low to i * stride + high, both included, of those from
    reach[0] to reach[1].
    """

    stride: Fraction
    low: Fraction
    high: Fraction
    reach: tuple[Fraction, Fraction]

    def window(
        self, n: int, m: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
    ) -> Axis:
        """After a window slid over n positions to m places; a padding below zero cuts positions
        off.
        """
        first, last = (
            max(0, -padding),
            min(n - 1, (m - 1) * stride + dilation * (kernel - 1) - padding),
        )
        return Axis(
            self.stride * stride,
            self.low - padding * self.stride,
            self.high + (dilation * (kernel - 1) - padding) * self.stride,
            (
                max(self.reach[0], self.low + first * self.stride),
                min(self.reach[1], self.high + last * self.stride),
            ),
        )

    def spread(
        self, kernel: Fraction, stride: Fraction, padding: Fraction, dilation: int = 1
    ) -> Axis:
        """After the transpose of a window: output i sees positions (i + padding - dilation (kernel
        - 1)) / stride and up.
        """
        step = self.stride / stride
        low = self.low + (padding - dilation * (kernel - 1)) * step
        return Axis(step, low, self.high + padding * step, self.reach)

    def leaves_gaps(
        self, n: int, m: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1
    ) -> bool:
        """Whether such a window has holes, or may see less at an edge than its box: nothing, or not
        the outermost position.
        """
        span = dilation * (kernel - 1)
        over = (
            (m - 1) * stride + span - padding - (n - 1)
        )  # how far the last window lies beyond the far edge
        holes = kernel > 1 and dilation * self.stride > self.high - self.low + 1
        nothing = max(padding, over) > span
        skipped = (dilation - 1) * self.stride
        near = padding > 0 and self.low + skipped > self.reach[0]
        far = over > 0 and self.high + (n - 1) * self.stride - skipped < self.reach[1]
        return holes or nothing or (dilation > 1 and (near or far))

    def contains(self, other: Axis) -> bool:
        inside = self.low <= other.low and self.high >= other.high
        return inside and self.reach[0] <= other.reach[0] and self.reach[1] >= other.reach[1]

    def union(self, other: Axis) -> Axis:
        reach = min(self.reach[0], other.reach[0]), max(self.reach[1], other.reach[1])
        return Axis(self.stride, min(self.low, other.low), max(self.high, other.high), reach)


@dataclass(frozen=True)
class Footprint:
    """What a tensor's positions see: the axes y and x, their sizes, and the number of elements
    below one step of each.

    ``resampled`` says that some step on the way depends on the size of the whole map or makes it
        larger: on a part of the image it
    would fall otherwise.
    """

    kind: Kind
    axes: tuple[Axis, Axis]
    sizes: tuple[int, int]
    below: tuple[int, int]
    resampled: bool = False

    def worse(self, kind: Kind) -> Footprint:
        return replace(self, kind=max(self.kind, kind, key=WORSE.index))

    @property
    def local(self) -> bool:
        return self.kind in ("exact", "bound")

    def dims(self, shape: Sequence[int]) -> tuple[int, int] | None:
        """Which dimensions of a tensor of this shape are y and x (the same one twice if merged), if
        any are.
        """
        below = [prod(shape[i + 1 :]) for i in range(len(shape))]
        places = list(zip(shape, below, strict=True))
        merged = (prod(self.sizes), self.below[1])
        if (
            self.below[0] == self.sizes[1] * self.below[1]
            and merged in places
            and 1 not in self.sizes
        ):
            return (places.index(merged),) * 2
        y, x = ((size, step) for size, step in zip(self.sizes, self.below, strict=True))
        if y not in places or x not in places:
            return None
        # sizes of 1 leave several dimensions to choose from: take the last for x, and for y the
        # last before it
        dim_x = len(places) - 1 - places[::-1].index(x)
        earlier = [i for i in range(dim_x) if places[i] == y]
        return (earlier[-1], dim_x) if earlier else None

    def at(self, dims: tuple[int, int], shape: Sequence[int]) -> Footprint:
        """The same, in a tensor whose spatial dimensions are these."""
        below = tuple(prod(shape[d + 1 :]) for d in dims)
        if dims[0] == dims[1]:
            below = (self.sizes[1] * below[1], below[1])
        return replace(self, below=(below[0], below[1]))


def union(a: Footprint, b: Footprint) -> Footprint:
    """What a sum of two tensors sees. It is exact where one contains the other."""
    if a.resampled != b.resampled:
        return union(replace(a, resampled=True), replace(b, resampled=True))
    worst = a.worse(b.kind)
    if not worst.local:
        return worst
    if a.sizes != b.sizes or any(p.stride != q.stride for p, q in zip(a.axes, b.axes, strict=True)):
        return a.worse("global")
    for big, small in ((a, b), (b, a)):
        if all(p.contains(q) for p, q in zip(big.axes, small.axes, strict=True)):
            return big
    y, x = (p.union(q) for p, q in zip(a.axes, b.axes, strict=True))
    return replace(a, axes=(y, x)).worse("bound")
