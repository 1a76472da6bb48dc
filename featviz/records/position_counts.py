"""How the values of every unit spread over the positions of images, counted in bins: in half precision an eighth
of a doubling has the same first bits."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import torch
from torch import Tensor

from featviz.errors import UsageError
from featviz.records.peaks import in_reach

_BITS = 7
_HALVES = 2**_BITS
"""Numbers of half precision in a bin."""
_LEVELS = 248
"""Bins of either sign: eight equal ones up to 2**-14, then eight to each doubling; the last, above 1.875 * 2**15,
is without an end."""
BINS = 2 * _LEVELS + 1
"""The negative bins, that of zero and of what half precision rounds to it, up to 2**-25, and the positive ones, in
the order of their values."""
KINDS = 512
"""Of numbers of half precision: those below zero by the bin of their magnitude, from zero on, then those above."""
_CHANNELS = 16_384
"""That are counted at once: numbers of more would not fit 32 bits."""
NETDISSECT = 0.995
"""Network Dissection's quantile: 0.5% of positions are above it."""


@dataclass(frozen=True, eq=False, repr=False)
class PositionCounts:
    """How many positions of the maps of each of c units have a value in each bin: any order, batches and
    shards give the same.

    Attributes:
        kinds: (c, KINDS) int64; ``counts`` has them in the order of their values.

    Example:
        >>> import torch
        >>> from featviz.records.position_counts import PositionCounts
        >>> maps = torch.tensor([[[[0.0, 1.0], [-3.0, 0.5]]]])
        >>> counts = PositionCounts.empty(1).update(maps)
        >>> counts.quantile(0.25).tolist(), counts.quantile(1.0).tolist()
        ([-2.7509765625], [1.00048828125])
    """

    kinds: Tensor

    def __repr__(self) -> str:
        return f"<PositionCounts of {len(self.kinds)} units, {self.positions} positions each>"

    @classmethod
    def empty(cls, channels: int) -> PositionCounts:
        """Of no map yet."""
        return cls(torch.zeros(channels, KINDS, dtype=torch.int64))

    @property
    def positions(self) -> int:
        """How many positions each unit has had."""
        return int(self.kinds[0].sum())

    @property
    def counts(self) -> Tensor:
        """(c, BINS) int64."""
        below, above = self.kinds.chunk(2, dim=1)  # each upwards from zero
        below, above = below[:, : _LEVELS + 1], above[:, : _LEVELS + 1]
        zero = below[:, :1] + above[:, :1]
        return torch.cat([below[:, 1:].flip(1), zero, above[:, 1:]], dim=1)

    def update(self, maps: Tensor) -> PositionCounts:
        """These, and maps (n, c, h, w) without NaN, on the device of these, which is not waited for."""
        return self.plus(kinds_of(maps))

    def plus(self, kinds: Tensor) -> PositionCounts:
        """These, and those of some maps, as of `kinds_of`, on the device of these."""
        return PositionCounts(self.kinds.to(kinds.device) + kinds)

    def merge(self, other: PositionCounts) -> PositionCounts:
        """These and those of other images."""
        return PositionCounts(self.kinds + other.kinds)

    def to(self, device: torch.device | str) -> PositionCounts:
        """These on a device."""
        return PositionCounts(self.kinds.to(device))

    def quantile(self, q: float) -> Tensor:
        """(c,) float32: the upper edge of the bin in which the value lies that a share q of the
        positions do not exceed. No more than a share 1 - q of those that are counted is above it. A bin is an eighth of a
        doubling; the last is without an end, and its edge is infinity.

        Raises:
            UsageError: q is not above 0 and at most 1, or there are no positions.
        """
        if not 0 < q <= 1:
            raise UsageError(f"q={q}: give a share above 0 and at most 1, such as 0.995", "q")
        if not self.positions:
            raise UsageError("no position is counted yet: update with maps first")
        rank = ceil(Fraction(str(float(q))) * self.positions)
        reached = self.counts.cpu().cumsum(dim=1) >= rank
        return upper_edges()[reached.byte().argmax(dim=1)]

    @property
    def netdissect_threshold(self) -> Tensor:
        """(c,) float32: no more than 0.5% of positions are above it.

        Source: Bau et al., Network Dissection (2017), section 2.2.
        """
        return self.quantile(NETDISSECT)


def upper_edges() -> Tensor:
    """(BINS,) float32: no value of a bin is above its edge, but for that of zero, which has values up to 2**-25 too."""
    numbers = torch.arange(1, _LEVELS, dtype=torch.int16) * _HALVES
    pairs = torch.stack([numbers, numbers + 1]).view(torch.float16).float()
    edges = pairs.mean(dim=0)  # which are rounded to the lower of two numbers, the even one
    lowest, zero, endless = torch.tensor([[2.0**-25], [0.0], [torch.inf]], dtype=torch.float32)
    return torch.cat([-edges.flip(0), -lowest, zero, edges, endless])


def kinds_of(maps: Tensor, weights: Tensor | None = None) -> Tensor:
    """How many values of each unit are of each kind, (c, KINDS) int64.

    Args:
        maps: (n, c, h, w), without NaN, on a device that is not waited for.
        weights: how often each image counts, (n,) int64, where the device is out of Python's reach; None: once.
    """
    blocks = torch.split(maps, _CHANNELS, dim=1)
    return torch.cat([_kinds(block, weights) for block in blocks])


def _kinds(maps: Tensor, weights: Tensor | None) -> Tensor:
    """The same, of no more than _CHANNELS units."""
    channels = maps.shape[1]
    kinds = maps.detach().half().view(torch.int16).contiguous().int()
    # rounded up, so that zero has a bin of its own; those of a channel come after those of the one before
    first = torch.arange(channels, dtype=torch.int32, device=maps.device) * KINDS + KINDS // 2
    kinds += (first * _HALVES + _HALVES - 1)[:, None, None]
    kinds = kinds.bitwise_right_shift_(_BITS).flatten()
    n = channels * KINDS + 1  # NaN, which is refused later, may come after the last
    if in_reach(maps) and weights is None:
        return torch.bincount(kinds, minlength=n)[:-1].view(channels, KINDS)
    counts = torch.zeros(n, dtype=torch.int64, device=maps.device)  # bincount waits for the device
    each = counts.new_ones(len(maps)) if weights is None else weights
    counts.index_add_(0, kinds, each[:, None, None, None].expand(maps.shape).flatten())
    return counts[:-1].view(channels, KINDS)
