"""Images in a fixed order, each with a key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from featviz.errors import ImageError, UsageError
from featviz.images._batches import check_shape, readable, stacked
from featviz.images._held import Held
from featviz.images._items import Read, in_unit_range, read_pixels, unreadable
from featviz.images._labels import LabelsLike, as_text, labels_of
from featviz.images._reading import Attempts, Outcomes, by_caller, by_threads, by_workers
from featviz.images._sizes import (
    UNREADABLE,
    WINDOW,
    Size,
    chunks,
    chunks_by_size,
    own_sizes,
    size_at,
)
from featviz.images._stamps import ByContent, Chosen, stamps_of
from featviz.images.preprocess import Preprocess


class Images(Sequence[Tensor]):
    """Images in a fixed order, each with a key; item i is (c, h, w) floating point in [0, 1], as the
    model is to see it but for scale.

    What comes in 8 bits is kept so, up to half a gigabyte, so that a scan and the projections after
    it decode once.

    Attributes:
        keys: a stable name for each, the path below the folder for files.
        labels: the class of each where there is one: the folder that a file lies in, or a data
            set's class.
        preprocess: from picture to item, and from item to model space.
        threads: how many threads `batches` reads ahead with; 1: none, the caller reads, in order.
        workers: how many processes of torch's DataLoader `batches` reads with; 0: none.
        left_out: how many files of the source are not among the images, by the reason.
        sizes: (height, width) of every image as the model is to see it, of `at_own_sizes`; None:
            all have one size, which the first that can be read has.

    Args:
        keys: of every image.
        read: from an index to a picture of PIL's, a tensor (c, h, w), or what else a data set may
            give. Unless it is safe to be called by several threads at once leave ``threads`` at 1.
        preprocess: from picture to item, and from item to model space.
        labels: of every image; None: there are none.
        threads, workers, left_out, sizes: see above.

    Example:
        >>> import torch
        >>> from featviz import Images, Preprocess
        >>> images = Images(["a", "b", "c"], lambda i: torch.full((3, 4, 4), i / 2), Preprocess())
        >>> images[-1].mean(), images[1:].keys
        (tensor(1.), ['b', 'c'])
    """

    def __init__(
        self,
        keys: Sequence[str],
        read: Read,
        preprocess: Preprocess,
        labels: Sequence[str | None] | None = None,
        *,
        threads: int = 1,
        workers: int = 0,
        left_out: Mapping[str, int] | None = None,
        sizes: Sequence[Size] | None = None,
    ) -> None:
        if threads < 1 or workers < 0:
            raise UsageError(
                f"threads={threads}, workers={workers}: at least 1 thread, and 0 workers or more",
                "threads",
                "workers",
            )
        # text, as records have it, whatever numbers and paths are given
        self.keys = [str(key) for key in keys]
        self.labels: list[str | None] = [None] * len(self.keys)
        if labels is not None:
            self.labels = [as_text(label) for label in labels]
        self.preprocess = preprocess
        self.threads = threads
        self.workers = workers
        self.left_out = dict(left_out or {})
        self.sizes = sizes
        self._read = read
        self._stamp = stamps_of(read)
        self._in_memory = bool(getattr(read, "is_in_memory", False))
        self._held = Held()

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"<Images: {len(self)}, {self.preprocess}>"

    def __getitem__(self, index: Any) -> Any:
        """Item ``index``, counted from the end where it is negative; for a slice, `Images`.

        Raises:
            IndexError: there is no such item.
            ImageError: it cannot be read.
            UsageError: its values are not those of an image in [0, 1].
        """
        if isinstance(index, slice):
            return self.subset(range(len(self))[index])
        try:
            index = range(len(self))[index]
        except IndexError:
            raise IndexError(f"image {index} of {len(self)}") from None
        return in_unit_range(self._pixels(index))

    def fetch(self, index: int) -> Tensor:
        """An item as its source gives it, also where it is kept: (c, h, w) in [0, 1].

        Raises:
            ImageError: it cannot be read.
        """
        return in_unit_range(self._read_again(index))

    def _pixels(self, index: int) -> Tensor:
        """An item (c, h, w), in 8 bits or in [0, 1]."""
        pixels = None
        if index in self._held:
            pixels = self._held.get(index, self._stamp(index))
        return self._read_again(index) if pixels is None else pixels

    def _read_again(self, index: int) -> Tensor:
        stamp = self._stamp(index)  # before it is read: what changes meanwhile is read again
        pixels = read_pixels(self._read, index, self.keys[index], self.preprocess)
        return self._taken(index, stamp, pixels)

    def _taken(self, index: int, stamp: str, pixels: Tensor) -> Tensor:
        """An item's pixels; those in 8 bits are kept while there is room, unless they are in memory. What a source gives
        in 8 bits may change when it is asked again."""
        if pixels.dtype != torch.uint8 or self._in_memory:
            return pixels
        kept = None
        if pixels.device.type == "cpu":
            kept = self._held.keep(index, stamp, pixels)
        return pixels.clone() if kept is None else kept

    def source_size(self, index: int) -> tuple[int, int]:
        """(height, width) of an item before preprocessing, in pixels.

        Raises:
            ImageError: it cannot be read.
        """
        try:
            return size_at(self._read, index, self.preprocess, self.preprocess.picture_size)
        except Exception as error:
            raise ImageError(unreadable(self.keys[index], error)) from error

    def at_own_sizes(self) -> Images:
        """The same images, which may differ in size: each is seen at its own, as the preprocessing
        leaves it. Batches are of one size.

        The size of every image is read, from the head of its file.

        Raises:
            ImageError: none can be read.

        Example:
            >>> import torch
            >>> from featviz import Images, Preprocess
            >>> items = [torch.zeros(3, 4, 4), torch.zeros(3, 4, 6)]
            >>> Images(["a", "b"], items.__getitem__, Preprocess()).at_own_sizes().sizes
            [(4, 4), (4, 6)]
        """
        sizes = own_sizes(self._read, len(self), self.preprocess, self.threads)
        readable = set(sizes) - {UNREADABLE}
        if not readable:
            raise ImageError(f"none of the {len(self)} images can be read", "images")
        own = sizes if len(readable) > 1 else None
        return self._like_this(self.keys, self._read, self.preprocess, self.labels, own)

    def window(self, batch_size: int) -> int:
        """How many images in a row share batches among them: of images of one size, one batch."""
        return batch_size if self.sizes is None else batch_size * WINDOW

    def subset(self, indices: Sequence[int]) -> Images:
        """Some of these, in the order of ``indices``."""
        chosen = list(indices)
        keys = [self.keys[i] for i in chosen]
        labels = [self.labels[i] for i in chosen]
        sizes = None if self.sizes is None else [self.sizes[i] for i in chosen]
        return self._like_this(keys, Chosen(self._read, chosen), self.preprocess, labels, sizes)

    def spread(self, n: int) -> Images:
        """n of these, evenly spread over the listing; all, if there are no more."""
        n = min(n, len(self))
        return self.subset([i * len(self) // n for i in range(n)])

    def by_label(self) -> dict[str, Images]:
        """The images of each label, in the order of labels; those without one are in none.

        Example:
            >>> import torch
            >>> from featviz import Images, Preprocess
            >>> images = Images(["a", "b", "c"], lambda i: torch.zeros(3, 4, 4), Preprocess(), ["x", "y", "x"])
            >>> {label: own.keys for label, own in images.by_label().items()}
            {'x': ['a', 'c'], 'y': ['b']}
        """
        indices: dict[str, list[int]] = {}
        for index, label in enumerate(self.labels):
            if label is not None:
                indices.setdefault(label, []).append(index)
        return {label: self.subset(indices[label]) for label in sorted(indices)}

    def labelled(self, labels: LabelsLike) -> Images:
        """The same images with labels of their own instead of their folders'.

        Args:
            labels: a mapping from keys, or from file names, to labels; the path of such a file: ``.csv``
                or ``.tsv`` with a key and a label in each line, or ``.json``; or a regular
                expression, whose only group is the label, searched for in each key.

        Returns:
            The images; those that have no label have None.

        Raises:
            UsageError: none of the images has a label, a pattern has not one group, or a file cannot be
                read.

        Example:
            >>> import torch
            >>> from featviz import Images, Preprocess
            >>> keys = ["n02099601_golden_retriever.jpg", "n02123045_tabby.jpg"]
            >>> images = Images(keys, lambda i: torch.zeros(3, 4, 4), Preprocess())
            >>> images.labelled(r"n\\d+_(.+)\\.").labels
            ['golden_retriever', 'tabby']
        """
        own = labels_of(self.keys, labels)
        return self._like_this(self.keys, self._read, self.preprocess, own, self.sizes)

    def with_preprocess(self, preprocess: Preprocess) -> Images:
        """The same images under another preprocessing, all of one size."""
        return self._like_this(self.keys, self._read, preprocess, self.labels)

    def by_content(self) -> Images:
        """The same images, whose files are told from others by a hash of what they hold, not by size and
        time of change: each file is read once more.

        Raises:
            UsageError: they are no files.
        """
        content = getattr(self._read, "content", None)
        if content is None:
            raise UsageError(
                "images that are no files cannot be compared by content: give a folder, a list of "
                "files or a .tar",
                "check_content",
            )
        read = ByContent(self._read)
        return self._like_this(self.keys, read, self.preprocess, self.labels, self.sizes)

    def _like_this(
        self,
        keys: Sequence[str],
        read: Read,
        preprocess: Preprocess,
        labels: Sequence[str | None],
        sizes: Sequence[Size] | None = None,
    ) -> Images:
        """Other images that are read as these are."""
        return Images(
            keys,
            read,
            preprocess,
            labels,
            threads=self.threads,
            workers=self.workers,
            left_out=self.left_out,
            sizes=sizes,
        )

    def stamps(self) -> list[str]:
        """Size and time of change of each image's file as they are now; empty text where images are
        no files."""
        return [self._stamp(index) for index in range(len(self))]

    def check_unchanged(self, index: int, stamp: str) -> None:
        """Make sure that an image's file, if it is there, is the one that had this stamp.

        Raises:
            ImageError: it is another. Of images without a stamp nothing is known.
        """
        now = self._stamp(index)
        if stamp and now and now != stamp:
            raise ImageError(
                f"image {self.keys[index]!r} has changed since the scan: scan again", "fresh"
            )

    def fingerprint(self, stamps: Sequence[str] | None = None) -> str:
        """A hash of the listing: which keys in which order, and the stamps of their files, or, where
        they are no files, the pixels of the first that can be read.

        Args:
            stamps: as ``stamps`` gave them; None: those of now.
        """
        if stamps is None:
            stamps = self.stamps()
        lines = chain(self.keys, stamps) if any(stamps) else chain(self.keys, [self._sample()])
        digest = hashlib.sha256()
        for number, line in enumerate(lines):
            digest.update(_encoded(line if number == 0 else f"\n{line}"))
        return digest.hexdigest()[:16]

    def _sample(self) -> str:
        """A hash of the pixels of the first item that can be read; empty if none can."""
        for index in range(len(self)):
            try:
                pixels: Tensor = self[index]
            except ImageError:
                continue
            return hashlib.sha256(pixels.cpu().contiguous().numpy().tobytes()).hexdigest()
        return ""

    def batches(
        self,
        indices: Sequence[int],
        batch_size: int,
        *,
        shape: tuple[int, int, int] | None = None,
        on_error: Callable[[int, ImageError], None] | None = None,
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Items in order, stacked; read ahead where there are threads or workers to do it. Of images
        that differ in size batches are of one, and in order by `window`.

        Args:
            indices: which, in order.
            batch_size: how many at once.
            shape: (c, h, w) of every item; None: that of the first. Of images that differ in size it
                is not looked at.
            on_error: told of each image that cannot be read, which is then left out; None: the
                error is raised.

        Yields:
            The indices of a batch, and its items (n, c, h, w) in [0, 1].

        Raises:
            ImageError: an image cannot be read.
            SizeError: an image has another shape.
            UsageError: the values of an image are not in [0, 1].
        """
        batches = self.pixel_batches(indices, batch_size, shape=shape, on_error=on_error)
        for own, pixels in batches:
            yield own, in_unit_range(pixels)

    def pixel_batches(
        self,
        indices: Sequence[int],
        batch_size: int,
        *,
        shape: tuple[int, int, int] | None = None,
        on_error: Callable[[int, ImageError], None] | None = None,
        pinned: bool = False,
    ) -> Iterator[tuple[list[int], Tensor]]:
        """As `batches`, with items as they are read: in 8 bits, (n, c, h, w) uint8, where all of a batch are,
        so that a quarter as much is moved to a GPU; if ``pinned``, in memory of which that is done while Python
        goes on."""
        expected: tuple[int, ...] | None = shape
        chunks = self._chunks(indices, batch_size)
        read_batch = self._read_batch(chunks)
        if read_batch is not None:
            for chunk in chunks:
                pixels = read_batch(chunk, self.preprocess.channels)
                self._check_shape(chunk[0], pixels[0], expected or tuple(pixels[0].shape))
                yield chunk, pixels
            return
        for chunk, outcomes in self._outcomes(chunks):
            if self.sizes is not None:
                expected = (self.preprocess.channels, *self.sizes[chunk[0]])
            indices, items = readable(chunk, outcomes, on_error)
            for index, item in zip(indices, items, strict=True):
                expected = expected or tuple(item.shape)
                self._check_shape(index, item, expected)
            if items:
                yield indices, stacked(items, pinned)

    def _read_batch(self, chunks: list[list[int]]) -> Callable[[list[int], int], Tensor] | None:
        """What reads the images of a batch as one, as of a tensor of 8 bits, in which none can be wrong; None: each is
        read by itself."""
        batch: Any = getattr(self._read, "read_batch", None)
        if not chunks or batch is None or self._has_own_items:
            return None
        can = batch(chunks[0][:1], self.preprocess.channels) is not None
        return batch if can else None

    @property
    def _has_own_items(self) -> bool:
        """Whether this is of a class of its own, which may have other items."""
        return type(self).__getitem__ is not Images.__getitem__

    def _chunks(self, indices: Sequence[int], batch_size: int) -> list[list[int]]:
        """The indices of each batch."""
        if self.sizes is None:
            return chunks(indices, batch_size)
        return chunks_by_size(indices, batch_size, self.sizes)

    def _outcomes(self, chunks: list[list[int]]) -> Outcomes:
        """Chunk after chunk of indices, and what comes of each."""
        item = self.__getitem__ if self._has_own_items else self._pixels
        if self.workers > 0:
            attempts = Attempts(self._read, self.keys, self.preprocess, self._stamp)
            return by_workers(chunks, attempts, self._taken, self.workers)
        if self.threads > 1:
            return by_threads(chunks, item, self.threads)
        return by_caller(chunks, item)

    def _check_shape(self, index: int, item: Tensor, expected: tuple[int, ...]) -> None:
        check_shape(self.keys[index], item.shape, expected, own=self.sizes is not None)


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a surrogate pair that stands for no byte
        return text.encode("utf-8", "surrogatepass")
