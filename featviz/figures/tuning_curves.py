"""Tuning curves of units."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from featviz.errors import UsageError
from featviz.figures.page import (
    COLORS,
    QUIET,
    AnyFigure,
    described,
    new_page,
    plain,
    title_axes,
    titled,
)
from featviz.measures.tuned import Tuning

_PANEL = 118, 78  # pixels
_GAP = 34, 44
_ACROSS = 6


def tuning(
    result: Tuning,
    layer: str,
    variable: str,
    channels: Sequence[int] | None = None,
    *,
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """The response of units of one layer over one variable, at the values of the others at which each
    responds most.

    Args:
        result: from `featviz.measures.tuning`.
        layer: its name.
        variable: its name, of which the beginning is enough: ``orientation``.
        channels: which units; None: the 24 whose curves vary most, in the order of their preferred
            value.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        LayerError, UnitError: no such layer or unit.
        UsageError: no such variable, or no units.

    Source: as of `featviz.measures.tuning`.

    Example:
        >>> from featviz import figures, load_model
        >>> from featviz.measures import gratings, tuning
        >>> result = tuning(load_model("zfmini"), gratings((96, 96), wavelengths=[8]), "conv1")
        >>> figure = figures.tuning(result, "conv1", "orientation", [0, 1])
    """
    curves = result.curve(layer, variable)  # (values, c)
    own = result.layers[str(layer)]
    chosen = _chosen(curves) if channels is None else list(channels)
    if not chosen:
        raise UsageError("0 channels: give at least 1", "channels")
    for channel in chosen:
        own.unit(channel)
    name = result.variable(variable)
    values = result.axes[name]
    across = min(_ACROSS, len(chosen))
    down = -(-len(chosen) // across)
    width = 44 + across * (_PANEL[0] + _GAP[0]) - _GAP[0]
    height = 16 + down * (_PANEL[1] + _GAP[1])
    notes = [
        f"{described(own)}. The response over {name}, at the values of the other variables at which the "
        "unit responds most; each unit on its own scale."
    ]
    if len(result.axes) == 1:
        notes = [f"{described(own)}. The response over {name}; each unit on its own scale."]
    title = titled(heading, f"tuning of units of layer {own.name}")
    area = new_page(width, height, title, notes, fig)
    for i, channel in enumerate(chosen):
        row, column = divmod(i, across)
        x, y = 44 + column * (_PANEL[0] + _GAP[0]), 16 + row * (_PANEL[1] + _GAP[1])
        axes = area.axes(x, y, *_PANEL)
        _draw(axes, values, curves[:, channel])
        title_axes(axes, f"{channel}", _PANEL[0])
        if i + across >= len(chosen):
            axes.set_xlabel(name, fontsize=7, color=QUIET)
    return area.finish()


def _chosen(curves: Tensor, most: int = 24) -> list[int]:
    """The channels whose curves vary most in proportion to their size, by where they peak."""
    spread = (curves.amax(dim=0) - curves.amin(dim=0)) * (curves.amax(dim=0) > 0)
    strongest = spread.argsort(descending=True, stable=True)[:most].tolist()
    peaks = curves.argmax(dim=0).tolist()
    return sorted(strongest, key=lambda channel: (peaks[channel], channel))


def _draw(axes: Axes, values: Sequence[float], curve: Tensor) -> None:
    order = sorted(range(len(values)), key=lambda i: values[i])
    x = [values[i] for i in order]
    y = [float(curve[i]) for i in order]
    axes.axhline(0, color=QUIET, linewidth=0.5)
    axes.plot(x, y, color=COLORS[0], linewidth=1.3, marker="o", markersize=2.5)
    plain(axes)
    axes.tick_params(labelsize=6.5, pad=1)
    axes.locator_params(axis="y", nbins=3)
    axes.locator_params(axis="x", nbins=4)
