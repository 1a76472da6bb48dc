"""What the figures have in common: ink, a page with a heading, an image on axes."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from featviz.units import Layer

DPI = 100
INK, QUIET = "#1b1b1f", "#6b6b73"
LINES = ("#0b6e99", "#d1495b", "#3c8d4f", "#b8860b", "#6f4ea1", "#3d3d3d", "#e07a2f", "#5b8ff9")
"""Colours of curves, apart from each other for most eyes, and in grey."""
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")


def page(width: float, height: float, lines: Sequence[str]) -> tuple[Figure, float]:
    """A figure ``width`` inches wide, ``height`` inches below its heading; and where the heading
    ends, as a share of the whole.

    The first line is the title, the others say how to read what follows; long ones are wrapped.
    """
    styled = [(part, True) for part in wrap(lines[0], int(width * 11))]
    styled += [(part, False) for line in lines[1:] for part in wrap(line, int(width * 17))]
    head = 0.2 + 0.2 * len(styled)
    figure = Figure(figsize=(width, height + head), dpi=DPI, facecolor="white")
    for i, (line, bold) in enumerate(styled):
        figure.text(
            0.15 / width,
            1 - (0.2 + 0.2 * i) / (height + head),
            line,
            va="center",
            size=10 if bold else 8,
            weight="bold" if bold else "normal",
            color=INK if bold else QUIET,
        )
    return figure, height / (height + head)


def field_of(info: Layer) -> str:
    """A layer's receptive field in words."""
    return (
        "the whole image"
        if info.field.kind == "global"
        else " x ".join(map(str, info.field.size)) + " px"
    )


def picture(axes: Any, image: Tensor) -> None:
    """An image (c, h, w) in [0, 1], gray or RGB, on axes in its pixels."""
    height, width = image.shape[1:]
    shown = image.expand(3, -1, -1) if image.shape[0] == 1 else image[:3]
    axes.imshow(
        shown.clamp(0, 1).permute(1, 2, 0).numpy(),
        extent=(0, width, height, 0),
        interpolation="nearest",
    )
    bare(axes)


def bare(axes: Any) -> None:
    """No ticks, a thin frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set(color="#c9c9cf", linewidth=0.8)


def plain(axes: Any) -> None:
    """Axes for curves: a light grid, no frame at the top and at the right, small quiet numbers."""
    axes.grid(color="#e6e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7, colors=QUIET, length=2)
    for name, side in axes.spines.items():
        side.set_visible(name in ("left", "bottom"))
        side.set(color="#a9a9b0", linewidth=0.8)
