"""Accuracies of classifiers on what a network has learned: layer by layer, and by the number of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from featviz.errors import UsageError
from featviz.figures.page import (
    INK,
    MARKS,
    QUIET,
    Style,
    color,
    new_page,
    plain,
    titled,
)
from featviz.figures.text import DPI, name_ticks, room_for_names, room_left_of_names, written

_WIDE, _HIGH = 560, 320  # pixels: curves


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
    plot = max(_WIDE, step * len(layers))
    title = titled(heading, "a linear classifier on each layer")
    notes = [note] if note else []
    notes.append("Dotted: naming the most frequent class of the test images, whatever the image.")
    height = 26 + _HIGH + room_for_names(layers, plot / len(layers)) + 20
    left = max(54, room_left_of_names(layers, plot / len(layers)))
    area = new_page(left + plot + 80, height, title, notes)
    axes = area.axes(left, 26, plot, _HIGH)
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


def transfer(
    rows: Sequence[Mapping[str, Any]],
    *,
    chance: float,
    heading: str = "",
    note: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Figure 9 of the paper, whose numbers are its tables 4 and 5: accuracy by the number of training images of each
    class, of a classifier on what a network has learned elsewhere, and of the network trained on these images alone.

    Args:
        rows: with ``classifier`` (which curve), ``images a class`` and ``accuracy`` (0 to 1), and of several draws of
            images the ends of its interval, ``accuracy low`` and ``accuracy high``.
        chance: the accuracy of guessing, 0 to 1.
        heading: comes first in the title.
        note: below it.
        ax: axes to draw on, without heading and note; None: a new figure.

    Raises:
        UsageError: there are no rows.

    Source: Zeiler & Fergus, tables 4 and 5, figure 9.

    Example:
        >>> from featviz import figures
        >>> row = {"classifier": "on fc7", "images a class": 15, "accuracy": 0.8}
        >>> figure = figures.transfer([row], chance=0.1)
    """
    if not rows:
        raise UsageError("0 rows: give the accuracy of at least 1 number of images", "rows")
    if ax is not None:
        _curves(ax, rows, chance)
        ax.legend(fontsize=8, frameon=False)
        written(ax)
        return ax.figure.figure
    title = titled(heading, "how many images of a class a classifier needs")
    notes = [note] if note else []
    notes.append("Dotted: guessing.")
    area = new_page(_WIDE + 60, _HIGH + 90, title, notes)
    axes = area.axes(54, 6, _WIDE, _HIGH)
    _curves(axes, rows, chance)
    area.legend(54, _HIGH + 50, axes, 1)
    return area.finish()


def _curves(axes: Axes, rows: Sequence[Mapping[str, Any]], chance: float) -> None:
    """A curve for each classifier."""
    for i, kind in enumerate(dict.fromkeys(row["classifier"] for row in rows)):
        _curve(axes, [row for row in rows if row["classifier"] == kind], i)
    plain(axes)
    numbers = sorted({row["images a class"] for row in rows})
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(numbers, [f"{n:,}" for n in numbers])
    axes.set(xlim=(numbers[0] / 1.15, numbers[-1] * 1.15), ylim=(0, 104))
    axes.axhline(100 * chance, color=QUIET, linewidth=0.9, linestyle=":")
    axes.set_xlabel("training images of each class", size=8, color=QUIET)
    axes.set_ylabel("accuracy, % (mean over classes)", size=8, color=QUIET)


def _curve(axes: Axes, rows: Sequence[Mapping[str, Any]], i: int) -> None:
    """The accuracies of one classifier, with their intervals and numbers."""
    numbers = [row["images a class"] for row in rows]
    values = [100 * row["accuracy"] for row in rows]
    lows = [100 * max(0.0, row.get("accuracy low", row["accuracy"])) for row in rows]
    highs = [100 * min(1.0, row.get("accuracy high", row["accuracy"])) for row in rows]
    reach = [
        [value - low for value, low in zip(values, lows, strict=True)],
        [high - value for value, high in zip(values, highs, strict=True)],
    ]
    line: Style = {
        "color": color(i),
        "marker": MARKS[i % len(MARKS)],
        "markersize": 5,
        "linewidth": 1.8,
    }
    axes.errorbar(numbers, values, yerr=reach, elinewidth=1, label=rows[0]["classifier"], **line)
    below = 8 if i == 0 else -15  # the numbers of two curves do not meet
    label: Style = {"textcoords": "offset points", "size": 8, "ha": "center", "color": INK}
    for n, value in zip(numbers, values, strict=True):
        number = axes.annotate(f"{value:.0f}", (n, value), (9, below), **label)
        number.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.8})
