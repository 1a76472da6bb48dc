"""First-layer filters of several networks beside each other: the paper's figure 6, with
measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite, sqrt
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from featviz.errors import UsageError
from featviz.figures.page import (
    INK,
    QUIET,
    AnyFigure,
    Area,
    Style,
    array,
    color,
    new_page,
    plain,
    title_axes,
    titled,
)
from featviz.figures.text import fitted
from featviz.tiles import PAPER, contrast, resized, sheet, signal_tiles, signed, to_uint8

_SIDE, _STEP = 238, 262  # pixels: a sheet of filters, from network to network
_ABOVE, _ROW = 44, _SIDE + 12  # pixels: for the names of networks; from row to row of sheets
_SPECTRUM = 330  # pixels: the side of the spectra
_CHART = 108  # pixels: the height of a chart
MEASURES = {
    "largest filter / median": ("one filter dominates:\nlargest RMS / median", 1),
    "faint filters": ("faint filters: RMS under\n1/3 of the largest, %", 100),
    "dead units, layer 1": ("dead units,\nlayer 1, %", 100),
    "dead units, layer 2": ("dead units,\nlayer 2, %", 100),
    "filter energy beyond the stride's limit": (
        "filters' energy beyond\nthe stride's limit, %",
        100,
    ),
    "map energy folded over": ("maps' energy folded\nover (aliasing), %", 100),
    "blockiness, layer 2": ("blocks in layer 2's\nprojections (1: none)", 1),
    "test error": ("test error, %\n", 100),
}
"""What is measured of each network: the title of its chart, and the factor of its numbers."""


def first_layer(
    networks: Sequence[Mapping[str, Any]],
    *,
    heading: str = "",
    note: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """Figure 6 of the paper: a column for each network, with its first-layer filters, projections
    of its second layer, and the measures.

    Args:
        networks: for each ``network`` (its name), ``filters`` (n, c, k, k), ``stride``,
            ``spectrum`` (bands of frequency), ``second`` (n, c, h, w) with ``visible`` (n, h, w) if
            it has a second layer, and those numbers of `MEASURES` that are known; a number of several
            seeds with the ends of its interval, such as ``test error low`` and ``test error high``.
        heading: comes first in the title.
        note: lines below it.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        UsageError: there are no networks.

    Source: Zeiler & Fergus, figure 6.

    Example:
        >>> import torch
        >>> from featviz import figures
        >>> filters, spectrum = torch.randn(16, 3, 7, 7), torch.full((16,), 1 / 16)
        >>> own = {"network": "zfmini", "filters": filters, "stride": 2, "spectrum": spectrum}
        >>> figure = figures.first_layer([own])
    """
    if not networks:
        raise UsageError("0 networks: give at least 1", "networks")
    width = max(932, len(networks) * _STEP - (_STEP - _SIDE))
    title = titled(heading, "first-layer filters and their measures")
    notes = [
        "Filters: all of a network on the same scale (grey = 0), so that a faint filter looks grey."
    ]
    notes += note.splitlines()
    rows = 1
    if any("second" in network for network in networks):
        rows = 2
        notes.append(
            "Below: projections of the strongest responses of layer 2, each on its own scale; light "
            "grey: beyond the edge of the image."
        )
    charts = _ABOVE + rows * _ROW + 40
    area = new_page(width, charts + _SPECTRUM + 14, title, notes, fig)
    for i, network in enumerate(networks):
        x = i * _STEP
        name, _, rest = network["network"].rpartition(", ")
        if not name:
            name, rest = rest, ""
        shade: Style = {"color": color(i), "weight": "bold"}
        area.text(x, 12, fitted(name, _SIDE, 9, bold=True), size=9, **shade)
        area.text(x, 29, fitted(rest, _SIDE, 8, bold=True), size=8, **shade)
        area.sheet(x, _ABOVE, _filters(network["filters"].detach()))
        if "second" in network:
            area.sheet(x, _ABOVE + _ROW, _second(network["second"], network["visible"]))
        elif rows == 2:
            area.text(x, _ABOVE + _ROW + 12, "no second convolution", color=QUIET)
    _spectra(area.axes(46, charts, _SPECTRUM, _SPECTRUM - 30), networks)
    _measures(area, charts, networks)
    return area.finish()


def _across(n: int) -> int:
    """As many in a row as make a square."""
    return max(1, round(sqrt(n) + 0.49))


def _filters(weights: Tensor) -> Tensor:
    """All filters on the same scale: (3, h, w) uint8."""
    if weights.shape[1] != 3:
        weights = weights.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    across = _across(len(weights))
    side = max(8, (_SIDE - across) // across)
    tiles = to_uint8(resized(signed(weights, contrast(weights)), (side, side)))
    return sheet(tiles, across)


def _second(projections: Tensor, visible: Tensor) -> Tensor:
    """Projections, each on its own scale: (3, h, w) uint8."""
    across = _across(len(projections))
    side = max(8, (_SIDE - 2 * across) // across)
    tiles = []
    for projection, own in zip(projections, visible, strict=True):
        tiles.append(signal_tiles(projection[None], own[None], (side, side)))
    return sheet(torch.cat(tiles), across, gap=2, fill=PAPER)


def _spectra(axes: Axes, networks: Sequence[Mapping[str, Any]]) -> None:
    """Energy of the filters by frequency, with the limit that each stride sets."""
    for i, network in enumerate(networks):
        bands = network["spectrum"]
        centres = (torch.arange(len(bands)) + 0.5) / (2 * len(bands))
        line: Style = {"color": color(i), "marker": "o", "markersize": 3, "linewidth": 1.5}
        axes.plot(array(centres), 100 * array(bands), **line)
    plain(axes)
    for stride in sorted({network["stride"] for network in networks}):
        if stride > 1:
            limit = 1 / (2 * stride)
            axes.axvline(limit, color=QUIET, linewidth=0.9, linestyle=":")
            beside: Style = {"transform": axes.get_xaxis_transform(), "size": 7, "color": QUIET}
            axes.text(limit, 0.99, f" limit of stride {stride}", va="top", **beside)
    axes.set_xlabel("frequency, cycles a pixel", size=8, color=QUIET)
    axes.set_ylabel("% of the filters' energy", size=8, color=QUIET)
    title_axes(axes, "spectrum of the filters", _SPECTRUM)
    axes.set_xlim(0, 0.5)
    axes.set_ylim(bottom=0)


def _measures(area: Area, top: float, networks: Sequence[Mapping[str, Any]]) -> None:
    """A small chart for each measure that is known of any network, a bar for each network."""
    left = 46 + _SPECTRUM + 44
    step = (area.width - left) / 4
    known = [key for key in MEASURES if _is_known(networks, key)]
    for i, key in enumerate(known):
        title, factor = MEASURES[key]
        row, column = divmod(i, 4)
        y = top + 24 + row * (_CHART + 68)
        axes = area.axes(left + column * step, y, step - 26, _CHART)
        tops = []
        for j, network in enumerate(networks):
            known_here = _is_number(network, key)
            value = factor * network[key] if known_here else 0.0
            label = f"{value:.3g}" if known_here else "?"
            axes.bar(j, value, color=color(j), width=0.72)
            end = value
            if _is_number(network, f"{key} high"):
                low, end = (factor * network[f"{key} {name}"] for name in ("low", "high"))
                axes.plot([j, j], [max(low, 0), end], color=INK, linewidth=1)
            tops.append(end)
            axes.text(j, end, label, size=7, ha="center", va="bottom", color=INK)
        axes.set_ylim(0, 1.2 * max(*tops, 1e-9))
        axes.set_xlim(-0.6, max(len(networks), 2) - 0.4)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(title, size=7.5, color=INK, loc="left")
        axes.spines[["top", "right", "left"]].set_visible(False)


def _is_known(networks: Sequence[Mapping[str, Any]], key: str) -> bool:
    return any(_is_number(network, key) for network in networks)


def _is_number(network: Mapping[str, Any], key: str) -> bool:
    """Whether a measure of a network is known."""
    value = network.get(key)
    return value is not None and isfinite(value)
