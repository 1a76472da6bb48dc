"""First-layer filters of several networks beside each other: the paper's figure 6, with what it
shows measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from featviz.figures.page import DPI, INK, QUIET
from featviz.tiles import PAPER, contrast, resized, sheet, signal_tiles, signed, to_uint8

_COLOURS = ("#d9480f", "#f0a33c", "#4dabf7", "#1864ab", "#66a80f", "#868e96")
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


def first_layer(found: Sequence[Mapping[str, Any]], *, heading: str = "") -> Figure:
    """Figure 6 of the paper: a column for each network, with its first-layer filters, what the
    second layer sees, and the measures.

    Args:
        found: for each network ``network`` (its name), ``filters`` (n, c, k, k), ``stride``,
            ``spectrum`` (bands of frequency), ``second`` (n, c, h, w) with ``inside`` (n, h, w) if
            it has a second layer, and the numbers of ``MEASURES``.
        heading: said first in the title.
    """
    across = len(found)
    width, wide = max(960, 40 + across * 262), 238
    height = 1010
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    _text(
        figure,
        16,
        20,
        f"{heading + ': ' if heading else ''}first-layer filters, and what becomes of them",
        size=11,
        weight="bold",
        color=INK,
    )
    note = (
        "upper row: the filters, all of a network on one scale (grey = 0), so that a faint one looks grey. "
        "Lower row: projections of the strongest responses of layer 2"
    )
    _text(figure, 16, 42, note, size=8, color=QUIET)
    for i, one in enumerate(found):
        x = 20 + i * 262
        lines = one["network"].rsplit(", ", 1)
        colour = _COLOURS[i % len(_COLOURS)]
        _text(figure, x, 72, lines[0], size=9, weight="bold", color=colour)
        _text(figure, x, 88, lines[1] if len(lines) > 1 else "", size=8.5, color=colour)
        _picture(figure, x, 102, wide, 238, _filters(one["filters"], wide))
        if "second" in one:
            _picture(figure, x, 352, wide, 238, _second(one["second"], one["inside"], wide))
    _spectra(figure, found)
    _measures(figure, found)
    return figure


def _filters(weights: Tensor, wide: int) -> Tensor:
    """All filters on one scale, as many in a row as make a square."""
    if weights.shape[1] != 3:
        weights = weights.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    across = max(1, round(len(weights) ** 0.5 + 0.49))
    side = max(8, (wide - across) // across)
    tiles = to_uint8(resized(signed(weights, contrast(weights)), (side, side)))
    return sheet(tiles, across)


def _second(projections: Tensor, inside: Tensor, wide: int) -> Tensor:
    """Projections, each on its own scale."""
    across = max(1, round(len(projections) ** 0.5 + 0.49))
    side = (wide - 2 * across) // across
    tiles = [
        signal_tiles(one[None], seen[None], (side, side))
        for one, seen in zip(projections, inside, strict=True)
    ]
    return sheet(torch.cat(tiles), across, gap=2, fill=PAPER)


def _spectra(figure: Figure, found: Sequence[Mapping[str, Any]]) -> None:
    """Energy of the filters by frequency, with the limit that each stride sets."""
    axes = _axes(figure, 66, 650, 330, 300)
    for colour, one in zip(_COLOURS, found, strict=False):
        bands = one["spectrum"]
        centres = (torch.arange(len(bands)) + 0.5) / (2 * len(bands))
        axes.plot(centres, 100 * bands, "o-", ms=3, lw=1.5, color=colour, label=one["network"])
    for stride in sorted({one["stride"] for one in found}):
        if stride > 1:
            axes.axvline(1 / (2 * stride), color=QUIET, lw=0.8, ls=":")
            axes.text(
                1 / (2 * stride),
                0.99,
                f" limit of stride {stride}",
                transform=axes.get_xaxis_transform(),
                size=7,
                color=QUIET,
                va="top",
            )
    axes.set_xlabel("frequency, cycles a pixel", size=8)
    axes.set_ylabel("% of the filters' energy", size=8)
    axes.set_title("spectrum of the filters", size=9, color=INK, loc="left")
    axes.set_xlim(0, 0.5)
    axes.set_ylim(0)
    axes.tick_params(labelsize=7.5)
    axes.spines[["top", "right"]].set_visible(False)


def _measures(figure: Figure, found: Sequence[Mapping[str, Any]]) -> None:
    """A small chart for each measure, a bar for each network."""
    known = [
        key
        for key in MEASURES
        if any(one.get(key) is not None and one[key] == one[key] for one in found)
    ]
    width = figure.get_figwidth() * DPI
    step = (width - 440) / 4
    for i, key in enumerate(known):
        label, factor = MEASURES[key]
        axes = _axes(figure, 440 + (i % 4) * step, 668 + (i // 4) * 172, step - 26, 108)
        values = [
            factor * one[key] if one.get(key) is not None and one[key] == one[key] else 0.0
            for one in found
        ]
        axes.bar(range(len(found)), values, color=_COLOURS[: len(found)], width=0.72)
        for place, value in enumerate(values):
            axes.text(place, value, f"{value:.3g}", size=7, ha="center", va="bottom", color=INK)
        axes.set_ylim(0, 1.2 * max([*values, 1e-9]))
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(label, size=7.5, color=INK, loc="left")
        axes.spines[["top", "right", "left"]].set_visible(False)


def _picture(figure: Figure, x: float, y: float, w: float, h: float, pixels: Tensor) -> None:
    """A sheet of tiles at its own size, no larger than w by h, from the top left."""
    axes = _axes(figure, x, y, min(w, pixels.shape[2]), min(h, pixels.shape[1]))
    axes.imshow(pixels.permute(1, 2, 0).numpy(), interpolation="none")
    axes.set_axis_off()


def _axes(figure: Figure, x: float, y: float, w: float, h: float) -> Any:
    width, height = figure.get_figwidth() * DPI, figure.get_figheight() * DPI
    return figure.add_axes((x / width, 1 - (y + h) / height, w / width, h / height))


def _text(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    width, height = figure.get_figwidth() * DPI, figure.get_figheight() * DPI
    figure.text(x / width, 1 - y / height, text, va="center", **style)
