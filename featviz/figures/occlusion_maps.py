"""The grey square: figure 7 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from featviz.figures.page import INK, LINES, QUIET, bare, page, picture
from featviz.methods.occlude import OcclusionMaps
from featviz.tiles import contrast, signed

_OTHER = "#d9d9de"  # classes beyond those that have a colour
_SIDE = 2.1  # of a panel, in inches


@dataclass(frozen=True)
class OccludedImage:
    """One image under the grey square, as a row of the figure.

    Attributes:
        image: (c, h, w) in [0, 1].
        maps: from `featviz.occlude`, with a score for each name below.
        response: the name of the feature map's score, and ``unit`` what to call that map.
        projections: (m, c, h, w): the map's projection in this image, then in others.
        label: the class whose probability is shown; ``probability`` the name of its score. None
            where there are no classes.
        name: said above the image.
    """

    image: Tensor
    maps: OcclusionMaps
    response: str
    unit: str
    projections: Tensor
    label: str | None = None
    probability: str | None = None
    name: str = ""


def occlusion(
    rows: Sequence[OccludedImage], *, classes: Sequence[str] | None = None, heading: str = ""
) -> Figure:
    """Figure 7 of the paper: what the network makes of an image while a grey square covers a part
    of it.

    From left to right: the image with one square; the total response of its strongest feature map,
        by where the square is; what
    that map sees (its projection in this image, framed, and in others); the probability of the
    class; the most probable class. Rows without classes end after the third.

    Args:
        rows: the images.
        classes: the names of the model's classes; None: numbers.
        heading: said first in the title.
    """
    with_classes = any(row.probability is not None for row in rows)
    extra = (0.22, 0.62, 0.22, 0.62, 0.1, 1.6)[
        : 6 if with_classes else 3
    ]  # inches beside each square: colour bars, legend
    starts = [0.15 + sum(extra[:j]) + j * _SIDE for j in range(len(extra))]
    lines = [
        f"{heading + ': ' if heading else ''}what becomes of an image's strongest response"
        + (", and of its class," if with_classes else "")
        + " while a grey square covers a part of it",
        "maps: the score by where the square's centre is; the frame is the square where the score is lowest, the red line on the "
        "colour bar the score of the whole image",
        "projections: middle grey = 0; framed in black that of this image, then those of the images that excite the map most",
    ]
    width = starts[-1] + (1.6 if with_classes else _SIDE + 0.15)
    figure, top = page(width, 0.4 + (_SIDE + 0.32) * len(rows), lines)
    height = float(figure.get_size_inches()[1])
    for i, row in enumerate(rows):
        bottom = top * height - 0.4 - (_SIDE + 0.32) * i - _SIDE
        axes = [
            figure.add_axes((left / width, bottom / height, _SIDE / width, _SIDE / height))
            for left in starts
        ]
        picture(axes[0], row.image)
        axes[0].set_title(row.name, size=8, color=INK, loc="left", pad=3)
        middle = row.maps.boxes[row.maps.boxes.shape[0] // 2, row.maps.boxes.shape[1] // 2]
        _frame(axes[0], middle.tolist(), fill="#808080")
        _map(figure, axes[1], row.maps, row.response, "viridis")
        axes[1].set_title(row.unit, size=8, color=INK, loc="left", pad=3)
        _projections(axes[2], row.projections)
        if with_classes:
            _class_panels(figure, axes[3:], row, classes)
        for axis, title in zip(axes[:5] if i == 0 else (), _TITLES, strict=False):
            axis.annotate(
                title,
                (0, 1),
                (0, 16),
                "axes fraction",
                "offset points",
                size=9,
                weight="bold",
                color=INK,
            )
    return figure


_TITLES = (
    "image",
    "response of its strongest map",
    "what that map sees",
    "probability of the class",
    "most probable class",
)


def _map(
    figure: Any,
    axes: Any,
    maps: OcclusionMaps,
    name: str,
    colours: str,
    limits: tuple[float, float] | None = None,
) -> None:
    """A score by the position of the window's centre, over the extent of the image, with a colour
    bar.
    """
    values = maps.scores[name].float()
    low, high = limits or (float(values.min()), max(float(values.max()), maps.baseline[name]))
    shown = axes.imshow(
        values.numpy(),
        cmap=colours,
        extent=_extent(maps),
        vmin=low,
        vmax=high,
        interpolation="nearest",
    )
    _whole(axes, maps)
    worst = divmod(int(values.argmin()), values.shape[1])
    _frame(axes, maps.boxes[worst].tolist())
    left, bottom, width, height = axes.get_position().bounds
    bar = figure.colorbar(
        shown, cax=figure.add_axes((left + width * 1.03, bottom, width * 0.05, height))
    )
    bar.ax.tick_params(labelsize=7, colors=QUIET, length=2)
    bar.outline.set_visible(False)
    bar.ax.axhline(maps.baseline[name], color="#e5173f", linewidth=2)


def _extent(maps: OcclusionMaps) -> tuple[float, float, float, float]:
    """Left, right, bottom, top of the map of window centres, in pixels of the image."""
    top, left, bottom, right = maps.boxes[0, 0].tolist()
    steps = [int(maps.boxes[-1, -1, axis]) / max(1, maps.boxes.shape[axis] - 1) for axis in (0, 1)]
    steps = [step or length for step, length in zip(steps, maps.size, strict=True)]
    middles = (top + bottom) / 2, (left + right) / 2
    starts = [middle - step / 2 for middle, step in zip(middles, steps, strict=True)]
    ends = [
        start + step * n for start, step, n in zip(starts, steps, maps.boxes.shape[:2], strict=True)
    ]
    return starts[1], ends[1], ends[0], starts[0]


def _whole(axes: Any, maps: OcclusionMaps) -> None:
    bare(axes)
    axes.set(xlim=(0, maps.size[1]), ylim=(maps.size[0], 0), facecolor="#f3f3f5", aspect="equal")


def _frame(axes: Any, box: list[int], fill: str = "none") -> None:
    """The outline of a box, white on black; with ``fill``, the box."""
    top, left, bottom, right = box
    for colour, width in (("none", 0.0),) if fill != "none" else (("black", 2.6), ("white", 1.2)):
        outline = Rectangle((left, top), right - left, bottom - top, clip_on=False)
        outline.set(facecolor=fill, edgecolor=colour, linewidth=width)
        axes.add_patch(outline)


def _projections(axes: Any, projections: Tensor) -> None:
    """This image's projection, framed, and up to three others, two by two, each cut to what it
    sees.
    """
    tiles = [_cropped(projection) for projection in projections[:4]]
    across = 1 if len(tiles) == 1 else 2
    for i, tile in enumerate(tiles):
        y, x = divmod(i, across)
        shown = signed(tile, contrast(tile[None])).clamp(0, 1)
        shown = shown.expand(3, -1, -1) if len(shown) == 1 else shown[:3]
        axes.imshow(shown.permute(1, 2, 0).numpy(), extent=(x + 0.02, x + 0.98, y + 0.98, y + 0.02))
    axes.add_patch(
        Rectangle((0.02, 0.02), 0.96, 0.96, fill=False, edgecolor="black", linewidth=1.8)
    )
    axes.set(xlim=(0, across), ylim=(across, 0), aspect="equal")
    axes.set_axis_off()


def _cropped(projection: Tensor) -> Tensor:
    """The square around what is not zero, (c, s, s), as far as the image goes."""
    there = (projection != 0).any(dim=0)
    if not bool(there.any()):
        return projection
    rows, cols = there.any(1).nonzero().flatten(), there.any(0).nonzero().flatten()
    side = min(max(int(rows[-1] - rows[0]), int(cols[-1] - cols[0])) + 1, *there.shape)
    top, left = (
        min(max(0, (int(span[0]) + int(span[-1]) + 1 - side) // 2), length - side)
        for span, length in zip((rows, cols), there.shape, strict=True)
    )
    return projection[:, top : top + side, left : left + side]


def _class_panels(
    figure: Any, axes: Sequence[Any], row: OccludedImage, classes: Sequence[str] | None
) -> None:
    """The probability of the class, the most probable class as regions, and their legend."""
    if row.probability is None or row.maps.classes is None:
        for axis in axes:
            axis.set_axis_off()
        return
    _map(figure, axes[0], row.maps, row.probability, "magma", (0.0, 1.0))
    axes[0].set_title(row.label or "", size=8, color=INK, loc="left", pad=3)
    found, counts = torch.unique(row.maps.classes, return_counts=True)
    order = counts.argsort(descending=True, stable=True)[: len(LINES)]
    place = torch.full_like(row.maps.classes, len(order))
    for i, k in enumerate(order.tolist()):
        place[row.maps.classes == found[k]] = i
    colours = [*LINES[: len(order)], _OTHER]
    axes[1].imshow(
        place.numpy(),
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(colours) - 0.5,
        extent=_extent(row.maps),
        interpolation="nearest",
    )
    _whole(axes[1], row.maps)
    names = [
        classes[int(found[k])] if classes else f"class {int(found[k])}" for k in order.tolist()
    ]
    shares = [float(counts[k]) / place.numel() for k in order.tolist()]
    handles = [
        Patch(color=c, label=f"{name}\n{share:.0%} of squares")
        for c, name, share in zip(colours, names, shares, strict=False)
    ]
    if len(found) > len(order):
        handles.append(Patch(color=_OTHER, label=f"{len(found) - len(order)} more"))
    axes[2].set_axis_off()
    axes[2].legend(
        handles=handles[:7],
        loc="upper left",
        bbox_to_anchor=(-0.04, 1.03),
        fontsize=7,
        frameon=False,
        handlelength=1.0,
        borderpad=0,
    )
