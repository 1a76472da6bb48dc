"""Whether pictures can be trusted: projections of networks whose weights are random, curves of how
alike signals are, and projections of several networks beside each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from featviz.errors import UsageError
from featviz.figures.page import (
    INK,
    MARKS,
    QUIET,
    AnyFigure,
    Area,
    Style,
    color,
    fit,
    new_page,
    plain,
    title_axes,
    titled,
)
from featviz.figures.text import (
    fitted,
    layer_name,
    name_ticks,
    room_for_names,
    room_left_of_names,
    text_width,
)
from featviz.records.checks import Checks
from featviz.tiles import contrast, signed

_TILE, _GAP = 104, 6  # pixels: a picture, between pictures
_IMAGE = 180  # pixels: the image beside all rows
_HEAD = 20  # pixels: above all rows, for the names of columns
_ABOVE, _BELOW = 20, 20  # pixels: above a row for its name, below it for its numbers
_HIGH = 230  # pixels: curves
_LEFT = 44  # pixels: left of curves for their numbers
_SCALE = "Middle grey = 0; every picture has a scale of its own, up to the 99.5th percentile."


def randomisation(
    image: Tensor,
    projections: Mapping[str, Tensor],
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    steps: Sequence[str],
    *,
    name: str = "",
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """Projections while a network's layers are re-initialised from the top down, and how alike they
    are to those of the network as it was.

    Args:
        image: (c, h, w) in [0, 1].
        projections: by rule (steps, c, h, w), any sign.
        curves: by measure, and by rule, a number for each step.
        steps: names of the steps; the first is the network as it was, such as ``trained``.
        name: what is projected.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        UsageError: there are no projections or no curves, or not one for each step.

    Source: Adebayo et al., *Sanity checks for saliency maps*, NeurIPS 2018, figure 2.

    Example:
        >>> import torch
        >>> from featviz import figures
        >>> projections = {"guided": torch.randn(2, 3, 16, 16)}
        >>> curves = {"rank correlation": {"guided": [1.0, 0.2]}}
        >>> image = torch.rand(3, 16, 16)
        >>> figure = figures.randomisation(image, projections, curves, ["trained", "conv1"])
    """
    _check_steps(projections, curves, steps)
    wide, high = fit(image.shape, _TILE, _TILE)
    rules = list(projections)
    labels = max(text_width(rule, 9, bold=True) for rule in rules) + 12
    step = max(wide, _TILE * 0.7) + _GAP
    rows = len(rules) * (high + _GAP)
    side = min(_IMAGE, max(_TILE, rows - _GAP))
    left = side + 3 * _GAP + labels
    across = max(left + len(steps) * step - _GAP, 640)
    plot = across / len(curves) - _LEFT - 20
    apart = plot / max(1, len(steps) - 1)
    room = room_for_names(steps, apart)
    notes = [
        "Each column: the layers down to the one that is named have random weights. " + _SCALE,
        f"Below: how alike the magnitudes are to those of the first column ({steps[0]}). "
        "Good: near 0 at the right, for then the picture depends on the weights.",
    ]
    title = "the same unit under random weights"
    if name:
        title = f"{title} ({name})"
    height = _HEAD + rows + 34 + _HIGH + room + 24
    area = new_page(across, height, titled(heading, title), notes, fig)
    area.text(0, 8, "image", size=9, weight="bold")
    area.image(0, _HEAD, side, side, image)
    for column, text in enumerate(steps):
        words = layer_name(text, step - 4, 9, bold=True)
        area.text(left + column * step, 8, words, size=9, weight="bold")
    for row, rule in enumerate(rules):
        y = _HEAD + row * (high + _GAP)
        area.text(left - labels, y + high / 2, rule, size=9, weight="bold")
        for column, values in enumerate(projections[rule]):
            area.image(left + column * step, y, _TILE, _TILE, _scaled(values))
    for i, (measure, by_rule) in enumerate(curves.items()):
        x = _LEFT + i * (plot + _LEFT + 20)
        axes = area.axes(x, _HEAD + rows + 34, plot, _HIGH)
        _draw_curves(axes, by_rule, steps, apart)
        title_axes(axes, measure, plot)
    area.legend(_LEFT, _HEAD + rows + 34 + _HIGH + room + 6, axes, len(rules))
    return area.finish()


def convergence(checks: Checks, *, heading: str = "", fig: AnyFigure | None = None) -> Figure:
    """How alike two random signals become on their way from a layer to the image, a panel for each
    layer and a curve for each rule.

    Args:
        checks: with the check ``convergence``.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        UsageError: no layer has such a curve.

    Source: Sixt, Granz & Landgraf, *When explanations lie*, ICML 2020, arXiv 1912.09818.

    Example:
        >>> from featviz import Checks, figures
        >>> from featviz.records.checks import Measured
        >>> steps = [("conv1", 0.8), ("image", 0.9)]
        >>> numbers = [
        ...     Measured("guided", "conv2", "convergence", step, value, 0.7, 1.0, 5, 5, 5)
        ...     for step, value in steps
        ... ]
        >>> figure = figures.convergence(Checks(numbers))
    """
    layers = [layer for layer in checks.layers if _steps_of(checks, layer)]
    if not layers:
        raise UsageError("0 curves: give checks with the check 'convergence'", "checks")
    steps = {layer: _steps_of(checks, layer) for layer in layers}
    rules = [
        rule
        for rule in checks.rules
        if any(checks.curve(layer, rule, "convergence") for layer in layers)
    ]
    plot = max(330.0, 700 / len(layers))
    apart = min(plot / max(1, len(names) - 1) for names in steps.values())
    everything = [name for names in steps.values() for name in names]
    room = room_for_names(everything, apart)
    gap = _LEFT + 20 + room_left_of_names(everything, apart)
    notes = [
        "Two signals over the channels, drawn from N(0, 1), are carried back through the same image. "
        "Cosine of what arrives at each layer.",
        "At 1 whatever the signal starts as, the same arrives: the picture cannot depend on the "
        "unit. Bands: 95% intervals over units and images.",
    ]
    title = titled(heading, "two random signals on their way to the image")
    width = len(layers) * (gap + plot)
    area = new_page(width, _HEAD + _HIGH + 60 + room + 24, title, notes, fig)
    for i, layer in enumerate(layers):
        axes = area.axes(gap + i * (gap + plot) - 10, _HEAD, plot, _HIGH + 60)
        curves: dict[str, list[float]] = {}
        lowest = 0.0
        for number, rule in enumerate(rules):
            measured = checks.curve(layer, rule, "convergence")
            # nothing may have arrived at some layers, or come from this one: the curve has gaps
            own = [measured.get(step) for step in steps[layer]]
            curves[rule] = [at.value if at else nan for at in own]
            lows = [at.low if at else nan for at in own]
            highs = [at.high if at else nan for at in own]
            band: Style = {"color": color(number), "alpha": 0.15, "linewidth": 0}
            lowest = min(lowest, *lows)
            axes.fill_between(range(len(lows)), lows, highs, **band)
        _draw_curves(axes, curves, steps[layer], apart, lowest)
        title_axes(axes, f"from {layer} to the image", plot)
        if i == 0:
            axes.set_ylabel("cosine", size=9, color=QUIET)
    area.legend(gap - 10, _HEAD + _HIGH + 66 + room, axes, len(rules))
    return area.finish()


def networks(
    images: Tensor,
    projections: Mapping[str, Mapping[str, Tensor]],
    numbers: Mapping[str, Mapping[str, str]] | None = None,
    *,
    note: str = "",
    heading: str = "",
    fig: AnyFigure | None = None,
) -> Figure:
    """The same images in several networks: a row for each network, a column for each rule.

    Args:
        images: (n, c, h, w) in [0, 1].
        projections: by network, and by rule, (n, c, h, w), any sign.
        numbers: by network, and by rule, what stands below the pictures.
        note: below the title.
        heading: comes first in the title.
        fig: a figure, or part of one, to draw into; None: a new one.

    Raises:
        UsageError: there are no networks, or not one projection for each image.

    Example:
        >>> import torch
        >>> from featviz import figures
        >>> projections = {"trained": {"guided": torch.randn(1, 3, 16, 16)}}
        >>> figure = figures.networks(torch.rand(1, 3, 16, 16), projections)
    """
    rules = _check_networks(images, projections)
    wide, high = fit(images.shape, _TILE, _TILE)
    numbers = numbers or {}
    texts = [text for by_rule in numbers.values() for text in by_rule.values()]
    widest = max([text_width(text, 7.5) for text in texts], default=0.0)
    cell = max(len(images) * (wide + _GAP), widest + 8, 90) + 8
    below = _BELOW if texts else 4
    row = _ABOVE + high + below + 4
    title = titled(heading, "the same images in several networks")
    notes = [note, _SCALE] if note else [_SCALE]
    width = (1 + len(rules)) * cell - 8
    area = new_page(width, _HEAD + len(projections) * row, title, notes, fig)
    for column, text in enumerate(["image", *rules]):
        words = fitted(text, cell - 8, 9, bold=True)
        area.text(column * cell, 8, words, size=9, weight="bold")
    for i, (name, by_rule) in enumerate(projections.items()):
        y = _HEAD + i * row
        area.text(0, y + 8, fitted(name, width, 8), size=8)
        _draw_tiles(area, 0, y + _ABOVE, wide, list(images))
        for column, rule in enumerate(rules, start=1):
            x = column * cell
            pictures = [_scaled(values) for values in by_rule[rule]]
            _draw_tiles(area, x, y + _ABOVE, wide, pictures)
            text = numbers.get(name, {}).get(rule, "")
            area.text(x, y + _ABOVE + high + 9, text, size=7.5, color=INK)
    return area.finish()


def _draw_tiles(area: Area, x: float, y: float, wide: float, pictures: Sequence[Tensor]) -> None:
    for i, picture in enumerate(pictures):
        area.image(x + i * (wide + _GAP), y, _TILE, _TILE, picture)


def _draw_curves(
    axes: Axes,
    curves: Mapping[str, Sequence[float]],
    steps: Sequence[str],
    apart: float,
    lowest: float = 0.0,
) -> None:
    """A curve over named steps for each rule, from ``lowest`` or below to 1."""
    for i, (rule, values) in enumerate(curves.items()):
        style: Style = {"color": color(i), "marker": MARKS[i % len(MARKS)], "label": rule}
        axes.plot(range(len(values)), values, markersize=4, linewidth=1.4, **style)
        lowest = min(lowest, *values)
    plain(axes)
    axes.set_ylim(lowest - 0.04, 1.04)
    name_ticks(axes, steps, apart)


def _steps_of(checks: Checks, layer: str) -> list[str]:
    """Where on the way from a layer its rules have numbers."""
    longest: list[str] = []
    for rule in checks.rules:
        steps = list(checks.curve(layer, rule, "convergence"))
        if len(steps) > len(longest):
            longest = steps
    return longest


def _scaled(values: Tensor) -> Tensor:
    """A signal (c, h, w) as a picture in [0, 1]."""
    own = values.detach().float().cpu()
    return signed(own, contrast(own[None]))


def _check_steps(
    projections: Mapping[str, Tensor],
    curves: Mapping[str, Mapping[str, Sequence[float]]],
    steps: Sequence[str],
) -> None:
    if not projections or not curves:
        raise UsageError(
            f"{len(projections)} rules and {len(curves)} measures: give at least 1 of each",
            "projections",
        )
    given: list[tuple[str, Sequence[object] | Tensor]] = list(projections.items())
    for by_rule in curves.values():
        given += by_rule.items()
    for rule, values in given:
        if len(values) != len(steps):
            raise UsageError(
                f"{rule!r} has {len(values)} for {len(steps)} steps: give one for each", "steps"
            )


def _check_networks(images: Tensor, projections: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    """The rules, which are the same in every network."""
    if not len(images) or not projections:
        raise UsageError(
            f"{len(images)} images and {len(projections)} networks: give at least 1 of each",
            "projections",
        )
    rules = list(next(iter(projections.values())))
    for name, by_rule in projections.items():
        if list(by_rule) != rules:
            raise UsageError(
                f"network {name!r} has the rules {', '.join(by_rule)}, the first "
                f"{', '.join(rules)}: give the same",
                "projections",
            )
        for rule, values in by_rule.items():
            if len(values) != len(images):
                raise UsageError(
                    f"{rule!r} of {name!r} has {len(values)} for {len(images)} images: "
                    "give one for each",
                    "projections",
                )
    return rules
