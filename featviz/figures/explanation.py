"""The strongest units of one image, layer by layer, with where they look."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from featviz.errors import UsageError
from featviz.figures.blocks import tile_size
from featviz.figures.page import QUIET, AnyFigure, described, new_page, titled
from featviz.figures.text import fitted
from featviz.records.exemplars import Exemplars
from featviz.records.explanation import Explanation, LayerExplanation
from featviz.rules import is_relevance
from featviz.tiles import blur_of, heat_tiles, masked_tiles, picture_tiles, sheet, to_uint8

_SIDE = 112  # pixels: of the image under a unit
_LIKED = 3  # exemplars under it
_GAP, _HEAD, _LABEL = 8, 40, 14


def explain(
    result: Explanation,
    exemplars: Sequence[Exemplars] = (),
    *,
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """For each layer the units that respond most to an image: the image masked by each unit's
    projection, and below it what the unit likes best among all images.

    Args:
        result: from `featviz.explain`.
        exemplars: of some or all of these units, for the patches below them.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        UsageError: no unit of any layer responds.

    Example:
        >>> from featviz import explain, figures, load_model, open_images, scan
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> model, images = load_model("zfmini"), open_images(SyntheticImages(8), MINI_PREPROCESS)
        >>> result = scan(model, images, "conv2, conv3", k=3)
        >>> figure = figures.explain(explain(model, images, result, 2))
    """
    if not result.layers:
        raise UsageError(f"no unit responds to image {result.key!r}: there is nothing to draw")
    rows = [_row(result, own, exemplars) for own in result.layers]
    height, width = tile_size(result.image.shape, _SIDE)
    most = max(len(own.channels) for own in result.layers)
    across = width + 2 * _GAP + most * (width + _GAP)
    down = sum(_HEAD + _LABEL + row.shape[-2] + _GAP for row in rows)
    notes = [
        f"Below each layer its units by their response to this image, as a share of the strongest that "
        f"the unit has over all images. {_legend(result)}"
    ]
    if exemplars:
        notes.append("Below, the patches that the unit responds to most.")
    label = "" if result.label is None else f" ({result.label})"
    title = titled(heading, f"the strongest units of {result.key}{label}")
    area = new_page(across, max(down, height), title, notes, fig)
    visible = torch.ones(1, *result.image.shape[1:], dtype=torch.bool)
    area.sheet(0, _HEAD + _LABEL, picture_tiles(result.image[None], visible, (height, width))[0])
    top = 0
    left = width + 2 * _GAP
    for own, row in zip(result.layers, rows, strict=True):
        room = area.width - left
        area.text(left, top + 10, fitted(own.layer.name, room, 9, bold=True), weight="bold", size=9)
        area.text(left, top + 24, fitted(described(own.layer), room, 7), size=7, color=QUIET)
        for i, channel in enumerate(own.channels):
            name = f"{channel}: {float(own.shares[i]):.0%}"
            area.text(left + i * (width + _GAP), top + _HEAD + _LABEL - 7, name, size=7)
        area.sheet(left, top + _HEAD + _LABEL, row)
        top += _HEAD + _LABEL + row.shape[-2] + _GAP
    return area.finish()


def _legend(result: Explanation) -> str:
    if is_relevance(result.rule):
        return f"In colour: the relevance under {result.rule}, red above 0 and blue below."
    return f"The image is faded to grey where the signal under {result.rule} is weak."


def _row(result: Explanation, own: LayerExplanation, exemplars: Sequence[Exemplars]) -> Tensor:
    """The pictures of a layer's units side by side, (3, H, W) uint8."""
    n = len(own.channels)
    size = tile_size(result.image.shape, _SIDE)
    pictures = result.image.expand(n, *result.image.shape).float()
    visible = torch.ones(n, *result.image.shape[1:], dtype=torch.bool)
    side = result.image.shape[1], result.image.shape[2]
    draw = heat_tiles if is_relevance(result.rule) else masked_tiles
    signals = own.signals.float()
    tiles = draw(pictures, signals, visible, size, blur_of(side, side))
    rows = [sheet(tiles, n, _GAP)]
    liked = [_liked(exemplars, own, channel, size[1]) for channel in own.channels]
    if any(strip is not None for strip in liked):
        rows.append(_strip(liked, size[1]))
    return torch.cat(rows, dim=1)


def _liked(
    exemplars: Sequence[Exemplars], own: LayerExplanation, channel: int, width: int
) -> Tensor | None:
    """The strongest patches of a unit beside each other, as wide as the picture above; None where
    there are none."""
    for some in exemplars:
        if some.layer.name == own.layer.name and channel in some.channels:
            row = some.row(channel)
            side = (width - (_LIKED - 1)) // _LIKED
            shape = tile_size(some.visible.shape, side)
            shown = min(_LIKED, some.k)
            patches = picture_tiles(some.patches[row, :shown], some.visible[row, :shown], shape)
            return sheet(patches, shown)
    return None


def _strip(liked: Sequence[Tensor | None], width: int) -> Tensor:
    """Patches below pictures, white where there are none."""
    height = max(strip.shape[1] for strip in liked if strip is not None)
    across = len(liked) * (width + _GAP) - _GAP
    canvas = to_uint8(torch.ones(3, height + 2, across))
    for i, strip in enumerate(liked):
        if strip is not None:
            left = i * (width + _GAP)
            canvas[:, 2 : 2 + strip.shape[1], left : left + strip.shape[2]] = strip
    return canvas
