"""What a scan finds, and how it lies on disk: a JSON manifest beside one file of arrays, each moved
into place when whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from featviz.errors import LayerError, RecordError, did_you_mean
from featviz.fields import LayerInfo
from featviz.geometry import Box, ReceptiveField
from featviz.topk import TopK

SCHEMA = 1
MANIFEST = "scan.json"
_OCTAVES = (-16, 16)
BINS = 2 + 4 * (_OCTAVES[1] - _OCTAVES[0])
"""Bins of a histogram: not above zero; below 2**-16; then four to each doubling, the last without
an end.
"""


@dataclass(frozen=True)
class Statistics:
    """Of each of c units, over the images of a scan; an image counts with the maximum of its map.

    Attributes:
        count: number of images.
        total: (c,) float64, the sum of the maxima. (Sums of other orders can differ in the last
            bits.)
        maximum: (c,) float32.
        active: (c,) int64, how many images have a maximum above zero.
        histogram: (c, BINS) int64, how many images have a maximum in each bin; ``bin_edges`` gives
            the bins.
    """

    count: int
    total: Tensor
    maximum: Tensor
    active: Tensor
    histogram: Tensor

    @classmethod
    def empty(cls, channels: int) -> Statistics:
        zeros = torch.zeros(channels, dtype=torch.int64)
        return cls(
            0,
            zeros.double(),
            torch.full((channels,), -torch.inf),
            zeros,
            torch.zeros(channels, BINS, dtype=torch.int64),
        )

    def update(self, peaks: Tensor) -> Statistics:
        """These, and the maxima (n, c) of a batch."""
        peaks = peaks.detach().float().cpu()
        counts = torch.zeros_like(self.histogram).scatter_add_(
            1, _bins(peaks.T), torch.ones_like(peaks.T, dtype=torch.int64)
        )
        return Statistics(
            self.count + len(peaks),
            self.total + peaks.double().sum(dim=0),
            torch.maximum(self.maximum, peaks.amax(dim=0)),
            self.active + (peaks > 0).sum(dim=0),
            self.histogram + counts,
        )

    def merge(self, other: Statistics) -> Statistics:
        """These and those of other images."""
        return Statistics(
            self.count + other.count,
            self.total + other.total,
            torch.maximum(self.maximum, other.maximum),
            self.active + other.active,
            self.histogram + other.histogram,
        )

    @property
    def mean(self) -> Tensor:
        """(c,) float32, of the maxima."""
        return (self.total / max(self.count, 1)).float()

    @property
    def fraction_active(self) -> Tensor:
        """(c,) float32, the share of images that activate the unit."""
        return self.active / max(self.count, 1)

    @property
    def dead(self) -> Tensor:
        """(c,) bool: no position of any image is above zero."""
        return self.active == 0


def _bins(values: Tensor) -> Tensor:
    finite = values.clamp(
        max=torch.finfo(values.dtype).max
    )  # so that infinity falls in the last bin
    mantissa, exponent = torch.frexp(
        finite
    )  # values = mantissa * 2**exponent, mantissa from 1/2 to 1
    quarter = ((mantissa - 0.5) * 8).floor().long().clamp(0, 3)
    bins = 2 + (exponent.long() - 1 - _OCTAVES[0]) * 4 + quarter
    return torch.where(values <= 0, 0, bins.clamp(1, BINS - 1))


def bin_edges() -> np.ndarray[Any, Any]:
    """The lower edges of bins 1 to BINS - 1 of a histogram: 0, then four to each doubling from
    2**-16.
    """
    octaves = np.arange(_OCTAVES[0], _OCTAVES[1])
    return np.concatenate([[0.0], (2.0 ** octaves[:, None] * (1 + np.arange(4) / 4)).ravel()])


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Scan:
    """The exemplars of every unit of several layers, with statistics per unit, from one pass over a
    data set.

    Attributes:
        top: the k strongest exemplars of each layer's units, by layer name.
        statistics: per layer.
        layers: what each layer is, its receptive field included.
        keys, labels: of the images that the indices in ``top`` mean.
        input_shape: (c, h, w) of the images as the model saw them.
        identity: fingerprints of what the scan was made from: ``model``, ``images``,
            ``preprocess``, ``layers``, ``k``.
        done: images looked at so far; ``complete`` says whether these are all.
        skipped: images that could not be read.
        sources: free text about model, weights and data, for titles.
    """

    top: dict[str, TopK]
    statistics: dict[str, Statistics]
    layers: dict[str, LayerInfo]
    keys: list[str]
    labels: list[str | None]
    input_shape: tuple[int, int, int]
    identity: dict[str, Any]
    done: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return self.done == len(self.keys)

    @property
    def k(self) -> int:
        return next(iter(self.top.values())).k

    def layer(self, name: str) -> str:
        """``name`` if this scan has such a layer.

        Raises:
            LayerError: it does not.
        """
        if name not in self.top:
            raise LayerError(f"layer {name!r} is not in the scan{did_you_mean(name, self.top)}")
        return name

    def save(self, folder: str | Path) -> Path:
        """Write ``scan.json`` and its arrays to ``folder``; what was there before stays whole until
        the new is.

        Returns:
            The path of ``scan.json``.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {}
        for i, name in enumerate(self.top):
            arrays |= {f"{i}.{key}": value for key, value in self.top[name].arrays().items()}
            arrays |= {
                f"{i}.{key}": getattr(self.statistics[name], key).numpy() for key in _STATISTICS
            }
        buffer = BytesIO()
        np.savez_compressed(buffer, **arrays)
        data = f"scan-{hashlib.sha256(buffer.getvalue()).hexdigest()[:16]}.npz"
        _write(folder / data, buffer.getvalue())
        manifest = {
            "schema": SCHEMA,
            "arrays": data,
            "done": self.done,
            "complete": self.complete,
            "identity": self.identity,
            "sources": self.sources,
            "input_shape": self.input_shape,
            "skipped": [asdict(s) for s in self.skipped],
            "counts": [s.count for s in self.statistics.values()],
            "layers": [_layer_to_json(info) for info in self.layers.values()],
            "keys": self.keys,
            "labels": self.labels,
        }
        _write(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
        for old in folder.glob("scan-*.npz"):
            if old.name != data and re.fullmatch(r"scan-[0-9a-f]{16}\.npz", old.name):
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
            if manifest["schema"] != SCHEMA:
                raise RecordError(
                    f"{str(path)!r} has schema {manifest['schema']}, this version reads {SCHEMA}: scan again (--fresh)"
                )
            with (
                (path.parent / manifest["arrays"]).open("rb") as file,
                np.load(file, allow_pickle=False) as data,
            ):
                arrays = dict(data)
            infos = [_layer_from_json(entry) for entry in manifest["layers"]]
            top, statistics = {}, {}
            for i, (info, count) in enumerate(zip(infos, manifest["counts"], strict=True)):
                mine = {
                    key.partition(".")[2]: value
                    for key, value in arrays.items()
                    if key.partition(".")[0] == str(i)
                }
                top[info.name] = TopK.from_arrays(mine)
                statistics[info.name] = Statistics(
                    count, *(torch.from_numpy(mine[key]) for key in _STATISTICS)
                )
            return cls(
                top,
                statistics,
                {info.name: info for info in infos},
                manifest["keys"],
                manifest["labels"],
                tuple(manifest["input_shape"]),
                manifest["identity"],
                manifest["done"],
                [Skipped(**s) for s in manifest["skipped"]],
                manifest["sources"],
            )
        except FileNotFoundError as error:
            raise RecordError(
                f"no scan in {str(folder)!r}: {Path(error.filename).name} is missing"
            ) from None
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            OSError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise RecordError(
                f"the scan in {str(folder)!r} is damaged ({type(error).__name__}: {error}): scan again (--fresh)"
            ) from error

    def resumes(self, fresh: Scan) -> None:
        """Make sure that this record, read from disk, was made from the same things as a scan about
        to begin.

        Raises:
            RecordError: it was not; the message says what differs.
        """
        differ = [key for key in fresh.identity if self.identity.get(key) != fresh.identity[key]]
        if differ:
            what = "; ".join(
                f"{key} was {_short(self.identity.get(key))}, is {_short(fresh.identity[key])}"
                for key in differ
            )
            raise RecordError(
                f"the scan on disk was made from something else: {what}. Choose another folder (--out), or start afresh (--fresh)"
            )

    def advanced(
        self,
        top: dict[str, TopK],
        statistics: dict[str, Statistics],
        done: int,
        skipped: list[Skipped],
    ) -> Scan:
        """This scan after more images."""
        return replace(self, top=top, statistics=statistics, done=done, skipped=skipped)


_STATISTICS = ("total", "maximum", "active", "histogram")


def weights_fingerprint(model: nn.Module) -> str:
    """A hash of a model's parameters and buffers, names and bits."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
            digest.update(
                value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            )
    return digest.hexdigest()[:16]


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_bytes(data)
    partial.replace(path)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _layer_to_json(info: LayerInfo) -> dict[str, Any]:
    entry = asdict(info)
    for key in ("stride", "padding"):
        entry["field"][key] = [str(number) for number in entry["field"][key]]
    return entry


def _layer_from_json(entry: Mapping[str, Any]) -> LayerInfo:
    seen = entry["field"]
    numbers = {
        key: tuple(int(n) if "/" not in n else Fraction(n) for n in seen[key])
        for key in ("stride", "padding")
    }
    field = ReceptiveField(
        tuple(seen["size"]),
        numbers["stride"],
        numbers["padding"],
        Box(*seen["extent"]),
        seen["kind"],
        seen["resampled"],  # type: ignore[arg-type]
    )
    return LayerInfo(
        name=entry["name"],
        call=entry["call"],
        kind=entry["kind"],
        shape=tuple(entry["shape"]),
        field=field,
        kernel=_pair(entry["kernel"]),
        stride=_pair(entry["stride"]),
        parameters=entry["parameters"],
        numbers=entry["numbers"],
    )


def _pair(value: Any) -> tuple[int, int] | None:
    return None if value is None else (value[0], value[1])
