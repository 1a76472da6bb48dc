"""The arrays of a scan as one file: packed, named by their hash, and checked when they are read."""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from featviz.records import _fields as fields
from featviz.records.peaks import NONE
from featviz.records.statistics import Statistics
from featviz.records.topk import TopK
from featviz.units import Layer

ARRAYS_NAME = re.compile(r"scan-[0-9a-f]{16}\.npz")
"""Names of files of arrays."""
DAMAGED = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    OSError,
    EOFError,
    MemoryError,
    RuntimeError,  # nested too deep, or encrypted
    zipfile.BadZipFile,
    zlib.error,
)
"""What comes of reading files that are not as they were written."""


def packed(layers: Sequence[Mapping[str, Any]], common: Mapping[str, Any]) -> bytes:
    """All arrays of a scan as one ``.npz`` file; a layer's names begin with its number, those that
    layers have in common do not."""
    arrays = dict(common)
    for i, own in enumerate(layers):
        arrays |= {f"{i}.{name}": value for name, value in own.items()}
    buffer = BytesIO()
    # as np.savez_compressed does, which takes several times as long for a tenth less
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
    return buffer.getvalue()


def hash_of(data: bytes) -> str:
    """16 hexadecimal digits that stand for these bytes."""
    return hashlib.sha256(data).hexdigest()[:16]


def arrays_in(folder: Path) -> list[Path]:
    """The files of arrays in a folder: one, or more after a writer that was killed."""
    return [path for path in folder.glob("scan-*.npz") if ARRAYS_NAME.fullmatch(path.name)]


def stored_arrays(folder: Path, manifest: fields.Entry) -> dict[str, Any]:
    """The arrays that a manifest speaks of, if they are those that were written."""
    name = manifest.take("arrays", fields.text)
    if ARRAYS_NAME.fullmatch(name) is None:
        raise fields.wrong("arrays", name, "the name of a file such as scan-0123456789abcdef.npz")
    data = (folder / name).read_bytes()
    if name != arrays_name(data):
        raise ValueError(f"{name} is not as it was written: its hash is another")
    with np.load(BytesIO(data), allow_pickle=False) as archive:
        return dict(archive)


def arrays_name(data: bytes) -> str:
    """The name of the file that holds these arrays."""
    return f"scan-{hash_of(data)}.npz"


def own_arrays(arrays: Mapping[str, Any], i: int) -> dict[str, Any]:
    """The arrays of layer i."""
    prefix = f"{i}."
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def check_arrays(
    layer: Layer,
    arrays: Mapping[str, Any],
    k: int,
    ranges: Sequence[tuple[int, int]],
    *,
    has_positions: bool = True,
) -> None:
    """Make sure that arrays have the shapes and types of a layer's, and indices within its bounds:
    those of images in the ranges that were looked at.

    Raises:
        ValueError: they do not, as after an edit or a mixture of two records.
    """
    empty = TopK.empty(layer.channels, k).arrays() | Statistics.empty(layer.channels).arrays()
    for name, expected in empty.items():
        if name not in arrays:
            raise ValueError(f"layer {layer.name!r} has no array {name!r}")
        array = arrays[name]
        if (array.shape, array.dtype) != (expected.shape, expected.dtype):
            raise ValueError(
                f"layer {layer.name!r} has {name} of {array.dtype} {array.shape}, "
                f"and not of {expected.dtype} {expected.shape}"
            )
    images, positions = arrays["images"], arrays["positions"]
    filled = images != NONE
    known = images == NONE
    for start, stop in ranges:
        known |= (start <= images) & (images < stop)
    if not known.all():
        raise ValueError(f"layer {layer.name!r} has exemplars that are not of the images {ranges}")
    empty_slots = ~filled if has_positions else slice(None)
    is_wrong = has_positions and (positions[filled] < 0).any()
    if (positions[empty_slots] != NONE).any() or is_wrong:
        raise ValueError(f"layer {layer.name!r} has positions that are none")
    if (positions[filled] >= layer.map_size).any():
        raise ValueError(f"layer {layer.name!r} has positions outside its map {layer.map_size}")
    if np.isnan(arrays["scores"]).any() or (arrays["active"] < 0).any():
        raise ValueError(f"layer {layer.name!r} has scores or counts that are none")
