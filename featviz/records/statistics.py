"""What is counted of every unit over a data set: how often it responds, and how strongly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featviz.records.sums import added, empty_sums, total_of

_OCTAVES = (-16, 16)
BINS = 2 + 4 * (_OCTAVES[1] - _OCTAVES[0])
"""Bins of a histogram: not above zero; below 2**-16; then four to each doubling, the last without
an end."""
_BIAS = 127
"""What float32 adds to an exponent."""
_ARRAYS = ("sums", "maximum", "active", "histogram")


@dataclass(frozen=True, eq=False, repr=False)
class Statistics:
    """Of each of c units, over the images of a scan; an image counts with the maximum of its map.

    Attributes:
        count: number of images.
        sums: (c, LIMBS) int64, the sum of the maxima, exact: see `featviz.records.sums`.
        maximum: (c,) float32.
        active: (c,) int64, how many images have a maximum above zero.
        histogram: (c, BINS) int64, how many images have a maximum in each bin; ``bin_edges`` gives
            the bins.

    Example:
        >>> import torch
        >>> from featviz import Statistics
        >>> statistics = Statistics.empty(2).update(torch.tensor([[1.0, -2.0], [3.0, -1.0]]))
        >>> statistics
        <Statistics of 2 units over 2 images, 1 dead>
        >>> statistics.mean.tolist()
        [2.0, -1.5]
    """

    count: int
    sums: Tensor
    maximum: Tensor
    active: Tensor
    histogram: Tensor

    def __repr__(self) -> str:
        dead = int(self.dead.sum())
        return f"<Statistics of {len(self.maximum)} units over {self.count} images, {dead} dead>"

    @classmethod
    def empty(cls, channels: int) -> Statistics:
        """Of no image yet."""
        zeros = torch.zeros(channels, dtype=torch.int64)
        histogram = torch.zeros(channels, BINS, dtype=torch.int64)
        maximum = torch.full((channels,), -torch.inf, dtype=torch.float32)
        return cls(0, empty_sums(channels), maximum, zeros, histogram)

    def update(self, peaks: Tensor) -> Statistics:
        """These, and the maxima (n, c) of a batch, on the device of these."""
        peaks = peaks.detach().float()
        bins = _bins(peaks).T
        each = self.histogram.new_ones(1, 1).expand_as(bins)
        histogram = self.histogram.scatter_add(1, bins, each)
        count = self.count + len(peaks)
        return Statistics(
            count,
            added(self.sums, peaks),
            torch.maximum(self.maximum, peaks.amax(dim=0)),
            count - histogram[:, 0],
            histogram,
        )

    @classmethod
    def side_by_side(cls, layers: Sequence[Statistics]) -> Statistics:
        """Those of several layers over the same images, as if they were of one."""
        arrays = (torch.cat([getattr(own, name) for own in layers]) for name in _ARRAYS)
        return cls(layers[0].count, *arrays)

    def apart(self, channels: Sequence[int]) -> list[Statistics]:
        """Those of each layer, of so many units, that lie side by side in these."""
        arrays = (torch.split(getattr(self, name), list(channels)) for name in _ARRAYS)
        return [Statistics(self.count, *own) for own in zip(*arrays, strict=True)]

    def merge(self, other: Statistics) -> Statistics:
        """These and those of other images."""
        return Statistics(
            self.count + other.count,
            self.sums + other.sums,
            torch.maximum(self.maximum, other.maximum),
            self.active + other.active,
            self.histogram + other.histogram,
        )

    def to(self, device: torch.device | str) -> Statistics:
        """These on a device."""
        return Statistics(self.count, *(getattr(self, name).to(device) for name in _ARRAYS))

    @property
    def total(self) -> Tensor:
        """(c,) float64, the sum of the maxima, rounded once."""
        return total_of(self.sums)

    @property
    def mean(self) -> Tensor:
        """(c,) float32, of the maxima; infinite where one of them is, or all are below any number. Of some that
        are, or of numbers beyond 2**54, each counts as that."""
        mean = (self.total / max(self.count, 1)).float()
        largest = self.maximum.cpu()
        is_infinite = largest.isinf() & (self.count > 0)
        return torch.where(is_infinite, largest, mean)

    @property
    def fraction_active(self) -> Tensor:
        """(c,) float32, the share of images that activate the unit."""
        return self.active / max(self.count, 1)

    @property
    def dead(self) -> Tensor:
        """(c,) bool: no position of any image is above zero."""
        return self.active == 0

    @property
    def living(self) -> list[int]:
        """The channels that are not dead."""
        channels: list[int] = (~self.dead).nonzero().flatten().tolist()
        return channels

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays by name, to be saved; ``from_arrays`` takes them back."""
        return {name: getattr(self, name).cpu().numpy() for name in _ARRAYS}

    @classmethod
    def from_arrays(cls, count: int, arrays: dict[str, np.ndarray[Any, Any]]) -> Statistics:
        """What ``arrays`` gave."""
        return cls(count, *(torch.from_numpy(arrays[name]) for name in _ARRAYS))


def _bins(values: Tensor) -> Tensor:
    # the first bits of a float32 above zero are its exponent, then its quarter of the octave
    quarters = values.contiguous().view(torch.int32) >> 21
    bins = quarters.sub_(4 * (_BIAS + _OCTAVES[0]) - 2)
    bins = bins.clamp_(1, BINS - 1)  # infinity has the highest exponent
    return bins.mul_(values > 0).long()


def bin_edges() -> np.ndarray[Any, Any]:
    """The lower edges of bins 1 to BINS - 1 of a histogram: 0, then four to each doubling from
    2**-16."""
    octaves = np.arange(_OCTAVES[0], _OCTAVES[1])
    edges = 2.0 ** octaves[:, None] * (1 + np.arange(4) / 4)
    return np.concatenate([[0.0], edges.ravel()])
