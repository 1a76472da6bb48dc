"""Images in a tar file, read where they lie, with the labels that lie beside them."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sys
import tarfile
import tempfile
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any, NamedTuple, cast

from PIL import Image

from featviz.errors import ImageError
from featviz.images._folders import folder_of, is_hidden, stamp_of, why_left_out

_GZIP = b"\x1f\x8b"
_LABEL_SUFFIXES = (".cls", ".json")
"""Of the files beside a picture that give its label, the better first (the WebDataset convention)."""
_LABEL_FIELDS = ("label", "cls", "class")
"""Where a ``.json`` has the label; the first that is there."""
_LARGEST_LABEL = 2**20
"""Bytes of a file that is looked at for a label."""
_LARGEST_PADDING = 2**20
"""Bytes behind the end of an archive that may be zeros, up to a whole record."""

Range = Callable[[int, int], bytes]
"""From an offset and a size to so many bytes."""


class Member(NamedTuple):
    """An image in a tar file: its name, where its bytes lie, and its label."""

    name: str
    offset: int
    size: int
    label: str | None


class Tar(NamedTuple):
    """A tar file that was listed.

    Attributes:
        members: those that are images, by name.
        left_out: how many files are not, by the reason.
        read: gives bytes of it.
        stamp: of the file when it was listed.
    """

    members: list[Member]
    left_out: Counter[str]
    read: Range
    stamp: str


def local_tar(path: Path) -> Tar:
    """The images in a tar file on disk.

    Raises:
        ImageError: it is not a tar file, is damaged, or is cut short.
    """
    stamp = stamp_of(path)
    return opened_tar(str(path), lambda: path.open("rb"), _FileRange(path, stamp), stamp)


def opened_tar(name: str, opened: Callable[[], Any], read: Range, stamp: str) -> Tar:
    """The images in a tar file from anywhere; a compressed one is first unpacked into a temporary
    file, which is gone at the end.

    Args:
        name: for messages.
        opened: opens the file for one reading.
        read: gives bytes of it.
        stamp: of the file.

    Raises:
        ImageError: it is not a tar file, is damaged, or is cut short.
    """
    try:
        with opened() as stream:
            if stream.read(2) == _GZIP:
                stream.seek(0)
                read = _Unpacked(stream)
                stream = read.stream
            members, left_out = listed(stream)
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as error:
        raise ImageError(
            f"{name!r} cannot be read as .tar or .tar.gz, or is cut short: {error}", "images"
        ) from error
    return Tar(members, left_out, read, stamp)


@dataclass(frozen=True)
class _FileRange:
    """Reads bytes of a file, which it opens each time: it holds nothing open, and any number of
    threads and processes may read."""

    path: Path
    stamp: str

    def __call__(self, offset: int, size: int) -> bytes:
        with self.path.open("rb") as stream:
            if stamp_of(self.path) != self.stamp:
                raise OSError(f"{str(self.path)!r} has changed since its images were listed")
            stream.seek(offset)
            return stream.read(size)


class _Unpacked:
    """Reads bytes of a compressed file, which lies unpacked in a temporary file."""

    def __init__(self, packed: Any) -> None:
        self._lock = Lock()  # one position in the file, and two threads that read
        self.stream: Any = tempfile.TemporaryFile()  # noqa: SIM115 (read from for as long as the images are)
        try:
            with gzip.open(packed) as content:
                shutil.copyfileobj(content, self.stream)
        except BaseException:
            self.stream.close()
            raise

    def __call__(self, offset: int, size: int) -> bytes:
        with self._lock:
            self.stream.seek(offset)
            data: bytes = self.stream.read(size)
        return data

    def __del__(self) -> None:
        if hasattr(self, "stream"):
            self.stream.close()


def listed(stream: Any) -> tuple[list[Member], Counter[str]]:
    """The members of an open tar file that are images, and how many files are not."""
    images: list[Member] = []
    labels: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        while (header := tar.next()) is not None:
            cast(Any, tar).members.clear()  # they are of no use, and would take a kilobyte each
            if header.isdir():
                continue
            reason = _why_left_out(header)
            if reason is None:
                images.append(Member(header.name, header.offset_data, header.size, None))
            elif (label := _label_in(tar, header)) is not None:
                labels[header.name] = label
            else:
                left_out[reason] += 1
        end = tar.offset
    _check_end(stream, end)
    return [_labelled(image, labels) for image in sorted(images)], left_out


def _why_left_out(header: tarfile.TarInfo) -> str | None:
    if not header.isfile():
        return "links and devices"
    if header.issparse():
        return "sparse files"  # their bytes do not lie in a row
    *folders, name = PurePosixPath(header.name).parts or ("",)
    if any(is_hidden(folder) for folder in folders):
        return "files in hidden folders"
    return why_left_out(name)


def _label_in(tar: tarfile.TarFile, header: tarfile.TarInfo) -> str | None:
    """The label that a file gives to the pictures beside it; None: it gives none."""
    suffix = os.path.splitext(header.name)[1]
    if suffix not in _LABEL_SUFFIXES or not header.isfile() or header.size > _LARGEST_LABEL:
        return None
    file = tar.extractfile(header)
    try:
        content = file.read().decode().strip() if file else ""
        if suffix == ".json":
            content = _field(json.loads(content))
    except ValueError:  # no text, or no JSON
        return None
    return sys.intern(content) or None


def _field(value: Any) -> str:
    """The label among the fields of a ``.json``; empty: there is none."""
    if isinstance(value, dict):
        for name in _LABEL_FIELDS:
            if isinstance(value.get(name), (str, int)):
                return str(value[name])
    return ""


def _labelled(image: Member, labels: dict[str, str]) -> Member:
    """An image with the label beside it, or the folder that it lies in."""
    name = image.name.split("/")[-1]
    start = image.name.removesuffix(name)
    # 1.jpg and 1.cls; and by the WebDataset convention 1.left.jpg and 1.cls
    for stem in (os.path.splitext(name)[0], name[:1] + name[1:].split(".")[0]):
        for suffix in _LABEL_SUFFIXES:
            label = labels.get(f"{start}{stem}{suffix}")
            if label is not None:
                return image._replace(label=label)
    return image._replace(label=folder_of(image.name))


def _check_end(stream: Any, end: int) -> None:
    """Make sure that the listing ended at a block of zeros, and that no other archive comes after it: tarfile ends it in
    silence at a damaged header too, and at the end of the first of several that were joined.
    """
    stream.seek(end)
    rest = stream.read(_LARGEST_PADDING)
    if len(rest) < tarfile.BLOCKSIZE or any(rest[: tarfile.BLOCKSIZE]):
        raise tarfile.ReadError("it has no end where one is due")
    if rest.count(0) != len(rest):
        raise tarfile.ReadError(
            "more lies behind its end, as where archives are joined by cat: join them by tar -A, or give "
            "each"
        )


class TarImages:
    """Reads the images of tar files.

    Args:
        tars: in order; an image's index counts through all of them.
    """

    def __init__(self, tars: Sequence[Tar]) -> None:
        self.tars = list(tars)
        self._totals = list(accumulate(len(tar.members) for tar in tars))

    @property
    def left_out(self) -> Counter[str]:
        """How many files are no images, by the reason."""
        return sum((tar.left_out for tar in self.tars), Counter())

    @property
    def is_packed(self) -> bool:
        """Whether one of them is compressed, so that only this process can read it."""
        return any(isinstance(tar.read, _Unpacked) for tar in self.tars)

    def __call__(self, index: int) -> Image.Image:
        return Image.open(BytesIO(self.content(index)))

    def content(self, index: int) -> bytes:
        """The bytes of an image's file."""
        tar, member = self._at(index)
        return tar.read(member.offset, member.size)

    def stamp(self, index: int) -> str:
        """The tar file's own, when it was listed."""
        tar, member = self._at(index)
        return f"{member.offset} {member.size} in {tar.stamp}"

    def _at(self, index: int) -> tuple[Tar, Member]:
        which = bisect_right(self._totals, index)
        tar = self.tars[which]
        return tar, tar.members[index - self._totals[which]]  # counted from the end: below 0
