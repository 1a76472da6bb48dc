"""Images in a fixed order, each with a key."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from featviz.errors import ImageError, SizeError
from featviz.images.preprocess import Preprocess

HELD_BYTES = 512 * 2**20
"""Bytes of decoded pixels that are kept."""
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises on a damaged picture."""


class Images(Sequence[Tensor]):
    """Images in a fixed order, each with a key; item i is (c, h, w) float32 in [0, 1], as the model
    is to see it but for scale.

    What is read from files is kept in 8 bits, up to half a gigabyte, so that a scan and the
    projections after it decode once.

    Attributes:
        keys: a stable name for each, the path below the folder for files.
        labels: the class of each where there is one: the folder that a file lies in, or a data
            set's class.
        preprocess: from file to item, and from item to model space.
    """

    def __init__(
        self,
        keys: Sequence[str],
        read: Callable[[int], Image.Image | Tensor],
        preprocess: Preprocess,
        labels: Sequence[str | None] | None = None,
    ) -> None:
        self.keys, self._read, self.preprocess = list(keys), read, preprocess
        self.labels: list[str | None] = [None] * len(self.keys) if labels is None else list(labels)
        self._held: dict[int, Tensor] = {}
        self._room = HELD_BYTES

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"<Images: {len(self)}, {self.preprocess}>"

    def __getitem__(self, index: Any) -> Any:
        """Item ``index``, counted from the end where it is negative; for a slice, `Images`.

        Raises:
            IndexError: there is no such item.
            ImageError: it cannot be read.
        """
        if isinstance(index, slice):
            return self.subset(range(len(self))[index])
        try:
            index = range(len(self))[index]
        except IndexError:
            raise IndexError(f"image {index} of {len(self)}") from None
        if index in self._held:
            return self._held[index].float() / 255
        return self.fetch(index)

    def fetch(self, index: int) -> Tensor:
        """An item as its source gives it, also where it is kept: (c, h, w) in [0, 1].

        Raises:
            ImageError: it cannot be read.
        """
        key = self.keys[index]
        try:
            image = self._read(index)
            if isinstance(image, Image.Image):
                # closed here, also where the picture is damaged or has further frames
                with image:
                    pixels = self.preprocess.pixels(image)
                self._hold(index, pixels)
                return pixels.float() / 255
        except UNREADABLE as error:
            reason = str(error) or type(error).__name__
            raise ImageError(f"image {key!r} cannot be read: {reason}") from error
        if image.shape[0] != self.preprocess.channels:
            raise ImageError(
                f"image {key!r} has {image.shape[0]} channels, "
                f"the model takes {self.preprocess.channels}"
            )
        return image

    def _hold(self, index: int, pixels: Tensor) -> None:
        """Keep pixels while there is room."""
        if index not in self._held and pixels.numel() <= self._room:
            self._held[index] = pixels
            self._room -= pixels.numel()

    def source_size(self, index: int) -> tuple[int, int]:
        """(height, width) of an item before preprocessing, in pixels.

        Raises:
            ImageError: it cannot be read.
        """
        try:
            image = self._read(index)
        except UNREADABLE as error:
            raise ImageError(f"image {self.keys[index]!r} cannot be read: {error}") from error
        if isinstance(image, Image.Image):
            with image:
                return image.height, image.width
        return image.shape[-2], image.shape[-1]

    def subset(self, indices: Sequence[int]) -> Images:
        """Some of these, in the order of ``indices``."""
        chosen = list(indices)
        keys = [self.keys[i] for i in chosen]
        labels = [self.labels[i] for i in chosen]
        return Images(keys, lambda i: self._read(chosen[i]), self.preprocess, labels)

    def spread(self, n: int) -> Images:
        """n of these, evenly spread over the listing; all, if there are no more."""
        n = min(n, len(self))
        return self.subset([i * len(self) // n for i in range(n)])

    def with_preprocess(self, preprocess: Preprocess) -> Images:
        """The same images under another preprocessing."""
        return Images(self.keys, self._read, preprocess, self.labels)

    def fingerprint(self) -> str:
        """A hash of the listing: which keys, in which order."""
        listing = "\n".join(self.keys)
        try:
            data = listing.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:  # half a surrogate pair that stands for no byte
            data = listing.encode("utf-8", "surrogatepass")
        return hashlib.sha256(data).hexdigest()[:16]

    def batches(
        self,
        indices: Sequence[int],
        batch_size: int,
        *,
        on_error: Callable[[int, ImageError], None] | None = None,
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Items in order, stacked, decoded ahead by two threads.

        Args:
            indices: which, in order.
            batch_size: how many at once.
            on_error: told of each image that cannot be read, which is then left out; None: the
                error is raised.

        Yields:
            The indices of a batch, and its items (n, c, h, w) in [0, 1].

        Raises:
            ImageError: an image cannot be read.
            SizeError: an image has another size than the first.
        """
        expected: tuple[int, ...] | None = None
        for chunk, futures in self._decoded_ahead(indices, batch_size):
            readable: list[int] = []
            items: list[Tensor] = []
            for index, future in zip(chunk, futures, strict=True):
                try:
                    item = future.result()
                except ImageError as error:
                    if on_error is None:
                        raise
                    on_error(index, error)
                    continue
                expected = expected or tuple(item.shape)
                self._check_size(index, item, expected)
                readable.append(index)
                items.append(item)
            if items:
                yield readable, torch.stack(items)

    def _decoded_ahead(
        self, indices: Sequence[int], batch_size: int
    ) -> Iterator[tuple[list[int], list[Future[Tensor]]]]:
        """Batch after batch of futures, two batches ahead of what is asked for."""
        chunks = (
            list(indices[start : start + batch_size])
            for start in range(0, len(indices), batch_size)
        )
        with ThreadPoolExecutor(2) as pool:
            ahead: deque[tuple[list[int], list[Future[Tensor]]]] = deque()
            for chunk in chunks:
                ahead.append((chunk, [pool.submit(self.__getitem__, i) for i in chunk]))
                if len(ahead) == 2:
                    yield ahead.popleft()
            yield from ahead

    def _check_size(self, index: int, item: Tensor, expected: tuple[int, ...]) -> None:
        if tuple(item.shape) != expected:
            raise SizeError(
                f"image {self.keys[index]!r} is {hxw(item.shape)}, the first was {hxw(expected)}: "
                "give the size that the model is to see",
                "size",
            )


def hxw(shape: Sequence[int]) -> str:
    """Height and width in words: ``96x128``."""
    return f"{shape[-2]}x{shape[-1]}"
