"""Decoded pixels that are kept, side by side in large blocks.

A tensor for each image would leave gaps between them, and the process would grow by twice what is
kept.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

HELD_BYTES = 512 * 2**20
"""Bytes of decoded pixels that are kept."""
_BLOCKS = 64
"""How many blocks make up all that is kept."""
_ENTRY = 1024
"""Bytes that are counted for each image beside its pixels, for what Python keeps of it."""


class Held:
    """Pixels of images in 8 bits by index, each with the stamp of the file that they are of.

    Args:
        limit: bytes of memory that all may take together.
    """

    def __init__(self, limit: int = HELD_BYTES) -> None:
        self.limit = limit
        self._begin()

    def _begin(self) -> None:
        self._lock = Lock()  # several threads keep what they read
        self._entries: dict[int, tuple[str, Tensor]] = {}
        self._taken = 0
        self._block = torch.empty(0, dtype=torch.uint8)
        self._used = 0  # bytes of the last block

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, index: int) -> bool:
        """Whether pixels are kept, of the file as it is now or as it was."""
        return index in self._entries

    @property
    def bytes(self) -> int:
        """Of memory that is taken, what is free in the last block and what Python needs included."""
        return self._taken

    def get(self, index: int, stamp: str) -> Tensor | None:
        """An image's pixels, if they are kept and of the file as it is now, or as it was before it
        was removed: then the stamp is empty."""
        entry = self._entries.get(index)
        if entry is None or stamp not in (entry[0], ""):
            return None
        return entry[1]

    def keep(self, index: int, stamp: str, pixels: Tensor) -> Tensor | None:
        """Keep a copy of an image's pixels, uint8 of any shape, while there is room.

        Returns:
            The copy; None: there is no room, or there is one already.
        """
        with self._lock:
            # where the file has changed the old room is not used again: others may look at it
            if self.get(index, stamp) is not None:
                return None
            room = self._room(pixels.numel())
            if room is None:
                return None
            np.copyto(room.numpy(), pixels.numpy().ravel())  # by this thread alone
            copy = room.view(pixels.shape)
            self._entries[index] = stamp, copy
            return copy

    def _room(self, size: int) -> Tensor | None:
        """So many free bytes in a row; None: there is no more room."""
        if self._used + size > len(self._block):
            block = max(size, self.limit // _BLOCKS)
            if self._taken + block + _ENTRY > self.limit:
                return None
            self._block = torch.empty(block, dtype=torch.uint8)
            self._used = 0
            self._taken += block
        elif self._taken + _ENTRY > self.limit:
            return None
        self._taken += _ENTRY
        start = self._used
        self._used += size
        return self._block[start : start + size]

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self.limit}  # another process reads for itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.limit = state["limit"]
        self._begin()
