"""The images of a record: their keys, labels, shape and files, and those that could not be read."""

from __future__ import annotations

import gzip
import json
import re
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from featviz.files import write_atomic
from featviz.records import _fields as fields
from featviz.records._arrays import hash_of
from featviz.records._fields import Entry

Value = TypeVar("Value")
Shape = tuple[int, int, int]
"""(c, h, w) in pixels."""
Size = tuple[int, int]
"""(height, width) in pixels."""
Range = tuple[int, int]
"""Images from the first index up to the second, which is not included."""
FILE_NAME = re.compile(r"listing-[0-9a-f]{16}\.json\.gz")
"""Names of files of listings."""
_MANIFESTS = ("scan.json", "responses.json")
_entries = fields.list_of(fields.entry)


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read, and why; ``index`` is that in the listing.

    Example:
        >>> from featviz import Skipped
        >>> Skipped("cats/1.png", "cannot identify image file", index=0).key
        'cats/1.png'
    """

    key: str
    reason: str
    index: int


@dataclass(frozen=True, eq=False, repr=False)
class Listing:
    """The images of a scan, or of responses.

    Attributes:
        keys, labels: of the images that the indices of a record mean.
        input_shape: (c, h, w) of the images as the model saw them; where they differ in size, of the
            smallest box that holds every one of them.
        stamps: size and time of change of each file; empty text where images are no files.
        sizes: (height, width) of each image, where they differ; (0, 0) where that is not known.
            Empty: all are of ``input_shape``.

    Example:
        >>> from featviz import Listing
        >>> Listing(["cats/1.png", "dogs/1.png"], ["cats", "dogs"], (3, 224, 224))
        <Listing of 2 images of 3x224x224>
    """

    keys: list[str]
    labels: list[str | None]
    input_shape: tuple[int, int, int]
    stamps: list[str] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.stamps:
            object.__setattr__(self, "stamps", [""] * len(self.keys))

    def __len__(self) -> int:
        return len(self.keys)

    def shape_of(self, image: int) -> tuple[int, int, int]:
        """(c, h, w) of an image as the model saw it.

        Example:
            >>> from featviz import Listing
            >>> listing = Listing(["a", "b"], [None, None], (3, 8, 8), sizes=[(6, 8), (8, 4)])
            >>> listing.shape_of(1)
            (3, 8, 4)
        """
        if not self.sizes:
            return self.input_shape
        return self.input_shape[0], *self.sizes[image]

    def positions(self, map_size: Size) -> int:
        """How many positions the maps of all images have, if that of an image of ``input_shape`` is of
        this (height, width) and the others are in proportion.

        Example:
            >>> from featviz import Listing
            >>> Listing(["a", "b"], [None, None], (3, 8, 8), sizes=[(6, 8), (8, 4)]).positions((4, 4))
            20
        """
        height, width = map_size
        if not self.sizes:
            return len(self) * height * width
        return height * width * self._pixels // (self.input_shape[1] * self.input_shape[2])

    @cached_property
    def _pixels(self) -> int:
        """Of all images, where they differ in size."""
        return sum(height * width for height, width in self.sizes)

    @cached_property
    def label_names(self) -> list[str]:
        """All labels, each once, in order."""
        return sorted({label for label in self.labels if label is not None})

    @cached_property
    def packed(self) -> tuple[str, bytes]:
        """The name and the content of the file that holds keys, labels, stamps and sizes: of each label
        and size, which many images share, there is one, and its number for each image."""
        number = {label: i for i, label in enumerate(self.label_names)}
        sizes = sorted(set(self.sizes))
        number_of_size = {size: i for i, size in enumerate(sizes)}
        entries = {
            "keys": self.keys,
            "stamps": self.stamps if any(self.stamps) else [],
            "labels": self.label_names,
            "label_of": [None if label is None else number[label] for label in self.labels],
            "sizes": sizes,
            "size_of": [number_of_size[size] for size in self.sizes],
        }
        # Python's fast encoder takes no indent
        text = json.dumps(entries, separators=(",", ":"))
        data = gzip.compress(text.encode(), compresslevel=1, mtime=0)
        return f"listing-{hash_of(data)}.json.gz", data

    def __repr__(self) -> str:
        size = "x".join(map(str, self.input_shape))
        upto = "up to " if self.sizes else ""
        return f"<Listing of {len(self)} images of {upto}{size}>"


def save_listing(listing: Listing, folder: Path) -> str:
    """Write the file of keys, labels and stamps, if it is not there already; its name, by its hash."""
    name, data = listing.packed
    if not (folder / name).exists():
        write_atomic(folder / name, data)
    return name


def remove_older_listings(folder: Path, name: str) -> None:
    """Remove the listings of earlier records; of which there may be two kinds in a folder."""
    if all((folder / manifest).exists() for manifest in _MANIFESTS):
        return
    for old in folder.glob("listing-*.json.gz"):
        if old.name != name and FILE_NAME.fullmatch(old.name):
            old.unlink(missing_ok=True)


def stored_listing(folder: Path, manifest: Entry) -> Listing:
    """The listing that a manifest speaks of: its file is in the same folder, or, of a shard, in the
    one above."""
    name = manifest.take("listing", fields.matching(FILE_NAME.pattern))
    path = folder / name
    if not path.exists() and (folder.parent / name).exists():
        path = folder.parent / name
    c, h, w = manifest.take("input_shape", fields.list_of(fields.integer(1), 3))
    stat = path.stat()
    as_it_was = (str(path), stat.st_mtime_ns, stat.st_size, (c, h, w))
    listing = _in_use.get(as_it_was)
    if listing is None:
        listing = _in_use[as_it_was] = _read(path, (c, h, w))
    return listing


def _read(path: Path, shape: Shape) -> Listing:
    """The listing of a file, or the same one that is in use already."""
    data = path.read_bytes()
    if path.name != f"listing-{hash_of(data)}.json.gz":
        raise ValueError(f"{path.name} is not as it was written: its hash is another")
    listing = _in_use.get((path.name, shape))
    if listing is None:
        listing = _in_use[path.name, shape] = _unpacked(data, shape)
    return listing


_in_use: WeakValueDictionary[tuple[Any, ...], Listing] = WeakValueDictionary()
"""Listings by file and shape: shards have one in common, which is read once. By its path and stamp, so that it is not
read to find that out; and by its name, which is that of its content."""


def _unpacked(data: bytes, shape: Shape) -> Listing:
    """The listing of a file, each field checked."""
    entry = Entry(json.loads(gzip.decompress(data)))
    keys = entry.take("keys", fields.texts_of())
    n = len(keys)
    stamps = entry.take("stamps", fields.texts_of(0, n))
    names = entry.take("labels", fields.texts_of())
    sizes = entry.take("sizes", fields.list_of(fields.list_of(fields.integer(), 2)))
    labels = _looked_up(entry, "label_of", n, {None: None, **dict(enumerate(names))})
    own = []
    if sizes:
        own = _looked_up(entry, "size_of", n, {i: (h, w) for i, (h, w) in enumerate(sizes)})
    return Listing(keys, labels, shape, stamps, own)


def _looked_up(entry: Entry, name: str, n: int, values: Mapping[Any, Value]) -> list[Value]:
    """What each of n images has, by the number that stands for it."""
    numbers = entry.take(name, fields.list_of(fields.anything, n))
    if set(map(type, numbers)) - {int, type(None)}:  # True is no 1
        raise fields.wrong(name, numbers, "a list of numbers")
    return [values[number] for number in numbers]


def skipped_from(manifest: Entry, listing: Listing, ranges: Sequence[Range]) -> list[Skipped]:
    """Those of a manifest's images so far, which lie in some ranges, that could not be read."""
    skipped = [_entry_from(entry, listing) for entry in manifest.take("skipped", _entries)]
    indices = [entry.index for entry in skipped]
    if indices != sorted(set(indices)) or not all(is_in(ranges, index) for index in indices):
        raise ValueError(f"skipped names images that are not among {ranges}, each once")
    return skipped


def add_skipped(skipped: list[Skipped], entry: Skipped) -> None:
    """Add an image to those that could not be read, which are in the order of the listing."""
    insort(skipped, entry, key=lambda other: other.index)


def is_in(ranges: Sequence[Range], index: int) -> bool:
    """Whether an image lies in one of some ranges."""
    return any(start <= index < stop for start, stop in ranges)


def _entry_from(entry: Entry, listing: Listing) -> Skipped:
    key = entry.take("key", fields.text)
    reason = entry.take("reason", fields.text)
    index = entry.take("index", fields.integer(0, len(listing) - 1))
    if listing.keys[index] != key:
        raise ValueError(f"{entry.name} is of image {index}, which is {listing.keys[index]!r}")
    return Skipped(key, reason, index)


def check_fingerprints(manifest: Entry) -> Entry:
    """The identity of a manifest, with the fingerprints that every record has."""
    identity = manifest.take("identity", fields.entry)
    checks: Mapping[str, Any] = {
        "model": fields.text,
        "images": fields.text,
        "preprocess": fields.entry,
        "layers": fields.list_of(fields.text),
    }
    identity.check(checks)
    if "forward" in identity.value:  # which earlier versions do not name
        identity.take("forward", fields.optional_text)
    return identity
