"""Which positions of maps are counted where a data set has very many: a seeded choice that does not depend on
batches and shards."""

from __future__ import annotations

from collections.abc import Sequence
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
    if total <= MOST:
        return flat[..., None]
    n, limit = _chosen(flat.shape[2], total)
    hashes = hashes_for(images)
    rows = [row for row, own in enumerate(hashes) if own < limit]
    if not rows:
        return None
    values = _spread(flat, torch.tensor(hashes, device=maps.device), n)
    return values[rows] if len(rows) < len(images) else values


def all_with_weights(maps: Tensor, hashes: Tensor, total: int) -> tuple[Tensor, Tensor | None]:
    """The same, with values of images too that are not counted, and how often each image counts, (n,) int64 of 0
    and 1; None: all count. Which these are Python is not told, so that the operations are the same for all batches.

    Args:
        maps, total: as of `some_positions`.
        hashes: of the images, as of `hashes_for`.
    """
    flat = maps.flatten(2)
    if total <= MOST:
        return flat[..., None], None
    n, limit = _chosen(flat.shape[2], total)
    hashes = hashes.to(maps.device)
    values = _spread(flat, hashes, n)
    return values, (hashes <= min(limit, 2**63) - 1).long()


def hashes_for(images: Sequence[int]) -> list[int]:
    """By which images are chosen, and where in them the first position is that is counted: 63 bits each."""
    return hashes_of(tuple(images), _SEED)


def _chosen(size: int, total: int) -> tuple[int, int]:
    """How many positions of an image are counted, of a map of some size, and below which limit the hashes are of
    images that count."""
    wanted = size * (MOST // 2)  # of an image, times the total
    n = min(size, max(_FEWEST, -(-wanted // total)))
    return n, 2**63 * wanted // (n * total)


def _spread(flat: Tensor, hashes: Tensor, n: int) -> Tensor:
    """n values (any, c, n, 1) of flattened maps (any, c, positions)."""
    size = flat.shape[2]
    starts = (hashes % size)[:, None, None]
    chosen = (starts + _step(size) * torch.arange(n, device=flat.device)) % size
    return flat.gather(2, chosen.expand(-1, flat.shape[1], -1))[..., None]


def _step(size: int) -> int:
    """From a position to the next that is counted, in a map without rows: a golden section, so that any
    number of them is spread evenly, that comes to every position."""
    step = max(1, round(size * (5**0.5 - 1) / 2))
    while gcd(step, size) > 1:
        step += 1
    return step
