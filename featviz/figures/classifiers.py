"""How well networks classify, and classifiers on what networks have learned, by the number of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from featviz.errors import UsageError
from featviz.figures.page import (
    COLORS,
    INK,
    MARKS,
    QUIET,
    Style,
    color,
    new_page,
    plain,
    titled,
)
from featviz.figures.text import fitted, text_width, written

_PLOT = 480  # pixels: a row's errors
_ROW = 46
_MEASURES = ("top-1 error", "top-5 error")
_WIDE, _HIGH = 560, 320  # pixels: curves


def classification(
    rows: Sequence[Mapping[str, Any]],
    *,
    heading: str = "",
    note: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Table 2 of the paper with its numbers as dots: a network in each row, and the share of images that it does not
    classify right.

    Args:
        rows: with ``network``, ``top-1 error`` and, of more than five classes, ``top-5 error`` (0 to 1), each with
            the ends of its interval, ``top-1 error low`` and ``top-1 error high``; and ``parameters``, if they are to
            be written.
        heading: comes first in the title.
        note: below it.
        ax: axes to draw on, without heading and note; None: a new figure.

    Raises:
        UsageError: there are no rows.

    Source: Zeiler & Fergus, table 2.

    Example:
        >>> from featviz import figures
        >>> row = {"network": "a", "top-1 error": 0.3, "top-1 error low": 0.2, "top-1 error high": 0.4}
        >>> figure = figures.classification([row])
    """
    if not rows:
        raise UsageError("0 rows: give the errors of at least 1 network", "rows")
    if ax is not None:
        _errors(ax, rows)
        ax.legend(fontsize=8, frameon=False)
        written(ax)
        return ax.figure.figure  # also where the axes lie in a subfigure
    labels = [_label(row) for row in rows]
    left = 14 + max(text_width(line, 8) for line in "\n".join(labels).split("\n"))
    high = _ROW * len(rows) + 14
    notes = [note] if note else []
    notes.append("Lines: 95% intervals for the choice of images.")
    title = titled(heading, "error of networks on labelled images")
    area = new_page(left + _PLOT, high + 62, title, notes)
    axes = area.axes(left, 6, _PLOT, high)
    _errors(axes, rows)
    area.legend(left, high + 48, axes, len(_MEASURES))
    return area.finish()


def _errors(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Two dots for each network, one above the other."""
    highest = 0.0
    for i, measure in enumerate(_MEASURES):
        own = [(y + (i - 0.5) * 0.36, row) for y, row in enumerate(rows) if measure in row]
        for y, row in own:
            highest = max(highest, _dot(axes, row, measure, y, i))
        if own:
            axes.plot([], [], color=COLORS[i], marker=MARKS[i], label=measure)
    plain(axes)
    axes.set(ylim=(len(rows) - 0.5, -0.6), xlim=(0, max(5.0, 1.1 * highest)))
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows], color=INK)
    axes.set_xlabel("error, % of images", size=8, color=QUIET)


def _label(row: Mapping[str, Any]) -> str:
    name = fitted(row["network"], 300, 8)
    if "parameters" not in row:
        return name
    return f"{name}\n{row['parameters']:,} parameters"


def _dot(axes: Axes, row: Mapping[str, Any], measure: str, y: float, i: int) -> float:
    """A dot with its interval and its number; where the interval ends."""
    value, low, high = (100 * row[f"{measure}{end}"] for end in ("", " low", " high"))
    style: Style = {"color": COLORS[i], "marker": MARKS[i], "markersize": 5, "linewidth": 1.6}
    axes.errorbar(value, y, xerr=[[value - low], [high - value]], **style)
    beside: Style = {"textcoords": "offset points", "size": 8, "color": INK, "va": "center"}
    axes.annotate(f"{value:.1f}", (high, y), (5, 0), **beside)
    return float(high)


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
    lows = [100 * row.get("accuracy low", row["accuracy"]) for row in rows]
    highs = [100 * row.get("accuracy high", row["accuracy"]) for row in rows]
    reach = [
        [value - low for value, low in zip(values, lows, strict=True)],
        [high - value for value, high in zip(values, highs, strict=True)],
    ]
    line: Style = {"color": color(i), "marker": MARKS[i], "markersize": 5, "linewidth": 1.8}
    axes.errorbar(numbers, values, yerr=reach, elinewidth=1, label=rows[0]["classifier"], **line)
    below = 8 if i == 0 else -15  # the numbers of two curves do not meet
    label: Style = {"textcoords": "offset points", "size": 8, "ha": "center", "color": INK}
    for n, value in zip(numbers, values, strict=True):
        number = axes.annotate(f"{value:.0f}", (n, value), (9, below), **label)
        number.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.8})
