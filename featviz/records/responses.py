"""The responses of every unit to every image, and how they lie on disk: a JSON manifest beside one
array file a layer, which is read when it is used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from featviz.errors import FeatvizError, LayerError, RecordError, did_you_mean, first_line
from featviz.files import write_atomic
from featviz.records import _fields as fields
from featviz.records._arrays import DAMAGED
from featviz.records._fields import Entry
from featviz.records._layers import layer_from, layer_to_json
from featviz.records._progress import check_resumes, check_schema, check_written, checksum
from featviz.records._rows import mapped
from featviz.records.listing import (
    Listing,
    Range,
    Skipped,
    check_fingerprints,
    remove_older_listings,
    save_listing,
    skipped_from,
    stored_listing,
)
from featviz.units import Layer

SCHEMA = 4
MANIFEST = "responses.json"
ARRAY_NAME = re.compile(r"responses-\d+\.npy")
"""Names of files of arrays; a layer's name is in the manifest."""


@dataclass(frozen=True, eq=False, repr=False)
class Responses(Mapping[str, Tensor]):
    """The responses of every unit of several layers to every image: a mapping from each layer's name
    to a tensor on the CPU, whose row i belongs to image i of the listing.

    Attributes:
        tensors: by layer, (images, c), (images, c, h, w), or (images, ...) as the reduction gives them.
            The rows of images that could not be read are NaN, or 0 where the type has none. Those of
            a record on disk are read when they are used, and changes of them stay in memory.
        layers: by name.
        listing: the images, with their keys and labels.
        identity: what they were made from: ``layers``, ``reduce`` and ``dtype``; of a record on disk
            also fingerprints of ``model``, ``forward``, ``images`` and ``preprocess``.
        done: images looked at so far; ``complete`` says whether these are all.
        skipped: images that could not be read.

    Example:
        >>> from featviz import load_model, responses
        >>> from featviz.data import SyntheticImages
        >>> result = responses(load_model("zfmini"), SyntheticImages(6), "conv1, conv2")
        >>> result
        <Responses of 2 layers, max, 6 of 6 images>
        >>> result["conv2"].shape, len(result.listing.labels)
        (torch.Size([6, 48]), 6)
    """

    tensors: dict[str, Tensor]
    layers: dict[str, Layer]
    listing: Listing
    identity: dict[str, Any]
    done: int
    skipped: list[Skipped] = field(default_factory=list)

    def __getitem__(self, name: str | Layer) -> Tensor:
        try:
            return self.tensors[str(name)]
        except KeyError:
            nearest = did_you_mean(str(name), self.tensors)
            raise LayerError(f"layer {str(name)!r} is not in the responses{nearest}") from None

    def get(self, name: str | Layer, default: Any = None) -> Any:
        """The layer's responses, or ``default`` where there are none."""
        # the one of Mapping expects a KeyError, whose messages would show with quotes around them
        return self.tensors.get(str(name), default)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:
        return str(name) in self.tensors

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        images = f"{self.done} of {len(self.listing)} images"
        return f"<Responses of {len(self)} layers, {self.reduce}, {images}>"

    @property
    def reduce(self) -> str:
        """The name of the reduction."""
        return str(self.identity["reduce"])

    @property
    def ranges(self) -> list[Range]:
        """The images that were looked at, as ranges of indices."""
        return [(0, self.done)]

    @property
    def complete(self) -> bool:
        """Whether every image was looked at."""
        return self.done == len(self.listing)

    def readable(self) -> Responses:
        """Those of the images that were looked at and could be read, as copies; these themselves where
        that is all of them."""
        if self.complete and not self.skipped:
            return self
        left_out = {entry.index for entry in self.skipped}
        rows = [i for i in range(self.done) if i not in left_out]
        listing = Listing(
            [self.listing.keys[i] for i in rows],
            [self.listing.labels[i] for i in rows],
            self.listing.input_shape,
            [self.listing.stamps[i] for i in rows],
            [self.listing.sizes[i] for i in rows] if self.listing.sizes else [],
        )
        tensors = {name: tensor[rows] for name, tensor in self.items()}
        return replace(self, tensors=tensors, listing=listing, done=len(rows), skipped=[])

    def check_resumes(self, begun: Responses) -> None:
        """Make sure that this record, read from disk, was made from the same things as another that is
        about to begin.

        Raises:
            RecordError: it was not; the message says what differs.
        """
        check_resumes(self, begun)

    @classmethod
    def load(cls, folder: str | Path) -> Responses:
        """Read what ``responses(..., out=folder)`` wrote; the arrays are read when they are used.

        Raises:
            RecordError: nothing is there, or it is damaged, or of another schema.
        """
        path = Path(folder) / MANIFEST
        try:
            manifest = Entry(json.loads(path.read_bytes()))
            check_schema(path, manifest, SCHEMA, "compute the responses again")
            return _unpacked(manifest, path.parent)
        except FeatvizError:
            raise
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise RecordError(f"no responses in {str(folder)!r}: {missing} is missing") from None
        except DAMAGED as error:
            raise RecordError(
                f"the responses in {str(folder)!r} are damaged ({first_line(error)}): "
                "compute them again",
                "fresh",
            ) from error


def array_name(i: int) -> str:
    """The name of the file of layer i."""
    return f"responses-{i:02d}.npy"


def save_manifest(result: Responses, folder: Path) -> Path:
    """Write the manifest beside the arrays, which have to be on the disk by then."""
    entries = []
    for i, (name, tensor) in enumerate(result.items()):
        array = {"file": array_name(i), "dtype": _name(tensor), "shape": list(tensor.shape)}
        entries.append(layer_to_json(result.layers[name]) | {"array": array})
    manifest = {
        "schema": SCHEMA,
        "done": result.done,
        "complete": result.complete,
        "identity": result.identity,
        "layers": entries,
        "listing": save_listing(result.listing, folder),
        "input_shape": result.listing.input_shape,
        "skipped": [asdict(entry) for entry in result.skipped],
    }
    manifest |= {"checksum": checksum(manifest)}
    path = write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1))
    remove_older_listings(folder, str(manifest["listing"]))
    return path


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _unpacked(manifest: Entry, folder: Path) -> Responses:
    """The responses that a manifest and its arrays describe, each field checked."""
    listing = stored_listing(folder, manifest)
    done = manifest.take("done", fields.integer(0, len(listing)))
    skipped = skipped_from(manifest, listing, [(0, done)])
    tensors, layers = {}, {}
    for entry in manifest.take("layers", fields.list_of(fields.entry)):
        layer = layer_from(entry)
        layers[layer.name] = layer
        tensors[layer.name] = _array(entry.take("array", fields.entry), folder, len(listing))
    identity = check_fingerprints(manifest)
    identity.take("reduce", fields.text)
    if identity.value["layers"] != list(layers):
        raise ValueError("identity.layers are not the layers")
    check_written(manifest)
    return Responses(tensors, layers, listing, {"forward": None, **identity.value}, done, skipped)


def _array(entry: Entry, folder: Path, n: int) -> Tensor:
    """The array of a layer, if it is one that was written."""
    tensor = mapped(folder / entry.take("file", fields.matching(ARRAY_NAME.pattern)))
    expected = (
        entry.take("dtype", fields.text),
        entry.take("shape", fields.list_of(fields.integer())),
    )
    if (_name(tensor), list(tensor.shape)) != expected or len(tensor) != n:
        raise ValueError(f"{entry.value['file']} holds {_name(tensor)} {tuple(tensor.shape)}")
    return tensor
