"""Images that differ in size: how large each is, and which of them share a batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from featviz.images._items import Read, image_of, size_of
from featviz.images._stamps import head_of
from featviz.images.preprocess import Preprocess

Size = tuple[int, int]
"""(height, width) in pixels."""
UNREADABLE = (0, 0)
"""The size of an image whose file says none."""
WINDOW = 16
"""Batches whose images are sorted by size: more of them are full than of one batch divided."""


def own_sizes(read: Read, n: int, preprocess: Preprocess, threads: int) -> list[Size]:
    """The size of each of n images as the preprocessing leaves it, from the heads of files."""

    def size(index: int) -> Size:
        try:
            return size_at(read, index, preprocess, preprocess.output_size)
        except Exception:  # it is told of when the image is read
            return UNREADABLE

    shared: dict[Size, Size] = {}  # one object of each
    with ThreadPoolExecutor(threads) as pool:
        return [shared.setdefault(own, own) for own in pool.map(size, range(n))]


def size_at(
    read: Read, index: int, preprocess: Preprocess, of_picture: Callable[[Image.Image], Size]
) -> Size:
    """The size of an image, of a picture by ``of_picture``. A file that is opened for that is closed; a picture that a
    data set gives is not, since its pixels are still to be read, and a list gives the same one again."""
    head = head_of(read)
    if head is not None:
        with head(index) as picture:
            return of_picture(picture)
    item = image_of(read(index))
    return of_picture(item) if isinstance(item, Image.Image) else size_of(item, preprocess)


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
