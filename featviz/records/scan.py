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
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featviz.errors import FeatvizError, LayerError, RecordError, did_you_mean
from featviz.files import write_atomic
from featviz.geometry import Box, Number, ReceptiveField
from featviz.records.statistics import Statistics
from featviz.records.topk import TopK
from featviz.units import Layer

SCHEMA = 2
MANIFEST = "scan.json"
_ARRAYS_NAME = re.compile(r"scan-[0-9a-f]{16}\.npz")


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read, and why.

    Example:
        >>> from featviz import Skipped
        >>> Skipped("cats/1.png", "cannot identify image file").key
        'cats/1.png'
    """

    key: str
    reason: str


@dataclass(frozen=True, eq=False, repr=False)
class Listing:
    """The images that were scanned.

    Attributes:
        keys, labels: of the images that the indices of a record mean.
        input_shape: (c, h, w) of the images as the model saw them.

    Example:
        >>> from featviz import Listing
        >>> Listing(["cats/1.png", "dogs/1.png"], ["cats", "dogs"], (3, 224, 224))
        <Listing of 2 images of 3x224x224>
    """

    keys: list[str]
    labels: list[str | None]
    input_shape: tuple[int, int, int]

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
            if earlier.get(key) != value:
                differences.append(f"{key} was {_short(earlier.get(key))}, is {_short(value)}")
        if differences:
            raise RecordError(
                f"the scan on disk was made from something else: {'; '.join(differences)}. "
                "Choose another folder, or begin afresh",
                "out",
                "fresh",
            )

    def save(self, folder: str | Path) -> Path:
        """Write ``scan.json`` and its arrays to ``folder``; what was there before stays intact until
        the new is complete.

        Returns:
            The path of ``scan.json``.
        """
        folder = Path(folder)
        data = _packed(self)
        arrays = f"scan-{hashlib.sha256(data).hexdigest()[:16]}.npz"
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
            manifest = json.loads(path.read_bytes())
            _check_schema(path, manifest)
            stored = path.parent / manifest["arrays"]
            # numpy leaves a file open that is no archive: it is opened, and closed, here
            with stored.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = dict(archive)
            return _unpacked(manifest, arrays)
        except FeatvizError:
            raise
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise RecordError(f"no scan in {str(folder)!r}: {missing} is missing") from None
        except _DAMAGED as error:
            reason = f"{type(error).__name__}: {error}"
            raise RecordError(
                f"the scan in {str(folder)!r} is damaged ({reason}): scan again", "fresh"
            ) from error


_DAMAGED = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OSError,
    EOFError,
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
    return {
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
    }


def _check_schema(path: Path, manifest: dict[str, Any]) -> None:
    if manifest["schema"] != SCHEMA:
        raise RecordError(
            f"{str(path)!r} has schema {manifest['schema']}, this version reads {SCHEMA}: scan again",
            "fresh",
        )


def _unpacked(manifest: dict[str, Any], arrays: dict[str, Any]) -> Scan:
    """The scan that a manifest and its arrays describe."""
    listing = Listing(manifest["keys"], manifest["labels"], tuple(manifest["input_shape"]))
    layers = {}
    for i, entry in enumerate(manifest["layers"]):
        prefix = f"{i}."
        own = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        layer = _layer_from_json(entry)
        statistics = Statistics.from_arrays(manifest["counts"][i], own)
        layers[layer.name] = LayerScan(layer, TopK.from_arrays(own), statistics, listing)
    scan = Scan(
        layers,
        listing,
        manifest["identity"],
        manifest["done"],
        [Skipped(**entry) for entry in manifest["skipped"]],
        manifest["sources"],
    )
    _check_consistent(scan)
    return scan


def _check_consistent(scan: Scan) -> None:
    """Make sure that the manifest and the arrays speak of the same layers and images.

    Raises:
        ValueError: they do not, as after an edit or a mixture of two records.
    """
    n = len(scan.listing)
    if not scan.layers or not 0 <= scan.done <= n or len(scan.listing.labels) != n:
        raise ValueError(f"{len(scan)} layers, {scan.done} of {n} images")
    for layer_scan in scan.values():
        layer, top, statistics = layer_scan.layer, layer_scan.top, layer_scan.statistics
        rows = {len(top.scores), *(len(array) for array in statistics.arrays().values())}
        if rows != {layer.channels} or top.k != scan.k:
            raise ValueError(f"layer {layer.name!r} has {layer.channels} units, its arrays {rows}")
        if top.images.numel() and int(top.images.max()) >= n:
            raise ValueError(f"layer {layer.name!r} has exemplars beyond the {n} images")


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


def _layer_from_json(entry: Mapping[str, Any]) -> Layer:
    entry_field = entry["field"]
    receptive_field = ReceptiveField(
        size=tuple(entry_field["size"]),
        stride=_fractions(entry_field["stride"]),
        padding=_fractions(entry_field["padding"]),
        extent=Box(*entry_field["extent"]),
        kind=entry_field["kind"],
        resampled=entry_field["resampled"],
    )
    return Layer(
        name=entry["name"],
        call=entry["call"],
        kind=entry["kind"],
        shape=tuple(entry["shape"]),
        field=receptive_field,
        kernel=_pair(entry["kernel"]),
        stride=_pair(entry["stride"]),
        parameters=entry["parameters"],
        elements=entry["elements"],
        is_convolution=entry["is_convolution"],
        layout=entry["layout"],
        refusal=entry["refusal"],
    )


def _fractions(texts: list[str]) -> tuple[Number, Number]:
    y, x = (Fraction(text) for text in texts)
    return _plain(y), _plain(x)


def _plain(number: Fraction) -> Number:
    return number.numerator if number.denominator == 1 else number


def _pair(value: Any) -> tuple[int, int] | None:
    return None if value is None else (value[0], value[1])
