"""How the values of every unit spread over all positions of all images, counted in bins."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import torch
from torch import Tensor

from featviz.errors import UsageError

_LEVELS = 257
"""Bins of either sign: below 2**-16; then eight to each doubling, the last, from 1.875 * 2**15,
without an end."""
_OFFSET = (127 - 16) * 8 - 2  # the bits of 2**-16, less their lowest 20, are bin 2
BINS = 2 * _LEVELS + 1
"""The negative bins, that of zero and of what is nearer to it than 2**-129, and the positive ones, in the order
of their values."""
_HEADS = 4096
_MANY = 2 * _HEADS
"""Values of a channel that make it worth while to go through all heads."""
NETDISSECT = 0.995
"""Network Dissection's quantile: 0.5% of positions are above it."""


@dataclass(frozen=True, eq=False, repr=False)
class PositionCounts:
    """How many positions of the maps of each of c units have a value in each bin. Counts are exact,
    and any order, batches and shards give the same.

    Attributes:
        counts: (c, BINS) int64.

    Example:
        >>> import torch
        >>> from featviz.records.position_counts import PositionCounts
        >>> maps = torch.tensor([[[[0.0, 1.0], [-3.0, 0.5]]]])
        >>> counts = PositionCounts.empty(1).update(maps)
        >>> counts.quantile(0.25).tolist(), counts.quantile(1.0).tolist()
        ([-3.0], [1.125])
    """

    counts: Tensor

    def __repr__(self) -> str:
        return f"<PositionCounts of {len(self.counts)} units, {self.positions} positions each>"

    @classmethod
    def empty(cls, channels: int) -> PositionCounts:
        """Of no map yet."""
        return cls(torch.zeros(channels, BINS, dtype=torch.int64))

    @property
    def positions(self) -> int:
        """How many positions each unit has had."""
        return int(self.counts[0].sum())

    def update(self, maps: Tensor) -> PositionCounts:
        """These, and maps (n, c, h, w) without NaN, on the device of these, which is not waited for."""
        values = maps.detach().float()
        if values[:, :1].numel() < _MANY:
            return PositionCounts(self.counts + _by_channel(_bins(values), BINS))
        # the bins are made of the counts, and not of every value
        return PositionCounts(self.counts + _folded(_by_channel(_heads(values), _HEADS)))

    def merge(self, other: PositionCounts) -> PositionCounts:
        """These and those of other images."""
        return PositionCounts(self.counts + other.counts)

    def to(self, device: torch.device | str) -> PositionCounts:
        """These on a device."""
        return PositionCounts(self.counts.to(device))

    def quantile(self, q: float) -> Tensor:
        """(c,) float32: the upper edge of the bin in which the value lies that a share q of the
        positions do not exceed. No more than a share 1 - q is above it. A bin is an eighth of a
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
    """(BINS,) float32: no value of a bin is above its edge."""
    bits = (torch.arange(2, _LEVELS + 1, dtype=torch.int32) + _OFFSET) << 20
    edges = bits.view(torch.float32)  # lower edges of the positive bins from the second on
    zero = torch.zeros(1)
    return torch.cat([-edges.flip(0), zero, zero, edges, torch.tensor([torch.inf])])


def _bins(values: Tensor) -> Tensor:
    bits = values.contiguous().view(torch.int32)
    head = (bits & 0x7FFFFFFF) >> 20
    level = (head - _OFFSET).clamp_(1, _LEVELS)
    sign = (bits >> 31).bitwise_or_(1)
    return level.mul_(head.clamp_(max=1)).mul_(sign).add_(_LEVELS)


def _heads(values: Tensor) -> Tensor:
    """The first 12 bits of each value: sign, exponent, and the eighth of the doubling."""
    return (values.contiguous().view(torch.int32) >> 20).add_(_HEADS // 2)


def _folded(counts: Tensor) -> Tensor:
    """Of counts by heads (c, _HEADS) those by bins (c, BINS)."""
    below, above = counts.chunk(2, dim=1)  # each upwards from zero, by magnitude
    zero = below[:, :1] + above[:, :1]
    return torch.cat([_levels(below).flip(1), zero, _levels(above)], dim=1)


def _levels(heads: Tensor) -> Tensor:
    """Of one sign's heads (c, any) its bins (c, _LEVELS), the outermost with all that is beyond them."""
    first, last = _OFFSET + 2, _OFFSET + _LEVELS
    lowest = heads[:, 1:first].sum(dim=1, keepdim=True)
    highest = heads[:, last:].sum(dim=1, keepdim=True)
    return torch.cat([lowest, heads[:, first:last], highest], dim=1)


def _by_channel(kinds: Tensor, n: int) -> Tensor:
    """How many of the whole numbers from 0 to n of each channel, (images, c, h, w), are of each kind:
    (c, n). They are written over."""
    channels = kinds.shape[1]
    kinds += n * torch.arange(channels, device=kinds.device, dtype=kinds.dtype)[:, None, None]
    if kinds.device.type == "cpu":
        return torch.bincount(kinds.flatten(), minlength=channels * n).view(-1, n)
    counts = torch.zeros(channels * n, dtype=torch.int64, device=kinds.device)
    flat = kinds.flatten()  # bincount waits for the device
    return counts.index_add_(0, flat, torch.ones_like(flat, dtype=torch.int64)).view(-1, n)
