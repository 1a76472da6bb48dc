"""The incremental forward of occlusion: only what a window changes is computed anew.

*Incremental CNN inference*: Nakandala, Kumar & Papakonstantinou, SIGMOD 2019. A covered window
changes those positions of a layer whose receptive fields it meets, and no other. The layer's map of
the uncovered image is computed once and kept (materialized). For a window, the model is run on a
crop that holds the fields of the positions it changes; when it comes to the layer, what the layer
made of the crop is pasted into the materialized map, and the later layers run as for the full
image.

This is exact for a layer on which alone all later layers depend. A trial with a few windows decides
whether a layer is such a layer: both ways must give the same."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from featviz.attached import modules_of
from featviz.errors import FeatvizError
from featviz.fields.crop import crop_for
from featviz.geometry import Box, ReceptiveField
from featviz.hooks import read
from featviz.methods._scores import Reader, Readings
from featviz.units import Layer

TRIALS = 6  # layers that are tried before full images are run
WORTH = 0.1  # of the full network's work: what a layer must save
SHARE = 1e-3  # of what windows change: what a trial may differ by
ROUNDING = 16.0  # and of a type's precision, relative to the largest value


class Patch(NamedTuple):
    """What is run for a window, and what of it is pasted.

    Attributes:
        crop: pixels of the image that are run.
        source: positions in the layer's map of the crop.
        target: the same positions in its map of the full image.
    """

    crop: Box
    source: Box
    target: Box

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the crop in pixels: those of one size can share a batch."""
        return self.crop.height, self.crop.width


@dataclass(frozen=True, eq=False)
class IncrementalForward:
    """A model that is entered anew at one layer.

    Attributes:
        module: that of the layer.
        layer: the last one that is run on crops.
        materialized: (c, h, w), its map of the uncovered image.
        size: (height, width) of the image.
    """

    module: nn.Module
    layer: Layer
    materialized: Tensor
    size: tuple[int, int]

    def patch(self, window: Box) -> Patch | None:
        """What is to be run for a window; None where only the full image will do."""
        return patch_for(self.layer, window, self.size)

    @contextmanager
    def pasted(self, patches: Sequence[Patch]) -> Iterator[None]:
        """Within the block the model takes the crops of these patches, of one size, instead of
        full images."""

        def paste(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            maps = self.materialized.repeat(len(output), 1, 1, 1)
            for full, cropped, patch in zip(maps, output, patches, strict=True):
                full[patch.target.region] = cropped[patch.source.region]
            return maps

        handle = self.module.register_forward_hook(paste)
        try:
            yield
        finally:
            handle.remove()


def covered(image: Tensor, cover: Tensor, windows: Sequence[Box]) -> Tensor:
    """The image (c, h, w) once for each window, which shows the cover: (n, c, h, w)."""
    batch = image.repeat(len(windows), 1, 1, 1)
    for item, window in zip(batch, windows, strict=True):
        item[window.region] = cover[window.region]
    return batch


def crops_of(batch: Tensor, patches: Sequence[Patch]) -> Tensor:
    """Of each image of (n, c, h, w) the crop of its patch, all of one size."""
    return torch.stack([x[patch.crop.region] for x, patch in zip(batch, patches, strict=True)])


def patch_for(layer: Layer, window: Box, size: tuple[int, int]) -> Patch | None:
    """The crop of an image of this (height, width) in which every position of a layer that a window
    changes comes out right; None where there is no smaller one than the image."""
    field = layer.field
    if field.kind not in ("exact", "bound"):
        return None
    if not all(isinstance(step, int) and step > 0 for step in field.stride):
        return None
    rows = _changed(field, 0, (window.top, window.bottom), layer.shape[1])
    columns = _changed(field, 1, (window.left, window.right), layer.shape[2])
    target = Box(rows.start, columns.start, rows.stop, columns.stop)
    spanned = replace(field, size=(_spanned(field, 0, rows), _spanned(field, 1, columns)))
    crop = crop_for(spanned, rows.start, columns.start, size)
    if crop is None:
        return None
    y, x = crop.position
    return Patch(crop.box, Box(y, x, y + len(rows), x + len(columns)), target)


def _changed(field: ReceptiveField, axis: int, window: tuple[int, int], length: int) -> range:
    """Positions along an axis whose fields meet a window of pixels; ``length`` is the map's."""
    low, high = window
    stride = int(field.stride[axis])
    padding = int(field.padding[axis])
    size = field.size[axis]
    # as many as a window of this size can change, wherever it lies, so that crops are of one size
    count = min((high - low + size - 2) // stride + 1, length)
    first = (low + padding - size) // stride + 1
    start = min(max(0, first), length - count)
    return range(start, start + count)


def _spanned(field: ReceptiveField, axis: int, positions: range) -> int:
    """The pixels along an axis that consecutive positions see together."""
    return field.size[axis] + (len(positions) - 1) * int(field.stride[axis])


def find_incremental(
    reader: Reader, image: Tensor, cover: Tensor, windows: Sequence[Box]
) -> IncrementalForward | None:
    """The layer that saves most, of those with which a trial gives what full images give; None if
    there is none.

    Args:
        reader: runs the model, and reads what is asked for. The incremental forward ends before the
            first layer that it reads from full maps.
        image: (c, h, w) in model space; ``cover``: (c, h, w), what windows show.
        windows: those to be covered.
    """
    trial = [windows[0], windows[len(windows) // 2], windows[-1]]
    batch = covered(image, cover, trial)
    # the uncovered image too, by which it is known how much windows change
    expected = reader.read_with_output(torch.cat([batch, image[None]]))
    if not isinstance(expected[0], Tensor) or not expected[0].is_floating_point():
        return None
    modules = modules_of(reader.model)
    size = image.shape[1], image.shape[2]
    for layer in _candidates(reader.net, reader.units, windows, size)[:TRIALS]:
        module = modules[layer.name]
        if isinstance(module, torch.jit.ScriptModule):  # takes no hooks
            continue
        # What goes around the layer meets maps of another size than it was made for. Sizes that do
        # not fit are a RuntimeError in torch; the others are what checks in models raise, and in featviz.
        try:
            values = read(reader.model, image[None], layer, forward=reader.forward)
            materialized = values[layer.name][0]
            incremental = IncrementalForward(module, layer, materialized, size)
            if _agrees(reader, incremental, trial, batch, expected):
                return incremental
        except (FeatvizError, RuntimeError, ValueError, IndexError, AssertionError):
            continue
    return None


def _agrees(
    reader: Reader,
    incremental: IncrementalForward,
    windows: Sequence[Box],
    batch: Tensor,
    expected: tuple[Any, Readings],
) -> bool:
    """Whether the incremental forward of each window gives what the full one of (n, c, h, w) gave: the same output,
    scores and classes."""
    outputs, readings = expected
    for i, window in enumerate(windows):
        patch = incremental.patch(window)
        if patch is None:
            continue
        with incremental.pasted([patch]):
            output, own = reader.read_with_output(crops_of(batch[i : i + 1], [patch]))
        if output.shape[1:] != outputs.shape[1:] or not _close(output[0], outputs, i):
            return False
        if not all(_close(own.scores[name][0], readings.scores[name], i) for name in own.scores):
            return False
        if own.classes is not None and readings.classes is not None:
            if own.classes[0] != readings.classes[i]:
                return False
    return True


def _close(value: Tensor, expected: Tensor, i: int) -> bool:
    """Whether a value is that of row i of (n, any), but for rounding and for a small share of what differs between the
    rows: a window's effect may be small beside the value."""
    wide = torch.float64 if expected.dtype == torch.float64 else torch.float32
    rows = expected.to(wide)
    spread = (rows.amax(dim=0) - rows.amin(dim=0)).max()
    tolerance = SHARE * spread + ROUNDING * torch.finfo(wide).eps * rows.abs().max()
    return bool((value.to(wide) - rows[i]).abs().max() <= tolerance)


def _candidates(
    layers: Mapping[str, Layer],
    before: Container[str],
    windows: Sequence[Box],
    size: tuple[int, int],
) -> list[Layer]:
    """Layers that would save work, the one that saves most first."""
    saved: dict[Layer, float] = {}
    work = 0.0
    middle = windows[len(windows) // 2]
    is_read = False
    for layer in layers.values():
        is_read |= layer.name in before
        if layer.kernel is not None or layer.kind == "Linear":
            work += layer.parameters * prod(layer.shape[1:])
        # a hook cannot tell the calls of a module apart
        if is_read or not layer.has_maps or "@" in layer.name:
            continue
        patch = patch_for(layer, middle, size)
        if patch is not None:
            saved[layer] = work * (1 - prod(patch.size) / prod(size))
    worthwhile = [layer for layer in saved if saved[layer] > WORTH * work]
    return sorted(worthwhile, key=lambda layer: -saved[layer])
