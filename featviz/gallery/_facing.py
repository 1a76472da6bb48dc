"""Which layers and units of several galleries face each other: of the same number, or those that respond
most alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featviz.errors import RecordError, first_line
from featviz.gallery import site
from featviz.measures import cka_matrix, match_units
from featviz.records._arrays import DAMAGED
from featviz.records.correlation import common_rows
from featviz.records.image_sample import ImageSample

Record = dict[str, Any]


@dataclass(frozen=True)
class Gallery:
    """One of the galleries.

    Attributes:
        letter: its folder in the comparison, from ``a`` on.
        folder: where it is.
        record: what it says of itself.
        title: at the head of its side.
    """

    letter: str
    folder: Path
    record: Record
    title: str

    @property
    def layers(self) -> dict[str, Record]:
        """The record's layers by name."""
        return {layer["name"]: layer for layer in self.record["layers"]}

    def shown(self, name: str) -> list[int]:
        """The units of a layer that it shows."""
        return [row[0] for row in self.layers[name]["index"]]

    def maxima(self, name: str) -> ImageSample:
        """The maxima of a layer's units.

        Raises:
            RecordError: they are damaged, or missing.
        """
        layer = self.layers[name]
        path = self.folder / layer["folder"] / site.MAXIMA
        try:
            with np.load(path, allow_pickle=False) as arrays:
                images = self.record["about"]["images"]
                return ImageSample.from_arrays(dict(arrays), layer["channels"], images)
        except DAMAGED as error:
            raise RecordError(
                f"the gallery in {str(self.folder)!r} is damaged "
                f"(layer {name!r}: {first_line(error)}): make it again"
            ) from error


@dataclass(frozen=True)
class Facing:
    """A layer of each gallery, and the units of each that are side by side.

    Attributes:
        layers: its name in each gallery.
        units: of each gallery, in the order of the first's; None where no unit of it is left.
        correlations: of each gallery, of each unit with the first's; None: where there is none, and all
            of them where units are those of the same number.
    """

    layers: list[str]
    units: list[list[int | None]]
    correlations: list[list[float | None]]


def by_number(galleries: Sequence[Gallery]) -> list[Facing]:
    """The layers that all have under one name, with as many units, and the units that all show.

    Raises:
        RecordError: there are none.
    """
    first, *others = galleries
    facing = []
    for name, layer in first.layers.items():
        sizes = [other.layers.get(name, {}).get("channels") for other in others]
        if set(sizes) != {layer["channels"]}:
            continue
        common = set(first.shown(name)).intersection(*(other.shown(name) for other in others))
        if common:
            units: list[int | None] = [unit for unit in first.shown(name) if unit in common]
            none: list[float | None] = [None] * len(units)
            n = len(galleries)
            facing.append(Facing([name] * n, [units] * n, [none] * n))
    if not facing:
        raise RecordError(
            f"{_named(galleries)} have no layer of the same name and channels in common, or show no "
            "unit in common"
        )
    return facing


def by_response(galleries: Sequence[Gallery]) -> list[Facing]:
    """The layers of the first beside those of the same name, or where there are none beside those that
    are most alike; and their units beside those that respond most alike.

    Raises:
        RecordError: no layer of the first faces one of each other.
    """
    first, *others = galleries
    names = [_layers_facing(first, other) for other in others]
    facing = []
    for name in first.layers:
        if all(name in of_other for of_other in names):
            layers = [name, *(of_other[name] for of_other in names)]
            facing.append(_matched(galleries, layers))
    if not facing:
        raise RecordError(f"{_named(galleries)} have no layer of the same name in common")
    return facing


def _layers_facing(first: Gallery, other: Gallery) -> dict[str, str]:
    """By layer of the first, that of the other: of the same name, or if there is none the most alike."""
    common = {name: name for name in first.layers if name in other.layers}
    if common:
        return common
    own, theirs = list(first.layers), list(other.layers)
    firsts, seconds = _common_maxima(first, own, other, theirs)
    alike = cka_matrix(firsts, seconds).nan_to_num(nan=-1.0)
    return {name: theirs[int(row.argmax())] for name, row in zip(own, alike, strict=True)}


def _common_maxima(
    first: Gallery, own: list[str], second: Gallery, theirs: list[str]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The maxima of layers of two galleries on the images of both, in one order."""
    samples = [first.maxima(name) for name in own]
    others = [second.maxima(name) for name in theirs]
    rows = [common_rows(sample, others[0])[0] for sample in samples]
    other_rows = [common_rows(samples[0], sample)[1] for sample in others]
    return dict(zip(own, rows, strict=True)), dict(zip(theirs, other_rows, strict=True))


def _matched(galleries: Sequence[Gallery], layers: list[str]) -> Facing:
    """The units of a layer of each gallery, matched with those of the first: the living with the living."""
    first, *others = galleries
    shown = first.shown(layers[0])
    sample = first.maxima(layers[0])
    units: list[list[int | None]] = [list(shown)]
    correlations: list[list[float | None]] = [[None] * len(shown)]
    for other, name in zip(others, layers[1:], strict=True):
        theirs = other.shown(name)
        rows, other_rows = common_rows(sample, other.maxima(name))
        matching = match_units(
            _of_shown(first, layers[0], rows), _of_shown(other, name, other_rows)
        )
        units.append([None if i < 0 else theirs[i] for i in matching.units.tolist()])
        pairs = zip(matching.units.tolist(), matching.correlations.tolist(), strict=True)
        correlations.append([None if i < 0 else round(value, 3) for i, value in pairs])
    return Facing(layers, units, correlations)


def _of_shown(gallery: Gallery, name: str, scores: Tensor) -> Tensor:
    """The scores (images, units) of the units of a layer that a gallery shows. Those of dead ones, which
    have no exemplars, are 0: what does not vary is matched with none."""
    living = torch.tensor([bool(images) for _, _, images in gallery.layers[name]["index"]])
    return torch.where(living, scores[:, gallery.shown(name)], scores.new_zeros(()))


def _named(galleries: Sequence[Gallery]) -> str:
    return " and ".join(repr(str(gallery.folder)) for gallery in galleries)
