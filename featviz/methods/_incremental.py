"""Recomputing only what a window changes: the first layers on a cut of the image, pasted into their
map of the whole image.

A covered window changes those positions of a layer whose receptive fields it meets, and no other.
The model is run on a cut that holds their fields; when it comes to the layer, what the layer made
of the cut is pasted into its map of the uncovered image, and from there on all is as if the whole
image had been run. This is right for a layer on which alone all later ones depend. Whether one is
so, a trial shows: a few windows, both ways."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from featviz.geometry import Box
from featviz.hooks import capture
from featviz.units import Layer

TRIALS = 6  # layers that are tried before whole images are run
WORTH = 0.1  # of the whole network's work: what a layer must save


class Patch(NamedTuple):
    """The cut of the image that is run for a window, and what is pasted: positions in the map of
    the cut, and in the image's.
    """

    box: Box
    found: Box
    place: Box


@dataclass(frozen=True)
class Shortcut:
    """A layer at which a model can be entered anew.

    Attributes:
        module: the layer; ``info``: what it sees.
        whole: (c, h, w) its map of the whole image.
        size: (height, width) of the image.
    """

    module: nn.Module
    info: Layer
    whole: Tensor
    size: tuple[int, int]

    def patch(self, window: Box) -> Patch | None:
        """What is to be run for a window; None where only the whole image will do."""
        return patch(self.info, window, self.size)

    @contextmanager
    def pasted(self, patches: Sequence[Patch]) -> Iterator[None]:
        """Within the block the model takes the cuts of these patches, of one size, in the place of
        whole images.
        """

        def paste(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            maps = self.whole.repeat(len(output), 1, 1, 1)
            for map_, part, (_, found, place) in zip(maps, output, patches, strict=True):
                map_[place.region] = part[found.region]
            return maps

        handle = self.module.register_forward_hook(paste)
        try:
            yield
        finally:
            handle.remove()


def patch(info: Layer, window: Box, size: tuple[int, int]) -> Patch | None:
    """The cut of an image of this (height, width) in which every position that a window changes
    comes out right.
    """
    field = info.field
    if field.kind not in ("exact", "bound") or not all(
        isinstance(number, int) and number > 0 for number in field.stride
    ):
        return None
    starts, counts = [], []
    for axis, (low, high) in enumerate(((window.top, window.bottom), (window.left, window.right))):
        stride, padding, seen, length = (
            int(field.stride[axis]),
            int(field.padding[axis]),
            field.size[axis],
            info.shape[axis + 1],
        )
        count = min(
            (high - low + seen - 2) // stride + 1, length
        )  # as many as a window of this size can change, wherever it lies
        first = (low + padding - seen) // stride + 1
        starts.append(min(max(0, first), length - count))
        counts.append(count)
    sizes = [
        seen + (n - 1) * int(step)
        for seen, n, step in zip(field.size, counts, field.stride, strict=True)
    ]
    spanned = replace(field, size=(sizes[0], sizes[1]))  # of all these positions together
    part = cut(spanned, starts[0], starts[1], size)
    if part is None:
        return None
    found = Box(part.at[0], part.at[1], part.at[0] + counts[0], part.at[1] + counts[1])
    return Patch(
        part.box, found, Box(starts[0], starts[1], starts[0] + counts[0], starts[1] + counts[1])
    )


def find_shortcut(
    model: nn.Module,
    infos: Mapping[str, Layer],
    before: Iterable[str],
    image: Tensor,
    windows: Sequence[Box],
    same: Callable[[Shortcut], bool],
) -> Shortcut | None:
    """The layer that saves most, of those with which a trial gives what whole images give; None if
    there is none.

    Args:
        infos: the anatomy of the model for this image.
        before: names of layers that are read: the shortcut ends before the first of them.
        image: (c, h, w) in model space.
        windows: those to be covered.
        same: runs the trial.
    """
    modules, size = dict(model.named_modules()), (image.shape[1], image.shape[2])
    for info in _candidates(infos, set(before), windows, size)[:TRIALS]:
        if isinstance(modules[info.name], torch.jit.ScriptModule):
            continue
        try:
            with capture(model, [info.call]) as acts:
                model(image[None])
            shortcut = Shortcut(modules[info.name], info, acts[info.call][0], size)
            if same(shortcut):
                return shortcut
        except (
            Exception
        ):  # a branch that goes around the layer meets maps of another size: whatever it raises
            continue
    return None


def _candidates(
    infos: Mapping[str, Layer], before: set[str], windows: Sequence[Box], size: tuple[int, int]
) -> list[Layer]:
    """Layers that would save work, the one that saves most first."""
    found: list[tuple[float, Layer]] = []
    work = 0.0
    middle = windows[len(windows) // 2]
    is_read = False
    for info in infos.values():
        is_read |= info.name in before
        if info.kernel is not None or info.kind == "Linear":
            work += info.parameters * prod(info.shape[1:])
        if is_read or len(info.shape) != 3:
            continue
        part = patch(info, middle, size) if "@" not in info.name else None
        if part is not None:
            found.append((work * (1 - part.box.height * part.box.width / prod(size)), info))
    return [
        info for saved, info in sorted(found, key=lambda pair: -pair[0]) if saved > WORTH * work
    ]
