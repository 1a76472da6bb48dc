"""How alike the layers of one network, or of two, represent the same images."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from featviz.errors import UsageError
from featviz.figures.page import INK, QUIET, AnyFigure, Style, array, new_page, titled
from featviz.figures.text import layer_name, text_width

_CELL = 42  # pixels
_LARGEST = 620  # of the matrix
_NAMES = 8.0  # points


def cka(
    matrix: Tensor,
    rows: Sequence[str],
    columns: Sequence[str] | None = None,
    *,
    names: tuple[str, str] | None = None,
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """The linear CKA of layers with layers, as a heat map with its numbers.

    Args:
        matrix: (rows, columns) in [0, 1], from `featviz.measures.cka_matrix`.
        rows, columns: the names of the layers; None: those of the rows.
        names: of the two networks, of the rows and of the columns.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        UsageError: there are no layers, or not as many names as there are rows and columns.

    Source: Kornblith et al., ICML 2019, figure 3.

    Example:
        >>> import torch
        >>> from featviz import figures
        >>> figure = figures.cka(torch.eye(3), ["conv1", "conv2", "conv3"])
    """
    columns = rows if columns is None else columns
    if tuple(matrix.shape) != (len(rows), len(columns)) or not matrix.numel():
        raise UsageError(
            f"matrix of {tuple(matrix.shape)} for {len(rows)} rows and {len(columns)} columns: give a "
            "number for each pair of layers",
            "matrix",
        )
    cell = min(_CELL, _LARGEST / max(len(rows), len(columns)))
    width, height = cell * len(columns), cell * len(rows)
    row_names = [layer_name(name, 160, _NAMES) for name in rows]
    column_names = [layer_name(name, 160, _NAMES) for name in columns]
    left = 12 + max(text_width(name, _NAMES) for name in row_names)
    below = 12 + max(text_width(name, _NAMES) for name in column_names)
    between = (20.0, 20.0) if names else (0.0, 0.0)
    left, below = left + between[0], below + between[1]
    title = titled(heading, "how alike layers represent the same images")
    notes = [
        "Linear centred kernel alignment: 1 where one layer is the other but for rotation, scale and offset."
    ]
    area = new_page(left + width + 60, height + below, title, notes, fig)
    axes = area.axes(left, 0, width, height)
    shade: Style = {"cmap": "viridis", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
    shown = axes.imshow(array(matrix.float()), aspect="auto", **shade)
    axes.set_yticks(range(len(rows)), row_names, fontsize=_NAMES, color=INK)
    axes.set_xticks(range(len(columns)), column_names, fontsize=_NAMES, color=INK, rotation=90)
    axes.tick_params(length=0)
    if names is not None:
        axes.set_ylabel(names[0], fontsize=_NAMES, color=QUIET)
        axes.set_xlabel(names[1], fontsize=_NAMES, color=QUIET)
    if cell >= 24:
        for y, row in enumerate(matrix.tolist()):
            for x, value in enumerate(row):
                ink = "black" if value > 0.6 else "white"
                axes.text(x, y, f"{value:.2f}", size=6.5, color=ink, ha="center", va="center")
    bar = area.figure.colorbar(shown, cax=area.axes(left + width + 12, 0, 10, height))
    bar.ax.tick_params(colors=QUIET, length=2, labelsize=7)
    bar.outline.set_visible(False)
    return area.finish()
