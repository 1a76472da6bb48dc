"""What a transformed image does to features: how far they move (invariance), and whether they move
along (equivariance).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from math import isclose
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms
from tqdm import tqdm

from featviz.capture import capture, evaluating
from featviz.errors import LayerError, UsageError
from featviz.fields import LayerInfo, anatomy, find_layers, parameter_of
from featviz.geometry import Box, ReceptiveField

Warp = Callable[[Tensor], Tensor]
"""From images (n, c, h, w) to images of the same shape."""


@dataclass(frozen=True)
class _Affine(ABC):
    """A turn, a scale and a shift about the image's centre, in pixels; what comes from outside is
    0.
    """

    @abstractmethod
    def numbers(self) -> tuple[float, float, tuple[float, float]]:
        """Angle in degrees, scale, and shift (y, x) in pixels."""

    def __call__(self, images: Tensor) -> Tensor:
        """Images (n, c, h, w), transformed."""
        return _affine(images, *self.numbers(), None)

    def on_map(self, maps: Tensor, field: ReceptiveField, size: tuple[int, int]) -> Tensor:
        """Activation maps (n, c, h, w) of images of this (height, width), moved as the pixels below
        them move.

        A map's step is the layer's stride in pixels, so a shift of d pixels is one of d / stride
        steps, and the centre about which it turns lies where the image's centre does. Between
        positions the map is interpolated bilinearly."""
        angle, scale, shift = self.numbers()
        stride = float(field.stride[0]), float(field.stride[1])
        if (angle or scale != 1) and stride[0] != stride[1]:
            raise UsageError(
                f"a layer of stride {stride[0]:g}x{stride[1]:g} cannot be turned or scaled: its steps differ"
            )
        moved = shift[0] / stride[0], shift[1] / stride[1]
        middle = [  # in steps from the edge of position 0
            (length / 2 + float(padding) - seen / 2) / step + 0.5
            for length, padding, seen, step in zip(
                size, field.padding, field.size, stride, strict=True
            )
        ]
        return _affine(maps, angle, scale, moved, middle)


@dataclass(frozen=True)
class Translate(_Affine):
    """Move images down by ``dy`` and right by ``dx`` pixels; what comes in is 0, grey in model
    space.

    Example:
        >>> import torch
        >>> from featviz import Translate
        >>> Translate(1)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).flatten().tolist()
        [0.0, 0.0, 1.0, 2.0]
    """

    dy: float
    dx: float = 0.0

    def numbers(self) -> tuple[float, float, tuple[float, float]]:
        return 0.0, 1.0, (self.dy, self.dx)


@dataclass(frozen=True)
class Rotate(_Affine):
    """Turn images about their centre by ``degrees``, counter-clockwise; corners that come in are 0,
    grey in model space.

    Example:
        >>> import torch
        >>> from featviz import Rotate
        >>> Rotate(90)(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])).round().flatten().tolist()
        [2.0, 4.0, 1.0, 3.0]
    """

    degrees: float

    def numbers(self) -> tuple[float, float, tuple[float, float]]:
        return -float(self.degrees), 1.0, (0.0, 0.0)


@dataclass(frozen=True)
class Scale(_Affine):
    """Scale images about their centre by ``factor``, keeping their size; what comes in is 0, grey
    in model space.

    Raises:
        UsageError: a factor that is not above 0.

    Example:
        >>> import torch
        >>> from featviz import Scale
        >>> Scale(2)(torch.eye(4)[None, None]).shape
        torch.Size([1, 1, 4, 4])
    """

    factor: float

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise UsageError(f"scale {self.factor}: a factor is above 0")

    def numbers(self) -> tuple[float, float, tuple[float, float]]:
        return 0.0, float(self.factor), (0.0, 0.0)


def _affine(
    x: Tensor,
    angle: float,
    scale: float,
    shift: tuple[float, float],
    middle: Sequence[float] | None,
) -> Tensor:
    """torchvision's affine transform; ``middle`` is (y, x) from the edge of the first pixel.

    A shift by whole pixels takes the nearest, which loses nothing; all else is bilinear.
    """
    whole = (
        angle == 0
        and scale == 1
        and all(isclose(step, round(step), abs_tol=1e-9) for step in shift)
    )
    mode = InterpolationMode.NEAREST if whole else InterpolationMode.BILINEAR
    offset: list[Any] = [shift[1], shift[0]]
    center: list[Any] | None = None if middle is None else [middle[1], middle[0]]
    result: Tensor = transforms.affine(x, angle, offset, scale, [0.0, 0.0], mode, center=center)
    return result


@dataclass(frozen=True)
class SweepResult:
    """What v values of a transform do to n images.

    Attributes:
        values: of the transform, in order.
        distances: by layer, (n, v): the Euclidean distance between the feature vectors of the image
            and of the transformed one.
        norms: by layer, (n,): the length of the feature vector of the image itself.
        probabilities: (n, v, classes), of the transformed images; None where the model returns no
            (n, classes).
    """

    values: list[float]
    distances: dict[str, Tensor]
    norms: dict[str, Tensor]
    probabilities: Tensor | None

    def relative(self, layer: str) -> Tensor:
        """Distances as a share of the feature vector's length, (n, v), by which layers can be
        compared.
        """
        return self.distances[layer] / self.norms[layer][:, None]


@torch.inference_mode(False)
def sweep(
    model: nn.Module,
    x: Tensor,
    layers: Iterable[str],
    transform: Callable[[float], Warp],
    values: Iterable[float],
    *,
    batch_size: int = 32,
    progress: bool = False,
) -> SweepResult:
    """Transform images by each of several values, and see how far their features move and what the
    model says of them.

    Args:
        model: any module; used on its device and in eval mode, and left as it was.
        x: (n, c, h, w) images in model space.
        layers: names; of each, the whole output is the feature vector.
        transform: from a value to what transforms images: `Translate` (down, in pixels), `Rotate`
            (degrees), `Scale`, or any function, such as ``lambda v: lambda images: images * v``.
        values: of the transform; the one that changes nothing need not be among them.
        batch_size: images in a forward pass.
        progress: show a progress bar.

    Raises:
        LayerError: a layer that is not there.
        UsageError: ``x`` is no batch of images, no layers, no values, or the transform changes the
            images' shape.

    Source: Zeiler & Fergus, section 4.1, figure 5.

    Example:
        >>> import torch
        >>> from featviz import Translate, load_model, sweep
        >>> found = sweep(load_model("zfmini"), torch.randn(2, 3, 96, 96), ["conv1", "fc7"], Translate, [-8, 0, 8])
        >>> found.distances["fc7"].shape, found.probabilities.shape
        (torch.Size([2, 3]), torch.Size([2, 3, 96]))
    """
    names, chosen = list(layers), list(values)
    images = _images(model, x)
    if not names or not chosen or batch_size < 1:
        raise UsageError(
            f"{len(names)} layers, {len(chosen)} values, batch_size={batch_size}: give at least one of each"
        )
    calls = _calls(model, images, names)
    distances: dict[str, list[Tensor]] = {name: [] for name in names}
    norms: dict[str, list[Tensor]] = {name: [] for name in names}
    probabilities: list[Tensor | None] = []
    total = len(images) * len(chosen)
    with (
        evaluating(model),
        torch.no_grad(),
        tqdm(desc="sweep", total=total, unit="image", disable=not progress, leave=False) as bar,
    ):
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            still, _ = _features(model, batch, calls)
            apart: dict[str, list[Tensor]] = {name: [] for name in names}
            said: list[Tensor | None] = []
            for value in chosen:
                features, output = _features(model, _transformed(transform(value), batch), calls)
                for name in names:
                    apart[name].append((features[name] - still[name]).norm(dim=1).cpu())
                said.append(output)
                bar.update(len(batch))
            for name in names:
                distances[name].append(torch.stack(apart[name], 1))  # (n, v)
                norms[name].append(still[name].norm(dim=1).cpu())
            found = [part for part in said if part is not None]
            probabilities.append(torch.stack(found, 1) if found else None)  # (n, v, classes)
    known = [part for part in probabilities if part is not None]
    far, long = (
        {name: torch.cat(parts) for name, parts in table.items()} for table in (distances, norms)
    )
    return SweepResult(
        [float(value) for value in chosen], far, long, torch.cat(known) if known else None
    )


@torch.inference_mode(False)
def equivariance(
    model: nn.Module,
    x: Tensor,
    layers: Iterable[str],
    transform: Translate | Rotate | Scale,
    *,
    batch_size: int = 32,
) -> dict[str, float]:
    """How far f(g(x)), the features of the transformed image, are from g(f(x)), the transformed
    features.

    The error is |f(g(x)) - g(f(x))| / |g(f(x))| over all images and over the positions whose
    receptive fields, in both, see pixels of the image alone: neither padding nor what the transform
    brought in. A translation by d pixels moves the maps of a layer of stride s by d / s positions;
    where that is no whole number, and when maps are turned or scaled, they are interpolated
    bilinearly. Convolution is equivariant to translations by its stride: there the error is 0, up
    to rounding.

    Args:
        model: any module; used on its device and in eval mode, and left as it was.
        x: (n, c, h, w) images in model space.
        layers: names of layers whose outputs are maps.
        transform: `Translate`, `Rotate` or `Scale`.
        batch_size: images in a forward pass.

    Returns:
        By layer; nan where no position sees pixels of the image alone: give larger images, or a
        smaller transform.

    Raises:
        LayerError: a layer that is not there, or whose positions all see the whole image.
        UsageError: ``x`` is no batch of images.

    Source: Goodfellow, Bengio & Courville, *Deep Learning*, section 9.2.

    Example:
        >>> import torch
        >>> from featviz import Translate, equivariance, load_model
        >>> found = equivariance(load_model("zfmini").double(), torch.randn(1, 3, 128, 128).double(), ["conv2"], Translate(8, -4))
        >>> found["conv2"] < 1e-12
        True
    """
    names = list(layers)
    images = _images(model, x)
    size = (images.shape[2], images.shape[3])
    infos = dict(zip(names, _infos(model, images, names), strict=True))
    for name, info in infos.items():
        if len(info.shape) != 3 or info.field.kind == "global":
            raise LayerError(
                f"layer {name!r} sees the whole image at every position: only maps can move with the image"
            )
    masks = {name: _comparable(info, transform, images[:1], size) for name, info in infos.items()}
    difference, length = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    calls = [info.call for info in infos.values()]
    with evaluating(model), torch.no_grad(), capture(model, calls) as acts:
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            model(batch)
            still = {name: acts[info.call] for name, info in infos.items()}
            model(_transformed(transform, batch))
            for name, info in infos.items():
                expected = transform.on_map(still[name], info.field, size)[
                    ..., masks[name]
                ]  # (n, c, positions)
                difference[name] += float(
                    (acts[info.call][..., masks[name]] - expected).square().sum()
                )
                length[name] += float(expected.square().sum())
    return {
        name: (difference[name] / length[name]) ** 0.5 if length[name] else float("nan")
        for name in names
    }


def _comparable(
    info: LayerInfo, transform: _Affine, image: Tensor, size: tuple[int, int]
) -> Tensor:
    """Where a layer's maps of the image and of the transformed one both see pixels of the image
    alone: (h, w) bool.
    """
    field, (height, width) = info.field, info.shape[1:]
    seen = (
        transform(torch.ones_like(image[:, :1]))[0, 0].cpu() > 1 - 1e-6
    )  # (h, w) pixels that come from the image
    sums = nn.functional.pad(
        seen.double().cumsum(0).cumsum(1), (1, 0, 1, 0)
    )  # of all pixels above and to the left
    rows = [field.box(y, 0, clip=False) for y in range(height)]
    cols = [field.box(0, x, clip=False) for x in range(width)]
    within, moved = torch.zeros(2, height, width, dtype=torch.float64)
    for y, x in product(range(height), range(width)):
        box = Box(rows[y].top, cols[x].left, rows[y].bottom, cols[x].right)
        if min(box) >= 0 and box.bottom <= size[0] and box.right <= size[1]:
            within[y, x] = 1
            moved[y, x] = _sum(sums, box) == box.height * box.width
    carried = transform.on_map(within[None, None], field, size)[0, 0] > 1 - 1e-6
    both: Tensor = carried & (moved > 0)
    return both.to(image.device)


def _sum(sums: Tensor, box: Box) -> float:
    """Over a box, from a table of the sums above and to the left."""
    top, left, bottom, right = box
    return float(sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left])


def _images(model: nn.Module, x: Tensor) -> Tensor:
    if x.dim() != 4 or not len(x) or not x.is_floating_point():
        raise UsageError(
            f"x is {x.dtype} of shape {tuple(x.shape)}: give floating point images (n, c, h, w) in model space"
        )
    return x.to(parameter_of(model)).clone()


def _infos(model: nn.Module, images: Tensor, names: list[str]) -> list[LayerInfo]:
    if not names:
        raise UsageError("no layers: give at least one name")
    return find_layers(
        anatomy(model, (images.shape[1], images.shape[2], images.shape[3]), only=set(names)), names
    )


def _calls(model: nn.Module, images: Tensor, names: list[str]) -> dict[str, str]:
    return {name: info.call for name, info in zip(names, _infos(model, images, names), strict=True)}


def _features(
    model: nn.Module, batch: Tensor, calls: dict[str, str]
) -> tuple[dict[str, Tensor], Tensor | None]:
    """By layer the feature vectors (n, features), and the classes' probabilities (n, classes) where
    there are any.
    """
    with capture(model, list(calls.values()), stop=False) as acts:
        output = model(batch)
    is_classes = isinstance(output, Tensor) and output.dim() == 2 and output.shape[1] > 1
    probabilities: Tensor | None = output.softmax(1).cpu() if is_classes else None
    return {name: acts[call].flatten(1) for name, call in calls.items()}, probabilities


def _transformed(warp: Warp, batch: Tensor) -> Tensor:
    result: Tensor = warp(batch)
    if result.shape != batch.shape:
        raise UsageError(
            f"the transform made {tuple(result.shape)} of images {tuple(batch.shape)}: it is to keep their shape"
        )
    return result
