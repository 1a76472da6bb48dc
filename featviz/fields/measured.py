"""Receptive fields read off gradients, for layers behind an operation that cannot be followed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from featviz.geometry import Box, ReceptiveField
from featviz.hooks import evaluating, read
from featviz.units import Layer

TRIALS = 4
"""Random images whose gradients are looked at."""
_STEPS = ((0, 0), (1, 0), (0, 1))  # a position in the middle, the next below, and the next right


def measured_field(model: nn.Module, image: Tensor, layer: Layer) -> ReceptiveField:
    """The field that the gradients of random images show.

    The supports of two neighbors in the middle of the map give size, stride and padding.

    Args:
        model: any module.
        image: (1, c, h, w), of which shape, type and device are used.
        layer: of this model.

    Returns:
        A *measured* field; a *global* one where the layer has no maps or no gradient, or where
        the supports do not tell.
    """
    height, width = image.shape[2:]
    full = Box(0, 0, height, width)
    no_field = ReceptiveField((height, width), (0, 0), (0, 0), full, "global")
    supports = _supports(model, image, layer)
    if supports is None:
        return no_field
    here, below, right = (_hull(boxes) for boxes in supports)
    strides = below.top - here.top, right.left - here.left
    if min(strides) <= 0 or here.height >= height or here.width >= width:
        return no_field
    y, x = _middle(layer)
    padding = y * strides[0] - here.top, x * strides[1] - here.left
    return ReceptiveField((here.height, here.width), strides, padding, full, "measured")


def _supports(model: nn.Module, image: Tensor, layer: Layer) -> list[list[Box]] | None:
    """For each of the three positions the box of each trial; None where one has none or sees all."""
    if not layer.has_maps:
        return None
    full = Box(0, 0, image.shape[2], image.shape[3])
    generator = torch.Generator().manual_seed(0)  # the same images every time, so the same answer
    supports: list[list[Box]] = [[] for _ in _STEPS]
    with evaluating(model), torch.enable_grad():
        for _ in range(TRIALS):
            x = torch.randn(image.shape, generator=generator).to(image).requires_grad_()
            maps = read(model, x.clone(), layer)[layer.name]
            if not maps.requires_grad:  # whole numbers, or a forward without gradients
                return None
            for boxes, position in zip(supports, _positions(layer), strict=True):
                response = maps[0, :, position[0], position[1]].sum()
                (gradient,) = torch.autograd.grad(response, x, retain_graph=True, allow_unused=True)
                if gradient is None:
                    return None
                boxes.append(_support(gradient[0]))
                if boxes[-1] == full:
                    return None
    return supports


def _middle(layer: Layer) -> tuple[int, int]:
    height, width = layer.map_size
    return max(0, height // 2 - 1), max(0, width // 2 - 1)


def _positions(layer: Layer) -> list[tuple[int, int]]:
    height, width = layer.map_size
    y, x = _middle(layer)
    return [(min(y + dy, height - 1), min(x + dx, width - 1)) for dy, dx in _STEPS]


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
