"""Costs and savings of convolution: connections, parameters, strides, sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from torch import Tensor

from featviz.errors import UsageError
from featviz.figures.page import (
    COLORS,
    INK,
    NEUTRAL,
    QUIET,
    AnyFigure,
    Style,
    new_page,
    plain,
    shades,
    short,
    titled,
)
from featviz.figures.text import layer_name, name_ticks, room_for_names, text_width
from featviz.methods.connections import Connections
from featviz.units import Layer

_CONVOLUTION, _LOCAL, _FULL = COLORS[0], COLORS[2], NEUTRAL


def sharing(
    layers: Mapping[str, Connections], *, heading: str = "", fig: AnyFigure | None = None
) -> Figure:
    """Connections and parameters of each layer as convolution, as locally connected and as fully
    connected, on a log scale.

    Args:
        layers: from `featviz.connections`.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        UsageError: there are no layers.

    Source: Goodfellow, Bengio & Courville, *Deep Learning*, section 9.2.

    Example:
        >>> from featviz import connections, figures, load_model
        >>> figure = figures.sharing(connections(load_model("zfmini"), (3, 96, 96)), heading="zfmini")
    """
    if not layers:
        raise UsageError("0 layers: give the connections of at least 1", "layers")
    labels = [_shapes(name, own) for name, own in layers.items()]
    label_width = max(text_width(line, 8) for line in "\n".join(labels).split("\n"))
    left, plot, gap = label_width + 14, 430, 26
    high = 62 * len(layers)
    notes = [
        "Each layer as convolution, as locally connected and as fully connected layer between the "
        "same input and output (channels x height x width); log scale."
    ]
    width = left + 2 * plot + gap
    area = new_page(
        width,
        28 + high + 50,
        titled(heading, "connections and parameters of convolution"),
        notes,
        fig,
    )
    sparse = area.axes(left, 28, plot, high)
    connections = {
        "convolution, locally connected": [own.sparse for own in layers.values()],
        "fully connected": [own.dense for own in layers.values()],
    }
    _bars(sparse, connections, (_CONVOLUTION, _FULL))
    sparse.set_title("connections: sparse interactions", size=9, color=INK, loc="left")
    sparse.set_yticks(range(len(labels)), labels, color=INK)
    area.legend(left, 28 + high + 32, sparse, 2)
    shared = area.axes(left + plot + gap, 28, plot, high)
    parameters = {
        "convolution": [own.convolution for own in layers.values()],
        "locally connected": [own.local for own in layers.values()],
        "fully connected": [own.full for own in layers.values()],
    }
    _bars(shared, parameters, (_CONVOLUTION, _LOCAL, _FULL))
    title = "parameters: the same weights at every position"
    shared.set_title(title, size=9, color=INK, loc="left")
    shared.set_yticks([])
    area.legend(left + plot + gap, 28 + high + 32, shared, 3)
    return area.finish()


def _shapes(name: str, own: Connections) -> str:
    """A layer's name above the shapes of its input and output."""
    inputs, outputs = "x".join(map(str, own.inputs)), "x".join(map(str, own.outputs))
    return f"{layer_name(name, 160, 8)}\n{inputs}\nto {outputs}"


def _bars(axes: Axes, series: Mapping[str, Sequence[int]], colors: Sequence[str]) -> None:
    """Groups of horizontal bars with their numbers, a group for each layer."""
    thick = 0.8 / len(series)
    for i, (label, values) in enumerate(series.items()):
        shift = (i - (len(series) - 1) / 2) * thick
        centres = [row + shift for row in range(len(values))]
        axes.barh(centres, values, height=0.92 * thick, color=colors[i], label=label)
        for centre, value in zip(centres, values, strict=True):
            beside: Style = {"textcoords": "offset points", "va": "center", "size": 7, "color": INK}
            axes.annotate(short(value), (value, centre), (4, 0), **beside)
    axes.set_xscale("log")
    lowest, largest = min(map(min, series.values())), max(map(max, series.values()))
    axes.set_xlim(lowest / 3, largest * 8)  # the numbers stand beside the bars
    axes.set_ylim(len(values) - 0.5, -0.5)
    plain(axes)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


@dataclass(frozen=True, eq=False)
class Strided:
    """A network whose first layer moves by ``stride``.

    Attributes:
        stride: in pixels.
        layers: the layers that are compared.
        operations: the multiplications of a forward pass.
        map: (h, w), one map of the first layer, of any sign.
    """

    stride: int
    layers: Sequence[Layer]
    operations: int
    map: Tensor


def strides(
    image: Tensor, variants: Sequence[Strided], *, heading: str = "", fig: AnyFigure | None = None
) -> Figure:
    """The same filters moved in steps of 1, 2, 4 pixels: the map, operations, map sizes and receptive
    fields of the layers above.

    Args:
        image: (c, h, w) in [0, 1].
        variants: one for each stride.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        UsageError: there are no variants.

    Example:
        >>> import torch
        >>> from featviz import anatomy, figures, load_model
        >>> layers = anatomy(load_model("zfmini"), (3, 96, 96)).select("conv")
        >>> variant = figures.Strided(2, layers, 12_000_000, torch.randn(46, 46))
        >>> figure = figures.strides(torch.rand(3, 96, 96), [variant])
    """
    if not variants:
        raise UsageError("0 variants: give the network of at least 1 stride", "variants")
    tile = min(240, round(1040 / (len(variants) + 1)))
    plot, left, high = 290, 56, 240
    names = [layer.name for layer in variants[0].layers]
    step = plot / max(1, len(names))
    lower = tile + 66
    width = 3 * (left + plot)
    height = lower + high + max(24, room_for_names(names, step))
    steps = ", ".join(str(variant.stride) for variant in variants)
    notes = [
        f"Above: the map of one filter, laid over the image in steps of {steps} pixels (middle grey "
        "= 0, the scale the same for all). Below: what that makes of all layers.",
    ]
    title = titled(heading, "the stride of the first layer")
    area = new_page(width, height, title, notes, fig)
    area.text(0, 8, f"image, {image.shape[-2]} x {image.shape[-1]}", size=9)
    area.image(0, 20, tile - 10, tile - 10, image)
    most = max(float(variant.map.abs().max()) for variant in variants) or 1.0
    for i, variant in enumerate(variants):
        x = (i + 1) * tile
        size = f"{variant.map.shape[0]} x {variant.map.shape[1]}"
        area.text(x, 8, f"stride {variant.stride}: {size}", size=9)
        area.plane(x, 20, tile - 10, tile - 10, variant.map, -most, most)
    panels = [area.axes(left + i * (left + plot), lower, plot, high) for i in range(3)]
    _operations(panels[0], variants)
    panels[1].set_title("side of the map, positions", size=9, color=INK, loc="left")
    panels[2].set_title("receptive field, pixels of the image", size=9, color=INK, loc="left")
    for shade, variant in zip(shades(len(variants)), variants, strict=True):
        line: Style = {"color": shade, "marker": "o", "markersize": 4, "linewidth": 1.6}
        label = f"stride {variant.stride}"
        sides = [max(layer.map_size) for layer in variant.layers]
        fields = [max(layer.field.size) for layer in variant.layers]
        panels[1].plot(range(len(sides)), sides, label=label, **line)
        panels[2].plot(range(len(fields)), fields, label=label, **line)
    for axes in panels[1:]:
        plain(axes)
        name_ticks(axes, names, step)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=8, frameon=False)
    return area.finish()


def _operations(axes: Axes, variants: Sequence[Strided]) -> None:
    """Multiplications of a forward pass, a bar for each stride."""
    operations = [variant.operations for variant in variants]
    rows = range(len(variants))
    axes.bar(rows, operations, color=shades(len(variants)), width=0.6)
    for i, value in enumerate(operations):
        axes.text(i, value, short(value), size=8, ha="center", va="bottom", color=INK)
    plain(axes)
    axes.grid(visible=False, axis="x")
    axes.set_title("multiplications in all convolutions", size=9, color=INK, loc="left")
    axes.set_xticks(rows, [f"stride {variant.stride}" for variant in variants], color=QUIET)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.margins(y=0.12)
