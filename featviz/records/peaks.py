"""What a scan takes of a batch of activation maps while they are there, to be counted later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from featviz.pooling import lies_last

Integers = np.ndarray[Any, np.dtype[np.int64]]

NONE = -1
"""The image, and the position, of an empty slot."""
IN_REACH = {"cpu"}
"""Devices whose values Python reads without waiting."""
_BITS = 32
"""Of a code, those of x."""
_SHORT = 32
"""Values of rows whose maxima torch finds sooner than numpy."""


class Highest(NamedTuple):
    """What is taken of maps (n, c, h, w) while they are there, of their type; or of those of several layers, side by side.

    Attributes:
        maxima: (n, c), of the maps.
        scores: (n, c), what images are ranked by.
        first: (n, c) integers, the first position of the score, counted along the rows of the map; -1 where
            scores are of no position.
        width: of the maps; of several layers, -1.
    """

    maxima: Tensor
    scores: Tensor
    first: Tensor
    width: int

    @classmethod
    def side_by_side(cls, layers: Sequence[Highest]) -> Highest:
        """Those of several layers, on the device of the first."""
        maxima = scores = _side_by_side([own.maxima for own in layers])
        if any(own.scores is not own.maxima for own in layers):
            scores = _side_by_side([own.scores for own in layers])
        return cls(maxima, scores, _side_by_side([own.first for own in layers]), NONE)


@dataclass(frozen=True, eq=False)
class Peaks:
    """The peaks of n images in the maps of c channels, on the device of the maps.

    Attributes:
        images: the index of each image.
        maxima: (n, c) float32, of the maps.
        scores: (n, c) float32, what images are ranked by.
        first: (n, c) int32, as of `Highest`.
        widths: of the maps of each image.
        packed: (n, c) int64, the codes of positions where they are known: of several layers side by side, whose maps
            differ in width.
    """

    images: list[int]
    maxima: Tensor
    scores: Tensor
    first: Tensor
    widths: list[int]
    packed: Tensor | None = None

    @classmethod
    def of(cls, highest: Highest, images: Sequence[int]) -> Peaks:
        """Those of the maps of some images, given the index of each."""
        maxima = _float(highest.maxima)
        scores = maxima if highest.scores is highest.maxima else _float(highest.scores)
        return cls(list(images), maxima, scores, highest.first.int(), [highest.width] * len(images))

    @classmethod
    def joined(cls, batches: Sequence[Peaks]) -> Peaks:
        """Those of several batches, in the order of their images."""
        maxima = torch.cat([batch.maxima for batch in batches])
        scores = maxima
        if any(batch.scores is not batch.maxima for batch in batches):
            scores = torch.cat([batch.scores for batch in batches])
        packed = [batch.packed for batch in batches if batch.packed is not None]
        own = cls(
            [image for batch in batches for image in batch.images],
            maxima,
            scores,
            torch.cat([batch.first for batch in batches]),
            [width for batch in batches for width in batch.widths],
            torch.cat(packed) if packed else None,
        )
        return own if own.images == sorted(own.images) else own.in_order()

    def in_order(self) -> Peaks:
        """The same in the order of the images."""
        order = sorted(range(len(self.images)), key=self.images.__getitem__)
        index = torch.tensor(order).to(self.scores.device, non_blocking=True)
        images = [self.images[i] for i in order]
        widths = [self.widths[i] for i in order] if self.widths else []
        packed = None if self.packed is None else self.packed[index]
        return Peaks(
            images, self.maxima[index], self.scores[index], self.first[index], widths, packed
        )

    @property
    def codes(self) -> Tensor:
        """(n, c) int64, positions as of `codes_of`."""
        if self.packed is not None:
            return self.packed
        widths = torch.tensor(self.widths).to(self.first.device, non_blocking=True)
        return codes_in(self.first, widths[:, None])

    def codes_at(self, index: Integers) -> Integers:
        """The same at some indices into (n, c) flattened, in reach of Python."""
        first = self.first.numpy().ravel()[index].astype(np.int64)
        width: Any = self.widths[0]  # one number, which is divided by sooner
        if len(set(self.widths)) > 1:
            width = np.array(self.widths)[index // self.first.shape[1]]
        codes: Integers = _codes(first, width)
        codes[first == NONE] = NONE
        return codes

    @property
    def positions(self) -> Tensor:
        """(n, c, 2) int64, (y, x); -1 where scores are of no position."""
        return positions_of(self.codes)


def in_reach(values: Tensor) -> bool:
    """Whether Python reads these without waiting for a device."""
    return values.device.type in IN_REACH


def _float(values: Tensor) -> Tensor:
    """As float32, in which minus zero is zero."""
    return values.float() + 0.0


def _side_by_side(values: Sequence[Tensor]) -> Tensor:
    """Values (n, c) of several layers."""
    if len({own.dtype for own in values}) > 1:
        values = [own.float() for own in values]
    return torch.cat([own.to(values[0].device) for own in values], dim=1)


def highest_of(maps: Tensor) -> Highest:
    """The maxima of maps (n, c, h, w), and where each is first."""
    maps = maps.detach()
    maxima, first = _first_maxima(maps)
    return Highest(maxima, maxima, first, maps.shape[3])


def ranked_by(maps: Tensor, scores: Tensor, has_positions: bool) -> Highest:
    """The same, with scores (n, c) other than the maxima; if these have positions, each is a value of its
    map."""
    # a copy: a function may give a view of the maps, in which what comes next works in place
    maps, scores = maps.detach(), scores.detach().clone()
    first = torch.full(scores.shape, NONE, device=scores.device)
    if has_positions:
        first = (maps.flatten(2) == scores[..., None]).byte().argmax(dim=-1)
    return Highest(maps.amax(dim=(2, 3)), scores, first, maps.shape[3])


def _first_maxima(maps: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum of each map (n, c, h, w), and where along its rows it is first, (n, c)."""
    if not in_reach(maps):
        if lies_last(maps):
            maxima, first = maps.permute(0, 2, 3, 1).flatten(1, 2).max(dim=1)  # of a view
        else:
            maxima, first = maps.flatten(2).max(dim=2)
        return maxima, first
    if lies_last(maps) and maps.is_floating_point():
        # in one pass over memory, many channels at once
        maxima, first = F.max_pool2d(maps, maps.shape[2:], return_indices=True)
        return maxima.flatten(1), first.flatten(1)
    rows = maps.flatten(2).flatten(0, 1)
    first = _argmax(rows)
    maxima = rows.gather(1, first[:, None])
    return maxima.view(maps.shape[:2]), first.view(maps.shape[:2])


def _argmax(rows: Tensor) -> Tensor:
    """The first maximum of each row (n, any), in reach of Python."""
    if rows.shape[1] < _SHORT:
        return rows.max(dim=1).indices
    return torch.from_numpy(_in_full(rows).numpy().argmax(axis=1))  # several times as fast


def _in_full(rows: Tensor) -> Tensor:
    """Rows of less than 32 bits as float32: numpy knows not all of these, and is slow with the others."""
    return rows.float() if rows.dtype.itemsize < torch.float32.itemsize else rows


def codes_in(first: Tensor, widths: Tensor) -> Tensor:
    """Of first positions (n, c), as of `Highest`, in maps of some widths, the codes, int64; of none, -1."""
    codes: Tensor = _codes(first.long(), widths)
    return codes.masked_fill_(first == NONE, NONE)


def _codes(flat: Any, width: Any) -> Any:
    """Of indices into flattened maps."""
    y = flat // width
    return _packed(y, flat - y * width)


def _packed(y: Any, x: Any) -> Any:
    """Rows and columns, tensors or arrays, as codes."""
    return (y << _BITS) | x


def codes_of(positions: Tensor) -> Tensor:
    """Positions (any, 2), (y, x), each as one number, so that they are sorted at once; of a position that
    is none, -1."""
    codes: Tensor = _packed(*positions.unbind(dim=-1))
    return codes


def positions_of(codes: Tensor) -> Tensor:
    """What `codes_of` was given, int64."""
    x = (codes & (2**_BITS - 1)).masked_fill(codes == NONE, NONE)
    return torch.stack([codes >> _BITS, x], dim=-1)
