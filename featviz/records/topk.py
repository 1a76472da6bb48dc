"""The k strongest responses of every unit of a layer, in an order that is total, so that any
sharding gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from featviz.errors import RecordError, UsageError

NONE = -1  # the image of an empty slot


_ARRAYS = ("scores", "images", "positions")


class _Rows(NamedTuple):
    """Entries of each unit: scores (c, m), images (c, m), positions (c, m, 2)."""

    scores: Tensor
    images: Tensor
    positions: Tensor

    def first(self, m: int) -> _Rows:
        return _Rows(self.scores[:, :m], self.images[:, :m], self.positions[:, :m])


@dataclass(frozen=True, eq=False, repr=False)
class TopK:
    """The k strongest images of each of c units: higher score first, then lower image index, then
    lower position.

    Attributes:
        scores: (c, k) float32; -inf in slots that no image has filled.
        images: (c, k) int64, index of the image in its listing; -1 in empty slots.
        positions: (c, k, 2) int64, (y, x) of the score in the activation map.

    Updating and merging return a new ``TopK``. Both are commutative and associative: whatever the
    order, the batches and the shards, the same images give the same bits. An image takes at most
    one slot of a unit.

    Example:
        >>> import torch
        >>> from featviz import TopK
        >>> maps = torch.tensor([[[[1.0, 3.0]]], [[[3.0, 0.0]]], [[[2.0, 2.0]]]])
        >>> top = TopK.empty(channels=1, k=2).update(maps, [7, 4, 5])
        >>> top.images.tolist(), top.positions.tolist()
        ([[4, 7]], [[[0, 0], [0, 1]]])
    """

    scores: Tensor
    images: Tensor
    positions: Tensor

    def __repr__(self) -> str:
        return f"<TopK of {len(self.scores)} units, k={self.k}>"

    @classmethod
    def empty(cls, channels: int, k: int) -> TopK:
        """No image yet for any of ``channels`` units."""
        if k < 1:
            raise UsageError(f"k={k}: keep at least 1 exemplar of each unit")
        return cls(
            torch.full((channels, k), -torch.inf),
            torch.full((channels, k), NONE),
            torch.full((channels, k, 2), NONE),
        )

    @property
    def k(self) -> int:
        return self.scores.shape[1]

    def update(self, maps: Tensor, images: list[int], peaks: Tensor | None = None) -> TopK:
        """These, and a batch of activation maps.

        Args:
            maps: (n, c, h, w), on any device. NaN is refused by whoever calls.
            images: the index of each of the n images.
            peaks: (n, c) the maxima of the maps, if they are known already.
        """
        peaks = maps.amax(dim=(2, 3)) if peaks is None else peaks
        scores = peaks.T.float().cpu() + 0.0  # (c, n); minus zero becomes zero
        enters = scores >= self.scores[:, -1:]
        channel, which = enters.nonzero(as_tuple=True)
        if not len(channel):
            return self
        rows = maps[which.to(maps.device), channel.to(maps.device)].flatten(1)  # (entering, h * w)
        flat = rows.argmax(dim=1).cpu()  # the first of equal ones
        positions = torch.full((*scores.shape, 2), NONE)
        y, x = flat // maps.shape[3], flat % maps.shape[3]
        positions[channel, which] = torch.stack([y, x], dim=1)
        entering_scores = torch.where(enters, scores, -torch.inf)
        entering_images = torch.where(enters, torch.tensor(images).expand_as(scores), NONE)
        return self._with(entering_scores, entering_images, positions)

    def merge(self, other: TopK) -> TopK:
        """These and those of other images (or of the same ones: an image counts once).

        Raises:
            UsageError: another number of units or another k.
        """
        if self.scores.shape != other.scores.shape:
            shapes = f"{tuple(self.scores.shape)} and {tuple(other.scores.shape)}"
            raise UsageError(
                f"two TopK of shapes {shapes} do not merge: take the same layer and the same k"
            )
        return self._with(other.scores, other.images, other.positions)

    def _with(self, scores: Tensor, images: Tensor, positions: Tensor) -> TopK:
        rows = _ordered(
            torch.cat([self.scores, scores], dim=1),
            torch.cat([self.images, images], dim=1),
            torch.cat([self.positions, positions], dim=1),
        )
        # comparing every image with every other takes memory: empty slots are dropped first
        filled = int((rows.images != NONE).sum(dim=1).amax())
        rows = rows.first(max(filled, self.k))
        pairs = rows.images[:, :, None] == rows.images[:, None, :]
        again = pairs.tril(-1).any(dim=2) & (rows.images != NONE)
        if again.any():
            rows = _ordered(
                rows.scores.masked_fill(again, -torch.inf),
                rows.images.masked_fill(again, NONE),
                rows.positions.masked_fill(again[..., None], NONE),
            )
        kept = rows.first(self.k)
        return TopK(kept.scores.clone(), kept.images.clone(), kept.positions.clone())

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """The three arrays by name, to be saved; ``from_arrays`` takes them back."""
        return {name: getattr(self, name).numpy() for name in _ARRAYS}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray[Any, Any]]) -> TopK:
        """What ``arrays`` gave.

        Raises:
            RecordError: an array is missing or has a shape that does not go with the others.
        """
        try:
            top = cls(*(torch.from_numpy(arrays[name]) for name in _ARRAYS))
        except KeyError as error:
            raise RecordError(f"the scan's record has no array {error.args[0]!r}") from None
        if top.images.shape != top.scores.shape or top.positions.shape != (*top.scores.shape, 2):
            raise RecordError("the scan's record has arrays whose shapes do not go together")
        return top


def _ordered(scores: Tensor, images: Tensor, positions: Tensor) -> _Rows:
    """Along the second axis: score downwards, image upwards, position upwards; empty slots last."""
    order = torch.arange(scores.shape[1]).expand_as(scores)
    last = images.masked_fill(images == NONE, torch.iinfo(images.dtype).max)
    # stable sorts, from the least important key to the most important
    for key, descending in (
        (positions[..., 1], False),
        (positions[..., 0], False),
        (last, False),
        (scores, True),
    ):
        by_key = key.gather(1, order).sort(dim=1, stable=True, descending=descending)
        order = order.gather(1, by_key.indices)
    return _Rows(
        scores.gather(1, order),
        images.gather(1, order),
        positions.gather(1, order[..., None].expand(-1, -1, 2)),
    )
