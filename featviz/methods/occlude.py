"""The grey square of Zeiler & Fergus: what becomes of a score while a window of the image is
covered, for every window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn
from tqdm import tqdm

from featviz.errors import UsageError
from featviz.fields.anatomy import anatomy, find_layers, parameter_of
from featviz.geometry import Box
from featviz.hooks import capture, evaluating
from featviz.images import Preprocess
from featviz.methods._incremental import Patch, Shortcut, find_shortcut
from featviz.methods.fill import Fill, filling
from featviz.units import Unit

Score = Unit | int | Callable[[Tensor], Tensor]
Pair = int | tuple[int, int]
FEW = 32  # windows, below which trials would take longer than they save
BYTES = {
    "cpu": 2**27
}  # what the layers of a batch may return together; more was slower, as caches are small


@dataclass(frozen=True)
class OcclusionMaps:
    """Scores under each of rows x cols windows.

    Attributes:
        scores: by name, (rows, cols): the score while that window is covered.
        baseline: by name, the score of the whole image.
        classes: (rows, cols) int64, the most probable class while that window is covered; None
            where the model returns no (n, classes).
        most_probable: that of the whole image, or None.
        boxes: (rows, cols, 4) int64: top, left, bottom, right of each window in pixels. Those at
            the far edges may be cut short.
        size: (height, width) of the image in pixels.
    """

    scores: dict[str, Tensor]
    baseline: dict[str, float]
    classes: Tensor | None
    most_probable: int | None
    boxes: Tensor
    size: tuple[int, int]

    def attribution(self, name: str | None = None) -> Tensor:
        """By how much covering a pixel lowers a score, averaged over the windows that cover it: (h,
        w), as captum's ``Occlusion``.

        Args:
            name: which score; None: the only one.
        """
        name = _only(self.scores) if name is None else name
        drops = self.baseline[name] - self.scores[name]
        return self.per_pixel(drops)

    def per_pixel(self, values: Tensor) -> Tensor:
        """Values of windows, (rows, cols), as their mean over the windows that cover each pixel:
        (h, w).
        """
        total, count = values.new_zeros(self.size), values.new_zeros(self.size)
        for box, value in zip(self.boxes.flatten(0, 1).tolist(), values.flatten(), strict=True):
            region = Box(*box).region
            total[region] += value
            count[region] += 1
        return total / count


def _only(scores: Mapping[str, Tensor]) -> str:
    if len(scores) != 1:
        raise UsageError(
            f"there are {len(scores)} scores: say which, {', '.join(map(repr, scores))}"
        )
    return next(iter(scores))


@torch.inference_mode(False)
def occlude(
    model: nn.Module,
    x: Tensor,
    score: Score | Mapping[str, Score],
    *,
    window: Pair = 32,
    stride: Pair = 16,
    fill: Fill = "grey",
    preprocess: Preprocess | None = None,
    batch_size: int | None = None,
    partial: bool = True,
    progress: bool = False,
) -> OcclusionMaps:
    """Cover one window of an image after the other and read scores, and the most probable class.

    Windows begin at multiples of the stride, from 0 until one reaches the far edge, where it may be
    cut short (as in captum).

    Args:
        model: any module; used on its device and in eval mode, and left as it was.
        x: one image, (c, h, w) or (1, c, h, w), in model space (normalised).
        score: a class index, for its probability; a `Unit`, for the maximum of its map, with
            ``at=(y, x)`` for that position, with ``at="map"`` for the map's sum, and in the last
            layer for a class's logit; a function of the model's output that gives (n,) numbers; or
            several of these by names of one's choice.
        window, stride: in pixels, one number or (y, x).
        fill: what covers: ``grey``, ``mean``, ``blur``, or a value in model space;
            `featviz.masking.filling` says what each is.
        preprocess: how the image came to model space, which says what is grey there; None: 0 is.
        batch_size: windows in a forward pass; None: up to 64, as suits the device.
        partial: run the first layers only where the window changes them, if a trial shows that this
            gives the same.
        progress: show a progress bar.

    Raises:
        LayerError, UnitError: a unit that is not there.
        UsageError: a class that is not there, a window larger than the image, a stride that leaves
            pixels between windows, more than one image.

    Source: Zeiler & Fergus, section 4.2, figure 7.

    Example:
        >>> import torch
        >>> from featviz import Unit, load_model, occlude
        >>> scores = {"class": 3, "map": Unit("conv5", 7, at="map")}
        >>> maps = occlude(load_model("zfmini"), torch.randn(3, 96, 96), scores, window=24, stride=12)
        >>> maps.scores["map"].shape, maps.attribution("class").shape
        (torch.Size([7, 7]), torch.Size([96, 96]))
    """
    x = x[None] if x.dim() == 3 else x
    if x.dim() != 4 or len(x) != 1 or not x.is_floating_point():
        raise UsageError(
            f"x is {x.dtype} of shape {tuple(x.shape)}: give one floating point image (c, h, w) in model space"
        )
    size = (x.shape[2], x.shape[3])
    sides, steps = _checked(window, stride, size)
    scores = dict(score) if isinstance(score, Mapping) else {_name(score): score}
    if not scores or (batch_size is not None and batch_size < 1):
        raise UsageError(
            f"{len(scores)} scores, batch_size={batch_size}: give at least one score and one window a batch"
        )
    rows = [
        _windows(side, step, length) for side, step, length in zip(sides, steps, size, strict=True)
    ]
    boxes = [Box(top, left, bottom, right) for top, bottom in rows[0] for left, right in rows[1]]
    image = x.to(parameter_of(model)).clone()[0]
    cover = filling(image, fill, sides, preprocess)
    with evaluating(model), torch.no_grad():
        reader = _Reader(model, image, scores)
        before, first = reader.read(image[None])
        shortcut = reader.shortcut(image, cover, boxes) if partial and len(boxes) >= FEW else None
        found: list[tuple[dict[str, Tensor], Tensor | None]] = []
        order: list[int] = []
        with tqdm(
            desc="occlude", total=len(boxes), unit="window", disable=not progress, leave=False
        ) as bar:
            for chunk, patches in _batches(boxes, shortcut, batch_size or reader.fitting(image)):
                found.append(
                    reader.covered(image, cover, [boxes[i] for i in chunk], shortcut, patches)
                )
                order += chunk
                bar.update(len(chunk))
    grid, back = (len(rows[0]), len(rows[1])), torch.tensor(order).argsort()
    values = {
        name: torch.cat([part[name] for part, _ in found])[back].reshape(grid) for name in scores
    }
    classes = (
        None
        if first is None
        else torch.cat([part for _, part in found if part is not None])[back].reshape(grid)
    )
    corners = torch.tensor([tuple(box) for box in boxes]).reshape(*grid, 4)
    baseline = {name: float(value) for name, value in before.items()}
    return OcclusionMaps(
        values, baseline, classes, None if first is None else int(first), corners, size
    )


def _checked(
    window: Pair, stride: Pair, size: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Window and stride as (y, x), both possible on an image of this (height, width)."""
    sides, steps = (
        (value, value) if isinstance(value, int) else tuple(value) for value in (window, stride)
    )
    if len(sides) != 2 or len(steps) != 2 or min(*sides, *steps) < 1:
        raise UsageError(
            f"window={window}, stride={stride}: give pixels above 0, one number or (y, x)"
        )
    for side, step, length, axis in zip(sides, steps, size, ("high", "wide"), strict=True):
        if side > length:
            raise UsageError(
                f"a window of {side} pixels is larger than the image, which is {length} {axis}: give a smaller one"
            )
        if step > side and side < length:
            raise UsageError(
                f"stride {step} is above the window's {side} pixels, so pixels would be left out: give {side} or less"
            )
    return (sides[0], sides[1]), (steps[0], steps[1])


def _windows(side: int, step: int, length: int) -> list[tuple[int, int]]:
    """Where windows begin and end along an axis; the last may be cut short."""
    starts = [i * step for i in range(ceil((length - side) / step) + 1)]
    return [(start, min(start + side, length)) for start in starts]


def _batches(
    boxes: Sequence[Box], shortcut: Shortcut | None, n: int
) -> Iterator[tuple[list[int], list[Patch]]]:
    """Windows, n at once by their numbers, with their patches where there is a shortcut for them;
    of one size in a batch.
    """
    groups: dict[tuple[int, int] | None, list[tuple[int, Patch | None]]] = {}
    for i, box in enumerate(boxes):
        part = None if shortcut is None else shortcut.patch(box)
        groups.setdefault(None if part is None else (part.box.height, part.box.width), []).append(
            (i, part)
        )
    for group in groups.values():
        for start in range(0, len(group), n):
            chunk = group[start : start + n]
            yield [i for i, _ in chunk], [part for _, part in chunk if part is not None]


def _name(score: Score) -> str:
    if isinstance(score, int):
        return f"class {score}"
    return str(score) if isinstance(score, Unit) else getattr(score, "__name__", "score")


class _Reader:
    """Runs a model on batches and reads every score, and the most probable class, off each."""

    def __init__(self, model: nn.Module, image: Tensor, scores: Mapping[str, Score]) -> None:
        self.model, self.scores = model, scores
        layers = {score.layer for score in scores.values() if isinstance(score, Unit)}
        self.known = anatomy(model, (image.shape[0], image.shape[1], image.shape[2]), only=layers)
        infos = dict(zip(layers, find_layers(self.known, layers), strict=True))
        self.read_at = {info.name for info in infos.values()}
        self.units: dict[str, dict[str, Unit]] = {}  # by call, then by name
        for name, score in scores.items():
            if isinstance(score, Unit):
                score.check(infos[score.layer].shape)
                self.units.setdefault(infos[score.layer].call, {})[name] = score

    def read(self, batch: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """By name (n,) on the CPU, and (n,) classes or None."""
        values: dict[str, Tensor] = {}
        if self.units:
            with capture(self.model, self.units, stop=False, reduce=self._reduced) as found:
                output = self.model(batch)
            for part in found.values():
                values.update(part)
        else:
            output = self.model(batch)
        classes = _is_classes(output)
        probabilities = output.softmax(1) if classes else None
        for name, score in self.scores.items():
            if isinstance(score, int):
                values[name] = _probability(probabilities, output, score)
            elif not isinstance(score, Unit):
                values[name] = _called(score, name, output, len(batch))
        return {name: value.cpu() for name, value in values.items()}, output.argmax(
            1
        ).cpu() if classes else None

    def fitting(self, image: Tensor) -> int:
        """How many images make a good batch."""
        numbers = max(
            (info.numbers for info in self.known.values() if len(info.shape) == 3), default=1
        )
        return max(
            1, min(64, BYTES.get(image.device.type, 2**31) // (numbers * image.element_size()))
        )

    def covered(
        self,
        image: Tensor,
        cover: Tensor,
        boxes: Sequence[Box],
        shortcut: Shortcut | None = None,
        patches: Sequence[Patch] = (),
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """`read` of the image with each box covered; with patches, by way of the shortcut."""
        batch = image.repeat(len(boxes), 1, 1, 1)  # (n, c, h, w)
        for item, box in zip(batch, boxes, strict=True):
            item[box.region] = cover[box.region]
        if shortcut is None or not patches:
            return self.read(batch)
        cuts = torch.stack(
            [item[part.box.region] for item, part in zip(batch, patches, strict=True)]
        )
        with shortcut.pasted(patches):
            return self.read(cuts)

    def shortcut(self, image: Tensor, cover: Tensor, boxes: Sequence[Box]) -> Shortcut | None:
        """A layer up to which only what a window changes needs to be run, if there is one; found
        out with three windows.
        """
        trial = [boxes[0], boxes[len(boxes) // 2], boxes[-1]]
        with self._outputs() as expected:
            self.covered(image, cover, trial)

        def same(shortcut: Shortcut) -> bool:
            for box, output in zip(trial, expected[0], strict=True):
                part = shortcut.patch(box)
                if part is not None:
                    with self._outputs() as found:
                        self.covered(image, cover, [box], shortcut, [part])
                    if found[0].shape[1:] != output.shape or not _close(found[0][0], output):
                        return False
            return True

        return (
            find_shortcut(self.model, self.known, self.read_at, image, boxes, same)
            if expected
            else None
        )

    @contextmanager
    def _outputs(self) -> Iterator[list[Tensor]]:
        """What the model returns within the block, where that is a tensor."""
        outputs: list[Tensor] = []

        def keep(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                outputs.append(output.detach().clone())

        handle = self.model.register_forward_hook(keep)
        try:
            yield outputs
        finally:
            handle.remove()

    def _reduced(self, call: str, output: Tensor) -> dict[str, Tensor]:
        return {
            name: _unit_value(unit, output[:, unit.channel])
            for name, unit in self.units[call].items()
        }


def _close(found: Tensor, expected: Tensor) -> bool:
    """Whether two outputs are the same up to rounding."""
    return bool(
        (found - expected).abs().max()
        <= 1e3 * torch.finfo(expected.dtype).eps * expected.abs().max()
    )


def _is_classes(output: object) -> bool:
    return isinstance(output, Tensor) and output.dim() == 2 and output.shape[1] > 1


def _probability(probabilities: Tensor | None, output: object, index: int) -> Tensor:
    if probabilities is None:
        what = (
            f"shape {tuple(output.shape)}"
            if isinstance(output, Tensor)
            else f"kind {type(output).__name__}"
        )
        raise UsageError(
            f"class {index}: the model's output, of {what}, is no (n, classes): give a unit or a function as score"
        )
    if not 0 <= index < probabilities.shape[1]:
        raise UsageError(
            f"class {index} is not there: the model has classes 0 to {probabilities.shape[1] - 1}"
        )
    return probabilities[:, index]


def _called(score: Callable[[Tensor], Tensor], name: str, output: Tensor, n: int) -> Tensor:
    value = score(output)
    if not isinstance(value, Tensor) or tuple(value.shape) != (n,):
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise UsageError(
            f"score {name!r} gave {shape} for {n} images: it is to give one number an image, of shape ({n},)"
        )
    return value


def _unit_value(unit: Unit, planes: Tensor) -> Tensor:
    """What a unit says of each of n images, from its maps (n, h, w) or values (n,): (n,)."""
    if planes.dim() == 1:
        return planes
    if unit.at == "map":
        return planes.sum(dim=(1, 2))
    return planes.amax(dim=(1, 2)) if unit.at is None else planes[:, unit.at[0], unit.at[1]]
