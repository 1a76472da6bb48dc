"""Whether features move along with a transformed image."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import torch
from torch import Tensor, nn

from featviz.errors import LayerError, UsageError
from featviz.fields.anatomy import Layer, anatomy, find_layers, parameter_of
from featviz.geometry import Box
from featviz.hooks import capture, evaluating
from featviz.methods.transforms import Rotate, Scale, Translate, Warp, _Affine


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


def _comparable(info: Layer, transform: _Affine, image: Tensor, size: tuple[int, int]) -> Tensor:
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


def _infos(model: nn.Module, images: Tensor, names: list[str]) -> list[Layer]:
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
