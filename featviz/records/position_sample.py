"""Which positions of maps are counted where a data set has very many: a seeded choice that does not depend on
batches and shards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from featviz.records.image_sample import hashes_of

LEAST = 2**16
"""Positions of a unit that are counted at least, and less than twice as many: all, if a data set has no more. So
shares of positions are known to less than a hundredth, as benchmarks/quantiles.py shows."""
_FEWEST = 16
"""Positions of an image that are counted at least, so that of very many images most need not be looked at."""
_SEED = 2  # other than those of image samples


def some_positions(maps: Tensor, images: Sequence[int], of: int, largest: int) -> Tensor | None:
    """The values (any, c, any, 1) of maps (n, c, h, w) that are counted; None if there are none.

    An image gives every second, third, … of its positions, row after row, from one on that is its own: as many
    as its map is large, where images differ in size.

    Args:
        maps: on any device, which is not waited for.
        images: the index of each of the n images.
        of: how many images there are in all.
        largest: positions of the largest map of any image.
    """
    flat = maps.flatten(2)
    size = flat.shape[2]
    step = max(1, largest // max(_FEWEST, -(-LEAST // of)))
    limit = 2**63 * LEAST // max(LEAST, _FEWEST * of)  # below which hashes are of images that count
    hashes = hashes_of(tuple(images), _SEED)
    rows = [row for row, own in enumerate(hashes) if own < limit]
    if not rows:
        return None
    if len(rows) < len(images):
        flat = flat[torch.tensor(rows).to(maps.device, non_blocking=True)]
    if step > 1:
        starts = torch.tensor([hashes[row] % size for row in rows])[:, None]
        chosen = (starts + step * torch.arange(max(1, size // step))) % size
        chosen = chosen.to(maps.device, non_blocking=True)[:, None]
        flat = flat.gather(2, chosen.expand(-1, flat.shape[1], -1))
    return flat[..., None]
