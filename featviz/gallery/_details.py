"""What a unit's panel shows beside its exemplars: units that respond to the same images, and what lies
below the strongest responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from featviz.gallery.numbers import rounded, text
from featviz.records.correlation import MostCorrelated, most_correlated
from featviz.records.image_sample import GROUPS
from featviz.records.layer_scan import LayerScan
from featviz.records.peaks import NONE
from featviz.records.scan import Scan
from featviz.records.spectrum import Spectrum
from featviz.records.topk import TopK

ALIKE = 6  # units that respond to the same images, of the layer and of others
IMAGES = 4  # of each group of a spectrum
CLASSES = 5  # to which a unit responds most, and least

Record = dict[str, Any]


class Details:
    """The details of some units of a layer, as their scripts hold them.

    Attributes:
        images: those that are shown in the spectra of the units so far.
    """

    def __init__(self, result: Scan, layer_scan: LayerScan, channels: Sequence[int]) -> None:
        self._scan = layer_scan
        self._row_of = {channel: row for row, channel in enumerate(channels)}
        rest = [other for name, other in result.items() if name != layer_scan.layer.name]
        self._own = most_correlated(layer_scan, channels, [layer_scan], ALIKE)
        self._others = most_correlated(layer_scan, channels, rest, ALIKE)
        self._labels, self._means = _class_means(layer_scan)
        self.images: set[int] = set()

    def of(self, channel: int) -> Record:
        """Those of a unit: correlations of units as [layer, unit, correlation]; images as [index, score],
        weakest first; classes as [label, mean, images], those of the highest mean first, and how many
        there are in all."""
        row = self._row_of[channel]
        details: Record = {
            "over": len(self._scan.maxima.images),
            "own": _alike(self._own, row),
            "others": _alike(self._others, row),
        }
        if self._scan.spectrum is not None:
            details["spectrum"] = self._spectrum(self._scan.spectrum, channel)
            details["classes"] = self._classes(self._scan.spectrum, channel)
            details["of_classes"] = len(self._labels)
        return details

    def _spectrum(self, spectrum: Spectrum, channel: int) -> Record:
        sample, weakest = self._scan.maxima, spectrum.weakest
        known = _scores(self._scan.top, channel) | _scores(weakest, channel)
        images = list(_scores(weakest, channel))[:IMAGES]
        tenths = []
        for group in range(GROUPS):
            chosen = sample.sample(channel, group, IMAGES)
            tenths.append(_scored(chosen, sample.scores_of(channel, chosen), known))
            self.images.update(chosen)
        self.images.update(images)
        weakest_images = [[image, rounded(known[image])] for image in images]
        return {"weakest": weakest_images, "tenths": tenths}

    def _classes(self, spectrum: Spectrum, channel: int) -> list[list[Any]]:
        """All classes where they are few, or those of the highest and of the lowest means."""
        means = self._means[:, channel]
        order: list[int] = means.argsort(descending=True, stable=True).tolist()
        if len(order) > 2 * CLASSES:
            order = order[:CLASSES] + order[-CLASSES:]
        counts = spectrum.classes.counts
        names = [self._labels[i] for i in order]
        return [
            [text(name), rounded(float(means[i])), counts[name]]
            for i, name in zip(order, names, strict=True)
        ]


def _alike(best: MostCorrelated, row: int) -> list[list[Any]]:
    return [
        [text(other.unit.layer), other.unit.channel, round(other.correlation, 2)]
        for other in best.of(row)
    ]


def _scores(top: TopK, channel: int) -> dict[int, float]:
    """The scores of a unit's strongest, or weakest, images, by image."""
    filled = top.images[channel] != NONE
    images, scores = top.images[channel][filled].tolist(), top.scores[channel][filled].tolist()
    return dict(zip(images, scores, strict=True))


def _scored(images: list[int], scores: list[float], known: Mapping[int, float]) -> list[list[Any]]:
    """Images with the scores that are known of them, so that an image has one number on a page; of others
    three digits, about as many as half precision is sure of."""
    return [
        [image, rounded(known[image]) if image in known else float(f"{score:.3g}")]
        for image, score in zip(images, scores, strict=True)
    ]


def _class_means(layer_scan: LayerScan) -> tuple[list[str], Tensor]:
    """The labels, and the means (labels, c) of all units."""
    spectrum = layer_scan.spectrum
    if spectrum is None or not spectrum.classes.counts:
        return [], torch.zeros(0, layer_scan.layer.channels)
    means = spectrum.classes.means
    return list(means), torch.stack(list(means.values()))
