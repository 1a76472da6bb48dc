"""Tensors with a row for each image, in memory or in files, that are filled batch by batch."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from featviz.errors import UsageError


class Rows:
    """The rows of one layer.

    Args:
        n: rows.
        path: a file ``.npy`` to hold them; None: memory does.

    Attributes:
        tensor: (n, ...), once something is written.
    """

    def __init__(self, n: int, path: Path | None = None) -> None:
        self.n = n
        self.path = path
        self.tensor: Tensor | None = None
        self._mapped: np.memmap[tuple[int, ...], np.dtype[np.generic]] | None = None

    def reopen(self) -> None:
        """Go on with the file that is there."""
        assert self.path is not None
        self._mapped = np.lib.format.open_memmap(self.path, mode="r+")
        self.tensor = torch.from_numpy(self._mapped)

    def write(self, indices: Sequence[int], rows: Tensor) -> None:
        """Copy rows (len(indices), ...), of any device, to where they belong.

        Raises:
            UsageError: they are not like those before them, or of a type that no file holds.
        """
        tensor = self.tensor
        if tensor is None:
            tensor = self.tensor = self._empty(rows)
        if (rows.shape[1:], rows.dtype) != (tensor.shape[1:], tensor.dtype):
            raise UsageError(
                f"reduce gives rows of {rows.dtype} {tuple(rows.shape[1:])}, and before "
                f"{tensor.dtype} {tuple(tensor.shape[1:])}: give the same for every image",
                "reduce",
            )
        first, last = indices[0], indices[-1]
        if last - first + 1 == len(indices):  # no image between them is skipped
            tensor[first : last + 1].copy_(rows)
        else:
            tensor[torch.tensor(indices)] = rows.cpu()

    def blank(self, indices: Sequence[int]) -> None:
        """Fill rows with NaN, or 0 where the type has none."""
        if self.tensor is not None and indices:
            has_nan = self.tensor.is_floating_point() or self.tensor.is_complex()
            self.tensor[torch.tensor(indices)] = torch.nan if has_nan else 0

    def flush(self) -> None:
        """Bring what is written to the disk."""
        if self._mapped is not None:
            self._mapped.flush()

    def _empty(self, rows: Tensor) -> Tensor:
        """Room for all rows."""
        shape = (self.n, *rows.shape[1:])
        if self.path is None:
            return torch.zeros(shape, dtype=rows.dtype)
        try:
            dtype = rows[:0].cpu().numpy().dtype
        except TypeError:
            raise UsageError(
                f"{rows.dtype} has no place in files of arrays: give dtype=torch.float32", "dtype"
            ) from None
        self.path.unlink(missing_ok=True)  # whoever reads the old file keeps it
        self._mapped = np.lib.format.open_memmap(self.path, "w+", dtype, shape)
        claim_disk(self.path)
        return torch.from_numpy(self._mapped)


def claim_disk(path: Path) -> None:
    """Have the system set a file's room aside, where it can: a full disk is known before the work,
    and not by a signal in the middle of it."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def mapped(path: Path) -> Tensor:
    """The array of a file ``.npy`` as a tensor on its pages, which are read when they are used. A change
    of it stays in memory.

    Raises:
        ValueError: it is no such file, or shorter than it says.
        OSError: it cannot be read.
    """
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.memmap) or array.flags.c_contiguous is False:
        raise ValueError(f"{path.name} is no array as it was written")
    if not array.size:
        return torch.from_numpy(np.array(array))
    with path.open("rb") as file:
        memory = _private(file.fileno())
    flat = np.frombuffer(memory, array.dtype, array.size, array.offset)
    return torch.from_numpy(flat.reshape(array.shape))


def _private(handle: int) -> mmap.mmap:
    """The pages of a file, of which changes stay in memory."""
    if not hasattr(mmap, "MAP_PRIVATE"):  # Windows
        return mmap.mmap(handle, 0, access=mmap.ACCESS_COPY)
    # or a file that is larger than memory is refused, since all of it might be changed
    flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)
    return mmap.mmap(handle, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
