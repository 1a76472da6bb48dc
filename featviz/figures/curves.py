"""Curves over a transform: figure 5 of the paper, and the lecture's equivariance; and the paper's
table 1, drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from featviz.errors import UsageError
from featviz.figures.page import (
    INK,
    MARKS,
    QUIET,
    AnyFigure,
    Area,
    Style,
    color,
    new_page,
    plain,
    title_axes,
    titled,
)
from featviz.figures.text import fitted, layer_name, text_width
from featviz.geometry import Box
from featviz.methods.correspondence import Correspondence
from featviz.methods.sweep import SweepResult

_TILE = 95  # pixels: an example
_PLOT, _GAP = 275, 62  # pixels: a plot of figure 5, left of it for its numbers


@dataclass(frozen=True, eq=False)
class SweptTransform:
    """One transform of several images, as a row of the figure.

    Attributes:
        name: such as ``vertical translation``; ``unit`` what its values are in, such as ``pixels``.
        result: from `featviz.sweep`.
        examples: (e, v, c, h, w) in [0, 1]: e of the images, each under v values of the transform.
        example_values: those values.
        classes: for each image the index of the class whose probability is drawn; None: no class
            is.
    """

    name: str
    unit: str
    result: SweepResult
    examples: Tensor
    example_values: Sequence[float]
    classes: Sequence[int] | None = None


def invariance(
    rows: Sequence[SweptTransform],
    first: str,
    top: str,
    *,
    names: Sequence[str],
    note: str = "",
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """Figure 5 of the paper: how far features move, in a first and in a top layer, while images are
    transformed.

    A row for each transform. From left to right: examples of the transformed images; the Euclidean
    distance between the features of the original and of the transformed image in the first layer,
    and in the top layer; the probability of a class. A curve for each image.

    Args:
        rows: the transforms.
        first, top: names of layers in every result.
        names: of the images, in order.
        note: below the title, such as whose class the probability is of.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        UsageError: there are no rows.

    Source: Zeiler & Fergus, figure 5.

    Example:
        >>> import torch
        >>> from featviz import Translate, figures, load_model, sweep
        >>> from featviz.figures import SweptTransform
        >>> model, x = load_model("zfmini"), torch.randn(2, 3, 96, 96)
        >>> result = sweep(model, x, ["conv1", "fc7"], Translate, [-8, 0, 8])
        >>> row = SweptTransform("translation", "pixels", result, torch.rand(2, 1, 3, 96, 96), [-8])
        >>> figure = figures.invariance([row], "conv1", "fc7", names=["a", "b"])
    """
    if not rows:
        raise UsageError("0 rows: give at least 1 swept transform", "rows")
    pictures = _TILE * max(row.examples.shape[1] for row in rows)
    titles = [f"distance in {first}", f"distance in {top}"]
    if any(row.classes is not None for row in rows):
        titles.append("probability of the class")
    notes = [
        "Distance: Euclidean, between the feature vectors of the original and of the "
        "transformed image. A curve for each image."
    ]
    if note:
        notes.append(note)
    title = titled(heading, "features of transformed images, in the first layer and at the top")
    heights = [24 + _TILE * row.examples.shape[0] + 52 for row in rows]
    width = pictures + len(titles) * (_GAP + _PLOT)
    columns = _legend_columns(names, width)
    legend = 20 * -(-len(names) // columns)
    area = new_page(width, sum(heights) + legend, title, notes, fig)
    y = 24.0
    for i, (row, height) in enumerate(zip(rows, heights, strict=True)):
        _examples(area, y, row)
        for j, (label, values) in enumerate(zip(titles, _curves(row, first, top), strict=False)):
            x = pictures + _GAP + j * (_GAP + _PLOT)
            axes = area.axes(x, y, _PLOT, height - 76)
            for image, curve in enumerate(values.tolist()):
                style: Style = {
                    "color": color(image),
                    "linestyle": _dashes(image),
                    "linewidth": 1.4,
                }
                axes.plot(row.result.values, curve, label=names[image], **style)
            plain(axes)
            axes.margins(x=0.01)
            axes.set_ylim(bottom=0)
            if j == 2:
                axes.set_ylim(0, 1.05)
            axes.set_xlabel(f"{row.name} ({row.unit})", size=8, color=QUIET, labelpad=2)
            if i == 0:
                title_axes(axes, label, _PLOT)
        y += height
    area.legend(0, y - 20, axes, columns)
    return area.finish()


def _legend_columns(names: Sequence[str], width: float) -> int:
    """As many names in a row of a legend as fit."""
    widest = max(text_width(name, 8) for name in names) + 56
    return max(1, min(len(names), int(width / widest)))


def _dashes(i: int) -> str:
    """Lines of the second round of colours are dashed, those of the third dotted."""
    return ("-", "--", ":")[i // 7 % 3]


def _curves(row: SweptTransform, first: str, top: str) -> list[Tensor]:
    """What is drawn of a transform, each (images, values)."""
    curves = [row.result.distances[first], row.result.distances[top]]
    probabilities = row.result.probabilities  # (images, values, classes)
    if row.classes is not None and probabilities is not None:
        own = [probabilities[i, :, k] for i, k in enumerate(row.classes)]
        curves.append(torch.stack(own))
    return curves


def _examples(area: Area, y: float, row: SweptTransform) -> None:
    """Transformed images, a row for each image, with the values below."""
    width = _TILE * row.examples.shape[1]
    for i, images in enumerate(row.examples):
        for j, image in enumerate(images):
            axes = area.image(_TILE * j, y + _TILE * i, _TILE - 4, _TILE - 4, image)
            if i == j == 0:
                title_axes(axes, row.name, width)
            if i == len(row.examples) - 1:
                axes.set_xlabel(f"{row.example_values[j]:.3g}", size=8, color=QUIET, labelpad=2)


def equivariance(
    panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[float]]]],
    strides: Mapping[str, str],
    *,
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """How far the features of a transformed image are from the transformed features, layer by
    layer.

    Args:
        panels: by the label of the horizontal axis (such as ``translation (pixels)``): its values,
            and by layer the errors there. Values that are nan are left out, and a layer that has no
            two others in any panel is named below the title.
        strides: by layer, its text in the legend.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        UsageError: there are no panels.

    Example:
        >>> from featviz import figures
        >>> panels = {"translation (pixels)": ([0, 1, 2], {"conv1": [0.0, 0.4, 0.0]})}
        >>> figure = figures.equivariance(panels, {"conv1": "stride 2"})
    """
    if not panels:
        raise UsageError("0 panels: give the errors of at least 1 transform", "panels")
    width, height, gap = 430, 310, 60
    title = titled(heading, "do the features f(x) move along with the image, g(x)?")
    notes = [
        "Error |f(g(x)) - g(f(x))| / |g(f(x))| over the positions that see pixels of the image"
        " alone, before and after: 0 where "
        "features move exactly along, 1.4 or more where the two have nothing to do with each "
        "other.",
        "Circled: exactly 0, or rounding (below 1e-10). The axis is stretched towards 0 "
        "(square root).",
    ]
    empty = [layer for layer in strides if not _has_curve(panels, layer)]
    if empty:
        notes.append(
            "Not drawn, since where the image is transformed no position sees pixels of it alone: "
            f"{', '.join(empty)}."
        )
    styles: dict[str, Style] = {}
    for i, layer in enumerate(strides):
        if layer in empty:
            continue
        label = f"{layer_name(layer, 200, 8)}, {strides[layer]}"
        styles[layer] = {"color": color(i), "marker": MARKS[i % len(MARKS)], "label": label}
    labels = [str(style["label"]) for style in styles.values()]
    total = len(panels) * (width + gap)
    columns = _legend_columns(labels, total)
    rows = -(-len(labels) // columns)
    area = new_page(total, height + 52 + 20 * rows, title, notes, fig)
    highest = 1.06 * _highest(panels)
    for j, (label, (values, errors)) in enumerate(panels.items()):
        axes = area.axes(gap + j * (width + gap) - 10, 8, width, height)
        for layer, row in errors.items():
            if layer in empty:
                continue
            axes.plot(values, row, markersize=3.5, linewidth=1.3, **styles[layer])
            _circle_zeros(axes, values, row, str(styles[layer]["color"]))
        plain(axes)
        axes.set_yscale("function", functions=(_root, np.square))
        axes.set(ylim=(0, highest))
        ticks = (0, 0.01, 0.05, 0.1, 0.2, 0.5, 1, 1.5, 2)
        axes.set_yticks([tick for tick in ticks if tick <= highest])
        axes.set_xlabel(label, size=9, color=QUIET)
        if j == 0:
            axes.set_ylabel("error", size=9, color=QUIET)
            first = axes
    area.legend(gap - 10, height + 56, first, columns)
    return area.finish()


def _has_curve(
    panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[float]]]], layer: str
) -> bool:
    """Whether a layer has two errors that are numbers, in any panel: one is that of no transform."""
    for _, errors in panels.values():
        row = errors.get(layer, ())
        if sum(map(isfinite, row)) >= min(2, len(row)) > 0:
            return True
    return False


def _highest(
    panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[float]]]],
) -> float:
    """The largest error that is a number."""
    highest = 0.0
    for _, errors in panels.values():
        for row in errors.values():
            highest = max(highest, *filter(isfinite, row), 0.0)
    return highest or 1.0


def _circle_zeros(axes: Axes, values: Sequence[float], row: Sequence[float], shade: str) -> None:
    zeros = [(value, error) for value, error in zip(values, row, strict=True) if error < 1e-10]
    if zeros:
        circles: Style = {"color": shade, "markersize": 8, "fillstyle": "none", "clip_on": False}
        axes.plot(*zip(*zeros, strict=True), "o", **circles)


def _root(values: Any) -> Any:
    return np.sqrt(np.clip(values, 0, None))


def correspondence(
    result: Correspondence,
    images: Tensor,
    boxes: Mapping[str, Sequence[Box]],
    *,
    chance: str | None = None,
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """Table 1 of the paper, drawn: how alike the changes are that the occlusion of each part makes,
    at each layer.

    Args:
        result: from `featviz.correspondence`.
        images: (m, c, h, w) in [0, 1], some of them, as examples.
        boxes: by part, its box in each of these.
        chance: the part that is at random positions, to which the others are compared.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Source: Zeiler & Fergus, section 4.3, table 1.

    Example:
        >>> import torch
        >>> from featviz import Box, correspondence, figures, load_model
        >>> boxes = {"corner": [Box(0, 0, 16, 16)] * 3, "middle": [Box(40, 40, 56, 56)] * 3}
        >>> result = correspondence(load_model("zfmini"), torch.randn(3, 3, 96, 96), "fc7", boxes)
        >>> figure = figures.correspondence(result, torch.rand(3, 3, 96, 96), boxes)
    """
    layers, parts = list(result.distances), list(boxes)
    shades = {part: color(i) for i, part in enumerate(parts)}
    if chance is not None:
        shades[chance] = QUIET
    n = len(result.distances[layers[0]][parts[0]])
    tile, plot, gap = 130, 330, 35
    high = 42 * len(parts) + 20
    names = [fitted(part, 180, 8) for part in parts]
    left = max(text_width(name, 8) for name in names) + 14
    width = max(left + (plot + gap) * len(layers) - gap, tile * min(len(images), 6))
    notes = [
        "Mean Hamming distance between the signs of two images' feature changes: the lower, "
        "the more alike the changes.",
        "Dot and thick line: mean over pairs and two standard errors. Thin line: standard "
        "deviation over pairs.",
    ]
    if chance is not None:
        notes.append(f"Dashed: the mean of {chance}.")
    title = f"changes of features when the same part is covered in {n} images"
    area = new_page(width, tile + 30 + high + 36, titled(heading, title), notes, fig)
    for i, image in enumerate(images[: int(area.width / tile)]):
        axes = area.image(tile * i, 0, tile - 6, tile - 6, image)
        for part, own in boxes.items():
            _outline(axes, own[i], shades[part])
    for j, layer in enumerate(layers):
        axes = area.axes(left + (plot + gap) * j, tile + 30, plot, high)
        _dots(axes, result, layer, shades, chance)
        labels = names if j == 0 else [""] * len(names)
        axes.set_yticks(range(len(parts)), labels, color=INK)
        title_axes(axes, layer, plot)
        axes.set_xlabel("mean Hamming distance", size=8, color=QUIET)
    return area.finish()


def _outline(axes: Axes, box: Box, shade: str) -> None:
    """A box, with white around its line so that it is seen on every image."""
    for edge, width in (("white", 2.6), (shade, 1.5)):
        outline = Rectangle((box.left, box.top), box.width, box.height, fill=False)
        outline.set(edgecolor=edge, linewidth=width)
        axes.add_patch(outline)


def _dots(
    axes: Axes,
    result: Correspondence,
    layer: str,
    shades: Mapping[str, str],
    chance: str | None,
) -> None:
    """A layer's mean, error and deviation, a row for each part."""
    for row, (part, shade) in enumerate(shades.items()):
        mean = result.mean(layer, part)
        error = 2 * result.error(layer, part)
        axes.errorbar(mean, row, xerr=result.deviation(layer, part), color=shade, linewidth=0.9)
        thick: Style = {"linewidth": 3.2, "marker": "o", "markersize": 6}
        axes.errorbar(mean, row, xerr=error, color=shade, **thick)
        label: Style = {"textcoords": "offset points", "size": 7, "color": INK, "ha": "center"}
        number = axes.annotate(f"{mean:.3f}", (mean, row), (0, 7), **label)
        # so that the dashed line does not cross it
        number.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6})
    if chance is not None:
        mean = result.mean(layer, chance)
        axes.axvline(mean, color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
    plain(axes)
    axes.set(ylim=(len(shades) - 0.5, -0.7))
    axes.margins(x=0.06)
