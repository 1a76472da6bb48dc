"""Top images as MILAN reads them: a folder of arrays for each layer.

Source: Hernandez et al., Natural language descriptions of deep visual features (ICLR 2022), and
``TopImagesDataset`` of its code, github.com/evandez/neuron-descriptions.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from featviz.exports._files import arriving, file_name
from featviz.exports._subject import Subject
from featviz.exports._walk import Illustration
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
        images: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        for name, channels in subject.channels.items():
            own = folder / file_name(name)
            np.save(own / "units.npy", np.array(channels))
            shape = len(channels), subject.k
            images[name] = _array(stack, own / "images.npy", (*shape, 3, *subject.size))
            masks[name] = _array(stack, own / "masks.npy", (*shape, 1, *subject.size))
        for illustration in illustrations:
            for slot, mask in illustration.exemplars:
                images[slot.layer][slot.row, slot.rank] = illustration.pixels
                masks[slot.layer][slot.row, slot.rank, 0] = mask


def _array(stack: ExitStack, path: Path, shape: tuple[int, ...]) -> Tensor:
    """Zeros in a file that is there under its name when the stack ends well."""
    temporary = stack.enter_context(arriving(path))
    mapped = np.lib.format.open_memmap(temporary, "w+", np.dtype(np.uint8), shape)
    stack.callback(mapped.flush)
    claim_disk(temporary)
    return torch.from_numpy(mapped)
