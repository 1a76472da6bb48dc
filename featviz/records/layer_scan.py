"""One layer of a scan: its strongest exemplars and its statistics, unit by unit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featviz.errors import UsageError
from featviz.names import QUANTILE
from featviz.precision import in_full
from featviz.records.image_sample import ImageSample
from featviz.records.listing import Listing
from featviz.records.peaks import NONE, Peaks
from featviz.records.spectrum import Spectrum
from featviz.records.statistics import Statistics
from featviz.records.topk import TopK
from featviz.units import Layer

HELD = 256
"""Images after which a scan counts what it holds, with a few operations for all of them and not for each
batch."""


def has_positions(score: str, layer: Layer) -> bool:
    """Whether a score is the value of a position of the layer's maps. A fully connected layer has one
    position, whose value its score is, unless a function makes something of it."""
    if score == "max" or score.startswith(QUANTILE):
        return True
    return not layer.has_maps and not score.startswith("function ")


@dataclass(frozen=True, eq=False, repr=False)
class LayerScan:
    """One layer of a scan.

    Attributes:
        layer: what it is, its receptive field included.
        top: the k strongest exemplars of each of its units.
        statistics: of each of its units.
        maxima: of all units on each of a seeded sample of 1,000 images, or on all if there are no more.
        listing: the images that the indices in ``top`` mean.
        score: what images are ranked by, ``max`` or as `scan` has it. Statistics are of the maxima.
        precision: what the network computed in, ``float32`` or as `scan` has it.
        spectrum: of a scan with ``spectrum=True``, what lies below the strongest.
        held: of batches that are not counted yet, while a scan runs.

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
    maxima: ImageSample
    listing: Listing
    score: str = "max"
    precision: str = "float32"
    spectrum: Spectrum | None = None
    held: tuple[Peaks, ...] = ()

    def __repr__(self) -> str:
        units = f"{self.layer.channels} units, {int(self.statistics.dead.sum())} dead"
        return f"<LayerScan of {self.layer}: {units}, {self.statistics.count} images>"

    def counting(self, maps: Tensor, images: list[int]) -> LayerScan:
        """This layer with the positions of a batch of maps counted, if it has a spectrum.

        Args:
            maps: (n, c, h, w), without NaN, in reach of Python.
            images: the index of each of the n images.
        """
        if self.spectrum is None:
            return self
        return replace(self, spectrum=self.spectrum.counting(maps, images, self.positions))

    @property
    def positions(self) -> int:
        """How many positions the maps of all images have."""
        return self.listing.positions(self.layer.map_size)

    def holding(self, peaks: Peaks) -> LayerScan:
        """This layer with the peaks of a batch of images more, which are held until there are many to be
        counted at once."""
        own = replace(self, held=(*self.held, peaks))
        n = sum(len(batch.images) for batch in own.held)
        return own.counted() if n >= HELD else own

    def counted(self) -> LayerScan:
        """The same, with nothing held."""
        if not self.held:
            return self
        with in_full():  # in which a scan may be asked for
            return self._counted()

    def _counted(self) -> LayerScan:
        peaks = Peaks.joined(self.held)
        own = replace(self, held=()).to(peaks.scores.device)
        spectrum = own.spectrum
        if spectrum is not None:
            labels = [self.listing.labels[image] for image in peaks.images]
            spectrum = spectrum.add(peaks, labels)
        return replace(
            own,
            top=own.top.add(peaks),
            statistics=own.statistics.update(peaks.maxima),
            maxima=own.maxima.update(peaks.maxima, peaks.images),
            spectrum=spectrum,
        )

    def merge(self, other: LayerScan) -> LayerScan:
        """This layer over its images and over others."""
        with in_full():
            return self._merged(other)

    def _merged(self, other: LayerScan) -> LayerScan:
        spectrum = None
        if self.spectrum is not None and other.spectrum is not None:
            spectrum = self.spectrum.merge(other.spectrum)
        return replace(
            self,
            top=self.top.merge(other.top),
            statistics=self.statistics.merge(other.statistics),
            maxima=self.maxima.merge(other.maxima),
            spectrum=spectrum,
        )

    def to(self, device: torch.device | str) -> LayerScan:
        """The same with what is counted on a device."""
        return replace(
            self,
            top=self.top.to(device),
            statistics=self.statistics.to(device),
            maxima=self.maxima.to(device),
            spectrum=None if self.spectrum is None else self.spectrum.to(device),
        )

    def arrays(self, labels: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays by name, to be saved.

        Args:
            labels: all that images may have, in order.
        """
        arrays = self.top.arrays() | self.statistics.arrays() | self.maxima.arrays()
        return arrays if self.spectrum is None else arrays | self.spectrum.arrays(labels)

    def strongest(self, channels: list[int] | None = None) -> list[int]:
        """Channels by their strongest response, strongest first; None: of all."""
        highest = self.top.scores[:, 0].tolist()
        some = range(len(highest)) if channels is None else channels
        return sorted(some, key=lambda channel: (-highest[channel], channel))

    def check_positions(self) -> None:
        """Make sure that exemplars are of positions, which can be projected.

        Raises:
            UsageError: they are ranked by a score, such as a mean, that is of no position.
        """
        if not has_positions(self.score, self.layer):
            raise UsageError(
                f"the exemplars of layer {self.layer.name!r} are ranked by {self.score}, which is of "
                "no position of the map: scan with score='max' or 'quantile:0.99', or project a unit "
                "with at='map', all of its positions",
                "score",
            )

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
            ranks = (self.top.images[channel] != NONE).nonzero().flatten().tolist()
            rows += [self.row(channel, rank) for rank in ranks]
        return rows

    def html_row(self) -> str:
        """What it is, and how its units respond, as a row of an HTML table."""
        layer, statistics = self.layer, self.statistics
        dead, mean = int(statistics.dead.sum()), f"{float(statistics.mean.mean()):.3g}"
        cells = (layer.name, layer.kind, layer.channels, dead, layer.field, mean)
        return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"

    def row(self, channel: int, rank: int) -> dict[str, Any]:
        """The exemplar of a unit at a rank, from 0, as a row of a table; its slot is not empty."""
        image = int(self.top.images[channel, rank])
        y, x = self.top.positions[channel, rank].tolist()
        if y == NONE:  # the score is of no position
            y = x = None
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
