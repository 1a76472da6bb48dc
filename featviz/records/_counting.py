"""When a scan counts what its layers hold: of many images at once, and on a GPU of all layers at once, where an
operation on a few units takes as long as one on all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from featviz.records.image_sample import ImageSample
from featviz.records.layer_scan import LayerScan
from featviz.records.peaks import Peaks, in_reach
from featviz.records.statistics import Statistics
from featviz.records.topk import TopK

HELD = 256
"""Images after which what is held is counted."""
HELD_FAR = 4096
"""The same, on a device out of Python's reach."""
_ROOM = 2**27
"""Bytes that may be held there; while they are counted, some times as many are taken."""
_BYTES = 8
"""Of a unit and an image."""


def holding(layers: Mapping[str, LayerScan], peaks: Mapping[str, Peaks]) -> dict[str, LayerScan]:
    """Layers with the peaks of a batch of images more, in the order of these, which are held until there are many
    to be counted at once."""
    own = {name: layers[name].holding(batch) for name, batch in peaks.items()}
    first = next(iter(own.values()))
    n = sum(len(batch.images) for batch in first.held)
    return counted(own) if n >= _most(own) else own


def _most(layers: Mapping[str, LayerScan]) -> int:
    """Images after which what is held is counted."""
    if _are_in_reach(layers):
        return HELD
    channels = sum(own.layer.channels for own in layers.values())
    return min(HELD_FAR, max(1, _ROOM // (_BYTES * channels)))


def counted(layers: Mapping[str, LayerScan]) -> dict[str, LayerScan]:
    """The same, with nothing held."""
    if _are_in_reach(layers):
        return {name: own.counted() for name, own in layers.items()}
    by_device: dict[str, list[str]] = {}
    for name, own in layers.items():
        by_device.setdefault(str(own.held[0].scores.device), []).append(name)
    result = dict(layers)
    for names in by_device.values():
        together = _together([layers[name] for name in names])
        result |= zip(names, together, strict=True)
    return result


def _are_in_reach(layers: Mapping[str, LayerScan]) -> bool:
    """Whether what layers hold is in reach of Python, or there is nothing."""
    return all(in_reach(batch.scores) for own in layers.values() for batch in own.held[:1])


def _together(layers: Sequence[LayerScan]) -> list[LayerScan]:
    """Layers that hold the same images on one device, with nothing held."""
    joined = [Peaks.joined(own.held) for own in layers]
    peaks = Peaks.side_by_side(joined)
    device = peaks.scores.device
    moved = [replace(own, held=()).to(device) for own in layers]
    channels = [own.layer.channels for own in layers]
    tops = TopK.side_by_side([own.top for own in moved]).add(peaks)
    statistics = Statistics.side_by_side([own.statistics for own in moved]).update(peaks.maxima)
    maxima = ImageSample.side_by_side([own.maxima for own in moved])
    maxima = maxima.update(peaks.maxima, peaks.images)
    apart = zip(
        tops.apart(channels), statistics.apart(channels), maxima.apart(channels), strict=True
    )
    result = [
        replace(own, top=top, statistics=counts, maxima=sample)
        for own, (top, counts, sample) in zip(moved, apart, strict=True)
    ]
    return _with_spectra(result, joined, peaks)


def _with_spectra(
    layers: list[LayerScan], joined: Sequence[Peaks], peaks: Peaks
) -> list[LayerScan]:
    """Layers whose spectra count what each has joined, which is side by side in ``peaks``."""
    spectra = [own.spectrum for own in layers if own.spectrum is not None]
    if not spectra:
        return layers
    weakest = TopK.side_by_side([own.negated for own in spectra]).add(peaks, lowest=True)
    labels = [layers[0].listing.labels[image] for image in peaks.images]
    channels = [own.layer.channels for own in layers]
    result = []
    for layer, own, negated, batch in zip(
        layers, spectra, weakest.apart(channels), joined, strict=True
    ):
        classes = own.classes.update(batch.maxima, labels)
        result.append(replace(layer, spectrum=replace(own, negated=negated, classes=classes)))
    return result
