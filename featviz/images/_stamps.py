"""Stamps, by which the file of an image is known to be the one that was read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from featviz.images._items import Read


def stamps_of(read: Read) -> Callable[[int], str]:
    """From an index to its stamp: that of a source that has some, else empty text."""
    stamp: Callable[[int], str] = getattr(read, "stamp", _no_stamp)
    return stamp


def head_of(read: Read) -> Read | None:
    """What opens an image's file to tell its size, and reads no more of it; None: the source has no such files."""
    head: Read | None = getattr(read, "read_head", None)
    return head


# Classes and not closures, so that processes can be given them.


@dataclass(frozen=True)
class Chosen:
    """Some of the images that ``read`` reads."""

    read: Read
    indices: list[int]

    def __call__(self, index: int) -> Any:
        return self.read(self.indices[index])

    @property
    def is_in_memory(self) -> bool:
        return bool(getattr(self.read, "is_in_memory", False))

    def read_batch(self, indices: Sequence[int], channels: int) -> Tensor | None:
        """Several at once, of a source that has them so."""
        own = getattr(self.read, "read_batch", None)
        return own and own([self.indices[i] for i in indices], channels)

    @property
    def read_head(self) -> Read | None:
        head = head_of(self.read)
        return head and (lambda index: head(self.indices[index]))

    def stamp(self, index: int) -> str:
        return stamps_of(self.read)(self.indices[index])


@dataclass(frozen=True)
class ByContent:
    """Images whose stamps are hashes of their files."""

    read: Any

    def __call__(self, index: int) -> Any:
        return self.read(index)

    def stamp(self, index: int) -> str:
        try:
            content: bytes = self.read.content(index)
        except OSError:
            return ""  # it is gone
        return f"sha256 {hashlib.sha256(content).hexdigest()}"


def _no_stamp(index: int) -> str:
    """Of an image that is no file."""
    return ""
