"""Curves over a transform: figure 5 of the paper, and the lecture's equivariance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from featviz.figures.page import INK, LINES, MARKS, QUIET, page, picture, plain
from featviz.geometry import Box
from featviz.methods.correspondence import Correspondence
from featviz.methods.sweep import SweepResult

_TILE = 0.95  # of an example, in inches


@dataclass(frozen=True)
class SweptTransform:
    """One transform of several images, as a row of the figure.

    Attributes:
        name: such as ``vertical translation``; ``unit`` what its values are in, such as ``pixels``.
        result: from `featviz.sweep`.
        examples: (e, e, c, h, w) in [0, 1]: e of the images, each under e values of the transform.
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
    rows: Sequence[SweptTransform], first: str, top: str, *, names: Sequence[str], heading: str = ""
) -> Figure:
    """Figure 5 of the paper: how far features move, in a first and in a top layer, while images are
    transformed.

    A row for each transform. From left to right: examples of the transformed images; the Euclidean
    distance between the features of the original and of the transformed image in the first layer,
    and in the top layer; the probability of the true class. A curve for each image.

    Args:
        rows: the transforms.
        first, top: names of layers in every result.
        names: of the images, in order.
        heading: said first in the title.
    """
    with_classes = any(row.classes is not None for row in rows)
    tiles = max(row.examples.shape[0] for row in rows)
    picture_width, plot, gap, row_height = (
        _TILE * max(row.examples.shape[1] for row in rows),
        2.75,
        0.62,
        _TILE * tiles + 0.75,
    )
    width = 0.3 + picture_width + (plot + gap) * (3 if with_classes else 2) + 0.15
    lines = [
        f"{heading + ': ' if heading else ''}features of transformed images, in the first layer and at the top",
        "distance: Euclidean, between the feature vectors of the original and of the transformed image; a curve for each image",
    ]
    figure, share = page(width, row_height * len(rows) + 0.5, lines)
    height = float(figure.get_size_inches()[1])
    titles = [f"distance in {first}", f"distance in {top}", "probability of the true class"]
    for i, row in enumerate(rows):
        bottom = share * height + 0.2 - row_height * (i + 1)
        _examples(figure, row, 0.15, bottom, width, height, tiles)
        curves: list[tuple[str, Tensor]] = [
            (titles[0], row.result.distances[first]),
            (titles[1], row.result.distances[top]),
        ]
        if row.classes is not None and row.result.probabilities is not None:
            index = torch.tensor(list(row.classes))[:, None, None].expand(
                -1, len(row.result.values), 1
            )
            curves.append((titles[2], row.result.probabilities.gather(2, index)[..., 0]))
        for j, (title, values) in enumerate(curves):
            left = 0.15 + picture_width + gap + (plot + gap) * j
            axes = figure.add_axes(
                (left / width, bottom / height, plot / width, (_TILE * tiles) / height)
            )
            _lines(axes, row.result.values, values, names)
            axes.set_xlabel(f"{row.name} ({row.unit})", size=8, color=QUIET, labelpad=2)
            axes.set_ylim(0, 1.05 if j == 2 else None)
            if i == 0:
                axes.set_title(title, size=9, weight="bold", color=INK, loc="left")
    handles, labels = figure.axes[-1].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="lower center",
        ncols=min(5, len(labels)),
        fontsize=7,
        frameon=False,
        borderpad=0.2,
    )
    return figure


def _examples(
    figure: Figure,
    row: SweptTransform,
    left: float,
    bottom: float,
    width: float,
    height: float,
    tiles: int,
) -> None:
    for i, images in enumerate(row.examples):
        for j, image in enumerate(images):
            place = left + _TILE * j, bottom + _TILE * (tiles - 1 - i)
            axes = figure.add_axes(
                (place[0] / width, place[1] / height, 0.96 * _TILE / width, 0.96 * _TILE / height)
            )
            picture(axes, image)
            if (i, j) == (0, 0):
                axes.set_title(row.name, size=9, weight="bold", color=INK, loc="left")
            if i == len(row.examples) - 1:
                axes.set_xlabel(f"{row.example_values[j]:.3g}", size=8, color=QUIET, labelpad=2)


def _lines(axes: Any, values: Sequence[float], curves: Tensor, names: Sequence[str]) -> None:
    for i, curve in enumerate(curves.tolist()):
        axes.plot(values, curve, color=LINES[i % len(LINES)], linewidth=1.4, label=names[i])
    plain(axes)
    axes.margins(x=0.01)


def equivariance(
    panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[float]]]],
    strides: Mapping[str, str],
    *,
    heading: str = "",
) -> Figure:
    """How far the features of a transformed image are from the transformed features, layer by
    layer.

    Args:
        panels: by what is on the horizontal axis (such as ``translation (pixels)``): its values,
            and by layer the errors there. Values that are nan, where there is nothing to compare,
            are left out.
        strides: by layer, what is said of it in the legend.
        heading: said first in the title.
    """
    size, gap = (4.3, 3.1), 0.65
    width = 0.65 + (size[0] + gap) * len(panels) - gap + 0.2
    lines = [
        f"{heading + ': ' if heading else ''}f(g(x)) against g(f(x)): do the features move along with the image?",
        "error |f(g(x)) - g(f(x))| / |g(f(x))| over the positions that see pixels of the image alone, before and after: 0 where "
        "features move exactly along, 1.4 or more where the two have nothing to do with each other",
        "circled: exactly 0, or rounding (below 1e-10); the axis is stretched towards 0 (square root)",
    ]
    figure, share = page(width, size[1] + 1.3, lines)
    height = float(figure.get_size_inches()[1])
    styles = {
        layer: (LINES[i % len(LINES)], MARKS[i % len(MARKS)]) for i, layer in enumerate(strides)
    }
    top = max(
        (e for _, errors in panels.values() for row in errors.values() for e in row if isfinite(e)),
        default=1.0,
    )
    for j, (title, (values, errors)) in enumerate(panels.items()):
        left = 0.65 + (size[0] + gap) * j
        bottom = share * height - 0.3 - size[1]
        axes = figure.add_axes((left / width, bottom / height, size[0] / width, size[1] / height))
        for layer, row in errors.items():
            colour, mark = styles[layer]
            axes.plot(
                values,
                row,
                color=colour,
                marker=mark,
                markersize=3,
                linewidth=1.3,
                label=f"{layer}, {strides[layer]}",
            )
            zeros = [(v, e) for v, e in zip(values, row, strict=True) if e < 1e-10]
            axes.plot(
                *zip(*zeros, strict=True),
                "o",
                color=colour,
                markersize=8,
                fillstyle="none",
                clip_on=False,
            ) if zeros else None
        plain(axes)
        axes.set_yscale("function", functions=(_root, np.square))
        axes.set(ylim=(0, 1.06 * top))
        axes.set_yticks(
            [tick for tick in (0, 0.01, 0.05, 0.1, 0.2, 0.5, 1, 1.5, 2) if tick <= 1.06 * top]
        )
        axes.set_xlabel(title, size=9, color=QUIET)
        if j == 0:
            axes.set_ylabel("error", size=9, color=QUIET)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="lower center", ncols=min(4, len(labels)), fontsize=8, frameon=False
    )
    return figure


def _root(values: Any) -> Any:
    return np.sqrt(np.clip(values, 0, None))


def correspondence(
    found: Correspondence,
    images: Tensor,
    boxes: Mapping[str, Sequence[Box]],
    *,
    chance: str | None = None,
    heading: str = "",
) -> Figure:
    """Table 1 of the paper, drawn: how alike the changes are that the occlusion of each part makes,
    at each layer.

    Args:
        found: from `featviz.correspondence`.
        images: (m, c, h, w) in [0, 1], some of them, as examples; ``boxes``: by part, where it is
            in each of these.
        chance: the part that is at random places, to which the others are compared.
        heading: said first in the title.
    """
    layers, parts = list(found.distances), list(boxes)
    colours = {
        part: QUIET if part == chance else LINES[i % len(LINES)] for i, part in enumerate(parts)
    }
    n = len(next(iter(found.distances[layers[0]].values())))
    tile, plot, gap, high = 1.3, 3.3, 0.35, 0.42 * len(parts) + 0.2
    width = max(1.25 + (plot + gap) * len(layers), 0.3 + tile * min(len(images), 6) + 0.1)
    lines = [
        f"{heading + ': ' if heading else ''}do parts correspond? What changes when the same part is covered in {n} images",
        "mean Hamming distance between the signs of two images' feature changes: the lower, the more alike the changes",
        "dot and thick line: mean over pairs and two standard errors; thin line: standard deviation over pairs"
        + (f"; dashed: the mean of {chance}" if chance else ""),
    ]
    figure, share = page(width, tile + high + 1.25, lines)
    height = float(figure.get_size_inches()[1])
    for i, image in enumerate(images[: int((width - 0.2) / tile)]):
        axes = figure.add_axes(
            (
                (0.15 + tile * i) / width,
                share - (tile + 0.05) / height,
                0.95 * tile / width,
                0.95 * tile / height,
            )
        )
        picture(axes, image)
        for part, places in boxes.items():
            top, left, bottom, right = places[i]
            axes.add_patch(
                Rectangle(
                    (left, top),
                    right - left,
                    bottom - top,
                    fill=False,
                    edgecolor="white",
                    linewidth=2.6,
                )
            )
            axes.add_patch(
                Rectangle(
                    (left, top),
                    right - left,
                    bottom - top,
                    fill=False,
                    edgecolor=colours[part],
                    linewidth=1.5,
                )
            )
    for j, layer in enumerate(layers):
        axes = figure.add_axes(
            ((1.1 + (plot + gap) * j) / width, 0.45 / height, plot / width, high / height)
        )
        _dots(axes, found, layer, colours, chance)
        axes.set_yticks(
            range(len(parts)), parts if j == 0 else [""] * len(parts), fontsize=8, color=INK
        )
        axes.set_title(layer, size=9, weight="bold", color=INK, loc="left")
        axes.set_xlabel("mean Hamming distance", size=8, color=QUIET)
    return figure


def _dots(
    axes: Any, found: Correspondence, layer: str, colours: Mapping[str, str], chance: str | None
) -> None:
    for row, part in enumerate(colours):
        mean, deviation, error = (
            measure(layer, part) for measure in (found.mean, found.deviation, found.error)
        )
        axes.errorbar(mean, row, xerr=deviation, color=colours[part], linewidth=0.9)
        axes.errorbar(
            mean, row, xerr=2 * error, color=colours[part], linewidth=3.2, marker="o", markersize=6
        )
        axes.annotate(
            f"{mean:.3f}",
            (mean, row),
            (0, 6),
            textcoords="offset points",
            size=7,
            color=colours[part],
            ha="center",
        )
    if chance is not None:
        axes.axvline(
            found.mean(layer, chance), color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0
        )
    plain(axes)
    axes.set(ylim=(len(colours) - 0.5, -0.7))
    axes.margins(x=0.06)
