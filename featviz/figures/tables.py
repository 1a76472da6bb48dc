"""Errors of networks, a row for each: with layers left out, and of any networks beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from featviz.errors import UsageError
from featviz.figures.page import COLORS, INK, MARKS, NEUTRAL, QUIET, Style, new_page, plain, titled
from featviz.figures.text import (
    fitted,
    text_width,
    written,
)

_PLOT = 480  # pixels: the errors
_ROW = 46
_MEASURES = ("top-1 error", "top-5 error")


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
    left = _room_left_of(labels)
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
    """A network's name and its parameters, where they are given."""
    name = fitted(row["network"], 300, 8)
    return f"{name}\n{row['parameters']:,} parameters" if "parameters" in row else name


def _room_left_of(labels: Sequence[str]) -> float:
    """The pixels that labels of rows take, of which a line may be bold."""
    return 14 + max(text_width(line, 8, bold=True) for line in "\n".join(labels).split("\n"))


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
        _dots(ax, rows)
        ax.legend(fontsize=8, frameon=False)
        written(ax)
        return ax.figure.figure  # also where the axes lie in a subfigure
    labels = [_label(row) for row in rows]
    left = _room_left_of(labels)
    high = _ROW * len(rows) + 14
    notes = [note] if note else []
    notes.append("Lines: 95% intervals for the choice of images.")
    title = titled(heading, "error of networks on labelled images")
    area = new_page(left + _PLOT, high + 62, title, notes)
    axes = area.axes(left, 6, _PLOT, high)
    _dots(axes, rows)
    area.legend(left, high + 48, axes, len(_MEASURES))
    return area.finish()


def _dots(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
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


def _dot(axes: Axes, row: Mapping[str, Any], measure: str, y: float, i: int) -> float:
    """A dot with its interval and its number; where the interval ends."""
    value, low, high = (100 * row[f"{measure}{end}"] for end in ("", " low", " high"))
    style: Style = {"color": COLORS[i], "marker": MARKS[i], "markersize": 5, "linewidth": 1.6}
    axes.errorbar(value, y, xerr=[[value - low], [high - value]], **style)
    beside: Style = {"textcoords": "offset points", "size": 8, "color": INK, "va": "center"}
    axes.annotate(f"{value:.1f}", (high, y), (5, 0), **beside)
    return float(high)
