"""Accuracies as tables and curves: layers left out, and a linear classifier on each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from featviz.errors import UsageError
from featviz.figures.page import COLORS, INK, NEUTRAL, QUIET, Style, color, new_page, plain, titled
from featviz.figures.text import (
    DPI,
    fitted,
    name_ticks,
    room_for_names,
    room_left_of_names,
    text_width,
    written,
)

_PLOT = 480  # pixels: the bars


def ablation(
    rows: Sequence[Mapping[str, Any]],
    *,
    heading: str = "",
    note: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Table 3 of the paper with its numbers as bars: a network in each row, its parameters, its
    errors in training and test.

    Args:
        rows: with ``network``, ``parameters``, ``train error`` and ``test error`` (0 to 1); the
            first is what others are compared to. Errors of several seeds are means, with the ends of
            their intervals: ``test error low``, ``test error high``, and for ``train error`` alike.
        heading: comes first in the title.
        note: lines below it.
        ax: axes to draw on, without heading and note; None: a new figure.

    Raises:
        UsageError: there are no rows.

    Source: Zeiler & Fergus, table 3.

    Example:
        >>> from featviz import figures
        >>> row = {"network": "as it is", "parameters": 5000, "train error": 0.1, "test error": 0.2}
        >>> figure = figures.ablation([row])
    """
    if not rows:
        raise UsageError("0 rows: give the errors of at least 1 network", "rows")
    if ax is not None:
        _errors(ax, rows)
        written(ax)
        return ax.figure.figure  # also where the axes lie in a subfigure
    labels = [_label(row) for row in rows]
    left = 14 + max(text_width(line, 8, bold=True) for line in "\n".join(labels).split("\n"))
    high = 44 * len(rows) + 10
    title = titled(heading, "error without each layer, and parameters")
    notes = note.splitlines()
    notes.append(
        "Dotted: the test error of the first row. Below each network the number of its parameters."
    )
    area = new_page(left + _PLOT, 30 + high + 40, title, notes)
    axes = area.axes(left, 30, _PLOT, high)
    _errors(axes, rows)
    return area.finish()


def _errors(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Two bars for each network, with their numbers."""
    bars = (("train error", "training", NEUTRAL, -0.19), ("test error", "test", COLORS[0], 0.19))
    largest = 5.0
    for key, label, shade, shift in bars:
        values = [100 * row[key] for row in rows]
        largest = max(largest, *values)
        centres = [i + shift for i in range(len(rows))]
        axes.barh(centres, values, height=0.34, color=shade, label=label)
        for centre, value, row in zip(centres, values, rows, strict=True):
            end = value
            if f"{key} high" in row:
                end = min(100.0, 100 * row[f"{key} high"])
                low = max(0.0, 100 * row[f"{key} low"])
                axes.plot([low, end], [centre, centre], color=INK, linewidth=1)
                largest = max(largest, end)
            beside: Style = {"textcoords": "offset points", "va": "center", "size": 8, "color": INK}
            number = axes.annotate(f"{value:.1f}", (end, centre), (4, 0), **beside)
            # so that the dotted line does not cross it
            number.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.4})
    plain(axes)
    axes.grid(visible=False)
    axes.axvline(100 * rows[0]["test error"], color=COLORS[0], linewidth=0.9, linestyle=":")
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows], color=INK)
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1.12 * largest)
    axes.set_xlabel("error, % of images", size=8, color=QUIET)
    corner: Style = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0.2}
    axes.legend(ncols=2, fontsize=8, frameon=False, **corner)


def _label(row: Mapping[str, Any]) -> str:
    return f"{fitted(row['network'], 300, 8)}\n{row['parameters']:,} parameters"


def layer_probe(
    rows: Sequence[Mapping[str, Any]],
    *,
    chance: float,
    heading: str = "",
    note: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Table 7 of the paper as a curve: the accuracy of a linear classifier on the features of each
    layer, by depth.

    Args:
        rows: with ``weights`` (which curve), ``layer``, ``train accuracy`` and ``test accuracy`` (0
            to 1).
        chance: the accuracy of naming the most frequent class whatever the image.
        heading: comes first in the title.
        note: below it.
        ax: axes to draw on, without heading and note; None: a new figure.

    Raises:
        UsageError: there are no rows.

    Source: Zeiler & Fergus, table 7.

    Example:
        >>> from featviz import figures
        >>> row = {"weights": "trained", "layer": "fc7", "train accuracy": 0.9, "test accuracy": 0.8}
        >>> figure = figures.layer_probe([row], chance=0.1)
    """
    if not rows:
        raise UsageError("0 rows: give the accuracy of at least 1 layer", "rows")
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    if ax is not None:
        _accuracies(ax, rows, layers, chance, ax.bbox.width / ax.figure.dpi * DPI)
        written(ax)
        return ax.figure.figure  # also where the axes lie in a subfigure
    step = 75
    plot = max(560, step * len(layers))
    title = titled(heading, "a linear classifier on each layer")
    notes = [note] if note else []
    notes.append("Dotted: naming the most frequent class of the test images, whatever the image.")
    height = 26 + 320 + room_for_names(layers, plot / len(layers)) + 20
    left = max(54, room_left_of_names(layers, plot / len(layers)))
    area = new_page(left + plot + 80, height, title, notes)
    axes = area.axes(left, 26, plot, 320)
    _accuracies(axes, rows, layers, chance, plot)
    return area.finish()


def _accuracies(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    layers: Sequence[str],
    chance: float,
    width: float,
) -> None:
    """Two curves for each kind of weights, in test and in training."""
    for i, weights in enumerate(dict.fromkeys(row["weights"] for row in rows)):
        own = [row for row in rows if row["weights"] == weights]
        depths = [layers.index(row["layer"]) for row in own]
        test = [100 * row["test accuracy"] for row in own]
        training = [100 * row["train accuracy"] for row in own]
        line: Style = {"color": color(i), "linewidth": 1.8, "markersize": 5}
        axes.plot(depths, test, "o-", label=f"{weights}, test", **line)
        faint: Style = {"color": color(i), "linewidth": 1.2, "alpha": 0.7}
        axes.plot(depths, training, "--", label=f"{weights}, training", **faint)
        above = 7 if i == 0 else -13  # the numbers of two curves do not meet
        label: Style = {"textcoords": "offset points", "size": 8, "ha": "center", "color": INK}
        for depth, value in zip(depths, test, strict=True):
            number = axes.annotate(f"{value:.0f}", (depth, value), (0, above), **label)
            # so that the dotted line does not cross it
            number.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.4})
    plain(axes)
    name_ticks(axes, layers, width / len(layers))
    axes.axhline(100 * chance, color=QUIET, linewidth=0.9, linestyle=":")
    beside: Style = {
        "transform": axes.get_yaxis_transform(),
        "size": 8,
        "va": "center",
        "color": QUIET,
    }
    axes.text(1.01, 100 * chance, f"most frequent\nclass {100 * chance:.0f}", **beside)
    axes.set_ylim(-7, 104)  # room for the numbers below the lowest points
    axes.set_ylabel("accuracy, % of images", size=8, color=QUIET)
    axes.set_xlabel("features of layer, in the order of the network", size=8, color=QUIET)
    corner: Style = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    columns = max(1, int(width / 130))
    axes.legend(ncols=columns, fontsize=8, frameon=False, **corner)
