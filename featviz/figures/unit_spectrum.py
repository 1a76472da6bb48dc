"""A unit from its weakest images to its strongest."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from featviz.errors import UsageError
from featviz.figures.blocks import tile_size
from featviz.figures.page import (
    COLORS,
    NEUTRAL,
    QUIET,
    AnyFigure,
    Area,
    described,
    new_page,
    plain,
    short,
    titled,
)
from featviz.images.sources import open_images
from featviz.records.image_sample import GROUPS
from featviz.records.layer_scan import LayerScan
from featviz.records.peaks import NONE
from featviz.records.spectrum import Spectrum
from featviz.records.statistics import bin_edges
from featviz.records.topk import TopK
from featviz.tiles import in_middle, picture_tiles, sheet

_SIDE = 64  # pixels of an image
_GAP, _ROW = 2, 6
_NAMES = 150  # left of the images
_HIGH, _BELOW = 120, 52  # of the histogram, and below it


def spectrum(
    layer_scan: LayerScan,
    channel: int,
    images: Any,
    *,
    n: int = 9,
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """One unit's images from the weakest to the strongest: the histogram of its maxima, and rows of the
    k weakest images, of a sample of each tenth of all images, and of the k strongest. The strongest
    alone mislead: they look alike where the next thousand do not.

    Args:
        layer_scan: of a scan with ``spectrum=True``.
        channel: the unit.
        images: those of the scan, as `open_images` takes them.
        n: images in a row.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        UsageError: the scan was made without its spectrum.
        UnitError: the layer has no such channel.

    Source: Bolukbasi et al., An Interpretability Illusion for BERT (2021), of language models.

    Example:
        >>> from featviz import figures, load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(30), MINI_PREPROCESS)
        >>> result = scan(model, images, "conv2", k=4, spectrum=True)
        >>> figure = figures.spectrum(result["conv2"], 7, images)
    """
    own = layer_scan.spectrum
    if own is None:
        raise UsageError(
            f"the scan of layer {layer_scan.layer.name!r} has no spectrum: scan with spectrum=True"
        )
    layer_scan.layer.unit(channel)
    data = open_images(images)
    shape = layer_scan.listing.input_shape
    height, width = tile_size(shape, _SIDE)
    across = _NAMES + n * (width + _GAP)
    rows = _rows(layer_scan, own, channel, n)
    down = _HIGH + _BELOW + len(rows) * (height + _ROW)
    threshold = float(own.positions.netdissect_threshold[channel])
    notes = [
        f"{described(layer_scan.layer)}. {layer_scan.statistics.count:,} images; above, how many have "
        f"their strongest response in each bin (four to each doubling).",
        f"Each tenth is of the unit's maxima over a random sample of {len(layer_scan.maxima.images):,} "
        f"images. 0.5% of {own.positions.positions:,} positions are above {short(threshold)}.",
    ]
    title = titled(heading, f"unit {channel} of {layer_scan.layer.name}, weakest to strongest")
    area = new_page(across, down, title, notes, fig)
    _draw_histogram(area, layer_scan, channel, across)
    top = _HIGH + _BELOW
    for name, scores, chosen in rows:
        area.text(0, top + height / 2 - 7, name, size=8)
        area.text(0, top + height / 2 + 8, _between(scores), size=7, color=QUIET)
        if chosen:
            pictures, visible = in_middle([data[index] for index in chosen], shape[1:])
            tiles = picture_tiles(pictures, visible, (height, width))
            area.sheet(_NAMES, top, sheet(tiles, len(chosen), _GAP))
        else:
            area.text(_NAMES, top + height / 2, "no image of the sample", size=8, color=QUIET)
        top += height + _ROW
    return area.finish()


def _rows(
    layer_scan: LayerScan, own: Spectrum, channel: int, n: int
) -> list[tuple[str, list[float], list[int]]]:
    """The name of each row, the scores of its images, and these, weakest first."""
    weakest, top = own.weakest, layer_scan.top
    rows = [("the weakest", *_filled(weakest, channel, n))]
    for group in range(GROUPS):
        chosen = layer_scan.maxima.sample(channel, group, n)
        scores = layer_scan.maxima.scores_of(channel, chosen)
        rows.append((f"tenth {group + 1}", scores, chosen))
    scores, strongest = _filled(top, channel, n)
    rows.append(("the strongest", scores[::-1], strongest[::-1]))
    return rows


def _filled(top: TopK, channel: int, n: int) -> tuple[list[float], list[int]]:
    """The scores and images of the first n slots that an image has filled."""
    chosen = [image for image in top.images[channel].tolist() if image != NONE][:n]
    return top.scores[channel].tolist()[: len(chosen)], chosen


def _between(scores: list[float]) -> str:
    if not scores:
        return ""
    return f"{short(min(scores))} to {short(max(scores))}"


def _draw_histogram(area: Area, layer_scan: LayerScan, channel: int, width: float) -> None:
    """How many images have their maximum in each bin."""
    counts = layer_scan.statistics.histogram[channel]
    above = [bin for bin in counts.nonzero().flatten().tolist() if bin > 0] or [1]
    first, last = min(above), max(above)
    axes = area.axes(40, 4, width - 40, _HIGH)
    axes.bar(range(first, last + 1), counts[first : last + 1].tolist(), width=0.9, color=COLORS[0])
    edges = bin_edges()
    ticks = list(range(first, last + 1, max(1, (last - first) // 8)))
    names = [short(float(edges[tick - 1])) for tick in ticks]
    if counts[0]:
        axes.bar([first - 3], [int(counts[0])], width=0.9, color=NEUTRAL)
        ticks, names = [first - 3, *ticks[1:]], ["not above 0", *names[1:]]
    axes.set_xticks(ticks, names)
    axes.set_xlabel("strongest response in an image", size=8)
    axes.set_ylabel("images", size=8)
    plain(axes)
