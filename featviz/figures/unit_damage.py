"""The accuracy that a network loses without each unit, and how selective its units are."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from featviz.errors import UsageError
from featviz.figures.page import (
    COLORS,
    INK,
    QUIET,
    AnyFigure,
    Style,
    new_page,
    plain,
    title_axes,
    titled,
)
from featviz.records.ablation import Ablation

_WIDE, _NARROW, _HIGH, _GAP = 430, 300, 300, 64  # pixels: plots, and left of each for its numbers
_OVERALL, _CLASS = COLORS[0], COLORS[1]
_NAMED = 3  # units whose number is written


def unit_ablation(
    result: Ablation,
    selectivity: Tensor,
    *,
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """How much accuracy is lost without each unit of a layer, in all and on the class that suffers
    most, and whether units that respond to one class alone are those that matter.

    From left to right: the units in the order of what is lost without them; the loss in all against
    the class selectivity of the unit; the largest loss of a class against it.

    Args:
        result: from `featviz.ablate`, with labels.
        selectivity: (u,) of the same units, from 0, all classes alike, to 1, one class alone. NaN,
            as of dead units, is left out.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        UsageError: no units, no labels, or not a number for each unit.

    Source: Zhou et al., arXiv 1806.02891, figure 3; Morcos et al., ICLR 2018, figure 5.

    Example:
        >>> import torch
        >>> from featviz import ablate, figures, load_model, open_images
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> images = open_images(SyntheticImages(6), MINI_PREPROCESS)
        >>> result = ablate(load_model("zfmini"), images, "conv5", range(4), labels=[0] * 6)
        >>> figure = figures.unit_ablation(result, torch.rand(4))
    """
    if not result.channels:
        raise UsageError("0 units: give the ablation of at least 1", "result")
    if selectivity.shape != (len(result.channels),):
        raise UsageError(
            f"selectivity of shape {tuple(selectivity.shape)} for {len(result.channels)} units: "
            "give a number for each",
            "selectivity",
        )
    drops = 100 * result.drops
    highest = 100 * result.class_drops.nan_to_num(-torch.inf).amax(dim=1)
    title = titled(heading, f"accuracy without each of {len(drops)} units of {result.layer}")
    notes = [*_notes(result), *_without_selectivity(result, selectivity)]
    area = new_page(_WIDE + 2 * _NARROW + 3 * _GAP, _HIGH + 88, title, notes, fig)
    axes = area.axes(_GAP, 24, _WIDE, _HIGH)
    _ranked(axes, drops, highest)
    title_axes(axes, "what is lost without each unit", _WIDE)
    area.legend(_GAP, _HIGH + 74, axes, 2)
    left = _WIDE + 2 * _GAP
    axes = area.axes(left, 24, _NARROW, _HIGH)
    _against(axes, selectivity, drops, _OVERALL)
    _name(axes, selectivity, drops, result.channels)
    title_axes(axes, "selectivity, and loss of all images", _NARROW)
    axes = area.axes(left + _NARROW + _GAP, 24, _NARROW, _HIGH)
    _against(axes, selectivity, highest, _CLASS)
    title_axes(axes, "selectivity, and loss of one class", _NARROW)
    return area.finish()


def _notes(result: Ablation) -> list[str]:
    put = {"zero": "zero", "mean": "its mean"}.get(result.by, "another value")
    images = f"{result.images:,} images, {100 * result.accuracy:.1f}% right with all units."
    labelled = result.labelled
    assert labelled is not None
    least = int(labelled[labelled > 0].min())
    return [
        f"{images} Without a unit its map is {put} everywhere. Percentage points; below 0 accuracy "
        "is won.",
        f"Orange: the class that loses most, of {int((labelled > 0).sum())} with {least} or more images "
        f"each, so that one image is up to {100 / least:.3g} points.",
    ]


def _without_selectivity(result: Ablation, selectivity: Tensor) -> list[str]:
    """The note on units that have no class selectivity, where there are any."""
    without = int(selectivity.isnan().sum())
    if not without:
        return []
    assert result.labelled is not None
    classes = int((result.labelled > 0).sum())
    reason = "all images are of one class" if classes == 1 else "no image activates them"
    verb = "has" if without == 1 else "have"
    return [
        f"{without} of {len(selectivity)} units {verb} no class selectivity and no point at the right: "
        f"{reason}."
    ]


def _ranked(axes: Axes, drops: Tensor, highest: Tensor) -> None:
    """The units in the order of what is lost."""
    order = drops.argsort(descending=True, stable=True)
    ranks = range(1, len(drops) + 1)
    small: Style = {"marker": "o", "linestyle": "none", "markersize": 3.6}
    low, high = drops[order].tolist(), highest[order].tolist()
    axes.vlines(ranks, low, high, color="#e2e2e6", linewidth=1.2, zorder=1)
    axes.plot(ranks, high, color=_CLASS, label="of the class that loses most", **small)
    axes.plot(ranks, low, color=_OVERALL, label="of all images", **small)
    plain(axes)
    axes.axhline(0, color=QUIET, linewidth=0.8)
    axes.set_xlabel("units, in the order of what is lost of all images", size=8, color=QUIET)
    axes.set_ylabel("accuracy lost (points)", size=8, color=QUIET)
    axes.set_xlim(0, len(drops) + 1)


def _against(axes: Axes, selectivity: Tensor, values: Tensor, shade: str) -> None:
    """Losses against selectivity, with the correlation of ranks."""
    known = ~selectivity.isnan()
    x, y = selectivity[known].double(), values[known]
    if not len(x):
        centre: Style = {"transform": axes.transAxes, "ha": "center", "size": 8, "color": QUIET}
        axes.text(0.5, 0.55, "no unit has a class selectivity", **centre)
    axes.plot(x.tolist(), y.tolist(), "o", color=shade, markersize=4, alpha=0.75, markeredgewidth=0)
    plain(axes)
    axes.axhline(0, color=QUIET, linewidth=0.8, zorder=0)
    axes.set_xlim(-0.03, 1.03)
    label = f"class selectivity (rank correlation {_rank_correlation(x, y)})"
    axes.set_xlabel(label, size=8, color=QUIET)


def _name(axes: Axes, selectivity: Tensor, values: Tensor, channels: Sequence[int]) -> None:
    """The numbers of the units with the largest values."""
    text: Style = {"textcoords": "offset points", "size": 7, "color": INK, "va": "center"}
    for i in values.argsort(descending=True, stable=True)[:_NAMED].tolist():
        point = float(selectivity[i]), float(values[i])
        if not isnan(point[0]):
            axes.annotate(f"unit {channels[i]}", point, (-5, 0), ha="right", **text)


def _rank_correlation(x: Tensor, y: Tensor) -> str:
    """Spearman's, where ties share their mean rank; a dash where one of the two is constant."""
    pair = torch.stack([_ranks(x), _ranks(y)]) if len(x) > 1 else torch.zeros(2, 1)
    if bool((pair.amax(dim=1) == pair.amin(dim=1)).any()):
        return "-"
    return f"{float(torch.corrcoef(pair)[0, 1]):.2f}"


def _ranks(values: Tensor) -> Tensor:
    below = (values[:, None] > values).double().sum(dim=1)
    equal = (values[:, None] == values).double().sum(dim=1)
    return below + equal / 2
