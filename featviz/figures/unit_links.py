"""A unit between those that make up its response and those that it feeds."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from featviz.errors import UsageError
from featviz.figures.blocks import GAP, LABEL, edge_note, silent_note, unit_block, views_note
from featviz.figures.page import QUIET, AnyFigure, new_page, titled
from featviz.figures.text import fitted
from featviz.records.exemplars import Exemplars
from featviz.records.links import Link, Links
from featviz.units import Unit
from featviz.views import ViewsLike

_TILE = 30  # pixels: of the units around
_OWN = 48  # of the unit itself
_HEAD = 26  # above a row


def links(
    result: Links,
    unit: Unit,
    layers: Sequence[Exemplars],
    *,
    n: int = 5,
    rule: str | None = None,
    views: ViewsLike = "masked",
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """A unit, the units before it that excite and that inhibit it, and those that it feeds, each by its
    exemplars, with its share of the response.

    Args:
        result: from `featviz.links`.
        unit: in the middle.
        layers: exemplars that have the unit and all that are linked with it: see `Links.linked`.
        n: how many of each kind, as of `Links.exciting`.
        rule: which projections, if there are several; None: the first.
        views: as of `grid`.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        LayerError: the unit's layer has no links.
        UsageError: a linked unit is not among the exemplars.

    Source: Olah et al., Zoom In: An Introduction to Circuits, Distill 2020.

    Example:
        >>> from featviz import Unit, figures, links, load_model, open_images, project_exemplars, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> found = scan(model, images, "conv1, conv2", k=4)
        >>> result = links(model, images, found, {"conv2": [7]})
        >>> shown = [project_exemplars(model, images, layer) for layer in found.values()]
        >>> figure = figures.links(result, Unit("conv2", 7), shown)
    """
    kinds = {
        "excite it": result.exciting(unit, n),
        "inhibit it": result.inhibiting(unit, n),
        "are fed by it": result.feeding(unit, n),
    }
    rows = {kind: own for kind, own in kinds.items() if own}
    rule = layers[0].rule(rule) if layers else ""
    own = _block(layers, unit, rule, _OWN, views)
    blocks = {}
    for kind, linked in rows.items():
        blocks[kind] = [_block(layers, link.unit, rule, _TILE, views) for link in linked]
    width = max([own.shape[2], *map(_width, blocks.values())])
    height = own.shape[1] + LABEL + sum(map(_height, blocks.values()))
    rest = float(result.rests[unit.layer][unit.channel])
    response = float(result.responses[unit.layer][unit.channel])
    notes = [
        f"Shares of its response, the mean over {int(result.exemplars[unit.layer][unit.channel])} "
        f"exemplars ({response:.3g}); biases and shifts add {rest:.3g}. "
        f"From the left under {rule}: {views_note(rule, views)}.",
        *edge_note(layers),
        *silent_note(layers, rule),
        *[f"{own.layer.name}: {own.remark(rule)}" for own in layers if own.remark(rule)],
    ]
    title = titled(heading, f"unit {unit.channel} of {unit.layer}, and the units linked with it")
    area = new_page(width, height, title, notes, fig)
    area.sheet(0, 0, own)
    top = own.shape[1] + LABEL
    for kind, linked in rows.items():
        area.text(0, top + _HEAD - LABEL - 2, f"units that {kind}", size=8.5, weight="bold")
        for i, (link, block) in enumerate(zip(linked, blocks[kind], strict=True)):
            left = i * (block.shape[2] + GAP)
            name = fitted(_named(link), block.shape[2], 7)
            area.text(left, top + _HEAD + LABEL - 8, name, size=7, color=QUIET)
            area.sheet(left, top + _HEAD + LABEL, block)
        top += _height(blocks[kind])
    return area.finish()


def _named(link: Link) -> str:
    return f"{100 * link.share:+.0f}% {link.unit.layer}:{link.unit.channel}"


def _block(
    layers: Sequence[Exemplars], unit: Unit, rule: str, side: int, views: ViewsLike
) -> Tensor:
    """The tiles of a unit."""
    for exemplars in layers:
        if exemplars.layer.name == unit.layer and unit.channel in exemplars.channels:
            return unit_block(exemplars, exemplars.row(unit.channel), rule, side, views)
    raise UsageError(
        f"no exemplars of unit {unit.channel} of layer {unit.layer!r}, which is shown: project it too",
        "layers",
    )


def _width(blocks: Sequence[Tensor]) -> int:
    return sum(block.shape[2] + GAP for block in blocks) - GAP


def _height(blocks: Sequence[Tensor]) -> int:
    return _HEAD + LABEL + max(block.shape[1] for block in blocks) + GAP
