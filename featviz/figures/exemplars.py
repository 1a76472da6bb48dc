"""Exemplars and their projections: the grid of a layer, and all layers on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

import torch
from matplotlib.figure import Figure
from torch import Tensor

from featviz.errors import UsageError
from featviz.figures.blocks import (
    GAP,
    LABEL,
    blocks_size,
    channels_note,
    draw_blocks,
    edge_note,
    focus_note,
    ranked_by,
    silent_note,
    strongest_responses,
    unit_blocks,
    unit_tiles,
    views_note,
)
from featviz.figures.page import NARROWEST, QUIET, AnyFigure, described, new_page, titled
from featviz.figures.text import fitted
from featviz.records.exemplars import Exemplars
from featviz.records.maximized import Maximized
from featviz.tiles import sheet
from featviz.views import ViewsLike, views_for

_ABOVE = 50  # pixels: above the tiles of a layer in the overview
_REMARK = 14  # pixels: for what has to be known of a layer's pictures
_BETWEEN = 2  # pixels: between the tiles of the overview
_BELOW = 8  # pixels: below the tiles of a layer
_DEAD = 10  # dead units that are named


def grid(
    exemplars: Exemplars,
    *,
    rule: str | None = None,
    views: ViewsLike = None,
    maximized: Maximized | None = None,
    tile: int | None = None,
    columns: int | None = None,
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """Figure 2 of the paper for one layer: for each unit its k exemplars in one or more views, and
    beside them the patches that caused them.

    Within a unit, exemplars run from the strongest at the top left. In a projection zero is middle
    grey; the contrast is the same for the k of a unit (`featviz.tiles.contrast`). Units that no
    image activates are named, not drawn.

    Args:
        exemplars: from `featviz.project_exemplars`.
        rule: which projections, if there are several; None: the first.
        views: ``masked``, ``projection``, ``heat``, or several of them, from the left; None: masked
            and projection, as `featviz.views.views_for` says.
        maximized: from `featviz.maximize`; the image that was made to drive each unit is drawn at the
            right of its patches, if there is one and the unit's activation changed.
        tile: side of a tile in pixels; None: twice the receptive field, between 22 and 56.
        columns: units in a row; None: as many as make the page a little wider than high.
        heading: comes first in the title, such as the model's name.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        RuleError: there are no projections under the rule.
        UsageError: there are no units, or no such view.

    Source: Zeiler & Fergus, figure 2.

    Example:
        >>> from featviz import figures, load_model, open_images, project_exemplars, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> result = scan(model, images, "conv1", k=4)
        >>> figure = figures.grid(project_exemplars(model, images, result["conv1"], [0, 3]))
    """
    rule = exemplars.rule(rule)
    layer = exemplars.layer
    side = tile or max(22, min(56, 2 * max(layer.field.size)))
    blocks = unit_blocks(exemplars, rule, side, views, maximized)
    height, width = blocks.shape[-2:]
    columns = columns or _columns(len(blocks), width + GAP, height + LABEL + GAP)
    title = titled(heading, f"layer {layer.name}")
    image = "; an image that was made to drive the unit" if maximized is not None else ""
    notes = [
        f"{described(layer)}.",
        f"Above each unit its number. Its {strongest_responses(exemplars)} under {rule}, from the "
        f"left: {views_note(rule, views)}{image}.",
        *focus_note([exemplars]),
        *edge_note([exemplars]),
        *channels_note([exemplars]),
        *silent_note([exemplars], rule),
        *_remarks(exemplars, rule),
    ]
    area = new_page(*blocks_size(blocks, columns), title, notes, fig)
    draw_blocks(area, 0, 0, exemplars, blocks, columns)
    return area.finish()


def overview(
    layers: Sequence[Exemplars],
    *,
    rule: str | None = None,
    views: ViewsLike = None,
    tile: int = 56,
    dead: Mapping[str, Sequence[int]] | None = None,
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """All layers on one page: a row for each layer, the strongest exemplar of some units, its views
    above its patch.

    Args:
        layers: for each layer the exemplars of the units to show, in order; rows may differ in
            length. Dead units are named, not drawn.
        rule: which projections, if there are several; None: the first.
        views: ``masked``, ``projection``, ``heat``, or several of them, from above; None: masked
            and projection, as `featviz.views.views_for` says.
        tile: side of a tile in pixels.
        dead: by the name of a layer all of its dead units; None: those among the units to show are
            counted alone.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        RuleError: there are no projections under the rule.
        UsageError: there are no layers, or no such view.

    Source: Zeiler & Fergus, figure 2.

    Example:
        >>> from featviz import figures, load_model, open_images, project_exemplars, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> result = scan(model, images, "conv1, conv2", k=1)
        >>> shown = [project_exemplars(model, images, layer, [0, 3]) for layer in result.values()]
        >>> figure = figures.overview(shown, heading="zfmini")
    """
    if not layers:
        raise UsageError("0 layers: give the exemplars of at least 1", "layers")
    rule = layers[0].rule(rule)
    strips = [_strip(exemplars, exemplars.rule(rule), tile, views) for exemplars in layers]
    remarks = [exemplars.remark(rule) for exemplars in layers]
    above = [_ABOVE + (_REMARK if remark else 0) for remark in remarks]
    heights = [
        head + _strip_height(strip) + _BELOW for head, strip in zip(above, strips, strict=True)
    ]
    width = max(_strip_width(strip) for strip in strips)
    title = titled(
        heading, f"the strongest response{ranked_by(layers[0])} of some units of each layer"
    )
    notes = [
        f"Above each unit its number; below it under {rule}, from above: {views_note(rule, views)}.",
        *focus_note(layers),
        *edge_note(layers),
        *channels_note(layers),
        *silent_note(layers, rule),
    ]
    area = new_page(width, sum(heights), title, notes, fig)
    top = 0
    for exemplars, strip, remark, head, height in zip(
        layers, strips, remarks, above, heights, strict=True
    ):
        layer = exemplars.layer
        name = fitted(layer.name, area.width, 9, bold=True)
        note = fitted(described(layer) + _dead_units(exemplars, dead), area.width, 7)
        area.text(0, top + 12, name, size=9, weight="bold")
        area.text(0, top + 27, note, size=7, color=QUIET)
        area.text(0, top + 27 + _REMARK, fitted(remark, area.width, 7), size=7)
        living = _living(exemplars)
        for i, row in enumerate(living):
            x = i * (strip.shape[-1] + _BETWEEN)
            area.text(x, top + head - 3, str(exemplars.channels[row]), size=7, va="bottom")
        if living:
            area.sheet(0, top + head, sheet(strip.flatten(0, 1), len(living), _BETWEEN))
        else:
            area.text(0, top + head, "no image activates any of these units", color=QUIET)
        top += height
    return area.finish()


def _remarks(exemplars: Exemplars, rule: str) -> list[str]:
    """What a reader has to know of these projections, a line for each."""
    remarks = []
    if exemplars.smooth:
        remarks.append(
            f"Each projection is the mean over {exemplars.smooth} noisy copies of its image."
        )
    remark = exemplars.remark(rule)
    return [*remarks, remark] if remark else remarks


def _strip(exemplars: Exemplars, rule: str, tile: int, views: ViewsLike) -> Tensor:
    """The strongest exemplars of the living units, views above patches: (views + 1, units, 3, h, w)."""
    columns = [unit_tiles(exemplars, row, rule, tile, views)[:, 0] for row in _living(exemplars)]
    if not columns:
        return torch.empty(1 + len(views_for(rule, views)), 0, 3, tile, tile, dtype=torch.uint8)
    return torch.stack(columns, dim=1)


def _strip_width(strip: Tensor) -> int:
    return strip.shape[1] * (strip.shape[-1] + _BETWEEN)


def _strip_height(strip: Tensor) -> int:
    if not strip.shape[1]:
        return 12  # a line that says so
    return len(strip) * (strip.shape[-2] + _BETWEEN) - _BETWEEN


def _living(exemplars: Exemplars) -> list[int]:
    """The rows of the units that some image activates."""
    return (~exemplars.dead).nonzero().flatten().tolist()


def _dead_units(exemplars: Exemplars, dead: Mapping[str, Sequence[int]] | None) -> str:
    """The note on the units that no image activates: of the layer, or of those to show."""
    rows = exemplars.dead.nonzero().flatten().tolist()
    own: Sequence[int] = [exemplars.channels[row] for row in rows]
    total = f"these {len(exemplars.channels)}"
    if dead is not None:
        own, total = dead[exemplars.layer.name], str(exemplars.layer.channels)
    if not own:
        return ""
    verb = "is" if len(own) == 1 else "are"
    names = ", ".join(map(str, own[:_DEAD]))
    dots = ", …" if len(own) > _DEAD else ""
    return f"; {len(own)} of {total} units {verb} dead ({names}{dots})"


def _columns(n: int, width: int, height: int) -> int:
    """As many blocks in a row as make a page a little wider than high, and leave little of its last
    row empty; at least as many as the heading is wide."""
    ideal = sqrt(1.3 * n * height / width)
    near = range(max(1, round(0.7 * ideal)), min(n, round(1.4 * ideal)) + 1)
    best = min(near, key=lambda c: (-n % c) / c + abs(c - ideal) / ideal, default=n)
    return max(best, min(n, (NARROWEST + GAP) // width))
