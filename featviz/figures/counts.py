"""What convolution costs and saves: connections, parameters, strides, sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from featviz.figures.maps import shown
from featviz.figures.page import DPI, INK, QUIET
from featviz.methods.connections import Connections
from featviz.units import Layer

_COLOURS = ("#1864ab", "#66a80f", "#adb5bd")


def sharing(found: Mapping[str, Connections], *, heading: str = "") -> Figure:
    """Connections and parameters of each layer as convolution, as locally connected and as fully
    connected, on a log scale.

    Args:
        found: from `featviz.connections`.
        heading: said first in the title.
    """
    names = list(found)
    rows = max(len(names), 3)
    figure = Figure(figsize=(11, 2.0 + 0.62 * rows), dpi=DPI, facecolor="white")
    left, right = figure.subplots(1, 2, sharey=True)
    tall = 100 * (2.0 + 0.62 * rows)
    figure.subplots_adjust(left=0.13, right=0.97, top=1 - 100 / tall, bottom=62 / tall, wspace=0.08)
    sparse = [[c.sparse for c in found.values()], [c.dense for c in found.values()]]
    numbers = [
        [getattr(c, kind) for c in found.values()] for kind in ("convolution", "local", "full")
    ]
    _bars(
        left,
        sparse,
        ("convolution, locally connected", "fully connected"),
        (_COLOURS[0], _COLOURS[2]),
        rows,
    )
    _bars(right, numbers, ("convolution", "locally connected", "fully connected"), _COLOURS, rows)
    left.set_title("connections: sparse interactions", size=10, color=INK)
    right.set_title("parameters: the same numbers at every place", size=10, color=INK)
    labels = [
        f"{n}\n{'x'.join(map(str, c.inputs))}\nto {'x'.join(map(str, c.outputs))}"
        for n, c in found.items()
    ]
    left.set_yticks(range(len(names)), labels, size=7.5)
    left.invert_yaxis()
    title = f"{heading + ': ' if heading else ''}what convolution saves"
    figure.text(0.012, 1 - 20 / tall, title, size=11, weight="bold", color=INK, va="center")
    note = "each layer between its own input and output (channels x height x width), if it were connected otherwise"
    figure.text(0.012, 1 - 42 / tall, note, size=8, color=QUIET, va="center")
    return figure


def _bars(
    axes: Any,
    series: Sequence[Sequence[int]],
    labels: Sequence[str],
    colours: Sequence[str],
    rows: int,
) -> None:
    """Groups of horizontal bars with their numbers."""
    thick = 0.8 / len(series)
    for i, (values, label, colour) in enumerate(zip(series, labels, colours, strict=True)):
        places = [row + (i - (len(series) - 1) / 2) * thick for row in range(len(values))]
        axes.barh(places, values, height=0.92 * thick, color=colour, label=label)
        for place, value in zip(places, values, strict=True):
            axes.text(value * 1.15, place, short(value), size=6.5, color=INK, va="center")
    axes.set_xscale("log")
    largest = max(max(values) for values in series)
    axes.set_xlim(min(min(values) for values in series) / 3, largest * 8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7.5)
    axes.legend(
        fontsize=7.5,
        frameon=False,
        ncols=3,
        loc="upper center",
        bbox_to_anchor=(0.5, -24 / (62 * rows)),
    )


@dataclass(frozen=True)
class Strided:
    """A network whose first layer moves by ``stride``: its layers, the multiplications of a forward
    pass, one of its maps.
    """

    stride: int
    layers: Sequence[Layer]
    operations: int
    map: Tensor


def strides(image: Tensor, found: Sequence[Strided], *, title: str = "") -> Figure:
    """The same filters moved by 1, 2 and 4 pixels: the map, operations, map sizes and receptive
    fields of the layers above.

    Args:
        image: (c, h, w) in [0, 1].
        found: one for each stride.
        title: in bold.
    """
    figure = Figure(figsize=(11, 7.2), dpi=DPI, facecolor="white")
    upper = figure.add_gridspec(
        1, len(found) + 1, left=0.04, right=0.98, top=0.86, bottom=0.53, wspace=0.15
    )
    lower = figure.add_gridspec(1, 3, left=0.07, right=0.98, top=0.42, bottom=0.12, wspace=0.26)
    axes = figure.add_subplot(upper[0])
    axes.imshow(shown(image), interpolation="nearest")
    axes.set_title(f"image, {image.shape[-2]} x {image.shape[-1]}", size=9, color=INK)
    axes.set_axis_off()
    most = max(float(one.map.abs().max()) for one in found) or 1.0
    for i, one in enumerate(found):
        axes = figure.add_subplot(upper[i + 1])
        axes.imshow(one.map.numpy(), cmap="gray", vmin=-most, vmax=most, interpolation="nearest")
        axes.set_title(
            f"stride {one.stride}: {one.map.shape[0]} x {one.map.shape[1]}", size=9, color=INK
        )
        axes.set_axis_off()
    _operations(figure.add_subplot(lower[0]), found)
    sides = {one.stride: {info.name: info.shape[-1] for info in one.layers} for one in found}
    fields = {one.stride: {info.name: max(info.field.size) for info in one.layers} for one in found}
    _lines(figure.add_subplot(lower[1]), sides, "side of the map, positions")
    _lines(figure.add_subplot(lower[2]), fields, "receptive field, pixels of the image")
    figure.text(0.012, 0.972, title or "strides", size=11, weight="bold", color=INK, va="center")
    note = "above: the map of one filter, laid over the image at every 1st, 2nd or 4th pixel (middle grey = 0)"
    figure.text(
        0.012,
        0.942,
        f"{note}; below: what that makes of the whole network",
        size=8,
        color=QUIET,
        va="center",
    )
    return figure


def _operations(axes: Any, found: Sequence[Strided]) -> None:
    """Multiplications of the whole network, a bar for each stride."""
    colours = _ramp(len(found))
    labels = [f"stride {one.stride}" for one in found]
    axes.bar(labels, [one.operations for one in found], color=colours, width=0.6)
    for i, one in enumerate(found):
        axes.text(
            i, one.operations, short(one.operations), size=8, ha="center", va="bottom", color=INK
        )
    axes.set_title("multiplications in all convolutions", size=9, color=INK)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.margins(y=0.12)


def _lines(
    axes: Any, values: Mapping[Any, Mapping[str, int]], title: str, prefix: str = "stride "
) -> None:
    """One line for each of several networks over the layers."""
    for colour, (key, line) in zip(_ramp(len(values)), values.items(), strict=True):
        axes.plot(
            range(len(line)),
            list(line.values()),
            "o-",
            ms=4,
            lw=1.6,
            color=colour,
            label=f"{prefix}{key}",
        )
        names = list(line)
    axes.set_xticks(
        range(len(names)),
        names,
        size=7.5,
        rotation=30 if len(names) > 6 or max(map(len, names)) > 6 else 0,
    )
    axes.set_title(title, size=9, color=INK)
    axes.set_ylim(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", labelsize=8)
    axes.legend(fontsize=8, frameon=False)


def _ramp(n: int) -> list[str]:
    return [
        ("#1864ab", "#4dabf7", "#99a5b0", "#e8a33d", "#d9480f")[
            i * 5 // max(n, 1) if n <= 5 else i % 5
        ]
        for i in range(n)
    ]


def short(value: float) -> str:
    """A number in three digits: 27.7 k, 30.7 M."""
    for limit, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"
