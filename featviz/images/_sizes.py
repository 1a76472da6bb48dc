"""Images that differ in size: which of them share a batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

Size = tuple[int, int]
"""(height, width) in pixels."""
UNREADABLE = (0, 0)
"""The size of an image whose file says none."""
WINDOW = 16
"""Batches whose images are sorted by size: more of them are full than of one batch divided."""


def chunks(indices: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in order, so many at once."""
    starts = range(0, len(indices), batch_size)
    return [list(indices[start : start + batch_size]) for start in starts]


def chunks_by_size(
    indices: Sequence[int], batch_size: int, sizes: Sequence[Size]
) -> list[list[int]]:
    """The same, each of images of one size. Of `WINDOW` batches, the last chunk has the last image."""
    sorted_chunks: list[list[int]] = []
    for window in chunks(indices, batch_size * WINDOW):
        groups: dict[Size, list[int]] = defaultdict(list)
        for index in window:
            groups[sizes[index]].append(index)
        own: list[list[int]] = []
        for group in groups.values():
            own += chunks(group, batch_size)
        last = {index: number for number, index in enumerate(window)}
        sorted_chunks += sorted(own, key=lambda chunk: last[chunk[-1]])
    return sorted_chunks
