"""The response of every unit to every image, as tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from featviz.errors import UsageError, did_you_mean
from featviz.fields.anatomy import anatomy, parameter_of
from featviz.fields.maps import as_maps
from featviz.forward import Forward
from featviz.hooks import evaluating, read
from featviz.images.sources import open_images
from featviz.methods._inputs import check_rows
from featviz.units import LayersLike

Reduction = Literal["max", "mean", "sum", "l2", "map"] | Callable[[Tensor], Tensor]
REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda maps: maps.amax(dim=(2, 3)),
    "mean": lambda maps: maps.mean(dim=(2, 3)),
    "sum": lambda maps: maps.sum(dim=(2, 3)),
    "l2": lambda maps: maps.square().sum(dim=(2, 3)).sqrt(),
    "map": lambda maps: maps,
}
"""What becomes of maps (n, c, h, w), by name."""


@torch.inference_mode(False)
def responses(
    model: nn.Module,
    images: Any,
    layers: LayersLike = "conv",
    *,
    reduce: Reduction = "max",
    forward: Forward | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> dict[str, Tensor]:
    """Read the responses of every unit to every image.

    Args:
        model: any module; used on its device and in eval mode, and left as it was.
        images: ``Images``, or anything that `open_images` takes.
        layers: a pattern, names, or layers.
        reduce: the reduction of the maps (n, c, h, w) of a batch: their ``max``, ``mean``, ``sum``
            or ``l2`` norm over positions, (n, c); the ``map`` itself; or a function of the maps
            that gives n rows. A fully connected layer's (n, c) stays as it is under a name, and is
            (n, c, 1, 1) for a function.
        forward: how the model is called, as of `read`; None: ``model(images)``.
        batch_size: images in a forward pass.
        progress: show a progress bar.

    Returns:
        By layer, on the CPU: (images, c), or (images, c, h, w) for ``map``, or what the function
        gives.

    Raises:
        LayerError: a layer that is not there, or that has no units.
        ImageError: an image that cannot be read.
        UsageError: no such reduction, ``batch_size`` below 1, or a function that does not give a
            row for each image.

    Example:
        >>> from featviz import load_model, open_images, responses
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> images = open_images(SyntheticImages(5), MINI_PREPROCESS)
        >>> responses(load_model("zfmini"), images, "conv2")["conv2"].shape
        torch.Size([5, 48])
    """
    reduction = _reduction(reduce)
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size}: give 1 or more", "batch_size")
    data = open_images(images)
    c, h, w = data[0].shape
    chosen = anatomy(model, (c, h, w), only=[], forward=forward).select(layers)  # no field is used
    for layer in chosen:
        layer.check_units()
    batches: dict[str, list[Tensor]] = {layer.name: [] for layer in chosen}
    by_name = {layer.name: layer for layer in chosen}

    def reduced(name: str, output: Tensor) -> Tensor:
        check_rows(name, output, n)
        if output.dim() == 2 and not callable(reduce):
            return _copied(output)
        return _copied(reduction(as_maps(by_name[name], output)))

    parameter = parameter_of(model)
    bar = tqdm(desc="responses", total=len(data), unit="image", disable=not progress, leave=False)
    with bar, evaluating(model), torch.no_grad():
        for indices, batch in data.batches(range(len(data)), batch_size):
            n = len(indices)
            x = data.preprocess.normalize(batch).to(parameter)
            values = read(model, x, chosen, reduce=reduced, forward=forward)
            for name, value in values.items():
                _check_rows(name, value, len(indices))
                batches[name].append(value)
            bar.update(len(indices))
    return {name: torch.cat(rows) for name, rows in batches.items()}


def _check_rows(name: str, value: Tensor, n: int) -> None:
    if value.shape[:1] != (n,):
        raise UsageError(
            f"reduce gives a tensor of shape {tuple(value.shape)} for {n} images of layer {name!r}: "
            "give a row for each"
        )


def _copied(value: Tensor) -> Tensor:
    """On the CPU, and not a view of what the next layer may change in place."""
    return value.detach().to("cpu", copy=True)


def _reduction(reduce: Reduction) -> Callable[[Tensor], Tensor]:
    """A function of maps (n, c, h, w)."""
    if callable(reduce):
        return reduce
    if reduce not in REDUCTIONS:
        allowed = ", ".join(map(repr, REDUCTIONS))
        nearest = did_you_mean(reduce, REDUCTIONS)
        raise UsageError(f"reduce={reduce!r}: give {allowed}, or a function{nearest}")
    return REDUCTIONS[reduce]
