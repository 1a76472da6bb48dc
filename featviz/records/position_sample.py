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
        maps: on any device, which is not waited for.
        images: the index of each of the n images.
        total: how many positions the maps of all images have, beside these too.
    """
    flat = maps.flatten(2)
    size = flat.shape[2]
    if total <= MOST:
        return flat[..., None]
    wanted = size * (MOST // 2)  # of an image, times the total
    n = min(size, max(_FEWEST, -(-wanted // total)))
    limit = 2**63 * wanted // (n * total)  # below which hashes are of images that count
    hashes = hashes_of(tuple(images), _SEED)
    rows = [row for row, own in enumerate(hashes) if own < limit]
    if not rows:
        return None
    starts = torch.tensor([own % size for own in hashes])
    starts = starts.to(maps.device, non_blocking=True)[:, None, None]
    chosen = (starts + _step(size) * torch.arange(n, device=maps.device)) % size
    values = flat.gather(2, chosen.expand(-1, flat.shape[1], -1))[..., None]
    if len(rows) < len(images):
        values = values[torch.tensor(rows).to(maps.device, non_blocking=True)]
    return values


def _step(size: int) -> int:
    """From a position to the next that is counted, in a map without rows: a golden section, so that any
    number of them is spread evenly, that comes to every position."""
    step = max(1, round(size * (5**0.5 - 1) / 2))
    while gcd(step, size) > 1:
        step += 1
    return step
