"""What a page says of a layer and its units, as plain numbers and text for JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

from featviz.records.exemplars import Exemplars
from featviz.records.scan import Scan
from featviz.units import Layer


def layer_numbers(info: Layer, scan: Scan) -> dict[str, Any]:
    """A layer's line in the column of layers."""
    statistics = scan.statistics[info.name]
    return {
        "name": text(info.name),
        "kind": info.kind,
        "channels": info.shape[0],
        "map": " × ".join(map(str, info.shape[1:])) or "1 × 1",
        "field": "whole image"
        if info.field.kind == "global"
        else " × ".join(map(str, info.field.size)) + " px",
        "stride": ""
        if info.field.kind == "global"
        else " × ".join(map(str, info.field.stride)) + " px",
        "parameters": info.parameters,
        "dead": int(statistics.dead.sum()),
    }


def unit_numbers(scan: Scan, exemplars: Exemplars, row: int) -> dict[str, Any]:
    """One unit: its statistics over the images and its exemplars, each with score, image, box and
    whether it was computed whole.
    """
    channel = exemplars.channels[row]
    statistics = scan.statistics[exemplars.layer]
    histogram = statistics.histogram[channel]
    found = [
        i
        for i in range(exemplars.scores.shape[1])
        if int(exemplars.images[row, i]) >= 0 and not exemplars.dead[row]
    ]
    label, share = dominating([scan.labels[int(exemplars.images[row, i])] for i in found])
    return {
        "unit": channel,
        "dead": bool(exemplars.dead[row]),
        "max": rounded(float(statistics.maximum[channel])),
        "mean": rounded(float(statistics.mean[channel])),
        "active": rounded(float(statistics.fraction_active[channel])),
        "label": None if label is None else text(label),
        "share": rounded(share),
        "histogram": [[b, int(histogram[b])] for b in histogram.nonzero().flatten().tolist()],
        "exemplars": [
            {
                "score": rounded(float(exemplars.scores[row, i])),
                "image": int(exemplars.images[row, i]),
                "box": exemplars.boxes[row, i].tolist(),
                "whole": bool(exemplars.whole[row, i]),
            }
            for i in found
        ],
    }


def dominating(labels: list[str | None]) -> tuple[str | None, float]:
    """The most frequent label and its share of all; of equals the first in the alphabet. No labels:
    (None, 0).
    """
    known = Counter(label for label in labels if label is not None)
    if not known:
        return None, 0.0
    label, count = min(known.items(), key=lambda item: (-item[1], item[0]))
    return label, count / len(labels)


def telling(units: list[dict[str, Any]], n: int) -> list[int]:
    """The n units that say most of a layer: those whose strongest response stands out most from
    their mean, one class each first.

    Returns their channels in ascending order.
    """
    alive = [unit for unit in units if not unit["dead"]]
    ordered = sorted(
        alive,
        key=lambda unit: (-unit["share"], -unit["max"] / max(unit["mean"], 1e-12), unit["unit"]),
    )
    seen: set[str] = set()
    fresh: list[int] = []
    again: list[int] = []
    for unit in ordered:
        known = unit["label"] is not None and unit["label"] in seen
        seen.add(unit["label"] or "")
        (again if known else fresh).append(unit["unit"])
    return sorted((fresh + again)[:n])


def rounded(number: float) -> float:
    """Four significant digits: what a reader sees, and no more bytes."""
    return float(f"{number:.4g}")


def text(name: str) -> str:
    """A name as text that any encoding can write: bytes that were no text are shown as escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
