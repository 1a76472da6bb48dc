"""What a scan takes of a batch of activation maps while they are there, to be counted later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

NONE = -1
"""The image, and the position, of an empty slot."""
IN_REACH = {"cpu"}
"""Devices whose values Python reads without waiting."""


@dataclass(frozen=True, eq=False)
class Peaks:
    """The peaks of n images in the maps of c channels, on the device of the maps.

    Attributes:
        images: the index of each image.
        maxima: (n, c) float32, of the maps.
        scores: (n, c) float32, what images are ranked by: the maxima, or as of `ranked_by`.
        positions: (n, c, 2) int64, (y, x) of the first position that has the score; -1 where scores
            are of no position, or it was not wanted.
    """

    images: list[int]
    maxima: Tensor
    scores: Tensor
    positions: Tensor

    @classmethod
    def of(
        cls,
        maps: Tensor,
        images: Sequence[int],
        wanted: Callable[[Tensor], Tensor] | None = None,
    ) -> Peaks:
        """Those of maps (n, c, h, w).

        Args:
            maps, images: the maps, and the index of the image of each.
            wanted: of the maxima (n, c), which positions are wanted, (n, c) bool; None: all. It is asked
                where Python reads values without waiting.
        """
        flat = maps.detach().flatten(2)
        if wanted is None or maps.device.type not in IN_REACH:
            maxima, first = flat.max(dim=2)
            positions = _y_x(first, maps.shape[3])
        else:
            maxima = flat.amax(dim=2)  # several times as fast
            positions = torch.full((*maxima.shape, 2), NONE)
            rows = wanted(maxima).flatten().nonzero().flatten()
            chosen = flat.flatten(0, 1).index_select(0, rows)
            positions.view(-1, 2)[rows] = _y_x(_first_maxima(chosen), maps.shape[3])
        maxima = _float(maxima)
        return cls(list(images), maxima, maxima, positions)

    @classmethod
    def ranked_by(
        cls, maps: Tensor, images: Sequence[int], scores: Tensor, has_positions: bool
    ) -> Peaks:
        """The same, with scores (n, c) other than the maxima; if these have positions, each is a value
        of its map."""
        flat = maps.detach().flatten(2)
        positions = torch.full((*scores.shape, 2), NONE, device=maps.device)
        if has_positions:
            first = (flat == scores[..., None]).byte().argmax(dim=-1)
            positions = _y_x(first, maps.shape[3])
        return cls(list(images), _float(flat.amax(dim=2)), _float(scores), positions)

    @classmethod
    def joined(cls, batches: Sequence[Peaks]) -> Peaks:
        """Those of several batches, in the order of their images."""
        images = [image for batch in batches for image in batch.images]
        arrays = [
            torch.cat([batch.maxima for batch in batches]),
            torch.cat([batch.scores for batch in batches]),
            torch.cat([batch.positions for batch in batches]),
        ]
        if images != sorted(images):
            order = sorted(range(len(images)), key=images.__getitem__)
            rows = torch.tensor(order).to(arrays[0].device, non_blocking=True)
            arrays = [own[rows] for own in arrays]
        return cls(sorted(images), *arrays)


def _float(values: Tensor) -> Tensor:
    """As float32, in which minus zero is zero."""
    return values.detach().float() + 0.0


def _first_maxima(maps: Tensor) -> Tensor:
    """Of each map (n, h w), in reach of Python, the first position of its maximum."""
    if maps.dtype == torch.bfloat16:  # which numpy does not know
        maps = maps.float()
    # several times as fast as torch's own
    return torch.from_numpy(maps.numpy().argmax(axis=1))


def _y_x(flat: Tensor, width: int) -> Tensor:
    """(y, x) of indices into flattened maps."""
    return torch.stack([flat // width, flat % width], dim=-1)
