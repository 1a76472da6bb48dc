"""Units that respond to the same images: the correlation of their maxima over a sample of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import NamedTuple

import torch
from torch import Tensor

from featviz.records.image_sample import ImageSample
from featviz.records.layer_scan import LayerScan
from featviz.units import Unit


class Correlated(NamedTuple):
    """A unit that responds to the same images as another.

    Attributes:
        unit: the other of the two.
        correlation: Pearson's, of the maxima of both over images, from -1 to 1.
    """

    unit: Unit
    correlation: float


def correlations(first: Tensor, second: Tensor) -> Tensor:
    """(c, d) float64, from -1 to 1: Pearson's correlation of each column of (n, c) with each of (n, d).
    NaN where one of the two does not vary."""
    return (_standardized(first).T @ _standardized(second)).clamp(-1, 1)


def common_rows(first: ImageSample, second: ImageSample) -> tuple[Tensor, Tensor]:
    """The scores (n, c) and (n, d) of two samples on the n images that both have, in one order."""
    if torch.equal(first.images, second.images):
        return first.scores, second.scores
    row_of = {image: row for row, image in enumerate(second.images.tolist())}
    rows = [row for row, image in enumerate(first.images.tolist()) if image in row_of]
    others = [row_of[int(first.images[row])] for row in rows]
    return first.scores[rows], second.scores[others]


@dataclass(frozen=True)
class MostCorrelated:
    """Of each of some units of a layer the n units of some layers whose maxima correlate most with
    its own.

    Attributes:
        layers: the names of these layers.
        values: (units, any up to n) float64, highest first; equal ones in the order of layers, then
            of channels. NaN in slots that no unit has filled.
        layer_of: (units, any) int64 the index of the layer of each.
        channels: (units, any) int64.
    """

    layers: list[str]
    values: Tensor
    layer_of: Tensor
    channels: Tensor

    def of(self, row: int) -> list[Correlated]:
        """Those of one of the units."""
        result = []
        for slot, value in enumerate(self.values[row].tolist()):
            if not isnan(value):
                layer = self.layers[int(self.layer_of[row, slot])]
                result.append(Correlated(Unit(layer, int(self.channels[row, slot])), value))
        return result


def most_correlated(
    own: LayerScan, channels: Sequence[int], others: Sequence[LayerScan], n: int
) -> MostCorrelated:
    """The units of other layers, or of its own, that respond to the same images as some units of a
    layer; a unit itself is not among them, nor are dead ones, which respond to none."""
    names = [other.layer.name for other in others]
    none = torch.zeros(len(channels), 0)
    best = MostCorrelated(names, none.double(), none.long(), none.long())
    for i, other in enumerate(others):
        first, second = common_rows(own.maxima, other.maxima)
        values = correlations(first[:, list(channels)], second)
        values[:, other.statistics.dead] = torch.nan
        if other.layer.name == own.layer.name:
            values[torch.arange(len(channels)), list(channels)] = torch.nan
        best = _best(best, i, values, n)
    return best


def _best(before: MostCorrelated, layer: int, values: Tensor, n: int) -> MostCorrelated:
    """The n highest of those before and of the correlations (units, d) with another layer."""
    every = torch.arange(values.shape[1]).expand(values.shape)
    of_all = torch.cat([before.values, values], dim=1)
    layers = torch.cat([before.layer_of, torch.full_like(every, layer)], dim=1)
    channels = torch.cat([before.channels, every], dim=1)
    order = of_all.nan_to_num(nan=-2.0).argsort(dim=1, descending=True, stable=True)[:, :n]
    chosen = [own.gather(1, order) for own in (of_all, layers, channels)]
    return MostCorrelated(before.layers, *chosen)


def _standardized(values: Tensor) -> Tensor:
    """Columns (n, c) less their means, as float64 of length 1; NaN where a column does not vary."""
    if not len(values):
        return torch.full((1, values.shape[1]), torch.nan, dtype=torch.float64)
    columns = values.double()
    varies = columns.amax(dim=0) > columns.amin(dim=0)
    centred = columns - columns.mean(dim=0)
    return torch.where(varies, centred / centred.norm(dim=0), torch.nan)
