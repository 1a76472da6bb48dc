"""Receptive fields read off gradients, for layers behind an operation that cannot be followed.

Supports at many positions, under several inputs, give size, stride and padding; supports under one
more input must lie in the boxes that these predict. Where they do not, the field is not called
measured, and its box is the full image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import ceil

import torch
from torch import Tensor, nn

from featviz.errors import FeatvizError
from featviz.fields.maps import as_maps
from featviz.forward import Forward
from featviz.geometry import Box, Number, ReceptiveField, as_number
from featviz.hooks import evaluating, read
from featviz.units import Layer

TRIALS = 3
"""Inputs whose gradients are looked at; the last only to check what the others gave."""
_REFUSALS = (FeatvizError, RuntimeError, ValueError, IndexError, TypeError, AssertionError)
"""What a model raises that cannot be carried back: complex numbers, code for inference alone."""

_Supports = Mapping[tuple[int, int], Box]  # by position (y, x)


def measured_field(
    model: nn.Module, image: Tensor, layer: Layer, forward: Forward | None = None
) -> ReceptiveField:
    """The field that the gradients of random images show.

    Args:
        model: any module.
        image: (1, c, h, w), of which shape, type and device are used.
        layer: of this model.
        forward: how the model is called, as of `read`; None: ``model(images)``.

    Returns:
        A *measured* field; *data* where supports depend on the input; *unknown* where the layer has
        no maps or no gradient, or where the supports are those of no field.
    """
    full = Box(0, 0, image.shape[2], image.shape[3])
    unknown = _full_image(full, "unknown")
    try:
        trials = _trials(model, image, layer, forward) if layer.has_maps else []
    except _REFUSALS:
        return unknown
    if not trials:
        return unknown
    *fitted, checked = trials
    hulls = {position: _hull([trial[position] for trial in fitted]) for position in checked}
    rows = _fit({y: (box.top, box.bottom) for (y, _), box in hulls.items()}, full.height)
    columns = _fit({x: (box.left, box.right) for (_, x), box in hulls.items()}, full.width)
    if rows is None or columns is None:
        return unknown
    field = ReceptiveField(
        size=(rows.size, columns.size),
        stride=(rows.stride, columns.stride),
        padding=(rows.padding, columns.padding),
        extent=full,
        kind="measured",
    )
    if not _contains(field, hulls):
        return unknown
    if not _contains(field, checked):
        return _full_image(full, "data")
    return field


def _full_image(full: Box, kind: str) -> ReceptiveField:
    size = full.height, full.width
    return ReceptiveField(size, (0, 0), (0, 0), full, "data" if kind == "data" else "unknown")


def _trials(
    model: nn.Module, image: Tensor, layer: Layer, forward: Forward | None
) -> list[_Supports]:
    """The supports under each input; empty where nothing can be carried back."""
    generator = torch.Generator().manual_seed(0)  # the same images every time, so the same answer
    trials: list[_Supports] = []
    with evaluating(model), torch.enable_grad():
        for _ in range(TRIALS):
            x = (
                torch.randn(image.shape, generator=generator, dtype=torch.float32)
                .to(image)
                .requires_grad_()
            )
            output = read(model, x, layer, forward=forward)[layer.name]
            maps = as_maps(layer, output)
            if not maps.requires_grad:  # whole numbers, or a forward without gradients
                return []
            supports = {}
            for y, x_position in _positions(layer):
                response = maps[0, :, y, x_position].sum()
                (gradient,) = torch.autograd.grad(response, x, retain_graph=True, allow_unused=True)
                if gradient is None:
                    return []
                supports[y, x_position] = _support(gradient[0])
            trials.append(supports)
    return trials


def _positions(layer: Layer) -> list[tuple[int, int]]:
    """A cross through the middle of the map, and its corners."""
    height, width = layer.map_size
    rows, columns = _spread(height), _spread(width)
    cross = [(y, width // 2) for y in rows] + [(height // 2, x) for x in columns]
    corners = list(product((0, height - 1), (0, width - 1)))
    return list(dict.fromkeys(cross + corners))


def _spread(n: int) -> list[int]:
    """Both ends of n positions, and neighbors in the middle and at its sides."""
    middle = n // 2
    wanted = (0, n // 4, middle - 1, middle, middle + 1, 3 * n // 4, n - 1)
    return sorted({i for i in wanted if 0 <= i < n})


def _support(gradient: Tensor) -> Box:
    """The box around what is not zero in (c, h, w); empty if all is."""
    magnitude = gradient.abs()
    rows = magnitude.amax(dim=(0, 2)).nonzero().flatten()
    columns = magnitude.amax(dim=(0, 1)).nonzero().flatten()
    if not len(rows):
        return Box(0, 0, 0, 0)
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def _hull(boxes: list[Box]) -> Box:
    """The box around several, of which empty ones do not count."""
    boxes = [box for box in boxes if box.height] or boxes
    return Box(
        min(box.top for box in boxes),
        min(box.left for box in boxes),
        max(box.bottom for box in boxes),
        max(box.right for box in boxes),
    )


@dataclass(frozen=True)
class _Axis:
    """One axis of a field."""

    size: int
    stride: Number
    padding: Number


def _fit(spans: Mapping[int, tuple[int, int]], length: int) -> _Axis | None:
    """The axis of a field whose windows hold the supports at these positions.

    Args:
        spans: by position, where its support begins and ends.
        length: of the image. A support that touches its edge may be clipped, and is not used.

    Returns:
        None where fewer than two supports are usable, or the windows are as long as the image.
    """
    free = {i: span for i, span in spans.items() if span[0] > 0 and span[1] < length}
    free = {i: span for i, span in free.items() if span[1] > span[0]}
    if len(free) < 2:
        return None
    first, last = min(free), max(free)
    slope = Fraction(free[last][0] - free[first][0], last - first)
    if slope <= 0:
        return None
    # hidden units make supports a little shorter, and so the slope a little off a whole number
    candidates = [_windows(free, stride) for stride in (Fraction(round(slope)), slope) if stride]
    best = min(candidates, key=lambda axis: axis.size)
    return best if best.size < length else None


def _windows(spans: Mapping[int, tuple[int, int]], stride: Fraction) -> _Axis:
    """The smallest windows of this stride that hold all supports."""
    padding = max(i * stride - start for i, (start, _) in spans.items())
    size = max(ceil(stop - (i * stride - padding)) for i, (_, stop) in spans.items())
    return _Axis(size, as_number(stride), as_number(padding))


def _contains(field: ReceptiveField, supports: _Supports) -> bool:
    """Whether every support lies in its position's box."""
    for (y, x), support in supports.items():
        if support.height and support.clip(field.box(y, x)) != support:
            return False
    return True
