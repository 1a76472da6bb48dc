"""Activations of a layer as rows, each the channels of one position."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from featviz.errors import NumberError, UsageError
from featviz.fields.anatomy import anatomy
from featviz.forward import Forward
from featviz.images.sources import open_images
from featviz.methods._inputs import input_shape_of, single_layer
from featviz.methods.responses import responses
from featviz.units import Layer


def activations(
    model: nn.Module,
    images: Any,
    layer: str | Layer,
    *,
    rows: int = 20_000,
    seed: int = 0,
    forward: Forward | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> Tensor:
    """Sample what a layer returns, at random positions of every image, as many in each.

    Args:
        model: any module; used on its device and in eval mode, and left as it was.
        images: ``Images``, or anything that `open_images` takes.
        layer: whose activations.
        rows: how many there are to be at least, where the maps have as many positions.
        seed: of the choice of positions, which the batch size does not change.
        forward: how the model is called, as of `read`; None: ``model(images)``.
        batch_size: images in a forward pass.
        progress: show a progress bar.

    Returns:
        (r, c) on the CPU, those of one image after those of another.

    Raises:
        LayerError: the layer is not there, or has no units.
        ImageError: an image that cannot be read.
        UsageError: ``rows`` below 1.

    Example:
        >>> from featviz import dictionaries, load_model, open_images
        >>> from featviz.data import SyntheticImages
        >>> from featviz.models import MINI_PREPROCESS
        >>> images = open_images(SyntheticImages(5), MINI_PREPROCESS)
        >>> dictionaries.activations(load_model("zfmini"), images, "conv3", rows=100).shape
        torch.Size([100, 64])
    """
    if rows < 1:
        raise UsageError(f"rows={rows}: give 1 or more", "rows")
    data = open_images(images)
    c, h, w = input_shape_of(data)
    chosen = single_layer(anatomy(model, (c, h, w), only=[], forward=forward), layer)
    each = -(-rows // len(data)) if len(data) else 1
    generator = torch.Generator().manual_seed(seed)

    def sampled(maps: Tensor) -> Tensor:
        """(n, c, h, w) to (n, positions, c)."""
        flat = maps.flatten(2)
        samples = []
        for image in flat:
            positions = torch.randperm(flat.shape[2], generator=generator)[:each]
            samples.append(image[:, positions.to(image.device)].T)
        return torch.stack(samples)

    values = responses(
        model,
        data,
        [chosen],
        reduce=sampled,
        forward=forward,
        batch_size=batch_size,
        strict=True,
        progress=progress,
    )
    (samples,) = values.values()
    return samples.flatten(0, 1)


def checked_rows(rows: Tensor, argument: str = "rows") -> Tensor:
    """Rows that are a matrix of finite numbers, off the graph on which `featviz.read` gives them.

    Raises:
        UsageError: they are none.
        NumberError: some are not finite.
    """
    if not isinstance(rows, Tensor) or rows.dim() != 2 or not rows.numel():
        given = f"of shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
        raise UsageError(
            f"{argument} is {given}: give a tensor (rows, channels), as of activations()", argument
        )
    if not rows.is_floating_point():
        kind = str(rows.dtype).removeprefix("torch.")
        raise UsageError(f"{argument} is of {kind}: give floating point numbers", argument)
    if not bool(rows.isfinite().all()):
        raise NumberError(f"{argument} holds values that are not finite: look at the network")
    return rows.detach()


def check_count(d: int, most: int, why: str) -> None:
    """Make sure that there can be so many directions.

    Raises:
        UsageError: there cannot.
    """
    if not 1 <= d <= most:
        raise UsageError(f"d={d}: give 1 to {most}, {why}", "d")


def unit_length(directions: Tensor) -> Tensor:
    """Each direction (d, c) divided by its length; one of length 0 stays."""
    lengths = torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    result: Tensor = directions / lengths.clamp(min=torch.finfo(directions.dtype).tiny)
    return result
