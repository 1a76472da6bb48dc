"""Images that drive units, in a grid, beside the patches that drive them most."""

from __future__ import annotations

from math import ceil, sqrt

from matplotlib.figure import Figure
from torch import Tensor

from featviz.errors import UsageError
from featviz.figures.page import NARROWEST, QUIET, AnyFigure, new_page, short, titled
from featviz.figures.text import fitted
from featviz.records.exemplars import Exemplars
from featviz.records.maximized import Maximized
from featviz.tiles import resized, sheet, to_uint8
from featviz.units import Unit
from featviz.views import PATCH, view_tiles

_LABEL, _GAP = 30, 14  # pixels: above an image, between images
_ACROSS = 3  # patches in a row


def maximized(
    result: Maximized,
    exemplars: Exemplars | None = None,
    *,
    tile: int = 110,
    columns: int | None = None,
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """The images that `featviz.maximize` made, each below its unit and the activation reached.

    Args:
        result: the images.
        exemplars: of units of one layer; beside the image of each of these its strongest patches
            are drawn, 9 at most.
        tile: longer side of an image in pixels.
        columns: images beside each other; None: as many as make about a square, or fill the width of the
            heading.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        UsageError: there are no images, or ones of other than 1 or 3 channels.

    Example:
        >>> from featviz import Unit, figures, load_model, maximize
        >>> from featviz.models import MINI_PREPROCESS
        >>> units = [Unit("conv3", 7), Unit("conv3", 9)]
        >>> result = maximize(load_model("zfmini"), units, preprocess=MINI_PREPROCESS, steps=2)
        >>> figure = figures.maximized(result, heading="zfmini")
    """
    n, channels = result.images.shape[:2]
    if not n or channels not in (1, 3):
        raise UsageError(
            f"{n} images of {channels} channels: give at least one, of 1 or 3 channels"
        )
    scale = tile / max(result.images.shape[2:])
    height, width = (max(1, round(side * scale)) for side in result.images.shape[2:])
    cell = width if exemplars is None else 2 * width + 2
    columns = columns or _columns(n, cell, height + _LABEL)
    rows = ceil(n / columns)
    names, layer = _names(result)
    is_of_classes = all(isinstance(target, int) for target in result.targets)
    kind, kinds = ("class", "classes") if is_of_classes else ("unit", "units")
    title = titled(heading, f"images that drive {kinds}{layer}")
    notes = [f"Above each image: its {kind}, and the activation that was reached."]
    if exemplars is not None:
        notes.append("Beside it: the patches that drive the unit most.")
    step = height + _LABEL + _GAP
    across = min(n, columns) * (cell + _GAP) - _GAP
    area = new_page(across, rows * step - _GAP, title, notes, fig)
    pictures = to_uint8(resized(result.images.expand(-1, 3, -1, -1), (height, width)))
    for i, name in enumerate(names):
        x = (i % columns) * (cell + _GAP)
        y = (i // columns) * step
        note = "silent" if result.silent[i] else short(float(result.activations[i]))
        area.text(x, y + 7, fitted(name, cell, 7), size=7)
        area.text(x, y + 19, fitted(note, cell, 7), size=7, color=QUIET)
        area.sheet(x, y + _LABEL, pictures[i])
        patches = None if exemplars is None else _patches(result, i, exemplars, (height, width))
        if patches is not None:
            area.sheet(x + width + 2, y + _LABEL, patches)
    return area.finish()


def _names(result: Maximized) -> tuple[list[str], str]:
    """What each image is called, and for the title `` of`` the layer that all units are of; with it
    images are called by number."""
    layers = {target.layer if isinstance(target, Unit) else None for target in result.targets}
    layer = layers.pop()
    if layers or layer is None:
        return result.names, ""
    return [name.removeprefix(f"{layer}:") for name in result.names], f" of {layer}"


def _patches(
    result: Maximized, i: int, exemplars: Exemplars, size: tuple[int, int]
) -> Tensor | None:
    """The strongest patches of an image's unit as a sheet (3, h, w) uint8; None where the exemplars
    have no such unit."""
    target = result.targets[i]
    if not isinstance(target, Unit) or target.layer != exemplars.layer.name:
        return None
    if target.channel not in exemplars.channels:
        return None
    row = exemplars.channels.index(target.channel)
    side = (max(1, size[0] // _ACROSS - 1), max(1, size[1] // _ACROSS - 1))
    tiles = view_tiles(exemplars, row, "", PATCH, side)
    return sheet(tiles[: _ACROSS**2], _ACROSS)


def _columns(n: int, width: int, height: int) -> int:
    """How many of n images, of this size with their gaps and labels, are beside each other; rows are as
    full as they can be."""
    square = ceil(sqrt(n * height / width))
    most = max(square, (NARROWEST + _GAP) // (width + _GAP))
    return ceil(n / ceil(n / most))
