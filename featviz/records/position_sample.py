"""Which positions of maps are counted where a data set has very many: a seeded choice that does not depend on
batches and shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor

from featviz.records.image_sample import hashes_of

MOST = 2**17
"""Positions of a unit that are all counted, if a data set has no more; else about half as many are. What that does to
quantiles, benchmarks/quantiles.py shows."""
_FEWEST = 4
"""Positions of an image that is counted, at least, so that of very many images most need not be looked at."""
_SEED = 2  # other than those of image samples


def some_positions(maps: Tensor, images: Sequence[int], total: int) -> Tensor | None:
    """The values (any, c, any, 1) of maps (n, c, h, w) that are counted; None if there are none.

    All positions of all images are as likely to be counted. Those of an image are spread over its map, from one
    on that its index says.

    Args:
        maps: in reach of Python.
        images: the index of each of the n images.
        total: how many positions the maps of all images have, beside these too.
    """
    flat = maps.flatten(2)
    if are_all(total):
        return flat[..., None]
    n, limit = _chosen(flat.shape[2], total)
    hashes = hashes_for(images)
    rows = [row for row, own in enumerate(hashes) if own < limit]
    if not rows:
        return None
    values = _at(flat, _spread(torch.tensor(hashes, device=maps.device), flat.shape[2], n))
    return values[rows] if len(rows) < len(images) else values


@dataclass(frozen=True, eq=False)
class Choice:
    """The same of a batch of n images, with positions of images too that are not counted: which these are Python is not
    told, so that the operations are the same for all batches.

    Attributes:
        positions: (n, 1, m) int64, along the rows of maps, of which there are more than are counted.
        weights: (n,) int64 of 0 and 1, how often each image counts.
    """

    positions: Tensor
    weights: Tensor

    @classmethod
    def of(cls, hashes: Tensor, size: int, total: int) -> Choice:
        """That of images whose maps have so many positions, and those of all images a total.

        Args:
            hashes: (n,) int64, of the images, as of `hashes_for`.
        """
        n, limit = _chosen(size, total)
        return cls(_spread(hashes, size, n), (hashes <= min(limit, 2**63) - 1).long())

    def values(self, maps: Tensor) -> Tensor:
        """Of maps (n, c, h, w) the values (n, c, m, 1)."""
        return _at(maps.flatten(2), self.positions)


def are_all(total: int) -> bool:
    """Whether all positions are counted where the maps of all images have so many."""
    return total <= MOST


def hashes_for(images: Sequence[int]) -> list[int]:
    """By which images are chosen, and where in them the first position is that is counted: 63 bits each."""
    return hashes_of(tuple(images), _SEED)


def _chosen(size: int, total: int) -> tuple[int, int]:
    """How many positions of an image are counted, of a map of some size, and below which limit the hashes are of
    images that count."""
    wanted = size * (MOST // 2)  # of an image, times the total
    n = min(size, max(_FEWEST, -(-wanted // total)))
    return n, 2**63 * wanted // (n * total)


def _spread(hashes: Tensor, size: int, n: int) -> Tensor:
    """(any, 1, n) int64, so many positions of the map of each image, given its size and their hashes."""
    starts = (hashes % size)[:, None, None]
    return (starts + _step(size) * torch.arange(n, device=hashes.device)) % size


def _at(flat: Tensor, positions: Tensor) -> Tensor:
    """Values (any, c, n, 1) of flattened maps (any, c, size) at positions (any, 1, n)."""
    return flat.gather(2, positions.expand(-1, flat.shape[1], -1))[..., None]


def _step(size: int) -> int:
    """From a position to the next that is counted, in a map without rows: a golden section, so that any
    number of them is spread evenly, that comes to every position."""
    step = max(1, round(size * (5**0.5 - 1) / 2))
    while gcd(step, size) > 1:
        step += 1
    return step
