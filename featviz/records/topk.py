"""The k strongest responses of every unit of a layer, in an order that is total, so that any
sharding gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featviz.errors import RecordError, UsageError
from featviz.records.highest import highest
from featviz.records.peaks import (
    NONE,
    Integers,
    Peaks,
    codes_of,
    highest_of,
    in_reach,
    positions_of,
)

_ARRAYS = ("scores", "images", "positions")
_LAST = torch.iinfo(torch.int32).min
"""Below the rank of every score, that of -inf too: the rank of an empty slot."""
_MOST = 2**20
"""Slots of a unit; more would be for memory that there is not."""
_BITS = 32
"""Of a rank, and of an index behind it."""


@dataclass(frozen=True, eq=False, repr=False)
class TopK:
    """The k strongest images of each of c units: higher score first, then lower image index, then
    lower position.

    Attributes:
        scores: (c, k) float32; -inf in slots that no image has filled.
        images: (c, k) int64, index of the image in its listing; -1 in empty slots.
        positions: (c, k, 2) int64, (y, x) of the score in the activation map; -1 in empty slots, and
            where the score, such as a mean, is of no position.
        latest: the highest index that may be among the images; -1: there is none.

    Updating and merging return a new ``TopK``. Both are commutative and associative: whatever the
    order, the batches and the shards, the same images give the same bits. An image takes at most
    one slot of a unit.

    Example:
        >>> import torch
        >>> from featviz import TopK
        >>> maps = torch.tensor([[[[1.0, 3.0]]], [[[3.0, 0.0]]], [[[2.0, 2.0]]]])
        >>> top = TopK.empty(channels=1, k=2).update(maps, images=[7, 4, 5])
        >>> top.images.tolist(), top.positions.tolist()
        ([[4, 7]], [[[0, 0], [0, 1]]])
    """

    scores: Tensor
    images: Tensor
    positions: Tensor
    latest: int = NONE

    def __repr__(self) -> str:
        return f"<TopK of {len(self.scores)} units, k={self.k}>"

    @classmethod
    def empty(cls, channels: int, k: int) -> TopK:
        """No image yet for any of ``channels`` units.

        Raises:
            UsageError: k is below 1, or above a million.
        """
        if not 1 <= k <= _MOST:
            raise UsageError(f"k={k}: keep 1 to {_MOST:,} exemplars of each unit", "k")
        return cls(
            torch.full((channels, k), -torch.inf, dtype=torch.float32),
            torch.full((channels, k), NONE),
            torch.full((channels, k, 2), NONE),
        )

    @classmethod
    def side_by_side(cls, tops: Sequence[TopK]) -> TopK:
        """Those of several layers of the same images and k, as if they were of one."""
        scores, images, positions = (
            torch.cat([getattr(top, name) for top in tops]) for name in _ARRAYS
        )
        return cls(scores, images, positions, max(top.latest for top in tops))

    def apart(self, channels: Sequence[int]) -> list[TopK]:
        """Those of each layer, of so many units, that lie side by side in these."""
        scores, images, positions = (
            torch.split(getattr(self, name), list(channels)) for name in _ARRAYS
        )
        by_layer = zip(scores, images, positions, strict=True)
        return [TopK(*own, latest=self.latest) for own in by_layer]

    @property
    def k(self) -> int:
        """How many slots each unit has."""
        return self.scores.shape[1]

    def update(self, maps: Tensor, images: Sequence[int]) -> TopK:
        """These, and the maxima of a batch of activation maps.

        Args:
            maps: (n, c, h, w), on the device of these, without NaN.
            images: the index of each of the n images.
        """
        return self.add(Peaks.of(highest_of(maps), images))

    def add(self, peaks: Peaks, *, lowest: bool = False) -> TopK:
        """These, and those of some images by their scores, which are not NaN. What is computed stays on
        the device, which is not waited for where images come in order.

        Args:
            peaks: on the device of these.
            lowest: rank by the scores times -1, which are what is kept.
        """
        signed = -peaks.scores + 0.0 if lowest else peaks.scores
        if not all(a < b for a, b in pairwise([self.latest, *peaks.images])):
            return self._with(_Slots.of_all(peaks, signed))
        # all come after those that are held, so that among equal scores the first slot goes first
        if not in_reach(signed):
            others = _Slots.of_all(peaks, signed)
        elif bool((self.images[:, -1] != NONE).all()):
            others = _Slots.of_few(peaks, signed, signed > self.scores[:, -1])
        else:
            others = _Slots.of_highest(peaks, signed, self.k)
        chosen = self._slots_with(others).highest(self.k)
        return TopK(chosen.scores, chosen.images, positions_of(chosen.codes), peaks.images[-1])

    def merge(self, other: TopK) -> TopK:
        """These and those of other images (or of the same ones: an image counts once).

        Raises:
            UsageError: another number of units or another k.
        """
        if self.scores.shape != other.scores.shape:
            own, others = tuple(self.scores.shape), tuple(other.scores.shape)
            raise UsageError(
                f"a TopK of (units, k) = {own} and one of {others} do not merge: "
                "scan both with the same layers and the same k"
            )
        return self._with(_Slots(other.scores, other.images, codes_of(other.positions)))

    def _with(self, others: _Slots) -> TopK:
        """The k first of these slots and of others, each image once."""
        slots = self._slots_with(others).ordered()
        # empty slots are last: what lies behind the fullest unit's last image is left out
        filled = int((slots.images != NONE).sum(dim=1).max())
        slots = slots.first(max(filled, self.k))
        repeated = slots.repeated()
        if repeated.any():
            slots = slots.emptied(repeated).ordered()
        slots = slots.first(self.k)
        latest = max(self.latest, int(others.images.max()))
        return TopK(slots.scores.clone(), slots.images.clone(), positions_of(slots.codes), latest)

    def _slots_with(self, others: _Slots) -> _Slots:
        """These slots, then others."""
        return _Slots(
            torch.cat([self.scores, others.scores], dim=1),
            torch.cat([self.images, others.images], dim=1),
            torch.cat([codes_of(self.positions), others.codes], dim=1),
        )

    def to(self, device: torch.device | str) -> TopK:
        """These on a device."""
        scores, images = self.scores.to(device), self.images.to(device)
        return TopK(scores, images, self.positions.to(device), self.latest)

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """The three arrays by name, to be saved; ``from_arrays`` takes them back."""
        return {name: getattr(self, name).cpu().numpy() for name in _ARRAYS}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray[Any, Any]]) -> TopK:
        """What ``arrays`` gave.

        Raises:
            RecordError: an array is missing or has a shape that does not go with the others.
        """
        for name in _ARRAYS:
            if name not in arrays:
                raise RecordError(f"the scan's record has no array {name!r}: scan again", "fresh")
        scores, images, positions = (torch.from_numpy(arrays[name]) for name in _ARRAYS)
        top = cls(scores, images, positions, int(images.max()) if images.numel() else NONE)
        shape = top.scores.shape
        if top.images.shape != shape or top.positions.shape != (*shape, 2):
            shapes = ", ".join(f"{name} {arrays[name].shape}" for name in _ARRAYS)
            raise RecordError(
                f"the scan's record has arrays whose shapes do not go together, {shapes}: scan again",
                "fresh",
            )
        return top


@dataclass(frozen=True, eq=False)
class _Slots:
    """Any number of slots of each unit: the tensors of a `TopK` on the way to their order, with the codes of
    positions."""

    scores: Tensor
    images: Tensor
    codes: Tensor

    @classmethod
    def of_all(cls, peaks: Peaks, scores: Tensor) -> _Slots:
        """(c, n) of n images, by scores (n, c)."""
        images = torch.tensor(peaks.images).to(scores.device, non_blocking=True)
        return cls(scores.T, images.expand_as(scores.T), peaks.codes.T)

    @classmethod
    def of_few(cls, peaks: Peaks, scores: Tensor, chosen: Tensor) -> _Slots:
        """(c, any) of those that are chosen, (n, c) bool, in the order of their images; the last are empty.
        In reach of Python, which knows how many the fullest unit has."""
        channels = scores.shape[1]
        index = np.flatnonzero(chosen.numpy())
        image = index // channels  # numpy's divmod takes several times as long
        channel = index - image * channels
        numbers = channel.astype(np.uint16) if channels <= 2**16 else channel  # sorted sooner
        order = numbers.argsort(kind="stable")
        index, channel = index[order], channel[order]
        counts = np.bincount(channel, minlength=channels)
        slot = np.arange(len(order)) - (counts.cumsum() - counts)[channel]
        shape, at = (len(counts), int(counts.max())), (channel, slot)
        slots = []
        for empty, own in zip((-np.inf, NONE, NONE), _values_at(peaks, scores, index), strict=True):
            slots.append(np.full(shape, empty, own.dtype))
            slots[-1][at] = own
        return cls(*map(torch.from_numpy, slots))

    @classmethod
    def of_highest(cls, peaks: Peaks, scores: Tensor, k: int) -> _Slots:
        """(c, up to k) of the k highest scores of each unit, of equal ones the first, in the order of their
        images. In reach of Python."""
        n, channels = scores.shape
        k = min(k, n)
        rows = scores.T.contiguous()
        lowest = highest(rows, k)[:, -1:]
        chosen = rows >= lowest
        index = np.flatnonzero(chosen.numpy())
        if len(index) > channels * k:
            more = np.flatnonzero(np.bincount(index // n) > k)
            chosen[more] = _first_of(rows[more], lowest[more], k)
            index = np.flatnonzero(chosen.numpy())
        channel = index // n
        own = _values_at(peaks, scores, (index - channel * n) * channels + channel)
        # of each unit k are left, since there is no NaN
        return cls(*(torch.from_numpy(values).view(channels, k) for values in own))

    def first(self, n: int) -> _Slots:
        return _Slots(self.scores[:, :n], self.images[:, :n], self.codes[:, :n])

    def taken(self, order: Tensor) -> _Slots:
        """Those at some indices (c, any), in their order."""
        return _Slots(
            self.scores.gather(1, order),
            self.images.gather(1, order),
            self.codes.gather(1, order),
        )

    def highest(self, k: int) -> _Slots:
        """The k of the highest scores, highest first; of equal ones the first; empty slots last."""
        bits = self.scores.contiguous().view(torch.int32)
        rank = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # integers in the order of the floats
        keys = rank.masked_fill_(self.images == NONE, _LAST).long().bitwise_left_shift_(_BITS)
        n = keys.shape[1]
        keys |= torch.arange(n - 1, -1, -1, device=keys.device)  # no two are equal
        behind = highest(keys, k) & (2**_BITS - 1)
        return self.taken(n - 1 - behind)

    def repeated(self) -> Tensor:
        """(c, any) bool: the image of this slot has a slot before it."""
        same = self.images[:, :, None] == self.images[:, None, :]
        return same.tril(-1).any(dim=2) & (self.images != NONE)

    def emptied(self, which: Tensor) -> _Slots:
        return _Slots(
            self.scores.masked_fill(which, -torch.inf),
            self.images.masked_fill(which, NONE),
            self.codes.masked_fill(which, NONE),
        )

    def ordered(self) -> _Slots:
        """Score downwards, image upwards, position upwards; empty slots last.

        Stable sorts by the least important key first, and by the most important one last.
        """
        # an image can have a score of -inf too: it comes before the empty slots
        images = self.images.masked_fill(self.images == NONE, torch.iinfo(torch.int64).max)
        n, device = self.scores.shape[1], self.scores.device
        order = torch.arange(n, device=device).expand_as(self.scores)
        for key, descending in ((self.codes, False), (images, False), (self.scores, True)):
            keys = key.gather(1, order)
            order = order.gather(1, keys.sort(dim=1, stable=True, descending=descending).indices)
        return self.taken(order)


def _first_of(rows: Tensor, lowest: Tensor, k: int) -> Tensor:
    """Which values of rows (c, any) are the k highest of theirs, (c, any) bool, given the lowest of the k, (c, 1), of
    whose equals the first are taken."""
    higher, equal = rows > lowest, rows == lowest
    spare = k - higher.sum(dim=1, keepdim=True)
    return higher | (equal & (equal.cumsum(dim=1) <= spare))


def _values_at(peaks: Peaks, scores: Tensor, index: Integers) -> tuple[Any, Any, Any]:
    """Scores, images and codes at some indices into (n, c) flattened, in reach of Python."""
    images = np.array(peaks.images, dtype=np.int64)[index // scores.shape[1]]
    return scores.numpy().ravel()[index], images, peaks.codes_at(index)
