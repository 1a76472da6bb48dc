"""What a scan leaves behind, and how it lies on disk: a JSON manifest beside one file of arrays, each
moved into place when it is complete."""

from __future__ import annotations

import hashlib
import json
import random
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from featviz.errors import FeatvizError, LayerError, RecordError, did_you_mean, first_line
from featviz.files import write_atomic
from featviz.geometry import Box, Kind, Number, ReceptiveField
from featviz.records import _fields as fields
from featviz.records._fields import Entry
from featviz.records.statistics import Statistics
from featviz.records.topk import NONE, TopK
from featviz.units import Layer, Layout

SCHEMA = 3
MANIFEST = "scan.json"
_ARRAYS_NAME = re.compile(r"scan-[0-9a-f]{16}\.npz")


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
    """The images that were scanned.

    Attributes:
        keys, labels: of the images that the indices of a record mean.
        input_shape: (c, h, w) of the images as the model saw them.
        stamps: size and time of change of each file; empty text where images are no files.

    Example:
        >>> from featviz import Listing
        >>> Listing(["cats/1.png", "dogs/1.png"], ["cats", "dogs"], (3, 224, 224))
        <Listing of 2 images of 3x224x224>
    """

    keys: list[str]
    labels: list[str | None]
    input_shape: tuple[int, int, int]
    stamps: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.stamps:
            object.__setattr__(self, "stamps", [""] * len(self.keys))

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.input_shape))
        return f"<Listing of {len(self)} images of {size}>"


@dataclass(frozen=True, eq=False, repr=False)
class LayerScan:
    """One layer of a scan.

    Attributes:
        layer: what it is, its receptive field included.
        top: the k strongest exemplars of each of its units.
        statistics: of each of its units.
        listing: the images that the indices in ``top`` mean.

    Example:
        >>> from featviz import load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> images = open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> result = scan(load_model("zfmini"), images, "conv1, conv2", k=3)
        >>> conv2 = result["conv2"]
        >>> sorted(conv2.rows()[0])
        ['image', 'key', 'label', 'layer', 'rank', 'score', 'unit', 'x', 'y']
        >>> conv2.top.k, conv2.statistics.count
        (3, 8)
    """

    layer: Layer
    top: TopK
    statistics: Statistics
    listing: Listing

    def __repr__(self) -> str:
        units = f"{self.layer.channels} units, {int(self.statistics.dead.sum())} dead"
        return f"<LayerScan of {self.layer}: {units}, {self.statistics.count} images>"

    def strongest(self, channels: list[int] | None = None) -> list[int]:
        """Channels by their strongest response, strongest first; None: of all."""
        maximum = self.statistics.maximum.tolist()
        some = range(len(maximum)) if channels is None else channels
        return sorted(some, key=lambda channel: (-maximum[channel], channel))

    def sample(self, n: int, seed: int = 0) -> list[int]:
        """n random channels of those that some image activates, ascending: all of these if there are
        no more, and of all channels if none lives. A layer's choice depends on its name and the seed
        alone."""
        living = (~self.statistics.dead).nonzero().flatten().tolist()
        if not living:
            living = list(range(self.layer.channels))
        chosen = random.Random(f"{seed} {self.layer}").sample(living, min(n, len(living)))
        return sorted(chosen)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each exemplar, for a table: layer, unit, rank, score, image, key, label, y, x."""
        rows = []
        for channel in range(self.layer.channels):
            for rank in range(self.top.k):
                image = int(self.top.images[channel, rank])
                if image >= 0:
                    rows.append(self._row(channel, rank, image))
        return rows

    def _row(self, channel: int, rank: int, image: int) -> dict[str, Any]:
        y, x = self.top.positions[channel, rank].tolist()
        return {
            "layer": self.layer.name,
            "unit": channel,
            "rank": rank + 1,
            "score": float(self.top.scores[channel, rank]),
            "image": image,
            "key": self.listing.keys[image],
            "label": self.listing.labels[image],
            "y": y,
            "x": x,
        }


@dataclass(frozen=True, eq=False, repr=False)
class Scan(Mapping[str, LayerScan]):
    """The exemplars of every unit of several layers, with statistics per unit, from one pass over a
    data set: a mapping from each layer's name to its `LayerScan`.

    Attributes:
        layers: by name.
        listing: the images.
        identity: fingerprints of what the scan was made from: ``model``, ``images``,
            ``preprocess``, ``layers``, ``k``.
        done: images looked at so far; ``complete`` says whether these are all.
        skipped: images that could not be read.
        sources: free text about model, weights and data, for titles.

    Example:
        >>> from featviz import load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> images = open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> result = scan(load_model("zfmini"), images, "conv1, conv2", k=3)
        >>> list(result), result["conv2"].layer.shape, result.complete
        (['conv1', 'conv2'], (48, 21, 21), True)
    """

    layers: dict[str, LayerScan]
    listing: Listing
    identity: dict[str, Any]
    done: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> LayerScan:
        try:
            return self.layers[str(name)]
        except KeyError:
            nearest = did_you_mean(str(name), self.layers)
            raise LayerError(f"layer {str(name)!r} is not in the scan{nearest}") from None

    def get(self, name: str, default: Any = None) -> Any:
        """The layer's scan, or ``default`` where there is none."""
        # the one of Mapping expects a KeyError, whose messages would show with quotes around them
        return self.layers.get(str(name), default)

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __contains__(self, name: object) -> bool:
        return str(name) in self.layers  # a layer stands for its name

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __repr__(self) -> str:
        units = sum(layer_scan.layer.channels for layer_scan in self.values())
        images = f"{self.done} of {len(self.listing)} images"
        return f"<Scan of {len(self)} layers, {units} units, k={self.k}, {images}>"

    def _repr_html_(self) -> str:
        rows = "".join(_html_row(layer_scan) for layer_scan in self.values())
        heads = ("layer", "kind", "units", "dead", "receptive field", "mean response")
        head = "".join(f"<th>{name}</th>" for name in heads)
        return f"<p>{escape(repr(self))}</p><table><tr>{head}</tr>{rows}</table>"

    @property
    def complete(self) -> bool:
        """Whether every image was looked at."""
        return self.done == len(self.listing)

    @property
    def k(self) -> int:
        """Exemplars of each unit."""
        return next(iter(self.values())).top.k

    def rows(self) -> list[dict[str, Any]]:
        """A row for each exemplar of every layer, for a table; see `LayerScan.rows`."""
        rows = []
        for layer_scan in self.values():
            rows += layer_scan.rows()
        return rows

    def with_progress(
        self,
        top: Mapping[str, TopK],
        statistics: Mapping[str, Statistics],
        done: int,
        skipped: list[Skipped],
    ) -> Scan:
        """This scan after more images."""
        layers = {
            name: replace(layer_scan, top=top[name], statistics=statistics[name])
            for name, layer_scan in self.items()
        }
        return replace(self, layers=layers, done=done, skipped=skipped)

    def check_resumes(self, begun: Scan) -> None:
        """Make sure that this record, read from disk, was made from the same things as a scan that
        is about to begin.

        Raises:
            RecordError: it was not; the message says what differs.
        """
        # images of the same names can come in another size
        earlier = self.identity | {"input_shape": self.listing.input_shape}
        differences = []
        for key, value in (begun.identity | {"input_shape": begun.listing.input_shape}).items():
            if key == "images" and self.listing.keys == begun.listing.keys:
                differences += self._changes(begun)
            elif earlier.get(key) != value:
                differences.append(f"{key} was {_short(earlier.get(key))}, is {_short(value)}")
        if differences:
            raise RecordError(
                f"the scan on disk was made from something else: {'; '.join(differences)}. "
                "Choose another folder, or begin afresh",
                "out",
                "fresh",
            )

    def _changes(self, begun: Scan) -> list[str]:
        """In words, how many of the images that this scan has looked at are others by now."""
        skipped = {entry.index for entry in self.skipped}
        changed = [i for i in self._changed(begun) if i < self.done and i not in skipped]
        if not changed:
            return []
        first = self.listing.keys[changed[0]]
        return [f"{len(changed)} of its images have changed since, the first {first!r}"]

    def _changed(self, begun: Scan) -> list[int]:
        stamps = zip(self.listing.stamps, begun.listing.stamps, strict=True)
        return [i for i, (earlier, now) in enumerate(stamps) if earlier != now]

    def stale(self, begun: Scan) -> list[int]:
        """The images that could not be read when this scan looked at them and have changed since."""
        changed = set(self._changed(begun))
        return [skipped.index for skipped in self.skipped if skipped.index in changed]

    def renewed(self, begun: Scan) -> Scan:
        """This record with the files as a scan that is about to begin has them."""
        listing = replace(self.listing, stamps=begun.listing.stamps)
        layers = {name: replace(scan, listing=listing) for name, scan in self.items()}
        return replace(self, layers=layers, listing=listing, identity=begun.identity)

    def save(self, folder: str | Path) -> Path:
        """Write ``scan.json`` and its arrays to ``folder``; what was there before stays intact until
        the new is complete.

        Returns:
            The path of ``scan.json``.
        """
        folder = Path(folder)
        data = _packed(self)
        arrays = _arrays_name(data)
        write_atomic(folder / arrays, data)
        write_atomic(folder / MANIFEST, json.dumps(_manifest(self, arrays), indent=1))
        for old in folder.glob("scan-*.npz"):
            if old.name != arrays and _ARRAYS_NAME.fullmatch(old.name):
                old.unlink()
        return folder / MANIFEST

    @classmethod
    def load(cls, folder: str | Path) -> Scan:
        """Read what ``save`` wrote.

        Raises:
            RecordError: nothing is there, or it is damaged, or of another schema.
        """
        path = Path(folder) / MANIFEST
        try:
            manifest = fields.Entry(json.loads(path.read_bytes()))
            _check_schema(path, manifest)
            return _unpacked(manifest, _stored_arrays(path.parent, manifest))
        except FeatvizError:
            raise
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise RecordError(f"no scan in {str(folder)!r}: {missing} is missing") from None
        except _DAMAGED as error:
            reason = first_line(error)
            raise RecordError(
                f"the scan in {str(folder)!r} is damaged ({reason}): scan again", "fresh"
            ) from error


_DAMAGED = (
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


def _html_row(layer_scan: LayerScan) -> str:
    layer, statistics = layer_scan.layer, layer_scan.statistics
    mean = float(statistics.mean.mean())
    cells = (
        layer.name,
        layer.kind,
        layer.channels,
        int(statistics.dead.sum()),
        layer.field,
        f"{mean:.3g}",
    )
    return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"


def _packed(scan: Scan) -> bytes:
    """All arrays of a scan as one ``.npz`` file; a layer's names begin with its number."""
    arrays: dict[str, Any] = {}
    for i, layer_scan in enumerate(scan.values()):
        own = layer_scan.top.arrays() | layer_scan.statistics.arrays()
        arrays |= {f"{i}.{name}": value for name, value in own.items()}
    buffer = BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _manifest(scan: Scan, arrays: str) -> dict[str, Any]:
    manifest = {
        "schema": SCHEMA,
        "arrays": arrays,
        "done": scan.done,
        "complete": scan.complete,
        "identity": scan.identity,
        "sources": scan.sources,
        "input_shape": scan.listing.input_shape,
        "skipped": [asdict(skipped) for skipped in scan.skipped],
        "counts": [layer_scan.statistics.count for layer_scan in scan.values()],
        "layers": [_layer_to_json(layer_scan.layer) for layer_scan in scan.values()],
        "keys": scan.listing.keys,
        "labels": scan.listing.labels,
        "stamps": scan.listing.stamps if any(scan.listing.stamps) else [],
    }
    return manifest | {"checksum": _checksum(manifest)}


def _checksum(manifest: Mapping[str, Any]) -> str:
    """A hash of a manifest but for the checksum itself."""
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return _hash(json.dumps(rest, sort_keys=True).encode())


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _check_schema(path: Path, manifest: Entry) -> None:
    schema = manifest.value["schema"]
    if schema != SCHEMA or isinstance(schema, bool):
        raise RecordError(
            f"{str(path)!r} has schema {_short(schema)}, this version reads {SCHEMA}: scan again",
            "fresh",
        )


def _stored_arrays(folder: Path, manifest: Entry) -> dict[str, Any]:
    """The arrays that a manifest speaks of, if they are those that were written."""
    name = manifest.take("arrays", fields.text)
    if _ARRAYS_NAME.fullmatch(name) is None:
        raise fields.wrong("arrays", name, "the name of a file such as scan-0123456789abcdef.npz")
    data = (folder / name).read_bytes()
    if name != _arrays_name(data):
        raise ValueError(f"{name} is not as it was written: its hash is another")
    with np.load(BytesIO(data), allow_pickle=False) as archive:
        return dict(archive)


def _arrays_name(data: bytes) -> str:
    return f"scan-{_hash(data)}.npz"


def _unpacked(manifest: Entry, arrays: dict[str, Any]) -> Scan:
    """The scan that a manifest and its arrays describe, each field checked."""
    listing = _listing_from(manifest)
    done = manifest.take("done", fields.integer(0, len(listing)))
    skipped = [_skipped_from(e, listing) for e in manifest.take("skipped", _entries)]
    indices = [entry.index for entry in skipped]
    if indices != sorted(set(indices)) or (indices and indices[-1] >= done):
        raise ValueError(f"skipped names images that are not among the first {done}, each once")
    chosen = [_layer_from(entry) for entry in manifest.take("layers", _entries)]
    names = [layer.name for layer in chosen]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"layers are {', '.join(names) or 'none'}: each has to be there once")
    k, identity = _identity_from(manifest, names)
    counts = manifest.take("counts", fields.list_of(fields.integer(0, len(listing)), len(chosen)))
    if set(counts) != {done - len(skipped)}:
        raise ValueError(f"counts are {counts}, of {done} images less {len(skipped)} skipped")
    layers = {}
    for i, layer in enumerate(chosen):
        own = _own_arrays(arrays, i)
        _check_arrays(layer, own, k, done)
        statistics = Statistics.from_arrays(counts[i], own)
        layers[layer.name] = LayerScan(layer, TopK.from_arrays(own), statistics, listing)
    sources = manifest.take("sources", fields.texts)
    if manifest.take("checksum", fields.text) != _checksum(manifest.value):
        raise ValueError("the manifest is not as it was written: its checksum is another")
    return Scan(layers, listing, identity, done, skipped, sources)


def _listing_from(manifest: Entry) -> Listing:
    keys = manifest.take("keys", fields.list_of(fields.text))
    labels = manifest.take("labels", fields.list_of(fields.optional_text, len(keys)))
    stamps = manifest.take("stamps", fields.list_of(fields.text, 0, len(keys)))
    c, h, w = manifest.take("input_shape", fields.list_of(fields.integer(1), 3))
    return Listing(keys, labels, (c, h, w), stamps)


def _skipped_from(entry: Entry, listing: Listing) -> Skipped:
    key = entry.take("key", fields.text)
    reason = entry.take("reason", fields.text)
    index = entry.take("index", fields.integer(0, len(listing) - 1))
    if listing.keys[index] != key:
        raise ValueError(f"{entry.name} is of image {index}, which is {listing.keys[index]!r}")
    return Skipped(key, reason, index)


def _identity_from(manifest: Entry, names: list[str]) -> tuple[int, dict[str, Any]]:
    """k, and the fingerprints that go with these layers."""
    identity = manifest.take("identity", fields.entry)
    identity.take("model", fields.text)
    identity.take("images", fields.text)
    identity.take("preprocess", fields.entry)
    if identity.take("layers", fields.list_of(fields.text)) != names:
        raise ValueError("identity.layers are not the layers")
    return identity.take("k", fields.integer(1)), dict(identity.value)


def _own_arrays(arrays: Mapping[str, Any], i: int) -> dict[str, Any]:
    """The arrays of layer i."""
    prefix = f"{i}."
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _check_arrays(layer: Layer, arrays: Mapping[str, Any], k: int, done: int) -> None:
    """Make sure that arrays have the shapes and types of a layer's, and indices within its bounds.

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
    if ((images < NONE) | (images >= done)).any():
        raise ValueError(f"layer {layer.name!r} has exemplars that are not of the {done} images")
    if (positions[~filled] != NONE).any() or (positions[filled] < 0).any():
        raise ValueError(f"layer {layer.name!r} has positions that are none")
    if (positions[filled] >= layer.map_size).any():
        raise ValueError(f"layer {layer.name!r} has positions outside its map {layer.map_size}")
    if np.isnan(arrays["scores"]).any() or (arrays["active"] < 0).any():
        raise ValueError(f"layer {layer.name!r} has scores or counts that are none")


def weights_fingerprint(model: nn.Module) -> str:
    """A hash of a model's parameters and buffers, names and bits."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
            flat = value.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _layer_to_json(layer: Layer) -> dict[str, Any]:
    entry = asdict(layer)
    for key in ("stride", "padding"):  # whole numbers and fractions, as text
        entry["field"][key] = [str(number) for number in entry["field"][key]]
    return entry


def _layer_from(entry: Entry) -> Layer:
    size = fields.integer()
    pair = fields.optional(fields.list_of(size, 2))
    name = entry.take("name", fields.text)
    layer = Layer(
        name=name,
        call=entry.take("call", fields.text),
        kind=entry.take("kind", fields.text),
        shape=tuple(entry.take("shape", fields.list_of(fields.integer(1), 0, 1, 3))),
        field=_receptive_field_from(entry.take("field", fields.entry)),
        kernel=_pair(entry.take("kernel", pair)),
        stride=_pair(entry.take("stride", pair)),
        parameters=entry.take("parameters", size),
        elements=entry.take("elements", size),
        is_convolution=entry.take("is_convolution", fields.flag),
        layout=entry.take("layout", fields.any_of(get_args(Layout))),
        refusal=entry.take("refusal", fields.text),
    )
    if not layer.has_units:
        raise ValueError(f"{entry.name} has no units: its shape is {layer.shape}")
    return layer


def _receptive_field_from(entry: Entry) -> ReceptiveField:
    any_number = fields.integer(-(2**62))
    top, left, bottom, right = entry.take("extent", fields.list_of(any_number, 4))
    height, width = entry.take("size", fields.list_of(fields.integer(), 2))
    return ReceptiveField(
        size=(height, width),
        stride=_fractions(entry.take("stride", fields.list_of(fields.text, 2))),
        padding=_fractions(entry.take("padding", fields.list_of(fields.text, 2))),
        extent=Box(top, left, bottom, right),
        kind=entry.take("kind", fields.any_of(get_args(Kind))),
        resampled=entry.take("resampled", fields.flag),
    )


_entries = fields.list_of(fields.entry)


def _fractions(texts: list[str]) -> tuple[Number, Number]:
    y, x = (Fraction(text) for text in texts)
    return _plain(y), _plain(x)


def _plain(number: Fraction) -> Number:
    return number.numerator if number.denominator == 1 else number


def _pair(value: list[int] | None) -> tuple[int, int] | None:
    return None if value is None else (value[0], value[1])
