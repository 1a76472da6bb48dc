"""What a scan takes of a batch of activation maps while they are there, to be counted later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

NONE = -1
"""The image, and the position, of an empty slot."""
IN_REACH = {"cpu"}
"""Devices whose values Python reads without waiting."""
_BITS = 32
"""Of a code, those of x."""
_WORTH = 384
"""Values over which a maximum is taken at the speed of memory."""
_SHORT = 32
"""Values of rows whose maxima torch finds sooner than numpy."""
_COLUMNS = 32
"""Of which torch takes the maxima at once: for what is left it takes several times as long."""
_Integers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class Peaks:
    """The peaks of n images in the maps of c channels, on the device of the maps.

    Attributes:
        images: the index of each image.
        maxima: (n, c) float32, of the maps.
        scores: (n, c) float32, what images are ranked by: the maxima, or as of `ranked_by`.
        rows: (m,) int64, ascending, which of the maps, n times c of them, were wanted, as ``wanted`` of `of`
            says: few, so that many batches are held in little memory.
        codes: (m,) int64, the first position of each that has the score, as of `codes_of`; -1 where scores are
            of no position.
    """

    images: list[int]
    maxima: Tensor
    scores: Tensor
    rows: Tensor
    codes: Tensor

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
        maps = maps.detach()
        if wanted is None or maps.device.type not in IN_REACH:
            maxima, first = maps.flatten(2).max(dim=2)
            maxima, first = _float(maxima), first.flatten()
            codes = _codes(first, maps.shape[3])
            return cls(list(images), maxima, maxima, _all_rows(maxima), codes)
        bands = _bands(maps)
        highest = _highest(bands)  # several times as fast as with positions
        maxima = _float(highest.amax(dim=2) if highest.shape[2] > 1 else highest[..., 0])
        rows = np.flatnonzero(wanted(maxima).numpy())
        codes = _first_maxima(bands, highest, rows, maps.shape[3])
        return cls(list(images), maxima, maxima, torch.from_numpy(rows), torch.from_numpy(codes))

    @classmethod
    def ranked_by(
        cls, maps: Tensor, images: Sequence[int], scores: Tensor, has_positions: bool
    ) -> Peaks:
        """The same, with scores (n, c) other than the maxima; if these have positions, each is a value
        of its map."""
        flat = maps.detach().flatten(2)
        codes = torch.full((scores.numel(),), NONE, device=scores.device)
        if has_positions:
            first = (flat == scores[..., None]).byte().argmax(dim=-1).flatten()
            codes = _codes(first, maps.shape[3])
        maxima = _float(flat.amax(dim=2))
        return cls(list(images), maxima, _float(scores), _all_rows(scores), codes)

    @classmethod
    def joined(cls, batches: Sequence[Peaks]) -> Peaks:
        """Those of several batches, in the order of their images."""
        images = [image for batch in batches for image in batch.images]
        maxima = torch.cat([batch.maxima for batch in batches])
        scores = torch.cat([batch.scores for batch in batches])
        starts = accumulate((batch.maxima.numel() for batch in batches), initial=0)
        rows = torch.cat(
            [batch.rows + start for batch, start in zip(batches, starts, strict=False)]
        )
        codes = torch.cat([batch.codes for batch in batches])
        own = cls(images, maxima, scores, rows, codes)
        return own if images == sorted(images) else own._in_order()

    def _in_order(self) -> Peaks:
        """The same in the order of the images."""
        order = sorted(range(len(self.images)), key=self.images.__getitem__)
        index = torch.tensor(order).to(self.scores.device, non_blocking=True)
        channels = self.scores.shape[1]
        rows = index.argsort()[self.rows // channels] * channels + self.rows % channels
        rows, by_row = rows.sort()
        maxima, scores, codes = self.maxima[index], self.scores[index], self.codes[by_row]
        return Peaks([self.images[i] for i in order], maxima, scores, rows, codes)

    @property
    def all_codes(self) -> Tensor:
        """(n, c) int64, -1 where scores are of no position, or it was not wanted."""
        codes = torch.full(self.scores.shape, NONE, device=self.scores.device)
        codes.view(-1)[self.rows] = self.codes
        return codes

    @property
    def positions(self) -> Tensor:
        """(n, c, 2) int64, (y, x), -1 as of ``all_codes``."""
        return positions_of(self.all_codes)


def _all_rows(scores: Tensor) -> Tensor:
    return torch.arange(scores.numel(), device=scores.device)


def _float(values: Tensor) -> Tensor:
    """As float32, in which minus zero is zero."""
    return values.detach().float() + 0.0


def _bands(maps: Tensor) -> Tensor:
    """Maps (n, c, h, w) as bands of positions that follow each other, (n, c, bands, values): as many rows as
    divide the map into equal bands that are worth a pass each, or, where the values of a row lie apart in
    memory and all channels are passed over at once, one row."""
    if not maps.is_contiguous():
        return maps
    height, width = maps.shape[2:]
    heights = (rows for rows in range(1, height) if height % rows == 0)
    rows = next((rows for rows in heights if rows * width >= _WORTH), height)
    return maps.view(*maps.shape[:2], height // rows, rows * width)


def _highest(bands: Tensor) -> Tensor:
    """(n, c, bands), the maximum of each band (n, c, bands, values), in the order in which they lie in
    memory."""
    if bands.is_contiguous():
        return bands.amax(dim=3)
    last = bands.permute(0, 2, 3, 1)
    size, channels = last.shape[2:]
    fits = (n for n in (1, 2, 4) if size % n == 0 and n * channels % _COLUMNS == 0)
    n = next(fits, 1)
    if n == 1 or not last.is_contiguous():
        return last.amax(dim=2).permute(0, 2, 1)
    together = last.view(*last.shape[:2], size // n, n * channels).amax(dim=2)
    return together.view(*last.shape[:2], n, channels).amax(dim=2).permute(0, 2, 1)


def image_and_channel(rows: _Integers, channels: int) -> tuple[_Integers, _Integers]:
    """Of which image, and of which channel, some maps are, n times c of them; numpy's divmod takes several
    times as long."""
    image = rows // channels
    return image, rows - image * channels


def _first_maxima(bands: Tensor, highest: Tensor, rows: _Integers, width: int) -> _Integers:
    """The first position of the maximum of some maps, as of `codes_of`, in reach of Python.

    Args:
        bands: (n, c, bands, values), the maps, laid out in any way.
        highest: (n, c, bands), the maximum of each band.
        rows: which maps, n times c of them.
        width: of the maps.
    """
    _, channels, count, size = bands.shape
    image, channel = image_and_channel(rows, channels)
    at = torch.from_numpy(image), torch.from_numpy(channel)
    band = _argmax(highest[at]) if count > 1 else np.zeros_like(rows)
    codes: _Integers
    if bands.is_contiguous():  # several times as fast as the other way
        chosen = bands.flatten(0, 2).index_select(0, torch.from_numpy(rows * count + band))
        codes = _codes(band * size + _argmax(chosen), width)
    else:  # each band is a row; those alone: all would be copied to be flat
        codes = _packed(band, _argmax(bands[(*at, torch.from_numpy(band))]))
    return codes


def _argmax(rows: Tensor) -> _Integers:
    """The first maximum of each row (n, any), in reach of Python."""
    first: _Integers
    if rows.shape[1] < _SHORT:
        first = rows.max(dim=1).indices.numpy()
    else:  # several times as fast as torch's own
        first = _in_full(rows).numpy().argmax(axis=1)
    return first


def _in_full(rows: Tensor) -> Tensor:
    """Rows of less than 32 bits as float32: numpy knows not all of these, and is slow with the others."""
    return rows.float() if rows.dtype.itemsize < torch.float32.itemsize else rows


def _codes(flat: Any, width: int) -> Any:
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
