"""Checks and conversions of the arguments of methods."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from featviz.errors import ImageError, ModelError
from featviz.fields.anatomy import anatomy, parameter_of
from featviz.forward import Forward
from featviz.images.collection import Images
from featviz.images.tensors import as_batch
from featviz.records.scan import Listing
from featviz.units import Layer, LayersLike


def batch_for(model: nn.Module, x: Tensor) -> Tensor:
    """Images (c, h, w) or (n, c, h, w) as (n, c, h, w) for a model: on its device, of its type, and
    a copy, so that a model that works in place leaves the caller's images as they are.

    Raises:
        UsageError: ``x`` is neither, or not floating point.
    """
    return as_batch(x).to(parameter_of(model)).clone()


def shape_of(images: Tensor) -> tuple[int, int, int]:
    """(c, h, w) of each of (n, c, h, w)."""
    return images.shape[1], images.shape[2], images.shape[3]


def layers_for(
    model: nn.Module, images: Tensor, layers: LayersLike, forward: Forward | None = None
) -> list[Layer]:
    """The layers that are asked for, as they are for images of this size.

    Raises:
        LayerError: one is not there.
    """
    if not isinstance(layers, (str, Layer)):
        layers = list(layers)  # it is read twice
    net = anatomy(model, shape_of(images), only=layers, forward=forward)
    return net.select(layers)


def batches_of(images: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Images (n, c, h, w), so many at once."""
    for start in range(0, len(images), batch_size):
        yield images[start : start + batch_size]


def check_same_images(data: Images, listing: Listing) -> None:
    """Make sure that images are those of a scan, by their keys.

    Raises:
        ImageError: they are others.
    """
    if data.keys != listing.keys:
        raise ImageError(
            f"{len(data)} images are not the {len(listing)} of the scan: open the same", "images"
        )


def scanned_image(data: Images, listing: Listing, index: int) -> Tensor:
    """An image (c, h, w), values in [0, 1], as it was scanned.

    Raises:
        ImageError: it has changed since, or has another shape.
    """
    data.check_unchanged(index, listing.stamps[index])
    pixels: Tensor = data[index]
    if tuple(pixels.shape) != tuple(listing.input_shape):
        raise ImageError(
            f"image {data.keys[index]!r} is {tuple(pixels.shape)}, in the scan it was "
            f"{tuple(listing.input_shape)}"
        )
    return pixels


def check_rows(name: str, output: Tensor, n: int) -> None:
    """Make sure that a layer's output has a row for each of n images.

    Raises:
        ModelError: it has more or fewer.
    """
    if output.shape[:1] != (n,):
        rows = output.shape[0] if output.dim() else "no"
        raise ModelError(
            f"layer {name!r} gives {rows} rows for {n} images: the model, and the function forward "
            "that calls it, are to give a row for each"
        )


def has_classes(output: object) -> bool:
    """Whether a model's output is (n, classes)."""
    return isinstance(output, Tensor) and output.dim() == 2 and output.shape[1] > 1
