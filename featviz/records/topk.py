"""The k strongest responses of every unit of a layer, in an order that is total, so that any
sharding gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featviz.errors import RecordError, UsageError

NONE = -1  # the image of an empty place


@dataclass(frozen=True, eq=False, repr=False)
class TopK:
    """The k strongest images of each of c units: higher score first, then lower image index, then
    lower position.

    Attributes:
        scores: (c, k) float32; -inf in places that no image has filled.
        images: (c, k) int64, index of the image in its listing; -1 in empty places.
        positions: (c, k, 2) int64, (y, x) of the score in the activation map.

    Updating and merging return a new ``TopK``. Both are commutative and associative: whatever the
    order, the batches and the shards, the same images give the same bits. An image takes at most
    one place of a unit.

    Example:
        >>> import torch
        >>> from featviz import TopK
        >>> top = TopK.empty(channels=1, k=2).update(torch.tensor([[[[1.0, 3.0]]], [[[3.0, 0.0]]], [[[2.0, 2.0]]]]), [7, 4, 5])
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
        found = torch.full((*scores.shape, 2), NONE)
        found[channel, which] = torch.stack([flat // maps.shape[3], flat % maps.shape[3]], dim=1)
        numbers = torch.tensor(images).expand_as(scores)
        return self._with(
            torch.where(enters, scores, -torch.inf), torch.where(enters, numbers, NONE), found
        )

    def merge(self, other: TopK) -> TopK:
        """These and those of other images (or of the same ones: an image counts once).

        Raises:
            UsageError: another number of units or another k.
        """
        if self.scores.shape != other.scores.shape:
            raise UsageError(
                f"a TopK of shape {tuple(self.scores.shape)} and one of {tuple(other.scores.shape)} do not merge"
            )
        return self._with(other.scores, other.images, other.positions)

    def _with(self, scores: Tensor, images: Tensor, positions: Tensor) -> TopK:
        scores, images = torch.cat([self.scores, scores], 1), torch.cat([self.images, images], 1)
        positions = torch.cat([self.positions, positions], 1)
        scores, images, positions = _ordered(scores, images, positions)
        filled = int((images != NONE).sum(dim=1).max())
        scores, images, positions = (
            t[:, : max(filled, self.k)] for t in (scores, images, positions)
        )
        again = (images[:, :, None] == images[:, None, :]).tril(-1).any(2) & (images != NONE)
        if again.any():
            scores, images = scores.masked_fill(again, -torch.inf), images.masked_fill(again, NONE)
            scores, images, positions = _ordered(
                scores, images, positions.masked_fill(again[..., None], NONE)
            )
        return TopK(
            scores[:, : self.k].clone(), images[:, : self.k].clone(), positions[:, : self.k].clone()
        )

    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """The three arrays by name, to be saved; ``from_arrays`` takes them back."""
        return {name: getattr(self, name).numpy() for name in ("scores", "images", "positions")}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray[Any, Any]]) -> TopK:
        """What ``arrays`` gave.

        Raises:
            RecordError: an array is missing or has a shape that does not go with the others.
        """
        try:
            top = cls(
                *(torch.from_numpy(arrays[name]) for name in ("scores", "images", "positions"))
            )
        except KeyError as error:
            raise RecordError(f"the scan's record has no array {error.args[0]!r}") from None
        if top.images.shape != top.scores.shape or top.positions.shape != (*top.scores.shape, 2):
            raise RecordError("the scan's record has arrays whose shapes do not go together")
        return top


def _ordered(scores: Tensor, images: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Along the second axis: score downwards, image upwards, position upwards; empty places last."""
    order = torch.arange(scores.shape[1]).expand_as(scores)
    last = images.masked_fill(images == NONE, torch.iinfo(images.dtype).max)
    for key, descending in (
        (positions[..., 1], False),
        (positions[..., 0], False),
        (last, False),
        (scores, True),
    ):
        order = order.gather(
            1, key.gather(1, order).sort(dim=1, stable=True, descending=descending).indices
        )
    return (
        scores.gather(1, order),
        images.gather(1, order),
        positions.gather(1, order[..., None].expand(-1, -1, 2)),
    )
