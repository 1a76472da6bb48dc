"""Exemplars of all layers on one page, in the layout of the paper's figure 2."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from featviz.errors import UsageError
from featviz.figures.blocks import (
    blocks_size,
    channels_note,
    draw_blocks,
    edge_note,
    silent_note,
    strongest_responses,
    unit_blocks,
    views_note,
)
from featviz.figures.page import QUIET, AnyFigure, described, new_page, titled
from featviz.figures.text import fitted
from featviz.records.exemplars import Exemplars
from featviz.views import ViewsLike

_HEAD, _BETWEEN = 36, 12  # pixels: above the blocks of a layer, between layers
_REMARK = 15  # pixels: for what has to be known of a layer's pictures


def top_patches(
    layers: Sequence[Exemplars],
    *,
    rule: str | None = None,
    views: ViewsLike = None,
    tile: int = 54,
    columns: int | None = None,
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """Figure 2 of the paper: for some units of every layer the k exemplars in one or more views,
    and beside them the patches that caused them.

    Args:
        layers: for each layer the exemplars of the units to show, in order.
        rule: which projections, if there are several; None: the first.
        views: ``masked``, ``projection``, ``heat``, or several of them, from the left; None: masked
            and projection, as `featviz.views.views_for` says.
        tile: side of a tile in pixels.
        columns: units beside each other; None: 3 or 4, whichever fills the rows.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        RuleError: there are no projections under the rule.
        UsageError: there are no layers, no units of a layer, or no such view.

    Source: Zeiler & Fergus, figure 2.

    Example:
        >>> from featviz import figures, load_model, open_images, project_exemplars, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> result = scan(model, images, "conv1, conv2", k=4)
        >>> shown = [project_exemplars(model, images, layer, [0, 3]) for layer in result.values()]
        >>> figure = figures.top_patches(shown, heading="zfmini")
    """
    if not layers:
        raise UsageError("0 layers: give the exemplars of at least 1", "layers")
    rule = layers[0].rule(rule)
    blocks = [unit_blocks(exemplars, rule, tile, views) for exemplars in layers]
    most = max(map(len, blocks))
    columns = min(most, columns or min((4, 3), key=lambda c: (-most % c, -c)))
    sizes = [blocks_size(own, min(columns, len(own))) for own in blocks]
    width = max(size[0] for size in sizes)
    remarks = [exemplars.remark(rule) for exemplars in layers]
    heads = [_HEAD + (_REMARK if remark else 0) for remark in remarks]
    height = sum(heads) + sum(size[1] + _BETWEEN for size in sizes) - _BETWEEN
    title = titled(heading, f"the {strongest_responses(layers[0])} of some units of each layer")
    notes = [
        f"Under {rule}, from the left: {views_note(rule, views)}.",
        *edge_note(layers),
        *channels_note(layers),
        *silent_note(layers, rule),
    ]
    area = new_page(width, height, title, notes, fig)
    top = 0
    for exemplars, own, size, remark, head in zip(
        layers, blocks, sizes, remarks, heads, strict=True
    ):
        layer = exemplars.layer
        name = fitted(layer.name, area.width, 10, bold=True)
        area.text(0, top + 10, name, size=10, weight="bold")
        area.text(0, top + 27, fitted(described(layer), area.width, 7.5), size=7.5, color=QUIET)
        area.text(0, top + 27 + _REMARK, fitted(remark, area.width, 7.5), size=7.5)
        draw_blocks(area, 0, top + head, exemplars, own, min(columns, len(own)))
        top += head + size[1] + _BETWEEN
    return area.finish()
