"""What a scan has taken of batches on a GPU and not counted yet: of all layers side by side, since an operation on
the units of one layer takes as long there as on those of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from featviz.records.image_sample import ImageSample
from featviz.records.layer_scan import LayerScan
from featviz.records.peaks import Peaks, codes_in
from featviz.records.statistics import Statistics
from featviz.records.topk import TopK

HELD = 4096
"""Images after which what is held is counted."""
_ROOM = 2**27
"""Bytes that may be held before; while they are counted, some times as many are taken."""
_BYTES = 8
"""Of a unit and an image."""


@dataclass(frozen=True)
class Columns:
    """Which layers lie side by side.

    Attributes:
        layers: by name, in their order.
        channels, widths: of the maps of each.
    """

    layers: tuple[str, ...]
    channels: tuple[int, ...]
    widths: tuple[int, ...]

    def codes(self, first: Tensor) -> Tensor:
        """Of first positions (n, units) the codes, as of `codes_in`."""
        widths, channels = torch.tensor(self.widths), torch.tensor(self.channels)
        by_unit = widths.repeat_interleave(channels).to(first.device, non_blocking=True)
        return codes_in(first, by_unit)


@dataclass(frozen=True, eq=False)
class Taken:
    """What a scan takes of n images, of all units of its layers side by side.

    Attributes:
        peaks: of all units; their maps differ in width, which the columns say.
        columns: whose units these are.
        kinds: (units, KINDS) int64, the positions that a spectrum counts; None: there is no spectrum.
    """

    peaks: Peaks
    columns: Columns
    kinds: Tensor | None = None

    @property
    def with_codes(self) -> Peaks:
        """The peaks, with the codes of their positions."""
        return replace(self.peaks, packed=self.columns.codes(self.peaks.first))


@dataclass(frozen=True, eq=False)
class Far:
    """What is held.

    Attributes:
        batches: in the order in which they were taken.
        kinds: the sum of theirs.
    """

    batches: tuple[Taken, ...] = ()
    kinds: Tensor | None = None

    def holding(self, taken: Taken) -> Far:
        """This, and a batch."""
        kinds = taken.kinds
        if self.kinds is not None and kinds is not None:
            kinds = self.kinds + kinds
        return Far((*self.batches, replace(taken, kinds=None)), kinds)

    @property
    def is_full(self) -> bool:
        """Whether it is time to count."""
        n = sum(len(batch.peaks.images) for batch in self.batches)
        units = sum(self.batches[0].columns.channels)
        return n >= min(HELD, _ROOM // (_BYTES * units))

    def counted(self, layers: Mapping[str, LayerScan]) -> dict[str, LayerScan]:
        """Layers with what is held counted, in their own order; half of it at a time where the device has not the memory
        for all."""
        if not self.batches:
            return dict(layers)
        try:
            return self._counted(layers)
        except torch.OutOfMemoryError:
            if len(self.batches) == 1:
                raise
        half = len(self.batches) // 2
        layers = Far(self.batches[:half], self.kinds).counted(layers)
        return Far(self.batches[half:]).counted(layers)

    def _counted(self, layers: Mapping[str, LayerScan]) -> dict[str, LayerScan]:
        peaks, columns = self._joined_with_codes(), self.batches[0].columns
        own = [layers[name].to(peaks.maxima.device) for name in columns.layers]
        tops = TopK.side_by_side([layer.top for layer in own]).add(peaks)
        statistics = Statistics.side_by_side([layer.statistics for layer in own])
        maxima = ImageSample.side_by_side([layer.maxima for layer in own])
        by_layer = zip(
            own,
            tops.apart(columns.channels),
            statistics.update(peaks.maxima).apart(columns.channels),
            maxima.update(peaks.maxima, peaks.images).apart(columns.channels),
            strict=True,
        )
        counted = [
            replace(layer, top=top, statistics=counts, maxima=sample)
            for layer, top, counts, sample in by_layer
        ]
        if counted[0].spectrum is not None:
            counted = self._with_spectra(counted, peaks)
        by_name = dict(zip(columns.layers, counted, strict=True))
        return {name: by_name[name] for name in layers}

    @property
    def joined(self) -> Peaks:
        """The peaks of all batches, of all units, in the order of the images, without codes."""
        return Peaks.joined([batch.peaks for batch in self.batches])

    def _joined_with_codes(self) -> Peaks:
        """The same, with codes."""
        columns = self.batches[0].columns
        if all(batch.columns == columns for batch in self.batches):
            return Taken(self.joined, columns).with_codes
        return Peaks.joined([batch.with_codes for batch in self.batches])

    def _with_spectra(self, layers: list[LayerScan], peaks: Peaks) -> list[LayerScan]:
        """Layers whose spectra have the peaks of all units counted, and the positions."""
        channels = self.batches[0].columns.channels
        labels = [layers[0].listing.labels[image] for image in peaks.images]
        spectra: list[Any] = [layer.spectrum for layer in layers]
        weakest = TopK.side_by_side([own.negated for own in spectra]).add(peaks, lowest=True)
        by_layer = zip(
            layers,
            spectra,
            weakest.apart(channels),
            torch.split(peaks.maxima, list(channels), dim=1),
            self._kinds_apart(),
            strict=True,
        )
        result = []
        for layer, own, negated, maxima, kinds in by_layer:
            counts = own if kinds is None else own.with_kinds(kinds)
            classes = own.classes.update(maxima, labels)
            spectrum = replace(counts, negated=negated, classes=classes)
            result.append(replace(layer, spectrum=spectrum))
        return result

    def _kinds_apart(self) -> Sequence[Tensor | None]:
        """Of each layer; None: none are held."""
        channels = self.batches[0].columns.channels
        if self.kinds is None:
            return [None] * len(channels)
        return torch.split(self.kinds, list(channels))
