"""Top images as MILAN reads them: a folder of arrays for each layer.

Source: Hernandez et al., Natural language descriptions of deep visual features (ICLR 2022), and
``TopImagesDataset`` of its code, github.com/evandez/neuron-descriptions.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from math import prod
from pathlib import Path

import numpy as np
from torch import Tensor

from featviz.exports._files import file_name
from featviz.exports._subject import Subject
from featviz.exports._walk import Illustration
from featviz.files import arriving
from featviz.records._rows import claim_disk

_ARRAYS = ("images.npy", "masks.npy", "units.npy")


def milan_files(subject: Subject) -> list[str]:
    """The files that `write_milan` writes."""
    names = map(file_name, subject.channels)
    return [f"{name}/{array}" for name in names for array in _ARRAYS]


def write_milan(folder: Path, subject: Subject, illustrations: Iterable[Illustration]) -> None:
    """Write for each layer ``images.npy`` (units, k, 3, h, w) uint8, ``masks.npy`` (units, k, 1, h, w)
    uint8, 0 or 1, and ``units.npy`` (units,), the number of each unit; 0 where a unit has fewer than k
    exemplars. The arrays are on the disk, and not in memory."""
    with ExitStack() as stack:
        arrays: dict[str, tuple[_Array, _Array]] = {}
        for name, channels in subject.channels.items():
            own = folder / file_name(name)
            units = stack.enter_context(arriving(own / "units.npy"))
            with units.open("wb") as file:
                np.save(file, np.array(channels))
            shape = len(channels), subject.k
            images = _Array(stack, own / "images.npy", (*shape, 3, *subject.size))
            masks = _Array(stack, own / "masks.npy", (*shape, 1, *subject.size))
            arrays[name] = images, masks
        for illustration in illustrations:
            for slot, mask in illustration.exemplars:
                images, masks = arrays[slot.layer]
                images.write(slot.row, slot.rank, illustration.pixels)
                masks.write(slot.row, slot.rank, mask)


class _Array:
    """An array of bytes (units, k, c, h, w), 0 at first, that is there as a file when a stack ends well.

    It is written to as a file and not as memory mapped to one, whose pages would count as the
    process's own.
    """

    def __init__(self, stack: ExitStack, path: Path, shape: tuple[int, ...]) -> None:
        temporary = stack.enter_context(arriving(path))
        self._file = stack.enter_context(temporary.open("wb"))
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)
        self._start = self._file.tell()
        self._k = shape[1]
        self._step = prod(shape[2:])
        self._file.truncate(self._start + prod(shape))
        claim_disk(temporary)

    def write(self, row: int, rank: int, values: Tensor) -> None:
        """Write the (c, h, w) of an exemplar."""
        self._file.seek(self._start + (row * self._k + rank) * self._step)
        self._file.write(values.contiguous().numpy().tobytes())
