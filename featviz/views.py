"""Views: the ways to draw an exemplar beside its patch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from featviz.errors import UsageError, did_you_mean
from featviz.records.exemplars import Exemplars
from featviz.rules import is_relevance
from featviz.tiles import heat_tiles, masked_tiles, picture_tiles, signal_tiles

VIEWS = {
    "masked": "the patches, faded to grey where their signal is weak",
    "projection": "projections (middle grey = 0; black and white: the 99.5th percentile of the "
    "unit's magnitudes)",
    "heat": "heat maps over the patches (red above 0, blue below, nothing at 0)",
}
"""Every view, with its legend."""
PATCH = "patch"
"""What every view stands beside: the pixels alone."""

ViewsLike = str | Sequence[str] | None


def views_for(rule: str, views: ViewsLike = None) -> list[str]:
    """The views that projections under a rule are drawn in, in order.

    Args:
        rule: of the projections.
        views: names from `VIEWS`, or several with commas; None: masked, and beside it the
            projection, or the heat map of a rule whose projections are relevance.

    Raises:
        UsageError: no such view, or none.

    Example:
        >>> views_for("deconvnet"), views_for("lrp"), views_for("guided", "heat")
        (['masked', 'projection'], ['masked', 'heat'], ['heat'])
    """
    if views is None:
        return ["masked", "heat" if is_relevance(rule) else "projection"]
    return check_views(views)


def check_views(views: str | Sequence[str]) -> list[str]:
    """Views by name, each once, in order.

    Raises:
        UsageError: there is none of a name, or no name.
    """
    names = views.split(",") if isinstance(views, str) else views
    chosen = list(dict.fromkeys(name.strip() for name in names))
    for name in chosen:
        if name not in VIEWS:
            close = did_you_mean(name, VIEWS)
            raise UsageError(f"no view {name!r}: the views are {', '.join(VIEWS)}{close}", "views")
    if not chosen:
        raise UsageError(f"views={views!r}: give at least one of {', '.join(VIEWS)}", "views")
    return chosen


def view_tiles(
    exemplars: Exemplars, row: int, rule: str, view: str, size: tuple[int, int]
) -> Tensor:
    """A unit's k exemplars in a view, or as the patches alone: (k, 3, *size) uint8."""
    visible = exemplars.visible[row]
    patches = exemplars.patches[row]
    if view == PATCH:
        return picture_tiles(patches, visible, size)
    signals = exemplars.projections[rule][row]
    if view == "projection":
        return signal_tiles(signals, visible, size)
    if view == "heat":
        return heat_tiles(patches, signals, visible, size, exemplars.blur)
    return masked_tiles(patches, signals, visible, size, exemplars.blur)


def without_signal(exemplars: Exemplars, rule: str) -> int:
    """How many exemplars of living units have a signal that is zero everywhere: their pictures say
    nothing, and are plain grey."""
    silent = (exemplars.projections[rule] == 0).flatten(2).all(dim=2)
    filled = (exemplars.images >= 0) & ~exemplars.dead[:, None]
    return int((silent & filled).sum())
