"""Occlusion by a grey square: figure 7 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from torch import Tensor

from featviz.errors import UsageError
from featviz.figures.page import (
    COLORS,
    HAIRLINE,
    INK,
    NEUTRAL,
    QUIET,
    AnyFigure,
    Area,
    Style,
    array,
    bare,
    fit,
    new_page,
    rgb,
    show,
    titled,
)
from featviz.figures.text import fitted
from featviz.methods.occlude import OcclusionMaps
from featviz.records.likeness import Likeness, cosine, remark
from featviz.tiles import AGAINST, FOR, HEAT_BASE, contrast, signed

_SIDE = 210  # pixels: of a panel
_BAR = 62  # pixels: beside a panel, for its colour bar and the numbers
_LEGEND = 160
_ABOVE = 22  # pixels: above a panel, for its name
_BELOW = 12
_OPACITY = 0.8
"""Of the colour where a score changes most: the image is seen under it."""


def _on_white(color: tuple[float, float, float]) -> list[float]:
    """The colour where a score changes most, as it is on white."""
    return [1 - _OPACITY * (1 - value) for value in color]


_DIVERGING = LinearSegmentedColormap.from_list(
    "occlusion", [_on_white(FOR), (1.0, 1.0, 1.0), _on_white(AGAINST)]
)
_TITLES = (
    "image",
    "response of its strongest map",
    "projections of that map",
    "probability of the class",
    "most probable class",
)


@dataclass(frozen=True, eq=False)
class OccludedImage:
    """One image under the grey square, as a row of the figure.

    Attributes:
        image: (c, h, w) in [0, 1].
        maps: from `featviz.occlude`, with a score for each name below.
        response: the name of the feature map's score, and ``unit`` what to call that map.
        projections: (m, c, h, w), any sign: the map's projection in this image, then in others, and
            ``rule`` what they are made under.
        others: (r, c, h, w), projections in this image of other maps that respond where this one
            does most: whether projections tell maps apart; None: it is not said.
        label: the class whose probability is shown; ``probability`` the name of its score. None
            where there are no classes.
        name: stands above the image.
    """

    image: Tensor
    maps: OcclusionMaps
    response: str
    unit: str
    projections: Tensor
    label: str | None = None
    probability: str | None = None
    name: str = ""
    rule: str = "deconvnet"
    others: Tensor | None = None

    @property
    def with_classes(self) -> bool:
        """Whether the probability of a class is known under each square."""
        return self.probability is not None and self.maps.classes is not None


def occlusion(
    rows: Sequence[OccludedImage],
    *,
    classes: Sequence[str] | None = None,
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """Figure 7 of the paper: an image's strongest feature map and its classification while a grey
    square covers a window of it.

    From left to right: the image with one square; the total response of its strongest feature map,
    by the position of the square; the projections of that map (in this image, framed, and in
    others); the probability of the class; the most probable class. Rows without classes end after
    the third.

    Args:
        rows: the images.
        classes: the names of the model's classes; None: numbers.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        UsageError: there are no rows.

    Source: Zeiler & Fergus, figure 7.

    Example:
        >>> import torch
        >>> from featviz import Unit, figures, load_model, occlude, project
        >>> from featviz.figures import OccludedImage
        >>> model, x = load_model("zfmini"), torch.randn(3, 96, 96)
        >>> maps = occlude(model, x, {"map": Unit("conv5", 7, at="map")}, window=48, stride=24)
        >>> projections = project(model, x, [Unit("conv5", 7)])
        >>> row = OccludedImage(torch.rand(3, 96, 96), maps, "map", "conv5, map 7", projections)
        >>> figure = figures.occlusion([row], heading="zfmini")
    """
    if not rows:
        raise UsageError("0 rows: give at least 1 occluded image", "rows")
    with_classes = any(row.with_classes for row in rows)
    # where each panel begins: image, response, projections, probability, most probable class
    panels = [0.0, _SIDE + 22, 2 * _SIDE + 22 + _BAR]
    scores = "an image's strongest response"
    if with_classes:
        panels += [panels[2] + _SIDE + 22, panels[2] + 2 * _SIDE + 22 + _BAR]
        scores += " and its class"
    width = panels[-1] + _SIDE
    if with_classes:
        width += 12 + _LEGEND
    notes = [
        "Maps: the score by the position of the square's centre, which also covers some of the image where it "
        "overlaps the border. Red: covering lowers the score; blue: it raises it; the image alone: it changes "
        "nothing. Frame: the square where the score is lowest. Line on the colour bar: the score of the "
        "image without a square.",
        f"Projections under {rows[0].rule}, each cut to its signal: middle grey = 0; framed: of this "
        "image; then: of the images that excite the map most.",
        *_remarks(rows),
    ]
    title = f"{scores} while a grey square covers some of the image"
    height = 14 + len(rows) * (_ABOVE + _SIDE + _BELOW)
    area = new_page(width, height, titled(heading, title), notes, fig)
    for x, title in zip(panels, _TITLES, strict=False):
        area.text(x, 8, title, size=9, weight="bold")
    for i, row in enumerate(rows):
        y = 14 + i * (_ABOVE + _SIDE + _BELOW) + _ABOVE
        _image(area, panels[0], y, row)
        _map(area, panels[1], y, row, row.response, row.unit)
        _projections(area, panels[2], y, row.projections)
        if row.with_classes and row.probability is not None:
            limits = (0.0, 1.0)
            _map(area, panels[3], y, row, row.probability, row.label or "", limits)
            _most_probable(area, panels[4], y, row, classes)
    return area.finish()


def _remarks(rows: Sequence[OccludedImage]) -> list[str]:
    """The line on projections that hardly differ from map to map, if they do not."""
    pairs = [
        cosine(row.projections[0], other)
        for row in rows
        if row.others is not None
        for other in row.others
    ]
    rule = rows[0].rule
    return list(filter(None, [remark(rule, {rule: Likeness.of(pairs, ())})]))


def _image(area: Area, x: float, y: float, row: OccludedImage) -> None:
    """The image with the square in its middle."""
    axes = area.image(x, y, _SIDE, _SIDE, row.image)
    _name(axes, row.name)
    boxes = row.maps.boxes
    top, left, bottom, right = boxes[boxes.shape[0] // 2, boxes.shape[1] // 2].tolist()
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, color="#808080", lw=0))


def _name(axes: Axes, name: str) -> None:
    axes.set_title(fitted(name, _SIDE, 8), size=8, color=INK, loc="left", pad=3)


def _panel(area: Area, x: float, y: float, row: OccludedImage) -> Axes:
    """Axes over the extent of the image, in its pixels."""
    axes = area.axes(x, y, *fit(row.maps.size, _SIDE, _SIDE))
    bare(axes)
    return axes


def _map(
    area: Area,
    x: float,
    y: float,
    row: OccludedImage,
    score: str,
    name: str,
    limits: tuple[float, float] | None = None,
) -> None:
    """How covering changes a score, by the position of the window's centre: in colour over the image, with
    a bar of the scores."""
    maps = row.maps
    values = maps.scores[score].float()
    baseline = maps.baseline[score]
    low = min(float(values.min()), baseline)
    high = max(float(values.max()), baseline)
    if limits is not None:
        low, high = limits
    reach = max(high - baseline, baseline - low) or 1.0
    axes = _panel(area, x, y, row)
    _name(axes, name)
    show(axes, _pale(row.image))
    veil = _veil((values - baseline) / reach)
    axes.imshow(array(veil), extent=_extent(maps), aspect="auto", interpolation="nearest")
    _full_extent(axes, maps)
    _frame(axes, maps.boxes[divmod(int(values.argmin()), values.shape[1])].tolist())
    width, height = fit(maps.size, _SIDE, _SIDE)
    shade = ScalarMappable(Normalize(baseline - reach, baseline + reach), _DIVERGING)
    bar = area.figure.colorbar(shade, cax=area.axes(x + width + 6, y, 10, height))
    bar.ax.set_ylim(low, max(high, low + 1e-6 * reach))
    bar.ax.tick_params(colors=QUIET, length=2)
    bar.outline.set_edgecolor(HAIRLINE)
    bar.ax.axhline(baseline, color=INK, linewidth=2)


def _pale(image: Tensor) -> Tensor:
    """An image (c, h, w) in pale grey, (3, h, w), on which colours are seen."""
    lowered, lift = HEAT_BASE
    gray: Tensor = lift + lowered * image.detach().float().cpu().mean(dim=0, keepdim=True)
    return gray.clamp(0, 1).expand(3, -1, -1)


def _veil(change: Tensor) -> Tensor:
    """The change of a score by each square, (rows, columns) from -1 to 1, as colours with their opacity:
    (rows, columns, 4)."""
    lowers = torch.tensor(FOR)[:, None, None]
    raises = torch.tensor(AGAINST)[:, None, None]
    colors = torch.where(change < 0, lowers, raises)
    return torch.cat([colors, _OPACITY * change.abs().clamp(max=1)[None]]).permute(1, 2, 0)


def _extent(maps: OcclusionMaps) -> tuple[float, float, float, float]:
    """Left, right, bottom, top of the map of window centres, in pixels of the image."""
    top, bottom = _span(maps, 0)
    left, right = _span(maps, 1)
    return left, right, bottom, top


def _span(maps: OcclusionMaps, axis: int) -> tuple[float, float]:
    """Where the map begins and ends along one axis, so that the middle of each of its cells is the
    middle of its window, also where the image cuts that short."""
    line = maps.boxes[:, 0] if axis == 0 else maps.boxes[0]
    starts, stops = line[:, axis], line[:, axis + 2]
    side = int((stops - starts).max())
    if len(line) == 1:
        return 0, maps.size[axis]
    # of the first two, the image may cut the starts or the stops
    step = max(int(starts[1] - starts[0]), int(stops[1] - stops[0]))
    middle = int(stops[0]) - side / 2
    start = middle - step / 2
    return start, start + step * len(line)


def _full_extent(axes: Axes, maps: OcclusionMaps) -> None:
    """Show all of the image, also where no centre of a window lies."""
    axes.set(xlim=(0, maps.size[1]), ylim=(maps.size[0], 0), facecolor="#f3f3f5")


def _frame(axes: Axes, box: list[int]) -> None:
    """The outline of a box, white on black, so that it is seen on every colour."""
    top, left, bottom, right = box
    for edge, width in (("black", 2.6), ("white", 1.2)):
        outline = Rectangle((left, top), right - left, bottom - top, clip_on=False)
        outline.set(facecolor="none", edgecolor=edge, linewidth=width)
        axes.add_patch(outline)


def _projections(area: Area, x: float, y: float, projections: Tensor) -> None:
    """This image's projection, framed, and up to three others, two by two, each cropped to its
    signal."""
    tiles = [_cropped(projection) for projection in projections[:4]]
    across = 1 if len(tiles) == 1 else 2
    step = _SIDE / across
    for i, tile in enumerate(tiles):
        row, column = divmod(i, across)
        axes = area.axes(x + column * step, y + row * step, step - 4, step - 4)
        axes.imshow(rgb(signed(tile, contrast(tile[None]))), interpolation="nearest")
        bare(axes)
        if i == 0:
            for side in axes.spines.values():
                side.set(color=INK, linewidth=2)


def _cropped(projection: Tensor) -> Tensor:
    """The square around what is not zero, (c, s, s), as far as the image goes."""
    there = (projection != 0).any(dim=0)
    if not bool(there.any()):
        return projection
    rows = there.any(1).nonzero().flatten().tolist()
    columns = there.any(0).nonzero().flatten().tolist()
    side = min(max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1, *there.shape)
    top = _start(rows, side, there.shape[0])
    left = _start(columns, side, there.shape[1])
    return projection[:, top : top + side, left : left + side]


def _start(indices: list[int], side: int, length: int) -> int:
    """Where a span of ``side`` begins that has these indices in its middle, inside 0 to length."""
    start = (indices[0] + indices[-1] + 1 - side) // 2
    return min(max(0, start), length - side)


def _most_probable(
    area: Area, x: float, y: float, row: OccludedImage, classes: Sequence[str] | None
) -> None:
    """The most probable class by where the square is, as regions, and their legend: the most common
    classes by name, the others together."""
    assert row.maps.classes is not None
    result, counts = torch.unique(row.maps.classes, return_counts=True)
    order = counts.argsort(descending=True, stable=True)[: len(COLORS)]
    common, shares = result[order].tolist(), (counts[order] / counts.sum()).tolist()
    kind = torch.full_like(row.maps.classes, len(common))
    handles = []
    for i, (k, share) in enumerate(zip(common, shares, strict=True)):
        kind[row.maps.classes == k] = i
        name = fitted(_class_name(k, classes), _LEGEND - 24, 7)
        percent = f"{share:.0%}" if share >= 0.01 else "< 1%"
        label = f"{name}\n{percent} of squares"
        handles.append(Patch(color=COLORS[i], label=label))
    if len(result) > len(common):
        handles.append(Patch(color=NEUTRAL, label=f"{len(result) - len(common)} more"))
    colors = ListedColormap([*COLORS[: len(common)], NEUTRAL])
    shade: Style = {
        "cmap": colors,
        "vmin": -0.5,
        "vmax": len(common) + 0.5,
        "interpolation": "nearest",
    }
    axes = _panel(area, x, y, row)
    axes.imshow(array(kind), extent=_extent(row.maps), aspect="auto", **shade)
    _full_extent(axes, row.maps)
    beside = area.axes(x + _SIDE + 12, y, _LEGEND, _SIDE)
    beside.set_axis_off()
    corner: Style = {
        "loc": "upper left",
        "bbox_to_anchor": (0, 1),
        "borderaxespad": 0,
        "borderpad": 0,
    }
    beside.legend(handles=handles, fontsize=7, frameon=False, handlelength=1.0, **corner)


def _class_name(k: int, classes: Sequence[str] | None) -> str:
    if classes is None:
        return f"class {k}"
    if k >= len(classes):
        message = (
            f"class {k} is the most probable, and there are {len(classes)} names: give them all"
        )
        raise UsageError(message, "classes")
    return classes[k]
