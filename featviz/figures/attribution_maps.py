"""Attributions and projections of images, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from featviz.errors import UsageError
from featviz.figures.page import AnyFigure, Area, fit, new_page, titled
from featviz.figures.text import fitted
from featviz.records.likeness import Likeness, cosine, remark
from featviz.tiles import contrast, signed

_SIDE = 168  # pixels: of a panel
_GAP = 10
_ABOVE = 18  # pixels: above a row, for its name
_HEAD = 20  # pixels: above all rows, for the names of columns
_RAISES, _LOWERS = (0.78, 0.05, 0.08), (0.05, 0.25, 0.75)  # red, blue


def attributions(
    images: Tensor,
    maps: Mapping[str, Tensor],
    *,
    projections: Mapping[str, Tensor] | None = None,
    names: Sequence[str] | None = None,
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """A row for each image: the image, its attributions as heat over it, its projections. A rule whose
    projections are alike in all images is named in the caption.

    Args:
        images: (n, c, h, w) in [0, 1].
        maps: by method (n, c, h, w) or (n, 1, h, w), any sign, as `featviz.attribute` gives them; the
            sum over channels is drawn.
        projections: by rule (n, c, h, w), any sign, as `featviz.project` gives them.
        names: stand above the rows, one for each image.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        UsageError: there are no images, or nothing to draw beside them, or not one map, projection
            or name for each.

    Example:
        >>> import torch
        >>> from featviz import attribute, figures, load_model, project, Unit
        >>> model, x = load_model("zfmini"), torch.randn(1, 3, 96, 96)
        >>> maps = {name: attribute(model, x, 3, method=name) for name in ("grad_cam", "deep_lift")}
        >>> projections = {"guided": project(model, x, Unit("fc8", 3), rule="guided")}
        >>> figure = figures.attributions(torch.rand(1, 3, 96, 96), maps, projections=projections)
    """
    projections = projections or {}
    _check(images, {**maps, **projections}, names)
    columns = ["image", *maps, *projections]
    wide, high = fit(images.shape, _SIDE, _SIDE)
    step = max(wide, _SIDE * 0.75) + _GAP
    row = _ABOVE + high + _GAP
    width = len(columns) * step - _GAP
    notes = [
        "Attributions: red raises the response, blue lowers it. Projections: middle grey = 0. "
        "Every panel has a scale of its own, up to the 99.5th percentile of its magnitudes.",
        *_remarks(projections),
    ]
    title = titled(heading, "attributions and projections")
    area = new_page(width, _HEAD + len(images) * row - _GAP, title, notes, fig)
    for column, name in enumerate(columns):
        words = fitted(name.replace("_", " "), step - 4, 9, bold=True)
        area.text(column * step, 8, words, size=9, weight="bold")
    for i, image in enumerate(images):
        y = _HEAD + i * row
        if names is not None:
            area.text(0, y + 8, fitted(names[i], width, 8), size=8)
        panels = [image]
        panels += [_heat(image, values[i]) for values in maps.values()]
        panels += [signed(values[i], contrast(values[i][None])) for values in projections.values()]
        _row(area, y + _ABOVE, step, panels)
    return area.finish()


def _remarks(projections: Mapping[str, Tensor]) -> list[str]:
    """A line for each rule whose projections hardly differ from image to image."""
    likenesses = {}
    for rule, signals in projections.items():
        pairs = (cosine(a, b) for a, b in combinations(signals, 2))
        likenesses[rule] = Likeness.of((), pairs)
    remarks = [remark(rule, likenesses) for rule in projections]
    return [text for text in remarks if text]


def _row(area: Area, y: float, step: float, panels: Sequence[Tensor]) -> None:
    for column, panel in enumerate(panels):
        area.image(column * step, y, _SIDE, _SIDE, panel)


def _check(
    images: Tensor, columns: Mapping[str, Sequence[object] | Tensor], names: Sequence[str] | None
) -> None:
    if not len(images) or not columns:
        raise UsageError(
            f"{len(images)} images and {len(columns)} attributions: give at least 1 of each", "maps"
        )
    counted = dict(columns)
    if names is not None:
        counted["names"] = names
    for name, values in counted.items():
        if len(values) != len(images):
            raise UsageError(
                f"{name!r} has {len(values)} for {len(images)} images: give one for each", "maps"
            )


def _heat(image: Tensor, values: Tensor) -> Tensor:
    """A map (c, h, w) of any sign as colour over the pale image: (3, h, w) in [0, 1]."""
    heat = values.detach().float().cpu().sum(dim=0, keepdim=True)
    heat = (heat / contrast(heat[None]).clamp(min=torch.finfo(heat.dtype).tiny)).clamp(-1, 1)
    pale = 0.55 + 0.45 * image.detach().float().cpu().mean(dim=0, keepdim=True)
    raises = torch.tensor(_RAISES)[:, None, None]
    lowers = torch.tensor(_LOWERS)[:, None, None]
    color = torch.where(heat > 0, raises, lowers)
    return pale + heat.abs() * (color - pale)
