"""All that is drawn of one unit, large."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from featviz.figures.blocks import (
    DEAD,
    channels_note,
    edge_note,
    focus_note,
    most_filled,
    ranked_by,
    silent_note,
    strongest_responses,
    tile_size,
)
from featviz.figures.page import QUIET, AnyFigure, Area, described, new_page, short, titled
from featviz.figures.text import fitted
from featviz.records.exemplars import Exemplars
from featviz.records.listing import Listing
from featviz.tiles import sheet
from featviz.views import PATCH, VIEWS, ViewsLike, view_tiles, views_for

_GAP = 6  # pixels between tiles
_LABEL = 18  # pixels above a row of tiles
_LINE = 13  # pixels of a line below the patches


def unit(
    exemplars: Exemplars,
    channel: int,
    listing: Listing,
    *,
    views: ViewsLike = None,
    tile: int = 112,
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """One unit: a column for each of its exemplars, from the strongest at the left, with a row for
    each view under each rule, and below them the patches with score, key and label.

    Args:
        exemplars: from `featviz.project_exemplars`, of this unit and maybe of others.
        channel: which unit.
        listing: of the scan, ``result.listing``: keys and labels.
        views: as of `grid`; None: those of each rule.
        tile: longer side of a tile in pixels.
        heading: comes first in the title, such as the model's name.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        UnitError: the unit is not among the exemplars.
        UsageError: there is no such view.

    Source: Zeiler & Fergus, figure 2, one unit of it.

    Example:
        >>> from featviz import figures, load_model, open_images, project_exemplars, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> result = scan(model, images, "conv2", k=4)
        >>> exemplars = project_exemplars(model, images, result["conv2"], [5], rules=["deconvnet", "guided"])
        >>> figure = figures.unit(exemplars, 5, result.listing)
    """
    row = exemplars.row(channel)
    rules = list(exemplars.projections)
    title = titled(heading, f"layer {exemplars.layer.name}, unit {channel}")
    notes = [
        f"{described(exemplars.layer)}.",
        f"Its {strongest_responses(exemplars)}, from the left; below them score"
        f"{ranked_by(exemplars)}, image and class.",
        *focus_note([exemplars]),
        *edge_note([exemplars]),
        *channels_note([exemplars]),
    ]
    for rule in rules:
        notes += silent_note([exemplars], rule)
        notes += filter(None, [exemplars.remark(rule)])
    height, width = tile_size(exemplars.visible.shape, tile)
    lines = []
    for rule in rules:
        lines += [(rule, view) for view in views_for(rule, views)]
    lines.append((rules[0], PATCH))
    n = most_filled(exemplars)
    across = n * (width + _GAP) - _GAP
    down = len(lines) * (_LABEL + height + _GAP) + 3 * _LINE
    if exemplars.dead[row]:
        area = new_page(across, _LABEL, title, notes, fig)
        area.text(0, _LABEL / 2, DEAD, color=QUIET)
        return area.finish()
    area = new_page(across, down, title, notes, fig)
    top = 0
    for rule, view in lines:
        tiles = view_tiles(exemplars, row, rule, view, (height, width))[:n]
        text = "image patches" if view == PATCH else f"{rule}, {view}: {VIEWS[view]}"
        area.text(0, top + _LABEL / 2, fitted(text, across, 8))
        area.sheet(0, top + _LABEL, sheet(tiles, n, _GAP))
        top += _LABEL + height + _GAP
    _name_exemplars(area, exemplars, row, listing, top, width)
    return area.finish()


def _name_exemplars(
    area: Area, exemplars: Exemplars, row: int, listing: Listing, top: float, width: int
) -> None:
    """Write what each exemplar is below its patch."""
    for rank in torch.nonzero(exemplars.images[row] >= 0).flatten().tolist():
        image = int(exemplars.images[row, rank])
        score = short(float(exemplars.scores[row, rank]))
        texts = [score, listing.keys[image], listing.labels[image] or ""]
        for line, text in enumerate(texts):
            left = rank * (width + _GAP)
            area.text(left, top + (line + 0.5) * _LINE, fitted(text, width, 7), size=7, color=QUIET)
