"""Numbers of a layer and its units, as plain numbers and text for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import inf, isnan
from typing import Any

from featviz.geometry import Number
from featviz.records.exemplars import Exemplars
from featviz.records.layer_scan import LayerScan
from featviz.records.links import Links
from featviz.units import Layer, Unit


def layer_numbers(layer_scan: LayerScan) -> dict[str, Any]:
    """A layer's line in the column of layers."""
    layer = layer_scan.layer
    return {
        "name": text(layer.name),
        "kind": layer.kind,
        "channels": layer.channels,
        "map": _times(layer.map_size),
        **_field_numbers(layer),
        "parameters": layer.parameters,
        "dead": int(layer_scan.statistics.dead.sum()),
    }


_FULL_IMAGE = {
    "global": "full image",
    "data": "full image (which pixels matter depends on it)",
    "unknown": "full image (not known)",
    "refuted": "full image (a smaller one was refuted)",
}


def _field_numbers(layer: Layer) -> dict[str, str]:
    """Size and stride of the receptive field in words."""
    if not layer.field.is_local:
        return {"field": _FULL_IMAGE[layer.field.kind], "stride": ""}
    return {
        "field": f"{_times(layer.field.size)} px",
        "stride": f"{_times(layer.field.stride)} px",
    }


def _times(pair: Iterable[Number]) -> str:
    return " × ".join(map(str, pair))


def unit_numbers(layer_scan: LayerScan, exemplars: Exemplars, row: int) -> dict[str, Any]:
    """One unit: its statistics over the images and its exemplars, each with score, image, box and
    what it was computed from.
    """
    channel = exemplars.channels[row]
    statistics = layer_scan.statistics
    histogram = statistics.histogram[channel]
    filled_bins = histogram.nonzero().flatten().tolist()
    ranks = filled_ranks(exemplars, row)
    images = exemplars.images[row, ranks].tolist()
    label, share = dominating([layer_scan.listing.labels[image] for image in images])
    return {
        "unit": channel,
        "dead": bool(exemplars.dead[row]),
        "max": rounded(float(statistics.maximum[channel])),
        "mean": rounded(float(statistics.mean[channel])),
        "active": rounded(float(statistics.fraction_active[channel])),
        "label": optional_text(label),
        "share": rounded(share),
        "histogram": [[i, int(histogram[i])] for i in filled_bins],
        "exemplars": [_exemplar_numbers(exemplars, row, rank) for rank in ranks],
        "silent": _silent(exemplars, row, ranks),
    }


def link_numbers(links: Links, unit: Unit) -> dict[str, Any]:
    """The units that excite and inhibit one, and those that it feeds: of each kind at most five, with
    layer, unit and share."""
    kinds = {
        "excite": links.exciting(unit),
        "inhibit": links.inhibiting(unit),
        "feed": links.feeding(unit),
    }
    numbers = {}
    for kind, own in kinds.items():
        numbers[kind] = [
            [text(link.unit.layer), link.unit.channel, rounded(link.share)] for link in own
        ]
    return numbers


def _silent(exemplars: Exemplars, row: int, ranks: list[int]) -> dict[str, int]:
    """By rule, how many exemplars have a signal that is zero everywhere; only rules with some."""
    counts = {}
    for rule, signals in exemplars.projections.items():
        silent = int((signals[row, ranks] == 0).flatten(1).all(dim=1).sum())
        if silent:
            counts[rule] = silent
    return counts


def filled_ranks(exemplars: Exemplars, row: int) -> list[int]:
    """The ranks at which a unit has an exemplar: none if it is dead, fewer than k if images are
    few."""
    if exemplars.dead[row]:
        return []
    ranks: list[int] = (exemplars.images[row] >= 0).nonzero().flatten().tolist()
    return ranks


def _exemplar_numbers(exemplars: Exemplars, row: int, rank: int) -> dict[str, Any]:
    return {
        "score": rounded(float(exemplars.scores[row, rank])),
        "image": int(exemplars.images[row, rank]),
        "box": exemplars.boxes[row, rank].tolist(),
        "computed": _computed_from(exemplars, row, rank),
    }


def _computed_from(exemplars: Exemplars, row: int, rank: int) -> str:
    """``crop``; ``full image``; or ``fallback``, the full image where a crop should have done."""
    if exemplars.fallback[row, rank]:
        return "fallback"
    if exemplars.full_image[row, rank]:
        return "full image"
    return "crop"


def front_units(layer_scan: LayerScan, n: int, channels: Iterable[int]) -> list[int]:
    """The n units of some of a layer that the front page shows, from what the scan alone knows; their
    channels in ascending order.
    """
    top, statistics, labels = layer_scan.top, layer_scan.statistics, layer_scan.listing.labels
    units = []
    for channel in channels:
        images = top.images[channel].tolist()
        label, share = dominating([labels[image] for image in images if image >= 0])
        units.append(
            {
                "unit": channel,
                "dead": bool(statistics.dead[channel]),
                "label": label,
                "share": share,
                "max": float(statistics.maximum[channel]),
                "mean": float(statistics.mean[channel]),
            }
        )
    return standing_out(units, n)


def dominating(labels: list[str | None]) -> tuple[str | None, float]:
    """The most frequent label and its share of all; of equals the first in the alphabet. No labels:
    (None, 0).
    """
    counts = Counter(label for label in labels if label is not None)
    if not counts:
        return None, 0.0
    label, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return label, count / len(labels)


def dominant(unit: dict[str, Any]) -> str | None:
    """The class that dominates a unit's exemplars, where at least two of them share it, as pages name it."""
    label: str | None = unit["label"]
    return label if unit["share"] * len(unit["exemplars"]) > 1.5 else None


def standing_out(units: list[dict[str, Any]], n: int) -> list[int]:
    """The n units that stand out: dominated most by a single class, then with the strongest
    response farthest above their mean; a second unit of a class only after the first of each.

    Returns their channels in ascending order.
    """
    living = [unit for unit in units if not unit["dead"]]
    labels: set[str] = set()
    first_of_class: list[int] = []
    others: list[int] = []
    for unit in sorted(living, key=_how_plain):
        label = unit["label"]
        if label in labels:
            others.append(unit["unit"])
        else:
            first_of_class.append(unit["unit"])
        if label is not None:
            labels.add(label)
    return sorted((first_of_class + others)[:n])


def _how_plain(unit: dict[str, Any]) -> tuple[float, float, int]:
    """The order of ``standing_out``: what stands out most comes first."""
    contrast = unit["max"] / max(unit["mean"], 1e-12)
    if isnan(contrast):  # infinity over infinity
        contrast = inf
    return -unit["share"], -contrast, unit["unit"]


def rounded(number: float) -> float:
    """Four significant digits, as pages show them."""
    return float(f"{number:.4g}")


def text(name: str) -> str:
    """A name as text that any encoding can write: bytes that were no text are shown as escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def optional_text(name: str | None) -> str | None:
    """A name as text, where there is one."""
    return None if name is None else text(name)
