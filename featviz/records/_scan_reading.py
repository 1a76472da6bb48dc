"""A scan as it is read from disk, each field checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featviz.records import _fields as fields
from featviz.records._arrays import check_arrays, own_arrays, stored_arrays
from featviz.records._fields import Entry
from featviz.records._layers import layer_from
from featviz.records._progress import check_written
from featviz.records._ranges import is_within, joined
from featviz.records.amplitudes import Amplitudes
from featviz.records.image_sample import ImageSample
from featviz.records.layer_scan import LayerScan, has_positions
from featviz.records.listing import Range, check_fingerprints, skipped_from, stored_listing
from featviz.records.spectrum import Spectrum
from featviz.records.statistics import Statistics
from featviz.records.topk import TopK

_entries = fields.list_of(fields.entry)


def unpacked(manifest: Entry, folder: Path) -> dict[str, Any]:
    """The attributes of the scan that a manifest and its arrays describe, each field checked."""
    arrays = stored_arrays(folder, manifest)
    listing = stored_listing(folder, manifest)
    span = _range_from("span", manifest.value["span"], len(listing))
    ranges = [_range_from("ranges", own, len(listing)) for own in manifest.value["ranges"]]
    if joined(ranges) != ranges or not is_within(ranges, [span]):
        raise ValueError(f"ranges are {ranges}, which are not of {span}, in order and apart")
    skipped = skipped_from(manifest, listing, ranges)
    done = sum(stop - start for start, stop in ranges)
    chosen = [layer_from(entry) for entry in manifest.take("layers", _entries)]
    names = [layer.name for layer in chosen]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"layers are {', '.join(names) or 'none'}: each has to be there once")
    k, identity = _identity_from(manifest, names)
    counts = manifest.take("counts", fields.list_of(fields.integer(0, len(listing)), len(chosen)))
    if set(counts) != {done - len(skipped)}:
        raise ValueError(f"counts are {counts}, of {done} images less {len(skipped)} skipped")
    layers = {}
    for i, layer in enumerate(chosen):
        own = own_arrays(arrays, i)
        score = str(identity["score"])
        check_arrays(layer, own, k, ranges, has_positions=has_positions(score, layer))
        statistics = Statistics.from_arrays(counts[i], own)
        maxima = ImageSample.from_arrays(own, layer.channels, len(listing))
        top, precision = TopK.from_arrays(own), str(identity["precision"])
        spectrum = None
        if identity["spectrum"]:
            spectrum = Spectrum.from_arrays(listing.label_names, own)
        layers[layer.name] = LayerScan(
            layer, top, statistics, maxima, listing, score, precision, spectrum
        )
    sources = manifest.take("sources", fields.texts)
    check_written(manifest)
    amplitudes = None
    if identity["spectrum"] and not listing.sizes:
        n = int(arrays["amplitude_images"])
        amplitudes = Amplitudes.from_array(n, listing.input_shape, arrays["amplitudes"])
    return {
        "layers": layers,
        "listing": listing,
        "identity": identity,
        "ranges": ranges,
        "shard": span,
        "skipped": skipped,
        "sources": sources,
        "amplitudes": amplitudes,
        "slower": _slower_from(manifest, done),
    }


def _slower_from(manifest: Entry, done: int) -> dict[str, int]:
    """How many images went a slower way, by why; scans of earlier versions do not say."""
    entries = fields.entry("slower", manifest.value.get("slower", {}))
    return {reason: entries.take(reason, fields.integer(0, done)) for reason in entries.value}


def _range_from(name: str, value: Any, n: int) -> Range:
    start, stop = fields.list_of(fields.integer(0, n), 2)(name, value)
    if start > stop:
        raise fields.wrong(name, value, "a range of indices")
    return start, stop


def _identity_from(manifest: Entry, names: list[str]) -> tuple[int, dict[str, Any]]:
    """k, and the fingerprints that go with these layers."""
    identity = check_fingerprints(manifest)
    if identity.value["layers"] != names:
        raise ValueError("identity.layers are not the layers")
    k = identity.take("k", fields.integer(1))
    # a scan of earlier versions does not name what there was one of
    earlier: dict[str, Any] = {
        "score": "max",
        "forward": None,
        "precision": "float32",
        "channels_last": False,
        "spectrum": False,
    }
    complete = {**earlier, **identity.value}
    fields.any_of(("float32", "bf16", "tf32"))("precision", complete["precision"])
    if complete["channels_last"] is not None:
        fields.flag("channels_last", complete["channels_last"])
    fields.flag("spectrum", complete["spectrum"])
    return k, complete
