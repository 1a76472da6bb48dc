"""Occlusion, the gray square of Zeiler & Fergus: a score while a window of the image is covered, for
every window."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil
from operator import index
from typing import Any

import torch
from torch import Tensor, nn

from featviz.bars import bar as progress_bar
from featviz.errors import UsageError
from featviz.forward import Forward
from featviz.geometry import Box
from featviz.hooks import edits_are_local, evaluating
from featviz.images.preprocess import Preprocess
from featviz.methods._incremental import (
    IncrementalForward,
    Patch,
    covered,
    crops_of,
    find_incremental,
)
from featviz.methods._inputs import as_integer, batch_for
from featviz.methods._scores import Reader, Readings, Score, checked_score, name_of
from featviz.methods.fill import Fill, filled

Pair = int | tuple[int, int]
FEW = 32  # windows, below which trials would take longer than they save


@dataclass(frozen=True, eq=False, repr=False)
class OcclusionMaps:
    """Scores under each of rows x cols windows.

    Attributes:
        scores: by name, (rows, cols): the score while that window is covered.
        baseline: by name, the score of the uncovered image.
        classes: (rows, cols) int64, the most probable class while that window is covered; None
            where the model returns no (n, classes).
        most_probable: that of the uncovered image, or None.
        boxes: (rows, cols, 4) int64: top, left, bottom, right of each window in pixels. Those at
            the edges may be cut short.
        size: (height, width) of the image in pixels.
        incremental: whether the incremental forward was used, which computes the first layers only
            where a window changes them.
        layer: the last of these layers; None without the incremental forward.

    Example:
        >>> import torch
        >>> from featviz import load_model, occlude
        >>> maps = occlude(load_model("zfmini"), torch.randn(3, 96, 96), 3, window=48, stride=48)
        >>> maps.boxes[0, 1].tolist(), maps.attribution().shape
        ([0, 48, 48, 96], torch.Size([96, 96]))
    """

    scores: dict[str, Tensor]
    baseline: dict[str, float]
    classes: Tensor | None
    most_probable: int | None
    boxes: Tensor
    size: tuple[int, int]
    incremental: bool = False
    layer: str | None = None

    def __repr__(self) -> str:
        windows = "x".join(map(str, self.boxes.shape[:2]))
        forward = f"incremental up to {self.layer}" if self.incremental else "full forwards"
        return f"<OcclusionMaps of {windows} windows, {forward}: {', '.join(self.scores)}>"

    def attribution(self, name: str | None = None) -> Tensor:
        """By how much covering a pixel lowers a score, averaged over the windows that cover it: (h,
        w), as captum's ``Occlusion``.

        Args:
            name: which score; None: the only one.

        Raises:
            UsageError: there is no such score, or several and no name.
        """
        if name is None:
            name = self._only_score()
        if name not in self.scores:
            raise UsageError(f"no score {name!r}: there are {', '.join(map(repr, self.scores))}")
        drops = self.baseline[name] - self.scores[name]
        return self.per_pixel(drops)

    def per_pixel(self, values: Tensor) -> Tensor:
        """Values of windows, (rows, cols), as their mean over the windows that cover each pixel:
        (h, w)."""
        total = values.new_zeros(self.size)
        count = values.new_zeros(self.size)
        for box, value in zip(self.boxes.flatten(0, 1).tolist(), values.flatten(), strict=True):
            region = Box(*box).region
            total[region] += value
            count[region] += 1
        return total / count

    def rows(self) -> list[dict[str, Any]]:
        """A row for each window, for a table: top, left, bottom, right, each score by its name, and
        the most probable class where there are classes."""
        rows = []
        for i, box in enumerate(self.boxes.flatten(0, 1).tolist()):
            row = dict(zip(("top", "left", "bottom", "right"), box, strict=True))
            for name, values in self.scores.items():
                row[name] = float(values.flatten()[i])
            if self.classes is not None:
                row["most probable"] = int(self.classes.flatten()[i])
            rows.append(row)
        return rows

    def _only_score(self) -> str:
        if len(self.scores) != 1:
            names = ", ".join(map(repr, self.scores))
            raise UsageError(f"there are {len(self.scores)} scores: say which, {names}")
        return next(iter(self.scores))


@torch.inference_mode(False)
def occlude(
    model: nn.Module,
    x: Tensor,
    score: Score | Mapping[str, Score],
    *,
    window: Pair = 32,
    stride: Pair = 16,
    over_edges: bool = False,
    fill: Fill = "gray",
    preprocess: Preprocess | None = None,
    forward: Forward | None = None,
    batch_size: int | None = None,
    incremental: bool = True,
    progress: bool = False,
) -> OcclusionMaps:
    """Cover one window of an image after the other and read scores, and the most probable class.

    Windows begin at multiples of the stride, from 0 until one reaches the far edge, where it may be
    cut short (as in captum).

    Args:
        model: any module; used on its device and in eval mode, and left as it was.
        x: one image, (c, h, w) or (1, c, h, w), in model space (normalized).
        score: a class index, for its probability; a `Unit`, for the maximum of its map, with
            ``at=(y, x)`` for that position, with ``at="map"`` for the map's sum, and in the last
            layer for a class's logit; a sum of units (``u - 0.5 * v``); a function of the model's
            output that gives (n,) numbers; or several of these by names of one's choice.
        window, stride: in pixels, one number or (y, x).
        over_edges: windows also begin before the image and reach beyond it, where they are cut short: every pixel
            is covered as often as any other where the stride divides the window, also those at the edges.
        fill: the values of the covered window: ``gray``, ``mean``, ``blur``, or a value in model
            space; see `featviz.methods.fill.filled`.
        preprocess: the preprocessing of the image, which defines gray; None: gray is 0.
        forward: how the model is called, as of `read`; None: ``model(images)``.
        batch_size: windows in a forward pass; None: up to 64, as suits the device.
        incremental: use the incremental forward, which computes the first layers only where a window
            changes them, if a trial gives the same scores; the record says whether it was used.
        progress: show a progress bar.

    Raises:
        LayerError, UnitError: a unit that is not there.
        UsageError: a class that is not there, a window larger than the image, a stride that leaves
            pixels between windows, more than one image.
        NumberError: a score that is not a number.

    Source: Zeiler & Fergus, section 4.2, figure 7; the incremental forward: Nakandala et al.,
    *Incremental and Approximate Inference for Faster Occlusion-based Deep CNN Explanations*, SIGMOD
    2019.

    Example:
        >>> import torch
        >>> from featviz import Unit, load_model, occlude
        >>> scores = {"class": 3, "map": Unit("conv5", 7, at="map")}
        >>> image = torch.randn(3, 96, 96)
        >>> maps = occlude(load_model("zfmini"), image, scores, window=24, stride=12)
        >>> maps
        <OcclusionMaps of 7x7 windows, incremental up to conv2: class, map>
        >>> maps.scores["map"].shape, maps.attribution("class").shape
        (torch.Size([7, 7]), torch.Size([96, 96]))
    """
    image = _single_image(model, x)
    size = (image.shape[1], image.shape[2])
    sides, steps = _checked(window, stride, size)
    if isinstance(score, Mapping):
        scores = {name: checked_score(own, name) for name, own in score.items()}
    else:
        own = checked_score(score)
        scores = {name_of(own): own}
    if not scores or (batch_size is not None and batch_size < 1):
        raise UsageError(
            f"{len(scores)} scores, batch_size={batch_size}: "
            "give at least one score and one window a batch"
        )
    rows = _windows(sides[0], steps[0], size[0], over_edges)
    columns = _windows(sides[1], steps[1], size[1], over_edges)
    boxes = []
    for (top, bottom), (left, right) in product(rows, columns):
        boxes.append(Box(top, left, bottom, right))
    cover = filled(image, fill, sides, preprocess)
    with evaluating(model), torch.no_grad():
        reader = Reader(model, image, scores, forward)
        baseline = reader.read(image[None].clone())
        entered = None
        # an edit of positions means others on a crop
        if incremental and len(boxes) >= FEW and edits_are_local(model):
            entered = find_incremental(reader, image, cover, boxes)
        run = _Run(reader, image, cover, boxes, entered)
        readings = run.all_windows(batch_size or reader.fitting_batch(image), progress)
    return _maps(readings, baseline, boxes, (len(rows), len(columns)), size, run.layer)


def _maps(
    readings: Readings,
    baseline: Readings,
    boxes: Sequence[Box],
    grid: tuple[int, int],
    size: tuple[int, int],
    layer: str | None,
) -> OcclusionMaps:
    """The record of all windows, in order, laid out in rows and columns."""
    classes = None
    most_probable = None
    if readings.classes is not None and baseline.classes is not None:
        classes = readings.classes.reshape(grid)
        most_probable = int(baseline.classes)
    return OcclusionMaps(
        scores={name: values.reshape(grid) for name, values in readings.scores.items()},
        baseline={name: float(value) for name, value in baseline.scores.items()},
        classes=classes,
        most_probable=most_probable,
        boxes=torch.tensor([tuple(box) for box in boxes]).reshape(*grid, 4),
        size=size,
        incremental=layer is not None,
        layer=layer,
    )


def _single_image(model: nn.Module, x: Tensor) -> Tensor:
    """The image (c, h, w), on the model's device."""
    images = batch_for(model, x)
    if len(images) != 1:
        raise UsageError(
            f"x is {len(images)} images of shape {tuple(x.shape)}: "
            "give one, (c, h, w) or (1, c, h, w), in model space"
        )
    return images[0]


def _checked(
    window: Pair, stride: Pair, size: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Window and stride as (y, x), both possible on an image of this (height, width)."""
    sides, steps = _pair("window", window), _pair("stride", stride)
    if len(sides) != 2 or len(steps) != 2 or min(*sides, *steps) < 1:
        raise UsageError(
            f"window={window}, stride={stride}: give pixels above 0, one number or (y, x)"
        )
    for side, step, length, axis in zip(sides, steps, size, ("high", "wide"), strict=True):
        if side > length:
            raise UsageError(
                f"a window of {side} pixels is larger than the image, which is {length} {axis}: "
                "give a smaller one"
            )
        if step > side and side < length:
            raise UsageError(
                f"stride {step} is above the window's {side} pixels, so pixels would be left out: "
                f"give {side} or less"
            )
    return (sides[0], sides[1]), (steps[0], steps[1])


def _pair(name: str, value: Pair) -> tuple[int, ...]:
    single = as_integer(value)
    if single is not None:
        return single, single
    try:
        return tuple(map(index, value))  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(f"{name}={value}: give whole pixels, one number or (y, x)", name) from None


def _windows(side: int, step: int, length: int, over_edges: bool) -> list[tuple[int, int]]:
    """Where windows begin and end along an axis, within the image; at its edges they may be cut short."""
    first = 0
    last = ceil((length - side) / step)
    if over_edges:
        first = -((side - 1) // step)
        last = (length - 1) // step
    starts = [i * step for i in range(first, last + 1)]
    return [(max(start, 0), min(start + side, length)) for start in starts]


@dataclass(frozen=True)
class _Run:
    """One image, its windows, and how the model is run on them."""

    reader: Reader
    image: Tensor
    cover: Tensor
    boxes: Sequence[Box]
    entered: IncrementalForward | None

    @property
    def layer(self) -> str | None:
        """That up to which the incremental forward is used."""
        return None if self.entered is None else self.entered.layer.name

    def all_windows(self, batch_size: int, progress: bool) -> Readings:
        """What is read under every window, in order."""
        patches: list[Patch | None] = [None] * len(self.boxes)
        if self.entered is not None:
            patches = [self.entered.patch(box) for box in self.boxes]
        bar = progress_bar(
            desc="occlude",
            total=len(self.boxes),
            unit="window",
            progress=progress,
        )
        batches = []
        order: list[int] = []
        with bar:
            for indices in _batches(patches, batch_size):
                own = [patches[i] for i in indices]
                batches.append(self._read([self.boxes[i] for i in indices], own))
                order += indices
                bar.update(len(indices))
        return Readings.joined(batches, order)

    def _read(self, boxes: Sequence[Box], patches: Sequence[Patch | None]) -> Readings:
        """What is read under some windows: all of them with patches of one size, or none."""
        batch = covered(self.image, self.cover, boxes)
        crops = [patch for patch in patches if patch is not None]
        if self.entered is None or not crops:
            return self.reader.read(batch)
        with self.entered.pasted(crops):
            return self.reader.read(crops_of(batch, crops))


def _batches(patches: Sequence[Patch | None], n: int) -> Iterator[list[int]]:
    """Windows, n at once, by their indices; what is run is of one size in a batch."""
    groups: dict[tuple[int, int] | None, list[int]] = defaultdict(list)
    for i, patch in enumerate(patches):
        groups[None if patch is None else patch.size].append(i)
    for indices in groups.values():
        for start in range(0, len(indices), n):
            yield indices[start : start + n]
