"""The k strongest responses of every unit of a layer, in an order that is total, so that any
sharding gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featviz.errors import RecordError, UsageError

NONE = -1
"""The image, and the position, of an empty slot."""
_ARRAYS = ("scores", "images", "positions")
_LOWEST = -1e300
"""Below every finite score, and above those of empty slots: the key of an image whose score is -inf."""
IN_REACH = {"cpu"}
"""Devices whose values Python reads without waiting."""


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
            UsageError: k is below 1.
        """
        if k < 1:
            raise UsageError(f"k={k}: keep at least 1 exemplar of each unit", "k")
        return cls(
            torch.full((channels, k), -torch.inf),
            torch.full((channels, k), NONE),
            torch.full((channels, k, 2), NONE),
        )

    @property
    def k(self) -> int:
        """How many slots each unit has."""
        return self.scores.shape[1]

    def update(
        self,
        maps: Tensor,
        images: list[int],
        values: Tensor | None = None,
        *,
        has_positions: bool = True,
        lowest: bool = False,
    ) -> TopK:
        """These, and a batch of activation maps. What is computed stays on the device of the maps,
        which is not waited for where images come in order.

        Args:
            maps: (n, c, h, w), on the device of these, without NaN.
            images: the index of each of the n images.
            values: (n, c) the scores of the maps; None: their maxima.
            has_positions: whether each score is the value of a position of its map, the first of which
                is kept; else positions are -1.
            lowest: rank by the scores times -1, which are what is kept.
        """
        if values is None:
            values = maps.amax(dim=(2, 3))
        own = _Batch(maps, values, has_positions)
        signed = -values if lowest else values
        scores = signed.T.float() + 0.0  # (c, n); minus zero becomes zero
        number = torch.tensor(images).to(scores.device, non_blocking=True).expand_as(scores)
        if all(a < b for a, b in pairwise([self.latest, *images])):
            return self._appended(scores, number, own, images[-1])
        rows = torch.arange(len(images), device=scores.device).expand_as(scores)
        return self._with(scores, number, own.positions(rows))

    def _appended(self, scores: Tensor, images: Tensor, batch: _Batch, latest: int) -> TopK:
        """These and images (c, n) that ascend, and come after all of these: so among equal scores
        those that are held go before those of the batch, and these are in order."""
        if scores.device.type not in IN_REACH:
            return self._sorted_in(scores, images, batch, latest)
        # most batches change few units once many images have been
        room = self.images[:, -1:] == NONE
        changed = ((scores > self.scores[:, -1:]) | room).any(dim=1).nonzero().flatten()
        if len(changed) == len(scores):
            return self._sorted_in(scores, images, batch, latest)
        few = self._of(changed)._sorted_in(
            scores[changed], images[changed], batch.of(changed), latest
        )
        return TopK(
            self.scores.index_copy(0, changed, few.scores),
            self.images.index_copy(0, changed, few.images),
            self.positions.index_copy(0, changed, few.positions),
            latest,
        )

    def _of(self, channels: Tensor) -> TopK:
        """Those of some units."""
        scores, images = self.scores[channels], self.images[channels]
        return TopK(scores, images, self.positions[channels], self.latest)

    def _sorted_in(self, scores: Tensor, images: Tensor, batch: _Batch, latest: int) -> TopK:
        """The same, by sorting all of them."""
        of_all = torch.cat([self.scores, scores], dim=1)
        numbers = torch.cat([self.images, images], dim=1)
        keys = of_all.double().clamp(min=_LOWEST).masked_fill(numbers == NONE, -torch.inf)
        order = keys.sort(dim=1, stable=True, descending=True).indices[:, : self.k]
        row = order - self.k  # of the batch; below 0: it was held before
        held = self.positions.gather(1, order.clamp(max=self.k - 1)[..., None].expand(-1, -1, 2))
        positions = torch.where((row >= 0)[..., None], batch.positions(row), held)
        return TopK(of_all.gather(1, order), numbers.gather(1, order), positions, latest)

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
        return self._with(other.scores, other.images, other.positions)

    def _with(self, scores: Tensor, images: Tensor, positions: Tensor) -> TopK:
        """The k first of these slots and of others, (c, any), each image once."""
        slots = _Slots(
            torch.cat([self.scores, scores], dim=1),
            torch.cat([self.images, images], dim=1),
            torch.cat([self.positions, positions], dim=1),
        )
        slots = slots.ordered()
        # empty slots are last: what lies behind the fullest unit's last image is left out
        filled = int((slots.images != NONE).sum(dim=1).max())
        slots = slots.first(max(filled, self.k))
        repeated = slots.repeated()
        if repeated.any():
            slots = slots.emptied(repeated).ordered()
        slots = slots.first(self.k)
        latest = max(self.latest, int(images.max()))
        return TopK(slots.scores.clone(), slots.images.clone(), slots.positions.clone(), latest)

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
    """Any number of slots of each unit: the tensors of a `TopK` on the way to their order."""

    scores: Tensor
    images: Tensor
    positions: Tensor

    def first(self, n: int) -> _Slots:
        return _Slots(self.scores[:, :n], self.images[:, :n], self.positions[:, :n])

    def repeated(self) -> Tensor:
        """(c, any) bool: the image of this slot has a slot before it."""
        same = self.images[:, :, None] == self.images[:, None, :]
        return same.tril(-1).any(dim=2) & (self.images != NONE)

    def emptied(self, which: Tensor) -> _Slots:
        return _Slots(
            self.scores.masked_fill(which, -torch.inf),
            self.images.masked_fill(which, NONE),
            self.positions.masked_fill(which[..., None], NONE),
        )

    def ordered(self) -> _Slots:
        """Score downwards, image upwards, position upwards; empty slots last.

        Stable sorts by the least important key first, and by the most important one last.
        """
        y, x = self.positions.unbind(dim=2)
        # an image can have a score of -inf too: it comes before the empty slots
        images = self.images.masked_fill(self.images == NONE, torch.iinfo(torch.int64).max)
        n, device = self.scores.shape[1], self.scores.device
        order = torch.arange(n, device=device).expand_as(self.scores)
        for key, descending in ((x, False), (y, False), (images, False), (self.scores, True)):
            keys = key.gather(1, order)
            order = order.gather(1, keys.sort(dim=1, stable=True, descending=descending).indices)
        return _Slots(
            self.scores.gather(1, order),
            self.images.gather(1, order),
            self.positions.gather(1, order[..., None].expand(-1, -1, 2)),
        )


@dataclass(frozen=True, eq=False)
class _Batch:
    """A batch's maps (n, c, h, w), their scores (n, c), whether these have positions, and of which
    channels it is; None: of all."""

    maps: Tensor
    values: Tensor
    has_positions: bool
    channels: Tensor | None = None

    def of(self, channels: Tensor) -> _Batch:
        """That of some channels, where it is of all."""
        return replace(self, channels=channels)

    def positions(self, rows: Tensor) -> Tensor:
        """(c, any, 2): where the maps of some rows (c, any) have their scores, the first of equal
        ones; anything where the row is below 0, and -1 if scores have no positions."""
        if not self.has_positions:
            return torch.full((*rows.shape, 2), NONE, device=rows.device)
        if self.maps.device.type in IN_REACH:
            flat = self._of_some(rows)
        else:
            flat = self._first(self.maps.flatten(2), self.values).T.gather(1, rows.clamp(min=0))
        width = self.maps.shape[3]
        return torch.stack([flat // width, flat % width], dim=-1)

    def _of_some(self, rows: Tensor) -> Tensor:
        """Flattened positions (c, any) of the rows that are not below 0, which are most often few."""
        unit, slot = (rows >= 0).nonzero(as_tuple=True)
        channel = unit
        if self.channels is not None:
            channel = self.channels[unit]
        which = rows[unit, slot], channel
        maps, values = self.maps[which].flatten(1), self.values[which]
        flat = torch.zeros_like(rows)
        maxima, first = maps.max(dim=1)  # which is faster than to compare
        if not torch.equal(maxima, values):
            first = self._first(maps, values)
        flat[unit, slot] = first
        return flat

    @staticmethod
    def _first(maps: Tensor, values: Tensor) -> Tensor:
        """The flattened position of the first value of each map (..., h * w) that is its score."""
        is_score = maps == values[..., None]
        return is_score.byte().argmax(dim=-1)
