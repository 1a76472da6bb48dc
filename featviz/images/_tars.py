"""Images in a tar file, read where they lie."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import tempfile
import zlib
from collections import Counter
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

from PIL import Image

from featviz.errors import ImageError
from featviz.images._folders import is_hidden, stamp_of, why_left_out

_GZIP = b"\x1f\x8b"


@dataclass(frozen=True, order=True)
class Member:
    """A file in a tar file: its name, and where its bytes lie."""

    name: str
    offset: int
    size: int


class TarImages:
    """The images in a tar file; a compressed one is first unpacked into a temporary file, which is
    gone at the end.

    Attributes:
        members: those that are images, by name.
        left_out: how many files are not, by the reason.

    Raises:
        ImageError: it is not a tar file, is damaged, or is cut short.
    """

    def __init__(self, path: Path) -> None:
        self._stamp = stamp_of(path)
        self._lock = Lock()  # one position in the file, and two threads that read
        self._stream: Any = None
        try:
            self._stream = _unpacked(path)
            self.members, self.left_out = _listed(self._stream)
        except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as error:
            self.close()
            raise ImageError(
                f"{str(path)!r} cannot be read as .tar or .tar.gz, or is cut short: {error}",
                "images",
            ) from error

    def __call__(self, index: int) -> Image.Image:
        return Image.open(BytesIO(self.content(index)))

    def content(self, index: int) -> bytes:
        """The bytes of a member."""
        member = self.members[index]
        with self._lock:
            self._stream.seek(member.offset)
            data: bytes = self._stream.read(member.size)
        return data

    def stamp(self, index: int) -> str:
        """The tar file's own: what is read is what it held when it was opened."""
        member = self.members[index]
        return f"{member.offset} {member.size} in {self._stamp}"

    def close(self) -> None:
        """Give the file back; it cannot be read from any more."""
        if self._stream is not None:
            self._stream.close()

    def __del__(self) -> None:
        self.close()


def _unpacked(path: Path) -> Any:
    """A tar file that is not compressed, open."""
    stream: Any = path.open("rb")
    if stream.read(2) != _GZIP:
        return stream
    stream.close()
    stream = tempfile.TemporaryFile()  # noqa: SIM115 (read from for as long as the images are)
    try:
        with gzip.open(path) as packed:
            shutil.copyfileobj(packed, stream)
    except BaseException:
        stream.close()
        raise
    return stream


def _listed(stream: Any) -> tuple[list[Member], Counter[str]]:
    """The members that are images, and how many files are not."""
    members = []
    left_out: Counter[str] = Counter()
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        for header in tar:
            if header.isdir():
                continue
            reason = _why_left_out(header)
            if reason is None:
                members.append(Member(header.name, header.offset_data, header.size))
            else:
                left_out[reason] += 1
        end = tar.offset
    _check_end(stream, end)
    return sorted(members), left_out


def _why_left_out(header: tarfile.TarInfo) -> str | None:
    if not header.isfile():
        return "links and devices"
    if header.issparse():
        return "sparse files"  # their bytes do not lie in a row
    *folders, name = PurePosixPath(header.name).parts or ("",)
    if any(is_hidden(folder) for folder in folders):
        return "files in hidden folders"
    return why_left_out(name)


def _check_end(stream: Any, end: int) -> None:
    """Make sure that the listing ended at a block of zeros: tarfile ends it in silence at a damaged
    header too.
    """
    stream.seek(end)
    block = stream.read(tarfile.BLOCKSIZE)
    if block.count(0) != tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it has no end where one is due")
